use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::tree::Digest;

/// Applies a patch that comes in parts; `None` when it is refused or does not end with them.
fn apply<'a>(
    old: &[u8],
    size: usize,
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> Option<Vec<u8>> {
    let mut patcher = Patcher::new(old.len() as u64, size as u64);
    let mut new = Vec::new();
    for mut part in parts {
        while let Some(piece) = patcher.next(&mut part).ok()? {
            match piece {
                Piece::Bytes(bytes) => new.extend_from_slice(bytes),
                Piece::Copy { offset, length } => {
                    new.extend_from_slice(&old[offset as usize..(offset + length) as usize]);
                }
            }
        }
    }
    assert!(new.len() <= size, "more than was promised");
    patcher.is_complete().then_some(new)
}

fn patched(old: &[u8], new: &[u8], patch: &[u8]) {
    assert_eq!(apply(old, new.len(), [patch]).as_deref(), Some(new));
    assert_eq!(apply(old, new.len(), patch.chunks(1)).as_deref(), Some(new), "byte by byte");
}

/// Bytes without any pattern.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn blocks_of(content: &[u8]) -> (Digest, Blocks) {
    let mut signer = Signer::new(content.len() as u64).unwrap();
    content.chunks(128 << 10).for_each(|piece| signer.take(piece));
    signer.finish()
}

fn by_blocks(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut differ = Differ::new(Arc::new(blocks_of(old).1), new.len() as u64);
    let mut patch = Vec::new();
    for piece in new.chunks(128 << 10) {
        differ.take(piece);
        patch.extend(differ.patch());
    }
    let (rest, signed) = differ.finish();
    patch.extend(rest);
    if let Some((digest, blocks)) = signed {
        assert_eq!(digest, Digest::of(new));
        assert_eq!(blocks, blocks_of(new).1, "as if it were signed alone");
    }
    patch
}

/// By what is known of both; and how many bytes of the new one were looked at.
fn by_gaps(old: &[u8], new: &[u8]) -> Option<(Vec<u8>, usize)> {
    let known = |content| Arc::new(blocks_of(content).1);
    let mut gaps = Gaps::between(known(old), known(new))?;
    let (mut patch, mut looked) = (Vec::new(), 0);
    while let Some((offset, length)) = gaps.wanted() {
        assert!((1..=128 << 10).contains(&length));
        assert!(gaps.take(&new[offset as usize..][..length]));
        patch.extend(gaps.patch());
        looked += length;
    }
    patch.extend(gaps.finish());
    Some((patch, looked))
}

#[derive(Clone, Debug)]
enum Act {
    Insert(usize, usize),
    Remove(usize, usize),
    Change(usize, usize),
    /// Moves a part to the front.
    Move(usize, usize),
    Double,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let place = 0..1_000_000usize;
    let length = prop_oneof![1..40usize, 1..5000usize];
    let act = prop_oneof![
        (place.clone(), length.clone()).prop_map(|(at, len)| Act::Insert(at, len)),
        (place.clone(), length.clone()).prop_map(|(at, len)| Act::Remove(at, len)),
        (place.clone(), length.clone()).prop_map(|(at, len)| Act::Change(at, len)),
        (place, length).prop_map(|(at, len)| Act::Move(at, len)),
        Just(Act::Double),
    ];
    prop::collection::vec(act, 0..6)
}

fn act(content: &mut Vec<u8>, act: &Act, seed: u64) {
    let range = |at: usize, len: usize, all: usize| {
        let start = at % (all + 1);
        start..(start + len).min(all)
    };
    let all = content.len();
    match *act {
        Act::Insert(at, len) => {
            let at = at % (all + 1);
            content.splice(at..at, noise(len, seed));
        }
        Act::Remove(at, len) => drop(content.drain(range(at, len, all))),
        Act::Change(at, len) => {
            let range = range(at, len, all);
            let fresh = noise(range.len(), seed);
            content[range].copy_from_slice(&fresh);
        }
        Act::Move(at, len) => {
            let part: Vec<u8> = content.drain(range(at, len, all)).collect();
            content.splice(0..0, part);
        }
        Act::Double => content.extend_from_within(..all.min(100_000)),
    }
}

/// A content, and the same after some edits.
fn edited(sizes: std::ops::Range<usize>) -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let content = (sizes, any::<u64>(), prop_oneof![Just(0u8), Just(1), Just(2)]);
    (content, acts()).prop_map(|((len, seed, kind), acts)| {
        let old = match kind {
            0 => noise(len, seed),
            1 => vec![0; len],
            _ => b"fn line() { let x = 1; }\n".repeat(len / 25 + 1)[..len].to_vec(),
        };
        let mut new = old.clone();
        for (index, step) in acts.iter().enumerate() {
            act(&mut new, step, seed.wrapping_add(index as u64));
        }
        (old, new)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn contents_at_hand_patch_exactly((old, new) in edited(0..9000)) {
        patched(&old, &new, &between(&old, &new));
    }

    #[test]
    fn blocks_patch_exactly((old, new) in edited(70_000..400_000)) {
        patched(&old, &new, &by_blocks(&old, &new));
        if let Some((patch, _)) = block_bytes(new.len() as u64).and_then(|_| by_gaps(&old, &new)) {
            patched(&old, &new, &patch);
        }
    }

    #[test]
    fn i11_any_bytes_are_a_patch_or_refused(
        patch in prop::collection::vec(any::<u8>(), 0..200), old in 0..300usize, size in 0..400usize,
    ) {
        let old = noise(old, 1);
        let whole = apply(&old, size, [&patch[..]]);
        prop_assert_eq!(whole, apply(&old, size, patch.chunks(3)));
    }

    #[test]
    fn i11_a_damaged_patch_stays_within_bounds(
        (old, new) in edited(2048..6000), at in any::<usize>(), bits in 1..=255u8,
    ) {
        let mut patch = between(&old, &new);
        if !patch.is_empty() {
            let at = at % patch.len();
            patch[at] ^= bits;
        }
        let _ = apply(&old, new.len(), [&patch[..]]);
    }
}

#[test]
fn sketches_patch_but_for_chance() {
    // A block in 65,536 is equal by chance, and then the digest tells. These cases have none.
    let mut runner = TestRunner::deterministic();
    let run = runner.run(&edited(256..9000), |(old, new)| {
        let sketch = Sketch::of(&old).unwrap();
        patched(&old, &new, &sketch.patch(&new));
        Ok(())
    });
    run.unwrap();
}

#[test]
fn i11_hostile_patches_are_refused() {
    let copy = |offset: u64, length: u64| {
        let mut writer = PatchWriter::default();
        writer.copy(offset, length);
        writer.finish()
    };
    let bring = |bytes: &[u8]| {
        let mut writer = PatchWriter::default();
        writer.bring(bytes);
        writer.finish()
    };
    let cases: [(&str, Vec<u8>, PatchError); 8] = [
        ("beyond the end", copy(5, 6), PatchError::Beyond),
        ("behind the end", copy(11, 1), PatchError::Beyond),
        ("before the beginning", vec![3, 1], PatchError::Beyond),
        ("an offset that overflows", copy(u64::MAX - 2, 2), PatchError::Beyond),
        ("too much", bring(&[7; 21]), PatchError::TooLong),
        ("too much copied", copy(0, 1 << 40), PatchError::TooLong),
        ("no length", vec![0], PatchError::Malformed),
        ("an endless number", vec![0xff; 11], PatchError::Malformed),
    ];
    for (what, patch, error) in cases {
        assert_eq!(Patcher::new(10, 20).next(&mut &patch[..]), Err(error), "{what}");
    }
    let mut writer = PatchWriter::default();
    writer.copy(0, 10);
    writer.copy(0, 10);
    let mut more = writer.finish();
    more.push(2);
    let (mut patcher, mut bytes) = (Patcher::new(10, 20), &more[..]);
    assert!(matches!(patcher.next(&mut bytes), Ok(Some(Piece::Copy { .. }))));
    assert!(matches!(patcher.next(&mut bytes), Ok(Some(Piece::Copy { .. }))));
    assert!(patcher.is_complete());
    assert_eq!(patcher.next(&mut bytes), Err(PatchError::TooLong), "bytes behind the end");
}

/// Text like a source file's, of some length.
fn source(len: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for line in 0.. {
        text.extend(format!("    let value_{line} = compute({}, {line});\n", line * 7919).bytes());
        if text.len() >= len {
            text.truncate(len);
            return text;
        }
    }
    unreachable!()
}

#[test]
fn a_line_of_a_small_file_is_a_small_patch() {
    let old = source(11_000);
    let mut new = old.clone();
    new.splice(5000..5000, *b"    let more = 1;\n");
    let exact = between(&old, &new);
    assert!(exact.len() <= 18 + 8, "{}", exact.len());
    patched(&old, &new, &exact);
    let sketch = Sketch::of(&old).unwrap();
    assert!(sketch.bytes() <= old.len() / 15, "{}", sketch.bytes());
    let patch = sketch.patch(&new);
    assert!(patch.len() <= 18 + 2 * 32 + 8, "{}", patch.len());
    patched(&old, &new, &patch);
}

#[test]
fn two_lines_of_equal_length_are_two_small_patches() {
    let old = source(11_000);
    let mut new = old.clone();
    new[1000] ^= 1;
    new[9000] ^= 1;
    let patch = Sketch::of(&old).unwrap().patch(&new);
    assert!(patch.len() <= 2 * 32 + 16, "{}", patch.len());
    patched(&old, &new, &patch);
}

#[test]
fn lines_of_other_lengths_cost_a_line_and_two_blocks_each() {
    for size in [3000, 11_000, 60_000] {
        let old = source(size);
        let mut new = old.clone();
        for (at, line) in [(size / 8, "x"), (size / 2, "a longer line\n"), (size - size / 8, "")] {
            new.splice(at..at + 9, line.bytes());
        }
        let patch = Sketch::of(&old).unwrap().patch(&new);
        let block = if size > 40_000 { 64 } else { 32 };
        assert!(patch.len() <= 3 * (2 * block + 14 + 8) + 8, "{size}: {}", patch.len());
        patched(&old, &new, &patch);
    }
}

#[test]
fn an_insert_at_the_front_of_a_large_file_is_what_was_inserted() {
    let old = noise(3 << 20, 1);
    let mut new = noise(120, 2);
    new.extend_from_slice(&old);
    let patch = by_blocks(&old, &new);
    assert!(patch.len() <= 120 + 20, "{}", patch.len());
    patched(&old, &new, &patch);
}

#[test]
fn scattered_edits_cost_a_block_each() {
    let old = noise(2 << 20, 1);
    let mut new = old.clone();
    for at in [0, 1 << 20, (2 << 20) - 1] {
        new[at] ^= 1;
    }
    let block = block_bytes(2 << 20).unwrap();
    let patch = by_blocks(&old, &new);
    assert!(patch.len() <= 3 * (block + 8), "{}", patch.len());
    patched(&old, &new, &patch);
}

#[test]
fn what_stayed_is_not_looked_at() {
    let old = noise(2 << 20, 1);
    let block = block_bytes(2 << 20).unwrap();
    let mut new = old.clone();
    for at in [0, 1 << 20, (2 << 20) - 1] {
        new[at] ^= 1;
    }
    let (patch, looked) = by_gaps(&old, &new).unwrap();
    assert_eq!(looked, 3 * block);
    assert!(patch.len() <= 3 * (block + 8), "{}", patch.len());
    patched(&old, &new, &patch);
    // What moves is looked at from there on, and found.
    let mut new = old.clone();
    new.splice((1 << 20) + 7..(1 << 20) + 7, noise(120, 2));
    let (patch, looked) = by_gaps(&old, &new).unwrap();
    assert_eq!(looked, new.len() - (1 << 20));
    assert!(patch.len() <= 120 + 2 * block + 20, "{}", patch.len());
    patched(&old, &new, &patch);
}

#[test]
fn i4_a_content_that_changed_meanwhile_is_refused() {
    let old = noise(1 << 20, 1);
    let mut new = old.clone();
    new[5000] ^= 1;
    let known = |content: &[u8]| Arc::new(blocks_of(content).1);
    let mut gaps = Gaps::between(known(&old), known(&new)).unwrap();
    let (offset, length) = gaps.wanted().unwrap();
    assert!(!gaps.take(&old[offset as usize..][..length]));
}

#[test]
fn parts_signed_in_any_order_are_the_content() {
    for size in [PART_BYTES + 1, 3 * PART_BYTES, 5 * PART_BYTES + 70_001] {
        let content = noise(size, 4);
        let mut before = content.clone();
        before[70_000] ^= 1;
        let base = blocks_of(&before).1;
        for (traced, base) in [(false, None), (true, None), (true, Some(&base))] {
            let signer = PartSigner::new(size as u64, traced, base);
            let mut parts = Vec::new();
            for number in (0..).take_while(|&number| signer.range(number).is_some()) {
                let (offset, length) = signer.range(number).unwrap();
                let mut part = signer.part(number);
                let bytes = &content[offset as usize..][..length];
                bytes.chunks(128 << 10).for_each(|piece| part.take(piece));
                parts.push(part.finish().unwrap());
            }
            parts.reverse();
            assert!(signer.part(0).finish().is_none(), "nothing was taken");
            let (digest, blocks) = signer.join(parts).unwrap();
            let (known, signed) = blocks_of(&content);
            assert_eq!((digest, known), (Digest::of(&content), digest), "{size}");
            assert_eq!(blocks, traced.then_some(signed), "{size}");
        }
    }
}

#[test]
fn sketches_come_back_from_a_file() {
    for size in [2 << 10, 11_000, 64 << 10] {
        let sketch = Sketch::of(&source(size)).unwrap();
        let mut bytes = Vec::new();
        sketch.encode(&mut bytes);
        for cut in 0..bytes.len() {
            assert!(Sketch::decode(&mut &bytes[..cut]).is_none(), "cut at {cut}");
        }
        bytes.push(7);
        let mut input = &bytes[..];
        assert_eq!(Sketch::decode(&mut input), Some(sketch));
        assert_eq!(input, [7]);
    }
    assert!(Sketch::decode(&mut &[0xff; 9][..]).is_none());
}

#[test]
fn blocks_come_back_from_a_file() {
    for size in [70_000, 1 << 20, (3 << 20) + 5] {
        let blocks = blocks_of(&noise(size, 5)).1;
        let mut bytes = Vec::new();
        blocks.encode(&mut bytes);
        assert!(Blocks::bytes_for(size as u64) >= blocks.bytes());
        for cut in [0, 1, 2, bytes.len() / 2, bytes.len() - 1] {
            assert!(Blocks::decode(&mut &bytes[..cut]).is_none(), "cut at {cut}");
        }
        bytes.push(7);
        let mut input = &bytes[..];
        assert_eq!(Blocks::decode(&mut input), Some(blocks));
        assert_eq!(input, [7]);
    }
    assert!(Blocks::decode(&mut &[0xff; 9][..]).is_none(), "no size that allocates");
}

#[test]
fn zeros_with_an_insert_do_not_blow_up() {
    let old = vec![0; 1 << 20];
    let mut new = old.clone();
    new.insert(500_001, 1);
    let patch = by_blocks(&old, &new);
    assert!(patch.len() <= 3000, "{}", patch.len());
    patched(&old, &new, &patch);
}

#[test]
fn blocks_stay_within_their_memory() {
    for (size, block) in [(64 << 10, None), ((64 << 10) + 1, Some(1024)), (100 << 20, Some(1024))] {
        assert_eq!(block_bytes(size), block, "{size}");
    }
    assert_eq!(block_bytes(1 << 30), Some(8192));
    assert_eq!(block_bytes(16 << 30), Some(128 << 10));
    assert_eq!(block_bytes((16 << 30) + 1), None);
    assert_eq!(block_bytes(u64::MAX), None);
}

#[test]
fn parts_give_the_digest_of_the_whole() {
    let part = PART_BYTES;
    for size in [1, part, part + 1, 2 * part, 5 * part - 7, 8 * part] {
        let mut content = noise(size, 3);
        let mut hasher = NodeHasher::default();
        content.chunks(100_003).for_each(|piece| hasher.update(piece));
        let (digest, nodes) = hasher.finish();
        assert_eq!(digest, Digest::of(&content), "{size}");
        assert_eq!(nodes.is_some(), size > part);
        let Some(before) = nodes else { continue };
        // One part changes, and the end is cut or grows.
        content[part / 2] ^= 1;
        for new_size in [size, size - 1, size + part] {
            let mut content = content.clone();
            content.resize(new_size, 7);
            let hash = |number: usize| {
                let bytes = &content[number * part..new_size.min((number + 1) * part)];
                let known = before.part(number, new_size as u64).filter(|_| number != 0);
                if let Some(known) = known {
                    assert_eq!(known, part_node(bytes, number), "{size} {new_size} {number}");
                }
                Ok::<_, ()>(known.unwrap_or_else(|| part_node(bytes, number)))
            };
            let after = Nodes::of(new_size as u64, hash).unwrap();
            let more = new_size > part;
            assert_eq!(after.digest(), more.then(|| Digest::of(&content)), "{size} {new_size}");
        }
    }
}
