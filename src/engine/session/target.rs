//! One target's part of a session: its link, what it holds, what is on its way, what it refused.

mod flight;
mod lane;
mod link;
mod pace;
mod plans;
mod pump;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Entry, Problem, Reason, Snapshot, TreeId};
use e2ek_sidecar::wire::{ChildEvent, CommandSpec, Listed, NotHeld, Op};

use self::flight::InFlight;
pub(super) use self::flight::Report;
use self::lane::Lane;
#[cfg(test)]
pub(super) use self::lane::MOST_BEGUN;
use self::pace::Pace;
pub(super) use self::plans::Plans;
use super::command::Command;
use super::compare::Compare;
use super::mirror::Mirror;
use super::{Effect, Notice, Settings, TargetId};
use crate::engine::plan::{self, Given, Hold, Mode, Refused};

/// What is on its way to a hub that answers as soon as one to which nothing is, as [`InFlight::weight`]
/// counts: some saves, which its link takes in ahead of doing them.
const LITTLE_BYTES: u64 = 64 << 10;
/// First wait before a lost link is made again, and before refused paths are tried again; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(100);
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
    /// Which.
    pub id: TargetId,
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

pub(super) struct Target {
    id: TargetId,
    link: Link,
    /// When to connect; set while the link is down.
    connect_at: Option<Instant>,
    connect_wait: Duration,
    /// When the hub opened; unset when that counts for nothing, for it listened to another at once.
    opened_at: Option<Instant>,
    /// Links in a row that ended while the hub owed an answer, and had given none.
    fruitless: u32,
    /// A hub opened once in this run: what the target is called, and our right to it, are in order.
    was_open: bool,
    /// What the hub acknowledged.
    acked: Snapshot,
    /// `acked` plus everything on its way.
    sent: Snapshot,
    /// The hub says it holds this, and it is not `acked`: ask when nothing is on its way.
    unsure: Option<TreeId>,
    in_flight: VecDeque<InFlight>,
    /// Something was skipped: what is on its way leads elsewhere than to `sent`, and so would all that
    /// is made from that.
    astray: bool,
    /// How soon the next generation may go out.
    pace: Pace,
    /// The source has more, which waits for that.
    waits_for_more: bool,
    /// Large contents on their way.
    lane: Lane,
    /// The hub manages nothing yet and something lies there: ask before sending.
    ask: bool,
    /// Links in a row that did not last because the hub listened to another.
    superseded: u32,
    /// Not yet level with the source on this link: much that is new comes in several generations.
    filling: bool,
    /// A first sync in several generations was begun on this link.
    in_parts: bool,
    /// Something was begun whose end was not told.
    begun: bool,
    /// As above, on a link before.
    begun_before: bool,
    /// Newest generation used on this link.
    last_used: u64,
    /// Newest generation of the source that is fully there.
    reached: u64,
    /// Not tried again before `retry_at` or another change of the path.
    refused: Refused,
    /// Lost a race at their last try.
    raced: BTreeSet<SyncPath>,
    /// Problems people were told of, with what was there in place of the source's.
    told: BTreeMap<SyncPath, (Reason, Option<Entry>)>,
    retry_at: Option<Instant>,
    retry_wait: Duration,
    hold: Option<Hold>,
    /// Deletes sent since then; counted anew when the window is over.
    deleted: (Option<Instant>, u64),
    /// The user said yes to the deletes that lead to this tree.
    accepted: Option<TreeId>,
    mirror: Mirror,
    /// First unsent change of the source.
    seen: Option<Instant>,
    command: Command,
    ever_ready: bool,
}

impl Target {
    pub(super) fn new(id: TargetId, command: Option<CommandSpec>) -> Self {
        Self {
            id,
            link: Link::Down,
            connect_at: None,
            connect_wait: Duration::ZERO,
            opened_at: None,
            fruitless: 0,
            was_open: false,
            acked: Snapshot::empty(),
            sent: Snapshot::empty(),
            unsure: None,
            in_flight: VecDeque::new(),
            astray: false,
            pace: Pace::default(),
            waits_for_more: false,
            lane: Lane::default(),
            ask: false,
            superseded: 0,
            filling: false,
            in_parts: false,
            begun: false,
            begun_before: false,
            last_used: 0,
            reached: 0,
            refused: Refused::new(),
            raced: BTreeSet::new(),
            told: BTreeMap::new(),
            retry_at: None,
            retry_wait: RETRY_FIRST,
            hold: None,
            deleted: (None, 0),
            accepted: None,
            mirror: Mirror::default(),
            seen: None,
            command: Command::new(command),
            ever_ready: false,
        }
    }

    /// What would be sent to reach `local`, once it is known what is there.
    pub(super) fn plan(&self, local: &Snapshot, settings: &Settings) -> Option<Vec<Op>> {
        let ready = matches!(self.link, Link::Ready);
        ready.then(|| {
            let (refused, sent) = (&self.refused, &|_: &_| false);
            let given = Given { refused, ask: self.ask, sent, moves: None };
            let mut ops = plan::plan(&self.sent, local, given);
            plan::forget(&mut ops, &settings.ignored);
            ops
        })
    }

    /// The hub has answered all that it was sent, but for a save or a few.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.link, Link::Ready)
            && self.in_flight.iter().map(InFlight::weight).sum::<u64>() <= LITTLE_BYTES
            && self.unsure.is_none()
            && self.lane.is_empty()
    }

    pub(super) fn source_changed(&mut self, now: Instant, seen: Instant, settings: &Settings) {
        self.seen = Some(self.seen.map_or(seen, |first| first.min(seen)));
        // A yes was said to another tree.
        self.accepted = None;
        self.command.source_changed(now, settings);
    }

    pub(super) fn accept(&mut self, tree: TreeId) {
        self.accepted = Some(tree);
        self.deleted = (None, 0);
    }

    pub(super) fn retry(&mut self, effects: &mut Vec<Effect>) {
        self.forget_refused();
        self.mirror.retry();
        if matches!(self.link, Link::Refused) {
            self.connect(effects);
        }
    }

    fn forget_refused(&mut self) {
        self.refused.clear();
        self.raced.clear();
        self.retry_at = None;
    }

    fn retry_later(&mut self, now: Instant) {
        if self.retry_at.is_none() {
            self.retry_at = Some(now + self.retry_wait);
            self.retry_wait = (self.retry_wait * 2).min(REFUSED_RETRY_MAX);
        }
    }

    pub(super) fn foreign(
        &mut self,
        paths: Vec<(SyncPath, Listed)>,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        let (managed, accepted) = (self.acked.count(), self.accepted.is_some());
        self.mirror.listed(self.id, paths, managed, settings.budget, accepted, effects);
    }

    pub(super) fn mirrored(
        &mut self,
        now: Instant,
        removed: u64,
        problems: Vec<Problem>,
        effects: &mut Vec<Effect>,
    ) {
        if !self.mirror.removed(&problems) {
            return;
        }
        if !problems.is_empty() {
            self.retry_later(now);
        }
        effects.push(Effect::Say(Notice::Mirrored { target: self.id, removed }));
        for problem in problems {
            effects.push(Effect::Say(Notice::Problem { target: self.id, problem }));
        }
    }

    pub(super) fn restart_now(&mut self, now: Instant, settings: &Settings) {
        self.command.restart_now(now, self.last_used.max(self.reached), settings);
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
            if !self.mirror.problems.is_empty() {
                self.mirror.retry();
            }
        }
        let (can_send, awaits) = (self.can_act(), self.lane.is_awaited());
        self.command.tick(now, git_busy, (can_send, awaits), self.id, settings, effects);
    }

    pub(super) fn held_ahead(&mut self, number: u64) {
        self.lane.is_held(number);
    }

    pub(super) fn not_held(
        &mut self,
        now: Instant,
        number: u64,
        why: NotHeld,
        effects: &mut Vec<Effect>,
    ) {
        let Some((op, again)) = self.lane.not_held(number, &why) else { return };
        // Whatever is still to be sent of it.
        effects.push(Effect::EndAhead(self.id, number));
        match why {
            _ if again => {}
            NotHeld::Fault(reason) => self.tell(&op, &reason, now, effects),
            // The next look brings another content.
            NotHeld::Ended | NotHeld::Base => self.refuse(&op, Reason::Unstable, now),
        }
    }

    /// Messages keep their order, so that the hub acts when the files before it are visible.
    fn can_act(&self) -> bool {
        matches!(self.link, Link::Ready) && !self.is_asking()
    }

    pub(super) fn child(&mut self, event: &ChildEvent) {
        self.command.child(event);
    }

    pub(super) fn is_settling(&self) -> bool {
        self.command.is_settling()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let command = self.command.deadline(self.can_act(), self.lane.is_awaited());
        let pace = self.pace.next().filter(|_| self.waits_for_more);
        [self.connect_at, self.retry_at, command, pace].into_iter().flatten().min()
    }

    pub(super) fn status(
        &self,
        local: Option<&Snapshot>,
        source_gone: bool,
        settings: &Settings,
    ) -> TargetStatus {
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
            Link::Ready if self.is_current(local, settings) => TargetState::Synced,
            Link::Ready => TargetState::Syncing,
        };
        let problems = (self.told.iter())
            .map(|(path, (reason, _))| Problem { path: path.clone(), reason: reason.clone() })
            .chain(self.mirror.problems.iter().cloned())
            .collect();
        TargetStatus {
            id: self.id,
            state,
            generation: self.reached,
            tree: self.acked.id(),
            hold,
            problems,
            restarts: self.command.restarts,
            child: self.command.child.clone(),
            restarted: self.command.restarted,
            needs_build: self.command.needs_build,
        }
    }

    /// The hub acknowledged just this tree, and nothing is outstanding (I12).
    fn is_current(&self, local: Option<&Snapshot>, settings: &Settings) -> bool {
        let equal = local.is_some_and(|local| local.id() == self.acked.id());
        let mirrored = settings.mode == Mode::Keep || self.mirror.is_done();
        let nothing_open = self.in_flight.is_empty() && self.unsure.is_none();
        equal && mirrored && nothing_open && self.told.is_empty() && self.reached > 0
    }
}
