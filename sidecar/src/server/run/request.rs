//! Owns what a runner is told: the command, and what is asked about it later.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::restart::{ActionSet, Policy};

/// For [`Spec::commands_within`]: longer than any install or migration that somebody waits for in
/// front of a terminal, and short enough that one that hangs is told on the same day.
pub const COMMANDS_WITHIN: Duration = Duration::from_secs(30 * 60);

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Program and arguments; no shell. Not empty.
    pub argv: Vec<OsString>,
    /// None: ours.
    pub cwd: Option<PathBuf>,
    /// On top of our own environment.
    pub env: Vec<(OsString, OsString)>,
    /// When to stop, kill and start it again.
    pub policy: Policy,
    /// Its standard streams.
    pub stdio: Stdio,
    /// A command that runs first is killed, and has failed, after so long.
    pub commands_within: Duration,
    /// Names this command between two lives of ours, so that leftovers of a killed supervisor are
    /// known: the same text for the same command in the same place, no NUL.
    pub marker: String,
}

/// The standard streams of the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stdio {
    /// Ours. When standard input is our terminal and we are in its foreground, the command gets the
    /// foreground in a group of its own; otherwise it gets its own session.
    Inherit,
    /// Pipes: [`Request::Stdin`](super::Request::Stdin), [`RunEvent::Output`](super::RunEvent::Output). Its own session.
    Piped,
}

/// What the owner may ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// The first start.
    Start {
        /// What the files hold.
        generation: u64,
    },
    /// Files of `generation` are visible: do what the rules say. Commands run one after another,
    /// first; if one fails, the old process goes on, and what else was asked for waits for the next
    /// `Apply` that asks for anything. When the command has ended by itself, any set starts it
    /// again, an empty one too: the change may have mended it. While the old process ends, the
    /// start that follows covers it. Before `Start` nothing is done.
    Apply {
        /// What the files hold.
        generation: u64,
        /// Merged over the settle window.
        actions: ActionSet,
    },
    /// A restart asked for by a person, after commands that are running.
    Restart,
    /// End it by the policy's signal, then SIGKILL; afterwards nothing starts any more.
    Stop,
    /// The same by SIGKILL at once.
    StopNow,
    /// Bytes for its standard input, when piped. Kept until some run reads them, so mind
    /// [`Runner::stdin_backlog`](super::Runner::stdin_backlog).
    Stdin(Vec<u8>),
    /// End of its standard input, when piped; for all later runs too.
    StdinClosed,
}
