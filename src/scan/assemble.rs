//! Owns putting together what threads found: directories bottom up, and edits for single paths.

use std::sync::Arc;

use e2ek_sidecar::tree::{Dir, DirBuilder, Edit, Node};

use super::walk::Place;

/// What stands at a name.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing that is synced.
    Absent,
    Node(Node),
    /// A directory: the slot that holds what is in it.
    Below(usize),
}

/// How looking at a directory ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it is in the slot.
    Listed,
    /// Names in the slot were looked at one by one; the rest of the directory is as before.
    Hinted,
    /// It could not be read: all as before.
    AsBefore,
    /// It has vanished.
    Gone,
}

/// What was found in one directory.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) place: Arc<Place>,
    pub(super) outcome: Outcome,
    /// Each name once, in any order.
    pub(super) found: Vec<(Box<[u8]>, Found)>,
}

impl Slot {
    /// For a directory that is walked.
    pub(super) fn listed(place: Place) -> Self {
        Self { place: Arc::new(place), outcome: Outcome::Listed, found: Vec::new() }
    }

    /// For a directory with hinted names.
    pub(super) fn hinted(place: Place) -> Self {
        Self { place: Arc::new(place), outcome: Outcome::Hinted, found: Vec::new() }
    }

    fn node(found: &Found, directories: &[Option<Arc<Dir>>]) -> Option<Node> {
        match found {
            Found::Absent => None,
            Found::Node(node) => Some(node.clone()),
            Found::Below(slot) => directories[*slot].clone().map(Node::Directory),
        }
    }

    /// The directory, where possible the very one that was there before.
    fn directory(&self, directories: &[Option<Arc<Dir>>]) -> Option<Arc<Dir>> {
        match self.outcome {
            Outcome::Gone | Outcome::Hinted => return None,
            Outcome::AsBefore => {
                return Some(self.place.previous.clone().unwrap_or_else(Dir::empty));
            }
            Outcome::Listed => {}
        }
        let node = |(name, found): &(Box<[u8]>, Found)| {
            Self::node(found, directories).map(|node| (name.clone(), node))
        };
        let mut children: Vec<_> = self.found.iter().filter_map(node).collect();
        children.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some(previous) = &self.place.previous
            && previous.len() == children.len()
            && previous.iter().zip(&children).all(|(a, b)| *a.0 == *b.0 && identical(a.1, &b.1))
        {
            return Some(previous.clone());
        }
        let mut builder = DirBuilder::default();
        for (name, node) in children {
            builder.push(&name, node);
        }
        Some(builder.finish())
    }
}

/// The directory of each slot; `None` where there is none.
pub(super) fn assemble(slots: &[Slot]) -> Vec<Option<Arc<Dir>>> {
    let mut directories = vec![None; slots.len()];
    for (index, slot) in slots.iter().enumerate().rev() {
        directories[index] = slot.directory(&directories);
    }
    directories
}

/// What single paths need to stand as they were found, in path order.
pub(super) fn edits(slots: &[Slot], directories: &[Option<Arc<Dir>>]) -> Vec<Edit> {
    let mut edits = Vec::new();
    for slot in slots.iter().filter(|slot| slot.outcome == Outcome::Hinted) {
        for (name, found) in &slot.found {
            let node = Slot::node(found, directories);
            let same = match (slot.place.before(name), &node) {
                (None, None) => true,
                (Some(before), Some(node)) => identical(before, node),
                _ => false,
            };
            if !same && let Ok(path) = slot.place.path.join(name) {
                edits.push((path, node));
            }
        }
    }
    edits.sort_by(|a, b| a.0.cmp(&b.0));
    edits
}

/// Equal to the last stamp, and for a directory the very same.
fn identical(a: &Node, b: &Node) -> bool {
    match (a, b) {
        (
            Node::File { digest, size, executable, stamp },
            Node::File { digest: d, size: s, executable: e, stamp: t },
        ) => (digest, size, executable, stamp) == (d, s, e, t),
        (Node::Symlink(a), Node::Symlink(b)) => a == b,
        (Node::Directory(a), Node::Directory(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}
