//! Owns content on its way: reads what an op needs, again if it must be, and puts it into messages.
//!
//! Content that the scan has just read is taken from memory. Anything else is read anew and hashed on
//! the way; what changed meanwhile is withdrawn before its last piece was sent, so that a target
//! never holds a mixture. Of a large file whose blocks the scan has told, only what changed is read.
//!
//! A change is sent as a patch of what the target has, as far as something is still known of that:
//! its bytes for a while ([`Contents`]), and longer a trace that takes a sixteenth of them or less.
//! The trace is made while the content is scanned or sent, so it costs no read, and it is kept by digest,
//! so that it serves every target that holds the content. A file keeps the traces for the next daemon.

mod kept;
mod kin;
mod known;
mod pace;
mod reading;
mod spill;
mod window;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::receive::root_index;
use e2ek_sidecar::tree::{Digest, Entry};
use e2ek_sidecar::wire::{How, Meta, Op, Shrunk};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};

pub use self::kin::{Kin, Likened};
use self::known::Base;
pub use self::known::Contents;
pub use self::pace::Pace;
pub use self::reading::Reading;
use self::reading::Traces;
pub use self::window::Window;

/// Where the hub is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Distance {
    /// On this machine: bytes cost next to nothing.
    Here,
    /// Behind a carrier that may be slow.
    Far,
}

impl Distance {
    /// Smallest content that is worth a patch, in bytes: below, a whole is as quickly there.
    fn patch_from(self) -> u64 {
        match self {
            Self::Here => 256 << 10,
            Self::Far => 256,
        }
    }
}

/// A larger file that has become longer may be sent as it was: else one that is appended to all the
/// time would never be. Smaller ones are read again sooner than that.
const GROWS_FROM_BYTES: u64 = 1 << 20;

/// Where a session's content comes from: the source directory of each path pair.
pub struct Origin {
    roots: Vec<PathBuf>,
    contents: Arc<Contents>,
    shrunk: Arc<Shrunk>,
}

/// The directory that was read from last. Ops come in path order, so the next one mostly lies in it;
/// not to be kept beyond one generation.
#[derive(Default)]
pub struct Folder(Option<(SyncPath, OwnedFd)>);

/// The file changed, vanished or cannot be read: its op is withdrawn.
#[derive(Debug)]
pub struct Changed;

impl Origin {
    /// The pairs' directories in their order.
    #[must_use]
    pub fn new(roots: Vec<PathBuf>, contents: Arc<Contents>) -> Self {
        Self { roots, contents, shrunk: Arc::default() }
    }

    /// The pairs' directories in their order.
    #[must_use]
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// What was read not long ago.
    #[must_use]
    pub fn contents(&self) -> &Arc<Contents> {
        &self.contents
    }

    /// What was compressed for one hub, for the others.
    #[must_use]
    pub fn shrunk(&self) -> &Arc<Shrunk> {
        &self.shrunk
    }

    /// Permission bits and modification time for an op that puts something; nothing for others and
    /// for what is gone. Asks the file system only for what the plan does not know and a hub uses:
    /// a file that is there already keeps its bits.
    #[must_use]
    pub fn meta(&self, op: &Op, folder: &mut Folder) -> Meta {
        let replaces = matches!(op.change.old, Some(Entry::File { .. }));
        match op.change.new {
            Some(Entry::File { .. }) if replaces && op.meta.mtime_ns != 0 => op.meta,
            Some(Entry::File { .. } | Entry::Directory) => {
                self.stat(&op.change.path, folder).unwrap_or_default()
            }
            _ => Meta::default(),
        }
    }

    fn stat(&self, path: &SyncPath, folder: &mut Folder) -> io::Result<Meta> {
        let wanted = StatxFlags::MODE | StatxFlags::MTIME;
        let found = match path.name().filter(|_| path.components().nth(1).is_some()) {
            Some(name) => {
                let directory = self.folder(path, folder)?;
                rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, wanted)?
            }
            None => rustix::fs::statx(self.open(path)?, c"", AtFlags::EMPTY_PATH, wanted)?,
        };
        let time = found.stx_mtime;
        Ok(Meta {
            mode: found.stx_mode & 0o777,
            mtime_ns: time.tv_sec.saturating_mul(1_000_000_000) + i64::from(time.tv_nsec),
        })
    }

    /// The directory that holds `path`, which is below a pair's.
    fn folder<'a>(&self, path: &SyncPath, folder: &'a mut Folder) -> io::Result<BorrowedFd<'a>> {
        let parent = path.parent().ok_or(io::ErrorKind::NotFound)?;
        let known = folder.0.take_if(|(known, _)| *known == parent);
        let found = match known {
            Some(known) => known,
            None => (parent.clone(), self.open(&parent)?),
        };
        Ok(folder.0.insert(found).1.as_fd())
    }

    /// Opens a directory beneath the pair's; no link is followed below that.
    fn open(&self, path: &SyncPath) -> io::Result<OwnedFd> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let (index, below) = root_index(path).ok_or_else(missing)?;
        let root = self.roots.get(index).ok_or_else(missing)?;
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(root, directory, Mode::empty())?;
        if below.is_root() {
            return Ok(root);
        }
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(root, below.as_bytes(), directory, Mode::empty(), resolve)?)
    }

    /// What a change is sent as: the patch of what the target has, where something is still known of
    /// that and it is worth it.
    #[must_use]
    pub fn patch(&self, op: &Op, distance: Distance) -> Option<Patch> {
        let (
            How::Data,
            Some(Entry::File { digest, size: old_size, .. }),
            Some(Entry::File { size, .. }),
        ) = (&op.how, &op.change.old, &op.change.new)
        else {
            return None;
        };
        if (*size).min(*old_size) < distance.patch_from() {
            return None;
        }
        self.patch_of(*digest, *size)
    }

    /// What makes a content of `size` bytes from the one of this digest.
    fn patch_of(&self, digest: Digest, size: u64) -> Option<Patch> {
        let traced = || self.contents.traced(digest).map(Base::Trace);
        let base = self.contents.base(digest);
        let base = base.filter(|base| Reading::can_patch(base, size)).or_else(traced);
        base.filter(|base| Reading::can_patch(base, size)).map(Patch)
    }

    /// The same for a new file that is much like another at the target, by its name (see [`Kin`]):
    /// and which that is. Once for a content: where it leads to nothing, all of it is sent.
    pub fn patch_like(
        &self,
        op: &Op,
        kin: &mut Kin<'_>,
        distance: Distance,
    ) -> Option<(SyncPath, Patch)> {
        let (How::Data, None, Some(Entry::File { digest, size, .. })) =
            (&op.how, &op.change.old, &op.change.new)
        else {
            return None;
        };
        if distance == Distance::Here || *size < distance.patch_from() {
            return None;
        }
        let (from, known) = kin.find(&op.change.path, *digest, *size)?;
        Some((from, self.patch_of(known, *size)?))
    }

    /// Begins to read an op's content, or the patch that makes it.
    ///
    /// # Errors
    /// When it is not there as the op says.
    pub fn read(
        &self,
        op: &Op,
        patch: Option<Patch>,
        distance: Distance,
        folder: &mut Folder,
    ) -> Result<Reading, Changed> {
        let Some(Entry::File { digest, size, .. }) = op.change.new else { return Err(Changed) };
        let base = patch.map(|Patch(base)| base);
        // Of what is never patched no trace is worth its making.
        let replaces = match op.change.old {
            Some(Entry::File { digest, .. }) => Some(digest),
            _ => None,
        };
        let traces = (size >= distance.patch_from()).then(|| Traces {
            contents: Arc::clone(&self.contents),
            replaces,
            known: self.contents.blocks(digest),
        });
        if let Some(content) = self.contents.get(digest) {
            if content.len() as u64 != size {
                return Err(Changed);
            }
            return Ok(Reading::memory(traces, digest, content, base));
        }
        let name = op.change.path.name().ok_or(Changed)?;
        let directory = self.folder(&op.change.path, folder).map_err(|_| Changed)?;
        // What takes the file's place meanwhile neither leads elsewhere nor keeps us waiting.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name, flags, Mode::empty());
        let file = file.map_err(|_| Changed)?;
        let found = rustix::fs::fstat(&file).map_err(|_| Changed)?;
        let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        let length = found.st_size.cast_unsigned();
        // One that has grown still begins with what it was, or that is found out on the way.
        let fits = length == size || length > size && size > GROWS_FROM_BYTES;
        if !regular || !fits {
            return Err(Changed);
        }
        Ok(Reading::file(traces, digest, size, file.into(), base))
    }
}

/// What a patch is made from; see [`Origin::patch`].
#[derive(Clone)]
pub struct Patch(Base);

/// The patches that the ops of one generation are sent as, by their index.
#[derive(Default)]
pub struct Patches {
    generation: u64,
    by_index: HashMap<u32, Patch>,
}

impl Patches {
    /// Of a generation, before anything is known of it.
    #[must_use]
    pub fn of(generation: u64) -> Self {
        Self { generation, by_index: HashMap::new() }
    }

    /// This op is sent as a patch.
    pub fn insert(&mut self, index: u32, patch: Patch) {
        self.by_index.insert(index, patch);
    }

    /// What the op of a generation is sent as.
    #[must_use]
    pub fn get(&self, generation: u64, index: u32) -> Option<Patch> {
        let known = (generation == self.generation).then(|| self.by_index.get(&index));
        known.flatten().cloned()
    }
}
