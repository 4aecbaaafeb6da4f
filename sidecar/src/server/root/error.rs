//! Owns what can go wrong below a root: one typed kind per fault, with the path it befell.

use std::fmt;

use rustix::io::Errno;

use crate::path::SyncPath;

/// A fault at one path. It concerns that path alone: the caller reports it and goes on.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {path}: {kind}")]
pub struct RootError {
    /// Where, relative to the root.
    pub path: SyncPath,
    /// What was being done, as a verb ("write", "remove").
    pub operation: &'static str,
    /// What went wrong.
    pub kind: RootErrorKind,
    /// What the kernel said, when it was the kernel.
    #[source]
    pub source: Option<std::io::Error>,
}

/// What went wrong at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootErrorKind {
    /// Nothing is there, or a directory on the way is missing.
    NotFound,
    /// The disk or its inodes are full (ENOSPC).
    NoSpace,
    /// The owner's quota is used up (EDQUOT).
    Quota,
    /// The file system is read-only (EROFS).
    ReadOnly,
    /// Our user may not do this (EACCES, EPERM).
    Denied,
    /// The file is a running program (ETXTBSY) or otherwise held (EBUSY).
    Busy,
    /// The two ends lie on different mounts, or the directory belongs to an image layer (EXDEV).
    CrossesMounts,
    /// A mount point: never renamed over, unlinked or removed.
    MountPoint,
    /// A symbolic link where a directory is expected; never followed.
    LinkInTheWay,
    /// Something else than a directory where a directory is expected.
    NotADirectory,
    /// A directory where a file or link is expected.
    IsDirectory,
    /// The directory that had to make room is not empty.
    NotEmpty,
    /// A FIFO, socket or device: neither opened nor replaced.
    NotRegular,
    /// A name of ours (`.e2ek-sync`, `.e2ek-sync.*.tmp`) or the root itself.
    Reserved,
    /// A link that is absolute or may lead out of the root; see [`super::Links`].
    UnsafeLink,
    /// The name or path is longer than this file system holds (ENAMETOOLONG).
    NameTooLong,
    /// It changed while we worked on it; asking again is right.
    Changed,
    /// Only memory could hold the content before it is written in place, and it is too large.
    TooLarge,
    /// The root is no longer at the place it was opened from: what is written there is not seen.
    RootReplaced,
    /// Anything else the kernel refused; the source says what.
    Io,
}

impl fmt::Display for RootErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "not found",
            Self::NoSpace => "no space left",
            Self::Quota => "quota exceeded",
            Self::ReadOnly => "file system is read-only",
            Self::Denied => "permission denied",
            Self::Busy => "in use",
            Self::CrossesMounts => "crosses a mount or image layer",
            Self::MountPoint => "is a mount point",
            Self::LinkInTheWay => "a symbolic link stands where a directory is expected",
            Self::NotADirectory => "not a directory",
            Self::IsDirectory => "is a directory",
            Self::NotEmpty => "directory is not empty",
            Self::NotRegular => "neither file, directory nor link",
            Self::Reserved => "name is reserved for e2ek-sync",
            Self::UnsafeLink => "link may lead out of the root",
            Self::NameTooLong => "name is too long for the file system",
            Self::Changed => "changed while it was worked on",
            Self::TooLarge => "too large to be written in place here",
            Self::RootReplaced => "the root is no longer where it was opened",
            Self::Io => "refused by the kernel",
        })
    }
}

impl From<Errno> for RootErrorKind {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::NotFound,
            Errno::NOSPC => Self::NoSpace,
            Errno::DQUOT => Self::Quota,
            Errno::ROFS => Self::ReadOnly,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::TXTBSY | Errno::BUSY => Self::Busy,
            Errno::XDEV => Self::CrossesMounts,
            Errno::LOOP => Self::LinkInTheWay,
            Errno::NOTDIR => Self::NotADirectory,
            Errno::ISDIR => Self::IsDirectory,
            Errno::NOTEMPTY => Self::NotEmpty,
            Errno::NAMETOOLONG => Self::NameTooLong,
            Errno::EXIST | Errno::AGAIN | Errno::STALE => Self::Changed,
            _ => Self::Io,
        }
    }
}

/// A fault that does not know its path yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) kind: RootErrorKind,
    errno: Option<Errno>,
}

impl Fault {
    pub(super) fn at(self, operation: &'static str, path: &SyncPath) -> RootError {
        RootError {
            path: path.clone(),
            operation,
            kind: self.kind,
            source: self.errno.map(std::io::Error::from),
        }
    }

    /// Whether it says that nothing can stand at the path: a directory on the way is missing or
    /// is a file.
    pub(super) fn means_absent(&self) -> bool {
        self.is(Errno::NOENT) || self.is(Errno::NOTDIR)
    }

    pub(super) fn is(&self, errno: Errno) -> bool {
        self.errno == Some(errno)
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self { kind: errno.into(), errno: Some(errno) }
    }
}

impl From<RootErrorKind> for Fault {
    fn from(kind: RootErrorKind) -> Self {
        Self { kind, errno: None }
    }
}
