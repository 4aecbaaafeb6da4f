//! Where the blocks of an old content went.
//!
//! Memory: some pieces of the new content, and when something moved a table of eight bytes a block.

use std::sync::Arc;

use super::blocks::{Blocks, hash};
use super::patch::PatchWriter;
use super::rolling::Rolling;

/// Blocks with the same sum that are compared: a content of zeros has only one sum.
const MAX_EQUAL_SUMS: usize = 16;
const FILTER_BITS: u32 = 20;

/// Blocks by their sums; made when the first block is not where it was.
struct Index {
    /// Sum and number, sorted.
    sums: Vec<(u32, u32)>,
    /// One bit for the upper bits of each sum: most positions end here.
    filter: Vec<u64>,
}

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

/// Takes a new content from its front to its end and writes the patch from the old one.
pub(super) struct Search {
    base: Arc<Blocks>,
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

impl Search {
    /// In a content of which these are the blocks.
    pub(super) fn new(base: Arc<Blocks>) -> Self {
        Self {
            base,
            index: None,
            writer: PatchWriter::default(),
            window: Vec::new(),
            start: 0,
            at: 0,
            step: 0,
            rolling: None,
        }
    }

    pub(super) fn base(&self) -> &Arc<Blocks> {
        &self.base
    }

    /// Takes the next bytes. `new` is what is known of the new content, up to their end at least.
    pub(super) fn take(&mut self, bytes: &[u8], new: Option<&Blocks>) {
        self.window.extend_from_slice(bytes);
        self.search(new);
        let told = self.at;
        self.window.drain(..told);
        self.start += told as u64;
        self.at = 0;
    }

    /// So many blocks of the old content follow where they were; `length` bytes.
    pub(super) fn stay(&mut self, count: usize, length: u64) {
        self.writer.bring(&self.window);
        self.start += self.window.len() as u64;
        self.window.clear();
        self.writer.copy(self.start, length);
        self.step = (self.start / self.base.block as u64) as usize + count;
        self.start += length;
        self.rolling = None;
    }

    /// The patch so far; its last instruction may be missing.
    pub(super) fn patch(&mut self) -> Vec<u8> {
        self.writer.take()
    }

    /// The rest of the patch.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.tail();
        self.writer.finish()
    }

    /// Goes on as long as a whole block is at hand. Bytes before `at` are told when it returns.
    fn search(&mut self, new: Option<&Blocks>) {
        let block = self.base.block;
        // Where bytes begin that are not told.
        let mut fresh = 0;
        while self.at + block <= self.window.len() {
            if let Some(found) = self.find(new) {
                self.writer.bring(&self.window[fresh..self.at]);
                self.writer.copy(found as u64 * block as u64, block as u64);
                self.at += block;
                fresh = self.at;
                self.step = found + 1;
                self.rolling = None;
            } else {
                self.advance();
            }
        }
        self.writer.bring(&self.window[fresh..self.at]);
    }

    /// The old block that stands at `at`.
    fn find(&mut self, new: Option<&Blocks>) -> Option<usize> {
        let here = &self.window[self.at..self.at + self.base.block];
        if self.rolling.is_none() {
            let stayed = new.and_then(|new| self.stayed(new));
            if stayed.unwrap_or_else(|| self.base.is_block(here, self.step)) {
                return Some(self.step);
            }
            self.rolling = Some(Rolling::of(here));
        }
        let sum = self.rolling?.value();
        let index = self.index.get_or_insert_with(|| Index::new(&self.base));
        if !index.has(sum) {
            return None;
        }
        let mut candidates = index.of(sum).peekable();
        candidates.peek()?;
        let hash = hash(here);
        candidates.find(|&found| self.base.hashes.get(found) == Some(&hash))
    }

    /// Whether the block at `at`, where the old content would go on in its place, is what it was;
    /// `None` when nothing stands in its place any more. Saves hashing it.
    fn stayed(&self, new: &Blocks) -> Option<bool> {
        let place = self.start + self.at as u64;
        let there = new.block == self.base.block && place == self.base.range(self.step).0;
        let hash = new.hashes.get(self.step).filter(|_| there)?;
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
            && self.base.is_block(&rest[new..], last)
        {
            self.writer.bring(&rest[..new]);
            self.writer.copy(offset, length as u64);
        } else {
            self.writer.bring(rest);
        }
    }
}
