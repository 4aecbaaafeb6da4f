//! What is remembered of a small file: two bytes for each block of 32 and more.

use std::ops::Range;

use super::patch::PatchWriter;
use crate::varint;

/// Smaller content is as quickly sent whole.
const FROM_BYTES: usize = 256;
/// Larger content is remembered by its [`super::Blocks`].
const UP_TO_BYTES: usize = 64 << 10;
/// Smallest block, in bytes.
const BLOCK_BYTES: usize = 32;
/// Most blocks.
const MAX_BLOCKS: usize = 1024;
/// Blocks between front and back that stayed must be so many in a row: two bytes alone are equal by
/// chance once in 65,536 times.
const RUN: usize = 2;
/// One more where so many pairs of a place and a block are compared.
const MANY_PAIRS: usize = 1 << 20;
/// Blocks of one sum that are tried at a place.
const CANDIDATES: usize = 8;

/// The blocks of a content, by two bytes each: enough to find what stayed in its order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sketch {
    size: u32,
    block: u32,
    /// The last may be of a shorter block.
    sums: Box<[u16]>,
}

impl Sketch {
    /// Of a content of 256 bytes to 64 KiB; others have none.
    #[must_use]
    pub fn of(content: &[u8]) -> Option<Self> {
        if !(FROM_BYTES..=UP_TO_BYTES).contains(&content.len()) {
            return None;
        }
        let block = block_bytes(content.len());
        let sums = content.chunks(block).map(sum).collect();
        let size = u32::try_from(content.len()).ok()?;
        Some(Self { size, block: u32::try_from(block).ok()?, sums })
    }

    /// Appends it for a file that keeps it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        varint::push(self.size.into(), out);
        self.sums.iter().for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
    }

    /// Takes what [`Sketch::encode`] wrote from the front; `None` when there is no such thing.
    #[must_use]
    pub fn decode(input: &mut &[u8]) -> Option<Self> {
        let mut used = 0;
        let size = varint::read(input, &mut used)?;
        let content = usize::try_from(size).ok()?;
        if !(FROM_BYTES..=UP_TO_BYTES).contains(&content) {
            return None;
        }
        let block = block_bytes(content);
        let count = content.div_ceil(block);
        let (sums, rest) = input.split_at_checked(used)?.1.split_at_checked(count * 2)?;
        *input = rest;
        let sums = sums.as_chunks().0.iter().map(|sum| u16::from_le_bytes(*sum)).collect();
        Some(Self { size: u32::try_from(size).ok()?, block: u32::try_from(block).ok()?, sums })
    }

    /// Memory it takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.sums)
    }

    /// The patch to another content, which must be checked: blocks may be equal by chance.
    #[must_use]
    pub fn patch(&self, new: &[u8]) -> Vec<u8> {
        let mut writer = PatchWriter::default();
        let base = self.size as usize;
        let front = self.front(new);
        let back = self.back(new, front);
        writer.copy(0, front as u64);
        let first = front.div_ceil(self.block as usize);
        let last = (base - back) / self.block as usize;
        self.middle(&new[front..new.len() - back], first..last.max(first), &mut writer);
        writer.copy((base - back) as u64, back as u64);
        writer.finish()
    }

    /// Bytes at the front that stayed.
    fn front(&self, new: &[u8]) -> usize {
        let base = self.size as usize;
        let mut front = 0;
        for &known in &self.sums {
            let end = (front + self.block as usize).min(base);
            match new.get(front..end) {
                Some(block) if sum(block) == known => front = end,
                _ => break,
            }
        }
        front
    }

    /// Bytes at the back that stayed, of what is not front already.
    fn back(&self, new: &[u8], front: usize) -> usize {
        let base = self.size as usize;
        let room = base.min(new.len()) - front;
        let mut back = 0;
        for (index, &known) in self.sums.iter().enumerate().rev() {
            let start = index * self.block as usize;
            let wide = base - start;
            let end = new.len() - back;
            if wide > room || sum(&new[new.len() - wide..end]) != known {
                break;
            }
            back = wide;
        }
        back
    }

    /// Blocks between front and back that stayed, wherever they went, in their order.
    fn middle(&self, new: &[u8], blocks: Range<usize>, writer: &mut PatchWriter) {
        let block = self.block as usize;
        let mut known: Vec<(u16, usize)> = blocks.clone().map(|at| (self.sums[at], at)).collect();
        known.sort_unstable();
        let mut seen = vec![false; if known.is_empty() { 0 } else { 1 << 16 }];
        known.iter().for_each(|&(sum, _)| seen[usize::from(sum)] = true);
        let least = if new.len() * blocks.len() > MANY_PAIRS { RUN + 1 } else { RUN };
        let (mut at, mut told, mut next) = (0, 0, blocks.start);
        while next + least <= blocks.end && at + least * block <= new.len() {
            let here = sum(&new[at..at + block]);
            let run = if seen[usize::from(here)] {
                self.longest(&new[at..], here, next..blocks.end, &known)
            } else {
                None
            };
            match run.filter(|(_, count)| *count >= least) {
                Some((from, count)) => {
                    writer.bring(&new[told..at]);
                    writer.copy((from * block) as u64, (count * block) as u64);
                    at += count * block;
                    (told, next) = (at, from + count);
                }
                None => at += 1,
            }
        }
        writer.bring(&new[told..]);
    }

    /// The longest run of blocks within `blocks` that `new` begins with: its first, and how many.
    fn longest(
        &self,
        new: &[u8],
        sum_here: u16,
        blocks: Range<usize>,
        known: &[(u16, usize)],
    ) -> Option<(usize, usize)> {
        let begin = known.partition_point(|&pair| pair < (sum_here, blocks.start));
        let equal = known[begin..].iter().take_while(|(sum, _)| *sum == sum_here);
        let runs = equal.take(CANDIDATES).map(|&(_, from)| {
            let chunks = new.chunks_exact(self.block as usize);
            let wanted = &self.sums[from..blocks.end];
            let count = chunks.zip(wanted).take_while(|(chunk, known)| sum(chunk) == **known);
            (from, count.count())
        });
        // Of equal ones the first.
        runs.reduce(|best, run| if run.1 > best.1 { run } else { best })
    }
}

/// How long the blocks of a content are.
fn block_bytes(content: usize) -> usize {
    (content / MAX_BLOCKS).next_power_of_two().max(BLOCK_BYTES)
}

/// Two bytes for a block. Stands in files, under a version of theirs.
fn sum(block: &[u8]) -> u16 {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = (block.len() as u64).wrapping_mul(MIX);
    let mut words = block.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("chunks of eight"));
        state = (state ^ word).wrapping_mul(MIX);
        state ^= state >> 29;
    }
    for &byte in words.remainder() {
        state = (state ^ u64::from(byte)).wrapping_mul(MIX);
        state ^= state >> 29;
    }
    (state.wrapping_mul(MIX) >> 48) as u16
}
