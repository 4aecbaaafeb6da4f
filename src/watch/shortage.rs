//! Owns why a directory cannot be watched.

use std::path::PathBuf;

use rustix::io::Errno;

/// Why directories are polled every two seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shortage {
    /// `fs.inotify.max_user_watches` is used up.
    Watches,
    /// `fs.inotify.max_user_instances` is used up.
    Instances,
    /// This process, or the machine, has no more file descriptors.
    Descriptors,
    /// The same directory is mounted at two places of the tree; only one of them can be watched.
    MountedTwice,
    /// Anything else the kernel said: the raw `errno`.
    Other(i32),
}

impl Shortage {
    /// Why a directory must be polled; `None` when an event will tell that it can be watched.
    pub(super) fn of_directory(error: Errno) -> Option<Self> {
        match error {
            // Gone, or not a directory any more: its parent's watch tells.
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => None,
            // We may not read it: a change of its mode is seen by its parent's watch.
            Errno::ACCESS | Errno::PERM => None,
            Errno::NOSPC => Some(Self::Watches),
            Errno::MFILE | Errno::NFILE => Some(Self::Descriptors),
            other => Some(Self::Other(other.raw_os_error())),
        }
    }

    /// Why nothing at all can be watched: EMFILE stands for two limits (inotify_init(2)).
    pub(super) fn of_everything(error: Errno) -> Self {
        match Self::of_directory(error) {
            Some(Self::Descriptors) if std::fs::File::open("/").is_ok() => Self::Instances,
            Some(shortage) => shortage,
            None => Self::Other(error.raw_os_error()),
        }
    }

    /// The setting that would help, and its value now.
    #[must_use]
    pub fn setting(self) -> Option<(&'static str, u64)> {
        let name = match self {
            Self::Watches => "fs.inotify.max_user_watches",
            Self::Instances => "fs.inotify.max_user_instances",
            Self::Descriptors | Self::MountedTwice | Self::Other(_) => return None,
        };
        let file = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
        Some((name, std::fs::read_to_string(file).ok()?.trim().parse().ok()?))
    }
}

/// A part of the tree that is polled instead of watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Degraded {
    /// Why.
    pub shortage: Shortage,
    /// How many directories, each with all below it.
    pub directories: usize,
}
