//! Owns a large file's change in place: only what is different is written.

use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::TargetRoot;
use super::error::{Fault, RootError, RootErrorKind};
use super::found::{Found, FoundKind, look, look_at, open_checked};
use super::put::{PutMeta, mode_for, set_mtime};
use crate::path::SyncPath;
use crate::tree::Stamp;

/// Where some bytes of a file go, and they; `None` after the last.
pub type Extents<'a> = &'a mut dyn FnMut() -> std::io::Result<Option<(u64, Vec<u8>)>>;

impl TargetRoot {
    /// Writes `extents` into the regular file at `path`, which still is the inode that `old` tells of,
    /// and makes it `size` bytes long. A reader may see a mixture (the exception of I1); whoever calls
    /// has kept what is written, so that it can be done again.
    ///
    /// # Errors
    /// [`RootErrorKind::Changed`] when another file stands there, [`RootErrorKind::NotRegular`] when it
    /// has several names or is mounted on, and what the kernel says to the opening, ETXTBSY for one:
    /// then nothing was written. After another error some of it may have been.
    pub fn patch_in_place(
        &self,
        path: &SyncPath,
        old: (u64, u64),
        size: u64,
        meta: &PutMeta,
        extents: Extents<'_>,
    ) -> Result<Stamp, RootError> {
        self.write_extents(path, old, size, meta, extents).map_err(|fault| fault.at("patch", path))
    }

    fn write_extents(
        &self,
        path: &SyncPath,
        (device, inode): (u64, u64),
        size: u64,
        meta: &PutMeta,
        extents: Extents<'_>,
    ) -> Result<Stamp, Fault> {
        let (directory, name) = self.parent(path)?;
        let found = look(directory.as_fd(), name)?.ok_or(Errno::NOENT)?;
        if !can_patch(&found) {
            return Err(RootErrorKind::NotRegular.into());
        }
        let fd = open_checked(directory.as_fd(), name, OFlags::WRONLY)?;
        let now = look_at(fd.as_fd())?;
        if (now.device, now.stamp.inode) != (device, inode) {
            return Err(RootErrorKind::Changed.into());
        }
        if size > now.size {
            // A full disk is found out before the first byte is lost.
            let room = rustix::fs::fallocate(&fd, FallocateFlags::KEEP_SIZE, 0, size);
            if let Err(errno @ (Errno::NOSPC | Errno::DQUOT)) = room {
                return Err(errno.into());
            }
        }
        let io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        while let Some((mut offset, bytes)) = extents().map_err(io)? {
            let mut bytes = &bytes[..];
            while !bytes.is_empty() {
                match rustix::io::pwrite(&fd, bytes, offset) {
                    Ok(0) => return Err(Errno::IO.into()),
                    Ok(count) => {
                        offset += count as u64;
                        bytes = &bytes[count..];
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        if size != now.size {
            rustix::fs::ftruncate(&fd, size)?;
        }
        let mode = mode_for(Some(&now), meta);
        if mode != now.mode {
            rustix::fs::fchmod(&fd, Mode::from(mode))?;
        }
        // Only the owner may set times; a file that is merely writable keeps "now".
        match set_mtime(fd.as_fd(), Some(&now), meta, size) {
            Err(fault) if fault.kind != RootErrorKind::Denied => return Err(fault),
            _ => {}
        }
        Ok(look_at(fd.as_fd())?.stamp)
    }
}

/// Whether a file may be changed in place: writing it touches nothing else.
#[must_use]
pub fn can_patch(found: &Found) -> bool {
    found.kind == FoundKind::File && found.nlink == 1 && !found.mount_root
}
