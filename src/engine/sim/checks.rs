//! What must hold at every step and at the end: each check begins with the number of its invariant.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Entry, Snapshot, TreeId};
use e2ek_sidecar::wire::{FromHub, How, Listed, Op, ToHub};

use super::disk::{Disk, is_dir};
use super::hub::Hub;
use super::{SETTLE, World};
use crate::engine::session::{Effect, Input, Notice, TargetId, TargetState};

/// Messages in a second of virtual time, beyond which it is ping-pong.
const BUSY: usize = 1500;
/// Generations on their way at once (`session::target`).
const MAX_IN_FLIGHT: usize = 8;
/// Deletes within this time count together (`plan::DELETE_WINDOW`).
const DELETE_WINDOW: u64 = 10_000_000;

/// What the checks remember of one target.
#[derive(Default)]
struct Known {
    /// The tree whose deletes the user agreed to.
    accepted: Option<TreeId>,
    /// The source's tree when it was held last, until something else happens.
    held_at: Option<TreeId>,
    /// Files that were deleted for good without an answer: when, how many.
    deleted: VecDeque<(u64, u64)>,
    /// Generations sent and not acknowledged.
    in_flight: usize,
    /// Generations that people were told of, and not of their end.
    begun: BTreeSet<u64>,
    /// When it was last asked to restart, on which link, and whether the user asked since.
    acted: Option<u64>,
    acted_on: Option<u64>,
    user_restart: bool,
    /// The session has asked for the command before.
    ran: bool,
    /// Trees that the hub said it holds; `None` where the session has to find out on its own.
    told: Option<Vec<TreeId>>,
}

pub(super) struct Checks {
    known: Vec<Known>,
    /// The source as the session was shown it last.
    local: Option<TreeId>,
    root_gone: bool,
    /// Times of the messages delivered in the last second.
    delivered: VecDeque<u64>,
    /// The daemon was killed: what it still had to ask of a running command is forgotten.
    pub(super) daemon_died: bool,
    /// Messages were exchanged: what was asked of a command may be lost or come early.
    pub(super) tampered: bool,
}

impl Checks {
    pub(super) fn new(targets: usize) -> Self {
        Self {
            known: (0..targets).map(|_| Known::default()).collect(),
            local: None,
            root_gone: false,
            delivered: VecDeque::new(),
            daemon_died: false,
            tampered: false,
        }
    }

    /// The daemon begins anew and remembers nothing.
    pub(super) fn daemon_dies(&mut self) {
        let targets = self.known.len();
        *self = Self { daemon_died: true, tampered: self.tampered, ..Self::new(targets) };
    }

    pub(super) fn source_is(&mut self, tree: &Snapshot) {
        self.root_gone = false;
        if self.local.replace(tree.id()) != Some(tree.id()) {
            // A yes was said to another tree.
            self.known.iter_mut().for_each(|known| known.accepted = None);
        }
    }

    pub(super) fn accept(&mut self) {
        for known in &mut self.known {
            known.accepted = self.local;
            known.held_at = None;
            known.deleted.clear();
        }
    }

    pub(super) fn user_restart(&mut self) {
        self.known.iter_mut().for_each(|known| known.user_restart = true);
    }

    /// What a hub says it holds. After it skipped something, what the session makes of that is
    /// between the two.
    pub(super) fn told(&mut self, target: TargetId, message: &FromHub) {
        let known = &mut self.known[target];
        match message {
            FromHub::Opened { tree, .. } => known.told = Some(vec![*tree]),
            FromHub::Applied { tree, skipped, .. } if skipped.is_empty() => {
                known.told.iter_mut().for_each(|told| told.push(*tree));
            }
            FromHub::Applied { .. } | FromHub::AppliedPart { .. } => known.told = None,
            _ => {}
        }
    }

    /// Called for each message that is delivered and each deadline that is met.
    pub(super) fn i10_no_ping_pong(&mut self, now: u64) {
        self.delivered.push_back(now);
        while self.delivered.front().is_some_and(|at| at + 1_000_000 < now) {
            self.delivered.pop_front();
        }
        assert!(self.delivered.len() < BUSY, "i10: ping-pong");
    }
}

impl World {
    /// The tree that a look found is what the look saw, whatever index it used.
    pub(super) fn i5_tree_is_what_was_seen(&self, tree: &Snapshot) {
        let shown = &self.source.shown;
        assert_eq!(tree.count(), shown.len() as u64, "i5: not everything was seen");
        tree.walk(&mut |path, node| {
            assert_eq!(Some(&node.entry()), shown.get(path), "i5: {path} was missed");
        });
    }

    /// The daemon encodes once what goes alike to several targets: it leads from one tree to one tree.
    pub(super) fn i3_what_is_shared_is_alike(&mut self, effects: &[Effect]) {
        let (mut bases, mut contents) = (BTreeMap::new(), BTreeMap::new());
        for effect in effects {
            match effect {
                Effect::SendOps { generation, base, ops, .. } => {
                    let other = bases.insert((generation, ops.as_ptr()), base.id());
                    assert!(other.is_none_or(|other| other == base.id()), "i3: from two trees");
                    if other.is_some() {
                        self.trace.count("ops that several targets share");
                    }
                }
                Effect::SendData { generation, ops, indices, commit, .. } => {
                    let content = (indices, commit);
                    let other = contents.insert((generation, ops.as_ptr()), content);
                    assert!(other.is_none_or(|other| other == content), "i3: to two trees");
                }
                _ => {}
            }
        }
    }

    pub(super) fn check_effect(&mut self, effect: &Effect, time_passed: bool) {
        match effect {
            Effect::Connect(target) => {
                let known = &mut self.checks.known[*target];
                (known.in_flight, known.held_at) = (0, None);
            }
            Effect::SendOps { target, ops, .. } => {
                self.i7_nothing_is_sent_while_it_waits();
                self.i7_deletes_are_allowed(*target, ops, time_passed);
                self.i4_ignored_stays(ops);
                let known = &mut self.checks.known[*target];
                known.in_flight += 1;
                assert!(known.in_flight <= MAX_IN_FLIGHT, "i10: generations without end");
            }
            Effect::Say(Notice::Begin { target, generation, .. }) => {
                self.checks.known[*target].begun.insert(*generation);
            }
            Effect::Say(Notice::Applied { target, report }) => {
                let known = &mut self.checks.known[*target];
                known.in_flight -= 1;
                known.begun.remove(&report.generation);
            }
            Effect::Say(Notice::Level { target }) => self.checks.known[*target].begun.clear(),
            Effect::Send(target, ToHub::RemoveForeign { paths }) => {
                self.i7_mirrored_within_the_budget(*target, paths);
            }
            Effect::Send(target, ToHub::Run(_)) => self.i9_first_start_is_current(*target),
            Effect::Send(target, ToHub::Act { actions, .. }) if actions.restart => {
                self.i9_one_restart_a_window(*target);
            }
            _ => {}
        }
    }

    fn i7_nothing_is_sent_while_it_waits(&self) {
        assert!(!self.session.is_paused(), "i7: sent although it is paused");
        assert!(!self.checks.root_gone, "i7: sent although the source is gone");
    }

    /// What is only ignored now stays at the target.
    fn i4_ignored_stays(&self, ops: &[Op]) {
        let gone = ops.iter().filter(|op| op.change.new.is_none());
        for op in gone.filter(|op| self.source.ignores(&op.change.path)) {
            assert_eq!(op.how, How::Forget, "i4: {} is only ignored", op.change.path);
        }
    }

    /// Counts only files that are nowhere in the source any more; what `plan::guard` counts is more.
    fn i7_deletes_are_allowed(&mut self, target: TargetId, ops: &[Op], time_passed: bool) {
        let wanted = &self.source.shown;
        let lost = |op: &Op| {
            let gone = op.change.new.is_none() && op.how != How::Forget;
            gone && match &op.change.old {
                Some(Entry::File { digest, .. }) => !wanted
                    .values()
                    .any(|e| matches!(e, Entry::File { digest: there, .. } if there == digest)),
                Some(Entry::Symlink { .. }) => true,
                Some(Entry::Directory) | None => false,
            }
        };
        let count = ops.iter().filter(|op| lost(op)).count() as u64;
        let (now, local, budget) = (self.clock.now, self.checks.local, self.options.count_budget);
        let known = &mut self.checks.known[target];
        if count == 0 || known.accepted.is_some() && known.accepted == local {
            return;
        }
        assert!(wanted.len() > 1, "i7: everything is deleted without an answer");
        let waited = time_passed && known.held_at.is_some() && known.held_at == local;
        assert!(!waited, "i7: time alone answers nothing");
        known.deleted.retain(|(at, _)| at + DELETE_WINDOW > now);
        known.deleted.push_back((now, count));
        let sum: u64 = known.deleted.iter().map(|(_, count)| count).sum();
        if let Some(budget) = budget {
            assert!(count <= budget, "i7: {count} deletes without an answer");
            // Windows follow each other: any ten seconds meet two of them.
            assert!(sum <= 2 * budget, "i7: {sum} deletes in ten seconds without an answer");
        }
    }

    fn i7_mirrored_within_the_budget(&self, target: TargetId, paths: &[(SyncPath, Listed)]) {
        let files = paths.iter().filter(|(_, l)| !matches!(l, Listed::Directory(_))).count() as u64;
        let known = &self.checks.known[target];
        let accepted = known.accepted.is_some() && known.accepted == self.checks.local;
        let within = self.options.count_budget.is_none_or(|budget| files <= budget);
        assert!(within || accepted, "i7: {files} files mirrored away without an answer");
    }

    /// One restart in a settle window, unless somebody asked or the link is another.
    fn i9_one_restart_a_window(&mut self, target: TargetId) {
        let settle = SETTLE.as_micros() as u64;
        let (now, link) = (self.clock.now, self.wires.current[target]);
        let known = &mut self.checks.known[target];
        let close = known.acted.replace(now).is_some_and(|at| at + settle > now);
        let asked = std::mem::take(&mut known.user_restart);
        let relinked = std::mem::replace(&mut known.acted_on, link) != link;
        assert!(!close || asked || relinked, "i9: two restarts in one settle window");
    }

    fn i9_first_start_is_current(&mut self, target: TargetId) {
        if std::mem::replace(&mut self.checks.known[target].ran, true) {
            return;
        }
        let status = &self.session.status()[target];
        if status.problems.is_empty() {
            assert_eq!(Some(status.tree), self.checks.local, "i9: started before it is current");
        }
    }

    pub(super) fn i9_starts_between_generations(&self, target: TargetId) {
        let half = !self.hubs[target].receiver.ops().is_empty();
        assert!(self.checks.tampered || !half, "i9: started within a generation");
    }

    pub(super) fn i9_acts_after_its_files(&mut self, target: TargetId, generation: u64) {
        let hub = &self.hubs[target];
        let half = !hub.receiver.ops().is_empty();
        let early = hub.receiver.generation() > generation;
        assert!(self.checks.tampered || !half, "i9: acts within a generation");
        assert!(self.checks.tampered || !early, "i9: acts for an older generation");
    }

    /// What is called synced is.
    pub(super) fn check_status(&mut self) {
        for (target, status) in self.session.status().iter().enumerate() {
            let known = &mut self.checks.known[target];
            let held = status.state == TargetState::Held;
            let open = matches!(status.state, TargetState::Syncing | TargetState::Synced) || held;
            if let (true, Some(told)) = (open && !self.checks.tampered, &known.told) {
                assert!(told.contains(&status.tree), "i2: acknowledged before the hub said so");
            }
            known.held_at = if held { self.checks.local } else { None };
            if status.state != TargetState::Synced {
                continue;
            }
            let waits = self.session.is_paused() || self.checks.root_gone;
            if !waits {
                // An answer serves once.
                known.accepted = None;
            }
            assert!(!self.checks.root_gone, "i12: synced without a source");
            assert!(status.problems.is_empty() && status.hold.is_none(), "i12: {status:?}");
            if self.hubs[target].drift.is_empty() {
                i3_equal(&self.hubs[target], &self.source.shown);
            }
        }
    }

    /// The source is gone, as far as the session knows.
    pub(super) fn root_gone(&mut self) {
        self.checks.root_gone = true;
    }

    /// Everything is equal and silent.
    pub(super) fn check_end(&self) {
        let status = self.session.status();
        let wanted = self.source.wanted();
        for (hub, status) in self.hubs.iter().zip(&status) {
            i3_equal(hub, &wanted);
            if self.options.mirror {
                let more = hub.disk.keys().find(|path| !wanted.contains_key(*path));
                assert_eq!(more, None, "i3: mirrored, and it stays");
            }
            assert_eq!(hub.receiver.held().id(), status.tree, "i12: the records differ");
            let fresh = hub.loaded.as_ref() == Some(hub.receiver.held());
            // A command that outlives its links is not restarted for what a daemon that died had not
            // asked yet, nor for what others did to the files.
            let outlives = hub.served && (self.checks.daemon_died || hub.ever_drifted);
            let excused = outlives || self.checks.tampered;
            assert!(fresh || excused, "i9: the command never saw the last files");
            assert!(hub.ahead.is_empty(), "i8: content that came ahead is left over");
            assert!(hub.pid.is_some(), "i9: the command does not run");
        }
        for known in &self.checks.known {
            assert_eq!(known.begun, BTreeSet::new(), "i12: begun, and never said to be over");
        }
        assert_eq!(self.session.deadline(), None, "i3: nothing is left to wait for");
        assert!(self.clock.is_empty(), "i3: silent");
    }
}

/// Everything wanted is there, and nothing of ours is left over.
fn i3_equal(hub: &Hub, source: &Disk) {
    for (path, entry) in source {
        assert_eq!(hub.disk.get(path), Some(entry), "i3, i12: {path}");
    }
    for path in &hub.ours {
        let stays = source.contains_key(path) || !hub.disk.contains_key(path);
        // A directory stays as long as others have something in it.
        let holds_foreign = is_dir(hub.disk.get(path));
        assert!(stays || holds_foreign, "i3: {path} is left over");
    }
}

/// The debug form, without what a snapshot holds.
pub(super) fn brief(input: &Input) -> String {
    match input {
        Input::Scanned { tree, .. } => format!("Scanned {:?}", tree.id()),
        other => format!("{other:?}"),
    }
}
