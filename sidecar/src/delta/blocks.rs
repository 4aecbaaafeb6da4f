//! What is remembered of a larger file: for each block a sum that rolls, and a hash.
//!
//! One pass over a content gives its digest and its blocks, piece by piece ([`Signer`]) or part by
//! part in any order and by several threads ([`PartSigner`]). The hash of a block is no
//! cryptographic one, and so costs a fifth of the digest: whatever comes of blocks that are equal
//! by chance is seen by the digest. Memory for a file of any size: [`MAX_BLOCKS`] blocks of twelve
//! bytes.

use blake3::hazmat::{ChainingValue, HasherExt};

use super::nodes::{PART_BYTES, Stack};
use super::rolling::Rolling;
use crate::tree::Digest;
use crate::varint;

/// Content up to here is remembered by its [`super::Sketch`].
const ABOVE_BYTES: u64 = 64 << 10;
const MIN_BLOCK_BYTES: u64 = 1 << 10;
/// Largest block: what is handed to a [`super::Differ`] at once.
pub(super) const MAX_BLOCK_BYTES: u64 = 128 << 10;
/// Most blocks.
const MAX_BLOCKS: u64 = 128 << 10;

/// How long the blocks of a content of `size` bytes are, in bytes, a power of two; `None` for one
/// that has none: up to 64 KiB, or more than 16 GiB.
#[must_use]
pub fn block_bytes(size: u64) -> Option<usize> {
    let block = size.div_ceil(MAX_BLOCKS).next_power_of_two().max(MIN_BLOCK_BYTES);
    (size > ABOVE_BYTES && block <= MAX_BLOCK_BYTES).then_some(block as usize)
}

/// The blocks of a content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocks {
    size: u64,
    pub(super) block: usize,
    /// Of whole blocks.
    pub(super) sums: Vec<u32>,
    /// The last may be of a shorter block.
    pub(super) hashes: Vec<u64>,
}

impl Blocks {
    fn new(size: u64, block: usize) -> Self {
        let count = usize::try_from(size).unwrap_or(usize::MAX).div_ceil(block);
        let (sums, hashes) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Self { size, block, sums, hashes }
    }

    /// Memory that the blocks of a content of `size` bytes take, in bytes.
    #[must_use]
    pub fn bytes_for(size: u64) -> usize {
        let count = block_bytes(size).map_or(0, |block| size.div_ceil(block as u64));
        size_of::<Self>() + count as usize * 12
    }

    /// Memory it takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.sums.len() * 4 + self.hashes.len() * 8
    }

    /// Of the content, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Offset and length of a block.
    pub(super) fn range(&self, index: usize) -> (u64, usize) {
        let offset = index as u64 * self.block as u64;
        let left = self.size.saturating_sub(offset);
        (offset, usize::try_from(left).map_or(self.block, |left| left.min(self.block)))
    }

    /// Whether bytes are the block of this number.
    pub(super) fn is_block(&self, bytes: &[u8], index: usize) -> bool {
        let known = self.hashes.get(index);
        bytes.len() == self.range(index).1 && known == Some(&hash(bytes))
    }

    /// Takes the next bytes: whole blocks, but for the end of the content. The sums of blocks that
    /// stayed are taken over from `base`.
    fn take(&mut self, bytes: &[u8], base: Option<&Blocks>) {
        let base = base.filter(|base| base.block == self.block);
        self.take_from(bytes, base, self.hashes.len());
    }

    /// As [`Blocks::take`], of the blocks from `first` on.
    fn take_from(&mut self, bytes: &[u8], base: Option<&Blocks>, first: usize) {
        for (index, block) in (first..).zip(bytes.chunks(self.block)) {
            let hash = hash(block);
            self.hashes.push(hash);
            if block.len() < self.block {
                continue;
            }
            let known = base.filter(|base| base.hashes.get(index) == Some(&hash));
            let known = known.and_then(|base| base.sums.get(index).copied());
            self.sums.push(known.unwrap_or_else(|| Rolling::of(block).value()));
        }
    }

    /// Appends it for a file that keeps it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::push(self.size, out);
        self.sums.iter().for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
        self.hashes.iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
    }

    /// Takes what [`Blocks::encode`] wrote from the front; `None` when there is no such thing.
    #[must_use]
    pub fn decode(input: &mut &[u8]) -> Option<Self> {
        let mut used = 0;
        let size = varint::read(input, &mut used)?;
        let block = block_bytes(size)?;
        let count = usize::try_from(size).ok()?.div_ceil(block);
        let whole = usize::try_from(size).ok()? / block;
        let (sums, rest) = input.split_at_checked(used)?.1.split_at_checked(whole * 4)?;
        let (hashes, rest) = rest.split_at_checked(count * 8)?;
        *input = rest;
        let sums = sums.as_chunks().0.iter().map(|sum| u32::from_le_bytes(*sum)).collect();
        let hashes = hashes.as_chunks().0.iter().map(|hash| u64::from_le_bytes(*hash)).collect();
        Some(Self { size, block, sums, hashes })
    }
}

/// The hash of a block; stands in files, under a version of theirs.
pub(super) fn hash(block: &[u8]) -> u64 {
    const MIX: [u64; 4] = [
        0x9e37_79b9_7f4a_7c15,
        0xd6e8_feb8_6659_fd93,
        0xa076_1d64_78bd_642f,
        0xe703_7ed1_a0b4_28db,
    ];
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    let mut lanes = MIX.map(|mix| mix ^ block.len() as u64);
    let mut rows = block.chunks_exact(32);
    for row in &mut rows {
        for (lane, (mix, bytes)) in lanes.iter_mut().zip(MIX.iter().zip(row.chunks_exact(8))) {
            *lane = fold(*lane ^ word(bytes), *mix);
        }
    }
    for (lane, bytes) in lanes.iter_mut().zip(rows.remainder().chunks(8)) {
        *lane = fold(*lane ^ word(bytes), MIX[0]);
    }
    lanes.iter().zip(MIX).fold(0, |all, (lane, mix)| fold(all ^ lane, mix).rotate_left(23))
}

/// Takes a content and gives its digest and its blocks.
pub struct Signer {
    hasher: blake3::Hasher,
    known: Blocks,
}

impl Signer {
    /// For a content of so many bytes; `None` where [`block_bytes`] says so.
    #[must_use]
    pub fn new(size: u64) -> Option<Self> {
        let known = Blocks::new(size, block_bytes(size)?);
        Some(Self { hasher: blake3::Hasher::new(), known })
    }

    /// Takes the next bytes: whole blocks, but for the end of the content.
    pub fn take(&mut self, bytes: &[u8]) {
        self.take_like(bytes, None);
    }

    /// As [`Signer::take`]; the sums of blocks that stayed are taken over from another content.
    pub(super) fn take_like(&mut self, bytes: &[u8], base: Option<&Blocks>) {
        self.hasher.update(bytes);
        self.known.take(bytes, base);
    }

    /// What is known so far.
    pub(super) fn known(&self) -> &Blocks {
        &self.known
    }

    /// The digest of all that was taken, and its blocks.
    #[must_use]
    pub fn finish(self) -> (Digest, Blocks) {
        (Digest::from(self.hasher.finalize()), self.known)
    }
}

/// Signs a content of more than one part ([`PART_BYTES`]), part by part.
pub struct PartSigner<'a> {
    size: u64,
    /// `None` when only the digest is wanted.
    block: Option<usize>,
    base: Option<&'a Blocks>,
}

/// A part that is being signed.
pub struct Part<'a> {
    signer: &'a PartSigner<'a>,
    number: usize,
    /// Bytes that are still to be taken.
    left: usize,
    hasher: blake3::Hasher,
    known: Option<Blocks>,
}

/// A part that was.
pub struct SignedPart {
    number: usize,
    node: ChainingValue,
    known: Option<Blocks>,
}

impl<'a> PartSigner<'a> {
    /// For a content of `size` bytes; its blocks are wanted when `traced`, and likely to be those of
    /// `base`.
    #[must_use]
    pub fn new(size: u64, traced: bool, base: Option<&'a Blocks>) -> Self {
        let block = block_bytes(size).filter(|_| traced);
        Self { size, block, base: base.filter(|base| Some(base.block) == block) }
    }

    /// Offset and length of a part; `None` behind the last.
    #[must_use]
    pub fn range(&self, number: usize) -> Option<(u64, usize)> {
        let offset = (number as u64).checked_mul(PART_BYTES as u64)?;
        let left = self.size.checked_sub(offset).filter(|&left| left > 0)?;
        Some((offset, left.min(PART_BYTES as u64) as usize))
    }

    /// Begins a part.
    #[must_use]
    pub fn part(&'a self, number: usize) -> Part<'a> {
        let (offset, length) = self.range(number).unwrap_or_default();
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset);
        let known = self.block.map(|block| Blocks::new(length as u64, block));
        Part { signer: self, number, left: length, hasher, known }
    }

    /// The digest and the blocks of the content that these parts are; `None` when one is missing.
    #[must_use]
    pub fn join(&self, mut parts: Vec<SignedPart>) -> Option<(Digest, Option<Blocks>)> {
        parts.sort_unstable_by_key(|part| part.number);
        let count = self.size.div_ceil(PART_BYTES as u64);
        let all = parts.len() as u64 == count;
        if !all || !parts.iter().enumerate().all(|(number, part)| part.number == number) {
            return None;
        }
        let mut nodes = Stack::default();
        let mut blocks = self.block.map(|block| Blocks::new(self.size, block));
        for part in parts {
            nodes.push(part.node);
            if let Some((blocks, known)) = blocks.as_mut().zip(part.known) {
                blocks.sums.extend(known.sums);
                blocks.hashes.extend(known.hashes);
            }
        }
        Some((nodes.root()?, blocks))
    }
}

impl Part<'_> {
    /// Takes the next bytes: a multiple of 128 KiB, but for the end of the part.
    pub fn take(&mut self, bytes: &[u8]) {
        self.left = self.left.saturating_sub(bytes.len());
        self.hasher.update(bytes);
        if let Some(known) = &mut self.known {
            let first = self.number * (PART_BYTES / known.block) + known.hashes.len();
            known.take_from(bytes, self.signer.base, first);
        }
    }

    /// The part; `None` unless all of it was taken.
    #[must_use]
    pub fn finish(self) -> Option<SignedPart> {
        if self.left > 0 || self.hasher.count() == 0 {
            return None;
        }
        let node = self.hasher.finalize_non_root();
        Some(SignedPart { number: self.number, node, known: self.known })
    }
}
