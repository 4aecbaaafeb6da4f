//! Snapshots: directories in sorted columns, hashed bottom up, shared between versions.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use super::{Change, Digest, Entry, Stamp};
use crate::path::{SyncPath, check_component};

/// Key of the hash of a directory listing, so that no file's content can pass for one.
const LISTING_KEY: &[u8; 32] = b"e2ek-sync directory listing v1\0\0";

/// The hash of a directory and everything below it: names, kinds, executable bits, sizes, digests
/// and link targets; not stamps. Equal ids mean equal trees.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TreeId(pub [u8; 32]);

impl fmt::Display for TreeId {
    /// The first 12 hex digits: enough for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why changes do not fit a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Not sorted by path, or a path twice, or the root itself.
    #[error("changes are not in path order at {0}")]
    Order(SyncPath),
    /// Something is to be put into what is not a directory.
    #[error("parent of {0} is not a directory")]
    NoParent(SyncPath),
}

/// What stands at a path in a [`Snapshot`].
#[derive(Clone, Debug)]
pub enum Node {
    /// A regular file.
    File {
        /// Of the content.
        digest: Digest,
        /// In bytes.
        size: u64,
        /// Whether the owner may execute it.
        executable: bool,
        /// What `stat` said when the digest was made; not part of the tree's hash.
        stamp: Stamp,
    },
    /// A symbolic link, verbatim.
    Symlink(Box<[u8]>),
    /// A directory and all it holds.
    Directory(Arc<Dir>),
}

impl Node {
    /// An empty directory.
    #[must_use]
    pub fn directory() -> Self {
        Self::Directory(Dir::empty())
    }

    /// The entry without its stamp and, for a directory, without what it holds.
    #[must_use]
    pub fn entry(&self) -> Entry {
        match self {
            &Self::File { digest, size, executable, .. } => {
                Entry::File { digest, size, executable }
            }
            Self::Symlink(target) => Entry::Symlink { target: target.clone() },
            Self::Directory(_) => Entry::Directory,
        }
    }

    /// A node for an entry: a directory comes empty.
    #[must_use]
    pub fn from_entry(entry: &Entry, stamp: Stamp) -> Self {
        match entry {
            &Entry::File { digest, size, executable } => {
                Self::File { digest, size, executable, stamp }
            }
            Entry::Symlink { target } => Self::Symlink(target.clone()),
            Entry::Directory => Self::directory(),
        }
    }

    fn same_content(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Directory(a), Self::Directory(b)) => a.hash == b.hash,
            (Self::Directory(_), _) | (_, Self::Directory(_)) => false,
            (a, b) => a.entry() == b.entry(),
        }
    }
}

struct Child {
    /// Where the name ends in the directory's pool; it begins where the one before ends.
    name_end: u32,
    node: Node,
}

/// One directory: children sorted by name, names pooled, and the hash over all below.
pub struct Dir {
    names: Box<[u8]>,
    children: Box<[Child]>,
    hash: TreeId,
    /// Files, links and directories below, at any depth.
    count: u64,
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
        self.children.len()
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    fn name(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.children[index - 1].name_end };
        &self.names[start as usize..self.children[index].name_end as usize]
    }

    /// Direct children by name, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Node)> {
        (0..self.children.len()).map(|i| (self.name(i), &self.children[i].node))
    }

    /// The child of that name. Cost: a binary search.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Node> {
        let (mut low, mut high) = (0, self.children.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.name(middle).cmp(name) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(&self.children[middle].node),
            }
        }
        None
    }
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, node)| (String::from_utf8_lossy(name), node)))
            .finish()
    }
}

/// Collects the children of one directory, in any order; in theirs it costs least.
#[derive(Default)]
pub struct DirBuilder {
    /// Those that came in order.
    pool: Pool,
    /// Those that did not.
    late: Vec<(Box<[u8]>, Node)>,
}

impl DirBuilder {
    /// Adds a child. Of two with the same name the later one stays.
    ///
    /// # Panics
    /// Never on names that [`check_component`] accepts; others are a programming error.
    pub fn push(&mut self, name: &[u8], node: Node) {
        debug_assert!(check_component(name).is_ok());
        if self.pool.last().is_none_or(|last| last < name) {
            self.pool.push(name, node);
        } else {
            self.late.push((name.into(), node));
        }
    }

    /// Sorts, hashes and freezes. Cost: linear in the children, once.
    #[must_use]
    pub fn finish(self) -> Arc<Dir> {
        if self.late.is_empty() {
            return self.pool.finish();
        }
        let first = self.pool.finish();
        let mut late = self.late;
        late.reverse();
        late.sort_by(|a, b| a.0.cmp(&b.0));
        late.dedup_by(|a, b| a.0 == b.0);
        let mut pool = Pool::with_capacity(first.len() + late.len());
        let mut first = first.iter().peekable();
        for (name, node) in late {
            while let Some((before, node)) = first.next_if(|(before, _)| **before < *name) {
                pool.push(before, node.clone());
            }
            first.next_if(|(before, _)| **before == *name);
            pool.push(&name, node);
        }
        for (name, node) in first {
            pool.push(name, node.clone());
        }
        pool.finish()
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
    fn with_capacity(children: usize) -> Self {
        Self {
            names: Vec::with_capacity(children * 16),
            children: Vec::with_capacity(children),
            listing: Vec::with_capacity(children * 48),
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
        let name_end = u32::try_from(self.names.len()).expect("a directory's names fit 4 GiB");
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

    fn finish(self) -> Arc<Dir> {
        let hash = TreeId(*blake3::keyed_hash(LISTING_KEY, &self.listing).as_bytes());
        Arc::new(Dir {
            names: self.names.into(),
            children: self.children.into(),
            hash,
            count: self.count,
        })
    }
}

/// A whole tree at one moment. Cloning is free; applying a change costs its ancestors only.
#[derive(Clone, Debug)]
pub struct Snapshot {
    root: Arc<Dir>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::empty()
    }
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Snapshot {}

/// One edit of [`Snapshot::apply`]: the node to stand at the path, a whole subtree for a directory.
pub type Edit = (SyncPath, Option<Node>);

impl Snapshot {
    /// The tree that holds nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self { root: Dir::empty() }
    }

    /// The tree whose root is this directory.
    #[must_use]
    pub fn from_root(root: Arc<Dir>) -> Self {
        Self { root }
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> &Arc<Dir> {
        &self.root
    }

    /// The Merkle root.
    #[must_use]
    pub fn id(&self) -> TreeId {
        self.root.hash
    }

    /// Files, links and directories, the root not counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.root.count
    }

    /// What stands at a path below the root; `None` also for the root itself (see [`Self::dir`]).
    #[must_use]
    pub fn get(&self, path: &SyncPath) -> Option<&Node> {
        let mut components = path.components();
        let mut node = self.root.get(components.next()?)?;
        for name in components {
            let Node::Directory(dir) = node else {
                return None;
            };
            node = dir.get(name)?;
        }
        Some(node)
    }

    /// The entry at a path below the root.
    #[must_use]
    pub fn entry(&self, path: &SyncPath) -> Option<Entry> {
        self.get(path).map(Node::entry)
    }

    /// The directory at a path, the root included.
    #[must_use]
    pub fn dir(&self, path: &SyncPath) -> Option<&Arc<Dir>> {
        if path.is_root() {
            return Some(&self.root);
        }
        match self.get(path)? {
            Node::Directory(dir) => Some(dir),
            _ => None,
        }
    }

    /// The tree with nodes put in place, replaced (a directory with all below) or removed. An edit
    /// may build on one before it: a directory first, then what is inside.
    ///
    /// # Errors
    /// When the edits are not sorted by path without repeats, or one has no parent directory.
    /// Removing what is not there is no error.
    pub fn apply(&self, edits: &[Edit]) -> Result<Self, TreeError> {
        if let Some(bad) = edits.iter().find(|e| e.0.is_root()) {
            return Err(TreeError::Order(bad.0.clone()));
        }
        if let Some(pair) = edits.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return Err(TreeError::Order(pair[1].0.clone()));
        }
        Ok(Self { root: edit_dir(&self.root, edits, 0)? })
    }

    /// Applies changes without looking at what they expect to find.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn apply_changes(&self, changes: &[Change]) -> Result<Self, TreeError> {
        let edits: Vec<Edit> = changes
            .iter()
            .map(|c| {
                let node = c.new.as_ref().map(|entry| Node::from_entry(entry, Stamp::default()));
                (c.path.clone(), node)
            })
            .collect();
        self.apply(&edits)
    }

    /// What must change to get from this tree to `target`, in path order. Cost: the directories
    /// that differ.
    #[must_use]
    pub fn diff(&self, target: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        diff_dir(&SyncPath::root(), &self.root, &target.root, &mut changes);
        changes
    }

    /// Calls `visit` for everything below the root, a directory before what it holds.
    pub fn walk(&self, visit: &mut dyn FnMut(&SyncPath, &Node)) {
        walk_dir(&SyncPath::root(), &self.root, visit);
    }
}

fn child_path(parent: &SyncPath, name: &[u8]) -> SyncPath {
    parent.join(name).expect("names and depth were checked when the tree was made")
}

fn walk_dir(at: &SyncPath, dir: &Dir, visit: &mut dyn FnMut(&SyncPath, &Node)) {
    for (name, node) in dir.iter() {
        let path = child_path(at, name);
        visit(&path, node);
        if let Node::Directory(below) = node {
            walk_dir(&path, below, visit);
        }
    }
}

/// Rebuilds one directory. `depth` is how many components of each edit's path lead to it.
fn edit_dir(dir: &Arc<Dir>, edits: &[Edit], depth: usize) -> Result<Arc<Dir>, TreeError> {
    if edits.is_empty() {
        return Ok(dir.clone());
    }
    let component = |edit: &Edit| -> Box<[u8]> {
        edit.0.components().nth(depth).expect("edits below a directory are longer").into()
    };
    let mut pool = Pool::with_capacity(dir.len() + 1);
    let mut kept = dir.iter().peekable();
    let mut rest = edits;
    while let Some(first) = rest.first() {
        let name = component(first);
        let here = rest.iter().take_while(|edit| component(edit) == name).count();
        let (group, after) = rest.split_at(here);
        rest = after;
        while let Some((kept_name, node)) = kept.next_if(|(kept_name, _)| **kept_name < *name) {
            pool.push(kept_name, node.clone());
        }
        let before = kept.next_if(|(kept_name, _)| **kept_name == *name).map(|(_, node)| node);
        if let Some(node) = edit_node(before, group, depth + 1)? {
            pool.push(&name, node);
        }
    }
    for (name, node) in kept {
        pool.push(name, node.clone());
    }
    Ok(pool.finish())
}

fn edit_node(
    before: Option<&Node>,
    edits: &[Edit],
    depth: usize,
) -> Result<Option<Node>, TreeError> {
    let (node, inside) = match edits {
        [(path, node), inside @ ..] if path.components().count() == depth => {
            (node.as_ref(), inside)
        }
        inside => (before, inside),
    };
    match (node, inside) {
        (node, []) => Ok(node.cloned()),
        (Some(Node::Directory(dir)), inside) => {
            Ok(Some(Node::Directory(edit_dir(dir, inside, depth)?)))
        }
        // Everything below is gone with its parent: removing it again changes nothing.
        (None, inside) if inside.iter().all(|(_, node)| node.is_none()) => Ok(None),
        (Some(_) | None, inside) => match inside.iter().find(|(_, node)| node.is_some()) {
            Some((path, _)) => Err(TreeError::NoParent(path.clone())),
            None => Ok(node.cloned()),
        },
    }
}

fn diff_dir(at: &SyncPath, old: &Arc<Dir>, new: &Arc<Dir>, changes: &mut Vec<Change>) {
    if Arc::ptr_eq(old, new) || old.hash == new.hash {
        return;
    }
    let (mut olds, mut news) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (olds.peek(), news.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.0.cmp(b.0),
        };
        let a = if order.is_le() { olds.next() } else { None };
        let b = if order.is_ge() { news.next() } else { None };
        let name = a.or(b).expect("one side has a name").0;
        diff_node(&child_path(at, name), a.map(|x| x.1), b.map(|x| x.1), changes);
    }
}

fn diff_node(path: &SyncPath, old: Option<&Node>, new: Option<&Node>, changes: &mut Vec<Change>) {
    if let (Some(a), Some(b)) = (old, new)
        && a.same_content(b)
    {
        return;
    }
    let below = |node: Option<&Node>| match node {
        Some(Node::Directory(dir)) => Some(dir.clone()),
        _ => None,
    };
    let (old_dir, new_dir) = (below(old), below(new));
    if old_dir.is_none() || new_dir.is_none() {
        let (old, new) = (old.map(Node::entry), new.map(Node::entry));
        changes.push(Change { path: path.clone(), old, new });
    }
    if old_dir.is_some() || new_dir.is_some() {
        let (old_dir, new_dir) =
            (old_dir.unwrap_or_else(Dir::empty), new_dir.unwrap_or_else(Dir::empty));
        diff_dir(path, &old_dir, &new_dir, changes);
    }
}

#[cfg(test)]
mod tests;
