//! Owns who we are to hubs.
//!
//! The name of the source's folder does not tell people apart: in dev containers everybody's is the
//! same, and often user and host are, too. A random number does, which is made once in a state
//! directory and stays there. Where that is lost we are another: what we wrote before is then found at
//! the target like anything that others put there.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use e2ek_sidecar::wire::WorkspaceId;
use rustix::fs::{FlockOperation, flock};
use rustix::rand::{GetRandomFlags, getrandom};

/// In the state directory.
const FILE: &str = "identity";

/// The workspace in `folder` as hubs know it; makes the state directory's number if it has none.
///
/// # Errors
/// When that can neither be read nor written.
pub(super) fn workspace(state: &Path, folder: &Path) -> io::Result<WorkspaceId> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number(state)?);
    hasher.update(folder.as_os_str().as_bytes());
    let mut workspace = [0; 16];
    workspace.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Ok(workspace)
}

fn number(state: &Path) -> io::Result<[u8; 16]> {
    std::fs::create_dir_all(state)?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(state.join(FILE))?;
    // Until it is closed: of two that begin at once, one makes it.
    flock(&file, FlockOperation::LockExclusive)?;
    let mut bytes = Vec::new();
    (&file).take(17).read_to_end(&mut bytes)?;
    if let Ok(known) = <[u8; 16]>::try_from(bytes) {
        return Ok(known);
    }
    let mut fresh = [0; 16];
    getrandom(&mut fresh, GetRandomFlags::empty())?;
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(&fresh)?;
    Ok(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_state_directory_is_one_writer_and_each_folder_in_it_one_workspace() {
        let [ours, theirs] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let of = |state: &Path, folder: &str| workspace(state, Path::new(folder)).unwrap();
        let app = of(ours.path(), "/workspaces/app");
        assert_eq!(of(ours.path(), "/workspaces/app"), app);
        assert_ne!(of(ours.path(), "/workspaces/api"), app);
        assert_ne!(of(theirs.path(), "/workspaces/app"), app, "somebody else's container");
        // What a full disk left of it.
        std::fs::write(theirs.path().join(FILE), "half").unwrap();
        let anew = of(theirs.path(), "/workspaces/app");
        assert_eq!(of(theirs.path(), "/workspaces/app"), anew);
    }
}
