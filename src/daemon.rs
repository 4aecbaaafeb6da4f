//! The one loop: waits for something to happen, asks the session what to do, does it.
//!
//! Owns every task and the only knowledge of more than one edge. Decides nothing about files or
//! restarts: that is the session's. Ends when it was asked to and every hub has let go, or at once
//! when asked twice.

mod answers;
mod link;
mod say;
mod settings;
mod source;
mod stdin;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::server::until;
use e2ek_sidecar::tree::Snapshot;
use e2ek_sidecar::wire::{ChildEvent, FromHub, Listed, Open, ToHub, WireError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::answers::Answers;
use self::link::{Connection, LinkError, LinkEvent, Outgoing};
use self::say::Teller;
pub use self::settings::Kind;
use self::source::{Looked, Next, Source};
use crate::config::Config;
use crate::control::{Call, ControlServer, Lock, LockError};
use crate::engine::session::{Effect, Input, Notice, Session, TargetId, TargetState};
use crate::error::Error;
use crate::report::{Desk, Event, Phase, Record, Reporter, Stream, Text};
use crate::transfer::{Contents, Origin};
use crate::transport::process::Transport;

/// Link events that wait for the loop.
const EVENTS: usize = 256;
/// How long the outputs may take to say the last words.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long "sync begin" waits for "sync end".
const BEGIN_WAITS: Duration = Duration::from_millis(2);
/// How much longer than the command a hub may take to end.
const HUB_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// One target as the daemon knows it.
struct Target {
    name: Text,
    /// For people: the path at the target.
    root: String,
    open: Open,
    transport: Transport,
    connection: Option<Connection>,
    /// Unmanaged paths told so far.
    foreign: Vec<(SyncPath, Listed)>,
    ever_opened: bool,
}

impl Target {
    fn new(
        kind: Kind,
        config: &Config,
        target: &crate::config::Target,
        terminal: bool,
    ) -> Result<Self, Error> {
        Ok(Self {
            name: Text::name(target.name.value.as_bytes()),
            root: target.root.display().to_string(),
            open: settings::open(kind, config, target)?,
            transport: settings::transport(config, target, terminal)?,
            connection: None,
            foreign: Vec::new(),
            ever_opened: false,
        })
    }
}

/// How it ends.
struct Ending {
    exit: Result<u8, Error>,
    /// Hubs that have not let go by then are left.
    at: Instant,
}

struct Daemon {
    kind: Kind,
    config: Config,
    desk: Desk,
    control: Option<ControlServer>,
    session: Session,
    source: Source,
    origin: Arc<Origin>,
    targets: Vec<Target>,
    teller: Teller,
    answers: Answers,
    events: (link::Events, mpsc::Receiver<(TargetId, u64, LinkEvent)>),
    tasks: JoinSet<()>,
    serial: u64,
    stdin: stdin::Stdin,
    ending: Option<Ending>,
    /// Where the tree and its stamps are kept for the next run.
    index: PathBuf,
    /// To be said when nothing more urgent is to be done: a save must not wait for its own report.
    unsaid: Vec<Event>,
    /// When it is said at the latest.
    say_at: Option<Instant>,
    /// The next look at everything, when asked for by `--poll`.
    poll_at: Option<Instant>,
    /// The tree that was kept last.
    kept: Option<e2ek_sidecar::tree::TreeId>,
    first_look: bool,
}

/// Signals that end the daemon.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Error {
        tokio::select! {
            _ = self.interrupt.recv() => Error::interrupted(),
            _ = self.terminate.recv() => Error::terminated(),
            _ = self.hang_up.recv() => Error::terminated(),
        }
    }
}

/// Carries out `watch`, `sync --once` or `plan`; returns the exit code.
///
/// # Errors
/// What ended it, with its exit code and hints.
pub async fn run(kind: Kind, config: Config, reporter: Reporter) -> Result<u8, Error> {
    // Taken before anything is started: a signal from here on ends well.
    let signals = Signals::new().map_err(|error| Error::failure(&error))?;
    // As a task: what wakes it stays within the runtime, and costs no system call.
    let daemon = tokio::spawn(Daemon::open(kind, config, reporter)?.run(signals));
    daemon.await.map_err(|error| Error::failure(&error))?
}

impl Daemon {
    fn open(kind: Kind, config: Config, reporter: Reporter) -> Result<Self, Error> {
        let folder = config.places.state.value.join(config.workspace.id.as_str());
        let lock = match Lock::take(&folder) {
            Ok(lock) => lock,
            Err(LockError::Busy { pid }) => {
                return Err(Error::already_watched(&config.workspace.folder, pid));
            }
            Err(error) => return Err(Error::failure(&error)),
        };
        let control = (kind == Kind::Watch).then(|| {
            let socket = format!("{}.sock", config.workspace.id.as_str());
            ControlServer::bind(&config.places.runtime.value.join(socket), lock)
        });
        let control = control.transpose().map_err(|error| Error::failure(&error))?;
        let roots = settings::sources(&config)?;
        let index = folder.join("index");
        let previous = std::fs::read(&index).ok().and_then(|bytes| Snapshot::decode(&bytes).ok());
        let contents = Arc::new(Contents::default());
        let options = settings::filter_options(&config);
        let source =
            Source::open(&roots, &options, &previous.unwrap_or_default(), contents.clone())
                .map_err(|error| Error::failure(&error))?;
        let has_command = config.targets.iter().any(|target| target.command.is_some());
        let terminal = stdin::is_terminal_of_human(&config) && has_command && kind == Kind::Watch;
        let targets = (config.targets.iter())
            .map(|target| Target::new(kind, &config, target, terminal))
            .collect::<Result<Vec<_>, Error>>()?;
        let names = targets.iter().map(|target| target.name.clone()).collect();
        Ok(Self {
            kind,
            session: Session::new(
                settings::session(kind, &config, terminal, source.ignored()),
                targets.len(),
                0,
            ),
            origin: Arc::new(Origin::new(roots.clone(), contents)),
            teller: Teller::new(names, roots.len()),
            answers: Answers::default(),
            events: mpsc::channel(EVENTS),
            tasks: JoinSet::new(),
            serial: 0,
            stdin: stdin::Stdin::new(has_command && kind == Kind::Watch && !terminal),
            ending: None,
            index,
            unsaid: Vec::new(),
            say_at: None,
            poll_at: None,
            kept: None,
            first_look: true,
            desk: Desk::open(reporter).map_err(|error| Error::failure(&error))?,
            config,
            control,
            source,
            targets,
        })
    }

    async fn run(mut self, mut signals: Signals) -> Result<u8, Error> {
        self.start();
        while !self.is_over() {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                why = signals.next() => self.end_because(why),
                Some((target, serial, event)) = self.events.1.recv() => {
                    self.link_event(target, serial, event);
                }
                next = self.source.next() => self.source_event(next),
                call = next_call(&mut self.control) => self.call(call),
                bytes = self.stdin.next() => self.input(bytes),
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
                () = tokio::task::yield_now(), if self.is_worth_saying() => self.say_all(),
                () = until(deadline) => {}
            }
            self.settle();
        }
        self.finish().await
    }

    fn start(&mut self) {
        let targets = self.targets.iter().map(|target| target.name.clone()).collect();
        self.say(Event::Started {
            source: Text::from(self.config.workspace.folder.as_path()),
            targets,
            workspace: Text::name(self.config.workspace.id.as_str()),
        });
        self.input_to_session(Input::Start);
        if self.kind == Kind::Watch {
            let cookies = self.index.with_file_name("cookies");
            let watching =
                std::fs::create_dir_all(&cookies).and_then(|()| self.source.watch(&cookies));
            if let Err(error) = watching {
                self.fail(Error::io("watch", &self.config.workspace.folder, &error));
            }
        } else {
            self.source.everything(Instant::now(), false);
        }
    }

    /// Looks at what is due, lets the session act on the time, answers who waits.
    fn settle(&mut self) {
        let now = Instant::now();
        self.poll(now);
        if self.say_at.is_some_and(|at| at <= now) {
            self.say_all();
        }
        if self.source.deadline().is_some_and(|at| at <= now)
            && let Some(looked) = self.source.look(now)
        {
            self.looked(looked);
        }
        if self.session.deadline().is_some_and(|at| at <= now) {
            let git_busy = self.session.is_settling() && self.git_is_busy();
            let busy = git_busy || self.source.is_looking();
            self.input_to_session(Input::Tick { git_busy: busy });
        }
        let busy = !self.source.is_quiet();
        self.answers.settle(now, &self.session, busy);
        if self.kind != Kind::Watch && self.ending.is_none() {
            self.end_when_done();
        }
    }

    /// Looks at everything every so often, where the user does not trust the kernel's events.
    fn poll(&mut self, now: Instant) {
        let Some(every) = self.config.sync.poll.value.filter(|_| self.kind == Kind::Watch) else {
            return;
        };
        if self.poll_at.is_some_and(|at| at <= now) && !self.source.is_looking() {
            self.source.everything(now, false);
        }
        if self.poll_at.is_none_or(|at| at <= now) {
            self.poll_at = Some(now + every);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let ending = self.ending.as_ref().map(|ending| ending.at);
        let poll = self.poll_at;
        [
            self.source.deadline(),
            self.session.deadline(),
            self.answers.deadline(),
            ending,
            poll,
            self.say_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn is_over(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| {
            ending.at <= Instant::now() || self.targets.iter().all(|t| t.connection.is_none())
        })
    }

    /// Whether a git command is at work in one of the source's repositories.
    fn git_is_busy(&self) -> bool {
        self.origin.roots().iter().any(|root| root.join(".git").join("index.lock").exists())
    }

    fn source_event(&mut self, next: Next) {
        match next {
            Next::Told(told) => {
                let point = matches!(told, source::Told::Point(_));
                if self.source.take(told) {
                    self.input_to_session(Input::RootGone);
                }
                if point && self.answers.point() {
                    self.source.release();
                }
            }
            Next::Looked(looked) => self.looked(looked),
        }
    }

    fn looked(&mut self, looked: Looked) {
        for (path, reason) in self.source.take_news() {
            let path = self.teller.path(&path);
            self.say(match reason {
                Some(reason) => {
                    let reason = reason.to_string().into();
                    Event::Problem { target: None, path, reason }
                }
                None => Event::ProblemGone { target: None, path },
            });
        }
        if let Some(figures) = self.source.take_figures()
            && std::mem::take(&mut self.first_look)
        {
            self.say(Event::Scanned {
                files: figures.files,
                bytes: figures.bytes,
                took: figures.took,
                protected: figures.protected,
                ignored: figures.ignored,
            });
        }
        match looked {
            Looked::Gone => self.input_to_session(Input::RootGone),
            Looked::Tree { tree, seen } => {
                self.input_to_session(Input::Scanned { tree, seen });
                if self.kept.is_none() {
                    self.keep_index();
                }
            }
        }
    }

    fn input_to_session(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now = Instant::now();
            for effect in self.session.handle(now, input) {
                self.perform(now, effect, &mut inputs);
            }
        }
    }

    fn perform(&mut self, now: Instant, effect: Effect, inputs: &mut VecDeque<Input>) {
        match effect {
            Effect::Connect(target) => self.connect(target),
            Effect::Close(target, why) => {
                tracing::warn!(target, ?why, "closing the link");
                self.targets[target].connection = None;
                inputs.push_back(Input::LinkDown(target));
            }
            Effect::Send(target, message) => self.send(target, Outgoing::Message(message)),
            Effect::SendOps(target, generation, ops) => {
                self.send(target, Outgoing::Ops { generation, ops });
            }
            Effect::SendData { target, generation, ops, indices, commit } => {
                self.send(target, Outgoing::Data { generation, ops, indices, commit });
            }
            Effect::Say(notice) => self.notice(now, &notice),
        }
    }

    fn send(&self, target: TargetId, outgoing: Outgoing) {
        if let Some(connection) = &self.targets[target].connection {
            // A link that has ended says so by an event of its own.
            let _ = connection.outgoing.send(outgoing);
        }
    }

    fn connect(&mut self, target: TargetId) {
        if self.ending.is_some() {
            return;
        }
        self.serial += 1;
        let (outgoing, queue) = mpsc::unbounded_channel();
        let credit = link::new_credit();
        let open = self.targets[target].open.clone();
        // Said with the Hello, unasked.
        let _ = outgoing.send(Outgoing::Message(ToHub::Open(open)));
        let transport = self.targets[target].transport.clone();
        let (origin, events) = (self.origin.clone(), self.events.0.clone());
        let serving =
            link::serve(target, self.serial, transport, origin, queue, credit.clone(), events);
        self.tasks.spawn(serving);
        self.targets[target].foreign.clear();
        self.targets[target].connection =
            Some(Connection { serial: self.serial, outgoing, credit });
    }

    fn link_event(&mut self, target: TargetId, serial: u64, event: LinkEvent) {
        let current = self.targets[target].connection.as_ref();
        let Some(connection) = current.filter(|connection| connection.serial == serial) else {
            return;
        };
        match event {
            LinkEvent::Up => {}
            LinkEvent::Progress(progress) => self.say(Event::Progress {
                generation: Some(progress.generation),
                phase: Phase::Send,
                files: progress.files,
                bytes: progress.bytes,
                total_files: Some(progress.total_files),
                total_bytes: Some(progress.total_bytes),
            }),
            LinkEvent::Changed(path) => self.source.hint(Instant::now(), path),
            LinkEvent::Down(error) => self.link_down(target, &error),
            LinkEvent::Message(FromHub::Credit { bytes }) => {
                connection.credit.add_permits(usize::try_from(bytes).unwrap_or(0));
            }
            LinkEvent::Message(FromHub::Output { stream, bytes }) => {
                self.output(target, stream, bytes.0);
            }
            LinkEvent::Message(FromHub::StdinTaken { bytes }) => self.stdin.taken(bytes),
            LinkEvent::Message(FromHub::Foreign { paths, last }) => {
                self.foreign(target, paths, last);
            }
            LinkEvent::Message(FromHub::Bye { reason }) => {
                tracing::info!(reason, "the hub says good-bye");
            }
            LinkEvent::Message(message) => {
                self.targets[target].ever_opened |= matches!(message, FromHub::Opened { .. });
                self.input_to_session(Input::Message(target, message));
            }
        }
    }

    fn output(&mut self, target: TargetId, stream: u8, bytes: Vec<u8>) {
        let credit = ToHub::Credit { bytes: bytes.len() as u64 };
        let stream = if stream == 1 { Stream::Stdout } else { Stream::Stderr };
        self.say(Event::Output { target: self.teller.name(target), stream, bytes });
        self.send(target, Outgoing::Message(credit));
    }

    /// Unmanaged paths that no ignore rule protects are the session's to judge.
    fn foreign(&mut self, target: TargetId, paths: Vec<(SyncPath, Listed)>, last: bool) {
        let wanted = paths.into_iter().filter(|(path, listed)| {
            self.source.is_wanted(path, matches!(listed, Listed::Directory(_)))
        });
        let wanted: Vec<_> = wanted.collect();
        self.targets[target].foreign.extend(wanted);
        if last {
            let paths = std::mem::take(&mut self.targets[target].foreign);
            self.input_to_session(Input::Foreign(target, paths));
        }
    }

    fn link_down(&mut self, id: TargetId, error: &LinkError) {
        let target = &mut self.targets[id];
        target.connection = None;
        let name = target.name.clone();
        if self.ending.is_some() {
            return;
        }
        let fatal = match error {
            LinkError::Wire(WireError::Skew { ours, theirs, ours_build, theirs_build }) => {
                let shown = |versions: &(u16, u16), build: &str| {
                    format!("protocol {}..={} ({build})", versions.0, versions.1)
                };
                let (ours, theirs) = (shown(ours, ours_build), shown(theirs, theirs_build));
                Some(Error::version_skew(name.as_str(), &ours, &theirs))
            }
            _ if target.ever_opened && self.kind == Kind::Watch => None,
            LinkError::NotStarted(error) => {
                Some(Error::transport_not_started(&target.transport.program(), error))
            }
            LinkError::Wire(WireError::NotOurs(said)) => Some(Error::not_a_hub(said.as_bytes())),
            error => Some(Error::disconnected(name.as_str(), &link_words(error))),
        };
        if let Some(error) = fatal {
            return self.fail(error);
        }
        self.input_to_session(Input::LinkDown(id));
        let retry = self.session.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        self.say(Event::Disconnected { target: name, error: link_words(error).into(), retry });
    }

    fn notice(&mut self, now: Instant, notice: &Notice) {
        for event in self.teller.events(now, notice) {
            self.say(event);
        }
        match notice {
            Notice::Refused { target, refusal } => {
                let target = &self.targets[*target];
                self.fail(say::refused(&target.name, &target.root, refusal));
            }
            Notice::Child { event: ChildEvent::Interrupted, .. } => {
                self.end_because(Error::interrupted());
            }
            Notice::Child { event: ChildEvent::Started { .. }, .. } => self.stdin.open(),
            _ => {}
        }
    }

    fn input(&mut self, bytes: Option<Vec<u8>>) {
        let message = match bytes {
            Some(bytes) => ToHub::Stdin(e2ek_sidecar::wire::Blob(bytes)),
            None => ToHub::StdinEnd,
        };
        self.send(0, Outgoing::Message(message));
    }

    fn say(&mut self, event: Event) {
        self.say_at.get_or_insert_with(|| Instant::now() + BEGIN_WAITS);
        self.unsaid.push(event);
    }

    /// Whether what waits to be said is more than that something begins. That alone is kept for a
    /// moment: the thread that says it would take the processor from the hub (measured: 60 to 90 us
    /// of a save on two cores), and the end mostly follows within it.
    fn is_worth_saying(&self) -> bool {
        self.unsaid.iter().any(|event| !matches!(event, Event::SyncBegin { .. }))
    }

    /// Says what waits. Links come first in every round, so that what was queued for them is gone.
    fn say_all(&mut self) {
        self.say_at = None;
        for event in std::mem::take(&mut self.unsaid) {
            if let Some(control) = &self.control {
                control.publish(&Record::at(std::time::SystemTime::now(), event.clone()));
            }
            let _ = self.desk.say(event);
        }
    }

    fn call(&mut self, call: Call) {
        use crate::control::{Reply, Request};
        let now = Instant::now();
        match &call.request {
            Request::Status {} => {
                let status = Box::new(self.status());
                call.answer(Reply::Status { status });
            }
            Request::Flush { .. } if self.session.is_paused() => {
                call.answer(Reply::Failed((&Error::paused()).into()));
            }
            Request::Restart { .. } if !self.has_command() => {
                call.answer(Reply::Failed((&Error::no_command()).into()));
            }
            Request::Flush { .. } => {
                self.input_to_session(Input::Retry);
                let points = self.source.points();
                self.answers.flush(now, call, points);
            }
            Request::Wait { .. } => self.answers.wait(now, call, self.ready_check()),
            Request::Restart { .. } => self.command(call, Input::Restart),
            Request::Pause {} => self.command(call, Input::Pause),
            Request::Resume { accept } => {
                let accept = *accept;
                self.command(call, Input::Resume { accept });
            }
            Request::Reset {} => {
                self.source.everything(now, true);
                self.command(call, Input::Retry);
            }
            Request::Stop {} => {
                call.answer(Reply::Done { generation: None });
                self.end(Ok(0), "stop");
            }
            Request::Attach {} => call.answer(Reply::Attached {}),
        }
    }

    fn has_command(&self) -> bool {
        self.config.targets.iter().any(|target| target.command.is_some())
    }

    fn command(&mut self, call: Call, input: Input) {
        self.input_to_session(input);
        let generation = Some(self.session.generation());
        call.answer(crate::control::Reply::Done { generation });
    }

    /// `sync --once` and `plan` end by themselves.
    fn end_when_done(&mut self) {
        if !self.source.is_quiet() || self.session.local().is_none() {
            return;
        }
        if self.kind == Kind::Plan {
            return self.end_when_planned();
        }
        let status = self.session.status();
        if let Some(hold) = status.iter().find_map(|target| target.hold.as_ref()) {
            let budget = self.config.sync.delete_budget.value.to_string();
            return self.end(Err(say::held(&self.config.workspace.folder, hold, &budget)), "held");
        }
        let refused = |target: &&crate::engine::session::TargetStatus| !target.problems.is_empty();
        let idle = status.iter().all(|target| target.generation >= self.session.generation());
        if !idle {
            return;
        }
        let problems = self.source.problems().len()
            + status.iter().filter(refused).map(|target| target.problems.len()).sum::<usize>();
        if problems > 0 {
            return self.end(Err(Error::left_out(problems)), "done");
        }
        if status.iter().all(|target| target.state == TargetState::Synced) {
            self.end(Ok(0), "done");
        }
    }

    fn end_when_planned(&mut self) {
        let plans: Option<Vec<_>> =
            (0..self.targets.len()).map(|target| self.session.plan(target)).collect();
        let Some(plans) = plans else { return };
        for (target, ops) in plans.into_iter().enumerate() {
            for event in self.teller.plan(target, &ops) {
                self.say(event);
            }
        }
        self.end(Ok(0), "done");
    }

    fn fail(&mut self, error: Error) {
        self.end(Err(error), "error");
    }

    fn end_because(&mut self, why: Error) {
        let reason = why.message.clone();
        self.end(Err(why), &reason);
    }

    /// Begins the end: hubs stop their commands and let go. The second time: at once.
    fn end(&mut self, exit: Result<u8, Error>, reason: &str) {
        if self.ending.is_some() {
            self.targets.iter_mut().for_each(|target| target.connection = None);
            return;
        }
        if self.kind == Kind::Watch {
            self.say(Event::Stopping { reason: reason.into() });
        }
        let patience = self.config.restart.kill_after.value + HUB_ENDS_WITHIN;
        self.ending = Some(Ending { exit, at: Instant::now() + patience });
        for target in 0..self.targets.len() {
            self.send(target, Outgoing::Message(ToHub::Bye));
        }
    }

    async fn finish(mut self) -> Result<u8, Error> {
        self.keep_index();
        self.targets.iter_mut().for_each(|target| target.connection = None);
        self.answers.end();
        let exit = self.ending.take().map_or(Ok(0), |ending| ending.exit);
        // Carriers end by themselves, or are killed with their tasks.
        let carriers = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS, carriers).await;
        if self.kind == Kind::Watch {
            let code = exit.as_ref().map_or_else(|error| error.kind.exit_code(), |code| *code);
            self.say(Event::Stopped { exit: code });
        }
        self.say_all();
        drop(self.source);
        if let Some(control) = self.control.take() {
            control.close(LAST_WORDS).await;
        }
        self.desk.close(LAST_WORDS);
        exit
    }

    /// Keeps the tree with its stamps, so that the next run reads no file that has not changed. A
    /// file that was never finished is no harm: it does not check out and everything is looked at.
    fn keep_index(&mut self) {
        let tree = self.source.tree();
        if self.session.local().is_none() || self.kind == Kind::Plan {
            return;
        }
        self.kept = Some(tree.id());
        let mut bytes = Vec::new();
        tree.encode(&mut bytes);
        let aside = self.index.with_extension("new");
        let written =
            std::fs::write(&aside, &bytes).and_then(|()| std::fs::rename(&aside, &self.index));
        if let Err(error) = written {
            tracing::warn!(%error, "the index cannot be kept; the next run reads all files");
        }
    }
}

fn link_words(error: &LinkError) -> String {
    match error {
        LinkError::NotStarted(error) => error.to_string(),
        LinkError::Wire(error) => error.to_string(),
        LinkError::Silent => "nothing was heard for 15 seconds".to_owned(),
        LinkError::Closed(Some(code)) if *code != 0 => format!("the carrier ended with {code}"),
        LinkError::Closed(_) => "the link was closed".to_owned(),
    }
}

async fn next_call(control: &mut Option<ControlServer>) -> Call {
    match control {
        Some(control) => control.next_call().await,
        None => std::future::pending().await,
    }
}
