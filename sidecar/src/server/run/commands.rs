//! Owns the commands that must succeed before a restart: what is wanted, and the one that runs.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use rustix::process::{Pid, kill_process_group};

use super::child::{Place, Start, start};
use super::descendants::descendants;
use super::pipes::CommandPipe;
use super::{Spec, Status};
use crate::restart::{ActionSet, Signal};

/// As much of a failing command's output is kept for its report: the end of it.
const TAIL_BYTES: usize = 8 * 1024;

/// What is wanted and what runs.
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// Not yet done, the running command excluded.
    wanted: ActionSet,
    /// Something arrived that is not done yet (it may be an empty set).
    asked: bool,
    /// The newest generation asked for.
    generation: u64,
    running: Option<Running>,
    /// Where they run, unless where the command does.
    directory: Option<PathBuf>,
}

/// A command that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: Pid,
    pub(super) argv: Vec<String>,
    pub(super) since: Instant,
    /// Killed then; None once it was.
    pub(super) until: Option<Instant>,
    pub(super) pipe: CommandPipe,
    tail: VecDeque<u8>,
}

/// What is to be done next.
#[derive(Debug)]
pub(super) enum Next {
    /// Start this one.
    Run(Vec<String>),
    /// All have succeeded: this is left, for the command itself.
    Perform(ActionSet, u64),
}

impl Commands {
    /// Has them run there from now on.
    pub(super) fn run_in(&mut self, directory: PathBuf) {
        self.directory = Some(directory);
    }

    /// Adds a window's wishes.
    pub(super) fn ask(&mut self, generation: u64, actions: ActionSet) {
        self.wanted.merge(actions);
        self.generation = self.generation.max(generation);
        self.asked = true;
    }

    /// Whether something is running, or waiting to be.
    pub(super) fn busy(&self) -> bool {
        self.running.is_some() || self.asked
    }

    /// The next thing to do; None while a command runs, when there is nothing, or when a command
    /// comes next and none may begin now.
    pub(super) fn next(&mut self, may_run: bool) -> Option<Next> {
        if self.running.is_some() || !self.asked {
            return None;
        }
        if self.wanted.commands.is_empty() {
            self.asked = false;
            let actions = std::mem::take(&mut self.wanted);
            return Some(Next::Perform(actions, self.generation));
        }
        may_run.then(|| Next::Run(self.wanted.commands.remove(0)))
    }

    /// Starts one, in its own session, reading nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn run(
        &mut self,
        argv: Vec<String>,
        spec: &Spec,
        env: &[(OsString, OsString)],
    ) -> io::Result<()> {
        let (pipe, streams) = CommandPipe::new()?;
        let words: Vec<OsString> = argv.iter().map(OsString::from).collect();
        let pid = start(Start {
            argv: &words,
            cwd: self.directory.as_deref().or(spec.cwd.as_deref()),
            env,
            place: Place::Session,
            streams,
        })?;
        let since = Instant::now();
        let until = since.checked_add(spec.commands_within);
        self.running = Some(Running { pid, argv, since, until, pipe, tail: VecDeque::new() });
        Ok(())
    }

    /// One has failed: those after it are not run. Signals and restart stay wanted, for the time
    /// when something is asked for again; the old process goes on until then.
    pub(super) fn failed(&mut self) {
        self.wanted.commands.clear();
        self.asked = false;
    }

    /// Forgets all wishes.
    pub(super) fn clear(&mut self) {
        self.wanted = ActionSet::default();
        self.asked = false;
    }

    /// When [`Self::kill_late`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.running.as_ref()?.until
    }

    /// Kills the running command when it has run for too long; what is to be said of it then.
    pub(super) fn kill_late(&mut self, now: Instant) -> Option<Vec<u8>> {
        let running = self.running.as_mut()?;
        let until = running.until.take_if(|until| *until <= now)?;
        running.kill();
        let within = until.saturating_duration_since(running.since);
        let text = format!("{} did not end within {within:?}: killed\n", running.argv.join(" "));
        running.keep(text.as_bytes());
        Some(text.into_bytes())
    }

    pub(super) fn running(&self) -> Option<&Running> {
        self.running.as_ref()
    }

    pub(super) fn running_mut(&mut self) -> Option<&mut Running> {
        self.running.as_mut()
    }

    /// The running command, now reaped, when this is its number.
    pub(super) fn reaped(&mut self, pid: Pid) -> Option<Running> {
        self.running.take_if(|running| running.pid == pid)
    }
}

impl Running {
    /// Remembers the end of the output.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.tail.extend(bytes);
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus);
    }

    /// The end of the output.
    pub(super) fn into_tail(self) -> Vec<u8> {
        self.tail.into()
    }

    /// SIGKILL to it and to what is below it.
    pub(super) fn kill(&self) {
        let below = descendants(None);
        let _ = kill_process_group(self.pid, rustix::process::Signal::KILL);
        let mut doomed = vec![self.pid];
        for process in below {
            if process.parent().is_some_and(|pid| doomed.contains(&pid)) {
                let _ = process.signal(Signal::KILL);
                doomed.push(process.pid);
            }
        }
    }
}

/// What a command's end means.
pub(super) fn succeeded(status: Status) -> bool {
    status == Status::Code(0)
}
