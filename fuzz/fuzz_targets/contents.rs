//! The contents of a container: whatever the file holds, it opens, and what it lists can be read.

#![no_main]

use std::io::Read;
use std::path::Path;

use e2ek_sidecar::server::store::Contents;
use e2ek_sidecar::tree::{Digest, Snapshot};
use libfuzzer_sys::fuzz_target;

mod place;

const MOST: u64 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let dir = place::in_memory();
    let pieces: Vec<&[u8]> = bytes.split(|&byte| byte == 0xff).take(64).collect();
    let digests: Vec<Digest> = pieces.iter().map(|piece| Digest::of(piece)).collect();
    let file = match kind & 3 {
        0 => bytes.to_vec(),
        // The checksums would stop nearly everything: as heads.
        1 => pieces.iter().flat_map(|piece| head(piece)).collect(),
        // One that was good, cut or turned somewhere.
        kind => {
            put(dir.path(), &pieces, &digests);
            let mut file = std::fs::read(dir.path().join("contents")).expect("it is read");
            let at = bytes.len() * 7 % file.len().max(1);
            if kind == 2 {
                file.truncate(at);
            } else if let Some(byte) = file.get_mut(at) {
                *byte ^= 1 << (bytes.len() % 8);
            }
            file
        }
    };
    std::fs::write(dir.path().join("contents"), file).expect("it is written");
    put(dir.path(), &pieces, &digests);
});

/// Opens, reads all that is there, puts what is not, and finds that again.
fn put(dir: &Path, pieces: &[&[u8]], digests: &[Digest]) {
    let held = Snapshot::empty();
    let mut contents = Contents::open(dir, MOST).expect("damage is no error");
    for (piece, digest) in pieces.iter().zip(digests) {
        let found = contents.read(digest).map(|(length, _, reader)| {
            let mut found = Vec::new();
            reader.take(MOST).read_to_end(&mut found).expect("it is read");
            assert!(found.len() as u64 <= length);
            found
        });
        // That it is whole is seen by who reads it.
        if found.is_some_and(|found| found != *piece) {
            contents.forget(digest);
        }
        let length = piece.len() as u64;
        let kept = contents.put(*digest, length, 0o644, *piece, &held).expect("it is kept");
        assert_eq!(kept, contents.contains(digest));
    }
}

/// Magic, permission bits, nothing, length, digest, checksum of those; and what follows is content.
fn head(piece: &[u8]) -> Vec<u8> {
    let mut fields = [0; 26];
    let used = piece.len().min(26);
    fields[..used].copy_from_slice(&piece[..used]);
    let mut out = b"e2c1".to_vec();
    out.extend_from_slice(&fields[..2]);
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&fields[2..]);
    let sum = crc32c::crc32c(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(&piece[used..]);
    out
}
