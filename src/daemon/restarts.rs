//! Owns which restarts are under way, and which save each of them is for.

use std::collections::BTreeMap;
use std::time::Instant;

use super::syncs::stamps;
use crate::engine::session::{Applied, TargetId};
use crate::report::Stamps;

/// The restarts of all targets.
#[derive(Default)]
pub(super) struct Restarts {
    targets: BTreeMap<TargetId, Restart>,
}

#[derive(Default)]
struct Restart {
    /// Of the one that is under way: the generation it is for, and when it was decided.
    begun: Option<(u64, Instant)>,
    /// The newest save that it covers, or that waits for one.
    save: Option<Applied>,
    /// The newest save after those that it covers.
    later: Option<Applied>,
}

impl Restarts {
    /// A save, or several as one, is visible at a target.
    pub(super) fn applied(&mut self, target: TargetId, report: &Applied) {
        let restart = self.targets.entry(target).or_default();
        let covered = restart.begun.is_none_or(|(generation, _)| report.generation <= generation);
        let newest = if covered { &mut restart.save } else { &mut restart.later };
        // People who wait for the restart do not need the paths.
        *newest = Some(Applied { overwritten: Vec::new(), ..report.clone() });
    }

    /// A restart is decided; `saves` ask for it, not a person.
    pub(super) fn begin(&mut self, now: Instant, target: TargetId, generation: u64, saves: bool) {
        let restart = self.targets.entry(target).or_default();
        if let Some(later) = restart.later.take() {
            restart.save = Some(later);
        }
        if !saves {
            restart.save = None;
        }
        restart.begun = Some((generation, now));
    }

    /// What is under way at a target: for which generation, and since when.
    pub(super) fn under_way(&self, target: TargetId) -> Option<(u64, Instant)> {
        self.targets.get(&target)?.begun
    }

    /// It is over, and well. Returns when each stage of its newest save was over; nothing where no
    /// save asked for it.
    pub(super) fn end(&mut self, now: Instant, target: TargetId) -> Stamps {
        let Some(restart) = self.targets.get_mut(&target) else { return Stamps::default() };
        restart.begun = None;
        let Some(save) = std::mem::replace(&mut restart.save, restart.later.take()) else {
            return Stamps::default();
        };
        let since = now.saturating_duration_since(save.seen);
        Stamps { restarted_us: Some(since.as_micros() as u64), ..stamps(&save) }
    }

    /// It did not come to its end.
    pub(super) fn failed(&mut self, target: TargetId) {
        if let Some(restart) = self.targets.get_mut(&target) {
            restart.begun = None;
        }
    }

    /// A target less.
    pub(super) fn remove(&mut self, target: TargetId) {
        self.targets.remove(&target);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn save(seen: Instant, generation: u64) -> Applied {
        let after = |ms| seen + Duration::from_millis(ms);
        Applied {
            generation,
            more: false,
            files: 1,
            bytes: 1,
            skipped: 0,
            overwritten: Vec::new(),
            seen,
            hashed: after(1),
            sent: after(2),
            written: Duration::from_millis(1),
            acked: after(4),
        }
    }

    #[test]
    fn a_restart_has_the_stamps_of_the_newest_save_that_it_is_for() {
        let (start, mut restarts) = (Instant::now(), Restarts::default());
        let at = |ms| start + Duration::from_millis(ms);
        restarts.applied(0, &save(at(0), 1));
        // Decided while the answer to what it is for is still out.
        restarts.begin(at(60), 0, 2, true);
        restarts.applied(0, &save(at(50), 2));
        restarts.applied(0, &save(at(100), 3));
        assert_eq!(restarts.under_way(0), Some((2, at(60))));
        let stamps = restarts.end(at(250), 0);
        assert_eq!((stamps.sent_us, stamps.written_us), (Some(2000), Some(3000)));
        assert_eq!((stamps.acked_us, stamps.restarted_us), (Some(4000), Some(200_000)));
        assert_eq!(restarts.under_way(0), None);
        restarts.begin(at(300), 0, 3, true);
        assert_eq!(restarts.end(at(400), 0).restarted_us, Some(300_000));
        // Asked for by a person: no save is.
        restarts.applied(0, &save(at(500), 4));
        restarts.begin(at(9000), 0, 4, false);
        assert_eq!(restarts.end(at(9100), 0), Stamps::default());
    }
}
