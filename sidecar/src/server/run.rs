//! Owns one command on this machine: starts, signals, reaps and kills it as [`RestartMachine`]
//! decides, with everything that descends from it.
//!
//! Promises: a new run starts only when *nothing* of the old one is left (`waitpid` says ECHILD; we
//! are a subreaper, so grandchildren that called `setsid` count); zombies are reaped at once, also
//! of orphans; if we are killed, the command is killed by the kernel, and whatever else it left is
//! killed before the next start by [`sweep`]. Nothing is polled: SIGCHLD and pipes drive it.
//!
//! **The runner owns all children of its process**: it waits for any child, and ends any
//! descendant, daemons that a command started included. Nothing else in the program may start
//! processes, and there is one runner at a time. It is driven on one thread that lives as long as the
//! process, because the kernel kills the command when the thread that started it ends.
//!
//! Leaves to its owner: which changes ask for what, the wire, signals to ourselves, words.

mod child;
mod commands;
mod descendants;
mod event;
mod pipes;
mod request;
mod sentinel;
mod sweep;
mod terminal;

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use rustix::io::Errno;
use rustix::process::{
    Pid, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait,
};
use tokio::signal::unix::{SignalKind, signal};

use self::child::{Place, Start, Streams, start};
use self::commands::{Commands, Next, succeeded};
pub(super) use self::descendants::raw;
use self::descendants::signal_all;
pub use self::event::{RunEvent, RunState, Stream};
use self::pipes::{Pipes, Ready};
pub use self::request::{COMMANDS_WITHIN, Request, Spec, Stdio};
use self::sentinel::{Line, Sentinel};
pub use self::sweep::{Leftover, sweep};
use self::terminal::Terminal;
use super::until;
use crate::restart::{
    ActionSet, Effect, Input, Note, Policy, RestartMachine, Signal, State, Status,
};

/// One command and all its runs. See the module's head for what it demands of its process.
#[derive(Debug)]
pub struct Runner {
    spec: Spec,
    machine: RestartMachine,
    /// SIGCHLD; several may come as one.
    children: tokio::signal::unix::Signal,
    child: Option<Child>,
    /// Beside a child in the foreground.
    sentinel: Option<Sentinel>,
    /// The child was reaped; it is told when the sentinel has said all it saw.
    ended: Option<Ended>,
    /// The last known group; may outlive its leader.
    group: Option<Pid>,
    /// The last wait found no child at all.
    alone: bool,
    commands: Commands,
    /// To be asked of the machine when the killed command is reaped.
    stop: Option<Input>,
    pipes: Option<Pipes>,
    terminal: Option<Terminal>,
    events: VecDeque<RunEvent>,
    starts: u64,
    /// The old run was signalled, or ended, then.
    began: Option<Instant>,
    /// Nothing was left then.
    gone: Option<Instant>,
    /// Told already, so that the next SIGKILL does not tell again.
    refused: Vec<Leftover>,
}

/// The direct child, not yet reaped.
#[derive(Clone, Copy, Debug)]
struct Child {
    pid: Pid,
    foreground: bool,
}

/// The direct child, reaped.
#[derive(Clone, Copy, Debug)]
struct Ended {
    status: Status,
    foreground: bool,
    at: Instant,
}

impl Runner {
    /// Takes over all children of this process, and kills what an earlier run left behind. Starts
    /// nothing. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the kernel refuses to make us a subreaper, or pipes.
    pub fn new(mut spec: Spec) -> io::Result<Self> {
        set_child_subreaper(Some(getpid()))?;
        let children = signal(SignalKind::child())?;
        let (pipes, terminal) = match spec.stdio {
            Stdio::Inherit => (None, Terminal::find()),
            Stdio::Piped => (Some(Pipes::new()?), None),
        };
        let leftovers = sweep(&spec.marker);
        let mark = sweep::value(&spec.marker);
        spec.env.push((sweep::VARIABLE.into(), mark.into()));
        Ok(Self {
            machine: RestartMachine::new(spec.policy),
            spec,
            children,
            child: None,
            sentinel: None,
            ended: None,
            group: None,
            alone: true,
            commands: Commands::default(),
            stop: None,
            pipes,
            terminal,
            events: leftovers.into_iter().map(RunEvent::Leftover).collect(),
            starts: 0,
            began: None,
            gone: None,
            refused: Vec::new(),
        })
    }

    /// Asks for something; never waits for processes, except that a start returns when the new
    /// program runs. What comes of it is told by [`Runner::next`].
    pub fn request(&mut self, request: Request) {
        // A key that came before the request is not one that comes while it is carried out.
        let count = self.sentinel.as_mut().map_or(0, Sentinel::heard);
        self.interrupted(count);
        match request {
            Request::Start { generation } => self.handle(Input::Start { generation }),
            Request::Apply { generation, actions } => self.apply(generation, actions),
            Request::Restart => self.restart(),
            Request::Stop => self.stop(Input::Stop),
            Request::StopNow => self.stop(Input::StopNow),
            Request::Stdin(bytes) => self.pipes.iter_mut().for_each(|pipes| pipes.write(&bytes)),
            Request::StdinClosed => self.pipes.iter_mut().for_each(Pipes::close_input),
        }
        self.advance();
    }

    /// The next thing that happened; pending while nothing does. Everything is done in here, so it
    /// must be polled at all times; as long as it is not, a writing command fills its pipe and waits.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> RunEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let deadline = [self.machine.deadline(), self.commands.deadline()];
            let deadline = deadline.into_iter().flatten().min();
            tokio::select! {
                // Ends before output: what the dead wrote is fetched when they are reaped.
                biased;
                _ = self.children.recv() => self.reap(),
                () = until(deadline) => self.timer(),
                count = interrupted(self.sentinel.as_mut()) => self.interrupted(count),
                ready = pipes_ready(self.pipes.as_mut()) => self.pump(ready),
                ready = command_ready(&mut self.commands) => self.pump(ready),
            }
            self.advance();
        }
    }

    /// For `status`.
    #[must_use]
    pub fn state(&self) -> RunState {
        RunState {
            state: self.machine.state(),
            pid: self.child.map(|child| number(child.pid)),
            last: self.machine.last(),
            restarts: self.starts.saturating_sub(1),
            command: self.commands.running().map(|running| running.argv.clone()),
        }
    }

    /// Has what runs before a restart begin in this directory from now on, rather than where the command
    /// runs.
    pub fn run_commands_in(&mut self, directory: std::path::PathBuf) {
        self.commands.run_in(directory);
    }

    /// Treats the command by another policy from now on.
    pub fn set_policy(&mut self, policy: Policy) {
        self.spec.policy = policy;
        self.machine.set_policy(policy);
    }

    /// How many bytes of [`Request::Stdin`] wait: the owner keeps this within its credits.
    #[must_use]
    pub fn stdin_backlog(&self) -> usize {
        self.pipes.as_ref().map_or(0, Pipes::backlog)
    }

    fn apply(&mut self, generation: u64, actions: ActionSet) {
        self.handle(Input::Visible { generation });
        let idle = self.machine.state() == State::Idle;
        if !idle && (!actions.is_empty() || self.has_ended()) {
            self.commands.ask(generation, actions);
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.machine.state(), State::Held | State::Backoff { .. })
    }

    fn restart(&mut self) {
        if self.commands.busy() {
            let restart = true;
            let generation = self.machine.generation();
            let actions = ActionSet { restart, ..ActionSet::default() };
            self.commands.ask(generation, actions);
        } else {
            self.handle(Input::Restart);
        }
    }

    fn stop(&mut self, how: Input) {
        self.commands.clear();
        match self.commands.running() {
            Some(running) => {
                running.kill();
                self.stop = Some(how);
            }
            None => self.handle(how),
        }
    }

    /// Does what is wanted next. While an old run ends, no command is begun, but a restart is
    /// asked for, so that the start that follows covers it.
    fn advance(&mut self) {
        loop {
            let may_run = match self.machine.state() {
                State::Idle | State::Stopped => return,
                State::Stopping => false,
                State::Running { .. } | State::Held | State::Backoff { .. } => true,
            };
            match self.commands.next(may_run) {
                None => return,
                Some(Next::Run(argv)) => self.run_command(argv),
                Some(Next::Perform(actions, generation)) => {
                    self.perform_actions(&actions, generation);
                }
            }
        }
    }

    fn run_command(&mut self, argv: Vec<String>) {
        let started = RunEvent::CommandStarted { argv: argv.clone() };
        match self.commands.run(argv.clone(), &self.spec, &self.spec.env) {
            Ok(()) => {
                self.alone = false;
                self.events.push_back(started);
            }
            Err(error) => {
                let output = error.to_string().into_bytes();
                let status = None;
                let failed = RunEvent::CommandFailed { argv, status, output };
                self.events.push_back(failed);
                self.commands.failed();
            }
        }
    }

    fn perform_actions(&mut self, actions: &ActionSet, generation: u64) {
        if actions.restart || self.has_ended() {
            return self.handle(Input::Trigger { generation });
        }
        let (State::Running { .. }, Some(child)) = (self.machine.state(), self.child) else {
            return;
        };
        for &signal in &actions.signals {
            if let Err(error) = kill_process(child.pid, raw(signal)) {
                tracing::warn!(%signal, %error, "cannot signal the command");
            }
        }
    }

    fn handle(&mut self, input: Input) {
        let effects = self.machine.handle(Instant::now(), input);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Spawn { generation } => self.spawn(generation),
                Effect::Signal(signal) => self.signal(signal),
                Effect::Kill => self.signal(Signal::KILL),
                Effect::Note(note) => self.note(note),
            }
        }
    }

    fn timer(&mut self) {
        if let Some(bytes) = self.commands.kill_late(Instant::now()) {
            let stream = Stream::Command;
            self.events.push_back(RunEvent::Output { stream, bytes });
        }
        self.handle(Input::Timer);
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Killing => self.events.push_back(RunEvent::Killing),
            // Told with the exit, or with the failure to start.
            Note::Held(_) => {}
            Note::Backoff { until, failures } => {
                self.events.push_back(RunEvent::Backoff { until, failures });
            }
            Note::Interrupted => self.events.push_back(RunEvent::Interrupted),
            Note::Stopped(status) => self.events.push_back(RunEvent::Stopped { status }),
        }
    }

    fn signal(&mut self, signal: Signal) {
        self.began.get_or_insert_with(Instant::now);
        if self.alone {
            return;
        }
        let except = self.commands.running().map(|running| running.pid);
        for process in signal_all(self.group, self.child.is_some(), signal, except) {
            let refused = Leftover { pid: number(process.pid), name: process.name };
            if !self.refused.contains(&refused) {
                self.refused.push(refused.clone());
                self.events.push_back(RunEvent::Refused(refused));
            }
        }
    }

    fn spawn(&mut self, generation: u64) {
        let asked = Instant::now();
        match self.start() {
            Ok(child) => self.started(child, generation, asked),
            Err(error) => {
                self.events.push_back(RunEvent::StartFailed { error });
                self.handle(Input::SpawnFailed);
            }
        }
        self.began = None;
        self.gone = None;
    }

    fn start(&mut self) -> io::Result<Child> {
        let ours = self.terminal.as_ref().map(Terminal::is_ours);
        // Without a line there is no sentinel, and still a command.
        let line = if ours == Some(true) { Line::new().ok() } else { None };
        let place = match ours {
            None => Place::Session,
            Some(true) => Place::Foreground(line.as_ref().map(Line::number)),
            Some(false) => Place::Background,
        };
        let streams = self.pipes.as_ref().map_or_else(|| Ok(Streams::default()), Pipes::streams)?;
        let started = start(Start {
            argv: &self.spec.argv,
            cwd: self.spec.cwd.as_deref(),
            env: &self.spec.env,
            place,
            streams,
        });
        let foreground = ours == Some(true);
        if let (Err(_), true, Some(terminal)) = (&started, foreground, &self.terminal) {
            terminal.take_back_from_the_dead();
        }
        let pid = started?;
        self.sentinel = line.and_then(|line| line.sentinel().ok().flatten());
        Ok(Child { pid, foreground })
    }

    fn started(&mut self, child: Child, generation: u64, asked: Instant) {
        self.child = Some(child);
        self.group = Some(child.pid);
        self.alone = false;
        self.refused.clear();
        self.starts += 1;
        let pid = number(child.pid);
        self.events.push_back(if self.starts == 1 {
            RunEvent::Started { generation, pid }
        } else {
            let took = self.began.unwrap_or(asked).elapsed();
            let starting = self.gone.unwrap_or(asked).elapsed();
            RunEvent::Restarted { generation, pid, took, starting }
        });
    }

    /// Waits for everybody who has ended, then tells the machine.
    fn reap(&mut self) {
        self.alone = loop {
            match wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((pid, status))) => self.reaped(pid, status),
                Ok(None) => break false,
                Err(Errno::INTR) => {}
                Err(_) => break true,
            }
        };
        let mut effects = Vec::new();
        if let Some(ended) = self.ended.take_if(|_| self.sentinel.is_none()) {
            effects.extend(self.child_exited(ended));
        }
        if self.alone {
            let now = Instant::now();
            self.gone.get_or_insert(now);
            effects.extend(self.machine.handle(now, Input::AllGone));
        }
        self.perform(effects);
        if self.has_ended() {
            // The next start is not part of this end.
            (self.began, self.gone) = (None, None);
        }
        if self.commands.running().is_none()
            && let Some(how) = self.stop.take()
        {
            self.handle(how);
        }
    }

    /// One process has ended, or was stopped.
    fn reaped(&mut self, pid: Pid, wait: WaitStatus) {
        let own = self.child.filter(|child| child.pid == pid);
        let Some(status) = status(wait) else {
            if let (Some(child), Some(terminal)) = (own, &self.terminal)
                && child.foreground
            {
                terminal.stop_with(pid);
            }
            return;
        };
        if let Some(running) = self.commands.reaped(pid) {
            self.command_ended(running, status);
        }
        if let Some(mut sentinel) = self.sentinel.take_if(|sentinel| sentinel.pid == pid) {
            self.interrupted(sentinel.heard());
        }
        if let Some(child) = own {
            self.child = None;
            self.leave_terminal(child);
            let foreground = child.foreground;
            self.ended = Some(Ended { status, foreground, at: Instant::now() });
        }
    }

    /// From here on Ctrl-C reaches our own group; what the command's had until now the sentinel says.
    fn leave_terminal(&mut self, child: Child) {
        if let Some(terminal) = &self.terminal {
            terminal.take_back(child.pid);
        }
        if let Some(sentinel) = &self.sentinel {
            sentinel.dismiss();
        }
    }

    fn interrupted(&mut self, count: usize) {
        for _ in 0..count {
            self.handle(Input::Interrupted);
        }
    }

    fn child_exited(&mut self, ended: Ended) -> Vec<Effect> {
        let Ended { status, foreground, at } = ended;
        let ready = self.pipes.as_mut().map(Pipes::drain).unwrap_or_default();
        ready.into_iter().for_each(|ready| self.pump(ready));

        let by_itself = matches!(self.machine.state(), State::Running { .. });
        let of_interrupt = matches!(status, Status::Signal(Signal::INT) | Status::Code(130));
        let hold = foreground && by_itself && of_interrupt;
        let interrupted = hold || (by_itself && self.machine.is_interrupted(at));
        self.began.get_or_insert(at);
        let effects = self.machine.handle(Instant::now(), Input::Exited { status, hold });
        if by_itself {
            let held = self.machine.state() == State::Held;
            self.events.push_back(RunEvent::Exited { status, held, interrupted });
        }
        effects
    }

    fn command_ended(&mut self, mut running: commands::Running, status: Status) {
        let rest = running.pipe.drain();
        if !rest.is_empty() {
            running.keep(&rest);
            let stream = Stream::Command;
            self.events.push_back(RunEvent::Output { stream, bytes: rest });
        }
        let argv = running.argv.clone();
        self.events.push_back(if succeeded(status) {
            let took = running.since.elapsed();
            RunEvent::CommandDone { argv, took }
        } else {
            self.commands.failed();
            let status = Some(status);
            let output = running.into_tail();
            RunEvent::CommandFailed { argv, status, output }
        });
    }

    fn pump(&mut self, ready: Ready) {
        match ready {
            Ready::Output(stream, bytes) => {
                if let (Stream::Command, Some(running)) = (stream, self.commands.running_mut()) {
                    running.keep(&bytes);
                }
                self.events.push_back(RunEvent::Output { stream, bytes });
            }
            Ready::Taken(bytes) => self.events.push_back(RunEvent::StdinTaken { bytes }),
            Ready::Closed => {}
        }
    }
}

async fn pipes_ready(pipes: Option<&mut Pipes>) -> Ready {
    match pipes {
        Some(pipes) => pipes.ready().await,
        None => std::future::pending().await,
    }
}

async fn interrupted(sentinel: Option<&mut Sentinel>) -> usize {
    match sentinel {
        Some(sentinel) => sentinel.interrupted().await,
        None => std::future::pending().await,
    }
}

async fn command_ready(commands: &mut Commands) -> Ready {
    match commands.running_mut() {
        Some(running) => running.pipe.ready().await,
        None => std::future::pending().await,
    }
}

/// None when it was stopped, not ended.
fn status(wait: WaitStatus) -> Option<Status> {
    if let Some(code) = wait.exit_status() {
        return Some(Status::Code(u8::try_from(code).unwrap_or(u8::MAX)));
    }
    let raw = wait.terminating_signal()?;
    // Real-time signals have no name here.
    let nameless = Status::Code(u8::try_from(128 + raw).unwrap_or(u8::MAX));
    Some(Signal::from_number(raw).map_or(nameless, Status::Signal))
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}
