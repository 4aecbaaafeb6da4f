//! Owns one scan: directories and names as jobs, done by as many threads as it takes.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use e2ek_sidecar::crew::Crew;
use e2ek_sidecar::delta::Blocks;
use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Digest, Dir, Node, Problem, Reason, Snapshot, Spot, Stamp};
use rustix::fs::{FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

use super::assemble::{Found, Outcome, Slot, edits};
use super::file::{Facts, READ_BYTES, Read, ReadError, Wanted, read};
use super::grain::{Grains, wall_clock};
use super::rules::{Rules, Standing};
use super::{Known, MAX_BLOCKS_BYTES, MAX_CONTENTS_BYTES, Results, ScanReport, Traced};
use crate::engine::debounce::Hints;
use crate::filter::RuleFiles;

/// Names of one directory that one thread looks at before others may help.
const CHUNK: usize = 256;
/// Smallest file that may be left for later, in bytes: it takes some milliseconds to hash.
const LATER_FROM_BYTES: u64 = 8 << 20;
/// Directories that another may have been.
const MAX_DEPARTED: usize = 64;
/// Names by which one is recognized.
const COMPARED: usize = 8;
/// About what the report's table takes for a content: small ones are many.
const ENTRY_BYTES: usize = 96;
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

/// A name to look at, and what it names as the listing says; `None` when it does not, or there was none.
type Name<'a> = (&'a CStr, Option<FileType>);

/// Names of one directory.
#[derive(Default)]
struct Names {
    /// One after the other, each with its NUL.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<(usize, Option<FileType>)>,
}

impl Names {
    /// Adds a name, which holds no NUL.
    fn push(&mut self, name: &[u8], kind: Option<FileType>) {
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.ends.push((self.bytes.len(), kind));
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn in_range(&self, range: Range<usize>) -> impl Iterator<Item = Name<'_>> {
        range.map(|index| {
            let start = index.checked_sub(1).map_or(0, |before| self.ends[before].0);
            let (end, kind) = self.ends[index];
            let name = CStr::from_bytes_with_nul(&self.bytes[start..end]);
            (name.expect("names hold no NUL but the last"), kind)
        })
    }
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
    report: ScanReport,
    buffer: Vec<u8>,
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

    fn problem(&mut self, path: SyncPath, error: Errno) {
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
    previous: &'a Snapshot,
    rules: Rules,
    grains: &'a Grains,
    known: &'a Known,
    /// Directories that were hinted at, as they were: one that is new may be one of them, moved.
    departed: Vec<Arc<Dir>>,
    shared: Mutex<Shared>,
    /// The last one first, so that few directories are open at a time.
    jobs: Crew<Job>,
    /// Bytes of content that may still be kept.
    contents_left: AtomicUsize,
    /// And of blocks.
    blocks_left: AtomicUsize,
    /// Large files are left for later.
    leave: bool,
    /// The inodes of those that were known before.
    large: OnceLock<HashSet<u64>>,
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
        (same, seen): (Vec<Spot>, Vec<(Box<[u8]>, Look)>),
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

    fn look(
        &self,
        (place, rules): (&Place, &Rules),
        directory: &OwnedFd,
        (name, kind): Name<'_>,
        worker: &mut Worker,
    ) -> Look {
        worker.report.entries += 1;
        let bytes = name.to_bytes();
        let known = place.previous.as_ref().and_then(|dir| dir.find(bytes));
        // What stood just here has a path that fits.
        let fits = known.is_some() && !place.elsewhere || place.path.check_join(bytes).is_ok();
        if !fits {
            let problem = Problem { path: place.path.clone(), reason: Reason::Name };
            worker.report.problems.push(problem);
            return Look::Found(Found::Absent);
        }
        if kind.is_some_and(|kind| !kept(rules, bytes, kind, worker)) {
            return Look::Found(Found::Absent);
        }
        // Opening it tells whether it still is one.
        if kind == Some(FileType::Directory) {
            return Look::Walk(place.inside(bytes));
        }
        let is_new = !matches!(known, Some((_, Node::File { .. })));
        // A file not known before is read whatever its facts: they are asked of the open file only.
        if kind == Some(FileType::RegularFile)
            && is_new
            && let Some(found) = self.content(place, directory, name, worker)
        {
            return Look::Found(found);
        }
        // What it is may change between the question and the opening: ask again.
        for _ in 0..3 {
            let facts = match Facts::at(directory, name) {
                Ok(facts) => facts,
                Err(error) => return Look::Found(failed(place, bytes, error, worker)),
            };
            if kind != Some(facts.kind) && !kept(rules, bytes, facts.kind, worker) {
                return Look::Found(Found::Absent);
            }
            let found = match facts.kind {
                FileType::Directory => return Look::Walk(place.inside(bytes)),
                FileType::Symlink => self.link(place, directory, name, worker),
                FileType::RegularFile => match as_before(known, facts) {
                    Some(look) => return look,
                    None => self.content(place, directory, name, worker),
                },
                _ => {
                    let problem = Problem { path: place.inside(bytes), reason: Reason::Special };
                    worker.report.problems.push(problem);
                    return Look::Found(Found::Absent);
                }
            };
            if let Some(found) = found {
                return Look::Found(found);
            }
        }
        worker.report.unstable.push(place.inside(bytes));
        Look::Found(place.kept(bytes))
    }

    /// `None` when it is no link any more.
    fn link(
        &self,
        place: &Place,
        directory: &OwnedFd,
        name: &CStr,
        worker: &mut Worker,
    ) -> Option<Found> {
        match rustix::fs::readlinkat(directory, name, Vec::new()) {
            Ok(target) => Some(Found::Node(Node::Symlink(target.into_bytes().into()))),
            Err(Errno::INVAL) => None,
            Err(error) => Some(failed(place, name.to_bytes(), error, worker)),
        }
    }

    /// Reads a file. `None` when it is no regular file any more.
    fn content(
        &self,
        place: &Place,
        directory: &OwnedFd,
        name: &CStr,
        worker: &mut Worker,
    ) -> Option<Found> {
        let asked = wall_clock();
        let (before, own) = match place.before(name.to_bytes()) {
            Some(Node::File { digest, stamp, .. }) => (Some(*digest), stamp.inode),
            _ => (None, 0),
        };
        let wishes = Wishes::new(self, before, own);
        let read = read(directory, name, &wishes, &mut worker.buffer);
        wishes.settle(read.as_ref().ok());
        match read {
            Ok(read) => {
                let report = &mut worker.report;
                report.files_read += 1;
                report.bytes_read += read.bytes;
                report.contents.extend(read.content.map(|content| (read.digest, content)));
                let digest = read.digest;
                report.traced.extend(read.blocks.map(|blocks| Traced { digest, before, blocks }));
                let Facts { size, executable, stamp, device, .. } = read.facts;
                let stamp = self.grains.of(device, directory).trusted(stamp, asked);
                Some(Found::Node(Node::File { digest: read.digest, size, executable, stamp }))
            }
            Err(ReadError::Replaced) => None,
            Err(ReadError::Later) => {
                worker.report.later.push(place.inside(name.to_bytes()));
                Some(place.kept(name.to_bytes()))
            }
            Err(ReadError::Unstable) => {
                worker.report.unstable.push(place.inside(name.to_bytes()));
                Some(place.unsure(name.to_bytes()))
            }
            Err(ReadError::Os(error)) => Some(failed(place, name.to_bytes(), error, worker)),
        }
    }

    /// Whether a large file is left for later: not one that was only renamed, for then it would be
    /// gone before it is there. `own` is the inode of what stood there before.
    fn is_for_later(&self, facts: Facts, own: u64) -> bool {
        if self.leave && facts.size >= LATER_FROM_BYTES && facts.stamp.inode == own {
            return true;
        }
        if !self.leave || facts.size < LATER_FROM_BYTES {
            return false;
        }
        let known = self.large.get_or_init(|| {
            let mut known = HashSet::new();
            self.previous.each_node(&mut |node| {
                if let Node::File { size: LATER_FROM_BYTES.., stamp, .. } = node {
                    known.insert(stamp.inode);
                }
            });
            known
        });
        !known.contains(&facts.stamp.inode)
    }

    fn place(&self, slot: usize) -> Arc<Place> {
        Arc::clone(&self.lock().slots[slot].place)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic in a worker is raised again when it is joined; until then the rest goes on.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is wanted of one file: its content or its blocks, as long as there is room in the report.
struct Wishes<'a> {
    scan: &'a Scan<'a>,
    /// What stood there before, and its inode.
    before: Option<Digest>,
    own: u64,
    /// Room that was taken. Read again after it changed, it is taken anew.
    contents: Room<'a>,
    blocks: Room<'a>,
}

/// Bytes taken off what is left for all.
struct Room<'a> {
    left: &'a AtomicUsize,
    taken: Cell<usize>,
}

impl Room<'_> {
    fn take(&self, bytes: usize) -> bool {
        self.give_back();
        let take = |left: usize| left.checked_sub(bytes);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        self.taken.set(if taken { bytes } else { 0 });
        taken
    }

    fn give_back(&self) {
        self.left.fetch_add(self.taken.take(), Ordering::Relaxed);
    }
}

impl<'a> Wishes<'a> {
    fn new(scan: &'a Scan<'a>, before: Option<Digest>, own: u64) -> Self {
        let room = |left| Room { left, taken: Cell::new(0) };
        let (contents, blocks) = (room(&scan.contents_left), room(&scan.blocks_left));
        Self { scan, before, own, contents, blocks }
    }

    /// Gives back the room that what was read does not need.
    fn settle(self, read: Option<&Read>) {
        if read.is_none_or(|read| read.content.is_none()) {
            self.contents.give_back();
        }
        if read.is_none_or(|read| read.blocks.is_none()) {
            self.blocks.give_back();
        }
    }
}

impl Wanted for Wishes<'_> {
    fn content(&self, size: u64) -> bool {
        self.contents.take(usize::try_from(size).unwrap_or(usize::MAX).saturating_add(ENTRY_BYTES))
    }

    fn blocks(&self, size: u64) -> bool {
        self.blocks.take(Blocks::bytes_for(size))
    }

    fn base(&self) -> Option<Arc<Blocks>> {
        self.before.and_then(|digest| (self.scan.known)(digest))
    }

    fn later(&self, facts: Facts) -> bool {
        self.scan.is_for_later(facts, self.own)
    }
}

/// The outcome of looking at one name.
enum Look {
    Found(Found),
    /// The file that stood there.
    Same(Spot),
    /// A directory to be walked.
    Walk(SyncPath),
}

impl Place {
    /// The path of a name that was seen to fit one.
    fn inside(&self, name: &[u8]) -> SyncPath {
        self.path.join(name).expect("checked before it was looked at")
    }

    /// What stood at a name.
    pub(super) fn before(&self, name: &[u8]) -> Option<&Node> {
        self.previous.as_ref()?.get(name)
    }

    /// What stood there stays.
    fn kept(&self, name: &[u8]) -> Found {
        let before = self.before(name).filter(|_| !self.elsewhere);
        before.map_or(Found::Absent, |node| Found::Node(node.clone()))
    }

    /// What stood there stays, and is read again the next time.
    fn unsure(&self, name: &[u8]) -> Found {
        match self.before(name) {
            Some(&Node::File { digest, size, executable, .. }) if !self.elsewhere => {
                let stamp = Stamp::default();
                Found::Node(Node::File { digest, size, executable, stamp })
            }
            _ => self.kept(name),
        }
    }
}

/// The file that stood there, when by its facts it is the very same.
fn as_before(known: Option<(Spot, &Node)>, facts: Facts) -> Option<Look> {
    let Some((spot, &Node::File { digest, size, executable, stamp })) = known else { return None };
    if stamp == Stamp::default() || (stamp, size) != (facts.stamp, facts.size) {
        return None;
    }
    Some(match facts.executable {
        now if now == executable => Look::Same(spot),
        executable => Look::Found(Found::Node(Node::File { digest, size, executable, stamp })),
    })
}

/// Whether the rules keep a name; counts when not.
fn kept(rules: &Rules, name: &[u8], kind: FileType, worker: &mut Worker) -> bool {
    match rules.standing(name, kind == FileType::Directory) {
        Standing::Kept => return true,
        Standing::Ignored => worker.report.ignored += 1,
        Standing::Protected => worker.report.protected += 1,
    }
    false
}

/// What has vanished is absent; what cannot be looked at stays as it was, and is a Problem.
fn failed(place: &Place, name: &[u8], error: Errno, worker: &mut Worker) -> Found {
    if error == Errno::NOENT {
        return Found::Absent;
    }
    worker.problem(place.inside(name), error);
    place.kept(name)
}

/// The hinted names by the directory they lie in. Where a directory on the way was none before,
/// all of it is new, and it takes the hint's place. A single path counts as a subtree: when it is a
/// directory, it may be another one than before (`mv d elsewhere; mkdir d`).
fn grouped(previous: &Snapshot, hints: &Hints) -> BTreeMap<SyncPath, Names> {
    let mut groups: BTreeMap<SyncPath, BTreeSet<&[u8]>> = BTreeMap::new();
    for path in hints.paths().keys().chain(hints.subtrees().keys()) {
        let mut parent = SyncPath::root();
        for name in path.components() {
            let Ok(next) = parent.join(name) else { break };
            if next == *path || previous.dir(&next).is_none() {
                groups.entry(parent).or_default().insert(name);
                break;
            }
            parent = next;
        }
    }
    let names = |group: BTreeSet<&[u8]>| {
        let mut names = Names::default();
        group.into_iter().for_each(|name| names.push(name, None));
        names
    };
    groups.into_iter().map(|(parent, group)| (parent, names(group))).collect()
}

fn names_of(directory: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> Result<Names, Errno> {
    let mut names = Names::default();
    let mut entries = RawDir::new(directory, buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            let kind = Some(entry.file_type()).filter(|&kind| kind != FileType::Unknown);
            names.push(name.to_bytes(), kind);
        }
    }
    Ok(names)
}

/// Opens a directory of the tree without ever following a link or leaving the root.
fn open_beneath(root: &OwnedFd, path: &SyncPath) -> Result<OwnedFd, Errno> {
    let path = if path.is_root() { b"." } else { path.as_bytes() };
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, OPEN, Mode::empty(), beneath)
}
