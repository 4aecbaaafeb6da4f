//! Directories that moved as they were: known by their hashes, before what they hold is looked at.
//!
//! Promises that whatever a move stands for is what an op for each entry would have done: the
//! directory is gone from its place with all it held, nothing stands where it comes, and no other
//! change lies in either. What is nearly the same is left to the ops of its entries.

use std::collections::{HashMap, HashSet};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::receive::FROM_ENTRIES;
use e2ek_sidecar::tree::{Change, Difference, Dir, Node, TreeId};
use e2ek_sidecar::wire::{How, MAX_OPS};

/// A directory that moved.
pub(super) struct Moved<'a> {
    pub(super) from: SyncPath,
    pub(super) dir: &'a Dir,
}

/// Directories that moved, by where they came.
pub(super) type Moves<'a> = HashMap<SyncPath, Moved<'a>>;

/// Most entries that move with their directories in one generation: each counts as two ops.
const MOST_ENTRIES: u64 = MAX_OPS as u64 / 4;

/// Finds them. `stays` says of a directory that went whether it is left where it is.
pub(super) fn find<'a>(
    differences: &[Difference<'a>],
    stays: &dyn Fn(&SyncPath) -> bool,
) -> Moves<'a> {
    let alone = |node: Option<&'a Node>, other: Option<&Node>| match (node, other) {
        (Some(Node::Directory(dir)), None) => Some(&**dir),
        _ => None,
    };
    let comes = differences.iter().filter_map(|d| Some((&d.path, alone(d.new, d.old)?)));
    let mut comes = comes.peekable();
    let (gone, moves, taken) = (HashMap::new(), Moves::new(), Vec::new());
    let mut finder = Finder { gone, moves, taken, room: MOST_ENTRIES, stays };
    if comes.peek().is_none() {
        return finder.moves;
    }
    for difference in differences {
        if let Some(dir) = alone(difference.old, difference.new) {
            finder.goes(&difference.path, dir);
        }
    }
    if !finder.gone.is_empty() {
        comes.for_each(|(path, dir)| finder.comes(path, dir));
    }
    finder.moves
}

struct Finder<'a, 'b> {
    /// Where directories stood that are gone.
    gone: HashMap<TreeId, Vec<SyncPath>>,
    moves: Moves<'a>,
    /// Where those stood that were found again.
    taken: Vec<SyncPath>,
    /// Entries that may still move.
    room: u64,
    stays: &'b dyn Fn(&SyncPath) -> bool,
}

impl<'a> Finder<'a, '_> {
    fn goes(&mut self, path: &SyncPath, dir: &Dir) {
        if dir.count() < FROM_ENTRIES as u64 {
            return;
        }
        self.gone.entry(dir.id()).or_default().push(path.clone());
        for (name, node) in dir.iter() {
            if let Node::Directory(inside) = node {
                self.goes(&below(path, name), inside);
            }
        }
    }

    fn comes(&mut self, path: &SyncPath, dir: &'a Dir) {
        if dir.count() < FROM_ENTRIES as u64 {
            return;
        }
        let from = if dir.count() <= self.room { self.free(dir.id()) } else { None };
        if let Some(from) = from {
            self.room -= dir.count();
            self.taken.push(from.clone());
            self.moves.insert(path.clone(), Moved { from, dir });
            return;
        }
        for (name, node) in dir.iter() {
            if let Node::Directory(inside) = node {
                self.comes(&below(path, name), inside);
            }
        }
    }

    /// Where such a directory went from that nothing else took yet.
    fn free(&self, tree: TreeId) -> Option<SyncPath> {
        let apart = |from: &&SyncPath| {
            self.taken.iter().all(|taken| !taken.starts_with(from) && !from.starts_with(taken))
        };
        let mut gone = self.gone.get(&tree)?.iter();
        gone.find(|from| apart(from) && !(self.stays)(from)).cloned()
    }
}

impl Moved<'_> {
    /// What makes it where it came.
    pub(super) fn how(&self) -> How {
        let count = u32::try_from(self.dir.count()).expect("at most `MOST_ENTRIES`");
        How::Tree { from: self.from.clone(), tree: self.dir.id(), count }
    }
}

/// All changes in path order; of a directory that moved, that it comes and that it goes.
pub(super) fn changes(differences: Vec<Difference<'_>>, moves: &Moves<'_>) -> Vec<Change> {
    let whole: HashSet<&SyncPath> =
        moves.iter().flat_map(|(to, moved)| [to, &moved.from]).collect();
    let mut changes = Vec::new();
    for difference in differences {
        match (difference.old, difference.new) {
            (Some(Node::Directory(dir)), None) => {
                unfold(difference.path, (dir, true), &whole, &mut changes);
            }
            (None, Some(Node::Directory(dir))) => {
                unfold(difference.path, (dir, false), &whole, &mut changes);
            }
            _ => difference.unfold(&mut changes),
        }
    }
    changes
}

fn unfold(
    path: SyncPath,
    (dir, gone): (&Dir, bool),
    whole: &HashSet<&SyncPath>,
    changes: &mut Vec<Change>,
) {
    let change = |path, entry| match gone {
        true => Change { path, old: Some(entry), new: None },
        false => Change { path, old: None, new: Some(entry) },
    };
    changes.push(change(path.clone(), e2ek_sidecar::tree::Entry::Directory));
    if whole.contains(&path) {
        return;
    }
    for (name, node) in dir.iter() {
        let path = below(&path, name);
        match node {
            Node::Directory(inside) => unfold(path, (inside, gone), whole, changes),
            node => changes.push(change(path, node.entry())),
        }
    }
}

fn below(path: &SyncPath, name: &[u8]) -> SyncPath {
    path.join(name).expect("names and depth were checked when the tree was made")
}
