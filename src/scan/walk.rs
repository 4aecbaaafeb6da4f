//! Owns one scan: directories and names as jobs, done by as many threads as it takes. What stands at a
//! name is `look`'s.

use std::collections::HashSet;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use e2ek_sidecar::crew::Crew;
use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Dir, Node, Problem, Reason, Snapshot, Spot, Stamp};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::assemble::{Found, Outcome, Slot, edits};
use super::file::READ_BYTES;
use super::grain::Grains;
use super::look::Look;
use super::names::{Name, Names, grouped, names_of};
use super::rules::Rules;
use super::{Known, MAX_BLOCKS_BYTES, MAX_CONTENTS_BYTES, Results, ScanReport};
use crate::engine::debounce::Hints;
use crate::filter::RuleFiles;

/// Names of one directory that one thread looks at before others may help.
const CHUNK: usize = 256;
/// Directories that another may have been.
const MAX_DEPARTED: usize = 64;
/// Names by which one is recognized.
const COMPARED: usize = 8;
const LIST_BYTES: usize = 32 * 1024;
const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// A directory being looked at, for everybody who looks at something in it.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: SyncPath,
    /// The directory as it was.
    pub(super) previous: Option<Arc<Dir>>,
    /// That stood elsewhere: a file is what it was there if its stamp is the same, and nothing else is
    /// known of this place.
    pub(super) elsewhere: bool,
}

enum Job {
    /// Opens a directory and looks at all in it; `above` are the rules it lies under.
    List { slot: usize, inside: Arc<OwnedFd>, name: Box<[u8]>, above: Rules },
    /// Looks at all of an open directory: the root.
    ListOpen { slot: usize, directory: Arc<OwnedFd>, rules: Rules },
    /// Looks at some names of a directory.
    Look {
        slot: usize,
        directory: Arc<OwnedFd>,
        names: Arc<Names>,
        range: Range<usize>,
        rules: Rules,
    },
}

/// What the threads share.
struct Shared {
    /// One for each directory.
    slots: Vec<Slot>,
    /// All of the tree, once it is known.
    root: Option<Arc<Dir>>,
}

/// What one thread brings along and gathers.
pub(super) struct Worker {
    pub(super) report: ScanReport,
    pub(super) buffer: Vec<u8>,
    list: Vec<MaybeUninit<u8>>,
}

impl Worker {
    pub(super) fn new() -> Self {
        Self {
            report: ScanReport::default(),
            buffer: vec![0; READ_BYTES],
            list: vec![MaybeUninit::uninit(); LIST_BYTES],
        }
    }

    pub(super) fn problem(&mut self, path: SyncPath, error: Errno) {
        let reason = Reason::from(&std::io::Error::from(error));
        self.report.problems.push(Problem { path, reason });
    }

    fn absorb(&mut self, other: ScanReport) {
        let into = &mut self.report;
        into.problems.extend(other.problems);
        into.unstable.extend(other.unstable);
        into.later.extend(other.later);
        into.contents.extend(other.contents);
        into.traced.extend(other.traced);
        into.entries += other.entries;
        into.ignored += other.ignored;
        into.protected += other.protected;
        into.files_read += other.files_read;
        into.bytes_read += other.bytes_read;
    }
}

/// One scan of one root.
pub(super) struct Scan<'a> {
    root: Arc<OwnedFd>,
    pub(super) previous: &'a Snapshot,
    rules: Rules,
    pub(super) grains: &'a Grains,
    pub(super) known: &'a Known,
    /// Directories that were hinted at, as they were: one that is new may be one of them, moved.
    departed: Vec<Arc<Dir>>,
    shared: Mutex<Shared>,
    /// The last one first, so that few directories are open at a time.
    jobs: Crew<Job>,
    /// Bytes of content that may still be kept.
    pub(super) contents_left: AtomicUsize,
    /// And of blocks.
    pub(super) blocks_left: AtomicUsize,
    /// Large files are left for later.
    pub(super) leave: bool,
    /// The inodes of those that were known before.
    pub(super) large: OnceLock<HashSet<u64>>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        root: OwnedFd,
        previous: &'a Snapshot,
        rules: Rules,
        (grains, known): (&'a Grains, &'a Known),
        leave: bool,
    ) -> Self {
        let shared = Shared { slots: Vec::new(), root: None };
        Self {
            root: Arc::new(root),
            previous,
            rules,
            grains,
            known,
            departed: Vec::new(),
            shared: Mutex::new(shared),
            jobs: Crew::default(),
            contents_left: AtomicUsize::new(MAX_CONTENTS_BYTES),
            blocks_left: AtomicUsize::new(MAX_BLOCKS_BYTES),
            leave,
            large: OnceLock::new(),
        }
    }

    /// Looks where `hints` say.
    pub(super) fn run(mut self, hints: &Hints, worker: &mut Worker) -> Results {
        let hinted = hints.paths().keys().chain(hints.subtrees().keys());
        let known = hinted.filter_map(|path| self.previous.dir(path).cloned());
        self.departed = known.take(MAX_DEPARTED).collect();
        let everywhere = hints.subtrees().contains_key(&SyncPath::root())
            || hints.paths().contains_key(&SyncPath::root());
        if everywhere {
            self.add_root();
        } else {
            for (parent, names) in grouped(self.previous, hints) {
                self.add_group(parent, names, worker);
            }
        }
        self.work_off(worker);
        let shared = self.shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut report = std::mem::take(&mut worker.report);
        report.problems.sort_by(|a, b| a.path.cmp(&b.path));
        report.unstable.sort();
        report.later.sort();
        let root = everywhere.then_some(shared.root);
        let edits = if everywhere { Vec::new() } else { edits(&shared.slots) };
        Results { report, root, edits }
    }

    fn add_root(&self) {
        let previous = Some(self.previous.root().clone());
        let place = Place { path: SyncPath::root(), previous, elsewhere: false };
        let (directory, rules) = (Arc::clone(&self.root), self.rules.clone());
        let mut shared = self.lock();
        shared.slots.push(Slot::listed(place, None));
        self.jobs.add([Job::ListOpen { slot: 0, directory, rules }]);
    }

    /// Adds names that were hinted at in one directory.
    fn add_group(&self, path: SyncPath, names: Names, worker: &mut Worker) {
        let previous = self.previous.dir(&path).cloned();
        let rules = self.rules.below(&path);
        let opened = match rules {
            // Not synced any more, so not in the tree.
            None => Err(Errno::NOENT),
            Some(_) => open_beneath(&self.root, &path),
        };
        let rules = rules.unwrap_or_else(|| self.rules.clone());
        let place = Place { path: path.clone(), previous, elsewhere: false };
        let mut slot = Slot::hinted(place);
        let mut shared = self.lock();
        let index = shared.slots.len();
        match opened {
            Ok(directory) => {
                let directory = Arc::new(directory);
                let names = Arc::new(names);
                for start in (0..names.len()).step_by(CHUNK) {
                    let range = start..names.len().min(start + CHUNK);
                    let (directory, names) = (Arc::clone(&directory), Arc::clone(&names));
                    let rules = rules.clone();
                    slot.open += 1;
                    self.jobs.add([Job::Look { slot: index, directory, names, range, rules }]);
                }
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                let absent = |(name, _): Name<'_>| (name.to_bytes().into(), Found::Absent);
                slot.found.extend(names.in_range(0..names.len()).map(absent));
            }
            // All of it stays as it was.
            Err(error) => worker.problem(path, error),
        }
        shared.slots.push(slot);
    }

    fn work_off(&self, worker: &mut Worker) {
        let perform = |job, worker: &mut Worker| self.perform(job, worker);
        for other in self.jobs.work_off(usize::MAX, worker, Worker::new, perform) {
            worker.absorb(other.report);
        }
    }

    fn perform(&self, job: Job, worker: &mut Worker) {
        match job {
            Job::List { slot, inside, name, above } => {
                match rustix::fs::openat(&*inside, &*name, OPEN, Mode::empty()) {
                    Ok(directory) => {
                        let rules = |files| above.child(&name, files);
                        self.list(slot, &Arc::new(directory), rules, worker);
                    }
                    Err(error) => self.unopened(slot, error, worker),
                }
            }
            Job::ListOpen { slot, directory, rules } => {
                self.list(slot, &directory, |_| rules, worker);
            }
            Job::Look { slot, directory, names, range, rules } => {
                self.look_at(slot, &directory, names.in_range(range), &rules, worker);
            }
        }
    }

    fn unopened(&self, slot: usize, error: Errno, worker: &mut Worker) {
        let place = self.place(slot);
        let outcome = match error {
            Errno::NOENT => Outcome::Gone,
            Errno::NOTDIR | Errno::LOOP => {
                // It was a directory a moment ago.
                worker.report.unstable.push(place.path.clone());
                Outcome::AsBefore
            }
            error => {
                worker.problem(place.path.clone(), error);
                Outcome::AsBefore
            }
        };
        self.lock().slots[slot].outcome = outcome;
        self.done(slot);
    }

    /// One thing less to be done in a directory; after the last it is put together, and so are those
    /// above it that waited for nothing else.
    fn done(&self, mut index: usize) {
        loop {
            let mut slot = {
                let slot = &mut self.lock().slots[index];
                slot.open -= 1;
                if slot.open > 0 || slot.outcome == Outcome::Hinted {
                    return;
                }
                slot.take()
            };
            let directory = slot.directory();
            let mut shared = self.lock();
            let Some((above, place)) = slot.above else {
                shared.root = directory;
                return;
            };
            let found = directory.map(|directory| Found::Node(Node::Directory(directory)));
            shared.slots[above].found[place].1 = found.unwrap_or(Found::Absent);
            index = above;
        }
    }

    /// Looks at all of a directory; `rules` gives those in it, told which files of rules it holds.
    fn list(
        &self,
        slot: usize,
        directory: &Arc<OwnedFd>,
        rules: impl FnOnce(RuleFiles) -> Rules,
        worker: &mut Worker,
    ) {
        let names = match names_of(directory, &mut worker.list) {
            Ok(names) => names,
            Err(error) => return self.unopened(slot, error, worker),
        };
        self.recognize(slot, &names);
        let all = names.in_range(0..names.len());
        let rules = rules(RuleFiles::listed(all.map(|(name, _)| name.to_bytes())));
        let mine = names.len().min(CHUNK);
        let names = Arc::new(names);
        for start in (mine..names.len()).step_by(CHUNK) {
            let range = start..names.len().min(start + CHUNK);
            let (directory, names) = (Arc::clone(directory), Arc::clone(&names));
            let job = Job::Look { slot, directory, names, range, rules: rules.clone() };
            self.lock().slots[slot].open += 1;
            self.jobs.add([job]);
        }
        self.look_at(slot, directory, names.in_range(0..mine), &rules, worker);
    }

    /// A directory that stands where none was may be one that went: by the names in it.
    fn recognize(&self, slot: usize, names: &Names) {
        if self.departed.is_empty() || self.place(slot).previous.is_some() {
            return;
        }
        let known = |dir: &Arc<Dir>| {
            let first = names.in_range(0..names.len().min(COMPARED));
            first.filter(|(name, _)| dir.get(name.to_bytes()).is_some()).count()
        };
        let likely = self.departed.iter().max_by_key(|dir| known(dir)).filter(|d| known(d) > 0);
        if let Some(dir) = likely {
            let mut shared = self.lock();
            let path = shared.slots[slot].place.path.clone();
            let place = Place { path, previous: Some(Arc::clone(dir)), elsewhere: true };
            shared.slots[slot].place = Arc::new(place);
        }
    }

    fn look_at<'n>(
        &self,
        slot: usize,
        directory: &Arc<OwnedFd>,
        names: impl Iterator<Item = Name<'n>>,
        rules: &Rules,
        worker: &mut Worker,
    ) {
        let place = self.place(slot);
        let (mut same, mut seen) = (Vec::with_capacity(names.size_hint().0), Vec::new());
        for name in names {
            match self.look((&place, rules), directory, name, worker) {
                Look::Same(spot) => same.push(spot),
                look => seen.push((name.0.to_bytes().into(), look)),
            }
        }
        self.enter(slot, (&place, rules), directory, (same, seen));
        self.done(slot);
    }

    /// Enters what was found, and makes a job of each directory among it.
    fn enter(
        &self,
        slot: usize,
        (place, rules): (&Place, &Rules),
        directory: &Arc<OwnedFd>,
        (same, seen): Seen,
    ) {
        let mut jobs = Vec::new();
        let mut shared = self.lock();
        let slots = &mut shared.slots;
        match slots[slot].same.is_empty() {
            true => slots[slot].same = same,
            false => slots[slot].same.extend(same),
        }
        for (name, look) in seen {
            let found = match look {
                Look::Found(found) => found,
                Look::Same(_) => continue,
                Look::Walk(path) => {
                    let below = slots.len();
                    let previous = match place.before(&name) {
                        Some(Node::Directory(previous)) => Some(previous.clone()),
                        _ => None,
                    };
                    let above = (slot, slots[slot].found.len());
                    let place = Place { path, previous, elsewhere: place.elsewhere };
                    slots.push(Slot::listed(place, Some(above)));
                    slots[slot].open += 1;
                    let (inside, above) = (Arc::clone(directory), rules.clone());
                    jobs.push(Job::List { slot: below, inside, name: name.clone(), above });
                    Found::Below
                }
            };
            slots[slot].found.push((name, found));
        }
        drop(shared);
        self.jobs.add(jobs);
    }

    fn place(&self, slot: usize) -> Arc<Place> {
        Arc::clone(&self.lock().slots[slot].place)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic in a worker is raised again when it is joined; until then the rest goes on.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of some names of a directory: files that are what they were, and the others by name.
type Seen = (Vec<Spot>, Vec<(Box<[u8]>, Look)>);

impl Place {
    /// The path of a name that was seen to fit one.
    pub(super) fn inside(&self, name: &[u8]) -> SyncPath {
        self.path.join(name).expect("checked before it was looked at")
    }

    /// What stood at a name.
    pub(super) fn before(&self, name: &[u8]) -> Option<&Node> {
        self.previous.as_ref()?.get(name)
    }

    /// What stood there stays.
    pub(super) fn kept(&self, name: &[u8]) -> Found {
        let before = self.before(name).filter(|_| !self.elsewhere);
        before.map_or(Found::Absent, |node| Found::Node(node.clone()))
    }

    /// What stood there stays, and is read again the next time.
    pub(super) fn unsure(&self, name: &[u8]) -> Found {
        match self.before(name) {
            Some(&Node::File { digest, size, executable, .. }) if !self.elsewhere => {
                let stamp = Stamp::default();
                Found::Node(Node::File { digest, size, executable, stamp })
            }
            _ => self.kept(name),
        }
    }
}

/// Opens a directory of the tree without ever following a link or leaving the root.
fn open_beneath(root: &OwnedFd, path: &SyncPath) -> Result<OwnedFd, Errno> {
    let path = if path.is_root() { b"." } else { path.as_bytes() };
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, OPEN, Mode::empty(), beneath)
}
