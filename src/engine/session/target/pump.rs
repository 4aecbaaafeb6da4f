//! What a target is given now: planned, held back, or nothing.

use std::time::Instant;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::Snapshot;
use e2ek_sidecar::wire::Op;

use super::super::{Effect, Local, Notice, Settings};
use super::lane::Lane;
use super::plans::{Planned, Plans};
use super::{Link, RETRY_FIRST, Target};
use crate::engine::plan::{self, Given, Hold, Mode};

/// Generations on their way at once: what comes meanwhile becomes one. Saves one after the other are
/// not held up by a round trip of 50 ms.
const MAX_IN_FLIGHT: usize = 8;
/// The same as long as a first sync comes in pieces: one is applied while the next is on its way.
const FILLING: usize = 2;

impl Target {
    /// Sends what the target lacks, if it may be sent now.
    pub(in crate::engine::session) fn pump(
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

    pub(super) fn is_asking(&self) -> bool {
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

    /// Deletes sent a short while ago. What is held stays held until somebody answers, or the files
    /// come back: time alone answers nothing.
    fn recent_deletes(&self, now: Instant) -> u64 {
        let (since, count) = self.deleted;
        let recent = since.is_some_and(|since| now < since + plan::DELETE_WINDOW);
        if recent || self.hold.is_some() { count } else { 0 }
    }

    pub(super) fn count_deletes(&mut self, now: Instant, ops: &[Op], local: &Local) {
        let recent = self.recent_deletes(now);
        let deletes = plan::losses(&local.tree, ops, recent);
        if deletes > 0 && self.accepted != Some(local.tree.id()) {
            let since = self.deleted.0.filter(|_| recent > 0).unwrap_or(now);
            self.deleted = (Some(since), recent + deletes);
        }
    }
}
