//! Where a target that needs files has them.

use std::path::Path;

use tempfile::TempDir;

/// A new directory, in memory where there is such a place.
pub fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).expect("a directory")
}
