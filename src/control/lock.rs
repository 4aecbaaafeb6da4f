//! Owns the right to be a workspace's only daemon.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Held by a workspace's daemon for as long as it lives. The kernel takes it back when the process
/// ends, however it ends: there is no stale lock.
#[derive(Debug)]
pub struct Lock {
    /// Carries the `flock`; closed on drop.
    _file: File,
}

/// Why the lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("another daemon runs for this workspace")]
    Busy {
        /// Its process, when it had time to write that down.
        pid: Option<u32>,
    },
    /// The state directory cannot be used.
    #[error("{}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock of the workspace whose state is in `directory`, which is made (mode 0700)
    /// when it is not there. The file `lock` stays when the lock goes: unlinking it would let two
    /// daemons hold two files of one name.
    ///
    /// # Errors
    /// [`LockError::Busy`] at once when another process holds it.
    pub fn take(directory: &Path) -> Result<Self, LockError> {
        let path = directory.join("lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // Text that cannot be read is a holder that cannot be named, no more.
                let _ = file.take(32).read_to_string(&mut text);
                return Err(LockError::Busy { pid: text.trim().parse().ok() });
            }
            Err(error) => return Err(io(error.into())),
        }
        file.set_len(0).map_err(io)?;
        writeln!(file, "{}", std::process::id()).map_err(io)?;
        Ok(Self { _file: file })
    }
}
