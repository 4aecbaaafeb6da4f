//! One target as the daemon knows it, and what its link tells.
//!
//! What a link brings is the session's to judge, but for what only passes through: credit, output,
//! input taken, and the listing of unmanaged paths, which is collected and filtered here.

use std::time::Instant;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::wire::{FromHub, Listed, Open, ToHub, WireError};
use tokio::sync::mpsc;

use super::link::{self, Connection, LinkError, LinkEvent, Outgoing};
use super::{Daemon, Kind, settings};
use crate::config::Config;
use crate::engine::session::{Input, TargetId};
use crate::error::Error;
use crate::report::{Event, Phase, Stream, Text};
use crate::transport::process::Transport;

/// One target as the daemon knows it.
pub(super) struct Target {
    pub(super) name: Text,
    /// For people: the path at the target.
    pub(super) root: String,
    pub(super) open: Open,
    pub(super) transport: Transport,
    pub(super) connection: Option<Connection>,
    /// Unmanaged paths told so far.
    pub(super) foreign: Vec<(SyncPath, Listed)>,
    pub(super) ever_opened: bool,
}

impl Target {
    pub(super) fn new(
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

impl Daemon {
    pub(super) fn send(&self, target: TargetId, outgoing: Outgoing) {
        if let Some(connection) = &self.targets[target].connection {
            // A link that has ended says so by an event of its own.
            let _ = connection.outgoing.send(outgoing);
        }
    }

    pub(super) fn connect(&mut self, target: TargetId) {
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

    pub(super) fn link_event(&mut self, target: TargetId, serial: u64, event: LinkEvent) {
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
        self.targets[target].foreign.extend(wanted);
        if last {
            let paths = std::mem::take(&mut self.targets[target].foreign);
            self.input_to_session(Input::Foreign(target, paths));
        }
    }

    pub(super) fn link_down(&mut self, id: TargetId, error: &LinkError) {
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
