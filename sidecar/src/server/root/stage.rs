//! Owns the staging ground: where bytes wait, and that nothing of it stays behind.
//!
//! The ground is `<top of the mount>/.e2ek-sync/` (0700, ours, with a shared `flock` for as long
//! as we live). Which mount a path lies on is not asked each time: known nested mounts are learnt
//! at open and from a rename that says EXDEV. Where that directory cannot be made, a file beside
//! the final one; where that cannot be made either, memory, for a write in place.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::beneath::create_in;
use super::error::{Fault, RootError, RootErrorKind};
use super::found::{digest_of, each_name, look, look_at, mount_id};
use super::mounts::nested;
use super::staged::{Home, Staged};
use super::{TargetRoot, split};
use crate::path::SyncPath;
use crate::tree::Digest;

/// The name of a staging directory; hidden from lists, refused in paths.
pub const STAGING: &[u8] = b".e2ek-sync";
const BESIDE_PREFIX: &[u8] = b".e2ek-sync.";
const BESIDE_SUFFIX: &[u8] = b".tmp";
/// Told the path of a temporary file before it is created beside another.
pub(super) type Beside = Box<dyn Fn(&SyncPath) + Send + Sync>;

/// One staging directory, made and held.
pub(super) struct Place {
    fd: OwnedFd,
    /// Where it lies below the root, itself included.
    path: Vec<u8>,
    /// The group that files get here when it is not our own (mount option `grpid`).
    pub(super) gid: u32,
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What is known of each mount's staging directory, and the names handed out.
pub(super) struct Grounds {
    /// One per mount known, the root's first.
    list: RwLock<Vec<(SyncPath, Ground)>>,
    seed: u64,
    next: AtomicU64,
}

#[derive(Clone)]
enum Ground {
    Unmade,
    Made(Arc<Place>),
    Refused(Fault),
}

impl Grounds {
    pub(super) fn new() -> Self {
        let mut seed = [0; 8];
        // Names need not be secret (O_EXCL decides), only rarely taken.
        if rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::NONBLOCK).is_err() {
            seed = u64::from(std::process::id()).to_ne_bytes();
        }
        Self {
            list: RwLock::new(vec![(SyncPath::root(), Ground::Unmade)]),
            seed: u64::from_ne_bytes(seed),
            next: AtomicU64::new(0),
        }
    }

    fn name(&self) -> Vec<u8> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{:016x}-{number:x}", self.seed).into_bytes()
    }

    /// The ground of the deepest known mount that holds the directory `parent`.
    fn of(&self, parent: &[u8]) -> (SyncPath, Ground) {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        let holds = |top: &SyncPath| {
            top.is_root()
                || parent
                    .strip_prefix(top.as_bytes())
                    .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let deepest = list.iter().filter(|(top, _)| holds(top));
        let deepest = deepest.max_by_key(|(top, _)| top.as_bytes().len());
        deepest.cloned().expect("the root's ground is never taken out and holds everything")
    }

    fn set(&self, top: &SyncPath, ground: Ground) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        match list.iter_mut().find(|(known, _)| known == top) {
            Some(known) => known.1 = ground,
            None => list.push((top.clone(), ground)),
        }
    }

    fn ask_again(&self) {
        let refused = |(_, ground): &(_, Ground)| matches!(ground, Ground::Refused(_));
        if !self.list.read().unwrap_or_else(PoisonError::into_inner).iter().any(refused) {
            return;
        }
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        for known in list.iter_mut().filter(|known| refused(known)) {
            known.1 = Ground::Unmade;
        }
    }

    fn all(&self) -> Vec<(SyncPath, Ground)> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl TargetRoot {
    /// Makes an empty file that [`TargetRoot::put`] can later turn into the file at `for_path`.
    /// Usually one system call. `size_hint` (bytes) only matters where nothing but memory is left.
    ///
    /// # Errors
    /// [`RootErrorKind::NoSpace`] and what else the kernel says; [`RootErrorKind::TooLarge`].
    pub fn stage(&self, for_path: &SyncPath, size_hint: u64) -> Result<Staged, RootError> {
        self.make_staged(for_path, size_hint).map_err(|fault| fault.at("stage", for_path))
    }

    /// Copies the regular file `from` to staging for `for_path` and hashes what was copied: shared
    /// blocks where the file system can, else bytes.
    ///
    /// # Errors
    /// As [`TargetRoot::open_file`] and [`TargetRoot::stage`].
    pub fn copy_to_stage(
        &self,
        from: &SyncPath,
        for_path: &SyncPath,
    ) -> Result<(Staged, Digest), RootError> {
        let source = self.open_regular(from).map_err(|fault| fault.at("copy", from))?;
        let size = look_at(source.as_fd()).map_err(|e| Fault::from(e).at("copy", from))?.size;
        let mut staged = self.stage(for_path, size)?;
        let copied = if rustix::fs::ioctl_ficlone(staged.fd(), &source).is_ok() {
            digest_of(staged.fd(), size)
        } else {
            staged.take_all(source.as_fd(), size)
        };
        let (digest, length) = copied.map_err(|e| Fault::from(e).at("copy", for_path))?;
        staged.set_length(length);
        Ok((staged, digest))
    }

    /// Has `record` told the path of each temporary file that must be made beside another, before
    /// it is made; [`TargetRoot::sweep_beside`] takes those paths after a crash.
    pub fn on_beside(&mut self, record: impl Fn(&SyncPath) + Send + Sync + 'static) {
        self.beside = Some(Box::new(record));
    }

    /// Removes what a killed hub left at these recorded paths. Paths that are not names of ours
    /// are left alone; so is what cannot be removed.
    pub fn sweep_beside(&self, paths: &[SyncPath]) {
        for path in paths {
            let (parent, name) = split(path);
            if is_beside(name)
                && let Ok(directory) = self.resolver.directory(self.fd.as_fd(), parent)
            {
                let _ = rustix::fs::unlinkat(&directory, name, AtFlags::empty());
            }
        }
    }

    /// Where no staging directory could be made it is tried again once: a disk that was read-only for
    /// a while must not be written without renames for ever. To be called now and then; costs nothing
    /// where staging works.
    pub fn ask_for_staging_again(&self) {
        self.grounds.ask_again();
    }

    /// Removes the staging directories that are empty now; they come back when needed. Also done
    /// on drop.
    pub fn tidy(&self) {
        for (top, ground) in self.grounds.all() {
            if matches!(ground, Ground::Made(_))
                && let Ok(directory) = self.resolver.directory(self.fd.as_fd(), top.as_bytes())
                && remove_place(directory.as_fd()).is_ok()
            {
                self.grounds.set(&top, Ground::Unmade);
            }
        }
    }

    /// Removes what killed hubs left, at the root and in the mounts inside it.
    pub(super) fn sweep(&self, mountinfo: &[u8]) {
        for top in nested(self.fd.as_fd(), self.resolver, mountinfo) {
            self.grounds.set(&top, Ground::Unmade);
        }
        for (top, _) in self.grounds.all() {
            match self.sweep_top(&top) {
                Err(fault) if !fault.is(Errno::NOENT) => {
                    tracing::debug!(%top, kind = %fault.kind, "leftovers stay");
                }
                _ => {}
            }
        }
    }

    fn sweep_top(&self, top: &SyncPath) -> Result<(), Fault> {
        let directory = self.resolver.directory(self.fd.as_fd(), top.as_bytes())?;
        let place = open_place(directory.as_fd())?;
        if !self.ours(&place) || mount_id(place.as_fd()) != mount_id(directory.as_fd()) {
            return Err(Errno::PERM.into());
        }
        sweep_place(place.as_fd())?;
        remove_place(directory.as_fd())
    }

    pub(super) fn make_staged(&self, for_path: &SyncPath, size_hint: u64) -> Result<Staged, Fault> {
        let refused = match self.place_for(for_path, |place, name| {
            self.resolver.create(self.fd.as_fd(), &place.path, name)
        }) {
            Ok((place, name, fd)) => return Ok(Staged::new(fd, Home::Ground(place, name))),
            Err(fault) if cannot_stage(fault.kind) => fault,
            Err(fault) => return Err(fault),
        };
        match self.make_beside(for_path) {
            Ok(staged) => Ok(staged),
            Err(fault) if cannot_stage(fault.kind) => Staged::in_memory(refused, size_hint),
            Err(fault) => Err(fault),
        }
    }

    /// Makes something under a fresh name in the staging directory for `for_path`, which is made
    /// when it is missing, and once more when somebody took it away.
    pub(super) fn place_for<T>(
        &self,
        for_path: &SyncPath,
        make: impl Fn(&Place, &[u8]) -> Result<T, Errno>,
    ) -> Result<(Arc<Place>, Vec<u8>, T), Fault> {
        let mut fresh = false;
        loop {
            let (top, ground) = self.grounds.of(split(for_path).0);
            let place = match ground {
                Ground::Made(place) => place,
                Ground::Refused(fault) => return Err(fault),
                Ground::Unmade => {
                    fresh = true;
                    self.make_place(&top)?
                }
            };
            let name = self.grounds.name();
            match make(&place, &name) {
                Ok(made) => return Ok((place, name, made)),
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) if !fresh => {
                    self.grounds.set(&top, Ground::Unmade);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn make_place(&self, top: &SyncPath) -> Result<Arc<Place>, Fault> {
        match self.try_place(top) {
            Ok(place) => {
                let place = Arc::new(place);
                self.grounds.set(top, Ground::Made(Arc::clone(&place)));
                Ok(place)
            }
            Err(fault) => {
                if cannot_stage(fault.kind) {
                    self.grounds.set(top, Ground::Refused(fault));
                }
                Err(fault)
            }
        }
    }

    fn try_place(&self, top: &SyncPath) -> Result<Place, Fault> {
        let directory = self.resolver.directory(self.fd.as_fd(), top.as_bytes())?;
        let make = || rustix::fs::mkdirat(&directory, STAGING, Mode::RWXU);
        if make() == Err(Errno::EXIST)
            && !open_place(directory.as_fd()).is_ok_and(|p| self.ours(&p))
        {
            // Not ours, and we do not take over what others may have filled.
            rustix::fs::unlinkat(&directory, STAGING, AtFlags::REMOVEDIR)
                .map_err(|_| Errno::PERM)?;
            make()?;
        }
        let fd = match open_place(directory.as_fd()) {
            Err(Errno::NOENT) => {
                make()?;
                open_place(directory.as_fd())?
            }
            opened => opened?,
        };
        // A set-group-id parent hands its bit down; then new files would not get our group.
        rustix::fs::fchmod(&fd, Mode::RWXU)?;
        if !self.ours(&fd) || mount_id(fd.as_fd()) != mount_id(directory.as_fd()) {
            return Err(Errno::PERM.into());
        }
        // Fails only while another hub sweeps; a later sweep may then take what we stage.
        let _ = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared);
        let mut path = top.as_bytes().to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(STAGING);
        let gid = look_at(fd.as_fd())?.gid;
        Ok(Place { fd, path, gid })
    }

    fn ours(&self, place: &OwnedFd) -> bool {
        look_at(place.as_fd()).is_ok_and(|found| found.uid == self.us.0 && found.mode & 0o77 == 0)
    }

    fn make_beside(&self, for_path: &SyncPath) -> Result<Staged, Fault> {
        let (parent, _) = split(for_path);
        let directory = self.resolver.directory(self.fd.as_fd(), parent)?;
        let name = [BESIDE_PREFIX, &self.grounds.name(), BESIDE_SUFFIX].concat();
        if let Some(record) = &self.beside {
            let above = for_path.parent().unwrap_or_default();
            record(&above.join(&name).map_err(|_| Errno::NAMETOOLONG)?);
        }
        let fd = create_in(directory.as_fd(), &name)?;
        let held = directory.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        Ok(Staged::new(fd, Home::Beside(held, name)))
    }

    /// Stages a copy of `staged` on the mount that really holds `for_path`, which is learnt.
    pub(super) fn restage(&self, staged: &Staged, for_path: &SyncPath) -> Result<Staged, Fault> {
        self.learn_mount(for_path)?;
        let mut again = self.make_staged(for_path, staged.len())?;
        rustix::fs::seek(staged.fd(), rustix::fs::SeekFrom::Start(0))?;
        again.take_all(staged.fd(), staged.len())?;
        Ok(again)
    }

    /// After EXDEV: what is staged for `for_path` from now on is staged on its mount.
    pub(super) fn learn_mount(&self, for_path: &SyncPath) -> Result<(), Fault> {
        let top = self.mount_top(split(for_path).0)?;
        self.grounds.set(&top, Ground::Unmade);
        Ok(())
    }

    /// The topmost directory, from `directory` up, that lies on the same mount.
    fn mount_top(&self, directory: &[u8]) -> Result<SyncPath, Fault> {
        let id = |path: &[u8]| -> Result<Option<u64>, Errno> {
            Ok(mount_id(self.resolver.directory(self.fd.as_fd(), path)?.as_fd()))
        };
        let here = id(directory)?;
        let mut top = directory;
        while !top.is_empty() {
            let cut = top.iter().rposition(|&b| b == b'/').unwrap_or(0);
            if id(&top[..cut])? != here {
                break;
            }
            top = &top[..cut];
        }
        match top {
            b"" => Ok(SyncPath::root()),
            bytes => SyncPath::new(bytes).map_err(|_| RootErrorKind::NameTooLong.into()),
        }
    }
}

impl Drop for TargetRoot {
    fn drop(&mut self) {
        self.tidy();
    }
}

/// Whether a name is that of a temporary file beside another.
pub(super) fn is_beside(name: &[u8]) -> bool {
    name.strip_prefix(BESIDE_PREFIX).is_some_and(|rest| rest.ends_with(BESIDE_SUFFIX))
}

/// Whether a fault means "not here", so that another way is tried.
pub(super) fn cannot_stage(kind: RootErrorKind) -> bool {
    use RootErrorKind::{Denied, LinkInTheWay, NotADirectory, NotFound, ReadOnly};
    matches!(kind, Denied | ReadOnly | LinkInTheWay | NotADirectory | NotFound)
}

fn open_place(directory: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, STAGING, flags, Mode::empty())
}

/// Empties a staging directory that no living hub holds. Directories with content in them are
/// left: only a hub killed while it made room leaves one, and the content may be the app's.
fn sweep_place(place: BorrowedFd<'_>) -> Result<(), Fault> {
    rustix::fs::flock(place, FlockOperation::NonBlockingLockExclusive)?;
    let mut names = Vec::new();
    each_name(place, |name| names.push(name.to_vec()))?;
    for name in names {
        if look(place, &name)?.is_none_or(|found| found.mount_root) {
            continue;
        }
        if rustix::fs::unlinkat(place, &name, AtFlags::empty()) == Err(Errno::ISDIR) {
            let _ = rustix::fs::unlinkat(place, &name, AtFlags::REMOVEDIR);
        }
    }
    Ok(())
}

fn remove_place(directory: BorrowedFd<'_>) -> Result<(), Fault> {
    match look(directory, STAGING)? {
        Some(found) if found.mount_root => Err(RootErrorKind::MountPoint.into()),
        _ => Ok(rustix::fs::unlinkat(directory, STAGING, AtFlags::REMOVEDIR)?),
    }
}
