//! The hub's one command: what the daemon asks of it, in the runner's words, and what the runner
//! tells, in the wire's. Output is sent within the daemon's credit; beyond a small store the command
//! waits, as it would for a slow terminal.

use std::collections::VecDeque;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use tracing::{info, warn};

use super::run::{COMMANDS_WITHIN, Request, RunEvent, Runner, Spec, Stdio, Stream};
use super::site::Site;
use crate::restart::{Action, ActionSet, Status};
use crate::tree::TreeId;
use crate::wire::{
    Blob, ChildEvent, CommandSpec, FromHub, INPUT_WINDOW_BYTES, OUTPUT_WINDOW_BYTES,
};

/// Output kept while there is no credit, in bytes, before the command has to wait.
const KEPT_BYTES: usize = 1 << 20;

/// Input kept while the command does not read, in bytes: the window, and room for what crosses.
const STDIN_BYTES: usize = 4 * INPUT_WINDOW_BYTES as usize;

/// The command, if there is one.
pub(super) struct Command {
    running: Option<(CommandSpec, Runner)>,
    /// To be started when the one before is gone.
    next: Option<(CommandSpec, std::path::PathBuf, String, u64)>,
    stopping: bool,
    /// The tree that the session has asked for all it wants of.
    settled: Option<TreeId>,
    /// A session was lost before it asked for what its last files need: the command runs with others
    /// than are there.
    owed: bool,
    credit: u64,
    kept: VecDeque<(u8, Vec<u8>)>,
    kept_bytes: usize,
}

impl Default for Command {
    fn default() -> Self {
        Self {
            running: None,
            next: None,
            stopping: false,
            settled: None,
            owed: false,
            credit: OUTPUT_WINDOW_BYTES,
            kept: VecDeque::new(),
            kept_bytes: 0,
        }
    }
}

impl Command {
    /// Whether no command is there, and none will come.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none() && self.next.is_none()
    }

    /// Whether output waits for credit.
    pub(super) fn has_output(&self) -> bool {
        !self.kept.is_empty()
    }

    /// Runs a command in place of the one before. The same one goes on as it is, or is restarted
    /// when a session that was lost owed it that. `site` holds the files of `generation`.
    pub(super) fn run(&mut self, spec: CommandSpec, site: &Site) -> Option<FromHub> {
        let generation = site.receiver.generation();
        let marker = site.store.as_ref().map_or("", |store| store.marker());
        let directory = site.directory();
        self.credit = OUTPUT_WINDOW_BYTES;
        self.settled = Some(site.receiver.held().id());
        let owed = std::mem::take(&mut self.owed);
        if let Some((before, runner)) = &mut self.running {
            if *before == spec && !self.stopping {
                let pid = runner.state().pid.and_then(|pid| i32::try_from(pid).ok());
                if owed {
                    info!(generation, "restarting: the session that was lost had not asked for it");
                    let actions = [Action::Restart].into_iter().collect();
                    runner.request(Request::Apply { generation, actions });
                }
                return pid.map(|pid| FromHub::Child(ChildEvent::Started { pid }));
            }
            self.next = Some((spec, directory.to_owned(), marker.to_owned(), generation));
            if !self.stopping {
                self.request_stop();
            }
            return None;
        }
        self.start(spec, directory, marker, generation)
    }

    fn start(
        &mut self,
        spec: CommandSpec,
        directory: &Path,
        marker: &str,
        generation: u64,
    ) -> Option<FromHub> {
        self.stopping = false;
        let runner = Runner::new(Spec {
            argv: spec.argv.iter().map(|a| std::ffi::OsString::from_vec(a.0.clone())).collect(),
            cwd: Some(directory.to_owned()),
            env: Vec::new(),
            policy: spec.policy,
            stdio: if spec.inherit { Stdio::Inherit } else { Stdio::Piped },
            marker: marker.to_owned(),
            commands_within: COMMANDS_WITHIN,
        });
        match runner {
            Ok(mut runner) => {
                runner.request(Request::Start { generation });
                self.running = Some((spec, runner));
                None
            }
            Err(error) => Some(FromHub::Child(ChildEvent::Failed { error: error.to_string() })),
        }
    }

    /// Asks for the end; the second time for the end at once.
    pub(super) fn stop(&mut self) {
        self.next = None;
        self.request_stop();
    }

    fn request_stop(&mut self) {
        if let Some((_, runner)) = &mut self.running {
            let again = std::mem::replace(&mut self.stopping, true);
            runner.request(if again { Request::StopNow } else { Request::Stop });
        }
    }

    /// Does what the session asks for; no action at all says that nothing is owed for the files
    /// so far, `held`.
    pub(super) fn act(&mut self, generation: u64, actions: ActionSet, held: TreeId) {
        self.settled = Some(held);
        self.owed &= !actions.restart && !actions.is_empty();
        if !actions.is_empty() {
            self.request(Request::Apply { generation, actions });
        }
    }

    /// A session comes to where the command runs, and finds these files.
    pub(super) fn found(&mut self, held: TreeId) {
        self.owed |= self.running.is_some() && Some(held) != self.settled;
    }

    /// Hands input on. What exceeds the window by far is dropped: the other end did not keep to it.
    pub(super) fn stdin(&mut self, bytes: Vec<u8>) {
        if let Some((_, runner)) = &mut self.running {
            if runner.stdin_backlog() > STDIN_BYTES {
                warn!(bytes = bytes.len(), "input beyond the window is dropped");
                return;
            }
            runner.request(Request::Stdin(bytes));
        }
    }

    pub(super) fn stdin_end(&mut self) {
        self.request(Request::StdinClosed);
    }

    fn request(&mut self, request: Request) {
        if let Some((_, runner)) = &mut self.running {
            runner.request(request);
        }
    }

    pub(super) fn credit(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_add(bytes);
    }

    /// The next thing to tell. Cancel safe.
    pub(super) async fn next(&mut self) -> FromHub {
        loop {
            if self.credit > 0
                && let Some((stream, bytes)) = self.kept.pop_front()
            {
                self.kept_bytes -= bytes.len();
                self.credit = self.credit.saturating_sub(bytes.len() as u64);
                return FromHub::Output { stream, bytes: Blob(bytes) };
            }
            let waits = self.kept_bytes >= KEPT_BYTES && !self.stopping;
            let Some((_, runner)) = self.running.as_mut().filter(|_| !waits) else {
                return std::future::pending().await;
            };
            let event = runner.next().await;
            if let Some(message) = self.told(event) {
                return message;
            }
        }
    }

    fn told(&mut self, event: RunEvent) -> Option<FromHub> {
        match event {
            RunEvent::Output { stream, bytes } => {
                self.keep(if stream == Stream::Stdout { 1 } else { 2 }, bytes);
                None
            }
            RunEvent::Stopped { status } => self.stopped(status),
            RunEvent::StdinTaken { bytes } => Some(FromHub::StdinTaken { bytes: bytes as u64 }),
            event => {
                if let RunEvent::CommandFailed { status: None, output, .. } = &event {
                    self.keep(2, output.clone());
                }
                child_event(&event).map(FromHub::Child)
            }
        }
    }

    fn keep(&mut self, stream: u8, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.kept_bytes += bytes.len();
            self.kept.push_back((stream, bytes));
        }
    }

    fn stopped(&mut self, status: Option<Status>) -> Option<FromHub> {
        self.running = None;
        self.stopping = false;
        if let Some((spec, directory, marker, generation)) = self.next.take() {
            return self.start(spec, &directory, &marker, generation);
        }
        let status = status.map_or(0, |status| status.shell_code().into());
        Some(FromHub::Child(ChildEvent::Stopped { status }))
    }
}

/// What a runner tells, in the wire's words; what is none of the other end's business goes to our log.
pub(super) fn child_event(event: &RunEvent) -> Option<ChildEvent> {
    Some(match event {
        &RunEvent::Started { pid, .. } => ChildEvent::Started { pid: pid.cast_signed() },
        &RunEvent::Restarted { generation, pid, took, starting } => {
            info!(generation, pid, ?took, ?starting, "restarted");
            let micros = took.as_micros() as u64;
            ChildEvent::Restarted { generation, micros, pid: pid.cast_signed() }
        }
        RunEvent::StartFailed { error } => ChildEvent::Failed { error: error.to_string() },
        RunEvent::Exited { interrupted: true, .. } | RunEvent::Interrupted => {
            ChildEvent::Interrupted
        }
        &RunEvent::Exited { status, held, .. } => exited(status, held),
        RunEvent::Backoff { until, .. } => {
            let wait = until.saturating_duration_since(std::time::Instant::now());
            ChildEvent::Backoff { micros: wait.as_micros() as u64 }
        }
        RunEvent::CommandDone { argv, .. } => ChildEvent::Ran { argv: argv.clone(), status: 0 },
        RunEvent::CommandFailed { argv, status, .. } => {
            let status = status.map_or(127, |status| status.shell_code().into());
            ChildEvent::Ran { argv: argv.clone(), status }
        }
        RunEvent::Killing => {
            info!("the command did not end in time: SIGKILL");
            return None;
        }
        RunEvent::Refused(left) => {
            warn!(?left, "a process of another user cannot be signalled");
            return None;
        }
        RunEvent::Leftover(left) => {
            info!(?left, "a process of an earlier run was killed");
            return None;
        }
        RunEvent::Output { .. }
        | RunEvent::Stopped { .. }
        | RunEvent::StdinTaken { .. }
        | RunEvent::CommandStarted { .. } => return None,
    })
}

fn exited(status: Status, held: bool) -> ChildEvent {
    let signal = match status {
        Status::Signal(signal) => signal.number(),
        Status::Code(_) => 0,
    };
    ChildEvent::Exited { status: status.shell_code().into(), signal, held }
}
