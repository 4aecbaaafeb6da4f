//! Paths of the source that cannot be read: what people were told of them, and when they are tried again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Problem, Reason};

use crate::engine::debounce::Hints;

/// How soon, at first and at last, it is tried again to read what failed for a reason whose end no
/// event tells: no descriptor was left, the disk did not answer.
pub(super) const FAULTY_AGAIN: [Duration; 2] =
    [Duration::from_millis(250), Duration::from_secs(60)];

/// All of them. See the module.
pub(super) struct Problems {
    /// With the reasons people were told.
    known: BTreeMap<SyncPath, Reason>,
    news: Vec<(SyncPath, Option<Reason>)>,
    /// When and how long after the last try those of no lasting kind are looked at again.
    again: Option<Instant>,
    wait: Duration,
}

impl Problems {
    pub(super) fn new() -> Self {
        let (known, news) = (BTreeMap::new(), Vec::new());
        Self { known, news, again: None, wait: FAULTY_AGAIN[0] }
    }

    pub(super) fn known(&self) -> &BTreeMap<SyncPath, Reason> {
        &self.known
    }

    /// What is new or (`None`) over since the last call.
    pub(super) fn take_news(&mut self) -> Vec<(SyncPath, Option<Reason>)> {
        std::mem::take(&mut self.news)
    }

    /// When [`Self::take_due`] gives some.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// Those that are to be looked at again now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<SyncPath> {
        if self.again.take_if(|at| *at <= now).is_none() {
            return Vec::new();
        }
        self.faulty().cloned().collect()
    }

    /// A look has ended: decides when it is tried again.
    pub(super) fn settle(&mut self) {
        if self.faulty().next().is_none() {
            (self.again, self.wait) = (None, FAULTY_AGAIN[0]);
        } else if self.again.is_none() {
            self.again = Some(Instant::now() + self.wait);
            self.wait = (self.wait * 2).min(FAULTY_AGAIN[1]);
        }
    }

    /// Takes in what a look in the pair `name` found. What was looked at again and had no problem this
    /// time has none any more: those are given.
    pub(super) fn looked(
        &mut self,
        name: &SyncPath,
        hints: &Hints,
        found: Vec<Problem>,
    ) -> Vec<SyncPath> {
        let looked_at = |path: &SyncPath| {
            hints.paths().keys().chain(hints.subtrees().keys()).any(|at| path.starts_with(at))
        };
        let is_over = |full: &SyncPath| {
            full.strip_prefix(name).is_some_and(|below| {
                looked_at(&below) && !found.iter().any(|problem| problem.path == below)
            })
        };
        let over: Vec<SyncPath> = self.known.keys().filter(|full| is_over(full)).cloned().collect();
        for path in &over {
            self.known.remove(path);
            self.news.push((path.clone(), None));
        }
        for Problem { path, reason } in found {
            let Ok(full) = name.append(&path) else { continue };
            if self.known.get(&full) != Some(&reason) {
                self.known.insert(full.clone(), reason.clone());
                self.news.push((full, Some(reason)));
            }
        }
        over
    }

    /// Those that may pass without an event of the path.
    fn faulty(&self) -> impl Iterator<Item = &SyncPath> {
        let passes = |reason: &Reason| {
            use Reason::{Busy, Denied, Io, NoSpace, ReadOnly};
            matches!(reason, Io(_) | Denied | Busy | NoSpace | ReadOnly)
        };
        self.known.iter().filter(move |(_, reason)| passes(reason)).map(|(path, _)| path)
    }
}
