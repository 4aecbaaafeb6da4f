//! The daemon's index: any bytes are refused or are a tree that is written back the same.

#![no_main]

use e2ek_sidecar::tree::Snapshot;
use libfuzzer_sys::fuzz_target;

const MAGIC: &[u8] = b"e2ektre1";

fuzz_target!(|bytes: &[u8]| {
    let _ = Snapshot::decode(bytes);
    // The checksum would stop everything: the same bytes again, sealed.
    let mut sealed = [MAGIC, bytes].concat();
    let sum = blake3::hash(&sealed);
    sealed.extend_from_slice(sum.as_bytes());
    if let Ok(tree) = Snapshot::decode(&sealed) {
        let mut again = Vec::new();
        tree.encode(&mut again);
        let same = Snapshot::decode(&again).expect("what was encoded is read");
        assert_eq!(same.id(), tree.id());
        assert_eq!(same.count(), tree.count());
    }
});
