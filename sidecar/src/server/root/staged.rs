//! Owns content on its way: bytes that are complete or gone, never half visible.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, MemfdFlags};
use rustix::io::Errno;

use super::error::{Fault, RootErrorKind};
use super::found::read_through;
use super::stage::Place;
use crate::tree::Digest;

/// The most that is held in memory for one write in place, in bytes.
const MAX_MEMORY_BYTES: u64 = 64 << 20;

/// Content on its way: written, not yet visible. Dropped, it is gone.
pub struct Staged {
    fd: OwnedFd,
    home: Home,
    length: u64,
}

/// Where staged content lies.
pub(super) enum Home {
    Ground(Arc<Place>, Vec<u8>),
    Beside(OwnedFd, Vec<u8>),
    /// In memory, or placed by now; the fault says why no directory would take it.
    Nameless(Fault),
}

impl Staged {
    pub(super) fn new(fd: OwnedFd, home: Home) -> Self {
        Self { fd, home, length: 0 }
    }

    /// Held in memory, since `refused` says that no directory would take it.
    pub(super) fn in_memory(refused: Fault, size_hint: u64) -> Result<Self, Fault> {
        if size_hint > MAX_MEMORY_BYTES {
            return Err(RootErrorKind::TooLarge.into());
        }
        let fd = rustix::fs::memfd_create(c"e2ek-sync", MemfdFlags::CLOEXEC)?;
        Ok(Self::new(fd, Home::Nameless(refused)))
    }

    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// What the kernel says, ENOSPC for one; EFBIG when only memory holds it and it grows too
    /// large. The caller drops the whole then.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.append(bytes).map_err(io::Error::from)
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Whether only memory holds it.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        matches!(self.home, Home::Nameless(_))
    }

    /// Says how much a clone of another file brought.
    pub(super) fn set_length(&mut self, length: u64) {
        self.length = length;
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The directory and name it can be renamed from; the fault says why there is none.
    pub(super) fn name(&self) -> Result<(BorrowedFd<'_>, &[u8]), Fault> {
        match &self.home {
            Home::Ground(place, name) => Ok((place.as_fd(), name)),
            Home::Beside(directory, name) => Ok((directory.as_fd(), name)),
            Home::Nameless(fault) => Err(*fault),
        }
    }

    /// The group a new file got.
    pub(super) fn gid(&self, ours: u32) -> Option<u32> {
        match &self.home {
            Home::Ground(place, _) if place.gid == ours => Some(ours),
            _ => None,
        }
    }

    /// Forgets the name: it is the file's now.
    pub(super) fn placed(&mut self) {
        self.home = Home::Nameless(RootErrorKind::Io.into());
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        if matches!(self.home, Home::Nameless(_))
            && self.length + bytes.len() as u64 > MAX_MEMORY_BYTES
        {
            return Err(Errno::FBIG);
        }
        write_whole(self.fd.as_fd(), bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Appends everything from the offset of `from` on; its digest and length.
    pub(super) fn take_all(
        &mut self,
        from: BorrowedFd<'_>,
        size: u64,
    ) -> Result<(Digest, u64), Errno> {
        let mut hasher = blake3::Hasher::new();
        let length = read_through(from, size, |bytes| {
            hasher.update(bytes);
            self.append(bytes)
        })?;
        Ok((Digest::from(hasher.finalize()), length))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Ok((directory, name)) = self.name() {
            let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
        }
    }
}

/// Writes all bytes at the current offset.
pub(super) fn write_whole(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
