//! Owns every write into the app: [`TargetRoot`] is the only writer.
//!
//! Promises, for everything below the held directory:
//! - **Contained** (I6). One `openat2` (BENEATH, no links, no magic links) finds the parent, then
//!   one `*at` call acts on one component. Parents are found anew for each operation, or for the
//!   new files of one frame ([`Within`]), never kept longer, so a directory moved out of the root is
//!   at most written to by what was under way.
//! - **Old or new** (I1). Content, mode, owner and time are complete before a rename shows them.
//!   Written in place only where that is impossible or unwanted; [`Put::in_place`] then says why.
//! - **Mounts stay mounted.** The kernel's EBUSY looks at the *caller's* mount namespace only, so
//!   through `/proc/<pid>/root` a rename over, or an unlink of, a mount point would silently
//!   detach it. `statx` is asked before each.
//! - Only regular files, directories and safe links are created; FIFOs, sockets and devices are
//!   neither opened nor replaced. Nothing is synced to disk.
//!
//! Leaves to others: what may be overwritten or deleted at all (the hub asks the store), whether a
//! pinned process still lives ([`super::target`]), and the record of temporary files beside others
//! ([`TargetRoot::on_beside`]).
//!
//! A known window: between finding a parent and the call on it, a program in the app may move that
//! directory elsewhere *within what it may write itself*; Linux offers no call that closes it.

mod beneath;
mod entries;
mod error;
mod found;
mod fresh;
mod mounts;
mod patch;
mod put;
mod replaced;
mod stage;
mod staged;
#[cfg(test)]
pub(super) mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use self::beneath::{Directory, Resolver};
pub use self::entries::Removed;
use self::error::Fault;
pub use self::error::{RootError, RootErrorKind};
pub use self::found::{Found, FoundKind, Listing, NamesIn};
pub use self::fresh::Within;
pub use self::patch::{Extents, can_patch};
pub use self::put::{InPlace, Put, PutMeta};
use self::replaced::Keeping;
pub use self::replaced::Replaced;
pub use self::stage::STAGING;
use self::stage::{Beside, Grounds};
pub use self::staged::Staged;
use super::target::Target;
use crate::path::SyncPath;

/// The right to write below one directory, which is held open. Safe to use from several threads.
///
/// Dropping it removes its empty staging directories.
pub struct TargetRoot {
    fd: OwnedFd,
    resolver: Resolver,
    origin: Origin,
    identity: RootIdentity,
    settings: Settings,
    /// Effective user and group of this process when the root was opened.
    us: (u32, u32),
    grounds: Grounds,
    beside: Option<Beside>,
    replaced: Keeping,
}

/// Where the root was opened, to see whether it is still there.
enum Origin {
    Directory(PathBuf),
    /// In a process: its root and the path within.
    Process(OwnedFd, Vec<u8>),
}

/// Which directory a root is. Two roots with equal identity are the same directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootIdentity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Mount id; 0 where the kernel does not tell.
    pub mount: u64,
}

/// How a root is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Who owns what is created.
    pub owner: Owner,
    /// How existing files are replaced.
    pub write: WriteMode,
    /// Which links are created.
    pub links: Links,
    /// What is written here goes with the machine's next start at the latest, so nothing need be on its
    /// way to the disk when a file is put in place.
    pub fleeting: bool,
}

/// Who owns new files, links and directories. An existing file keeps its owner. Without the
/// privilege to give files away, only the group is tried and what is refused is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Owner {
    /// The owner and group of the directory it is created in.
    #[default]
    Directory,
    /// This user and group: the app's.
    Fixed {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// How existing files are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WriteMode {
    /// A complete file is renamed over the old one.
    #[default]
    Rename,
    /// The old file is overwritten, for watchers that hold on to one inode. A reader may see a
    /// mixture. Files with several names and running programs are renamed over all the same.
    InPlace,
}

/// Which symbolic links are created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Links {
    /// Relative ones that cannot lead out of the root: `..` stands only at the beginning and not
    /// more often than the link's directory is deep. A `..` behind a name is refused, since the
    /// name may be a link and then leads elsewhere than its text says.
    #[default]
    Safe,
    /// Any bytes. For roots whose owner said so; we ourselves never follow a link anyway.
    Verbatim,
}

impl TargetRoot {
    /// Opens a plain directory; `path` is trusted and its links are followed. With `create` a
    /// missing directory is made (its parents are not). Leftovers of a killed hub are swept.
    ///
    /// # Errors
    /// What the kernel says; the error's path is the root.
    pub fn open_directory(path: &Path, create: bool) -> Result<Self, RootError> {
        let fail = |errno: Errno| Fault::from(errno).at("open", &SyncPath::root());
        if create {
            match rustix::fs::mkdir(path, Mode::from(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
        let root = Self::look_at_directory(path)?;
        let mountinfo = std::fs::read("/proc/thread-self/mountinfo").unwrap_or_default();
        root.sweep(&mountinfo);
        Ok(root)
    }

    /// As [`TargetRoot::open_directory`] for who only wants to look: nothing is made or swept.
    ///
    /// # Errors
    /// As there.
    pub fn look_at_directory(path: &Path) -> Result<Self, RootError> {
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty())
            .map_err(|errno| Fault::from(errno).at("open", &SyncPath::root()))?;
        Self::hold(fd, Origin::Directory(path.to_owned()), Owner::Directory)
    }

    /// Opens the directory `path` inside the root of a pinned process, with links (absolute ones
    /// too) resolved as that process would. New files belong to the process's user and group.
    ///
    /// # Errors
    /// [`RootErrorKind::RootReplaced`] when the process is no longer the one that was pinned; else
    /// what the kernel says. The error's path is the root.
    pub fn open_in_process(target: &Target, path: &Path) -> Result<Self, RootError> {
        let root = Self::look_in_process(target, path)?;
        root.sweep(&target.mountinfo().unwrap_or_default());
        Ok(root)
    }

    /// What a directory is called in a process's root, without links; `None` when there is none.
    pub(super) fn name_in_process(target: &Target, path: &Path) -> Option<PathBuf> {
        use std::os::fd::AsRawFd;
        use std::os::unix::ffi::OsStrExt;
        let fd = beneath::directory_in_root(target.root(), path.as_os_str().as_bytes()).ok()?;
        std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
    }

    /// As [`TargetRoot::open_in_process`] for who only wants to look: nothing is swept.
    ///
    /// # Errors
    /// As there.
    pub fn look_in_process(target: &Target, path: &Path) -> Result<Self, RootError> {
        use std::os::unix::ffi::OsStrExt;
        let fail = |fault: Fault| fault.at("open", &SyncPath::root());
        let within = path.as_os_str().as_bytes().to_vec();
        let fd = beneath::directory_in_root(target.root(), &within).map_err(|e| fail(e.into()))?;
        let process = target
            .root()
            .try_clone_to_owned()
            .map_err(|error| fail(Errno::from_io_error(&error).unwrap_or(Errno::MFILE).into()))?;
        let (uid, gid) = target.owner();
        let root = Self::hold(fd, Origin::Process(process, within), Owner::Fixed { uid, gid })?;
        target.check().map_err(|_| fail(RootErrorKind::RootReplaced.into()))?;
        Ok(root)
    }

    fn hold(fd: OwnedFd, origin: Origin, owner: Owner) -> Result<Self, RootError> {
        let identity =
            identify(fd.as_fd()).map_err(|e| Fault::from(e).at("open", &SyncPath::root()))?;
        Ok(Self {
            resolver: Resolver::probe(fd.as_fd()),
            identity,
            origin,
            settings: Settings { owner, ..Settings::default() },
            us: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            grounds: Grounds::new(),
            beside: None,
            replaced: Keeping::default(),
            fd,
        })
    }

    /// Which directory this is.
    #[must_use]
    pub fn identity(&self) -> RootIdentity {
        self.identity
    }

    /// How it is written to.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Changes how it is written to from now on.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Whether [`TargetRoot::take_replaced`] has something to give.
    #[must_use]
    pub fn has_replaced(&self) -> bool {
        !self.replaced.is_empty()
    }

    /// Files that others were renamed over: to be dropped where nobody waits for the disk.
    #[must_use]
    pub fn take_replaced(&self) -> Replaced {
        self.replaced.take()
    }

    /// Whether the held directory still stands where it was opened: what is written to a directory
    /// that was removed, replaced or mounted over is seen by nobody (I2). To be asked before an
    /// acknowledgement; for a process [`Target::check`] is to be asked as well.
    ///
    /// # Errors
    /// [`RootErrorKind::RootReplaced`].
    pub fn check(&self) -> Result<(), RootError> {
        let now = match &self.origin {
            Origin::Directory(path) => rustix::fs::open(path, DIRECTORY, Mode::empty()),
            Origin::Process(root, path) => beneath::directory_in_root(root.as_fd(), path),
        };
        match now.and_then(|fd| identify(fd.as_fd())) {
            Ok(identity) if identity == self.identity => Ok(()),
            _ => Err(Fault::from(RootErrorKind::RootReplaced).at("check", &SyncPath::root())),
        }
    }

    /// The open directory of `path` and its last component. Found anew at each call.
    fn parent<'a>(&'a self, path: &'a SyncPath) -> Result<(Directory<'a>, &'a [u8]), Fault> {
        if path.is_root() || path.components().any(is_ours) {
            return Err(RootErrorKind::Reserved.into());
        }
        let (parent, name) = split(path);
        Ok((self.resolver.directory(self.fd.as_fd(), parent)?, name))
    }

    fn directory(&self, path: &SyncPath) -> Result<Directory<'_>, Fault> {
        if path.components().any(is_ours) {
            return Err(RootErrorKind::Reserved.into());
        }
        Ok(self.resolver.directory(self.fd.as_fd(), path.as_bytes())?)
    }
}

impl std::fmt::Debug for TargetRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TargetRoot").field("identity", &self.identity).finish_non_exhaustive()
    }
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Whether a name is one of ours; hidden from lists and refused in paths.
fn is_ours(name: &[u8]) -> bool {
    name == STAGING || stage::is_beside(name)
}

/// The bytes of the parent (empty for the root) and the last component.
fn split(path: &SyncPath) -> (&[u8], &[u8]) {
    let bytes = path.as_bytes();
    match bytes.iter().rposition(|&b| b == b'/') {
        Some(cut) => (&bytes[..cut], &bytes[cut + 1..]),
        None => (b"", bytes),
    }
}

fn identify(fd: BorrowedFd<'_>) -> Result<RootIdentity, Errno> {
    // One call, as it is asked with each acknowledgement.
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, wanted)?;
    Ok(RootIdentity {
        device: found::device(&stat),
        inode: stat.stx_ino,
        mount: found::mount_id_in(&stat, fd).unwrap_or(0),
    })
}
