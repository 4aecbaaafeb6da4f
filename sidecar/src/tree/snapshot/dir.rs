//! One directory: children in sorted columns, and above [`PLAIN`] of them in parts that versions
//! share, so that a change in a directory of 100,000 files costs that of one of some hundreds.
//!
//! Where a part ends follows from the names alone ([`ends_part`]), and whether there are parts from
//! the number of children: equal directories have equal parts and equal hashes, however they came
//! about. That, the keys and the bytes that are hashed are part of the protocol.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, LazyLock};

use super::{Node, TreeId};
use crate::path::{MAX_DEPTH, MAX_PATH_BYTES, SyncPath, check_component};

/// Key of the hash of a directory listing, so that no file's content can pass for one.
const LISTING_KEY: &[u8; 32] = b"e2ek-sync directory listing v1\0\0";
/// Key of the hash of a part's listing.
const PART_KEY: &[u8; 32] = b"e2ek-sync directory part v1\0\0\0\0\0";
/// Key of the hash of a wide directory: of the hashes of its parts.
const PARTS_KEY: &[u8; 32] = b"e2ek-sync directory parts v1\0\0\0\0";
/// Most children of a directory without parts.
const PLAIN: usize = 512;
/// About what a name takes.
const NAME_BYTES: usize = 16;
/// What a child takes in the listing that is hashed, beside its name; a link is longer.
const LISTED_BYTES: usize = 42;
/// A part has so many children on average; a power of two.
const PART: u32 = 256;

/// Whether the part that holds this name ends with it.
fn ends_part(name: &[u8]) -> bool {
    crc32c::crc32c(name).is_multiple_of(PART)
}

struct Child {
    /// Where the name ends in the pool; it begins where the one before ends.
    name_end: u32,
    node: Node,
}

/// Neighbouring children, names pooled.
struct Block {
    names: Box<[u8]>,
    children: Box<[Child]>,
}

/// A part of a wide directory.
struct Part {
    block: Block,
    hash: [u8; 32],
    /// Files, links and directories in it and below.
    count: u64,
}

impl Part {
    /// Whether it can be taken over as it is when `name`, or nothing more, comes next: all of it is
    /// before, and what follows does not belong to it.
    fn stands_before(&self, name: Option<&[u8]>) -> bool {
        let last = self.block.name(self.block.children.len() - 1);
        name.is_none_or(|name| last < name && ends_part(last))
    }
}

enum Body {
    Plain(Block),
    /// None is empty.
    Wide(Box<[Arc<Part>]>),
}

/// One directory: children sorted by name, and the hash over all below.
pub struct Dir {
    body: Body,
    hash: TreeId,
    /// Files, links and directories below, at any depth.
    count: u64,
    /// Direct children.
    len: usize,
}

/// Where a child stands among the others, in their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Spot {
    block: u32,
    at: u32,
}

impl Block {
    fn name(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.children[index - 1].name_end };
        &self.names[start as usize..self.children[index].name_end as usize]
    }

    fn at(&self, index: usize) -> Option<(&[u8], &Node)> {
        let child = self.children.get(index)?;
        Some((self.name(index), &child.node))
    }

    /// The index of the first child whose name is not before `name`.
    fn place(&self, name: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.children.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.name(middle).cmp(name) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return middle,
            }
        }
        low
    }
}

impl Dir {
    /// The directory that holds nothing.
    #[must_use]
    pub fn empty() -> Arc<Self> {
        static EMPTY: LazyLock<Arc<Dir>> = LazyLock::new(|| DirBuilder::default().finish());
        EMPTY.clone()
    }

    /// The hash over everything below.
    #[must_use]
    pub fn id(&self) -> TreeId {
        self.hash
    }

    /// Files, links and directories below, at any depth.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Direct children.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn block(&self, index: usize) -> Option<&Block> {
        match &self.body {
            Body::Plain(block) => (index == 0).then_some(block),
            Body::Wide(parts) => parts.get(index).map(|part| &part.block),
        }
    }

    /// Direct children by name, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Node)> {
        let blocks = (0..).map_while(|index| self.block(index));
        blocks.flat_map(|block| (0..).map_while(|index| block.at(index)))
    }

    /// The child of that name. Cost: a binary search.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Node> {
        self.find(name).map(|(_, node)| node)
    }

    /// The child of that name, and its place among the children. Cost: a binary search.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<(Spot, &Node)> {
        let index = match &self.body {
            Body::Plain(_) => 0,
            Body::Wide(parts) => {
                parts.partition_point(|part| part.block.name(0) <= name).checked_sub(1)?
            }
        };
        let block = self.block(index)?;
        let at = block.place(name);
        let (found, node) = block.at(at)?;
        (found == name).then_some((Spot { block: index as u32, at: at as u32 }, node))
    }

    /// The child at a place that [`Self::find`] gave for this directory.
    #[must_use]
    pub fn at(&self, place: Spot) -> Option<(&[u8], &Node)> {
        self.block(place.block as usize)?.at(place.at as usize)
    }

    /// Whether all that it holds would have a path below `at`. Cost: a walk.
    #[must_use]
    pub fn fits(&self, at: &SyncPath) -> bool {
        let (bytes, depth) = self.extent();
        let length = at.as_bytes().len();
        length + bytes <= MAX_PATH_BYTES && at.components().count() + depth <= MAX_DEPTH
    }

    /// The longest path below it with the slash before it, in bytes, and how deep the deepest lies.
    fn extent(&self) -> (usize, usize) {
        self.iter().fold((0, 0), |(bytes, depth), (name, node)| {
            let below = match node {
                Node::Directory(dir) => dir.extent(),
                _ => (0, 0),
            };
            (bytes.max(1 + name.len() + below.0), depth.max(1 + below.1))
        })
    }

    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor { dir: self, block: 0, at: 0 }
    }
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, node)| (String::from_utf8_lossy(name), node)))
            .finish()
    }
}

/// A place among a directory's children.
pub(super) struct Cursor<'a> {
    dir: &'a Dir,
    block: usize,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// The child that it stands before.
    pub(super) fn peek(&self) -> Option<(&'a [u8], &'a Node)> {
        self.dir.block(self.block)?.at(self.at)
    }

    /// Goes past one child.
    pub(super) fn step(&mut self) {
        self.at += 1;
        let over = |block: &Block| self.at >= block.children.len();
        if self.dir.block(self.block).is_some_and(over) {
            (self.block, self.at) = (self.block + 1, 0);
        }
    }

    /// The part that it stands before.
    fn part(&self) -> Option<&'a Arc<Part>> {
        match &self.dir.body {
            Body::Wide(parts) if self.at == 0 => parts.get(self.block),
            _ => None,
        }
    }

    /// Goes past parts that are the same in both.
    pub(super) fn skip_equal(a: &mut Self, b: &mut Self) {
        while let (Some(one), Some(other)) = (a.part(), b.part())
            && (Arc::ptr_eq(one, other) || one.hash == other.hash)
        {
            a.block += 1;
            b.block += 1;
        }
    }
}

/// Collects the children of one directory, in any order; in theirs it costs least.
#[derive(Default)]
pub struct DirBuilder {
    /// Those that came in order.
    made: Assembly,
    /// Those that did not.
    late: Vec<(Box<[u8]>, Node)>,
}

impl DirBuilder {
    /// For about so many children; those of a wide directory come in parts anyway.
    pub(crate) fn sized(children: usize) -> Self {
        let mut made = Assembly::default();
        let children = children.min(PLAIN + 1);
        made.pool.children.reserve_exact(children);
        made.pool.names.reserve(children * NAME_BYTES);
        made.pool.listing.reserve(children * (NAME_BYTES + LISTED_BYTES));
        Self { made, late: Vec::new() }
    }

    /// Adds a child. Of two with the same name the later one stays.
    ///
    /// # Panics
    /// Never on names that [`check_component`] accepts; others are a programming error.
    pub fn push(&mut self, name: &[u8], node: Node) {
        debug_assert!(check_component(name).is_ok());
        if self.made.last().is_none_or(|last| last < name) {
            self.made.push(name, node);
        } else {
            self.late.push((name.into(), node));
        }
    }

    /// Sorts, hashes and freezes. Cost: linear in the children, once.
    #[must_use]
    pub fn finish(self) -> Arc<Dir> {
        let first = self.made.finish();
        let mut late = self.late;
        if late.is_empty() {
            return first;
        }
        late.reverse();
        late.sort_by(|a, b| a.0.cmp(&b.0));
        late.dedup_by(|a, b| a.0 == b.0);
        let (mut made, mut kept) = (Assembly::like(&first), first.cursor());
        for (name, node) in late {
            made.take_until(&mut kept, Some(&name));
            if kept.peek().is_some_and(|(before, _)| *before == *name) {
                kept.step();
            }
            made.push(&name, node);
        }
        made.take_until(&mut kept, None);
        made.finish()
    }
}

/// A directory being put together, in order.
#[derive(Default)]
pub(super) struct Assembly {
    /// What is complete of a wide directory.
    parts: Vec<Arc<Part>>,
    /// What is not, or all of a directory that is not wide.
    pool: Pool,
    wide: bool,
}

impl Assembly {
    /// For what will be much like `dir`.
    pub(super) fn like(dir: &Dir) -> Self {
        match &dir.body {
            Body::Plain(block) => Self { pool: Pool::like(block), ..Self::default() },
            Body::Wide(_) => Self { wide: true, ..Self::default() },
        }
    }

    fn last(&self) -> Option<&[u8]> {
        let in_parts = || {
            let block = &self.parts.last()?.block;
            Some(block.name(block.children.len() - 1))
        };
        self.pool.last().or_else(in_parts)
    }

    /// Adds a child behind the last.
    pub(super) fn push(&mut self, name: &[u8], node: Node) {
        self.pool.push(name, node);
        if self.wide {
            if ends_part(name) {
                self.end_part();
            }
        } else if self.pool.children.len() > PLAIN {
            self.wide = true;
            let block = std::mem::take(&mut self.pool).into_block();
            for (name, node) in (0..).map_while(|index| block.at(index)) {
                self.push(name, node.clone());
            }
        }
    }

    fn end_part(&mut self) {
        if !self.pool.children.is_empty() {
            let pool = std::mem::take(&mut self.pool);
            let hash = *blake3::keyed_hash(PART_KEY, &pool.listing).as_bytes();
            let count = pool.count;
            self.parts.push(Arc::new(Part { block: pool.into_block(), hash, count }));
        }
    }

    /// Takes over children up to a name; all that are left without one. Whole parts are shared.
    pub(super) fn take_until(&mut self, from: &mut Cursor<'_>, name: Option<&[u8]>) {
        loop {
            if self.pool.children.is_empty()
                && let Some(part) = from.part()
                && part.stands_before(name)
            {
                self.parts.push(Arc::clone(part));
                from.block += 1;
                continue;
            }
            match from.peek() {
                Some((next, node)) if name.is_none_or(|name| next < name) => {
                    self.push(next, node.clone());
                    from.step();
                }
                _ => return,
            }
        }
    }

    /// Hashes and freezes.
    pub(super) fn finish(mut self) -> Arc<Dir> {
        let len = |part: &Arc<Part>| part.block.children.len();
        let total = self.parts.iter().map(len).sum::<usize>() + self.pool.children.len();
        if self.wide && total > PLAIN {
            self.end_part();
            let listing: Vec<u8> = self.parts.iter().flat_map(|part| part.hash).collect();
            let hash = TreeId(*blake3::keyed_hash(PARTS_KEY, &listing).as_bytes());
            let count = self.parts.iter().map(|part| part.count).sum();
            return Arc::new(Dir { body: Body::Wide(self.parts.into()), hash, count, len: total });
        }
        let mut pool = self.pool;
        if !self.parts.is_empty() {
            let tail = std::mem::take(&mut pool).into_block();
            let blocks = self.parts.iter().map(|part| &part.block).chain([&tail]);
            for (name, node) in blocks.flat_map(|b| (0..).map_while(|index| b.at(index))) {
                pool.push(name, node.clone());
            }
        }
        let hash = TreeId(*blake3::keyed_hash(LISTING_KEY, &pool.listing).as_bytes());
        let count = pool.count;
        Arc::new(Dir { body: Body::Plain(pool.into_block()), hash, count, len: total })
    }
}

/// Children in order, names pooled, listing bytes gathered for the hash.
#[derive(Default)]
struct Pool {
    names: Vec<u8>,
    children: Vec<Child>,
    listing: Vec<u8>,
    count: u64,
}

impl Pool {
    /// With room for what a block holds, and one child more.
    fn like(block: &Block) -> Self {
        let (names, children) = (block.names.len() + NAME_BYTES, block.children.len() + 1);
        Self {
            names: Vec::with_capacity(names),
            children: Vec::with_capacity(children),
            listing: Vec::with_capacity(names + children * LISTED_BYTES),
            count: 0,
        }
    }

    fn last(&self) -> Option<&[u8]> {
        let start = match &self.children[..] {
            [] => return None,
            [_] => 0,
            [.., before, _] => before.name_end as usize,
        };
        Some(&self.names[start..])
    }

    fn push(&mut self, name: &[u8], node: Node) {
        self.names.extend_from_slice(name);
        let name_end = u32::try_from(self.names.len()).expect("a block's names fit 4 GiB");
        self.count += 1;
        self.listing.push(u8::try_from(name.len()).expect("a component is at most 255 bytes"));
        self.listing.extend_from_slice(name);
        match &node {
            Node::File { digest, size, executable, .. } => {
                self.listing.push(if *executable { b'x' } else { b'f' });
                self.listing.extend_from_slice(&size.to_le_bytes());
                self.listing.extend_from_slice(&digest.0);
            }
            Node::Symlink(target) => {
                self.listing.push(b'l');
                self.listing.extend_from_slice(&(target.len() as u64).to_le_bytes());
                self.listing.extend_from_slice(target);
            }
            Node::Directory(dir) => {
                self.count += dir.count;
                self.listing.push(b'd');
                self.listing.extend_from_slice(&dir.hash.0);
            }
        }
        self.children.push(Child { name_end, node });
    }

    fn into_block(self) -> Block {
        Block { names: self.names.into(), children: self.children.into() }
    }
}
