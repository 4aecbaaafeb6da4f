//! A sum over a block that moves on by one byte in constant time.

/// The sum of a block, and how to move it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rolling {
    plain: u32,
    /// The first byte counts as often as the block is long, the last once.
    weighted: u32,
    length: u32,
}

impl Rolling {
    /// Of a block of less than 4 GiB.
    pub(super) fn of(block: &[u8]) -> Self {
        let length = block.len() as u32;
        let (mut plain, mut weighted) = (0u32, 0u32);
        for (index, &byte) in (0u32..).zip(block) {
            plain = plain.wrapping_add(byte.into());
            weighted = weighted.wrapping_add(u32::from(byte).wrapping_mul(length - index));
        }
        Self { plain, weighted, length }
    }

    /// Leaves out the first byte and takes in one after the last.
    pub(super) fn roll(&mut self, out: u8, into: u8) {
        let (out, into) = (u32::from(out), u32::from(into));
        self.plain = self.plain.wrapping_sub(out).wrapping_add(into);
        self.weighted =
            self.weighted.wrapping_sub(out.wrapping_mul(self.length)).wrapping_add(self.plain);
    }

    /// The sum, its bits mixed.
    pub(super) fn value(self) -> u32 {
        let mixed = u64::from(self.plain) << 32 | u64::from(self.weighted);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }
}
