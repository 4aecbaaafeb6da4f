//! Owns what a tree of files is: entries, snapshots (a Merkle tree by directory) and changes.

#![deny(clippy::disallowed_methods)]

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
