//! Measures a save until it is applied at the target, and until it is acknowledged.
//!
//! The floor and the product have trees of their own and take turns in blocks, so that what else the
//! machine does hits all of them. Saves come at a fixed pace, whether or not the one before has
//! arrived. A save begins right before its write(2); it is applied when this process has read the
//! event that the target's file was renamed into place, or closed after writing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::fs::inotify::WatchFlags;

use crate::events::Events;
use crate::figures::{Samples, between, millis, ms, ratio};
use crate::floor::{self, Floor};
use crate::product::Line;
use crate::session::{Link, Session};
use crate::table::Row;
use crate::tree::{Dice, Edit, Tree};
use crate::{Result, Settings, clock, progress};

const GAP: u64 = 20_000_000;
/// A save that takes longer is a failure, not a sample.
const LOST: Duration = Duration::from_secs(10);
/// Saves before the first block, not counted.
pub(crate) const WARM_UP: usize = 10;
/// What the median may take beyond the floor's.
const BEYOND: i64 = 250_000;

/// One way from a source to a target, running.
pub(crate) struct Subject {
    source: Tree,
    arrivals: Events,
    acknowledged: Acknowledged,
    pub(crate) applied: Samples,
    pub(crate) acked: Samples,
}

enum Acknowledged {
    Floor { _pair: Floor, moments: Receiver<u64> },
    Product(Session),
}

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    std::fs::create_dir(settings.place.join("save"))?;
    let mut subjects = vec![Ok(floor_pair(settings)?), ours(settings, Link::Local)];
    if settings.product.sidecar.is_some() {
        subjects.push(ours(settings, Link::Transport));
    }
    let (blocks, edits) = if settings.short { (3, 20) } else { (6, 50) };
    let mut dice = Dice(7);
    let mut number = 0;
    for block in 0..=blocks {
        progress(format_args!("save: block {block} of {blocks}"));
        for entry in &mut subjects {
            let Ok(subject) = entry else { continue };
            // Block 0 is for warming up.
            let count = if block == 0 { WARM_UP } else { edits };
            let done = subject.block(count, &mut dice, &mut number);
            if block == 0 {
                (subject.applied, subject.acked) = Default::default();
            }
            if let Err(error) = done {
                *entry = Err(error);
            }
        }
    }
    let mut subjects = subjects.into_iter();
    let floor = subjects.next().ok_or("the floor is the first")??;
    let mut failures = Vec::new();
    for (name, subject) in ["", ", --transport-cmd"].into_iter().zip(subjects) {
        match subject {
            Ok(subject) => {
                rows.extend(rows_of(settings, name, &floor, Some(&subject)));
                subject.stop()?;
            }
            Err(error) => {
                rows.extend(rows_of(settings, name, &floor, None));
                failures.push(error.to_string());
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ").into()) }
}

fn rows_of(settings: &Settings, name: &str, floor: &Subject, ours: Option<&Subject>) -> Vec<Row> {
    let files = settings.files;
    let count = floor.applied.count();
    let row = |what: &str, percent, from: fn(&Subject) -> &Samples| {
        let least = from(floor).percentile(percent);
        let got = ours.and_then(|ours| from(ours).percentile(percent));
        let row = Row::new(format!("save -> {what}, {files} files, {count} saves{name}"));
        let row = row.floor(ms(least)).ours(ms(got)).ratio(ratio(got, least));
        (row, least.zip(got))
    };
    let (p50, both) = row("applied, p50", 50, |subject| &subject.applied);
    let met = both.map(|(least, got)| got <= least + BEYOND);
    let p50 = p50.reach(format!("<= floor + {} ms", millis(BEYOND)), met);
    let (p99, both) = row("applied, p99", 99, |subject| &subject.applied);
    let p99 = p99.reach("<= 3x the floor", both.map(|(least, got)| got <= 3 * least));
    let (max, _) = row("applied, max", 100, |subject| &subject.applied);
    let (acked, _) = row("acknowledged, p50", 50, |subject| &subject.acked);
    let (acked_late, _) = row("acknowledged, p99", 99, |subject| &subject.acked);
    vec![p50, p99, max, acked, acked_late]
}

fn floor_pair(settings: &Settings) -> Result<Subject> {
    progress("save: trees for the floor");
    let place = settings.place.join("save/floor");
    std::fs::create_dir(&place)?;
    let source = Tree::make(&place.join("source"), settings.files)?;
    let target = Tree::make(&place.join("target"), settings.files)?;
    let (pair, said) = floor::start(&source, &target.root, &place.join("stage"))?;
    let (sender, moments) = channel();
    // Ends with the reader, which is killed when the pair is dropped.
    std::thread::spawn(move || {
        floor::acknowledged(said, |at| {
            let _ = sender.send(at);
        });
    });
    Subject::new(source, &target.root, Acknowledged::Floor { _pair: pair, moments })
}

fn ours(settings: &Settings, link: Link) -> Result<Subject> {
    let place = settings.place.join(format!("save/{link:?}"));
    Subject::product(settings, &place, settings.files, link)
}

impl Subject {
    /// A tree of its own and the product that follows it, with all that belongs to them in `place`.
    pub(crate) fn product(
        settings: &Settings,
        place: &Path,
        files: usize,
        link: Link,
    ) -> Result<Self> {
        progress(format_args!("{files} files: tree and first sync, {link:?}"));
        std::fs::create_dir(place)?;
        let source = Tree::make(&place.join("source"), files)?;
        let target = place.join("target");
        let session = Session::start(settings, place, &source.root, &target, link, files)?;
        Self::new(source, &target, Acknowledged::Product(session))
    }

    fn new(source: Tree, target: &Path, acknowledged: Acknowledged) -> Result<Self> {
        if let Some(path) = source.differs(target) {
            return Err(format!("{} differs after the first sync", path.display()).into());
        }
        let what = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
        let arrivals = Events::watch(&source.at(target), what)?;
        let (applied, acked) = Default::default();
        Ok(Self { source, arrivals, acknowledged, applied, acked })
    }

    /// Saves so many files, no file twice, and adds what they took to the samples.
    pub(crate) fn block(&mut self, edits: usize, dice: &mut Dice, number: &mut u64) -> Result<()> {
        let begin = clock::now() + GAP;
        let mut saved: HashMap<PathBuf, u64> = HashMap::new();
        let mut moments = Vec::new();
        let mut due = begin;
        while moments.len() < edits {
            let path = &self.source.files[dice.below(self.source.files.len())];
            if saved.contains_key(path) {
                continue;
            }
            *number += 1;
            let edit = Edit::prepare(&self.source.root.join(path), *number)?;
            clock::sleep_until(due);
            let moment = edit.save()?;
            saved.insert(path.clone(), moment);
            moments.push(moment);
            due += GAP;
        }
        self.collect_applied(saved)?;
        let acknowledged = self.acknowledged.collect(edits)?;
        let pairs = moments.iter().zip(&acknowledged);
        self.acked.extend(pairs.map(|(&saved, &acked)| between(saved, acked)));
        Ok(())
    }

    fn collect_applied(&mut self, mut saved: HashMap<PathBuf, u64>) -> Result<()> {
        let deadline = clock::now() + u64::try_from(LOST.as_nanos())?;
        while let Some(path) = saved.keys().next() {
            let Some(seen) = self.arrivals.next(deadline) else {
                let (count, path) = (saved.len(), path.display());
                return Err(format!("{count} saves did not arrive, one is {path}").into());
            };
            if let Some(moment) = saved.remove(&seen.path) {
                self.applied.push(between(moment, seen.at));
            }
        }
        Ok(())
    }

    pub(crate) fn stop(self) -> Result<()> {
        match self.acknowledged {
            Acknowledged::Floor { .. } => Ok(()),
            Acknowledged::Product(session) => session.stop(),
        }
    }
}

impl Acknowledged {
    /// The moments at which the next `edits` saves were acknowledged, in the order of the saves.
    fn collect(&mut self, edits: usize) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        while found.len() < edits {
            match self {
                Self::Floor { moments, .. } => found.push(moments.recv_timeout(LOST)?),
                Self::Product(session) => {
                    let ended = |line: &Line| line.value("sync end", "status") == Some("ok");
                    let line = session.daemon.wait_for("a save's acknowledgement", LOST, ended)?;
                    let files = line.value("sync end", "files").ok_or("sync end without files")?;
                    // A generation of several saves acknowledges all of them.
                    found.extend(std::iter::repeat_n(line.at, files.parse()?));
                }
            }
        }
        Ok(found)
    }
}
