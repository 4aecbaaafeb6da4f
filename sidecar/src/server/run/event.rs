//! Owns what a runner tells.

use std::io;
use std::time::{Duration, Instant};

use super::Leftover;
use crate::restart::{State, Status};

/// Which output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// The command's standard output.
    Stdout,
    /// The command's standard error.
    Stderr,
    /// Both of a command that runs before the restart.
    Command,
}

/// What happened.
#[derive(Debug)]
pub enum RunEvent {
    /// It runs, for the first time.
    Started {
        /// What the files hold.
        generation: u64,
        /// Its process, and its group.
        pid: u32,
    },
    /// It runs again.
    Restarted {
        /// What the files hold.
        generation: u64,
        /// Its process, and its group.
        pid: u32,
        /// From the signal to the old run (or its exit) until the new program runs.
        took: Duration,
        /// The part of it that is ours: from the end of the last old process.
        starting: Duration,
    },
    /// It could not be started. Held, or tried again after a [`RunEvent::Backoff`].
    StartFailed {
        /// Why.
        error: io::Error,
    },
    /// It ended by itself.
    Exited {
        /// How.
        status: Status,
        /// It waits for the next change; otherwise it is started again.
        held: bool,
        /// Of Ctrl-C on its terminal, or soon after it: the owner should stop, with 130.
        interrupted: bool,
    },
    /// Ctrl-C on its terminal, and it is no answer that the command goes on: it is being ended anyway,
    /// or this is the second in a short time. The owner should stop, with 130; the second time now.
    Interrupted,
    /// It keeps ending; it is started again then.
    Backoff {
        /// When.
        until: Instant,
        /// Short runs in a row, from 1.
        failures: u32,
    },
    /// `kill_after` has passed, or it was to be stopped now: SIGKILL was sent.
    Killing,
    /// A process below it could not be signalled: it belongs to another user. Nothing is started
    /// until it is gone.
    Refused(Leftover),
    /// A process of an earlier run of ours, which was killed without being able to clean up. It was
    /// killed.
    Leftover(Leftover),
    /// A command that runs first has begun.
    CommandStarted {
        /// Which.
        argv: Vec<String>,
    },
    /// It succeeded.
    CommandDone {
        /// Which.
        argv: Vec<String>,
        /// How long it ran.
        took: Duration,
    },
    /// It failed, or could not be started: the old process goes on.
    CommandFailed {
        /// Which.
        argv: Vec<String>,
        /// None when it could not be started; then `output` says why.
        status: Option<Status>,
        /// The end of its output, at most 8 KiB.
        output: Vec<u8>,
    },
    /// Bytes came (piped, or of a command that runs first).
    Output {
        /// From where.
        stream: Stream,
        /// Never empty, mostly at most 16 KiB.
        bytes: Vec<u8>,
    },
    /// So much of [`Request::Stdin`](super::Request::Stdin) has left the backlog.
    StdinTaken {
        /// Bytes.
        bytes: usize,
    },
    /// Nothing is left, as asked. The last event but output.
    Stopped {
        /// How the last run ended; None when there was none.
        status: Option<Status>,
    },
}

/// A view for `status`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunState {
    /// Where it stands.
    pub state: State,
    /// While it runs, or is being stopped.
    pub pid: Option<u32>,
    /// How the last run ended.
    pub last: Option<Status>,
    /// Starts after the first.
    pub restarts: u64,
    /// The command that runs before the restart.
    pub command: Option<Vec<String>>,
}
