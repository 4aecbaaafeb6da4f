//! Patches: any bytes as one, and those that are made of any two contents.

#![no_main]

use std::sync::Arc;

use e2ek_sidecar::delta::{Differ, Gaps, Patcher, Piece, Signer, Sketch, between};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((&cut, rest)) = bytes.split_first() else { return };
    let (old, new) = rest.split_at(rest.len() * usize::from(cut) / 256);
    // As a patch: whole and in small pieces it comes to the same, within the sizes.
    let size = usize::from(cut) * 8;
    let whole = apply(old, size, new, new.len().max(1));
    assert_eq!(whole, apply(old, size, new, 3));
    assert_eq!(apply(old, new.len(), &between(old, new), 7).as_deref(), Some(new));
    // Blocks and sketches are of larger contents.
    let times = (70_000 / old.len().max(1)).min(3000);
    let large = old.repeat(times);
    let mut changed = new.to_vec();
    changed.extend_from_slice(&large);
    if let Some(mut signer) = Signer::new(large.len() as u64) {
        signer.take(&large);
        let base = Arc::new(signer.finish().1);
        let mut differ = Differ::new(Arc::clone(&base), changed.len() as u64);
        differ.take(&changed);
        let mut patch = differ.patch();
        let (rest, signed) = differ.finish();
        patch.extend(rest);
        assert_eq!(apply(&large, changed.len(), &patch, 1000).as_ref(), Some(&changed));
        let gaps = signed.and_then(|(_, blocks)| Gaps::between(base, Arc::new(blocks)));
        if let Some(mut gaps) = gaps {
            while let Some((offset, length)) = gaps.wanted() {
                assert!(gaps.take(&changed[offset as usize..][..length]));
            }
            let patch = gaps.finish();
            assert_eq!(apply(&large, changed.len(), &patch, 1000).as_ref(), Some(&changed));
        }
    }
    let small = &large[..large.len().min(4000)];
    if let Some(sketch) = Sketch::of(small) {
        // Equal sums may be chance, but never leave the bounds.
        let _ = apply(small, new.len(), &sketch.patch(new), 100).expect("a whole patch");
    }
});

/// The new content, if the patch is one and ends.
fn apply(old: &[u8], size: usize, patch: &[u8], piece: usize) -> Option<Vec<u8>> {
    let mut patcher = Patcher::new(old.len() as u64, size as u64);
    let mut new = Vec::new();
    for mut part in patch.chunks(piece) {
        while let Some(piece) = patcher.next(&mut part).ok()? {
            match piece {
                Piece::Bytes(bytes) => new.extend_from_slice(bytes),
                Piece::Copy { offset, length } => {
                    new.extend_from_slice(&old[offset as usize..(offset + length) as usize]);
                }
            }
            assert!(new.len() <= size);
        }
    }
    patcher.is_complete().then_some(new)
}
