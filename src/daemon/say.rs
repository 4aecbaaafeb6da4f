//! Turns what the session notices into what people are told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::receive::root_index;
use e2ek_sidecar::tree::Entry;
use e2ek_sidecar::wire::{ChildEvent, How, Op, Refusal};

use super::restarts::Restarts;
use super::syncs::{Begin, Syncs};
use crate::engine::plan::Hold;
use crate::engine::session::{Applied, Notice, TargetId};
use crate::error::Error;
use crate::report::{Event, Exit, Outcome, Text};

/// The words for targets, and what must be remembered between two events.
pub(super) struct Teller {
    names: BTreeMap<TargetId, Text>,
    /// Whether paths are shown with their pair's number.
    several: bool,
    pub(super) syncs: Syncs,
    restarts: Restarts,
    /// What was said last of what a target does not do.
    not_done: BTreeMap<TargetId, String>,
}

impl Teller {
    pub(super) fn new(pairs: usize) -> Self {
        Self {
            names: BTreeMap::new(),
            several: pairs > 1,
            syncs: Syncs::default(),
            restarts: Restarts::default(),
            not_done: BTreeMap::new(),
        }
    }

    /// A target more. Its name, made to differ from the others'.
    pub(super) fn add(&mut self, target: TargetId, name: &str, root: &str) -> Text {
        let mut own = Text::name(name);
        if self.names.values().any(|other| *other == own) {
            own = Text::name(format!("{name} ({root})"));
        }
        self.names.insert(target, own.clone());
        own
    }

    /// A target less. What waited for nothing but its answer is over.
    pub(super) fn remove(&mut self, target: TargetId) -> Vec<Event> {
        self.names.remove(&target);
        self.restarts.remove(target);
        self.syncs.remove(target)
    }

    pub(super) fn name(&self, target: TargetId) -> Text {
        self.names.get(&target).cloned().unwrap_or_else(|| Text::from("a target that has left"))
    }

    /// A path as people know it: relative to its pair's source.
    pub(super) fn path(&self, path: &SyncPath) -> Text {
        match root_index(path) {
            Some((_, below)) if !self.several => Text::from(&below),
            _ => Text::from(path),
        }
    }

    /// What to say of a notice; nothing, one thing or several.
    pub(super) fn events(&mut self, now: Instant, notice: &Notice) -> Vec<Event> {
        match notice {
            Notice::Opened { target, equal } => {
                vec![Event::Connected { target: self.name(*target), equal: *equal }]
            }
            &Notice::Begin { target, generation, amount, first, all } => {
                let begin = Begin { generation, amount, first, all };
                self.syncs.begin(now, target, &begin).into_iter().collect()
            }
            Notice::Level { target } => self.syncs.level(now, *target),
            Notice::Applied { target, report } => self.applied(*target, report),
            Notice::Problem { target, problem } => vec![Event::Problem {
                target: Some(self.name(*target)),
                path: self.path(&problem.path),
                reason: problem.reason.to_string().into(),
            }],
            Notice::ProblemGone { target, path } => {
                vec![Event::ProblemGone { target: Some(self.name(*target)), path: self.path(path) }]
            }
            Notice::Held { target, hold } => vec![Event::Held {
                target: Some(self.name(*target)),
                reason: held_because(hold).into(),
                command: answer_to(hold).into(),
            }],
            Notice::Released { target } => {
                vec![Event::Released { target: Some(self.name(*target)) }]
            }
            Notice::Drifted { target, paths } => self.drifted(*target, paths),
            Notice::Forgotten { target, count } => {
                let paths = crate::report::count(*count, "file");
                let target = self.name(*target);
                let message = format!(
                    "{target}: {paths} ignored from now on, left there and managed no more"
                );
                vec![Event::Warning { message: message.into() }]
            }
            Notice::Mirrored { removed: 0, .. } | Notice::Refused { .. } => Vec::new(),
            Notice::Mirrored { target, removed } => {
                let message = format!("{}: removed {removed} unmanaged paths", self.name(*target));
                vec![Event::Warning { message: message.into() }]
            }
            &Notice::Acted { target, generation, ref actions, saves, ref build } => {
                let mut events = Vec::new();
                if actions.needs_build > 0 {
                    let paths = build.iter().map(|path| self.path(path)).collect();
                    let count = actions.needs_build.into();
                    events.push(Event::NeedsBuild { generation, paths, count });
                }
                if actions.restart {
                    self.restarts.begin(now, target, generation, saves);
                    events.push(Event::RestartBegin { generation, target: self.name(target) });
                }
                events
            }
            Notice::Child { target, event } => self.child(now, *target, event),
        }
    }

    fn drifted(&self, target: TargetId, paths: &[SyncPath]) -> Vec<Event> {
        let changed = |path: &SyncPath| Event::Conflict {
            target: self.name(target),
            path: self.path(path),
            reason: "changed at the target since it was written".into(),
        };
        paths.iter().map(changed).collect()
    }

    /// A plan, op by op.
    pub(super) fn plan(&self, target: TargetId, ops: &[Op]) -> Vec<Event> {
        let (mut writes, mut deletes, mut total) = (0, 0, 0);
        let mut events = Vec::with_capacity(ops.len() + 1);
        for op in ops {
            let (action, bytes, reason) = planned(op);
            match op.change.new {
                Some(_) => writes += 1,
                None => deletes += 1,
            }
            total += bytes;
            events.push(Event::PlanStep {
                target: self.name(target),
                action: action.into(),
                path: self.path(&op.change.path),
                bytes,
                reason: reason.into(),
            });
        }
        events.push(Event::PlanEnd { target: self.name(target), writes, deletes, bytes: total });
        events
    }

    fn applied(&mut self, target: TargetId, report: &Applied) -> Vec<Event> {
        let overwritten = |path: &SyncPath| Event::Overwritten {
            target: self.name(target),
            path: self.path(path),
            kept: Some("the hub's trash".into()),
        };
        let mut events: Vec<Event> = report.overwritten.iter().map(overwritten).collect();
        self.restarts.applied(target, report);
        events.extend(self.syncs.applied(target, report));
        events
    }

    fn child(&mut self, now: Instant, target: TargetId, event: &ChildEvent) -> Vec<Event> {
        let name = self.name(target);
        let under_way = self.restarts.under_way(target);
        let (generation, began) = under_way.unwrap_or((0, now));
        let status = Outcome::Ok;
        match event {
            ChildEvent::Restarted { generation, micros, .. } => {
                let stamps = self.restarts.end(now, target);
                let (generation, took) = (*generation, Duration::from_micros(*micros));
                vec![Event::RestartEnd { generation, target: name, status, took, stamps }]
            }
            ChildEvent::Started { .. } if under_way.is_some() => {
                let stamps = self.restarts.end(now, target);
                let took = now.saturating_duration_since(began);
                vec![Event::RestartEnd { generation, target: name, status, took, stamps }]
            }
            ChildEvent::Failed { error } => {
                self.restarts.failed(target);
                vec![Event::Error {
                    target: Some(name),
                    class: "failure".into(),
                    message: format!("the command could not be started: {error}").into(),
                    hints: Vec::new(),
                }]
            }
            ChildEvent::Exited { status, signal, held } => vec![Event::ChildExited {
                target: name,
                status: exit(*status, *signal),
                held: *held,
            }],
            ChildEvent::Ran { argv, status } => vec![Event::CommandRan {
                generation,
                target: name,
                argv: argv.iter().map(|word| Text::name(word.as_bytes())).collect(),
                status: exit(*status, 0),
                took: now.saturating_duration_since(began),
            }],
            ChildEvent::Backoff { micros } => {
                let wait = Duration::from_micros(*micros);
                let message = format!("{name}: the command keeps ending; next try in {wait:.1?}");
                vec![Event::Warning { message: message.into() }]
            }
            ChildEvent::NotDone { why } => {
                self.restarts.failed(target);
                // Each save asks again; people are told once.
                let before = self.not_done.insert(target, why.clone());
                let message = format!("{name}: {why}").into();
                if before.as_ref() == Some(why) { vec![] } else { vec![Event::Warning { message }] }
            }
            ChildEvent::Signalled { .. }
            | ChildEvent::Started { .. }
            | ChildEvent::Stopped { .. }
            | ChildEvent::Interrupted => Vec::new(),
        }
    }
}

/// What would be done for an op, how much would be sent, and why.
fn planned(op: &Op) -> (&'static str, u64, String) {
    let change = &op.change;
    let reason = match (&change.old, &change.new) {
        (None, _) => "new",
        (Some(_), None) => "gone from the source",
        (Some(Entry::File { .. }), Some(Entry::File { .. })) => "changed",
        _ => "of another kind",
    };
    match (&change.new, &op.how) {
        (None, How::Forget) => ("forget", 0, "ignored now; stays at the target".to_owned()),
        (None, _) => ("delete", 0, reason.to_owned()),
        (Some(Entry::Directory), _) => ("mkdir", 0, reason.to_owned()),
        (Some(Entry::Symlink { .. }), _) => ("link", 0, reason.to_owned()),
        (Some(Entry::File { .. }), How::Copy { from }) => {
            ("copy", 0, format!("same content as {from}"))
        }
        (Some(Entry::File { .. }), How::None | How::Forget | How::Tree { .. }) => {
            ("write", 0, format!("{reason}, no content to send"))
        }
        (Some(Entry::File { size, .. }), How::Ask) => {
            ("write", *size, format!("{reason}, unless the target has the same"))
        }
        (Some(Entry::File { size, .. }), How::Data | How::Patch | How::Like { .. } | How::Held) => {
            ("write", *size, reason.to_owned())
        }
    }
}

fn exit(status: i32, signal: i32) -> Exit {
    if signal > 0 { Exit::Signal(signal) } else { Exit::Code(status) }
}

/// Why nothing is sent, for people.
fn held_because(hold: &Hold) -> String {
    match hold {
        Hold::RootGone => "the source directory is gone or was replaced".to_owned(),
        Hold::RootEmptied { deletes } => {
            format!("the source was emptied: {deletes} files would be deleted")
        }
        Hold::Budget { deletes, managed } => {
            format!("{deletes} of {managed} files would be deleted")
        }
    }
}

fn answer_to(hold: &Hold) -> &'static str {
    match hold {
        Hold::RootGone => "bring it back, or e2ek-sync stop",
        _ => "e2ek-sync resume --accept",
    }
}

/// A refusal as an error that ends the command.
pub(super) fn refused(target: &Text, root: &str, refusal: &Refusal) -> Error {
    match refusal {
        Refusal::Owned { by, active: _ } => Error::owned_by_other(target.as_str(), by),
        Refusal::Nested { root: other, by } => Error::nested_target(root, other, by),
        Refusal::NotFound(what) => Error::target_missing(std::path::Path::new(what)),
        Refusal::Forbidden(what) => Error::target_forbidden(
            std::path::Path::new(what),
            &std::io::ErrorKind::PermissionDenied.into(),
        ),
        Refusal::Unusable(why) => Error::disconnected(target.as_str(), why),
        Refusal::Superseded => {
            Error::owned_by_other(target.as_str(), "a newer run of this workspace")
        }
    }
}

/// A hold as an error that ends `sync --once`.
pub(super) fn held(source: &std::path::Path, hold: &Hold, budget: &str) -> Error {
    match hold {
        Hold::RootGone => Error::held_root_replaced(source, "it is gone or was replaced"),
        Hold::RootEmptied { deletes } => Error::held_root_emptied(source, *deletes),
        Hold::Budget { deletes, managed } => Error::held_delete_budget(*deletes, *managed, budget),
    }
}
