//! Owns the wait from a change of a source until its target has it.
//!
//! The moment is that of the last inotify event at the target's files concerned; that the contents
//! are then those of the source is looked at afterwards, so that the looking costs nothing.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::WatchFlags;

use crate::events::Events;
use crate::figures::between;
use crate::tree::{Dice, Edit, Tree};
use crate::{Result, clock};

/// Without an event for so long, the files are looked at.
const LOOK: u64 = 100_000_000;

/// A source and a target that somebody keeps equal to it.
pub(crate) struct Pair {
    source: Tree,
    target: PathBuf,
    arrivals: Events,
    dice: Dice,
    saves: u64,
    /// Saved lately, by number.
    lately: HashSet<usize>,
}

impl Pair {
    /// Watches the target's directories, which must be there.
    pub(crate) fn new(source: &Tree, target: &Path) -> Result<Self> {
        let what = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        let arrivals = Events::watch(&source.at(target), what)?;
        let (source, target) = (source.clone(), target.to_owned());
        Ok(Self { source, target, arrivals, dice: Dice(7), saves: 0, lately: HashSet::new() })
    }

    /// Forgets what came to the target until now.
    pub(crate) fn forget(&self) {
        self.arrivals.forget();
    }

    /// Saves one file, not one that was saved lately: those that tell changes by size and whole
    /// seconds would miss it. How long until the target has it, in nanoseconds.
    pub(crate) fn save(&mut self, within: Duration) -> Result<i64> {
        self.save_by(within, |_| Ok(()))
    }

    /// The same where somebody must be asked to bring it: `bring` gets the file's path below the root,
    /// and its time counts.
    pub(crate) fn save_by(
        &mut self,
        within: Duration,
        bring: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<i64> {
        let files = self.source.files.len();
        if self.lately.len() * 2 >= files {
            self.lately.clear();
        }
        let mut number = self.dice.below(files);
        while !self.lately.insert(number) {
            number = self.dice.below(files);
        }
        let path = self.source.files[number].clone();
        self.saves += 1;
        self.arrivals.forget();
        let edit = Edit::prepare(&self.source.root.join(&path), self.saves)?;
        let moment = edit.save()?;
        bring(&path)?;
        Ok(between(moment, self.arrived(&[path], within)?))
    }

    /// Saves so many files as fast as this process can: from the first write until the target has
    /// the last, in nanoseconds, and how long the writing took.
    pub(crate) fn storm(&mut self, count: usize, within: Duration) -> Result<(i64, i64)> {
        let files = self.source.files.len();
        let count = count.min(files);
        // Evenly spread, another set each time.
        let first = self.dice.below(files);
        let paths: Vec<PathBuf> = (0..count)
            .map(|number| self.source.files[(first + number * files / count) % files].clone())
            .collect();
        self.saves += 1;
        let contents = paths
            .iter()
            .map(|path| Edit::content(&self.source.root.join(path), self.saves))
            .collect::<Result<Vec<_>>>()?;
        self.arrivals.forget();
        let began = clock::now();
        for (path, content) in paths.iter().zip(contents) {
            Edit::open(&self.source.root.join(path), content)?.save()?;
        }
        let wrote = between(began, clock::now());
        Ok((between(began, self.arrived(&paths, within)?), wrote))
    }

    /// When the last of these files became what it is at the source, or went as it went there.
    pub(crate) fn arrived(&self, paths: &[PathBuf], within: Duration) -> Result<u64> {
        let same =
            |path: &Path| same_content(&self.source.root.join(path), &self.target.join(path));
        self.arrived_as(paths, within, same)
    }

    /// The same by another look at a path below the roots.
    pub(crate) fn arrived_as(
        &self,
        paths: &[PathBuf],
        within: Duration,
        is_there: impl Fn(&Path) -> bool,
    ) -> Result<u64> {
        let deadline = clock::now() + u64::try_from(within.as_nanos())?;
        // `None`: no event yet.
        let mut waiting: HashMap<&Path, Option<u64>> =
            paths.iter().map(|path| (path.as_path(), None)).collect();
        let mut unseen = waiting.len();
        let mut last = 0;
        while !waiting.is_empty() {
            let seen = if unseen == 0 { None } else { self.arrivals.next(clock::now() + LOOK) };
            if let Some(seen) = seen {
                if let Some(moment) = waiting.get_mut(seen.path.as_path()) {
                    unseen -= usize::from(moment.is_none());
                    *moment = Some(seen.at);
                }
                continue;
            }
            waiting.retain(|path, moment| {
                let there = moment.is_some() && is_there(path);
                if there {
                    last = last.max(moment.unwrap_or_default());
                }
                // An event of what was there before tells nothing: another one is to come.
                *moment = None;
                !there
            });
            unseen = waiting.len();
            if clock::now() > deadline {
                let one = waiting.keys().next().map(|path| path.display().to_string());
                return Err(format!("{unseen} not there in {within:?}, one is {one:?}").into());
            }
        }
        Ok(last)
    }
}

/// Both are there with the same bytes, or both are not.
pub(crate) fn same_content(here: &Path, there: &Path) -> bool {
    match (fs::read(here), fs::read(there)) {
        (Ok(here), Ok(there)) => here == there,
        (Err(here), Err(there)) => here.kind() == there.kind(),
        _ => false,
    }
}
