//! What is remembered of a larger file: for each block a sum that rolls and the beginning of its hash.
//!
//! The hash of a block is its node in the file's own blake3 tree, so that one pass over a content
//! gives the digest and the hashes. A node knows where it stands in the tree: a block that moved is
//! hashed again as if it stood where it was. Memory for a file of any size: [`MAX_BLOCKS`] blocks of
//! twelve bytes, and when something moved a table of as much again.

use std::sync::Arc;

use blake3::hazmat::ChainingValue;

use super::nodes::{Stack, node};
use super::patch::PatchWriter;
use super::rolling::Rolling;
use crate::tree::Digest;

/// Content up to here is remembered by its [`super::Sketch`].
const ABOVE_BYTES: u64 = 64 << 10;
const MIN_BLOCK_BYTES: u64 = 1 << 10;
/// Largest block: what is handed to a [`Differ`] at once.
const MAX_BLOCK_BYTES: u64 = 128 << 10;
/// Most blocks.
const MAX_BLOCKS: u64 = 128 << 10;
/// Blocks with the same sum that are compared: a content of zeros has only one sum.
const MAX_EQUAL_SUMS: usize = 16;

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
    block: usize,
    /// Of whole blocks.
    sums: Vec<u32>,
    /// The last may be of a shorter block.
    hashes: Vec<u64>,
}

impl Blocks {
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
    fn range(&self, index: usize) -> (u64, usize) {
        let offset = (index * self.block) as u64;
        let left = self.size.saturating_sub(offset);
        (offset, usize::try_from(left).map_or(self.block, |left| left.min(self.block)))
    }
}

/// Takes a content and gives its digest and its blocks.
pub struct Signer {
    known: Blocks,
    /// Nodes of the tree that wait for their right neighbour.
    nodes: Stack,
    taken: u64,
}

impl Signer {
    /// For a content of so many bytes; `None` where [`block_bytes`] says so.
    #[must_use]
    pub fn new(size: u64) -> Option<Self> {
        let block = block_bytes(size)?;
        let count = usize::try_from(size).ok()?.div_ceil(block);
        let (sums, hashes) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let known = Blocks { size, block, sums, hashes };
        Some(Self { known, nodes: Stack::default(), taken: 0 })
    }

    /// Takes the next bytes: whole blocks, but for the end of the content.
    pub fn take(&mut self, bytes: &[u8]) {
        self.take_like(bytes, None);
    }

    /// As [`Signer::take`]; the sums of blocks that stayed are taken over from another content.
    fn take_like(&mut self, bytes: &[u8], other: Option<&Blocks>) {
        let other = other.filter(|other| other.block == self.known.block);
        for block in bytes.chunks(self.known.block) {
            let index = self.known.hashes.len();
            let hash = self.hash(block);
            if block.len() < self.known.block {
                continue;
            }
            let known = other.filter(|other| other.hashes.get(index) == Some(&hash));
            let known = known.and_then(|other| other.sums.get(index).copied());
            self.known.sums.push(known.unwrap_or_else(|| Rolling::of(block).value()));
        }
    }

    /// Hashes the next block; its sum is still to be told.
    fn hash(&mut self, block: &[u8]) -> u64 {
        let node = node(block, self.taken);
        self.nodes.push(node);
        self.taken += block.len() as u64;
        let hash = beginning(&node);
        self.known.hashes.push(hash);
        hash
    }

    /// The digest of all that was taken, and its blocks.
    #[must_use]
    pub fn finish(self) -> (Digest, Blocks) {
        // Less than was promised is no content's digest.
        (self.nodes.root().unwrap_or_default(), self.known)
    }
}

fn beginning(node: &ChainingValue) -> u64 {
    u64::from_le_bytes(node[..8].try_into().expect("a node has 32 bytes"))
}

/// Blocks by their sums; made when the first block is not where it was.
struct Index {
    /// Sum and number, sorted.
    sums: Vec<(u32, u32)>,
    /// One bit for the upper bits of each sum: most positions end here.
    filter: Vec<u64>,
}

const FILTER_BITS: u32 = 20;

impl Index {
    fn new(blocks: &Blocks) -> Self {
        let mut sums: Vec<_> = blocks.sums.iter().copied().zip(0u32..).collect();
        sums.sort_unstable();
        let mut filter = vec![0u64; 1 << (FILTER_BITS - 6)];
        for (sum, _) in &sums {
            let bit = sum >> (32 - FILTER_BITS);
            filter[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        Self { sums, filter }
    }

    fn has(&self, sum: u32) -> bool {
        let bit = sum >> (32 - FILTER_BITS);
        self.filter[(bit / 64) as usize] & 1 << (bit % 64) != 0
    }

    /// The blocks of this sum, at most [`MAX_EQUAL_SUMS`].
    fn of(&self, sum: u32) -> impl Iterator<Item = usize> {
        let first = self.sums.partition_point(|&(known, _)| known < sum);
        let equal = self.sums[first..].iter().take_while(move |&&(known, _)| known == sum);
        equal.take(MAX_EQUAL_SUMS).map(|&(_, block)| block as usize)
    }
}

/// Takes a new content piece by piece and gives the patch from the old one, the new one's digest and
/// its blocks. Holds a few pieces.
pub struct Differ {
    base: Arc<Blocks>,
    signer: Option<Signer>,
    index: Option<Index>,
    writer: PatchWriter,
    /// What was taken and is not told yet.
    window: Vec<u8>,
    /// Where the window begins in the new content.
    start: u64,
    /// The first byte of the window that may begin a block; those before are new.
    at: usize,
    /// The block that would follow.
    step: usize,
    /// Of the block at `at`.
    rolling: Option<Rolling>,
}

impl Differ {
    /// From a content of which these are the blocks, to one of `size` bytes.
    #[must_use]
    pub fn new(base: Arc<Blocks>, size: u64) -> Self {
        Self {
            base,
            signer: Signer::new(size),
            index: None,
            writer: PatchWriter::default(),
            window: Vec::new(),
            start: 0,
            at: 0,
            step: 0,
            rolling: None,
        }
    }

    /// Takes the next bytes: a multiple of 128 KiB, but for the end of the content.
    pub fn take(&mut self, bytes: &[u8]) {
        if let Some(signer) = &mut self.signer {
            signer.take_like(bytes, Some(&self.base));
        }
        self.window.extend_from_slice(bytes);
        self.search();
        let told = self.at;
        self.window.drain(..told);
        self.start += told as u64;
        self.at = 0;
    }

    /// The patch so far; its last instruction may be missing.
    pub fn patch(&mut self) -> Vec<u8> {
        self.writer.take()
    }

    /// The rest of the patch, the digest of what was taken, and its blocks. Without blocks (see
    /// [`block_bytes`]) there is no digest either.
    #[must_use]
    pub fn finish(mut self) -> (Vec<u8>, Option<(Digest, Blocks)>) {
        self.tail();
        (self.writer.finish(), self.signer.map(Signer::finish))
    }

    /// Goes on as long as a whole block is at hand. Bytes before `at` are told when it returns.
    fn search(&mut self) {
        let block = self.base.block;
        // Where bytes begin that are not told.
        let mut new = 0;
        while self.at + block <= self.window.len() {
            if let Some(found) = self.find() {
                self.writer.bring(&self.window[new..self.at]);
                self.writer.copy((found * block) as u64, block as u64);
                self.at += block;
                new = self.at;
                self.step = found + 1;
                self.rolling = None;
            } else {
                self.advance();
            }
        }
        self.writer.bring(&self.window[new..self.at]);
    }

    /// The old block that stands at `at`.
    fn find(&mut self) -> Option<usize> {
        let here = &self.window[self.at..self.at + self.base.block];
        if self.rolling.is_none() {
            let stayed = self.stayed();
            if stayed.unwrap_or_else(|| is_block(&self.base, here, self.step)) {
                return Some(self.step);
            }
            self.rolling = Some(Rolling::of(here));
        }
        let sum = self.rolling?.value();
        let index = self.index.get_or_insert_with(|| Index::new(&self.base));
        if !index.has(sum) {
            return None;
        }
        index.of(sum).find(|&found| is_block(&self.base, here, found))
    }

    /// Whether the block at `at`, where the old content would go on in its place, is what it was;
    /// `None` when nothing stands in its place any more. Saves hashing it twice.
    fn stayed(&self) -> Option<bool> {
        let place = self.start + self.at as u64;
        let signed = self.signer.as_ref().map(|signer| &signer.known)?;
        let there = signed.block == self.base.block && place == self.base.range(self.step).0;
        let hash = signed.hashes.get(self.step).filter(|_| there)?;
        Some(self.base.sums.len() > self.step && self.base.hashes.get(self.step) == Some(hash))
    }

    /// Moves on by one byte.
    fn advance(&mut self) {
        let after = self.at + self.base.block;
        match (&mut self.rolling, self.window.get(after)) {
            (Some(rolling), Some(&into)) => rolling.roll(self.window[self.at], into),
            // Computed anew when there is more.
            (rolling, _) => *rolling = None,
        }
        self.at += 1;
    }

    /// The end of the content, shorter than a block: perhaps the old one's.
    fn tail(&mut self) {
        let last = self.base.hashes.len().saturating_sub(1);
        let (offset, length) = self.base.range(last);
        let rest = &self.window[self.at..];
        if let Some(new) = rest.len().checked_sub(length)
            && is_block(&self.base, &rest[new..], last)
        {
            self.writer.bring(&rest[..new]);
            self.writer.copy(offset, length as u64);
        } else {
            self.writer.bring(rest);
        }
    }
}

/// Whether bytes are the old block of this number.
fn is_block(base: &Blocks, bytes: &[u8], index: usize) -> bool {
    let Some(&known) = base.hashes.get(index) else { return false };
    let (offset, length) = base.range(index);
    bytes.len() == length && beginning(&node(bytes, offset)) == known
}
