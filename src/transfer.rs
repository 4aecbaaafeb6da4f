//! Owns content on its way: reads what an op needs, again if it must be, and puts it into messages.
//!
//! Content that the scan has just read is taken from memory. Anything else is read anew and hashed on
//! the way; what changed meanwhile is withdrawn before its last piece was sent, so that a target
//! never holds a mixture.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::receive::root_index;
use e2ek_sidecar::tree::{Digest, Entry};
use e2ek_sidecar::wire::{Meta, Op, PIECE_BYTES};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};

/// Content kept from scans, in bytes: enough for the saves of some seconds.
const KEPT_BYTES: usize = 8 << 20;

/// Content that was read not long ago, by digest. Shared by all targets; the oldest goes first.
#[derive(Default)]
pub struct Contents {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_digest: HashMap<Digest, Arc<[u8]>>,
    order: VecDeque<Digest>,
    bytes: usize,
}

impl Contents {
    /// Keeps what a scan has read.
    pub fn keep(&self, contents: HashMap<Digest, Arc<[u8]>>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (digest, content) in contents {
            let len = content.len();
            if len <= KEPT_BYTES && kept.by_digest.insert(digest, content).is_none() {
                kept.order.push_back(digest);
                kept.bytes += len;
            }
        }
        while kept.bytes > KEPT_BYTES
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.bytes -= kept.by_digest.remove(&oldest).map_or(0, |content| content.len());
        }
    }

    /// Lets go of all of it: after much was sent nothing of that is asked for again.
    pub fn clear(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }

    fn get(&self, digest: Digest) -> Option<Arc<[u8]>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.by_digest.get(&digest).cloned()
    }
}

/// Where a session's content comes from: the source directory of each path pair.
pub struct Origin {
    roots: Vec<PathBuf>,
    contents: Arc<Contents>,
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
        Self { roots, contents }
    }

    /// The pairs' directories in their order.
    #[must_use]
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// What was read not long ago.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
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

    /// Begins to read an op's content.
    ///
    /// # Errors
    /// When it is not there as the op says.
    pub fn read(&self, op: &Op, folder: &mut Folder) -> Result<Reading, Changed> {
        let Some(Entry::File { digest, size, .. }) = op.change.new else { return Err(Changed) };
        if let Some(content) = self.contents.get(digest) {
            return Ok(Reading { digest, left: size, from: From::Memory(content) });
        }
        let name = op.change.path.name().ok_or(Changed)?;
        let directory = self.folder(&op.change.path, folder).map_err(|_| Changed)?;
        // What takes the file's place meanwhile neither leads elsewhere nor keeps us waiting.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name, flags, Mode::empty());
        let file = file.map_err(|_| Changed)?;
        let found = rustix::fs::fstat(&file).map_err(|_| Changed)?;
        let regular = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        if !regular || found.st_size.cast_unsigned() != size {
            return Err(Changed);
        }
        let from = From::File(file.into(), Box::new(blake3::Hasher::new()));
        Ok(Reading { digest, left: size, from })
    }
}

/// The content of one op, piece by piece.
pub struct Reading {
    digest: Digest,
    left: u64,
    from: From,
}

enum From {
    Memory(Arc<[u8]>),
    File(std::fs::File, Box<blake3::Hasher>),
}

impl Reading {
    /// The next piece, at most [`PIECE_BYTES`] of a file, all of what lies in memory; `None` after
    /// the last. The last is given only when the whole is what the op says.
    ///
    /// # Errors
    /// When it is not.
    pub fn piece(&mut self, buffer: &mut Vec<u8>) -> Result<bool, Changed> {
        if self.left == 0 {
            return Ok(false);
        }
        buffer.clear();
        match &mut self.from {
            From::Memory(content) => {
                if content.len() as u64 != self.left {
                    return Err(Changed);
                }
                buffer.extend_from_slice(content);
            }
            From::File(file, hasher) => {
                let len = self.left.min(PIECE_BYTES as u64);
                file.take(len).read_to_end(buffer).map_err(|_| Changed)?;
                if buffer.len() as u64 != len {
                    return Err(Changed);
                }
                hasher.update(buffer);
                if len == self.left && Digest::from(hasher.finalize()) != self.digest {
                    return Err(Changed);
                }
            }
        }
        self.left -= buffer.len() as u64;
        Ok(true)
    }
}
