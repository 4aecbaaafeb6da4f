//! The traces that outlive the daemon: whatever their file holds, it is read or is none.

#![no_main]

use e2ek_sidecar::tree::Digest;
use e2ek_sync::transfer::Contents;
use libfuzzer_sys::fuzz_target;

mod place;

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let dir = place::in_memory();
    // The checksum would stop everything: mostly it is right, and so is the beginning.
    let mut file = if kind & 1 == 0 { b"e2ektrc1".to_vec() } else { Vec::new() };
    file.extend_from_slice(bytes);
    if kind & 2 == 0 {
        let sum = blake3::hash(&file);
        file.extend_from_slice(sum.as_bytes());
    }
    std::fs::write(dir.path().join("traces"), &file).expect("it is written");
    let contents = Contents::kept_in(dir.path());
    contents.read_traces();
    assert!(!contents.is_to_be_kept(), "reading changes nothing");
    let digest = bytes.get(1..17).and_then(|bytes| bytes.try_into().ok()).map(Digest);
    let _ = digest.and_then(|digest| contents.blocks(digest));
    contents.keep_traces().expect("it is kept");
});
