//! The hashes of the parts of a large file, from which its digest follows without reading it again.
//!
//! The parts are nodes of the file's own blake3 tree. Where a part changes, it alone is hashed.

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};

use crate::tree::Digest;

/// A part, in bytes: 32 bytes are kept of each, 32 KiB for a file of 1 GiB.
pub const PART_BYTES: usize = 1 << 20;

/// The hashes of the parts of one content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nodes {
    size: u64,
    nodes: Vec<ChainingValue>,
}

impl Nodes {
    /// Of a content of `size` bytes whose parts are told by `hash`: each by its number, in order.
    ///
    /// # Errors
    /// The first error of `hash`.
    pub fn of<E>(
        size: u64,
        hash: impl FnMut(usize) -> Result<ChainingValue, E>,
    ) -> Result<Self, E> {
        let count = size.div_ceil(PART_BYTES as u64) as usize;
        let nodes = (0..count).map(hash).collect::<Result<_, E>>()?;
        Ok(Self { size, nodes })
    }

    /// Of the content, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The hash of a part of `size` bytes of content; `None` where that content has another part.
    #[must_use]
    pub fn part(&self, number: usize, size: u64) -> Option<ChainingValue> {
        let end = (number as u64 + 1) * PART_BYTES as u64;
        let whole = end <= self.size && end <= size;
        self.nodes.get(number).filter(|_| whole || self.size == size).copied()
    }

    /// The digest of the content; `None` for one that is not more than a part.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        let mut stack = Stack::default();
        self.nodes.iter().for_each(|node| stack.push(*node));
        stack.root()
    }
}

/// The hash of a part.
#[must_use]
pub fn part_node(bytes: &[u8], number: usize) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(number as u64 * PART_BYTES as u64);
    hasher.update(bytes).finalize_non_root()
}

/// Takes a content in pieces of any length; gives its digest and the hashes of its parts.
pub struct NodeHasher {
    size: u64,
    nodes: Vec<ChainingValue>,
    part: blake3::Hasher,
    /// Bytes in the part.
    filled: usize,
}

impl Default for NodeHasher {
    fn default() -> Self {
        Self { size: 0, nodes: Vec::new(), part: blake3::Hasher::new(), filled: 0 }
    }
}

impl NodeHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == PART_BYTES {
                self.nodes.push(self.part.finalize_non_root());
                self.part = blake3::Hasher::new();
                self.part.set_input_offset(self.size);
                self.filled = 0;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(PART_BYTES - self.filled));
            self.part.update(now);
            self.filled += now.len();
            self.size += now.len() as u64;
            bytes = rest;
        }
    }

    /// The digest, and the hashes of the parts where there is more than one.
    #[must_use]
    pub fn finish(mut self) -> (Digest, Option<Nodes>) {
        if self.nodes.is_empty() {
            return (Digest::from(self.part.finalize()), None);
        }
        self.nodes.push(self.part.finalize_non_root());
        let nodes = Nodes { size: self.size, nodes: self.nodes };
        (nodes.digest().unwrap_or_default(), Some(nodes))
    }
}

/// Nodes of one size (the last may be smaller), merged as blake3 does.
#[derive(Default)]
pub(super) struct Stack {
    nodes: Vec<ChainingValue>,
    pushed: usize,
}

impl Stack {
    pub(super) fn push(&mut self, node: ChainingValue) {
        // Two full subtrees of one size are one as soon as something follows.
        while self.nodes.len() > self.pushed.count_ones() as usize {
            self.merge();
        }
        self.nodes.push(node);
        self.pushed += 1;
    }

    /// The digest of all; `None` for less than two nodes.
    pub(super) fn root(mut self) -> Option<Digest> {
        while self.nodes.len() > 2 {
            self.merge();
        }
        match &self.nodes[..] {
            [left, right] => Some(Digest::from(merge_subtrees_root(left, right, Mode::Hash))),
            _ => None,
        }
    }

    fn merge(&mut self) {
        if let (Some(right), Some(left)) = (self.nodes.pop(), self.nodes.pop()) {
            self.nodes.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }
}
