//! Paths from the other end: what is accepted cannot leave the directory it is joined to.

#![no_main]

use std::path::{Component, Path};

use e2ek_sidecar::path::{Escaped, SyncPath};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Escaped(bytes).to_string();
    let Ok(path) = SyncPath::new(bytes) else { return };
    assert_eq!(path.as_bytes(), bytes);
    use std::os::unix::ffi::OsStrExt;
    let plain = Path::new(std::ffi::OsStr::from_bytes(bytes));
    assert!(plain.components().all(|part| matches!(part, Component::Normal(_))));
    assert!(!bytes.contains(&0));
    if let (Some(parent), Some(name)) = (path.parent(), path.name()) {
        assert_eq!(parent.join(name).as_ref(), Ok(&path));
        assert!(path.starts_with(&parent));
    }
});
