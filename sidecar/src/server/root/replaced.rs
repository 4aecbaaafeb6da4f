//! Owns the files that others were renamed over or that were removed, until somebody has the time to let go
//! of them.
//!
//! The kernel frees the blocks of a file with its last name, unless somebody has it open: then with that.
//! On a file system that tells its disk of each freed block (mount option `discard`) whoever frees
//! waits for the disk: 1 ms for a small file, 100 ms and more while others write. So a file is held open
//! from before that, and let go where nobody waits. What is held is bounded: beyond that a file is freed
//! at once, as ever.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};

use super::found::{Found, FoundKind};

/// Most files held, of one root.
const MOST_FILES: usize = 64;
/// Most bytes that they take on the disk all the while.
const MOST_BYTES: u64 = 64 << 20;

/// Files without a name that are still open. Dropped, they are let go.
#[derive(Default)]
pub struct Replaced {
    files: Vec<OwnedFd>,
    bytes: u64,
}

impl Replaced {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    fn has_room(&self, size: u64) -> bool {
        self.files.len() < MOST_FILES && size <= MOST_BYTES.saturating_sub(self.bytes)
    }
}

/// Those of one root.
#[derive(Default)]
pub(super) struct Keeping(Mutex<Replaced>);

/// The file at a path, held open; `None` where it need not be, or cannot.
pub(super) struct Held(Option<(OwnedFd, u64)>);

impl Keeping {
    /// Holds what is about to be replaced or removed.
    pub(super) fn hold(&self, directory: BorrowedFd<'_>, name: &[u8], old: &Found) -> Held {
        // With another name it stays.
        if old.kind != FoundKind::File || old.nlink != 1 || !self.lock().has_room(old.size) {
            return Held(None);
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(directory, name, flags, Mode::empty());
        Held(opened.ok().map(|file| (file, old.size)))
    }

    /// It was replaced or removed.
    pub(super) fn keep(&self, held: Held) {
        let Some((file, size)) = held.0 else { return };
        let mut kept = self.lock();
        if kept.has_room(size) {
            kept.files.push(file);
            kept.bytes += size;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(super) fn take(&self) -> Replaced {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Replaced> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
