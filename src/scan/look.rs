//! Owns the look at one name of a directory: what stands there now, and whether it must be read.

use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use e2ek_sidecar::delta::Blocks;
use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Digest, Node, Problem, Reason, Spot, Stamp};
use rustix::fs::FileType;
use rustix::io::Errno;

use super::Traced;
use super::assemble::Found;
use super::file::{Facts, Read, ReadError, Wanted, read};
use super::grain::wall_clock;
use super::names::Name;
use super::rules::{Rules, Standing};
use super::walk::{Place, Scan, Worker};

/// Smallest file that may be left for later, in bytes: it takes some milliseconds to hash.
const LATER_FROM_BYTES: u64 = 8 << 20;
/// About what the report's table takes for a content: small ones are many.
const ENTRY_BYTES: usize = 96;

/// The outcome of looking at one name.
pub(super) enum Look {
    Found(Found),
    /// The file that stood there.
    Same(Spot),
    /// A directory to be walked.
    Walk(SyncPath),
}

impl Scan<'_> {
    pub(super) fn look(
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
