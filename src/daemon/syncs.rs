//! Owns which syncs were begun and are not over: one begin and one end for what people see as one.
//!
//! A generation is a sync of all targets that it goes to. A first sync that goes out in several
//! generations is one sync, too, of all targets that are in their first at the time: it ends when
//! each of them has its last generation. A lost link ends nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use super::link::Progress;
use crate::engine::session::{Amount, Applied, TargetId};
use crate::report::{Event, Latencies, Outcome, Phase, Stamps};

/// What was begun and is not over.
#[derive(Default)]
pub(super) struct Syncs {
    open: Vec<Sync>,
    pub(super) latencies: Latencies,
}

struct Sync {
    /// The generation that was said to begin.
    from: u64,
    began: Instant,
    /// A first sync in several generations.
    in_parts: bool,
    /// Those that have not all of it.
    open: BTreeMap<TargetId, Part>,
    acked: u32,
    failed: bool,
    /// The newest end of a target's part.
    last: Option<Ended>,
}

/// One target's part of a sync.
#[derive(Default)]
struct Part {
    /// Its generations that were answered, as one.
    done: Option<Applied>,
    /// What there was to do in them.
    past: Amount,
    /// Those that were not answered.
    sent: BTreeMap<u64, Amount>,
    /// All there is to do, as far as known.
    all: Option<Amount>,
}

/// What is said of a target's part when it is over.
struct Ended {
    generation: u64,
    files: u64,
    bytes: u64,
    took: Duration,
    stamps: Stamps,
}

/// A generation that goes out.
pub(super) struct Begin {
    pub(super) generation: u64,
    pub(super) amount: Amount,
    /// Of the target's first sync on its link.
    pub(super) first: bool,
    /// Of all of a first sync that begins and takes several.
    pub(super) all: Option<Amount>,
}

impl Syncs {
    /// A generation goes out to a target; what to say of it.
    pub(super) fn begin(&mut self, now: Instant, target: TargetId, begin: &Begin) -> Option<Event> {
        let &Begin { generation, amount, first, all } = begin;
        let known = self.taken_part_in(target, generation, first);
        let is_new = known.is_none();
        let sync = match known {
            Some(at) => &mut self.open[at],
            None => self.open.push_mut(Sync::new(generation, now)),
        };
        sync.in_parts |= all.is_some();
        let part = sync.open.entry(target).or_default();
        if let Some(all) = all {
            // What a lost link left unanswered is counted in it.
            part.sent.clear();
            part.all = Some(part.past.and(all));
        }
        part.sent.insert(generation, amount);
        let files = all.unwrap_or(amount).files;
        is_new.then_some(Event::SyncBegin { generation, files })
    }

    /// The sync that a generation is part of.
    fn taken_part_in(&self, target: TargetId, generation: u64, first: bool) -> Option<usize> {
        let in_parts = |sync: &Sync| first && sync.in_parts;
        let own = |sync: &Sync| in_parts(sync) && sync.open.contains_key(&target);
        let same = |sync: &Sync| sync.from == generation && !sync.in_parts;
        let position = |which: &dyn Fn(&Sync) -> bool| self.open.iter().position(which);
        position(&own).or_else(|| position(&in_parts)).or_else(|| position(&same))
    }

    /// A target answered; the end, when that was the last answer.
    pub(super) fn applied(&mut self, target: TargetId, report: &Applied) -> Option<Event> {
        let mine = |sync: &&mut Sync| sync.open.contains_key(&target);
        let mut own = self.open.iter_mut().filter(mine);
        let generation = report.generation;
        let sync = own.find(|sync| sync.open[&target].sent.contains_key(&generation))?;
        let part = sync.open.get_mut(&target)?;
        part.past = part.past.and(part.sent.remove(&generation).unwrap_or_default());
        let done = together(part.done.take(), report);
        if report.more {
            part.done = Some(done);
            return None;
        }
        self.latencies.add(done.acked.saturating_duration_since(done.seen));
        sync.open.remove(&target);
        sync.failed |= done.skipped > 0;
        sync.acked += 1;
        sync.last = Some(Ended::of(&done));
        self.over().pop()
    }

    /// A target has everything although not every answer came.
    pub(super) fn level(&mut self, now: Instant, target: TargetId) -> Vec<Event> {
        for sync in &mut self.open {
            let Some(part) = sync.open.remove(&target) else { continue };
            sync.acked += 1;
            sync.failed |= part.done.as_ref().is_some_and(|done| done.skipped > 0);
            sync.last = Some(part.unanswered(now, sync));
        }
        self.over()
    }

    /// A target less. What waited for nothing but its answer is over.
    pub(super) fn remove(&mut self, target: TargetId) -> Vec<Event> {
        self.open.iter_mut().for_each(|sync| drop(sync.open.remove(&target)));
        self.over()
    }

    /// How far what a target is sent has come, as part of the sync it belongs to.
    pub(super) fn progress(&self, target: TargetId, progress: Progress) -> Event {
        let Progress { generation, files, bytes, ahead, total_files, total_bytes } = progress;
        let (done, total) =
            (Amount { files, bytes }, Amount { files: total_files, bytes: total_bytes });
        let part = self.open.iter().find_map(|sync| {
            let part = sync.open.get(&target)?;
            let is_of = match generation {
                Some(generation) => part.sent.contains_key(&generation),
                // What goes ahead is of what comes in parts.
                None => sync.in_parts,
            };
            is_of.then_some((sync, part))
        });
        let (generation, done, total) = match part {
            Some((sync, part)) if sync.in_parts => {
                let before = part.sent.range(..generation.unwrap_or(u64::MAX));
                let before = before.map(|(_, amount)| *amount);
                let before = before.fold(part.past, Amount::and);
                let (done, total) = match generation {
                    Some(_) => (done, total),
                    None => (Amount { files: 1, bytes: ahead }, Amount { files: 1, bytes: ahead }),
                };
                let (done, total) = (before.and(done), before.and(total));
                let all = part.all.unwrap_or_default();
                let files = all.files.max(total.files);
                (Some(sync.from), done, Amount { files, bytes: all.bytes.max(total.bytes) })
            }
            _ => (generation, done, total),
        };
        Event::Progress {
            generation,
            phase: Phase::Send,
            files: done.files,
            bytes: done.bytes,
            total_files: Some(total.files),
            total_bytes: Some(total.bytes),
        }
    }

    /// The ends of those for which nobody's answer is open; nothing to say where nobody gave one.
    fn over(&mut self) -> Vec<Event> {
        let over = self.open.extract_if(.., |sync| sync.open.is_empty());
        over.filter_map(Sync::end).collect()
    }
}

impl Sync {
    fn new(from: u64, began: Instant) -> Self {
        let open = BTreeMap::new();
        Self { from, began, in_parts: false, open, acked: 0, failed: false, last: None }
    }

    fn end(self) -> Option<Event> {
        let Ended { generation, files, bytes, took, stamps } = self.last?;
        Some(Event::SyncEnd {
            generation,
            status: if self.failed { Outcome::Partial } else { Outcome::Ok },
            files,
            bytes,
            took,
            acked: self.acked,
            targets: self.acked,
            restarting: false,
            stamps,
        })
    }
}

impl Part {
    /// The end of a part of which some answers were lost.
    fn unanswered(self, now: Instant, sync: &Sync) -> Ended {
        let sent = self.sent.values().copied().fold(Amount::default(), Amount::and);
        let newest = self.sent.keys().next_back().copied();
        let done = self.done.as_ref();
        let began = done.map_or(sync.began, |done| done.seen);
        Ended {
            generation: newest.or(done.map(|done| done.generation)).unwrap_or(sync.from),
            files: sent.files + done.map_or(0, |done| done.files),
            bytes: sent.bytes + done.map_or(0, |done| done.bytes),
            took: now.saturating_duration_since(began),
            stamps: Stamps::default(),
        }
    }
}

impl Ended {
    fn of(report: &Applied) -> Self {
        Self {
            generation: report.generation,
            files: report.files,
            bytes: report.bytes,
            took: report.acked.saturating_duration_since(report.seen),
            stamps: stamps(report),
        }
    }
}

/// One report of all generations so far: from when the first was seen to the newest answer.
fn together(before: Option<Applied>, report: &Applied) -> Applied {
    let mut report = report.clone();
    if let Some(before) = before {
        report.files += before.files;
        report.bytes += before.bytes;
        report.skipped += before.skipped;
        report.seen = report.seen.min(before.seen);
    }
    report
}

/// The moment by this machine's clock as it is set now.
fn epoch_us(at: Instant) -> Option<u64> {
    let at = SystemTime::now().checked_sub(at.elapsed())?;
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_micros()).ok()
}

/// When each stage was over, counted from the first event.
pub(super) fn stamps(report: &Applied) -> Stamps {
    let since = |at: Instant| Some(at.saturating_duration_since(report.seen).as_micros() as u64);
    let sent = report.sent.saturating_duration_since(report.seen);
    Stamps {
        seen_epoch_us: epoch_us(report.seen),
        hashed_us: since(report.hashed),
        sent_us: since(report.sent),
        written_us: Some((sent + report.written).as_micros() as u64),
        acked_us: since(report.acked),
        restarted_us: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(files: u64) -> Amount {
        Amount { files, bytes: files * 10 }
    }

    fn begin(generation: u64, files: u64, first: bool, all: Option<u64>) -> Begin {
        Begin { generation, amount: amount(files), first, all: all.map(amount) }
    }

    fn report(at: Instant, generation: u64, files: u64, more: bool) -> Applied {
        Applied {
            generation,
            more,
            files,
            bytes: files * 10,
            skipped: 0,
            overwritten: Vec::new(),
            seen: at,
            hashed: at,
            sent: at + Duration::from_millis(generation),
            written: Duration::from_millis(1),
            acked: at + Duration::from_millis(generation + 2),
        }
    }

    fn begun(event: Option<Event>) -> Option<(u64, u64)> {
        event.map(|event| match event {
            Event::SyncBegin { generation, files } => (generation, files),
            other => panic!("{other:?}"),
        })
    }

    fn ended(event: Event) -> (u64, Outcome, u64, u128, u32) {
        match event {
            Event::SyncEnd { generation, status, files, bytes, took, acked, .. } => {
                assert_eq!(bytes, files * 10);
                (generation, status, files, took.as_millis(), acked)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_first_sync_in_parts_begins_once_and_ends_once() {
        let (at, mut syncs) = (Instant::now(), Syncs::default());
        assert_eq!(begun(syncs.begin(at, 0, &begin(1, 20, true, Some(50)))), Some((1, 50)));
        assert_eq!(begun(syncs.begin(at, 0, &begin(2, 20, true, None))), None);
        // A second target that is new, too, takes part, with its own parts.
        assert_eq!(begun(syncs.begin(at, 1, &begin(2, 20, true, Some(50)))), None);
        assert!(syncs.applied(0, &report(at, 1, 20, true)).is_none());
        assert_eq!(begun(syncs.begin(at, 0, &begin(3, 10, true, None))), None);
        assert!(syncs.applied(0, &Applied { skipped: 1, ..report(at, 2, 19, true) }).is_none());
        assert!(syncs.applied(0, &report(at, 3, 10, false)).is_none(), "the other has not all");
        // Nor does a save that the first target gets meanwhile wait for it.
        assert_eq!(begun(syncs.begin(at, 0, &begin(4, 1, false, None))), Some((4, 1)));
        assert_eq!(
            ended(syncs.applied(0, &report(at, 4, 1, false)).unwrap()),
            (4, Outcome::Ok, 1, 6, 1)
        );
        assert_eq!(begun(syncs.begin(at, 1, &begin(4, 30, true, None))), None);
        assert!(syncs.applied(1, &report(at, 2, 20, true)).is_none());
        let end = syncs.applied(1, &report(at, 4, 30, false)).unwrap();
        assert_eq!(ended(end), (4, Outcome::Partial, 50, 6, 2));
        assert!(syncs.open.is_empty());
    }

    #[test]
    fn a_link_lost_midway_ends_nothing() {
        let (at, mut syncs) = (Instant::now(), Syncs::default());
        syncs.begin(at, 0, &begin(1, 20, true, Some(50)));
        syncs.begin(at, 0, &begin(2, 20, true, None));
        syncs.applied(0, &report(at, 1, 20, true));
        // The next link: what was on its way did not arrive.
        assert_eq!(begun(syncs.begin(at, 0, &begin(3, 20, true, Some(30)))), None);
        let half = Progress {
            generation: Some(3),
            files: 5,
            bytes: 50,
            ahead: 0,
            total_files: 20,
            total_bytes: 9,
        };
        let Event::Progress { generation, files, total_files, total_bytes, .. } =
            syncs.progress(0, half)
        else {
            panic!()
        };
        assert_eq!(
            (generation, files, total_files, total_bytes),
            (Some(1), 25, Some(50), Some(500))
        );
        assert_eq!(begun(syncs.begin(at, 0, &begin(4, 10, true, None))), None);
        assert!(syncs.applied(0, &report(at, 3, 20, true)).is_none());
        assert_eq!(
            ended(syncs.applied(0, &report(at, 4, 10, false)).unwrap()),
            (4, Outcome::Ok, 50, 6, 1)
        );
    }

    #[test]
    fn what_was_applied_and_not_answered_ends_when_the_target_is_level() {
        let (at, mut syncs) = (Instant::now(), Syncs::default());
        syncs.begin(at, 0, &begin(7, 2, false, None));
        let later = at + Duration::from_millis(9);
        let ends: Vec<_> = syncs.level(later, 0).into_iter().map(ended).collect();
        assert_eq!(ends, [(7, Outcome::Ok, 2, 9, 1)]);
        assert!(syncs.level(later, 0).is_empty());
    }

    #[test]
    fn a_save_is_stamped_with_the_time_of_day() {
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros();
        let before = now();
        let seen = stamps(&report(Instant::now(), 1, 1, false)).seen_epoch_us.unwrap();
        assert!((before - 1..=now()).contains(&u128::from(seen)));
        let hour = Duration::from_secs(3600);
        if let Some(earlier) = Instant::now().checked_sub(hour) {
            let then = stamps(&report(earlier, 1, 1, false)).seen_epoch_us.unwrap();
            assert!(u128::from(then) < before);
        }
    }
}
