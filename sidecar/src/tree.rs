//! Owns what a tree of files is: entries, snapshots (a Merkle tree by directory) and changes.
//!
//! A [`Snapshot`] is immutable and shares what it has in common with its ancestors: the daemon holds
//! what the source is, what each target has and what is on its way there for little more than the
//! memory of one. It holds no rules about what may change; that is `engine::plan`.

#![deny(clippy::disallowed_methods)]

mod archive;
mod snapshot;

pub use archive::ArchiveError;
pub use snapshot::{Difference, Dir, DirBuilder, Edit, Node, Snapshot, Spot, TreeError, TreeId};

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::path::SyncPath;

/// The first 16 bytes of a file's blake3 hash: enough to name content, half the memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Digest(pub [u8; 16]);

impl Digest {
    /// The digest of bytes held in memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from(blake3::hash(bytes))
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        let mut short = [0; 16];
        short.copy_from_slice(&hash.as_bytes()[..16]);
        Self(short)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What stands at a path. Absence is `None` of an `Option<Entry>`.
#[derive(Clone, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub enum Entry {
    /// A regular file.
    File {
        /// Of the whole content.
        digest: Digest,
        /// In bytes.
        size: u64,
        /// Whether the owner may execute it: the one permission bit that is content.
        executable: bool,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// The bytes of the link, verbatim; never resolved by us.
        target: Box<[u8]>,
    },
}

/// What `stat` says about a regular file, as a cache key for its digest: equal stamps mean equal
/// content. All zero means "unknown": never equal to what a file has, so the file is read again.
/// The size stands in the [`Entry`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Inode number.
    pub inode: u64,
    /// Modification time in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Status change time in nanoseconds since the epoch; a program cannot set it.
    pub ctime_ns: i64,
}

/// One path's step from one snapshot to the next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// Where.
    pub path: SyncPath,
    /// What stood there; `None` for nothing.
    pub old: Option<Entry>,
    /// What shall stand there; `None` for nothing.
    pub new: Option<Entry>,
}

/// A path that could not be handled, and why. Travels beside a result and never stops the rest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// Where.
    pub path: SyncPath,
    /// Why.
    pub reason: Reason,
}

/// Why a path could not be handled. On the wire: append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Reason {
    /// EACCES or EPERM.
    #[error("permission denied")]
    Denied,
    /// ENOSPC or EDQUOT.
    #[error("no space left")]
    NoSpace,
    /// EROFS.
    #[error("file system is read-only")]
    ReadOnly,
    /// A FIFO, socket or device: never opened, never made.
    #[error("neither a file, a directory nor a link")]
    Special,
    /// A symbolic link stands where a directory is expected; it is not followed.
    #[error("a link stands where a directory is expected")]
    LinkInTheWay,
    /// A link that leads out of the root, or an absolute one.
    #[error("link leads out of the root")]
    UnsafeLink,
    /// A mount point, which is never renamed over, unlinked or removed.
    #[error("is a mount point")]
    MountPoint,
    /// A directory that holds what is not ours.
    #[error("directory holds files that were not put there by this sync")]
    NotEmpty,
    /// What stands there is not what was expected.
    #[error("changed at the target meanwhile")]
    Conflict,
    /// The file changed at every try to read it.
    #[error("changes faster than it can be read")]
    Unstable,
    /// The other end cannot hold such a name, or the path is too long or too deep.
    #[error("name cannot be held")]
    Name,
    /// The program is running and may not be written (ETXTBSY).
    #[error("program is running and cannot be written in place")]
    Busy,
    /// Any other error, in the system's words.
    #[error("{0}")]
    Io(String),
}

impl From<&std::io::Error> for Reason {
    fn from(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::PermissionDenied => Self::Denied,
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::NoSpace,
            ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            ErrorKind::ExecutableFileBusy => Self::Busy,
            ErrorKind::DirectoryNotEmpty => Self::NotEmpty,
            ErrorKind::InvalidFilename => Self::Name,
            _ => Self::Io(error.to_string()),
        }
    }
}
