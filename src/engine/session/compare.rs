//! Finds out what a hub holds by asking for the directories whose hash is not known here.
//!
//! Cost: one question a level, and only along the paths that differ. Nothing is taken for granted:
//! the tree that comes out must have the hash the hub claims.

use std::collections::{BTreeMap, BTreeSet};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Dir, DirBuilder, Entry, Node, Snapshot, Stamp, TreeId};
use e2ek_sidecar::wire::{Blob, Listed, MAX_OPS, WireError};
use std::sync::Arc;

/// A name and what it names.
type Child = (Box<[u8]>, Listed);

/// A comparison under way.
pub(super) struct Compare {
    claimed: TreeId,
    /// Trees that may share directories with the hub's, best first.
    known: Vec<Snapshot>,
    listed: BTreeMap<SyncPath, Vec<Child>>,
    /// Children listed so far: bounded, whatever the hub says.
    count: usize,
    /// Asked for and not answered.
    open: BTreeSet<SyncPath>,
}

/// How a listing moved a comparison on.
pub(super) enum Progress {
    /// Ask for these.
    Ask(Vec<SyncPath>),
    /// Answers are still to come.
    Waiting,
    /// Done.
    Tree(Snapshot),
}

impl Compare {
    /// Begins with the question for the root.
    pub(super) fn new(claimed: TreeId, known: Vec<Snapshot>) -> Self {
        let open = BTreeSet::from([SyncPath::root()]);
        Self { claimed, known, listed: BTreeMap::new(), count: 0, open }
    }

    /// Takes one directory's listing.
    pub(super) fn listing(
        &mut self,
        path: &SyncPath,
        children: Vec<(Blob, Listed)>,
        last: bool,
    ) -> Result<Progress, WireError> {
        if !self.open.contains(path) {
            return Err(WireError::Order("a listing that was not asked for"));
        }
        self.count += children.len();
        if self.count > MAX_OPS {
            return Err(WireError::Order("listings without end"));
        }
        if last {
            self.open.remove(path);
        }
        let mut ask = Vec::new();
        let mut list: Vec<Child> = Vec::with_capacity(children.len());
        for (name, listed) in children {
            let below = path.join(&name.0).map_err(|_| WireError::Order("listing"))?;
            if let Listed::Directory(id) = &listed
                && self.find(&below, *id).is_none()
            {
                self.open.insert(below.clone());
                ask.push(below);
            }
            list.push((name.0.into(), listed));
        }
        self.listed.entry(path.clone()).or_default().extend(list);
        if !ask.is_empty() {
            return Ok(Progress::Ask(ask));
        }
        if !self.open.is_empty() {
            return Ok(Progress::Waiting);
        }
        let tree = Snapshot::from_root(self.assemble(&SyncPath::root())?);
        if tree.id() != self.claimed {
            return Err(WireError::Order("listings do not add up to the tree"));
        }
        Ok(Progress::Tree(tree))
    }

    fn find(&self, path: &SyncPath, id: TreeId) -> Option<Arc<Dir>> {
        let empty = Dir::empty();
        if empty.id() == id {
            return Some(empty);
        }
        self.known.iter().filter_map(|tree| tree.dir(path)).find(|dir| dir.id() == id).cloned()
    }

    fn assemble(&self, path: &SyncPath) -> Result<Arc<Dir>, WireError> {
        let list = self.listed.get(path).ok_or(WireError::Order("listing"))?;
        let mut dir = DirBuilder::default();
        for (name, listed) in list {
            let node = match listed {
                Listed::Directory(id) => {
                    let below = path.join(name).map_err(|_| WireError::Order("listing"))?;
                    Node::Directory(match self.find(&below, *id) {
                        Some(dir) => dir,
                        None => self.assemble(&below)?,
                    })
                }
                &Listed::File { digest, size, executable } => {
                    let entry = Entry::File { digest, size, executable };
                    Node::from_entry(&entry, Stamp::default())
                }
                Listed::Symlink(target) => Node::Symlink(target.0.as_slice().into()),
            };
            dir.push(name, node);
        }
        Ok(dir.finish())
    }
}
