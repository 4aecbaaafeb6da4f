//! Owns looking: what stands at a path, what a directory holds, what a file's bytes hash to.
//! Nothing here writes, follows a link, or opens anything but regular files and directories.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::beneath::Directory;
use super::error::{Fault, RootError, RootErrorKind};
use super::{TargetRoot, is_ours};
use crate::path::SyncPath;
use crate::tree::{Digest, Stamp};

/// What stands at a path, as `statx` tells it without following a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// File, directory, link or something we do not touch.
    pub kind: FoundKind,
    /// Cache key of a regular file's content; for others merely identity and times.
    pub stamp: Stamp,
    /// In bytes.
    pub size: u64,
    /// Whether the owner may execute it.
    pub executable: bool,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names this inode has. More than one: it is not written in place.
    pub nlink: u32,
    /// Whether something is mounted exactly here. Never renamed over, unlinked or removed.
    pub mount_root: bool,
    /// The device it lies on.
    pub device: u64,
}

/// The kinds of [`Found`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and its bytes.
    Symlink {
        /// Verbatim.
        target: Box<[u8]>,
    },
    /// A FIFO, socket or device: never opened, never replaced.
    Other,
}

/// A directory whose names are looked at one after the other.
pub struct NamesIn<'a>(Directory<'a>);

impl NamesIn<'_> {
    /// What stands at one name; `None` for nothing and for names of ours.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn stat(&self, name: &[u8]) -> Result<Option<Found>, RootErrorKind> {
        if is_ours(name) {
            return Ok(None);
        }
        look(self.0.as_fd(), name).map_err(|fault| fault.kind)
    }
}

/// The names of a directory with what stands there.
pub type Listing = Vec<(Box<[u8]>, Found)>;

/// Attempts at reading a file that changes while it is read.
const STABLE_READS: usize = 3;
/// The most that is read at once, in bytes (engine.md section 2).
pub(super) const READ_BYTES: usize = 256 * 1024;
const DIRECTORY_BUFFER_BYTES: usize = 32 * 1024;

impl TargetRoot {
    /// What stands at `path`; `None` for nothing, also when a directory on the way is missing or
    /// is a file. The root itself may be asked for.
    ///
    /// # Errors
    /// A link on the way, or what the kernel says.
    pub fn stat(&self, path: &SyncPath) -> Result<Option<Found>, RootError> {
        self.find(path).map_err(|fault| fault.at("look at", path))
    }

    /// The content hash of the regular file at `path` with what it was at that moment; `None` for
    /// nothing. Costs one read of the file.
    ///
    /// # Errors
    /// [`RootErrorKind::NotRegular`] for anything but a file, [`RootErrorKind::Changed`] when it
    /// changed during each of three reads.
    pub fn hash(&self, path: &SyncPath) -> Result<Option<(Digest, Found)>, RootError> {
        self.hash_stable(path).map_err(|fault| fault.at("read", path))
    }

    /// Opens the regular file at `path` for reading.
    ///
    /// # Errors
    /// [`RootErrorKind::NotFound`]; [`RootErrorKind::NotRegular`] for anything but a file, which is
    /// not opened.
    pub fn open_file(&self, path: &SyncPath) -> Result<File, RootError> {
        self.open_regular(path).map(File::from).map_err(|fault| fault.at("read", path))
    }

    /// Every name in the directory `path` with what stands there, in no particular order. Names
    /// that vanish meanwhile and names of ours are left out. Costs one `statx` per name.
    ///
    /// # Errors
    /// As [`TargetRoot::stat`]; [`RootErrorKind::NotFound`] when nothing is there.
    pub fn list(&self, path: &SyncPath) -> Result<Listing, RootError> {
        self.read_directory(path).map_err(|fault| fault.at("list", path))
    }

    /// Opens the directory `path` to look at many names in it, one `statx` each.
    ///
    /// # Errors
    /// As [`TargetRoot::list`].
    pub fn names_in(&self, path: &SyncPath) -> Result<NamesIn<'_>, RootError> {
        self.directory(path).map(NamesIn).map_err(|fault| fault.at("look at", path))
    }

    fn find(&self, path: &SyncPath) -> Result<Option<Found>, Fault> {
        if path.is_root() {
            return Ok(Some(found(self.fd.as_fd(), b"", AtFlags::EMPTY_PATH)?));
        }
        let (directory, name) = match self.parent(path) {
            Err(fault) if fault.means_absent() => return Ok(None),
            parent => parent?,
        };
        look(directory.as_fd(), name)
    }

    fn hash_stable(&self, path: &SyncPath) -> Result<Option<(Digest, Found)>, Fault> {
        for _ in 0..STABLE_READS {
            let fd = match self.open_regular(path) {
                Err(fault) if fault.means_absent() => return Ok(None),
                opened => opened?,
            };
            let before = found(fd.as_fd(), b"", AtFlags::EMPTY_PATH)?;
            let (digest, bytes) = match digest_of(fd.as_fd(), before.size) {
                Err(Errno::AGAIN) => continue,
                read => read?,
            };
            let after = found(fd.as_fd(), b"", AtFlags::EMPTY_PATH)?;
            if before.stamp == after.stamp && before.size == after.size && bytes == after.size {
                return Ok(Some((digest, after)));
            }
        }
        Err(RootErrorKind::Changed.into())
    }

    pub(super) fn open_regular(&self, path: &SyncPath) -> Result<OwnedFd, Fault> {
        let (directory, name) = self.parent(path)?;
        match look(directory.as_fd(), name)? {
            None => return Err(Errno::NOENT.into()),
            Some(Found { kind: FoundKind::File, .. }) => {}
            Some(_) => return Err(RootErrorKind::NotRegular.into()),
        }
        open_checked(directory.as_fd(), name, OFlags::RDONLY)
    }

    fn read_directory(&self, path: &SyncPath) -> Result<Listing, Fault> {
        let directory = self.directory(path)?;
        let mut names = Vec::new();
        each_name(directory.as_fd(), |name| names.push(Box::from(name)))?;
        let mut list = Vec::with_capacity(names.len());
        for name in names {
            if let Some(found) = look(directory.as_fd(), &name)?.filter(|_| !is_ours(&name)) {
                list.push((name, found));
            }
        }
        Ok(list)
    }
}

/// Opens a name that was just seen to be a regular file, and makes sure that it still is: a FIFO
/// put there meanwhile neither blocks us nor is read.
pub(super) fn open_checked(
    directory: BorrowedFd<'_>,
    name: &[u8],
    access: OFlags,
) -> Result<OwnedFd, Fault> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(fd),
        _ => Err(RootErrorKind::NotRegular.into()),
    }
}

/// What stands at one name of an open directory.
pub(super) fn look(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Found>, Fault> {
    match found(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// As [`look`], of the open file itself.
pub(super) fn look_at(fd: BorrowedFd<'_>) -> Result<Found, Errno> {
    found(fd, b"", AtFlags::EMPTY_PATH)
}

fn found(directory: BorrowedFd<'_>, name: &[u8], flags: AtFlags) -> Result<Found, Errno> {
    let stat = rustix::fs::statx(
        directory,
        name,
        flags | AtFlags::NO_AUTOMOUNT,
        StatxFlags::BASIC_STATS | StatxFlags::MNT_ID,
    )?;
    let kind = match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
        FileType::RegularFile => FoundKind::File,
        FileType::Directory => FoundKind::Directory,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(directory, name, Vec::new())?;
            FoundKind::Symlink { target: target.into_bytes().into() }
        }
        _ => FoundKind::Other,
    };
    Ok(Found {
        kind,
        stamp: stamp(&stat),
        size: stat.stx_size,
        executable: stat.stx_mode & 0o100 != 0,
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        nlink: stat.stx_nlink,
        mount_root: mount_root(directory, name, &stat)?,
        device: device(&stat),
    })
}

fn stamp(stat: &Statx) -> Stamp {
    let nanoseconds = |time: &rustix::fs::StatxTimestamp| {
        time.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(time.tv_nsec))
    };
    Stamp {
        inode: stat.stx_ino,
        mtime_ns: nanoseconds(&stat.stx_mtime),
        ctime_ns: nanoseconds(&stat.stx_ctime),
    }
}

pub(super) fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// Whether something is mounted at `name`. Before Linux 5.8 `statx` does not know; then the mount
/// ids of the name and its directory are compared, and where procfs does not tell them, devices.
fn mount_root(directory: BorrowedFd<'_>, name: &[u8], stat: &Statx) -> Result<bool, Errno> {
    if stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    if name.is_empty() {
        return Ok(false);
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let entry = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    if let (Some(above), Some(here)) = (told_mount_id(directory), told_mount_id(entry.as_fd())) {
        return Ok(above != here);
    }
    let above = rustix::fs::statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    Ok(device(&above) != device(stat))
}

/// The mount id of an open file: from `statx`, else from procfs; `None` where neither tells.
pub(super) fn mount_id(fd: BorrowedFd<'_>) -> Option<u64> {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    mount_id_in(&stat, fd)
}

/// The same, for who has just asked for it.
pub(super) fn mount_id_in(stat: &Statx, fd: BorrowedFd<'_>) -> Option<u64> {
    if stat.stx_mask & StatxFlags::MNT_ID.bits() != 0 {
        return Some(stat.stx_mnt_id);
    }
    told_mount_id(fd)
}

fn told_mount_id(fd: BorrowedFd<'_>) -> Option<u64> {
    use std::os::fd::AsRawFd;
    let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    told.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
}

/// Hands every name of a directory but `.` and `..` to `each`.
pub(super) fn each_name(
    directory: BorrowedFd<'_>,
    mut each: impl FnMut(&[u8]),
) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, c".", flags, Mode::empty())?;
    let mut buffer = vec![MaybeUninit::uninit(); DIRECTORY_BUFFER_BYTES];
    let mut entries = RawDir::new(fd, &mut buffer);
    while let Some(entry) = entries.next() {
        match entry?.file_name().to_bytes() {
            b"." | b".." => {}
            name => each(name),
        }
    }
    Ok(())
}

/// Digest and length of everything from the current offset of `fd`.
pub(super) fn digest_of(fd: BorrowedFd<'_>, size: u64) -> Result<(Digest, u64), Errno> {
    let mut hasher = blake3::Hasher::new();
    let length = read_through(fd, size, |bytes| {
        hasher.update(bytes);
        Ok(())
    })?;
    Ok((Digest::from(hasher.finalize()), length))
}

/// Reads to the end, handing on each piece; returns the bytes read. EAGAIN when there is more than
/// `size`: a file that somebody else keeps growing does not keep us.
pub(super) fn read_through(
    fd: BorrowedFd<'_>,
    size: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), Errno>,
) -> Result<u64, Errno> {
    // One byte more than the size, so that the end of a file that did not grow is seen at once.
    let room = usize::try_from(size).unwrap_or(READ_BYTES).clamp(4095, READ_BYTES - 1) + 1;
    let mut buffer = vec![0; room];
    let mut length = 0;
    loop {
        match rustix::io::read(fd, buffer.as_mut_slice()) {
            Ok(0) => return Ok(length),
            Ok(count) => {
                take(&buffer[..count])?;
                length += count as u64;
                if length > size {
                    return Err(Errno::AGAIN);
                }
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
