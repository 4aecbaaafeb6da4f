//! The source: every path pair's directory, watched, filtered and scanned, as one tree.
//!
//! Each pair is a top-level directory of the session's tree, named by its number. What the watches
//! tell goes through the debounce; a few due paths are looked at on the spot, since that takes
//! microseconds, and anything larger on a thread of its own. Large files are hashed beside all that
//! (`later`), so that a save is not told after them.

mod later;
mod outside;
mod pair;
mod problems;
mod told;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::receive::root_index;
use e2ek_sidecar::tree::{DirBuilder, Node, Reason, Snapshot};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use self::later::Later;
use self::outside::Outside;
use self::pair::{Pair, tree_of};
use self::problems::{FAULTY_AGAIN, Problems};
pub(super) use self::told::Told;
use self::told::{is_complete, is_in, nothing_below, tell, tell_settings};
use crate::engine::debounce::{Debounce, Hints, Seen};
use crate::filter::{Filter, FilterError, FilterOptions, Near};
use crate::scan::{ScanError, ScanReport, Scanner, Traced};
use crate::transfer::Contents;
use crate::watch::{Observed, Watch};

/// Paths that are looked at on the spot.
const AT_ONCE: usize = 64;
/// How soon a file that changes all the time is looked at again.
const UNSTABLE_AGAIN: Duration = Duration::from_millis(30);

/// What [`Source::next`] brings.
pub(super) enum Next {
    Told(Told),
    Looked(Looked),
}

/// What became of a look.
pub(super) enum Looked {
    /// The tree as it is now, and the time of the first event that led to this look.
    Tree { tree: Snapshot, seen: Instant },
    /// A root is not there.
    Gone,
}

/// Figures of the last look at everything.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) took: Duration,
    pub(super) protected: u64,
    pub(super) ignored: u64,
}

/// What is looked at in a pair: its number, whether it is known, and the tree as it was.
type Work = ((usize, bool), Arc<Scanner>, Snapshot, Hints);

/// A look on a thread of its own: one report a pair that was looked at.
type Look = Vec<(usize, Hints, Result<ScanReport, ScanError>)>;

/// A tree that is read when it is needed first.
type Previous = LazyLock<Snapshot, Box<dyn FnOnce() -> Snapshot + Send>>;

/// All pairs. See the module.
pub(super) struct Source {
    pairs: Vec<Pair>,
    debounce: Debounce,
    contents: Arc<Contents>,
    told: mpsc::Sender<Told>,
    heard: mpsc::Receiver<Told>,
    tasks: JoinSet<()>,
    /// Files that decide and that no pair's watch sees.
    outside: Outside,
    looking: Option<(JoinHandle<Look>, Instant, Instant)>,
    /// Large files that are hashed beside.
    later: Later,
    problems: Problems,
    figures: Option<Figures>,
    looks: u64,
    /// The tree, or a stamp in it, is not what the index on disk says.
    changed: bool,
    /// The tree of the last run, until the first look has ended.
    previous: Option<Arc<Previous>>,
    /// The file of settings that is followed.
    settings: Option<PathBuf>,
    /// It may have changed.
    settings_changed: bool,
}

impl Source {
    /// Opens the pairs' directories; `previous` reads the tree of the last run, for its stamps: at
    /// the first look, on its thread, so that the hubs start meanwhile.
    ///
    /// # Errors
    /// When a directory cannot be resolved.
    pub(super) fn open(
        roots: &[PathBuf],
        options: &FilterOptions,
        previous: impl FnOnce() -> Snapshot + Send + 'static,
        contents: Arc<Contents>,
    ) -> Result<Self, FilterError> {
        let (told, heard) = mpsc::channel(1);
        let mut pairs = Vec::new();
        for (index, root) in roots.iter().enumerate() {
            pairs.push(Pair::open(index, root, options, &contents)?);
        }
        Ok(Self {
            pairs,
            debounce: Debounce::default(),
            contents,
            told,
            heard,
            tasks: JoinSet::new(),
            outside: Outside::default(),
            looking: None,
            later: Later::default(),
            problems: Problems::new(),
            figures: None,
            looks: 0,
            changed: false,
            previous: Some(Arc::new(LazyLock::new(Box::new(previous)))),
            settings: None,
            settings_changed: false,
        })
    }

    /// Starts to watch, the file of `settings` too; "look everywhere" follows from the watches
    /// themselves.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn watch(
        &mut self,
        cookies: &std::path::Path,
        settings: Option<&std::path::Path>,
    ) -> std::io::Result<()> {
        for (index, pair) in self.pairs.iter_mut().enumerate() {
            let (watch, reaches) = pair.watch(cookies)?;
            self.tasks.spawn(tell(index, watch, reaches, self.told.clone()));
        }
        self.follow_outside();
        self.settings = settings.map(std::path::Path::to_owned);
        let Some((file, folder)) = settings.and_then(|file| Some((file, file.parent()?))) else {
            return Ok(());
        };
        if !self.pairs.iter().any(|pair| pair.filter.root() == folder) {
            let watch = Watch::start(folder.to_owned(), cookies.to_owned(), nothing_below())?;
            let name = file.file_name().unwrap_or_default().as_encoded_bytes().to_vec();
            self.tasks.spawn(tell_settings(watch, name, self.told.clone()));
        }
        Ok(())
    }

    /// Follows the files that decide and that no pair's watch sees, as long as anything is followed.
    fn follow_outside(&mut self) {
        if self.pairs.iter().any(|pair| pair.watch.is_some()) {
            let files = self.pairs.iter().flat_map(|pair| pair.filter.outside());
            self.outside.follow(files, &self.told);
        }
    }

    /// Looks whether those say something else by now: then all is decided anew.
    fn look_outside(&mut self, now: Instant) {
        for index in 0..self.pairs.len() {
            if self.pairs[index].filter.is_outdated() {
                self.rules_changed(index, &SyncPath::root(), now);
            }
        }
        self.follow_outside();
    }

    /// Whether the file of settings may have changed since this was asked last.
    pub(super) fn take_settings_changed(&mut self) -> bool {
        std::mem::take(&mut self.settings_changed)
    }

    /// Follows other rules from now on.
    pub(super) fn follow(&mut self, now: Instant, options: &FilterOptions) {
        for pair in &self.pairs {
            pair.filter.follow(options);
            pair.rewalk();
            // The watch says so, too, in its own time; a flush may be on its way before.
            self.debounce.look_everywhere(now, pair.name.clone());
        }
    }

    /// The next thing that the watches tell, or the end of a look on a thread. Cancel safe.
    pub(super) async fn next(&mut self) -> Next {
        // What a look has found takes the place of the tree: it is entered first.
        let is_looking = self.looking.is_some();
        let look = async {
            match &mut self.looking {
                Some((handle, ..)) => handle.await,
                None => std::future::pending().await,
            }
        };
        let look = tokio::select! {
            Some(told) = self.heard.recv() => return Next::Told(told),
            look = look => look.unwrap_or_default(),
            hashed = self.later.next(), if !is_looking => return Next::Looked(self.hashed(hashed)),
        };
        match self.looking.take() {
            Some((_, began, seen)) => Next::Looked(self.finish(look, began, seen, true)),
            None => std::future::pending().await,
        }
    }

    /// Asks every watch for a point in time; [`Told::Point`] comes once for each pair.
    pub(super) fn points(&mut self) -> usize {
        self.look_outside(Instant::now());
        for pair in &self.pairs {
            let Some((watch, reached)) = pair.watch.clone().zip(pair.reached.clone()) else {
                continue;
            };
            self.tasks.spawn(async move {
                watch.sync_point().await;
                let _ = reached.send(()).await;
            });
        }
        self.pairs.iter().filter(|pair| pair.watch.is_some()).count()
    }

    /// Takes in what was told. Returns whether a root is gone now.
    pub(super) fn take(&mut self, told: Told) -> bool {
        let (index, observed) = match told {
            Told::Observed(index, observed) => (index, observed),
            Told::Point => return false,
            Told::Settings => {
                self.settings_changed = true;
                return false;
            }
            Told::Rules => {
                self.look_outside(Instant::now());
                return false;
            }
        };
        let mut gone = false;
        for observed in observed {
            gone |= self.observe(index, observed);
        }
        gone
    }

    fn observe(&mut self, index: usize, observed: Observed) -> bool {
        let pair = &mut self.pairs[index];
        match observed {
            Observed::Path { path, seen, at } => {
                let rules = path.name().is_some_and(Filter::is_rule_file);
                self.settings_changed |= is_complete(seen)
                    && (self.settings.as_ref())
                        .is_some_and(|file| is_in(file, pair.filter.root(), &path));
                let Ok(full) = pair.name.append(&path) else { return false };
                self.debounce.observe(at, full, seen);
                if rules && !matches!(seen, Seen::Modified) {
                    self.rules_changed(index, &path, at);
                }
                false
            }
            Observed::Everywhere { subtree, at } => {
                self.settings_changed |= subtree.is_root();
                pair.lost &= !subtree.is_root();
                if let Ok(full) = pair.name.append(&subtree) {
                    self.debounce.look_everywhere(at, full);
                }
                false
            }
            Observed::Lost { .. } => {
                pair.lost = true;
                false
            }
            Observed::RootGone { .. } => {
                (pair.gone, pair.lost) = (true, false);
                true
            }
            Observed::RootBack { at } => {
                pair.gone = false;
                let name = pair.name.clone();
                self.debounce.look_everywhere(at, name);
                false
            }
        }
    }

    /// A file of ignore rules changed: what is watched and what is sent are decided anew.
    fn rules_changed(&mut self, index: usize, path: &SyncPath, at: Instant) {
        let pair = &self.pairs[index];
        let parent = path.parent().unwrap_or_default();
        pair.filter.forget(&parent);
        pair.rewalk();
        if let Ok(full) = pair.name.append(&parent) {
            self.debounce.look_everywhere(at, full);
        }
    }

    /// Something changed that no watch told of.
    pub(super) fn hint(&mut self, now: Instant, path: SyncPath) {
        self.debounce.observe(now, path, Seen::Modified);
    }

    /// Looks everywhere, with rules read anew; forgets stamps when `afresh`.
    pub(super) fn everything(&mut self, now: Instant, afresh: bool) {
        for pair in &mut self.pairs {
            pair.filter.reload();
            if afresh {
                self.changed = true;
                self.previous = None;
                pair.known = false;
                self.later.clear();
                pair.tree = Snapshot::empty();
            }
            let name = pair.name.clone();
            self.debounce.look_everywhere(now, name);
        }
    }

    /// Makes everything due that waits.
    pub(super) fn release(&mut self) {
        self.debounce.release();
    }

    /// When [`Self::look`] has something to do; `None` while a look is under way.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.looking.is_some() {
            return None;
        }
        [self.debounce.deadline(), self.problems.deadline()].into_iter().flatten().min()
    }

    /// Whether nothing waits and no look is under way.
    pub(super) fn is_quiet(&self) -> bool {
        !self.is_looking() && self.debounce.deadline().is_none()
    }

    /// Whether more is to be seen than was looked at: a look on a thread is under way, or a watch that
    /// lost events goes through all directories before it says so.
    pub(super) fn is_looking(&self) -> bool {
        let lost = || self.pairs.iter().any(|pair| pair.lost);
        self.looking.is_some() || !self.later.is_empty() || lost()
    }

    /// Looks at what is due: small things now, large ones on a thread; see [`Self::next`].
    pub(super) fn look(&mut self, now: Instant) -> Option<Looked> {
        if self.looking.is_some() {
            return None;
        }
        for path in self.problems.take_due(now) {
            self.debounce.look_everywhere(now, path);
        }
        let hints = self.debounce.take(now);
        let seen = hints.first_seen()?;
        let jobs = self.split(hints);
        let previous = self.previous.clone();
        let small = previous.is_none()
            && jobs
                .iter()
                .all(|(_, hints)| hints.subtrees().is_empty() && hints.paths().len() <= AT_ONCE);
        let work: Vec<_> = (jobs.into_iter())
            .map(|(index, hints)| {
                let pair = &self.pairs[index];
                ((index, pair.known), pair.scanner.clone(), pair.tree.clone(), hints)
            })
            .collect();
        let whole = work.iter().any(|(.., hints)| hints.subtrees().contains_key(&SyncPath::root()));
        let run = move || -> Look {
            let scan = |((index, known), scanner, tree, hints): Work| {
                let tree = previous.as_ref().map_or(tree, |previous| tree_of(index, previous));
                let result = match known {
                    true => scanner.scan_small(&tree, &hints),
                    false => scanner.scan(&tree, &hints),
                };
                (index, hints, result)
            };
            work.into_iter().map(scan).collect()
        };
        if small {
            return Some(self.finish(run(), now, seen, false));
        }
        self.looks += 1;
        self.figures = whole.then(Figures::default).or(self.figures);
        self.looking = Some((tokio::task::spawn_blocking(run), now, seen));
        None
    }

    fn finish(&mut self, look: Look, began: Instant, seen: Instant, large: bool) -> Looked {
        if let Some(previous) = self.previous.take() {
            self.changed |= previous.count() == 0;
            for (index, pair) in self.pairs.iter_mut().enumerate() {
                pair.tree = tree_of(index, &previous);
            }
        }
        let mut gone = false;
        for (index, hints, result) in look {
            match result {
                Ok(report) => self.accept(index, &hints, report, seen),
                Err(ScanError::Confused(_)) => {
                    let name = self.pairs[index].name.clone();
                    self.debounce.look_everywhere(Instant::now() + UNSTABLE_AGAIN, name);
                }
                Err(error) => {
                    tracing::warn!(%error, "the source cannot be looked at");
                    gone = true;
                    // The watch tells when a root is back that it saw go, and of nothing else.
                    if !self.pairs[index].gone {
                        let name = self.pairs[index].name.clone();
                        self.debounce.look_everywhere(Instant::now() + FAULTY_AGAIN[0], name);
                    }
                }
            }
        }
        self.problems.settle();
        if large {
            self.count(began.elapsed());
        }
        let grew = |grew, pair: &Pair| pair.filter.take_outside_grew() || grew;
        if self.pairs.iter().fold(false, grew) {
            self.follow_outside();
        }
        if gone || self.pairs.iter().any(|pair| pair.gone) {
            return Looked::Gone;
        }
        self.hash_next();
        Looked::Tree { tree: self.tree(), seen }
    }

    fn accept(&mut self, index: usize, hints: &Hints, mut report: ScanReport, seen: Instant) {
        self.later.looked_at(index, hints, std::mem::take(&mut report.later), seen);
        let tree = std::mem::take(&mut report.tree);
        self.replace(index, tree);
        self.take_in(index, hints, report);
    }

    fn replace(&mut self, index: usize, tree: Snapshot) {
        let pair = &mut self.pairs[index];
        self.changed |= !Arc::ptr_eq(pair.tree.root(), tree.root());
        pair.tree = tree;
    }

    /// Takes in what a look says beside its tree.
    fn take_in(&mut self, index: usize, hints: &Hints, report: ScanReport) {
        let pair = &mut self.pairs[index];
        if hints.subtrees().contains_key(&SyncPath::root()) {
            pair.known = true;
            pair.left_out = (report.protected, report.ignored);
        }
        self.contents.keep(report.contents);
        for Traced { digest, before, blocks } in report.traced {
            self.contents.sign(digest, before, blocks);
        }
        let again = Instant::now() + UNSTABLE_AGAIN;
        let name = pair.name.clone();
        for path in report.unstable {
            if let Ok(full) = name.append(&path) {
                self.debounce.observe(again, full, Seen::Modified);
            }
        }
        for path in self.problems.looked(&name, hints, report.problems) {
            self.watch_again(&path);
        }
    }

    /// A directory that could not be listed may not be watched either, and no event says that it can be.
    fn watch_again(&self, path: &SyncPath) {
        let Some((index, below)) = root_index(path) else { return };
        if let Some(pair) = self.pairs.get(index).filter(|pair| pair.tree.dir(&below).is_some()) {
            pair.rewalk();
        }
    }

    fn count(&mut self, took: Duration) {
        let mut figures = Figures { took, ..Figures::default() };
        for pair in &self.pairs {
            pair.tree.each_node(&mut |node| {
                if let Node::File { size, .. } = node {
                    figures.files += 1;
                    figures.bytes += size;
                }
            });
            figures.protected += pair.left_out.0;
            figures.ignored += pair.left_out.1;
        }
        self.figures = Some(figures);
    }

    /// The pairs' trees side by side.
    pub(super) fn tree(&self) -> Snapshot {
        let mut top = DirBuilder::default();
        for pair in &self.pairs {
            top.push(pair.name.as_bytes(), Node::Directory(pair.tree.root().clone()));
        }
        Snapshot::from_root(top.finish())
    }

    /// Whether the tree is to be kept for the next run: not, when it is as the last one left it.
    pub(super) fn is_to_be_kept(&self) -> bool {
        self.changed
    }

    /// The tree is on disk as it is now.
    pub(super) fn was_kept(&mut self) {
        self.changed = false;
    }

    /// Hands each pair its hints, relative to it.
    fn split(&self, hints: Hints) -> Vec<(usize, Hints)> {
        let mut jobs: BTreeMap<usize, Hints> = BTreeMap::new();
        for (path, &at) in hints.subtrees() {
            match root_index(path) {
                Some((index, below)) => jobs.entry(index).or_default().look_everywhere(below, at),
                // "Everywhere", when too many paths were seen at once.
                None => (0..self.pairs.len()).for_each(|index| {
                    jobs.entry(index).or_default().look_everywhere(SyncPath::root(), at);
                }),
            }
        }
        for (path, &at) in hints.paths() {
            if let Some((index, below)) = root_index(path) {
                jobs.entry(index).or_default().look(below, at);
            }
        }
        jobs.into_iter().filter(|(index, _)| *index < self.pairs.len()).collect()
    }

    /// The question whether the rules keep a path of the session's tree out.
    pub(super) fn ignored(&self) -> crate::engine::session::Ignored {
        let filters = self.pairs.iter().map(|pair| (pair.filter.clone(), RefCell::default()));
        let filters: Vec<(Arc<Filter>, RefCell<Near>)> = filters.collect();
        Box::new(move |path, is_dir| {
            root_index(path).is_some_and(|(index, below)| {
                let filter = filters.get(index).filter(|_| !below.is_root());
                filter.is_some_and(|(filter, near)| {
                    !filter.is_kept(&below, is_dir, &mut near.borrow_mut())
                })
            })
        })
    }

    /// Whether the rules let a path of the session's tree through.
    pub(super) fn is_wanted(&self, path: &SyncPath, is_dir: bool) -> bool {
        root_index(path).is_some_and(|(index, below)| {
            self.pairs.get(index).is_some_and(|pair| {
                below.is_root() || pair.filter.verdict_of(&below, is_dir).is_kept()
            })
        })
    }

    /// The figures of the last look at everything, once.
    pub(super) fn take_figures(&mut self) -> Option<Figures> {
        self.figures.take().filter(|figures| figures.took > Duration::ZERO)
    }

    /// Paths that have a problem now, or (`None`) none any more, since the last call.
    pub(super) fn take_news(&mut self) -> Vec<(SyncPath, Option<Reason>)> {
        self.problems.take_news()
    }

    /// Paths that cannot be read.
    pub(super) fn problems(&self) -> &BTreeMap<SyncPath, Reason> {
        self.problems.known()
    }

    /// Looks on threads so far.
    pub(super) fn looks(&self) -> u64 {
        self.looks
    }

    /// Every watch.
    pub(super) fn watches(&self) -> impl Iterator<Item = &Watch> {
        self.pairs.iter().filter_map(|pair| pair.watch.as_deref())
    }
}

#[cfg(test)]
mod tests;
