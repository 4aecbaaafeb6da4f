//! The one loop: waits for something to happen, asks the session what to do, does it.
//!
//! Owns every task and the only knowledge of more than one edge. Decides nothing about files or
//! restarts: that is the session's. Ends when it was asked to and every hub has let go, or at once
//! when asked twice.

mod answers;
mod calls;
mod ending;
mod forward;
mod git;
mod groups;
mod identity;
mod join;
mod link;
mod members;
mod pods;
mod reread;
mod restarts;
mod say;
mod settings;
mod shortage;
mod source;
mod stdin;
mod syncs;
mod target;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2ek_sidecar::server::{memory, until};
use e2ek_sidecar::tree::Snapshot;
use e2ek_sidecar::wire::{ChildEvent, ToHub, WorkspaceId};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::answers::Answers;
use self::calls::next_call;
use self::ending::Ending;
use self::groups::Groups;
use self::join::Joined;
use self::link::{LinkEvent, Outgoing, Parcels};
use self::members::Members;
pub use self::reread::Reread;
use self::say::Teller;
pub use self::settings::Kind;
use self::source::{Looked, Next, Source};
use self::target::Target;
use crate::config::Config;
use crate::control::{ControlServer, Lock, LockError};
use crate::engine::session::{Effect, Input, Notice, Session, TargetId};
use crate::error::Error;
use crate::report::{Desk, Event, Record, Reporter, Text};
use crate::transfer::{Contents, Origin};
use crate::transport::network::{Changed, Network};

/// Link events that wait for the loop.
const EVENTS: usize = 256;
/// How long the outputs may take to say the last words.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long "sync begin" waits for "sync end".
const BEGIN_WAITS: Duration = Duration::from_millis(2);

/// How long traces wait to be put into their file, at first and later: a killed daemon loses no more.
const KEEP_TRACES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(30)];

struct Daemon {
    kind: Kind,
    config: Config,
    reread: Reread,
    /// Settings of which was said that they count from the next start on.
    told_later: BTreeSet<String>,
    desk: Desk,
    control: Option<ControlServer>,
    session: Session,
    source: Source,
    origin: Arc<Origin>,
    targets: BTreeMap<TargetId, Target>,
    /// Names are not used twice.
    next_target: TargetId,
    /// Second watches that take part.
    members: Members,
    /// Workloads whose pods are targets.
    groups: Groups,
    /// Listened to from the first target on that may be on another machine.
    network: Option<Network>,
    /// The workspace, as hubs know it.
    identity: WorkspaceId,
    /// This program, to start hubs of it.
    program: PathBuf,
    teller: Teller,
    answers: Answers,
    events: (link::Events, mpsc::Receiver<(TargetId, u64, LinkEvent)>),
    /// Of what the session is just having sent.
    parcels: Parcels,
    tasks: JoinSet<()>,
    /// Those behind the links. They end by themselves when they are told to, which the others need not.
    carriers: JoinSet<()>,
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
    /// When the traces are put into their file.
    traces_at: Option<Instant>,
    /// How long they waited last.
    traces_wait: Duration,
    /// Why directories are polled, as far as it was said.
    shortages: std::collections::BTreeSet<crate::watch::Shortage>,
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

/// Carries out `watch`, `sync --once` or `plan`; returns the exit code. A second `watch` of one
/// workspace takes part in the first one's session.
///
/// # Errors
/// What ended it, with its exit code and hints.
pub async fn run(
    kind: Kind,
    config: Config,
    reread: Reread,
    reporter: Reporter,
) -> Result<u8, Error> {
    // Taken before anything is started: a signal from here on ends well.
    let mut signals = Signals::new().map_err(|error| Error::failure(&error))?;
    let desk = Desk::open(reporter).map_err(|error| Error::failure(&error))?;
    let mut heard = Instant::now();
    loop {
        let pid = match Lock::take(&config.workspace_state()) {
            Ok(lock) => {
                // Whoever comes while a cluster is signed in to finds us, and waits.
                let control = (kind == Kind::Watch)
                    .then(|| ControlServer::bind(&config.control_socket(), lock))
                    .transpose()
                    .map_err(|error| Error::failure(&error))?;
                let groups = tokio::select! {
                    groups = Groups::open(kind, &config) => groups?,
                    why = signals.next() => return Err(why),
                };
                let daemon = Daemon::open(kind, (config, reread), desk, control, groups)?;
                // As a task: what wakes it stays within the runtime, and costs no system call.
                let running = tokio::spawn(daemon.run(signals));
                return running.await.map_err(|error| Error::failure(&error))?;
            }
            Err(LockError::Busy { pid }) => pid,
            Err(error) => return Err(Error::failure(&error)),
        };
        if kind != Kind::Watch {
            return Err(Error::already_watched(&config.workspace.folder, pid));
        }
        match join::join(&config, &desk, &mut signals, heard, pid).await? {
            Joined::Over(exit) => {
                desk.close(LAST_WORDS);
                return exit;
            }
            Joined::Ending => heard = Instant::now(),
            Joined::Again => {}
        }
    }
}

/// The next change of the network; never where nobody listens. Cancel safe.
async fn network_changed(network: &mut Option<Network>) -> Changed {
    match network {
        Some(network) => network.changed().await,
        None => std::future::pending().await,
    }
}

impl Daemon {
    fn open(
        kind: Kind,
        (config, reread): (Config, Reread),
        desk: Desk,
        control: Option<ControlServer>,
        groups: Groups,
    ) -> Result<Self, Error> {
        let folder = config.workspace_state();
        let roots = settings::sources(&config)?;
        let index = folder.join("index");
        let from = index.clone();
        let previous = move || {
            let bytes = std::fs::read(&from).ok();
            bytes.and_then(|bytes| Snapshot::decode(&bytes).ok()).unwrap_or_default()
        };
        let contents = Arc::new(Contents::kept_in(&folder));
        let options = settings::filter_options(&config);
        let source = Source::open(&roots, &options, previous, contents.clone())
            .map_err(|error| Error::failure(&error))?;
        let has_command = config.targets.iter().any(|target| target.command.is_some());
        let terminal = stdin::is_terminal_of_human(&config) && has_command && kind == Kind::Watch;
        let own = config.targets.iter().filter(|target| target.cluster.is_none());
        let wanted = own.map(|target| settings::wanted(kind, &config, target));
        let wanted = wanted.collect::<Result<Vec<_>, Error>>()?;
        let program = std::env::current_exe()
            .map_err(|error| Error::io("find", Path::new("the running program"), &error))?;
        let state = &config.places.state.value;
        let identity = identity::workspace(state, &config.workspace.folder)
            .map_err(|error| Error::io("write below", state, &error))?;
        let mut daemon = Self {
            kind,
            identity,
            // Targets come one by one.
            session: Session::new(settings::session(kind, &config, source.ignored())),
            origin: Arc::new(Origin::new(roots.clone(), contents)),
            teller: Teller::new(roots.len()),
            answers: Answers::default(),
            events: mpsc::channel(EVENTS),
            parcels: Parcels::default(),
            tasks: JoinSet::new(),
            carriers: JoinSet::new(),
            serial: 0,
            stdin: stdin::Stdin::new(has_command && kind == Kind::Watch && !terminal),
            ending: None,
            index,
            unsaid: Vec::new(),
            say_at: None,
            poll_at: None,
            kept: None,
            first_look: true,
            traces_at: None,
            traces_wait: KEEP_TRACES[0],
            shortages: std::collections::BTreeSet::new(),
            targets: BTreeMap::new(),
            next_target: 0,
            members: Members::default(),
            groups,
            network: None,
            program,
            desk,
            config,
            reread,
            told_later: BTreeSet::new(),
            control,
            source,
        };
        for wanted in wanted {
            daemon.new_target(wanted, true, terminal);
        }
        Ok(daemon)
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
                    // Many targets answer at the same time.
                    for _ in 1..EVENTS {
                        let Ok((target, serial, event)) = self.events.1.try_recv() else { break };
                        self.link_event(target, serial, event);
                    }
                }
                next = self.source.next() => self.source_event(next),
                call = next_call(&mut self.control) => self.call(call),
                member = self.members.left() => self.member_left(member),
                change = self.groups.changed() => self.cluster_change(change),
                what = network_changed(&mut self.network) => self.network_changed(what),
                bytes = self.stdin.next() => self.input(bytes),
                Some(_) = self.tasks.join_next(), if !self.tasks.is_empty() => {}
                Some(_) = self.carriers.join_next(), if !self.carriers.is_empty() => {}
                () = tokio::task::yield_now(), if self.is_worth_saying() => self.say_all(),
                () = until(deadline) => {}
            }
            self.settle();
        }
        self.finish().await
    }

    fn start(&mut self) {
        let targets = self.targets.values().map(|target| target.name.clone());
        let targets = targets.chain(self.groups.names()).collect();
        self.say(Event::Started {
            source: Text::from(self.config.workspace.folder.as_path()),
            targets,
            workspace: Text::name(self.config.workspace.id.as_str()),
        });
        let own: Vec<_> = self.targets.iter().map(|(&id, target)| (id, target.command())).collect();
        for (target, command) in own {
            self.input_to_session(Input::Join { target, command });
        }
        self.follow_own_pods();
        if self.kind == Kind::Watch {
            // Before they are asked for: the first save is not to wait for that.
            let contents = self.origin.contents().clone();
            self.tasks.spawn_blocking(move || contents.read_traces());
            let cookies = self.index.with_file_name("cookies");
            let settings = self.config.workspace.file.as_deref();
            let watching = std::fs::create_dir_all(&cookies)
                .and_then(|()| self.source.watch(&cookies, settings));
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
        self.settle_traces(now);
        self.settle_members(now);
        self.settle_pods(now);
        let (busy, problems) = (!self.source.is_quiet(), self.source.problems().len());
        let absent = self.groups.absent();
        self.answers.settle(now, &self.session, answers::Outlook { busy, problems, absent });
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
            self.members_deadline(),
            self.pods_deadline(),
            ending,
            poll,
            self.say_at,
            self.traces_at,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn is_over(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| {
            ending.at <= Instant::now() || self.targets.values().all(|t| t.connection.is_none())
        })
    }

    /// Whether a git command is at work in one of the source's repositories, or in a submodule there.
    fn git_is_busy(&self) -> bool {
        let git = |root: &PathBuf| crate::filter::git_directory_of(root);
        self.origin.roots().iter().filter_map(git).any(|git| git::is_busy(&git))
    }

    fn source_event(&mut self, next: Next) {
        match next {
            Next::Told(told) => {
                let point = matches!(told, source::Told::Point);
                if self.source.take(told) {
                    self.input_to_session(Input::RootGone);
                }
                if self.source.take_settings_changed() {
                    self.follow_settings();
                }
                if point && self.answers.point() {
                    self.source.release();
                }
            }
            Next::Looked(looked) => self.looked(looked),
        }
        self.tell_shortages();
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
            self.parcels.clear();
        }
    }

    fn perform(&mut self, now: Instant, effect: Effect, inputs: &mut VecDeque<Input>) {
        match effect {
            Effect::Connect(target) => self.connect(target),
            Effect::Close(target, why) => {
                tracing::warn!(target, ?why, "closing the link");
                if let Some(target) = self.targets.get_mut(&target) {
                    target.connection = None;
                }
                inputs.push_back(Input::LinkDown(target));
            }
            Effect::Send(target, message) => self.send(target, Outgoing::Message(message)),
            Effect::SendOps { target, generation, base, ops } => {
                let parcel = self.parcels.ops(generation, &ops);
                self.send(target, Outgoing::Ops { generation, base, ops, parcel });
            }
            Effect::SendData { target, generation, ops, indices, commit } => {
                let parcel = self.parcels.data(generation, &ops);
                self.send(target, Outgoing::Data { generation, ops, indices, commit, parcel });
            }
            Effect::Ahead { target, number, op, base, whole } => {
                self.send(target, Outgoing::Ahead { number, op, base: (!whole).then_some(base) });
            }
            Effect::EndAhead(target, number) => self.send(target, Outgoing::EndAhead(number)),
            Effect::Say(notice) => self.notice(now, &notice),
        }
    }

    fn notice(&mut self, now: Instant, notice: &Notice) {
        for event in self.teller.events(now, notice) {
            self.say(event);
        }
        match notice {
            Notice::Applied { report, .. } if report.files >= memory::WORTH_FROM as u64 => {
                self.origin.contents().clear();
                memory::give_back();
            }
            Notice::Refused { target, refusal } => self.refused(*target, refusal),
            Notice::Child { target, event } if self.is_own(*target) => match event {
                ChildEvent::Interrupted => self.end_because(Error::interrupted()),
                ChildEvent::Started { .. } => self.stdin.open(),
                _ => {}
            },
            _ => {}
        }
    }

    fn input(&mut self, bytes: Option<Vec<u8>>) {
        let message = match bytes {
            Some(bytes) => ToHub::Stdin(e2ek_sidecar::wire::Blob(bytes)),
            None => ToHub::StdinEnd,
        };
        // The first of our own that runs a command.
        let runs = |target: &&Target| target.own && target.wanted.command.is_some();
        let target = self.targets.iter().find(|(_, target)| runs(target));
        if let Some((&target, _)) = target {
            self.send(target, Outgoing::Message(message));
        }
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
}
