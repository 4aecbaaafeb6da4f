//! The patch from a content that is known by its blocks.
//!
//! A [`Differ`] reads all of the new content. Where the new one's blocks are known as well, [`Gaps`]
//! reads those alone that are not where they were.

use std::sync::Arc;

use super::blocks::{Blocks, MAX_BLOCK_BYTES, Signer};
use super::search::Search;
use crate::tree::Digest;

/// Takes a new content piece by piece and gives the patch from the old one, the new one's digest and
/// its blocks. Holds a few pieces.
pub struct Differ {
    search: Search,
    signer: Option<Signer>,
}

impl Differ {
    /// From a content of which these are the blocks, to one of `size` bytes.
    #[must_use]
    pub fn new(base: Arc<Blocks>, size: u64) -> Self {
        Self { search: Search::new(base), signer: Signer::new(size) }
    }

    /// Takes the next bytes: a multiple of 128 KiB, but for the end of the content.
    pub fn take(&mut self, bytes: &[u8]) {
        if let Some(signer) = &mut self.signer {
            signer.take_like(bytes, Some(self.search.base()));
        }
        self.search.take(bytes, self.signer.as_ref().map(Signer::known));
    }

    /// The patch so far; its last instruction may be missing.
    pub fn patch(&mut self) -> Vec<u8> {
        self.search.patch()
    }

    /// The rest of the patch, the digest of what was taken, and its blocks. Without blocks (see
    /// [`super::block_bytes`]) there is no digest either.
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, Option<(Digest, Blocks)>) {
        (self.search.finish(), self.signer.map(Signer::finish))
    }
}

/// Gives the patch between two contents whose blocks are known, and takes of the new one what is not
/// where it was. What is taken is compared with the new one's blocks, so that the patch leads to that
/// very content, whatever became of it meanwhile.
pub struct Gaps {
    search: Search,
    new: Arc<Blocks>,
    /// The block that comes next.
    next: usize,
}

impl Gaps {
    /// From one content to another; `None` where their blocks are not of one length.
    #[must_use]
    pub fn between(base: Arc<Blocks>, new: Arc<Blocks>) -> Option<Self> {
        (base.block == new.block).then(|| Self { search: Search::new(base), new, next: 0 })
    }

    /// Offset and length of what is to be taken next, at most 128 KiB; `None` when nothing is.
    pub fn wanted(&mut self) -> Option<(u64, usize)> {
        let count = self.new.hashes.len();
        let stay = (self.next..count).take_while(|&index| self.stays(index)).count();
        if stay > 0 {
            let start = self.new.range(self.next).0;
            let (last, length) = self.new.range(self.next + stay - 1);
            self.search.stay(stay, last + length as u64 - start);
            self.next += stay;
        }
        let most = MAX_BLOCK_BYTES as usize / self.new.block;
        let gap = (self.next..count).take(most).take_while(|&index| !self.stays(index)).count();
        let (last, length) = self.new.range((self.next + gap).checked_sub(1).filter(|_| gap > 0)?);
        let start = self.new.range(self.next).0;
        Some((start, (last - start) as usize + length))
    }

    /// Takes what was wanted; `false` when the content is not what it was.
    #[must_use]
    pub fn take(&mut self, bytes: &[u8]) -> bool {
        let first = self.next;
        let blocks = bytes.chunks(self.new.block);
        self.next += blocks.len();
        let same = (first..).zip(blocks).all(|(index, block)| self.new.is_block(block, index));
        if same {
            self.search.take(bytes, Some(&self.new));
        }
        same
    }

    /// The patch so far; its last instruction may be missing.
    pub fn patch(&mut self) -> Vec<u8> {
        self.search.patch()
    }

    /// The rest of the patch, once nothing more is wanted.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.search.finish()
    }

    /// Whether a block is where it was.
    fn stays(&self, index: usize) -> bool {
        let base = self.search.base();
        base.hashes.get(index) == self.new.hashes.get(index)
            && base.range(index) == self.new.range(index)
    }
}
