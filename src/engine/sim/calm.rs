//! The calm after the faults: what must become equal, and when.

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Entry, Reason};

use super::World;
use super::disk::{is_dir, upwards};
use crate::engine::session::{TargetId, TargetState};

/// Everything must be equal so long after the last fault, in microseconds.
const CONVERGED: u64 = 150_000_000;
/// So long a hold is not answered in the calm, where the run is patient.
const PATIENCE: u64 = 30_000_000;
/// How often somebody looks whether there is something to answer or to put right.
const ATTENDED: u64 = 3_000_000;

impl World {
    /// No more faults and edits: both sides must become equal, and then be silent.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        self.note(format_args!("! calm"));
        (0..self.options.targets).for_each(|target| self.calm_hub(target));
        self.touched();
        let mut moved = self.clock.now;
        let (began, until) = (self.clock.now, self.clock.now + CONVERGED);
        let mut answered = began;
        while self.clock.now < until && !self.is_over() {
            let now = self.clock.now;
            let held = self.session.status().iter().any(|t| t.state == TargetState::Held);
            let patient = self.options.patient && now < began + PATIENCE;
            let asks = self.session.is_paused() || held && !patient;
            if asks && now > answered + ATTENDED {
                if held && self.options.patient {
                    self.trace.count("a hold outlasted");
                }
                answered = now;
                self.resume();
            }
            if now > moved + ATTENDED {
                moved = now;
                (0..self.options.targets).for_each(|target| self.person_makes_room(target));
            }
            self.step();
        }
        assert!(self.is_over(), "i3: not converged: {:?}", self.session.status());
        self.check_end();
    }

    /// The next open finds what others changed; what they put in the way of the source's files is a
    /// person's to move.
    fn calm_hub(&mut self, target: TargetId) {
        // A link that is as good as any must do where there is nothing to be found.
        // A generation that is open may have made what others took away since.
        let hub = &self.hubs[target];
        let open = !hub.receiver.ops().is_empty();
        let found_anew = self.options.mirror || open || !hub.is_true();
        if found_anew || self.rng.one_in(2) {
            self.cut(target);
            self.hub_lets_go(target);
            self.hubs[target].unlink();
            self.hubs[target].check = true;
        }
        let source = self.source.wanted();
        let hub = &mut self.hubs[target];
        hub.fuse = None;
        hub.record.full = false;
        hub.broken.clear();
        let in_the_way = |p: &SyncPath| {
            upwards(p).any(|up| source.get(&up).is_some_and(|entry| !is_dir(Some(entry))))
        };
        let theirs = |p: &SyncPath, entry: &Entry| {
            !hub.ours.contains(p) && hub.receiver.held().entry(p).as_ref() != Some(entry)
        };
        let others: Vec<SyncPath> = (hub.disk.iter())
            .filter(|(p, entry)| theirs(p, entry) && in_the_way(p))
            .map(|(p, _)| p.clone())
            .collect();
        hub.disk.retain(|p, _| !others.iter().any(|other| p.starts_with(other)));
        hub.ours.retain(|p| hub.disk.contains_key(p));
        hub.drift.extend(others);
    }

    /// Moves what is in the way and not ours: what others made, and what is ignored by now.
    fn person_makes_room(&mut self, target: TargetId) {
        let problems = std::mem::take(&mut self.session.status()[target].problems);
        let hub = &mut self.hubs[target];
        for problem in problems.into_iter().filter(|p| p.reason == Reason::NotEmpty) {
            let (held, ours) = (hub.receiver.held(), &hub.ours);
            let managed = |p: &SyncPath| held.get(p).is_some() || ours.contains(p);
            hub.disk.retain(|p, _| !p.starts_with(&problem.path) || managed(p));
        }
    }

    fn is_over(&self) -> bool {
        // What waits while it is paused has no deadline.
        self.clock.is_empty()
            && !self.session.is_paused()
            && self.session.deadline().is_none()
            && self.session.status().iter().all(|t| t.state == TargetState::Synced)
    }
}
