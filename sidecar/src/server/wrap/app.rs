//! The wrapper's own loop: `e2ek-sidecar run -- CMD`, the main process of the app's container.
//!
//! Promises: the command is not started before its files are there, or `hold` has passed; a command
//! that ends by itself is held, not the container's end, so that the files stay and no back-off
//! begins; the kubelet's TERM ends the command with grace, and its code is ours. Zombies are reaped
//! and nothing of an old run is left when the new one starts: that is the runner's work. Without a hub
//! it supervises all the same, and looks for one now and then.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, kill_process};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::super::pass;
use super::{FromWrapper, PROTOCOL, ToWrapper};
use crate::restart::{ActionSet, OnExit, Policy, Signal, Status};
use crate::server::command::child_event;
use crate::server::run::{COMMANDS_WITHIN, Request, RunEvent, Runner, Spec, Stdio, Stream, raw};
use crate::server::until;
use crate::wire::{self, Blob, Decoder};

/// Names what we started between two lives of ours.
const MARKER: &str = "e2ek-run";
/// How soon to look for a hub again, at first and at most.
const LOOK_STEP: Duration = Duration::from_millis(50);
const LOOK_STEP_MAX: Duration = Duration::from_secs(2);
/// Messages for a hub that does not read; beyond, they are dropped.
const QUEUE: usize = 64;
/// So many of them are not output: who waits for a restart hears of it, however much is printed.
const NOT_OUTPUT: usize = 32;

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Program and arguments; no shell.
    pub command: Vec<OsString>,
    /// Where the hub listens.
    pub socket: PathBuf,
    /// How long the start waits for the first sync; `None`: for ever.
    pub hold: Option<Duration>,
    /// How the command is stopped, and what becomes of one that ends by itself.
    pub policy: Policy,
    /// The stop signal of `policy` was asked for: sessions do not change it.
    pub signal_stays: bool,
    /// So it is with its time to end.
    pub grace_stays: bool,
    /// End with the command when it ends by itself.
    pub exit: bool,
}

impl Options {
    /// What a session wants, as far as it is free to.
    fn with(&self, mut policy: Policy) -> Policy {
        policy.on_exit = OnExit::Hold;
        if self.signal_stays {
            policy.stop_signal = self.policy.stop_signal;
        }
        if self.grace_stays {
            policy.kill_after = self.policy.kill_after;
        }
        policy
    }
}

/// Runs until SIGTERM or SIGINT comes, or as `exit` says. The exit code: the command's.
///
/// Must run on a tokio current-thread runtime on the main thread; takes over all child processes.
///
/// # Errors
/// When the kernel refuses what a supervisor needs.
pub async fn run(options: Options) -> io::Result<u8> {
    let mut signals = Signals::new()?;
    // A container with a terminal has it; else its output also goes to whoever listens at the hub.
    let terminal = rustix::termios::isatty(rustix::stdio::stdin());
    let stdio = if terminal { Stdio::Inherit } else { Stdio::Piped };
    let mut runner = Runner::new(Spec {
        argv: options.command.clone(),
        cwd: None,
        env: Vec::new(),
        policy: options.policy,
        stdio,
        marker: MARKER.to_owned(),
        commands_within: COMMANDS_WITHIN,
    })?;
    if !terminal {
        runner.request(Request::StdinClosed);
    }
    let now = Instant::now();
    let mut wrapper = Wrapper {
        hold_until: options.hold.map(|hold| now + hold),
        options,
        runner,
        started: false,
        unsynced: false,
        pid: None,
        link: None,
        look_at: now,
        look_step: LOOK_STEP,
        last: None,
    };
    wrapper.look().await;
    wrapper.say_hold();
    loop {
        let held = wrapper.hold_until.filter(|_| !wrapper.started);
        let look_at = wrapper.link.is_none().then_some(wrapper.look_at);
        tokio::select! {
            biased;
            signal = signals.next() => wrapper.signalled(signal),
            event = wrapper.runner.next() => if let Some(code) = wrapper.told(event) {
                return Ok(code);
            },
            message = hear(wrapper.link.as_mut()) => wrapper.heard(message),
            () = until(held) => wrapper.start_unsynced(),
            () = until(look_at) => wrapper.look().await,
        }
    }
}

struct Wrapper {
    options: Options,
    runner: Runner,
    /// It was asked to start.
    started: bool,
    /// That was with the files that were there, and since then nobody said that all are.
    unsynced: bool,
    /// The command's, while it runs.
    pid: Option<i32>,
    hold_until: Option<Instant>,
    link: Option<Link>,
    /// When to look for a hub, without a link.
    look_at: Instant,
    look_step: Duration,
    /// How it ended last.
    last: Option<Status>,
}

/// A link to the hub.
struct Link {
    reader: OwnedReadHalf,
    decoder: Decoder,
    outgoing: mpsc::Sender<Vec<u8>>,
    writer: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

impl Wrapper {
    fn say_hold(&self) {
        match self.options.hold {
            Some(Duration::ZERO) => {}
            Some(hold) => info!(
                seconds = hold.as_secs(),
                "the start waits for the first sync (E2EK_HOLD=0: it does not)"
            ),
            None => info!("the start waits for the first sync (E2EK_HOLD=0: it does not)"),
        }
    }

    fn start_unsynced(&mut self) {
        if self.options.hold != Some(Duration::ZERO) {
            warn!("no sync came in time: started with the files that are there");
        }
        self.unsynced = true;
        self.start(0);
    }

    fn start(&mut self, generation: u64) {
        self.started = true;
        self.runner.request(Request::Start { generation });
    }

    /// Looks for a hub, and says who we are.
    async fn look(&mut self) {
        match self.reach().await {
            Ok(link) => {
                self.link = Some(link);
                self.look_step = LOOK_STEP;
            }
            Err(_) => {
                self.look_at = Instant::now() + self.look_step;
                self.look_step = (self.look_step * 2).min(LOOK_STEP_MAX);
            }
        }
    }

    async fn reach(&self) -> io::Result<Link> {
        let stream = UnixStream::connect(&self.options.socket).await?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty())?;
        let mut hello = Vec::new();
        let (pid, started) = (self.pid, self.started && !self.unsynced);
        wire::encode(&FromWrapper::Hello { protocol: PROTOCOL, pid, started }, &mut hello);
        stream.writable().await?;
        let sent = pass::send(&stream, &hello, &[std::os::fd::AsFd::as_fd(&root)])?;
        if sent != hello.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let (reader, mut writer) = stream.into_split();
        let (outgoing, mut queue) = mpsc::channel::<Vec<u8>>(QUEUE);
        let writer = tokio::spawn(async move {
            while let Some(bytes) = queue.recv().await {
                if tokio::io::AsyncWriteExt::write_all(&mut writer, &bytes).await.is_err() {
                    return;
                }
            }
        });
        Ok(Link { reader, decoder: Decoder::default(), outgoing, writer })
    }

    fn heard(&mut self, message: Option<ToWrapper>) {
        match message {
            Some(ToWrapper::Run { generation, policy }) => {
                if let Some(policy) = policy {
                    self.runner.set_policy(self.options.with(policy));
                }
                if !self.started {
                    self.start(generation);
                } else if std::mem::take(&mut self.unsynced) {
                    info!("the files are there now: restarting");
                    let actions = ActionSet { restart: true, ..ActionSet::default() };
                    self.runner.request(Request::Apply { generation, actions });
                }
            }
            Some(ToWrapper::Act { generation, actions }) => self.apply(generation, actions),
            Some(ToWrapper::ActIn { generation, actions, directory }) => {
                self.runner.run_commands_in(OsString::from_vec(directory.0).into());
                self.apply(generation, actions);
            }
            None => {
                self.link = None;
                self.look_at = Instant::now() + self.look_step;
            }
        }
    }

    fn apply(&mut self, generation: u64, actions: ActionSet) {
        self.unsynced &= !actions.restart;
        self.runner.request(Request::Apply { generation, actions });
    }

    /// What the runner says. The exit code, when it is all over.
    fn told(&mut self, event: RunEvent) -> Option<u8> {
        if let RunEvent::Output { stream, bytes } = event {
            self.print(stream, bytes);
            return None;
        }
        match &event {
            RunEvent::Started { pid, .. } | RunEvent::Restarted { pid, .. } => {
                self.pid = Some(pid.cast_signed());
            }
            RunEvent::Exited { status, held, .. } => {
                self.pid = None;
                self.last = Some(*status);
                if self.options.exit {
                    self.runner.request(Request::Stop);
                } else if *held {
                    info!(
                        ?status,
                        "the command ended; it is held, the next change starts it again"
                    );
                }
            }
            RunEvent::StartFailed { error } if self.options.exit => {
                warn!(%error, "the command cannot be started");
                // As a shell tells it.
                let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
                self.last = Some(Status::Code(code));
                self.runner.request(Request::Stop);
            }
            RunEvent::StartFailed { error } => {
                warn!(%error, "the command cannot be started; it is held until the next change");
            }
            RunEvent::Stopped { status } => {
                let status = status.or(self.last);
                return Some(status.map_or(128 + 15, Status::shell_code));
            }
            _ => {}
        }
        if let Some(event) = child_event(&event) {
            self.say(&FromWrapper::Child(event));
        }
        None
    }

    /// Output goes to the container's log, and to the hub as fast as that takes it.
    fn print(&self, stream: Stream, bytes: Vec<u8>) {
        // A log that is gone is no reason to end.
        let _ = match stream {
            Stream::Stdout => io::stdout().write_all(&bytes).and_then(|()| io::stdout().flush()),
            Stream::Stderr | Stream::Command => io::stderr().write_all(&bytes),
        };
        let stream = if stream == Stream::Stdout { 1 } else { 2 };
        self.say(&FromWrapper::Output { stream, bytes: Blob(bytes) });
    }

    fn say(&self, message: &FromWrapper) {
        if let Some(link) = &self.link {
            let is_output = matches!(message, FromWrapper::Output { .. });
            if is_output && link.outgoing.capacity() <= NOT_OUTPUT {
                return;
            }
            let mut bytes = Vec::new();
            wire::encode(message, &mut bytes);
            let _ = link.outgoing.try_send(bytes);
        }
    }

    fn signalled(&mut self, signal: Signal) {
        match signal {
            Signal::TERM | Signal::INT => {
                // As the kubelet means it, whatever restarts use.
                self.runner.set_policy(Policy { stop_signal: signal, ..self.options.policy });
                self.runner.request(Request::Stop);
            }
            signal => {
                let pid = self.runner.state().pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
                if let Some(pid) = pid {
                    // Our own child, not reaped yet.
                    let _ = kill_process(pid, raw(signal));
                }
            }
        }
    }
}

/// The next message of the hub; `None` when the link is over. Cancel safe.
async fn hear(link: Option<&mut Link>) -> Option<ToWrapper> {
    let Some(link) = link else { return std::future::pending().await };
    loop {
        match link.decoder.message::<ToWrapper>() {
            Ok(Some((message, _))) => return Some(message),
            Ok(None) => {}
            Err(error) => {
                warn!(%error, "the hub is not understood");
                return None;
            }
        }
        let mut bytes = [0; 4096];
        match link.reader.read(&mut bytes).await {
            Ok(0) | Err(_) => return None,
            Ok(len) => link.decoder.feed(&bytes[..len]),
        }
    }
}

/// What is asked of us by signals.
struct Signals(Vec<(Signal, Listener)>);

impl Signals {
    fn new() -> io::Result<Self> {
        let wanted = [Signal::TERM, Signal::INT, Signal::HUP, Signal::USR1, Signal::USR2];
        let listen = |of: Signal| Ok((of, signal(SignalKind::from_raw(of.number()))?));
        Ok(Self(wanted.into_iter().map(listen).collect::<io::Result<_>>()?))
    }

    /// The next one. Cancel safe.
    async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (of, listener) in &mut self.0 {
                if Pin::new(listener).poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*of);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
