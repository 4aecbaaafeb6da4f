//! One target as the daemon knows it, and what its link tells.
//!
//! What a link brings is the session's to judge, but for what only passes through: credit, output,
//! input taken, and the listing of unmanaged paths, which is collected and filtered here.

use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::wire::{ChildEvent, CommandSpec, FromHub, Listed, Refusal, ToHub, WireError};
use tokio::sync::mpsc;

use super::ending::HUB_ENDS_WITHIN;
use super::link::{self, Connection, LinkError, LinkEvent, Outgoing};
use super::{Daemon, Kind, say, settings};
use crate::control::Wanted;
use crate::engine::session::{Input, TargetId};
use crate::error::Error;
use crate::report::{Event, Stream, Text};
use crate::transport::network::{Changed, Network};
use crate::transport::{Ended, NotStarted, Transport};

/// One target as the daemon knows it.
pub(super) struct Target {
    pub(super) name: Text,
    /// As it was asked for first.
    pub(super) wanted: Wanted,
    /// Asked for by this process itself, so that it stays as long as that.
    pub(super) own: bool,
    /// What its command gets for standard streams is our terminal.
    terminal: bool,
    /// The first message.
    pub(super) open: ToHub,
    pub(super) transport: Transport,
    /// The workload whose pod it is.
    pub(super) group: Option<usize>,
    /// A pod's: its container's command runs under the wrapper, as its manifest says or as was seen.
    pub(super) wrapped: bool,
    /// Links in a row that led to nothing.
    pub(super) failures: u32,
    /// Its hub would not open, though others of its workload did: when it is asked again, and what
    /// it said.
    pub(super) refused: Option<(Instant, String)>,
    pub(super) connection: Option<Connection>,
    /// Unmanaged paths told so far.
    foreign: Vec<(SyncPath, Listed)>,
    pub(super) ever_opened: bool,
    /// The same over the link that there is.
    pub(super) opened: bool,
    /// What its hub cannot write again by itself: how many files, and some of them.
    pub(super) not_replayable: Option<(u64, Vec<SyncPath>)>,
    /// Nobody wants it any more: its hub is to let go by then. The session has forgotten it.
    pub(super) leaving: Option<Instant>,
}

/// The way to a target.
pub(super) struct Reach {
    pub(super) open: ToHub,
    pub(super) transport: Transport,
    pub(super) group: Option<usize>,
}

impl Target {
    pub(super) fn command(&self) -> Option<CommandSpec> {
        settings::command(&self.wanted, self.terminal)
    }

    /// Whether there is a command that its hub can restart.
    pub(super) fn runs_command(&self) -> bool {
        self.wrapped || self.wanted.command.is_some()
    }

    /// The right to write is ours: who has it after us is not overruled, unless asked for again.
    fn took_over(&mut self) {
        self.wanted.take_over = false;
        if let ToHub::Open(open) | ToHub::OpenIn { open, .. } = &mut self.open {
            open.take_over = false;
        }
    }

    /// For people: the path at the target.
    pub(super) fn root(&self) -> String {
        self.wanted.root.as_path().display().to_string()
    }

    /// How long its hub may take to end.
    pub(super) fn patience(&self) -> Duration {
        let command = self.wanted.command.as_ref();
        let kill_after = command.map_or(0, |command| command.kill_after_ms);
        Duration::from_millis(kill_after).saturating_add(HUB_ENDS_WITHIN)
    }
}

impl Daemon {
    /// A target more; the session has not heard of it yet.
    pub(super) fn new_target(&mut self, wanted: Wanted, own: bool, terminal: bool) -> TargetId {
        let open = settings::open(self.kind, &self.config, self.identity, &wanted);
        let transport = settings::transport(&self.program, &self.config, &wanted, terminal);
        let (open, transport) = (ToHub::Open(open), Transport::Process(transport));
        self.add_target(wanted, own, terminal, Reach { open, transport, group: None })
    }

    /// As above, with the way there.
    pub(super) fn add_target(
        &mut self,
        wanted: Wanted,
        own: bool,
        terminal: bool,
        reach: Reach,
    ) -> TargetId {
        let id = self.next_target;
        self.next_target += 1;
        let root = wanted.root.as_path().display().to_string();
        let Reach { open, transport, group } = reach;
        if transport.is_far() {
            self.network.get_or_insert_with(Network::listen);
        }
        let target = Target {
            name: self.teller.add(id, &wanted.name, &root),
            open,
            transport,
            group,
            wrapped: false,
            failures: 0,
            refused: None,
            wanted,
            own,
            terminal,
            connection: None,
            foreign: Vec::new(),
            not_replayable: None,
            ever_opened: false,
            opened: false,
            leaving: None,
        };
        self.targets.insert(id, target);
        id
    }

    pub(super) fn send(&self, target: TargetId, outgoing: Outgoing) {
        let connection = self.targets.get(&target).and_then(|target| target.connection.as_ref());
        if let Some(connection) = connection {
            // A link that has ended says so by an event of its own.
            let _ = connection.outgoing.send(outgoing);
        }
    }

    pub(super) fn connect(&mut self, target: TargetId) {
        if self.ending.is_some() {
            return;
        }
        self.serial += 1;
        let Some(one) = self.targets.get_mut(&target) else { return };
        let (outgoing, queue) = mpsc::unbounded_channel();
        let shared = link::Shared::new(self.kind == Kind::Watch);
        // Said with the Hello, unasked.
        let _ = outgoing.send(Outgoing::Message(one.open.clone()));
        let transport = one.transport.clone();
        let (origin, events) = (self.origin.clone(), self.events.0.clone());
        let theirs = shared.clone();
        let serving = link::serve(target, self.serial, transport, origin, queue, theirs, events);
        self.carriers.spawn(serving);
        one.foreign.clear();
        one.opened = false;
        one.connection = Some(Connection { serial: self.serial, outgoing, shared });
    }

    /// The way to other machines may be another by now: lost links are made again at once, and those
    /// that look alive must prove it.
    pub(super) fn network_changed(&mut self, what: Changed) {
        tracing::info!(?what, "the network changed: links are tried at once");
        let far = self.targets.iter().filter(|(_, target)| target.transport.is_far());
        for (&id, target) in far {
            let Some(connection) = &target.connection else { continue };
            connection.shared.probe.ask(self.session.is_quiet(id));
            let _ = connection.outgoing.send(Outgoing::Message(ToHub::Ping));
        }
        for group in self.groups.all.values() {
            group.again.ask();
        }
        self.input_to_session(Input::Reconnect);
    }

    pub(super) fn link_event(&mut self, target: TargetId, serial: u64, event: LinkEvent) {
        let Some(one) = self.targets.get_mut(&target) else { return };
        let Some(connection) =
            one.connection.as_ref().filter(|connection| connection.serial == serial)
        else {
            return;
        };
        match event {
            LinkEvent::Up => {}
            LinkEvent::Progress(progress) => self.say(self.teller.syncs.progress(target, progress)),
            LinkEvent::Changed(path) => self.source.hint(Instant::now(), path),
            LinkEvent::Down(error) => self.link_down(target, &error),
            LinkEvent::Message(FromHub::Credit { bytes }) => {
                connection.shared.credit.add_permits(usize::try_from(bytes).unwrap_or(0));
            }
            LinkEvent::Message(FromHub::AheadTaken { bytes }) => connection.shared.taken.add(bytes),
            LinkEvent::Message(FromHub::Output { stream, bytes }) => {
                self.wrapper_speaks(target);
                self.output(target, stream, bytes.0);
            }
            LinkEvent::Message(FromHub::NotReplayable { paths, count }) => {
                one.not_replayable = (count > 0).then_some((count, paths));
            }
            LinkEvent::Message(FromHub::StdinTaken { bytes }) => self.stdin.taken(bytes),
            LinkEvent::Message(FromHub::Foreign { paths, last }) => {
                self.foreign(target, paths, last);
            }
            LinkEvent::Message(FromHub::Bye { reason }) => {
                tracing::info!(reason, "the hub says good-bye");
            }
            LinkEvent::Message(message) => {
                if matches!(message, FromHub::Opened { .. }) {
                    (one.ever_opened, one.opened) = (true, true);
                    one.took_over();
                    one.failures = 0;
                    one.refused = None;
                    let group = one.group;
                    self.pod_opened(group);
                }
                if is_of_wrapper(&message) {
                    self.wrapper_speaks(target);
                }
                self.input_to_session(Input::Message(target, message));
            }
        }
    }

    pub(super) fn output(&mut self, target: TargetId, stream: u8, bytes: Vec<u8>) {
        let credit = ToHub::Credit { bytes: bytes.len() as u64 };
        let stream = if stream == 1 { Stream::Stdout } else { Stream::Stderr };
        self.say(Event::Output { target: self.teller.name(target), stream, bytes });
        self.send(target, Outgoing::Message(credit));
    }

    /// Unmanaged paths that no ignore rule protects are the session's to judge.
    pub(super) fn foreign(&mut self, target: TargetId, paths: Vec<(SyncPath, Listed)>, last: bool) {
        let wanted = paths.into_iter().filter(|(path, listed)| {
            self.source.is_wanted(path, matches!(listed, Listed::Directory(_)))
        });
        let wanted: Vec<_> = wanted.collect();
        let Some(one) = self.targets.get_mut(&target) else { return };
        one.foreign.extend(wanted);
        if last {
            let paths = std::mem::take(&mut one.foreign);
            self.input_to_session(Input::Foreign(target, paths));
        }
    }

    pub(super) fn is_own(&self, target: TargetId) -> bool {
        self.targets.get(&target).is_some_and(|target| target.own)
    }

    /// The hub will not open.
    pub(super) fn refused(&mut self, id: TargetId, refusal: &Refusal) {
        let Some(target) = self.targets.get(&id) else { return };
        if target.group.is_some() {
            return self.pod_refused(id, refusal);
        }
        let error = say::refused(&target.name, &target.root(), refusal);
        self.target_failed(id, error);
    }

    pub(super) fn link_down(&mut self, id: TargetId, error: &LinkError) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        target.connection = None;
        if self.ending.is_some() {
            return;
        }
        if target.leaving.is_some() {
            return self.let_go(id);
        }
        let name = target.name.clone();
        let fatal = match error {
            LinkError::Wire(WireError::Skew { ours, theirs, ours_build, theirs_build }) => {
                let shown = |versions: &(u16, u16), build: &str| {
                    format!("protocol {}..={} ({build})", versions.0, versions.1)
                };
                let said = (shown(ours, ours_build), shown(theirs, theirs_build));
                let error = Error::version_skew(name.as_str(), &said.0, &said.1);
                if target.group.is_some() {
                    let newer = (theirs.0 > ours.1).then_some(&**theirs_build);
                    return self.pod_of_other_version(id, error, newer);
                }
                Some(error)
            }
            _ if target.ever_opened && self.kind == Kind::Watch => None,
            error if target.group.is_some() => {
                target.failures += 1;
                self.why_pod_fails(id, error)
            }
            LinkError::NotStarted(NotStarted::Program(error)) => {
                let program = match &target.transport {
                    Transport::Process(transport) => transport.program(),
                    Transport::Pod(_) => std::ffi::OsString::new(),
                };
                Some(Error::transport_not_started(&program, error))
            }
            LinkError::Wire(WireError::NotOurs(said)) => Some(Error::not_a_hub(said.as_bytes())),
            error => Some(Error::disconnected(name.as_str(), &link_words(error))),
        };
        if let Some(error) = fatal {
            return self.target_failed(id, error);
        }
        self.look_again(id);
        self.input_to_session(Input::LinkDown(id));
        let retry = self.session.deadline().map(|at| at.saturating_duration_since(Instant::now()));
        self.say(Event::Disconnected { target: name, error: link_words(error).into(), retry });
    }
}

/// Without the wrapper a hub in a pod sends signals at most.
fn is_of_wrapper(message: &FromHub) -> bool {
    let FromHub::Child(event) = message else { return false };
    !matches!(event, ChildEvent::NotDone { .. } | ChildEvent::Signalled { .. })
}

pub(super) fn link_words(error: &LinkError) -> String {
    match error {
        LinkError::NotStarted(NotStarted::Program(error)) => error.to_string(),
        LinkError::NotStarted(NotStarted::Cluster(error)) => error.to_string(),
        LinkError::Wire(error) => error.to_string(),
        LinkError::Silent => "nothing was heard for 15 seconds".to_owned(),
        LinkError::SilentSince => "nothing was heard since the network changed".to_owned(),
        LinkError::Closed(Ended { code: Some(0) | None, said: None }) => {
            "the link was closed".to_owned()
        }
        LinkError::Closed(Ended { code, said }) => {
            let code = code.map(|code| format!("the carrier ended with {code}"));
            code.into_iter().chain(said.clone()).collect::<Vec<_>>().join(": ")
        }
    }
}
