//! Files of ignore rules: no bytes make the filter fail, and what it says does not change.

#![no_main]

use std::path::Path;

use e2ek_sidecar::path::SyncPath;
use e2ek_sync::filter::{Filter, FilterOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The path is what comes before the first zero, the rules what comes after.
    let cut = bytes.iter().position(|&byte| byte == 0).unwrap_or(0);
    let (path, rules) = bytes.split_at(cut);
    let Ok(path) = SyncPath::new(path) else { return };
    let place = Path::new("/dev/shm");
    let place = if place.is_dir() { place.to_owned() } else { std::env::temp_dir() };
    let root = tempfile::tempdir_in(place).expect("a directory");
    std::fs::create_dir(root.path().join(".git")).expect("a repository");
    std::fs::write(root.path().join(".gitignore"), rules).expect("rules");
    let options = FilterOptions { git: Some(Default::default()), ..FilterOptions::default() };
    let filter = Filter::new(root.path(), &options).expect("the root is there");
    if path.is_root() {
        return;
    }
    for is_dir in [false, true] {
        let verdict = filter.verdict_of(&path, is_dir);
        filter.reload();
        assert_eq!(filter.verdict_of(&path, is_dir), verdict);
    }
});
