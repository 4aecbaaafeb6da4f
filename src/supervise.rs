//! Owns the `supervise` command: a command on this machine, restarted as files change; no sync.
//!
//! Promises the behaviour and the defaults of watchmedo's `auto-restart`, without its zombies,
//! orphans and loops: [`e2ek_sidecar::server::run`] does the work. Leaves words to `report`.

mod changes;
mod pattern;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use e2ek_sidecar::restart::{ActionSet, OnExit, Policy, Signal, Status};
use e2ek_sidecar::server::run::{COMMANDS_WITHIN, Request, RunEvent, Runner, Spec, Stdio};
use e2ek_sidecar::server::until;
use tokio::signal::unix::{SignalKind, signal};

use self::changes::{Change, Changes};

/// On a terminal, the wait before an exited command is started again: Ctrl-C reaches us in it.
const TERMINAL_PAUSE: Duration = Duration::from_millis(500);

/// What was asked for. The default is watchmedo's, without a command.
#[derive(Clone, Debug)]
pub struct Options {
    /// Program and arguments; no shell.
    pub command: Vec<OsString>,
    /// To be watched.
    pub directories: Vec<PathBuf>,
    /// Also what is below them.
    pub recursive: bool,
    /// Paths that matter, in Python's `PurePath.match` syntax, one pattern each.
    pub patterns: Vec<String>,
    /// Paths among them that do not.
    pub ignore_patterns: Vec<String>,
    /// Events of directories themselves do not matter.
    pub ignore_directories: bool,
    /// Asks the command to end.
    pub signal: Signal,
    /// From that signal to SIGKILL.
    pub kill_after: Duration,
    /// Quiet time after the last event; zero: each event restarts.
    pub debounce: Duration,
    /// Start the command again when it ends by itself; otherwise at the next event.
    pub restart_on_command_exit: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            directories: vec![PathBuf::from(".")],
            recursive: false,
            patterns: vec!["*".to_owned()],
            ignore_patterns: Vec::new(),
            ignore_directories: false,
            signal: Signal::INT,
            kill_after: Duration::from_secs(10),
            debounce: Duration::ZERO,
            restart_on_command_exit: true,
        }
    }
}

/// What happened, for `report`.
#[derive(Debug)]
pub enum SuperviseEvent {
    /// This path changed, and asks for a restart.
    Changed {
        /// Which.
        path: PathBuf,
        /// Changes so far, this one included.
        generation: u64,
    },
    /// The kernel lost events: taken as a change.
    EventsLost {
        /// Changes so far, this one included.
        generation: u64,
    },
    /// This directory is not watched (any more). One that was named is looked for every second.
    Unwatched(PathBuf, io::Error),
    /// We were asked to end; the command is stopped first.
    Stopping(Signal),
    /// Of the command.
    Run(RunEvent),
}

/// Why nothing could be supervised.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A named directory cannot be watched.
    #[error("cannot watch {}", .0.display())]
    Watch(PathBuf, #[source] io::Error),
    /// The command could not be started the first time.
    #[error("cannot start {}", .0.display())]
    Start(OsString, #[source] io::Error),
    /// The kernel refuses what a supervisor needs.
    #[error("cannot supervise")]
    Supervise(#[source] io::Error),
}

/// Runs the command until SIGINT, SIGTERM or SIGHUP (unless ignored, as by nohup) comes, or Ctrl-C
/// ends it on our terminal; a second signal kills it at once. Returns the exit code: the command's
/// own when its last run ended with one of its choice, else 128 + the signal to us.
///
/// Must run on a tokio current-thread runtime on the main thread; takes over all child processes.
///
/// # Errors
/// When a directory cannot be watched or the command cannot be started at the beginning.
pub async fn run(options: Options, mut tell: impl FnMut(SuperviseEvent)) -> Result<u8, Error> {
    let mut signals = Signals::new().map_err(Error::Supervise)?;
    let mut changes = Changes::new(&options)?;
    let program = options.command.first().cloned().unwrap_or_default();
    let mut ending = Ending { stop_signal: options.signal, asked: None };
    let mut runner = Runner::new(spec(options)).map_err(Error::Supervise)?;
    let (mut generation, mut started) = (0, false);
    runner.request(Request::Start { generation });
    loop {
        tokio::select! {
            event = runner.next() => match event {
                RunEvent::StartFailed { error } if !started => {
                    return Err(Error::Start(program, error));
                }
                RunEvent::Stopped { status } => {
                    tell(SuperviseEvent::Run(event));
                    return Ok(ending.code(status));
                }
                RunEvent::Interrupted => {
                    runner.request(ending.stop(Signal::INT));
                    tell(SuperviseEvent::Stopping(Signal::INT));
                }
                event => {
                    if matches!(event, RunEvent::Exited { interrupted: true, .. }) {
                        runner.request(ending.stop(Signal::INT));
                    }
                    started |= matches!(event, RunEvent::Started { .. });
                    tell(SuperviseEvent::Run(event));
                }
            },
            change = changes.next() => {
                let restart = !matches!(change, Change::Unwatched(..));
                generation += u64::from(restart);
                tell(said(change, generation));
                if restart {
                    let actions = ActionSet { restart, ..ActionSet::default() };
                    runner.request(Request::Apply { generation, actions });
                }
            }
            signal = signals.next() => {
                runner.request(ending.stop(signal));
                tell(SuperviseEvent::Stopping(signal));
            }
        }
    }
}

fn said(change: Change, generation: u64) -> SuperviseEvent {
    match change {
        Change::Path(path) => SuperviseEvent::Changed { path, generation },
        Change::Lost => SuperviseEvent::EventsLost { generation },
        Change::Unwatched(path, error) => SuperviseEvent::Unwatched(path, error),
    }
}

fn spec(options: Options) -> Spec {
    let on_terminal = rustix::termios::isatty(rustix::stdio::stdin());
    let pause = if on_terminal { TERMINAL_PAUSE } else { Duration::ZERO };
    let on_exit =
        if options.restart_on_command_exit { OnExit::Restart { pause } } else { OnExit::Hold };
    Spec {
        marker: marker(&options.command),
        argv: options.command,
        cwd: None,
        env: Vec::new(),
        policy: Policy {
            stop_signal: options.signal,
            kill_after: options.kill_after,
            debounce: options.debounce,
            on_exit,
        },
        stdio: Stdio::Inherit,
        commands_within: COMMANDS_WITHIN,
    }
}

/// The same command in the same directory is the same supervision.
fn marker(command: &[OsString]) -> String {
    let mut hasher = blake3::Hasher::new();
    let here = std::env::current_dir().unwrap_or_default();
    for part in std::iter::once(here.as_os_str()).chain(command.iter().map(|word| &**word)) {
        hasher.update(part.as_encoded_bytes());
        hasher.update(b"\0");
    }
    format!("supervise-{}", &hasher.finalize().to_hex()[..16])
}

/// How it came to an end.
struct Ending {
    stop_signal: Signal,
    /// The first signal to us.
    asked: Option<Signal>,
}

impl Ending {
    /// What to ask of the runner for this signal: the second one kills.
    fn stop(&mut self, signal: Signal) -> Request {
        match self.asked.replace(self.asked.unwrap_or(signal)) {
            None => Request::Stop,
            Some(_) => Request::StopNow,
        }
    }

    fn code(&self, status: Option<Status>) -> u8 {
        let asked = Status::Signal(self.asked.unwrap_or(Signal::TERM)).shell_code();
        match status {
            // A shell's way to say that it was ended by the signal is no choice either.
            Some(Status::Code(code))
                if code != 0 && code != Status::Signal(self.stop_signal).shell_code() =>
            {
                code
            }
            _ => asked,
        }
    }
}

/// The signals that ask us to end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// None when ignored from the start.
    hangup: Option<tokio::signal::unix::Signal>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let hangup = (!hangup_is_ignored()).then(|| signal(SignalKind::hangup()));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: hangup.transpose()?,
        })
    }

    /// # Cancel safety
    /// No signal is lost when the future is dropped.
    async fn next(&mut self) -> Signal {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = hangup => Signal::HUP,
        }
    }
}

/// As nohup(1) leaves it. proc_pid_status(5): bit 0 of SigIgn is signal 1.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_own_choice_of_code_is_passed_on() {
        let mut ending = Ending { stop_signal: Signal::INT, asked: None };
        assert_eq!(ending.stop(Signal::TERM), Request::Stop);
        assert_eq!(ending.stop(Signal::INT), Request::StopNow);
        for (status, code) in [
            (None, 143),
            (Some(Status::Code(0)), 143),
            (Some(Status::Code(130)), 143),
            (Some(Status::Signal(Signal::INT)), 143),
            (Some(Status::Signal(Signal::KILL)), 143),
            (Some(Status::Code(7)), 7),
        ] {
            assert_eq!(ending.code(status), code, "{status:?}");
        }
    }
}
