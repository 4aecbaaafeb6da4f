//! One target's part of a session: its link, what it holds, what is on its way, what it refused.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::restart::{Action, ActionSet};
use e2ek_sidecar::tree::{Change, Entry, Problem, Reason, Snapshot, TreeId};
use e2ek_sidecar::wire::{Blob, ChildEvent, How, Listed, Op, Skipped, ToHub, WireError};

use super::compare::{Compare, Progress};
use super::{Applied, Closing, Effect, Local, Notice, Settings, TargetId, is_race};
use crate::engine::plan::{self, Hold, Mode, Refused};

/// Generations on their way at once.
const MAX_IN_FLIGHT: usize = 64;
/// First wait before a lost link is made again, and before refused paths are tried again; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest wait between two tries to connect.
const CONNECT_RETRY_MAX: Duration = Duration::from_secs(5);
/// Longest wait between two tries of refused paths.
const REFUSED_RETRY_MAX: Duration = Duration::from_secs(60);

/// How a target stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetState {
    /// No session with the hub yet.
    Starting,
    /// Something is on its way, or refused and to be tried again.
    Syncing,
    /// Equal to the source on all managed paths.
    Synced,
    /// Waits for an answer.
    Held,
    /// The link is lost; it is made again.
    Disconnected,
    /// The hub will not open; it is not tried again.
    Refused,
}

/// What `status` tells of a target.
#[derive(Clone, Debug)]
pub struct TargetStatus {
    /// How it stands.
    pub state: TargetState,
    /// The newest generation of which it has everything.
    pub generation: u64,
    /// The tree it acknowledged.
    pub tree: TreeId,
    /// Why it is held.
    pub hold: Option<Hold>,
    /// What it refused.
    pub problems: Vec<Problem>,
    /// Restarts of the command.
    pub restarts: u64,
    /// The last thing known of the command.
    pub child: Option<ChildEvent>,
    /// The newest generation for which the command was restarted or needs no restart.
    pub restarted: u64,
    /// Paths that need a new image.
    pub needs_build: u64,
}

enum Link {
    Down,
    /// Connect was asked for, or Open is unanswered.
    Opening,
    /// The hub holds this tree; what it is becomes known when the source is.
    Told(TreeId),
    Comparing(Compare),
    Ready,
    Refused,
}

/// What the hub says of a generation.
pub(super) struct Report {
    pub(super) generation: u64,
    pub(super) tree: TreeId,
    pub(super) skipped: Vec<Skipped>,
    pub(super) overwritten: Vec<SyncPath>,
    pub(super) micros: u64,
}

struct InFlight {
    generation: u64,
    ops: Arc<[Op]>,
    /// What the hub will hold; the Commit carries it.
    target: TreeId,
    /// `Need` is unanswered: neither data nor Commit was sent.
    asking: bool,
    /// What came of `Need` so far.
    needed: Vec<u32>,
    /// What came of `Applied` so far.
    part: (Vec<Skipped>, Vec<SyncPath>),
    seen: Instant,
    hashed: Instant,
    sent: Instant,
}

/// A restart that waits for quiet.
struct Settling {
    actions: ActionSet,
    generation: u64,
    /// Acts at this time, moved by every change.
    quiet_at: Instant,
    /// At the latest then.
    latest: Instant,
    /// At the latest then although git is busy.
    latest_git: Instant,
}

pub(super) struct Target {
    id: TargetId,
    link: Link,
    /// When to connect; set while the link is down.
    connect_at: Option<Instant>,
    connect_wait: Duration,
    /// What the hub acknowledged.
    acked: Snapshot,
    /// `acked` plus everything on its way.
    sent: Snapshot,
    in_flight: VecDeque<InFlight>,
    /// The hub manages nothing yet and something lies there: ask before sending.
    ask: bool,
    /// Newest generation used on this link.
    last_used: u64,
    /// Newest generation of the source that is fully there.
    reached: u64,
    refused: Refused,
    /// Problems people were told of.
    told: BTreeMap<SyncPath, Reason>,
    retry_at: Option<Instant>,
    retry_wait: Duration,
    hold: Option<Hold>,
    /// The user said yes to the deletes that lead to this tree.
    accepted: Option<TreeId>,
    /// Unmanaged paths are to be listed before this target is current (`mirror`).
    mirror_due: bool,
    mirroring: bool,
    /// First unsent change of the source.
    seen: Option<Instant>,
    settling: Option<Settling>,
    /// Run was sent on this link.
    started: bool,
    restarts: u64,
    restarted: u64,
    needs_build: u64,
    child: Option<ChildEvent>,
    ever_ready: bool,
}

impl Target {
    pub(super) fn new(id: TargetId) -> Self {
        Self {
            id,
            link: Link::Down,
            connect_at: None,
            connect_wait: Duration::ZERO,
            acked: Snapshot::empty(),
            sent: Snapshot::empty(),
            in_flight: VecDeque::new(),
            ask: false,
            last_used: 0,
            reached: 0,
            refused: Refused::new(),
            told: BTreeMap::new(),
            retry_at: None,
            retry_wait: RETRY_FIRST,
            hold: None,
            accepted: None,
            mirror_due: true,
            mirroring: false,
            seen: None,
            settling: None,
            started: false,
            restarts: 0,
            restarted: 0,
            needs_build: 0,
            child: None,
            ever_ready: false,
        }
    }

    pub(super) fn connect(&mut self, effects: &mut Vec<Effect>) {
        self.link = Link::Opening;
        self.connect_at = None;
        effects.push(Effect::Connect(self.id));
    }

    /// What would be sent to reach `local`, once it is known what is there.
    pub(super) fn plan(&self, local: &Snapshot) -> Option<Vec<Op>> {
        let ready = matches!(self.link, Link::Ready);
        ready.then(|| plan::plan(&self.sent, local, &self.refused, self.ask))
    }

    pub(super) fn link_down(&mut self, now: Instant) {
        if matches!(self.link, Link::Refused) {
            return;
        }
        // The first try after a good link is made at once.
        self.connect_at = Some(now + self.connect_wait);
        self.connect_wait = (self.connect_wait * 2).clamp(RETRY_FIRST, CONNECT_RETRY_MAX);
        self.link = Link::Down;
        self.in_flight.clear();
        self.sent = self.acked.clone();
        self.mirroring = false;
        self.mirror_due = true;
        self.started = false;
        self.forget_refused();
    }

    pub(super) fn refused(&mut self) {
        self.link = Link::Refused;
        self.connect_at = None;
    }

    pub(super) fn source_changed(&mut self, seen: Instant) {
        self.seen = Some(self.seen.map_or(seen, |first| first.min(seen)));
        if let Some(settling) = &mut self.settling {
            // A change that turns out to need no restart still means that it is not quiet yet.
            settling.quiet_at = settling.quiet_at.max(seen);
        }
    }

    pub(super) fn accept(&mut self, tree: TreeId) {
        self.accepted = Some(tree);
    }

    pub(super) fn retry(&mut self, effects: &mut Vec<Effect>) {
        self.forget_refused();
        self.mirror_due = true;
        if matches!(self.link, Link::Refused) {
            self.connect(effects);
        }
    }

    fn forget_refused(&mut self) {
        self.refused.clear();
        self.retry_at = None;
    }

    pub(super) fn opened(
        &mut self,
        tree: TreeId,
        generation: u64,
        populated: bool,
    ) -> Result<(), Closing> {
        if !matches!(self.link, Link::Opening) {
            return Err(Closing::Protocol(WireError::Order("opened twice")));
        }
        self.last_used = generation;
        self.connect_wait = Duration::ZERO;
        self.ask = populated;
        self.link = Link::Told(tree);
        Ok(())
    }

    /// Finds out what the hub holds: known here, or asked for where it differs.
    fn compare(&mut self, tree: TreeId, local: &Snapshot, effects: &mut Vec<Effect>) {
        let equal = local.id() == tree;
        effects.push(Effect::Say(Notice::Opened { target: self.id, equal }));
        let empty = Snapshot::empty();
        let known = [&self.acked, local, &empty].into_iter().find(|known| known.id() == tree);
        match known.cloned() {
            Some(same) => self.ready(same),
            None => {
                let known = vec![local.clone(), self.acked.clone()];
                self.link = Link::Comparing(Compare::new(tree, known));
                effects.push(Effect::Send(self.id, ToHub::Describe { paths: Vec::new() }));
            }
        }
    }

    pub(super) fn listing(
        &mut self,
        path: Option<&SyncPath>,
        children: Vec<(Blob, Listed)>,
        last: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Closing> {
        let Link::Comparing(compare) = &mut self.link else {
            return Err(Closing::Protocol(WireError::Order("a listing that was not asked for")));
        };
        let path = path.cloned().unwrap_or_default();
        match compare.listing(&path, children, last).map_err(Closing::Protocol)? {
            Progress::Ask(paths) => {
                effects.push(Effect::Send(self.id, ToHub::Describe { paths }));
            }
            Progress::Waiting => {}
            Progress::Tree(tree) => self.ready(tree),
        }
        Ok(())
    }

    fn ready(&mut self, tree: Snapshot) {
        self.sent = tree.clone();
        self.acked = tree;
        self.link = Link::Ready;
        self.ever_ready = true;
    }

    /// Sends what the target lacks, if it may be sent now.
    pub(super) fn pump(
        &mut self,
        now: Instant,
        local: &Local,
        generation: &mut u64,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        if let Link::Told(tree) = self.link {
            self.compare(tree, &local.tree, effects);
        }
        let blocked = self.in_flight.len() >= MAX_IN_FLIGHT
            || self.in_flight.iter().any(|flight| flight.asking)
            || self.in_flight.is_empty() && self.sent.id() != self.acked.id();
        if !matches!(self.link, Link::Ready) || blocked || settings.dry {
            return;
        }
        let ops = plan::plan(&self.sent, &local.tree, &self.refused, self.ask);
        if ops.is_empty() {
            self.release(effects);
            self.current(*generation, settings, effects);
            return;
        }
        let accepted = self.accepted == Some(local.tree.id());
        match plan::guard(&self.sent, &local.tree, &ops, settings.budget) {
            Some(hold) if !accepted => self.held(hold, effects),
            _ => {
                self.release(effects);
                self.send(now, ops, local, generation, settings, effects);
            }
        }
    }

    fn held(&mut self, hold: Hold, effects: &mut Vec<Effect>) {
        if self.hold.as_ref() != Some(&hold) {
            effects.push(Effect::Say(Notice::Held { target: self.id, hold: hold.clone() }));
            self.hold = Some(hold);
        }
    }

    fn release(&mut self, effects: &mut Vec<Effect>) {
        if self.hold.take().is_some() {
            effects.push(Effect::Say(Notice::Released { target: self.id }));
        }
    }

    fn send(
        &mut self,
        now: Instant,
        ops: Vec<Op>,
        local: &Local,
        generation: &mut u64,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        let changes: Vec<Change> = ops.iter().map(|op| op.change.clone()).collect();
        let Ok(reached) = self.sent.apply_changes(&changes) else {
            // What was refused before makes the rest not fit: compare afresh.
            effects.push(Effect::Close(self.id, Closing::Desync));
            return;
        };
        if *generation <= self.last_used {
            *generation = self.last_used + 1;
        }
        self.last_used = *generation;
        let number = *generation;
        self.settle(now, number, &ops, settings);
        let ops: Arc<[Op]> = ops.into();
        let asking = ops.iter().any(|op| matches!(op.how, How::Ask | How::Copy { .. }));
        let files = ops.iter().filter(|op| is_file(&op.change)).count() as u64;
        effects.push(Effect::Say(Notice::Begin { target: self.id, generation: number, files }));
        effects.push(Effect::SendOps(self.id, number, ops.clone()));
        if !asking {
            effects.push(Effect::SendData {
                target: self.id,
                generation: number,
                ops: ops.clone(),
                indices: with_data(&ops).collect(),
                commit: reached.id(),
            });
        }
        self.in_flight.push_back(InFlight {
            generation: number,
            ops,
            target: reached.id(),
            asking,
            needed: Vec::new(),
            part: Default::default(),
            seen: self.seen.take().unwrap_or(local.seen),
            hashed: local.hashed,
            sent: now,
        });
        self.sent = reached;
    }

    pub(super) fn needs(
        &mut self,
        indices: Vec<u32>,
        last: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Closing> {
        let asking = self.in_flight.back_mut().filter(|flight| flight.asking);
        let Some(flight) = asking else {
            return Err(Closing::Protocol(WireError::Order("need without a question")));
        };
        let asked = |&index: &u32| {
            let how = flight.ops.get(index as usize).map(|op| &op.how);
            matches!(how, Some(How::Ask | How::Copy { .. }))
        };
        if !indices.iter().all(asked) {
            return Err(Closing::Protocol(WireError::Order("need of what has no content")));
        }
        flight.needed.extend(indices);
        if flight.needed.len() > flight.ops.len() {
            return Err(Closing::Protocol(WireError::Order("more needs than ops")));
        }
        if !last {
            return Ok(());
        }
        let mut indices = std::mem::take(&mut flight.needed);
        indices.extend(with_data(&flight.ops));
        indices.sort_unstable();
        indices.dedup();
        flight.asking = false;
        effects.push(Effect::SendData {
            target: self.id,
            generation: flight.generation,
            ops: flight.ops.clone(),
            indices,
            commit: flight.target,
        });
        Ok(())
    }

    pub(super) fn applied_part(
        &mut self,
        skipped: Vec<Skipped>,
        overwritten: Vec<SyncPath>,
    ) -> Result<(), Closing> {
        let flight = self.in_flight.front_mut().filter(|flight| !flight.asking);
        let flight = flight.ok_or(Closing::Protocol(WireError::Order("applied without ops")))?;
        flight.part.0.extend(skipped);
        flight.part.1.extend(overwritten);
        let bound = flight.ops.len();
        if flight.part.0.len() > bound || flight.part.1.len() > bound {
            return Err(Closing::Protocol(WireError::Order("more applied than ops")));
        }
        Ok(())
    }

    pub(super) fn applied(
        &mut self,
        now: Instant,
        mut report: Report,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Closing> {
        let flight = self.in_flight.pop_front();
        let mut flight = flight
            .filter(|flight| flight.generation == report.generation && !flight.asking)
            .ok_or(Closing::Protocol(WireError::Order("applied of another generation")))?;
        report.skipped.append(&mut flight.part.0);
        report.overwritten.append(&mut flight.part.1);
        let skipped: BTreeMap<u32, Option<Reason>> =
            report.skipped.into_iter().map(|skip| (skip.index, skip.reason)).collect();
        let done: Vec<Change> = (0u32..)
            .zip(flight.ops.iter())
            .filter(|(index, _)| !skipped.contains_key(index))
            .map(|(_, op)| op.change.clone())
            .collect();
        let before = std::mem::take(&mut self.acked);
        self.acked = before.apply_changes(&done).unwrap_or(before);
        self.ask = false;
        let problems = self.learn(&flight.ops, &skipped, &done, now, effects);
        if self.acked.id() != report.tree {
            // Something was left out that hangs on something else; ask what is there.
            return Err(Closing::Desync);
        }
        if self.in_flight.is_empty() {
            self.sent = self.acked.clone();
        }
        effects.push(Effect::Say(Notice::Applied {
            target: self.id,
            report: Applied {
                generation: report.generation,
                files: done.iter().filter(|change| is_file(change)).count() as u64,
                bytes: new_bytes(&flight.ops, &skipped),
                skipped: problems,
                overwritten: report.overwritten,
                seen: flight.seen,
                hashed: flight.hashed,
                sent: flight.sent,
                written: Duration::from_micros(report.micros),
                acked: now,
            },
        }));
        Ok(())
    }

    /// Remembers what was refused, tells what is new of it and what is over. Returns how many.
    fn learn(
        &mut self,
        ops: &[Op],
        skipped: &BTreeMap<u32, Option<Reason>>,
        done: &[Change],
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> u64 {
        for change in done {
            self.refused.remove(&change.path);
            if self.told.remove(&change.path).is_some() {
                let path = change.path.clone();
                effects.push(Effect::Say(Notice::ProblemGone { target: self.id, path }));
            }
        }
        let mut count = 0;
        for (&index, reason) in skipped {
            let (Some(op), Some(reason)) = (ops.get(index as usize), reason) else { continue };
            if is_race(reason) {
                continue;
            }
            count += 1;
            let path = op.change.path.clone();
            self.refused.insert(path.clone(), (op.change.new.clone(), reason.clone()));
            if self.told.get(&path) != Some(reason) {
                self.told.insert(path.clone(), reason.clone());
                let problem = Problem { path, reason: reason.clone() };
                effects.push(Effect::Say(Notice::Problem { target: self.id, problem }));
            }
        }
        if count > 0 && self.retry_at.is_none() {
            self.retry_at = Some(now + self.retry_wait);
            self.retry_wait = (self.retry_wait * 2).min(REFUSED_RETRY_MAX);
        } else if self.refused.is_empty() {
            self.retry_wait = RETRY_FIRST;
        }
        count
    }

    /// Nothing is to be sent: the target is current once nothing is on its way either.
    fn current(&mut self, generation: u64, settings: &Settings, effects: &mut Vec<Effect>) {
        if !self.in_flight.is_empty() {
            return;
        }
        if settings.mode == Mode::Mirror && self.mirror_due {
            if !std::mem::replace(&mut self.mirroring, true) {
                effects.push(Effect::Send(self.id, ToHub::ListForeign));
            }
            return;
        }
        self.reached = generation;
        self.seen = None;
        if self.settling.is_none() {
            self.restarted = generation;
        }
        if let Some(command) = &settings.command
            && !std::mem::replace(&mut self.started, true)
        {
            effects.push(Effect::Send(self.id, ToHub::Run(command.clone())));
        }
    }

    pub(super) fn foreign(
        &mut self,
        paths: Vec<(SyncPath, Listed)>,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        if !std::mem::take(&mut self.mirroring) {
            return;
        }
        let files = paths.iter().filter(|(_, l)| !matches!(l, Listed::Directory(_))).count() as u64;
        let managed = self.acked.count() + files;
        let within = settings.budget.is_unlimited() || settings.budget.allows(files, managed);
        if !within && self.accepted != Some(self.acked.id()) {
            self.held(Hold::Budget { deletes: files, managed }, effects);
            return;
        }
        self.mirror_due = false;
        if !paths.is_empty() {
            effects.push(Effect::Send(self.id, ToHub::RemoveForeign { paths }));
        }
    }

    pub(super) fn mirrored(
        &mut self,
        removed: u64,
        problems: Vec<Problem>,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Say(Notice::Mirrored { target: self.id, removed }));
        for problem in problems {
            effects.push(Effect::Say(Notice::Problem { target: self.id, problem }));
        }
    }

    /// Adds what changed paths ask of the command; the wait for quiet begins anew.
    fn settle(&mut self, now: Instant, generation: u64, ops: &[Op], settings: &Settings) {
        let asked: Vec<Action> =
            ops.iter().flat_map(|op| (settings.rules)(&op.change.path)).collect();
        let mut actions: ActionSet = asked.into_iter().collect();
        self.needs_build += u64::from(actions.needs_build);
        if !self.started {
            // The first start, still to come, covers everything.
            actions = ActionSet { needs_build: actions.needs_build, ..ActionSet::default() };
        }
        if actions.is_empty() && self.settling.is_none() {
            return;
        }
        let settling = self.settling.get_or_insert_with(|| Settling {
            actions: ActionSet::default(),
            generation,
            quiet_at: now,
            latest: now + settings.settle_at_most,
            latest_git: now + settings.git_at_most,
        });
        settling.actions.merge(actions);
        settling.generation = generation;
        settling.quiet_at = now + settings.settle;
    }

    pub(super) fn restart_now(&mut self, now: Instant, generation: u64) {
        let actions = ActionSet::from_iter([Action::Restart]);
        self.settling =
            Some(Settling { actions, generation, quiet_at: now, latest: now, latest_git: now });
    }

    pub(super) fn tick(
        &mut self,
        now: Instant,
        git_busy: bool,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        if self.connect_at.is_some_and(|at| at <= now) {
            self.connect(effects);
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.forget_refused();
        }
        self.tick_settling(now, git_busy, settings, effects);
    }

    fn tick_settling(
        &mut self,
        now: Instant,
        git_busy: bool,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        let sent = !self.in_flight.iter().any(|flight| flight.asking);
        let Some(settling) = self.settling.as_mut().filter(|s| s.due() <= now) else { return };
        if git_busy && now < settling.latest_git {
            settling.quiet_at = now + settings.settle;
            settling.latest = settling.quiet_at;
            return;
        }
        // Messages keep their order, so that the hub acts when the files before it are visible.
        if !sent || !matches!(self.link, Link::Ready) {
            settling.quiet_at = now + settings.settle;
            settling.latest = settling.quiet_at;
            return;
        }
        let Some(Settling { actions, generation, .. }) = self.settling.take() else { return };
        self.restarted = generation;
        if self.started && (actions.restart || has_work(&actions)) {
            let message = ToHub::Act { generation, actions: actions.clone() };
            effects.push(Effect::Send(self.id, message));
        }
        effects.push(Effect::Say(Notice::Acted { target: self.id, generation, actions }));
    }

    pub(super) fn child(&mut self, event: &ChildEvent) {
        if let ChildEvent::Restarted { .. } = event {
            self.restarts += 1;
        }
        if !matches!(event, ChildEvent::Ran { .. } | ChildEvent::Signalled { .. }) {
            self.child = Some(event.clone());
        }
    }

    pub(super) fn is_settling(&self) -> bool {
        self.settling.is_some()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let settling = self.settling.as_ref().map(Settling::due);
        [self.connect_at, self.retry_at, settling].into_iter().flatten().min()
    }

    pub(super) fn status(&self, source_gone: bool) -> TargetStatus {
        let hold = if source_gone { Some(Hold::RootGone) } else { self.hold.clone() };
        let state = match self.link {
            Link::Refused => TargetState::Refused,
            Link::Down | Link::Opening | Link::Told(_) if self.ever_ready => {
                TargetState::Disconnected
            }
            Link::Down | Link::Opening | Link::Told(_) | Link::Comparing(_) => {
                TargetState::Starting
            }
            Link::Ready if hold.is_some() => TargetState::Held,
            Link::Ready if self.is_current() => TargetState::Synced,
            Link::Ready => TargetState::Syncing,
        };
        let problems = (self.told.iter())
            .map(|(path, reason)| Problem { path: path.clone(), reason: reason.clone() })
            .collect();
        TargetStatus {
            state,
            generation: self.reached,
            tree: self.acked.id(),
            hold,
            problems,
            restarts: self.restarts,
            child: self.child.clone(),
            restarted: self.restarted,
            needs_build: self.needs_build,
        }
    }

    fn is_current(&self) -> bool {
        self.in_flight.is_empty() && self.seen.is_none() && self.told.is_empty() && self.reached > 0
    }
}

impl Settling {
    fn due(&self) -> Instant {
        self.quiet_at.min(self.latest)
    }
}

fn has_work(actions: &ActionSet) -> bool {
    !actions.commands.is_empty() || !actions.signals.is_empty()
}

fn with_data(ops: &[Op]) -> impl Iterator<Item = u32> {
    (0u32..).zip(ops).filter(|(_, op)| op.how == How::Data).map(|(index, _)| index)
}

fn is_file(change: &Change) -> bool {
    let file =
        |entry: &Option<Entry>| matches!(entry, Some(Entry::File { .. } | Entry::Symlink { .. }));
    file(&change.new) || change.new.is_none() && file(&change.old)
}

fn new_bytes(ops: &[Op], skipped: &BTreeMap<u32, Option<Reason>>) -> u64 {
    (0u32..)
        .zip(ops)
        .filter(|(index, op)| {
            !skipped.contains_key(index) && matches!(op.how, How::Data | How::Ask)
        })
        .map(|(_, op)| match op.change.new {
            Some(Entry::File { size, .. }) => size,
            _ => 0,
        })
        .sum()
}
