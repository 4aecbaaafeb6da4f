//! Owns everything but content: renames, directories, links, the executable bit, removals.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

use super::error::{Fault, RootError, RootErrorKind};
use super::found::{Found, FoundKind, look, look_at, open_checked};
use super::put::{PutMeta, install, mtime_after, times, with_executable};
use super::stage::cannot_stage;
use super::{Links, TargetRoot};
use crate::path::SyncPath;
use crate::tree::Stamp;

/// How an attempt to remove ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It was there and is gone.
    Gone,
    /// Nothing was there.
    Absent,
    /// A directory with something left in it stays.
    NotEmpty,
}

impl TargetRoot {
    /// Moves a file or link to another path, over a file or link if one stands there.
    ///
    /// # Errors
    /// [`RootErrorKind::NotFound`], [`RootErrorKind::IsDirectory`] (either end),
    /// [`RootErrorKind::MountPoint`] (either end), [`RootErrorKind::CrossesMounts`]: copy then.
    pub fn rename(&self, from: &SyncPath, to: &SyncPath) -> Result<Stamp, RootError> {
        let (source, name) = self.parent(from).map_err(|fault| fault.at("rename", from))?;
        let (goal, new_name) = self.parent(to).map_err(|fault| fault.at("rename", to))?;
        let (source, goal) = (source.as_fd(), goal.as_fd());
        let moved = look(source, name)
            .and_then(|found| found.ok_or_else(|| Errno::NOENT.into()))
            .and_then(|found| movable(&found).map(|()| found))
            .map_err(|fault| fault.at("rename", from))?;
        let old = look(goal, new_name)
            .and_then(|old| old.as_ref().map_or(Ok(()), movable).map(|()| old))
            .map_err(|fault| fault.at("rename", to))?;
        let same = |old: &Found| (old.device, old.stamp.inode) == (moved.device, moved.stamp.inode);
        let done = if from == to {
            Ok(())
        } else if old.as_ref().is_some_and(same) {
            // Two names of one inode: rename(2) would do nothing and say that it did.
            rustix::fs::unlinkat(source, name, AtFlags::empty()).map_err(Fault::from)
        } else {
            make_later(source, name, &moved, old.as_ref())
                .and_then(|()| install((source, name), goal, new_name, old.as_ref(), false))
        };
        done.and_then(|()| stamp_of(goal, new_name)).map_err(|fault| fault.at("rename", to))
    }

    /// Moves a directory with all it holds to a path where nothing stands.
    ///
    /// # Errors
    /// [`RootErrorKind::NotADirectory`] for anything else, [`RootErrorKind::MountPoint`] when something
    /// is mounted on it (not on what it holds: that is the caller's to look at), and what the kernel
    /// says: EEXIST, EXDEV, and EINVAL for a move into itself.
    pub fn rename_directory(&self, from: &SyncPath, to: &SyncPath) -> Result<(), RootError> {
        let (source, name) = self.parent(from).map_err(|fault| fault.at("rename", from))?;
        let (goal, new_name) = self.parent(to).map_err(|fault| fault.at("rename", to))?;
        let movable = match look(source.as_fd(), name) {
            Ok(Some(Found { kind: FoundKind::Directory, mount_root: false, .. })) => Ok(()),
            Ok(Some(Found { kind: FoundKind::Directory, .. })) => {
                Err(RootErrorKind::MountPoint.into())
            }
            Ok(Some(_)) => Err(RootErrorKind::NotADirectory.into()),
            Ok(None) => Err(Errno::NOENT.into()),
            Err(fault) => Err(fault),
        };
        movable.map_err(|fault: Fault| fault.at("rename", from))?;
        rustix::fs::renameat_with(&source, name, &goal, new_name, RenameFlags::NOREPLACE)
            .map_err(|errno| Fault::from(errno).at("rename", to))
    }

    /// Makes a directory, or leaves the one that is there as it is. A file or link makes room.
    /// `mode` is the source's (setuid, setgid, sticky dropped), `0755` when absent; a
    /// set-group-id parent hands its bit down as usual. Parents are not made.
    ///
    /// # Errors
    /// [`RootErrorKind::NotFound`] without a parent, [`RootErrorKind::MountPoint`],
    /// [`RootErrorKind::NotRegular`], or what the kernel says.
    pub fn make_directory(&self, path: &SyncPath, mode: Option<u32>) -> Result<(), RootError> {
        let mode = mode.unwrap_or(0o755) & 0o777;
        self.again_on_its_mount(path, || self.make_dir(path, mode))
            .map_err(|fault| fault.at("make directory", path))
    }

    /// Makes a symbolic link with these bytes; a file, link or empty directory makes room.
    ///
    /// # Errors
    /// [`RootErrorKind::UnsafeLink`] (see [`Links`]), and as [`TargetRoot::put`].
    pub fn make_symlink(&self, path: &SyncPath, target: &[u8]) -> Result<Stamp, RootError> {
        self.again_on_its_mount(path, || self.make_link(path, target))
            .map_err(|fault| fault.at("make link", path))
    }

    /// Sets or clears the executable bit of a regular file; the other bits stay. A file with
    /// several names is copied, so that the others do not change. Its content's time stays.
    ///
    /// # Errors
    /// [`RootErrorKind::NotFound`], [`RootErrorKind::NotRegular`], or what the kernel says.
    pub fn set_executable(&self, path: &SyncPath, executable: bool) -> Result<Stamp, RootError> {
        self.change_executable(path, executable)
            .map_err(|fault| fault.at("change mode", path))?
            .map_or_else(|found| self.copy_executable(path, executable, &found), Ok)
    }

    /// Removes a file or link.
    ///
    /// # Errors
    /// [`RootErrorKind::IsDirectory`], [`RootErrorKind::NotRegular`] and
    /// [`RootErrorKind::MountPoint`] for what must stay; else what the kernel says.
    pub fn remove_file(&self, path: &SyncPath) -> Result<Removed, RootError> {
        self.remove(path, movable, AtFlags::empty()).map_err(|fault| fault.at("remove", path))
    }

    /// Removes a directory if it is empty.
    ///
    /// # Errors
    /// [`RootErrorKind::NotADirectory`], [`RootErrorKind::MountPoint`]; else what the kernel says.
    pub fn remove_directory(&self, path: &SyncPath) -> Result<Removed, RootError> {
        let removable = |found: &Found| match found.kind {
            FoundKind::Directory if found.mount_root => Err(RootErrorKind::MountPoint.into()),
            FoundKind::Directory => Ok(()),
            _ => Err(RootErrorKind::NotADirectory.into()),
        };
        match self.remove(path, removable, AtFlags::REMOVEDIR) {
            Err(fault) if fault.kind == RootErrorKind::NotEmpty || fault.is(Errno::EXIST) => {
                Ok(Removed::NotEmpty)
            }
            done => done.map_err(|fault| fault.at("remove", path)),
        }
    }

    /// Once more after EXDEV, with the mount of `path` learnt.
    fn again_on_its_mount<T>(
        &self,
        path: &SyncPath,
        make: impl Fn() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match make() {
            Err(fault) if fault.is(Errno::XDEV) => {
                self.learn_mount(path)?;
                make()
            }
            done => done,
        }
    }

    fn remove(
        &self,
        path: &SyncPath,
        removable: impl Fn(&Found) -> Result<(), Fault>,
        flags: AtFlags,
    ) -> Result<Removed, Fault> {
        let (directory, name) = match self.parent(path) {
            Err(fault) if fault.means_absent() => return Ok(Removed::Absent),
            parent => parent?,
        };
        let Some(found) = look(directory.as_fd(), name)? else {
            return Ok(Removed::Absent);
        };
        removable(&found)?;
        let held = self.replaced.hold(directory.as_fd(), name, &found);
        match rustix::fs::unlinkat(&directory, name, flags) {
            Err(Errno::NOENT) => Ok(Removed::Absent),
            Err(errno) => Err(errno.into()),
            Ok(()) => {
                self.replaced.keep(held);
                Ok(Removed::Gone)
            }
        }
    }

    /// Made and given away in staging, where nobody else can exchange it before it is.
    fn make_dir(&self, path: &SyncPath, mode: u32) -> Result<(), Fault> {
        let (directory, name) = self.parent(path)?;
        let directory = directory.as_fd();
        let old = look(directory, name)?;
        match old.as_ref() {
            Some(Found { kind: FoundKind::Directory, .. }) => return Ok(()),
            Some(found) => movable(found)?,
            None => {}
        }
        let make =
            |place: BorrowedFd<'_>, staged: &[u8]| rustix::fs::mkdirat(place, staged, Mode::RWXU);
        let (place, staged, ()) = match self.place_for(path, |p, staged| make(p.as_fd(), staged)) {
            Err(fault) if old.is_none() && cannot_stage(fault.kind) => {
                return Ok(rustix::fs::mkdirat(directory, name, Mode::from(mode))?);
            }
            made => made?,
        };
        let place = place.as_fd();
        let done = self
            .dress_directory(place, &staged, directory, mode)
            .and_then(|()| install((place, &staged), directory, name, old.as_ref(), true));
        if let Err(fault) = done {
            let _ = rustix::fs::unlinkat(place, &staged, AtFlags::REMOVEDIR);
            return Err(fault);
        }
        Ok(())
    }

    fn dress_directory(
        &self,
        place: BorrowedFd<'_>,
        staged: &[u8],
        directory: BorrowedFd<'_>,
        mode: u32,
    ) -> Result<(), Fault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(place, staged, flags, Mode::empty())?;
        let above = look_at(directory)?;
        let handed_down = above.mode & 0o2000;
        let (uid, mut gid) = self.owner_in(directory)?;
        if handed_down != 0 {
            gid = above.gid;
        }
        if (uid, gid) != self.us {
            self.give(fd.as_fd(), uid, gid)?;
        }
        Ok(rustix::fs::fchmod(&fd, Mode::from(mode | handed_down))?)
    }

    fn make_link(&self, path: &SyncPath, target: &[u8]) -> Result<Stamp, Fault> {
        if self.settings.links == Links::Safe && !is_safe(path, target) {
            return Err(RootErrorKind::UnsafeLink.into());
        }
        let (directory, name) = self.parent(path)?;
        let directory = directory.as_fd();
        let old = look(directory, name)?;
        match old.as_ref() {
            Some(found) if found.mount_root => return Err(RootErrorKind::MountPoint.into()),
            Some(Found { kind: FoundKind::Other, .. }) => {
                return Err(RootErrorKind::NotRegular.into());
            }
            _ => {}
        }
        let (uid, gid) = self.owner_in(directory)?;
        let (place, staged, ()) = match self
            .place_for(path, |place, staged| rustix::fs::symlinkat(target, place, staged))
        {
            Err(fault) if old.is_none() && cannot_stage(fault.kind) => {
                rustix::fs::symlinkat(target, directory, name)?;
                return stamp_of(directory, name);
            }
            made => made?,
        };
        let place = place.as_fd();
        if (uid, gid) != self.us {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let _ = rustix::fs::chownat(place, &staged, Some(uid), Some(gid), flags);
        }
        let done = install((place, &staged), directory, name, old.as_ref(), false);
        if let Err(fault) = done {
            let _ = rustix::fs::unlinkat(place, &staged, AtFlags::empty());
            return Err(fault);
        }
        stamp_of(directory, name)
    }

    /// `Err` holds what was found when it has other names.
    fn change_executable(
        &self,
        path: &SyncPath,
        executable: bool,
    ) -> Result<Result<Stamp, Found>, Fault> {
        let (directory, name) = self.parent(path)?;
        let found = look(directory.as_fd(), name)?.ok_or(Errno::NOENT)?;
        if found.kind != FoundKind::File {
            return Err(RootErrorKind::NotRegular.into());
        }
        if found.executable == executable {
            return Ok(Ok(found.stamp));
        }
        if found.nlink > 1 && !found.mount_root {
            return Ok(Err(found));
        }
        let fd = open_checked(directory.as_fd(), name, OFlags::RDONLY)?;
        let now = look_at(fd.as_fd())?;
        if now.stamp.inode != found.stamp.inode || now.nlink != found.nlink {
            return Err(RootErrorKind::Changed.into());
        }
        let mode = with_executable(found.mode & 0o777, executable);
        rustix::fs::fchmod(&fd, Mode::from(mode))?;
        Ok(Ok(look_at(fd.as_fd())?.stamp))
    }

    fn copy_executable(
        &self,
        path: &SyncPath,
        executable: bool,
        found: &Found,
    ) -> Result<Stamp, RootError> {
        let (staged, _) = self.copy_to_stage(path, path)?;
        let mtime_ns = Some(found.stamp.mtime_ns);
        let meta = PutMeta { executable, mode: None, mtime_ns };
        Ok(self.put(path, staged, &meta)?.stamp)
    }
}

/// Files and links may be moved, replaced and removed; the rest must stay.
fn movable(found: &Found) -> Result<(), Fault> {
    match found.kind {
        _ if found.mount_root => Err(RootErrorKind::MountPoint.into()),
        FoundKind::File | FoundKind::Symlink { .. } => Ok(()),
        FoundKind::Directory => Err(RootErrorKind::IsDirectory.into()),
        FoundKind::Other => Err(RootErrorKind::NotRegular.into()),
    }
}

/// A moved file gets a later time when it takes the place of another one.
fn make_later(
    directory: BorrowedFd<'_>,
    name: &[u8],
    moved: &Found,
    old: Option<&Found>,
) -> Result<(), Fault> {
    let Some(old) = old.filter(|o| o.kind == FoundKind::File && moved.kind == FoundKind::File)
    else {
        return Ok(());
    };
    let mtime = mtime_after(moved.stamp.mtime_ns, old, moved.size);
    if mtime == moved.stamp.mtime_ns {
        return Ok(());
    }
    let fd = open_checked(directory, name, OFlags::RDONLY)?;
    if look_at(fd.as_fd())?.stamp.inode != moved.stamp.inode {
        return Err(RootErrorKind::Changed.into());
    }
    Ok(rustix::fs::futimens(&fd, &times(mtime))?)
}

fn stamp_of(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Stamp, Fault> {
    Ok(look(directory, name)?.ok_or(RootErrorKind::Changed)?.stamp)
}

/// Whether a link cannot lead out, whatever other safe links stand beside it: relative, `..` only
/// at the beginning (from a real directory, so it counts physically) and at most as often as the
/// link lies deep.
fn is_safe(path: &SyncPath, target: &[u8]) -> bool {
    if target.is_empty() || target[0] == b'/' {
        return false;
    }
    let mut depth = path.components().count() - 1;
    let mut named = false;
    for part in target.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." if named || depth == 0 => return false,
            b".." => depth -= 1,
            _ => named = true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i6_only_links_that_stay_inside_are_safe() {
        for (path, target, safe) in [
            ("l", "a", true),
            ("l", "./a/b", true),
            ("d/l", "../a", true),
            ("d/e/l", "../..", true),
            ("d/l", ".", true),
            ("l", "..", false),
            ("d/l", "../../a", false),
            ("l", "/etc/passwd", false),
            ("l", "", false),
            // `d` may be a link to a shallower place: then this is outside.
            ("l", "d/../a", false),
            ("d/l", "a/../../b", false),
        ] {
            let path = SyncPath::try_from(path).unwrap();
            assert_eq!(is_safe(&path, target.as_bytes()), safe, "{path} -> {target}");
        }
    }
}
