//! Owns which watch descriptor stands for which directory.

use std::collections::HashMap;

use e2ek_sidecar::path::{MAX_DEPTH, SyncPath};

/// A directory in [`Directories`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(u32);

/// The root of the source: always there.
pub(super) const ROOT: Id = Id(0);
/// The parent of a directory that was moved away and may come back under another name.
const NOWHERE: Id = Id(u32::MAX);

/// The watched directories as a tree of names: a directory that moves takes everything below it
/// along in one step, watch descriptors included.
#[derive(Debug)]
pub(super) struct Directories {
    nodes: Vec<Node>,
    /// Places in `nodes` that may be used again.
    free: Vec<Id>,
    /// Every node in use, the root from its first watch on.
    by_watch: HashMap<i32, Id>,
}

#[derive(Debug)]
struct Node {
    name: Box<[u8]>,
    /// [`NOWHERE`] while on the move, and for the root.
    parent: Id,
    watch: i32,
    /// Sorted by name.
    children: Vec<Id>,
    /// The last walk that found it.
    walk: u32,
}

impl Directories {
    /// Nothing but the root, watched by `watch`.
    pub(super) fn new(watch: i32) -> Self {
        let root =
            Node { name: Box::default(), parent: NOWHERE, watch, children: Vec::new(), walk: 0 };
        Self { nodes: vec![root], free: Vec::new(), by_watch: HashMap::from([(watch, ROOT)]) }
    }

    /// How many are watched.
    pub(super) fn len(&self) -> usize {
        self.by_watch.len()
    }

    /// The directory that `watch` stands for.
    pub(super) fn by_watch(&self, watch: i32) -> Option<Id> {
        self.by_watch.get(&watch).copied()
    }

    /// The descriptor of a directory's watch.
    pub(super) fn watch(&self, id: Id) -> i32 {
        self.node(id).watch
    }

    /// The directory it lies in; `None` for the root and while it is on the move.
    pub(super) fn parent(&self, id: Id) -> Option<Id> {
        Some(self.node(id).parent).filter(|&parent| parent != NOWHERE)
    }

    /// The directory `name` inside `parent`.
    pub(super) fn child(&self, parent: Id, name: &[u8]) -> Option<Id> {
        let children = &self.node(parent).children;
        self.place(children, name).ok().map(|i| children[i])
    }

    /// Where a directory lies; `None` while it is on the move, or too deep for a path.
    pub(super) fn path(&self, id: Id) -> Option<SyncPath> {
        let mut names: Vec<&[u8]> = Vec::new();
        let mut at = id;
        while at != ROOT {
            let node = self.node(at);
            if node.parent == NOWHERE || names.len() > MAX_DEPTH {
                return None;
            }
            names.push(&node.name);
            at = node.parent;
        }
        if names.is_empty() {
            return Some(SyncPath::root());
        }
        names.reverse();
        SyncPath::new(names.join(&b'/')).ok()
    }

    /// Whether `id` is `above` or lies below it.
    pub(super) fn is_inside(&self, id: Id, above: Id) -> bool {
        let mut at = id;
        loop {
            if at == above {
                return true;
            }
            if at == ROOT || at == NOWHERE {
                return false;
            }
            at = self.node(at).parent;
        }
    }

    /// Adds a directory; neither its place nor its watch is taken.
    pub(super) fn insert(&mut self, parent: Id, name: &[u8], watch: i32) -> Id {
        let node =
            Node { name: name.into(), parent: NOWHERE, watch, children: Vec::new(), walk: 0 };
        let id = match self.free.pop() {
            Some(id) => {
                *self.node_mut(id) = node;
                id
            }
            None => {
                self.nodes.push(node);
                Id(u32::try_from(self.nodes.len() - 1).expect("fewer watches than 2^31"))
            }
        };
        self.by_watch.insert(watch, id);
        self.attach(id, parent, name);
        id
    }

    /// Takes a directory out of its place, with all below it. Not for the root.
    pub(super) fn detach(&mut self, id: Id) {
        let parent = std::mem::replace(&mut self.node_mut(id).parent, NOWHERE);
        if parent != NOWHERE {
            self.node_mut(parent).children.retain(|&child| child != id);
        }
    }

    /// Puts a detached directory in a place that is free.
    pub(super) fn attach(&mut self, id: Id, parent: Id, name: &[u8]) {
        let node = self.node_mut(id);
        node.parent = parent;
        if *node.name != *name {
            node.name = name.into();
        }
        let at = self.place(&self.node(parent).children, name).unwrap_or_else(|at| at);
        self.node_mut(parent).children.insert(at, id);
    }

    /// Forgets a directory and all below it; their watch descriptors. Not for the root.
    pub(super) fn remove(&mut self, id: Id) -> Vec<i32> {
        self.detach(id);
        let mut watches = Vec::new();
        let mut doomed = vec![id];
        while let Some(id) = doomed.pop() {
            let node = self.node_mut(id);
            doomed.append(&mut node.children);
            node.name = Box::default();
            node.parent = NOWHERE;
            let watch = node.watch;
            self.by_watch.remove(&watch);
            self.free.push(id);
            watches.push(watch);
        }
        watches
    }

    /// Notes that `walk` found the directory.
    pub(super) fn mark(&mut self, id: Id, walk: u32) {
        self.node_mut(id).walk = walk;
    }

    /// The uppermost directories that `walk` did not find.
    pub(super) fn unmarked(&self, walk: u32) -> Vec<Id> {
        let stale = |id: Id| self.node(id).walk != walk;
        let above_is_fresh = |id: Id| {
            let parent = self.node(id).parent;
            parent == NOWHERE || !stale(parent)
        };
        let all = self.by_watch.values().copied();
        all.filter(|&id| id != ROOT && stale(id) && above_is_fresh(id)).collect()
    }

    fn place(&self, children: &[Id], name: &[u8]) -> Result<usize, usize> {
        children.binary_search_by(|&child| (*self.node(child).name).cmp(name))
    }

    fn node(&self, id: Id) -> &Node {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Option<SyncPath> {
        SyncPath::try_from(text).ok()
    }

    #[test]
    fn a_directory_moves_with_all_below_it_and_keeps_its_watches() {
        let mut dirs = Directories::new(1);
        let a = dirs.insert(ROOT, b"a", 2);
        let b = dirs.insert(a, b"b", 3);
        let other = dirs.insert(ROOT, b"other", 4);
        assert_eq!(dirs.path(b), path("a/b"));
        dirs.detach(a);
        assert_eq!((dirs.path(b), dirs.child(ROOT, b"a")), (None, None));
        dirs.attach(a, other, b"z");
        assert_eq!(dirs.by_watch(3).and_then(|id| dirs.path(id)), path("other/z/b"));
        assert!(dirs.is_inside(b, other) && !dirs.is_inside(other, a));
        let mut gone = dirs.remove(a);
        gone.sort_unstable();
        assert_eq!((gone, dirs.len()), (vec![2, 3], 2));
        let again = dirs.insert(other, b"y", 9);
        assert_eq!((dirs.path(again), dirs.by_watch(3)), (path("other/y"), None));
    }

    #[test]
    fn what_a_walk_did_not_find_is_known_by_its_top() {
        let mut dirs = Directories::new(1);
        dirs.mark(ROOT, 7);
        let a = dirs.insert(ROOT, b"a", 2);
        let b = dirs.insert(ROOT, b"b", 3);
        dirs.insert(b, b"c", 4);
        dirs.mark(a, 7);
        assert_eq!(dirs.unmarked(7), [b]);
    }
}
