//! Snapshots: directories hashed bottom up and shared between versions.

mod dir;

pub use dir::{Dir, DirBuilder, Spot};

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Change, Digest, Entry, Stamp};
use crate::path::SyncPath;
use dir::{Assembly, Cursor};

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
            (Self::Directory(a), Self::Directory(b)) => Arc::ptr_eq(a, b) || a.id() == b.id(),
            (
                Self::File { digest: a, size: b, executable: c, .. },
                Self::File { digest: x, size: y, executable: z, .. },
            ) => (a, b, c) == (x, y, z),
            (Self::Symlink(a), Self::Symlink(b)) => a == b,
            _ => false,
        }
    }
}

/// A place where two trees differ.
#[derive(Clone, Debug)]
pub struct Difference<'a> {
    /// Where.
    pub path: SyncPath,
    /// What stands there in the one.
    pub old: Option<&'a Node>,
    /// And in the other; not both are directories.
    pub new: Option<&'a Node>,
}

impl Difference<'_> {
    /// What must change to get from the one to the other, all below included, in path order.
    pub fn unfold(self, changes: &mut Vec<Change>) {
        change_node(self.path, self.old, self.new, usize::MAX, changes);
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
        self.root.id()
    }

    /// Files, links and directories, the root not counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.root.count()
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
        self.diff_up_to(target, usize::MAX)
    }

    /// As [`Self::diff`], but what a directory holds that stands in one of the trees only is not told:
    /// each such is one difference. Cost: the directories that stand in both and differ.
    #[must_use]
    pub fn differences<'a>(&'a self, target: &'a Self) -> Vec<Difference<'a>> {
        let mut differences = Vec::new();
        differences_in(&SyncPath::root(), &self.root, &target.root, &mut differences);
        differences
    }

    /// The first changes of [`Self::diff`], at least `limit` of them if there are so many, and not
    /// many more. Cost: those, and the directories on the way.
    #[must_use]
    pub fn diff_up_to(&self, target: &Self, limit: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        diff_dir(&SyncPath::root(), &self.root, &target.root, limit, &mut changes);
        changes
    }

    /// This tree with everything up to `last`, in path order, as it is in `target`: what the first
    /// changes of a diff lead to, as long as they only add. A directory at `last` keeps what it holds
    /// here. All else is shared with the two.
    #[must_use]
    pub fn advanced(&self, target: &Self, last: &SyncPath) -> Self {
        let path: Vec<&[u8]> = last.components().collect();
        Self { root: advance_dir(&self.root, &target.root, &path) }
    }

    /// Calls `visit` for everything below the root, a directory before what it holds.
    pub fn walk(&self, visit: &mut dyn FnMut(&SyncPath, &Node)) {
        walk_dir(&SyncPath::root(), &self.root, visit);
    }

    /// As [`Self::walk`] for those who need no paths: makes none.
    pub fn each_node(&self, visit: &mut dyn FnMut(&Node)) {
        visit_dir(&self.root, visit);
    }
}

fn visit_dir(dir: &Dir, visit: &mut dyn FnMut(&Node)) {
    for (_, node) in dir.iter() {
        visit(node);
        if let Node::Directory(below) = node {
            visit_dir(below, visit);
        }
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

/// Rebuilds one directory. `from` is where in each edit's path the name in it begins. Cost: its
/// children; of a wide one, those of the parts that are edited.
fn edit_dir(dir: &Arc<Dir>, edits: &[Edit], from: usize) -> Result<Arc<Dir>, TreeError> {
    if edits.is_empty() {
        return Ok(dir.clone());
    }
    let mut made = Assembly::like(dir);
    let mut kept = dir.cursor();
    let mut rest = edits;
    while let Some(first) = rest.first() {
        let name = name_at(first, from);
        let here = rest.iter().take_while(|edit| name_at(edit, from) == name).count();
        let (group, after) = rest.split_at(here);
        rest = after;
        made.take_until(&mut kept, Some(name));
        let before = kept.peek().filter(|(kept_name, _)| *kept_name == name).map(|(_, node)| node);
        if before.is_some() {
            kept.step();
        }
        if let Some(node) = edit_node(before, group, from + name.len())? {
            made.push(name, node);
        }
    }
    made.take_until(&mut kept, None);
    Ok(made.finish())
}

/// The component of an edit's path that begins at `from`.
fn name_at(edit: &Edit, from: usize) -> &[u8] {
    let rest = &edit.0.as_bytes()[from..];
    let end = rest.iter().position(|&byte| byte == b'/');
    &rest[..end.unwrap_or(rest.len())]
}

/// What edits make of one child; `end` is where its path ends in each of theirs.
fn edit_node(before: Option<&Node>, edits: &[Edit], end: usize) -> Result<Option<Node>, TreeError> {
    let (node, inside) = match edits {
        [(path, node), inside @ ..] if path.as_bytes().len() == end => (node.as_ref(), inside),
        inside => (before, inside),
    };
    match (node, inside) {
        (node, []) => Ok(node.cloned()),
        (Some(Node::Directory(dir)), inside) => {
            Ok(Some(Node::Directory(edit_dir(dir, inside, end + 1)?)))
        }
        // Everything below is gone with its parent: removing it again changes nothing.
        (None, inside) if inside.iter().all(|(_, node)| node.is_none()) => Ok(None),
        (Some(_) | None, inside) => match inside.iter().find(|(_, node)| node.is_some()) {
            Some((path, _)) => Err(TreeError::NoParent(path.clone())),
            None => Ok(node.cloned()),
        },
    }
}

fn advance_dir(old: &Arc<Dir>, new: &Arc<Dir>, path: &[&[u8]]) -> Arc<Dir> {
    let [name, inside @ ..] = path else { return old.clone() };
    let mut made = Assembly::like(new);
    made.take_until(&mut new.cursor(), Some(name));
    let below = |dir: &Dir| match dir.get(name) {
        Some(Node::Directory(below)) => below.clone(),
        _ => Dir::empty(),
    };
    match new.get(name) {
        Some(Node::Directory(to)) => {
            made.push(name, Node::Directory(advance_dir(&below(old), to, inside)));
        }
        Some(node) => made.push(name, node.clone()),
        None => {}
    }
    let mut rest = old.cursor();
    while rest.peek().is_some_and(|(next, _)| next <= *name) {
        rest.step();
    }
    made.take_until(&mut rest, None);
    made.finish()
}

/// Calls `visit` for each name at which two directories differ, in order, until it says no.
fn each_difference<'a>(
    old: &'a Arc<Dir>,
    new: &'a Arc<Dir>,
    visit: &mut dyn FnMut(&'a [u8], Option<&'a Node>, Option<&'a Node>) -> bool,
) {
    if Arc::ptr_eq(old, new) || old.id() == new.id() {
        return;
    }
    let (mut olds, mut news) = (old.cursor(), new.cursor());
    loop {
        Cursor::skip_equal(&mut olds, &mut news);
        let (a, b) = (olds.peek(), news.peek());
        let order = match (a, b) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.0.cmp(b.0),
        };
        let (a, b) = (a.filter(|_| order.is_le()), b.filter(|_| order.is_ge()));
        if a.is_some() {
            olds.step();
        }
        if b.is_some() {
            news.step();
        }
        let name = a.or(b).expect("one side has a name").0;
        let (a, b) = (a.map(|a| a.1), b.map(|b| b.1));
        let same = a.zip(b).is_some_and(|(a, b)| a.same_content(b));
        if !same && !visit(name, a, b) {
            return;
        }
    }
}

fn differences_in<'a>(
    at: &SyncPath,
    old: &'a Arc<Dir>,
    new: &'a Arc<Dir>,
    differences: &mut Vec<Difference<'a>>,
) {
    each_difference(old, new, &mut |name, old, new| {
        let path = child_path(at, name);
        match (old, new) {
            (Some(Node::Directory(old)), Some(Node::Directory(new))) => {
                differences_in(&path, old, new, differences);
            }
            (old, new) => differences.push(Difference { path, old, new }),
        }
        true
    });
}

fn diff_dir(
    at: &SyncPath,
    old: &Arc<Dir>,
    new: &Arc<Dir>,
    limit: usize,
    changes: &mut Vec<Change>,
) {
    if changes.len() >= limit {
        return;
    }
    each_difference(old, new, &mut |name, old, new| {
        change_node(child_path(at, name), old, new, limit, changes);
        changes.len() < limit
    });
}

/// What makes of one node another that is not the same.
fn change_node(
    path: SyncPath,
    old: Option<&Node>,
    new: Option<&Node>,
    limit: usize,
    changes: &mut Vec<Change>,
) {
    let below = |node: Option<&Node>| match node {
        Some(Node::Directory(dir)) => Some(dir.clone()),
        _ => None,
    };
    let (old_dir, new_dir) = (below(old), below(new));
    let (old, new) = (old.map(Node::entry), new.map(Node::entry));
    if old_dir.is_none() && new_dir.is_none() {
        return changes.push(Change { path, old, new });
    }
    if old_dir.is_none() || new_dir.is_none() {
        changes.push(Change { path: path.clone(), old, new });
    }
    let [old_dir, new_dir] = [old_dir, new_dir].map(|dir| dir.unwrap_or_else(Dir::empty));
    diff_dir(&path, &old_dir, &new_dir, limit, changes);
}

#[cfg(test)]
mod tests;
