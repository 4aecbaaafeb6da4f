//! Owns putting together what threads found: a directory as soon as all in it is known, and edits
//! for single paths.

use std::sync::Arc;

use e2ek_sidecar::tree::{Dir, DirBuilder, Edit, Node, Spot};

use super::walk::Place;

/// What stands at a name.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing that is synced.
    Absent,
    Node(Node),
    /// A directory that is being looked at.
    Below,
}

impl Found {
    fn node(&self) -> Option<&Node> {
        match self {
            Self::Node(node) => Some(node),
            Self::Absent | Self::Below => None,
        }
    }
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
    /// Where files stand in the directory as it was, that are just what they were; in any order.
    pub(super) same: Vec<Spot>,
    /// Each other name once, in any order.
    pub(super) found: Vec<(Box<[u8]>, Found)>,
    /// The slot of the directory it lies in, and where it stands there among what was found.
    pub(super) above: Option<(usize, usize)>,
    /// Jobs and directories in it that are not done.
    pub(super) open: usize,
}

impl Slot {
    /// For a directory that is walked.
    pub(super) fn listed(place: Place, above: Option<(usize, usize)>) -> Self {
        let (place, outcome) = (Arc::new(place), Outcome::Listed);
        Self { place, outcome, same: Vec::new(), found: Vec::new(), above, open: 1 }
    }

    /// For a directory with hinted names.
    pub(super) fn hinted(place: Place) -> Self {
        let (place, outcome) = (Arc::new(place), Outcome::Hinted);
        Self { place, outcome, same: Vec::new(), found: Vec::new(), above: None, open: 0 }
    }

    /// What was found, to be put together without holding others up.
    pub(super) fn take(&mut self) -> Self {
        let (same, found) = (std::mem::take(&mut self.same), std::mem::take(&mut self.found));
        Self { place: Arc::clone(&self.place), same, found, ..*self }
    }

    /// The directory, where possible the very one that was there before.
    pub(super) fn directory(&mut self) -> Option<Arc<Dir>> {
        match self.outcome {
            Outcome::Gone | Outcome::Hinted => return None,
            Outcome::AsBefore => {
                let before = self.place.previous.clone().filter(|_| !self.place.elsewhere);
                return Some(before.unwrap_or_else(Dir::empty));
            }
            Outcome::Listed => {}
        }
        self.same.sort_unstable();
        self.same.dedup();
        self.found.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some(previous) = self.place.previous.as_ref().filter(|dir| self.is_all_of(dir)) {
            return Some(Arc::clone(previous));
        }
        let previous = self.place.previous.as_deref();
        let same = self.same.iter().filter_map(|spot| previous?.at(*spot));
        let found = &self.found;
        let found = found.iter().filter_map(|(name, found)| Some((&**name, found.node()?)));
        let mut children: Vec<(&[u8], &Node)> = same.chain(found).collect();
        children.sort_by(|a, b| a.0.cmp(b.0));
        let mut builder = DirBuilder::default();
        for (name, node) in children {
            builder.push(name, node.clone());
        }
        Some(builder.finish())
    }

    /// Whether what was found, in order by now, is the directory as it was.
    fn is_all_of(&self, previous: &Dir) -> bool {
        let mut count = self.same.len();
        let mut last: Option<&[u8]> = None;
        for (name, found) in &self.found {
            let Some(node) = found.node() else { continue };
            let Some((spot, old)) = previous.find(name) else { return false };
            if !identical(old, node) {
                return false;
            }
            // A listing may tell a name twice while the directory changes.
            let again = last == Some(name) || self.same.binary_search(&spot).is_ok();
            count += usize::from(!again);
            last = Some(name);
        }
        count == previous.len()
    }
}

/// What single paths need to stand as they were found, in path order.
pub(super) fn edits(slots: &[Slot]) -> Vec<Edit> {
    let mut edits = Vec::new();
    for slot in slots.iter().filter(|slot| slot.outcome == Outcome::Hinted) {
        for (name, found) in &slot.found {
            let node = found.node();
            let same = match (slot.place.before(name), node) {
                (None, None) => true,
                (Some(before), Some(node)) => identical(before, node),
                _ => false,
            };
            if !same && let Ok(path) = slot.place.path.join(name) {
                edits.push((path, node.cloned()));
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
