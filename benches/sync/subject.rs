//! Owns one way of a save from a source to a target: it saves in blocks, and takes the samples.
//!
//! Saves come at a fixed pace, whether or not the one before has arrived. A save begins right before
//! its write(2); it is applied when this process has read the event that the target's file was renamed
//! into place, or closed after writing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::fs::inotify::WatchFlags;

use crate::events::Events;
use crate::figures::{Samples, between};
use crate::floor::{self, Floor};
use crate::product::{Daemon, Line};
use crate::tree::{Dice, Edit, Tree};
use crate::{Result, clock};

/// From one save to the next.
pub(crate) const GAP: u64 = 20_000_000;
/// A save that takes longer is a failure, not a sample.
pub(crate) const LOST: Duration = Duration::from_secs(10);
/// Saves before the first block, not counted.
pub(crate) const WARM_UP: usize = 10;

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
    Product(Daemon),
}

impl Subject {
    /// The floor, with trees of its own in `place`.
    pub(crate) fn floor(place: &Path, files: usize) -> Result<Self> {
        std::fs::create_dir(place)?;
        let source = Tree::make(&place.join("source"), files)?;
        let target = Tree::make(&place.join("target"), files)?;
        let (pair, said) = floor::start(&source, &target.root, &place.join("stage"))?;
        let (sender, moments) = channel();
        // Ends with the reader, which is killed when the pair is dropped.
        std::thread::spawn(move || {
            floor::acknowledged(said, |at| {
                let _ = sender.send(at);
            });
        });
        Self::new(source, &target.root, Acknowledged::Floor { _pair: pair, moments })
    }

    /// The product, whose first sync of this tree is done.
    pub(crate) fn product(source: Tree, target: &Path, daemon: Daemon) -> Result<Self> {
        Self::new(source, target, Acknowledged::Product(daemon))
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
            Acknowledged::Product(daemon) => daemon.stop(),
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
                Self::Product(daemon) => {
                    let ended = |line: &Line| line.value("sync end", "status") == Some("ok");
                    let line = daemon.wait_for("a save's acknowledgement", LOST, ended)?;
                    let files = line.value("sync end", "files").ok_or("sync end without files")?;
                    // A generation of several saves acknowledges all of them.
                    found.extend(std::iter::repeat_n(line.at, files.parse()?));
                }
            }
        }
        Ok(found)
    }
}
