//! One target's part of a session: its link, what it holds, what is on its way, what it refused.

mod flight;
mod lane;
mod pace;
mod plans;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Entry, Problem, Reason, Snapshot, TreeId};
use e2ek_sidecar::wire::{
    Blob, ChildEvent, CommandSpec, Listed, NotHeld, Op, ToHub, WireError, batches,
};

use self::flight::InFlight;
pub(super) use self::flight::Report;
use self::lane::Lane;
#[cfg(test)]
pub(super) use self::lane::MOST_BEGUN;
use self::pace::Pace;
use self::plans::Planned;
pub(super) use self::plans::Plans;
use super::command::Command;
use super::compare::{Compare, Progress};
use super::mirror::Mirror;
use super::{Closing, Effect, Local, Notice, Settings, TargetId};
use crate::engine::plan::{self, Given, Hold, Mode, Refused};

/// Generations on their way at once: what comes meanwhile becomes one. Saves one after the other are
/// not held up by a round trip of 50 ms.
const MAX_IN_FLIGHT: usize = 8;
/// The same as long as a first sync comes in pieces: one is applied while the next is on its way.
const FILLING: usize = 2;
/// First wait before a lost link is made again, and before refused paths are tried again; doubles.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest wait between two tries to connect.
const CONNECT_RETRY_MAX: Duration = Duration::from_secs(5);
/// Links that a hub opened are made again at once, though not more often than this when they end as
/// soon as they open.
const REOPEN_EVERY: Duration = Duration::from_millis(50);
/// So many links in a row may end over a generation that was never answered before they are made again
/// ever later: a hub that dies of what it is sent is not kept busy with it.
const FRUITLESS_MAX: u32 = 10;
/// A link that lasted so long was good.
const LASTED: Duration = Duration::from_secs(5);
/// So often in a row a link may be superseded by one of the same writer. A link of ours that was given
/// up and comes late does it once; who goes on is another daemon, and of two the newer one stays, as
/// it was superseded once less.
const SUPERSEDED_MAX: u32 = 5;
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

    pub(super) fn connect(&mut self, effects: &mut Vec<Effect>) {
        self.link = Link::Opening;
        self.connect_at = None;
        effects.push(Effect::Connect(self.id));
    }

    /// The way to the hub may be another by now: what waits is tried at once, and so is the next try if
    /// the one under way fails.
    pub(super) fn reconnect(&mut self, effects: &mut Vec<Effect>) {
        self.connect_wait = Duration::ZERO;
        if self.connect_at.is_some() {
            self.connect(effects);
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

    pub(super) fn link_down(&mut self, now: Instant, settings: &Settings) {
        if matches!(self.link, Link::Refused) {
            return;
        }
        self.fruitless = if self.in_flight.is_empty() { 0 } else { self.fruitless + 1 };
        // After a link that the hub opened the first try is made at once; those that never get that far
        // are made ever later.
        if let Some(opened) = self.opened_at.take()
            && (self.fruitless <= FRUITLESS_MAX || opened + LASTED <= now)
        {
            let young = opened + REOPEN_EVERY > now;
            let most = if young { REOPEN_EVERY } else { Duration::ZERO };
            self.connect_wait = self.connect_wait.min(most);
        }
        self.connect_at = Some(now + self.connect_wait);
        self.connect_wait = (self.connect_wait * 2).clamp(RETRY_FIRST, CONNECT_RETRY_MAX);
        self.link = Link::Down;
        self.in_flight.clear();
        (self.astray, self.waits_for_more) = (false, false);
        self.lane.link_down();
        self.begun_before |= std::mem::take(&mut self.begun);
        self.sent = self.acked.clone();
        self.unsure = None;
        self.mirror.link_down();
        self.command.link_down(now, settings);
        self.forget_refused();
    }

    /// We end the link; until the daemon says that it is down nothing more is said on it.
    pub(super) fn close(&mut self, why: Closing, effects: &mut Vec<Effect>) {
        if !matches!(self.link, Link::Down | Link::Refused) {
            self.link = Link::Down;
            effects.push(Effect::Close(self.id, why));
        }
    }

    /// The hub listens to another link of this writer. Whether to try again.
    pub(super) fn superseded(&mut self, now: Instant) -> bool {
        if self.opened_at.is_some_and(|at| at + LASTED <= now) {
            self.superseded = 0;
        } else {
            self.opened_at = None;
        }
        self.superseded += 1;
        self.superseded <= SUPERSEDED_MAX
    }

    pub(super) fn was_open(&self) -> bool {
        self.was_open
    }

    /// The hub has answered all that it was sent.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.link, Link::Ready)
            && self.in_flight.is_empty()
            && self.unsure.is_none()
            && self.lane.is_empty()
    }

    pub(super) fn refused(&mut self) {
        self.link = Link::Refused;
        self.connect_at = None;
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

    /// Deletes sent a short while ago. What is held stays held until somebody answers, or the files
    /// come back: time alone answers nothing.
    fn recent_deletes(&self, now: Instant) -> u64 {
        let (since, count) = self.deleted;
        let recent = since.is_some_and(|since| now < since + plan::DELETE_WINDOW);
        if recent || self.hold.is_some() { count } else { 0 }
    }

    fn count_deletes(&mut self, now: Instant, ops: &[Op], local: &Local) {
        let recent = self.recent_deletes(now);
        let deletes = plan::losses(&local.tree, ops, recent);
        if deletes > 0 && self.accepted != Some(local.tree.id()) {
            let since = self.deleted.0.filter(|_| recent > 0).unwrap_or(now);
            self.deleted = (Some(since), recent + deletes);
        }
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

    pub(super) fn opened(
        &mut self,
        now: Instant,
        tree: TreeId,
        generation: u64,
        populated: bool,
    ) -> Result<(), Closing> {
        if !matches!(self.link, Link::Opening) {
            return Err(Closing::Protocol(WireError::Order("opened twice")));
        }
        self.last_used = generation;
        self.opened_at = Some(now);
        self.was_open = true;
        self.ask = populated;
        self.link = Link::Told(tree);
        Ok(())
    }

    /// Finds out what the hub holds: known here, or asked for where it differs.
    fn compare(&mut self, tree: TreeId, local: &Snapshot, effects: &mut Vec<Effect>) {
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
            Progress::Ask(paths) => effects.extend(
                batches(paths).map(|paths| Effect::Send(self.id, ToHub::Describe { paths })),
            ),
            Progress::Waiting => {}
            Progress::Tree(tree) => self.ready(tree),
        }
        Ok(())
    }

    fn ready(&mut self, tree: Snapshot) {
        self.sent = tree.clone();
        self.acked = tree;
        self.unsure = None;
        self.filling = true;
        self.in_parts = false;
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
        plans: &mut Plans,
        effects: &mut Vec<Effect>,
    ) {
        if let Link::Told(tree) = self.link {
            let equal = local.tree.id() == tree;
            effects.push(Effect::Say(Notice::Opened { target: self.id, equal }));
            self.compare(tree, &local.tree, effects);
        }
        self.waits_for_more = false;
        if !matches!(self.link, Link::Ready) || self.is_blocked(settings) {
            return;
        }
        let early = !self.filling && self.pace.next().is_some_and(|next| now < next);
        if early && self.sent.id() != local.tree.id() {
            self.waits_for_more = true;
            return;
        }
        if let Some(tree) = self.unsure {
            self.compare(tree, &local.tree, effects);
            if !matches!(self.link, Link::Ready) {
                return;
            }
        }
        self.forget_settled(now, &local.tree, settings, effects);
        let accepted = self.accepted == Some(local.tree.id());
        if !self.has_only_large(local) {
            let planned = self.planned_alike(&local.tree, settings, plans);
            let planned = planned.unwrap_or_else(|| self.planned(&local.tree, settings, false));
            let trees = (&local.tree, &self.sent);
            self.lane.end_stale(self.id, trees, settings.ahead_from, effects);
            if planned.ops.is_empty() && self.lane.left_out() == 0 {
                return self.nothing_to_send(*generation, accepted, settings, effects);
            }
            let only = planned.ops.is_empty();
            if !self.pass(now, planned, accepted, local, generation, settings, effects) {
                return;
            }
            if only {
                self.lane.set_only(&self.sent, &local.tree);
            }
        } else {
            self.begin_large(local, settings, effects);
        }
        // Remembered with what is on its way: a later save is not as old as that.
        self.seen = None;
        if self.lane.holds() && matches!(self.link, Link::Ready) && !self.is_blocked(settings) {
            self.put_held(now, accepted, local, generation, settings, effects);
        }
    }

    fn begin_large(&mut self, local: &Local, settings: &Settings, effects: &mut Vec<Effect>) {
        let now = (&self.sent, self.seen.unwrap_or(local.seen));
        self.lane.begin(self.id, now, settings, effects);
    }

    /// Whether large files are all that the target lacks, and nothing else has to be thought of.
    fn has_only_large(&self, local: &Local) -> bool {
        self.refused.is_empty()
            && self.told.is_empty()
            && self.lane.is_only(&self.sent, &local.tree)
    }

    /// Puts in place what is held by now.
    fn put_held(
        &mut self,
        now: Instant,
        accepted: bool,
        local: &Local,
        generation: &mut u64,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        let only = self.has_only_large(local);
        let ops = if only { self.lane.put_only() } else { None };
        let planned = match ops {
            Some(ops) => Planned { ops: ops.into(), less: true, put: true, ..Planned::default() },
            None => self.planned(&local.tree, settings, true),
        };
        self.pass(now, planned, accepted, local, generation, settings, effects);
        if only && matches!(self.link, Link::Ready) {
            self.lane.set_only(&self.sent, &local.tree);
        }
    }

    /// What is to be sent where nothing matters but what the target holds: the same as to every other
    /// that holds it. `None` where more than that matters.
    fn planned_alike(
        &mut self,
        local: &Snapshot,
        settings: &Settings,
        plans: &mut Plans,
    ) -> Option<Planned> {
        let alone = self.refused.is_empty() && self.told.is_empty() && self.lane.is_idle();
        if !alone || self.ask || self.filling {
            return None;
        }
        let plan = || {
            let (mut ops, _) = self.plan_all(local, settings, true);
            if Lane::would_take(&ops, settings.ahead_from) {
                return None;
            }
            let forgotten = plan::forget(&mut ops, &settings.ignored);
            Some(Planned { ops: ops.into(), forgotten, ..Planned::default() })
        };
        plans.of(self.sent.id(), plan)
    }

    /// What is to be sent: what needs no large content, or (`put`) also what is held by now.
    fn planned(&mut self, local: &Snapshot, settings: &Settings, put: bool) -> Planned {
        // Whatever hangs on single entries needs an op for each.
        let alone = self.refused.is_empty() && self.told.is_empty() && self.lane.is_idle();
        let (mut ops, part) = match self.plan_all(local, settings, alone) {
            (ops, _) if plan::has_moves(&ops) && Lane::would_take(&ops, settings.ahead_from) => {
                self.plan_all(local, settings, false)
            }
            planned => planned,
        };
        let forgotten = plan::forget(&mut ops, &settings.ignored);
        let less = match put {
            true => self.lane.put(&mut ops, settings.ahead_from),
            false => self.lane.leave_out(&mut ops, settings.ahead_from),
        };
        Planned { ops: ops.into(), part, forgotten, less, put }
    }

    /// The ops that lead to the source, with `moves` of directories as one; of a first sync as many
    /// as one generation takes.
    fn plan_all(
        &self,
        local: &Snapshot,
        settings: &Settings,
        moves: bool,
    ) -> (Vec<Op>, Option<Snapshot>) {
        let sent = |content: &_| self.lane.sends(content);
        let stays = |path: &SyncPath| (settings.ignored)(path, true);
        let moves: Option<&dyn Fn(&SyncPath) -> bool> = if moves { Some(&stays) } else { None };
        let given = Given { refused: &self.refused, ask: self.ask, sent: &sent, moves };
        match self.filling {
            true => plan::first(&self.sent, local, given, self.lane.left_out()),
            false => (plan::plan(&self.sent, local, given), None),
        }
    }

    /// Sends what was planned, if nobody is to be asked first. Returns whether.
    #[allow(clippy::too_many_arguments)]
    fn pass(
        &mut self,
        now: Instant,
        planned: Planned,
        accepted: bool,
        local: &Local,
        generation: &mut u64,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Planned { ops, forgotten, .. } = &planned;
        let recent = self.recent_deletes(now);
        match plan::guard(&self.sent, &local.tree, ops, settings.budget, recent) {
            Some(hold) if !accepted => {
                self.held(hold, effects);
                return false;
            }
            _ => self.release(effects),
        }
        if *forgotten > 0 {
            let notice = Notice::Forgotten { target: self.id, count: *forgotten };
            effects.push(Effect::Say(notice));
        }
        if !planned.put {
            self.begin_large(local, settings, effects);
        }
        if !planned.ops.is_empty() {
            self.send(now, planned, local, generation, settings, effects);
        }
        true
    }

    /// Whether nothing may be sent before something is answered.
    fn is_blocked(&self, settings: &Settings) -> bool {
        settings.dry
            || self.in_flight.len() >= if self.filling { FILLING } else { MAX_IN_FLIGHT }
            || self.is_asking()
            || (self.unsure.is_some() || self.astray) && !self.in_flight.is_empty()
    }

    fn is_asking(&self) -> bool {
        self.in_flight.back().is_some_and(|flight| flight.asking)
    }

    /// Problems of paths that need nothing any more are over: the source went back, the path is gone
    /// from it, or a retry succeeded whose answer was lost with its link.
    fn forget_settled(
        &mut self,
        now: Instant,
        local: &Snapshot,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        if !self.in_flight.is_empty() || self.told.is_empty() && self.refused.is_empty() {
            return;
        }
        let acked = &self.acked;
        let differs = |path: &SyncPath| acked.entry(path) != local.entry(path);
        self.refused.retain(|path, _| differs(path));
        let over = self.told.extract_if(.., |path, _| !differs(path));
        let mut healed = Vec::new();
        for (path, (_, before)) in over {
            if acked.entry(&path) != before {
                healed.push(path.clone());
            }
            effects.push(Effect::Say(Notice::ProblemGone { target: self.id, path }));
        }
        // The wishes of what is told do not count before it is there.
        if !healed.is_empty() {
            self.command.settle(now, self.last_used, healed.iter(), settings);
        }
        if self.refused.is_empty() && self.told.is_empty() {
            self.retry_at = None;
            self.retry_wait = RETRY_FIRST;
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

    fn retry_later(&mut self, now: Instant) {
        if self.retry_at.is_none() {
            self.retry_at = Some(now + self.retry_wait);
            self.retry_wait = (self.retry_wait * 2).min(REFUSED_RETRY_MAX);
        }
    }

    /// Nothing is to be sent: the target is current once nothing is on its way either.
    fn nothing_to_send(
        &mut self,
        generation: u64,
        accepted: bool,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        self.filling = false;
        self.lane.in_parts = false;
        // What was withdrawn is on its way again soon: nobody was told of a problem.
        let withdrawn = self.refused.keys().any(|path| !self.told.contains_key(path));
        if !self.in_flight.is_empty() || withdrawn {
            return;
        }
        if settings.mode == Mode::Mirror {
            match self.mirror.advance(self.id, accepted, effects) {
                Ok(true) => {}
                Ok(false) => return,
                Err(hold) => return self.held(hold, effects),
            }
        }
        self.release(effects);
        if std::mem::take(&mut self.begun) | std::mem::take(&mut self.begun_before) {
            effects.push(Effect::Say(Notice::Level { target: self.id }));
        }
        self.reached = generation;
        self.seen = None;
        if self.refused.is_empty() {
            // The answer is used up: the same tree may come again for another reason.
            self.accepted = None;
        }
        self.command.current(self.id, generation, effects);
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
