//! What is remembered of a small file: two bytes for each block of 32 and more.

use super::patch::PatchWriter;
use crate::varint;

/// Smaller content is as quickly sent whole.
const FROM_BYTES: usize = 2 << 10;
/// Larger content is remembered by its [`super::Blocks`].
const UP_TO_BYTES: usize = 64 << 10;
/// Smallest block, in bytes.
const BLOCK_BYTES: usize = 32;
/// Most blocks.
const MAX_BLOCKS: usize = 1024;
/// Blocks between front and back that stayed must be so many in a row: two bytes alone are equal by
/// chance once in 65,536 times.
const RUN: usize = 2;

/// The blocks of a content, by two bytes each: enough to find the front and the back that stayed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sketch {
    size: u32,
    block: u32,
    /// The last may be of a shorter block.
    sums: Box<[u16]>,
}

impl Sketch {
    /// Of a content of 2 to 64 KiB; others have none.
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
        let end = new.len() - back;
        if new.len() == base {
            self.middle(new, front, end, &mut writer);
        } else {
            writer.bring(&new[front..end]);
        }
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

    /// Blocks between front and back that stayed where they were.
    fn middle(&self, new: &[u8], front: usize, end: usize, writer: &mut PatchWriter) {
        let block = self.block as usize;
        let stayed = |at: usize| {
            at + block <= end && self.sums.get(at / block) == Some(&sum(&new[at..at + block]))
        };
        let mut at = front;
        while at < end {
            let run = (0..).take_while(|n| stayed(at + n * block)).count();
            if run >= RUN {
                writer.copy(at as u64, (run * block) as u64);
                at += run * block;
            } else {
                let next = (at + block).min(end);
                writer.bring(&new[at..next]);
                at = next;
            }
        }
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
