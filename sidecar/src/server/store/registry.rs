//! Which roots the live hubs of one state directory write to, so that no two share or nest one.
//!
//! A claim is a locked file, so it ends with its process however that ends. It knows the hubs of one
//! user on one machine, by canonical path: a root reached by two bind mounts is taken for two.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::files::private;
use super::format;
use crate::tree::Digest;

/// How long a hub waits for another that is looking around at the same time.
const PATIENCE: Duration = Duration::from_secs(5);
const BETWEEN_TRIES: Duration = Duration::from_millis(2);
const GUARD: &str = "lock";

/// Another live hub writes to the same root, or to one above or below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// That hub's root.
    pub root: PathBuf,
    /// Who writes there, for people.
    pub writer: String,
    /// It is the very same root, not one above or below.
    pub same: bool,
}

/// Why a root cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Somebody has it.
    #[error("another hub writes to {}", .0.root.display())]
    Clash(Clash),
    /// The system said no, or another hub held up the registry for five seconds.
    #[error("{path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The roots below one state directory.
pub struct Registry;

/// A root that is ours until this is dropped.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    /// Locked as long as it is open.
    _file: File,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    root: Vec<u8>,
    writer: String,
}

impl Registry {
    /// Claims a root: `canonical` is absolute, without links, in the name space of whoever calls.
    /// Claims of hubs that live no more are removed on the way. Path pairs of one session each need
    /// a claim, and clash with each other like anybody's. Blocks while another hub does the same,
    /// at most five seconds.
    ///
    /// # Errors
    /// [`ClaimError::Clash`] when the root, one above or one below is claimed by a live process.
    pub fn claim(state: &Path, canonical: &Path, writer: &str) -> Result<Claim, ClaimError> {
        let dir = state.join("roots");
        let io = |source| ClaimError::Io { path: dir.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io)?;
        // All that creates or judges claims happens under this lock.
        let _guard = guard(&dir.join(GUARD)).map_err(io)?;
        for file in fs::read_dir(&dir).map_err(io)? {
            let path = file.map_err(io)?.path();
            if path.file_name().is_some_and(|name| name == GUARD) {
                continue;
            }
            if let Some(clash) = judge(&path, canonical).map_err(io)? {
                return Err(ClaimError::Clash(clash));
            }
        }
        let name = format!("{:?}", Digest::of(canonical.as_os_str().as_bytes()));
        let path = dir.join(name);
        let root = canonical.as_os_str().as_bytes().to_vec();
        let file = write_claim(&path, &Entry { root, writer: writer.to_owned() }).map_err(io)?;
        Ok(Claim { path, _file: file })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Removed while still locked: nobody else can have made a file of this name meanwhile.
        let _ = fs::remove_file(&self.path);
    }
}

fn guard(path: &Path) -> io::Result<File> {
    let file = private().write(true).create(true).open(path)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(BETWEEN_TRIES);
            }
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::TimedOut.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Looks at one claim: removes it when its process is gone, else compares.
fn judge(path: &Path, canonical: &Path) -> io::Result<Option<Clash>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        // Dropped just now.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(None),
        },
        Err(TryLockError::Error(error)) => Err(error),
        Err(TryLockError::WouldBlock) => {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            let entry = format::take_frame(&mut &*bytes).ok().flatten();
            // A live claim that cannot be read may be anywhere.
            let entry: Entry =
                entry.unwrap_or(Entry { root: b"/".to_vec(), writer: String::new() });
            let root = PathBuf::from(std::ffi::OsString::from_vec(entry.root));
            let near = root.starts_with(canonical) || canonical.starts_with(&root);
            let same = root == canonical;
            Ok(near.then_some(Clash { root, writer: entry.writer, same }))
        }
    }
}

fn write_claim(path: &Path, entry: &Entry) -> io::Result<File> {
    let mut bytes = Vec::new();
    format::push_frame(entry, &mut bytes)?;
    let mut file = private().write(true).create_new(true).open(path)?;
    file.try_lock()?;
    file.write_all(&bytes)?;
    Ok(file)
}
