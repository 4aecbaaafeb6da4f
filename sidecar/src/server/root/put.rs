//! Owns the moment a file becomes visible: owner, mode and time first, then one rename.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, FallocateFlags, Gid, Mode, OFlags, RenameFlags, SeekFrom, Timespec, Timestamps,
    UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use super::error::{Fault, RootError, RootErrorKind};
use super::found::{Found, FoundKind, look, look_at, mount_id, open_checked, read_through};
use super::staged::{Staged, write_whole};
use super::{Owner, TargetRoot, WriteMode};
use crate::path::SyncPath;
use crate::tree::Stamp;

const SECOND_NS: i64 = 1_000_000_000;

/// What a file shall be beyond its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PutMeta {
    /// Whether it may be executed; the one permission that is content.
    pub executable: bool,
    /// The source's permission bits, for a new file only; setuid, setgid and sticky are dropped.
    /// Without them `0644`, executable `0755`.
    pub mode: Option<u32>,
    /// The source's modification time in nanoseconds since the epoch; now, when absent. Moved
    /// forward where it would hide the change from `make` or a `.pyc`.
    pub mtime_ns: Option<i64>,
}

/// A file that is in place now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// To recognise our own write later.
    pub stamp: Stamp,
    /// Why the old file was overwritten instead of replaced, if it was: for that while a reader
    /// may have seen a mixture (the exception of I1, to be reported).
    pub in_place: Option<InPlace>,
}

/// Why a file was written in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InPlace {
    /// Something is mounted on it; a rename would detach that.
    MountPoint,
    /// Its directory takes no new names from us.
    Directory,
    /// [`WriteMode::InPlace`].
    Asked,
    /// It is large and little of it changed ([`TargetRoot::patch_in_place`]).
    Patch,
}

/// How one file gets to its place.
enum Way {
    Rename,
    InPlace(InPlace),
}

impl TargetRoot {
    /// Makes the staged content the file at `path`, whatever file or link stood there; an empty
    /// directory makes room.
    ///
    /// # Errors
    /// [`RootErrorKind::NotEmpty`], [`RootErrorKind::MountPoint`] (a directory) or
    /// [`RootErrorKind::NotRegular`] when what stands there must stay; else what the kernel says.
    /// After an error the old file is whole, save one that was being written in place.
    pub fn put(&self, path: &SyncPath, staged: Staged, meta: &PutMeta) -> Result<Put, RootError> {
        let put = self.put_if(path, staged, meta, |_| Ok::<(), Infallible>(()))?;
        Ok(put.unwrap_or_else(|never| match never {}))
    }

    /// As [`TargetRoot::put`], if `may` agrees to what is found at `path` right before. Twelve
    /// system calls for a new small file, staging included.
    ///
    /// # Errors
    /// As there. Inside: why `may` did not agree; then nothing was changed.
    pub fn put_if<No>(
        &self,
        path: &SyncPath,
        staged: Staged,
        meta: &PutMeta,
        may: impl FnOnce(Option<&Found>) -> Result<(), No>,
    ) -> Result<Result<Put, No>, RootError> {
        let put = || {
            let (directory, name) = self.parent(path)?;
            let old = look(directory.as_fd(), name)?;
            if let Err(no) = may(old.as_ref()) {
                return Ok(Err(no));
            }
            self.put_staged((path, directory.as_fd(), name), old, staged, meta).map(Ok)
        };
        put().map_err(|fault: Fault| fault.at("write", path))
    }

    fn put_staged(
        &self,
        (path, directory, name): (&SyncPath, BorrowedFd<'_>, &[u8]),
        old: Option<Found>,
        mut staged: Staged,
        meta: &PutMeta,
    ) -> Result<Put, Fault> {
        let reason = match self.way(old.as_ref(), &staged)? {
            Way::InPlace(reason) => reason,
            Way::Rename => {
                self.dress(directory, old.as_ref(), &staged, meta)?;
                let replaced = old.as_ref().map(|old| self.replaced.hold(directory, name, old));
                let mut done = self.rename_in(&staged, directory, name, old.as_ref());
                if done.as_ref().is_err_and(|fault| fault.is(Errno::XDEV)) {
                    staged = self.restage(&staged, path)?;
                    self.dress(directory, old.as_ref(), &staged, meta)?;
                    done = self.rename_in(&staged, directory, name, old.as_ref());
                }
                match done {
                    Ok(()) => {
                        staged.placed();
                        replaced.into_iter().for_each(|replaced| self.replaced.keep(replaced));
                        return Ok(Put { stamp: look_at(staged.fd())?.stamp, in_place: None });
                    }
                    Err(fault) if fault.kind == RootErrorKind::Denied && lone(old.as_ref()) => {
                        InPlace::Directory
                    }
                    Err(fault) => return Err(fault),
                }
            }
        };
        let old = old.ok_or(RootErrorKind::Changed)?;
        match overwrite(directory, name, &old, &staged, meta) {
            // A running program: rename works where writing does not.
            Err(fault) if fault.is(Errno::TXTBSY) && reason == InPlace::Asked => {
                self.dress(directory, Some(&old), &staged, meta)?;
                self.rename_in(&staged, directory, name, Some(&old))?;
                staged.placed();
                Ok(Put { stamp: look_at(staged.fd())?.stamp, in_place: None })
            }
            written => Ok(Put { stamp: written?, in_place: Some(reason) }),
        }
    }

    fn way(&self, old: Option<&Found>, staged: &Staged) -> Result<Way, Fault> {
        let nameless = staged.name().err();
        let Some(old) = old else {
            return nameless.map_or(Ok(Way::Rename), Err);
        };
        match &old.kind {
            FoundKind::Other => Err(RootErrorKind::NotRegular.into()),
            FoundKind::File if old.mount_root => Ok(Way::InPlace(InPlace::MountPoint)),
            _ if old.mount_root => Err(RootErrorKind::MountPoint.into()),
            FoundKind::File if nameless.is_some() && lone(Some(old)) => {
                Ok(Way::InPlace(InPlace::Directory))
            }
            FoundKind::File if self.settings.write == WriteMode::InPlace && lone(Some(old)) => {
                Ok(Way::InPlace(InPlace::Asked))
            }
            _ => nameless.map_or(Ok(Way::Rename), Err),
        }
    }

    /// Gives the staged file its owner, mode and time, in this order: a change of owner may clear
    /// mode bits.
    fn dress(
        &self,
        directory: BorrowedFd<'_>,
        old: Option<&Found>,
        staged: &Staged,
        meta: &PutMeta,
    ) -> Result<(), Fault> {
        let old = old.filter(|found| found.kind == FoundKind::File);
        if old.is_some_and(|old| self.is_fleeting(old)) && !staged.is_empty() {
            // A file that has its blocks is not sent to the disk when it is renamed over another (ext4,
            // `auto_da_alloc`): that waits while others write. The time is set after it.
            let all = FallocateFlags::KEEP_SIZE;
            let _ = rustix::fs::fallocate(staged.fd(), all, 0, staged.len());
        }
        let (uid, gid) = match old {
            Some(found) => (found.uid, found.gid),
            None => self.owner_in(directory)?,
        };
        if (uid, Some(gid)) != (self.us.0, staged.gid(self.us.1)) {
            self.give(staged.fd(), uid, gid)?;
        }
        rustix::fs::fchmod(staged.fd(), Mode::from(mode_for(old, meta)))?;
        set_mtime(staged.fd(), old, meta, staged.len())
    }

    /// Whether what lies where this was found goes with the machine's next start: on another device is a
    /// volume.
    fn is_fleeting(&self, old: &Found) -> bool {
        self.settings.fleeting && old.device == self.identity.device
    }

    /// Who shall own something new in `directory`.
    pub(super) fn owner_in(&self, directory: BorrowedFd<'_>) -> Result<(u32, u32), Fault> {
        match self.settings.owner {
            Owner::Fixed { uid, gid } => Ok((uid, gid)),
            Owner::Directory => {
                let above = look_at(directory)?;
                Ok((above.uid, above.gid))
            }
        }
    }

    /// Gives an open file away; without the privilege only its group is tried.
    pub(super) fn give(&self, fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<(), Fault> {
        let group = Some(Gid::from_raw(gid));
        match rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), group) {
            Err(Errno::PERM | Errno::INVAL) => {
                let _ = rustix::fs::fchown(fd, None, group);
                Ok(())
            }
            done => Ok(done?),
        }
    }

    fn rename_in(
        &self,
        staged: &Staged,
        directory: BorrowedFd<'_>,
        name: &[u8],
        old: Option<&Found>,
    ) -> Result<(), Fault> {
        install(staged.name()?, directory, name, old, false)
    }
}

/// Renames `from` to `directory/name`, where `old` was just seen, so that at each instant one of
/// the two is there. What appeared meanwhile is not overwritten.
pub(super) fn install(
    from: (BorrowedFd<'_>, &[u8]),
    directory: BorrowedFd<'_>,
    name: &[u8],
    old: Option<&Found>,
    new_is_directory: bool,
) -> Result<(), Fault> {
    let (aside, staged) = from;
    let old_is_directory = match old.map(|found| &found.kind) {
        None => return rename_new(from, directory, name),
        Some(kind) => *kind == FoundKind::Directory,
    };
    if !old_is_directory && !new_is_directory {
        return Ok(rustix::fs::renameat(aside, staged, directory, name)?);
    }
    let remove = if old_is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    if old_is_directory && !is_empty(directory, name)? {
        return Err(RootErrorKind::NotEmpty.into());
    }
    let exchange =
        || rustix::fs::renameat_with(aside, staged, directory, name, RenameFlags::EXCHANGE);
    match exchange() {
        Ok(()) => match rustix::fs::unlinkat(aside, staged, remove) {
            Ok(()) => Ok(()),
            Err(errno) => {
                // Filled between the look and the exchange: back with it.
                exchange()?;
                Err(errno.into())
            }
        },
        Err(Errno::XDEV) if mount_id(aside) != mount_id(directory) => Err(Errno::XDEV.into()),
        // A directory of an image layer or a plain file system: for a moment nothing is there.
        Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::unlinkat(directory, name, remove)?;
            rename_new(from, directory, name)
        }
        Err(errno) => Err(errno.into()),
    }
}

fn rename_new(
    from: (BorrowedFd<'_>, &[u8]),
    directory: BorrowedFd<'_>,
    name: &[u8],
) -> Result<(), Fault> {
    let (aside, staged) = from;
    match rustix::fs::renameat_with(aside, staged, directory, name, RenameFlags::NOREPLACE) {
        // A file system without the flag (NFS, some FUSE).
        Err(Errno::INVAL | Errno::NOSYS) => {
            Ok(rustix::fs::renameat(aside, staged, directory, name)?)
        }
        done => Ok(done?),
    }
}

fn is_empty(directory: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Fault> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inside = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let mut empty = true;
    super::found::each_name(inside.as_fd(), |_| empty = false)?;
    Ok(empty)
}

/// Overwrites an existing file, complete content at hand: never truncated first, so that a reader
/// finds old or new bytes at each offset.
fn overwrite(
    directory: BorrowedFd<'_>,
    name: &[u8],
    old: &Found,
    staged: &Staged,
    meta: &PutMeta,
) -> Result<Stamp, Fault> {
    let fd = open_checked(directory, name, OFlags::WRONLY)?;
    let now = look_at(fd.as_fd())?;
    if (now.device, now.stamp.inode) != (old.device, old.stamp.inode) {
        return Err(RootErrorKind::Changed.into());
    }
    if staged.len() > old.size {
        // A full disk is found out before the first byte is lost.
        let room = rustix::fs::fallocate(&fd, FallocateFlags::KEEP_SIZE, 0, staged.len());
        if let Err(errno @ (Errno::NOSPC | Errno::DQUOT)) = room {
            return Err(errno.into());
        }
    }
    rustix::fs::seek(staged.fd(), SeekFrom::Start(0))?;
    read_through(staged.fd(), staged.len(), |bytes| write_whole(fd.as_fd(), bytes))?;
    rustix::fs::ftruncate(&fd, staged.len())?;
    let mode = mode_for(Some(old), meta);
    if mode != old.mode {
        rustix::fs::fchmod(&fd, Mode::from(mode))?;
    }
    // Only the owner may set times; a file that is merely writable keeps "now".
    match set_mtime(fd.as_fd(), Some(old), meta, staged.len()) {
        Err(fault) if fault.kind != RootErrorKind::Denied => return Err(fault),
        _ => {}
    }
    Ok(look_at(fd.as_fd())?.stamp)
}

/// Whether a regular file has one name only, so that writing in place touches nothing else.
fn lone(old: Option<&Found>) -> bool {
    old.is_some_and(|found| found.kind == FoundKind::File && found.nlink == 1)
}

/// The permission bits: an existing file's, else the source's, with the executable bit as told and
/// never setuid, setgid or sticky (the content is new, so the privilege is not deserved).
pub(super) fn mode_for(old: Option<&Found>, meta: &PutMeta) -> u32 {
    let usual = if meta.executable { 0o755 } else { 0o644 };
    let base = old.map_or(meta.mode.unwrap_or(usual), |found| found.mode) & 0o777;
    with_executable(base, meta.executable)
}

/// The bits with the owner's executable bit set or cleared, and that of the others who may read.
pub(super) fn with_executable(mode: u32, executable: bool) -> u32 {
    match (mode & 0o100 != 0, executable) {
        (true, false) => mode & !0o111,
        (false, true) => mode | 0o100 | ((mode & 0o444) >> 2),
        _ => mode,
    }
}

pub(super) fn set_mtime(
    fd: BorrowedFd<'_>,
    old: Option<&Found>,
    meta: &PutMeta,
    size: u64,
) -> Result<(), Fault> {
    let wanted = match (meta.mtime_ns, old) {
        (Some(wanted), _) => wanted,
        (None, None) => return Ok(()),
        (None, Some(_)) => look_at(fd)?.stamp.mtime_ns,
    };
    let mtime = old.map_or(wanted, |found| mtime_after(wanted, found, size));
    Ok(rustix::fs::futimens(fd, &times(mtime))?)
}

/// The time a changed file gets: later than before, and in another whole second when the size is
/// the same, since `.pyc` files compare just these two.
pub(super) fn mtime_after(wanted_ns: i64, old: &Found, size: u64) -> i64 {
    let before = old.stamp.mtime_ns;
    let after = wanted_ns.max(before.saturating_add(1));
    if size == old.size && after.div_euclid(SECOND_NS) == before.div_euclid(SECOND_NS) {
        return (before.div_euclid(SECOND_NS) + 1).saturating_mul(SECOND_NS);
    }
    after
}

pub(super) fn times(mtime_ns: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: mtime_ns.div_euclid(SECOND_NS),
            tv_nsec: mtime_ns.rem_euclid(SECOND_NS),
        },
    }
}
