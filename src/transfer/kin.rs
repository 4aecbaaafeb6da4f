//! Which file at the target a new one is likely to be made from: by its name.
//!
//! A file of the same name that goes with the same generation (it moved and was edited), else a
//! neighbour that is called the same but for what follows the last dot, or nearly so.

use std::collections::{HashMap, HashSet};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Digest, Entry, Node, Snapshot};
use e2ek_sidecar::wire::Op;

/// Neighbours of one new file that are looked at: in a wider directory names say little, and looking
/// at all for each would take long.
const MOST_NEIGHBOURS: usize = 512;
/// Contents that are remembered.
const MOST_LIKENED: usize = 4096;
/// How much smaller or larger the other may be.
const RATIO: u64 = 4;

/// Contents that were sent once as patches of others: each is tried once on a link.
#[derive(Default)]
pub struct Likened(HashSet<Digest>);

impl Likened {
    /// Whether this one is tried for the first time; from now on it is not.
    pub fn is_new(&mut self, content: Digest) -> bool {
        if self.0.len() >= MOST_LIKENED {
            self.0.clear();
        }
        self.0.insert(content)
    }
}

/// The files of the target that those of one generation may be made from.
pub struct Kin<'a> {
    base: &'a Snapshot,
    ops: &'a [Op],
    /// Files that go, by their names; made when first asked for.
    gone: Option<HashMap<&'a [u8], &'a Op>>,
    likened: &'a mut Likened,
}

impl<'a> Kin<'a> {
    /// `base` is what the target holds before these ops, which are in path order.
    #[must_use]
    pub fn new(base: &'a Snapshot, ops: &'a [Op], likened: &'a mut Likened) -> Self {
        Self { base, ops, gone: None, likened }
    }

    /// What a new file may be made from: where that lies, and its content.
    pub fn find(&mut self, path: &SyncPath, new: Digest, size: u64) -> Option<(SyncPath, Digest)> {
        let found = self.moved(path, size).or_else(|| self.neighbour(path, size))?;
        self.likened.is_new(new).then_some(found)
    }

    fn moved(&mut self, path: &SyncPath, size: u64) -> Option<(SyncPath, Digest)> {
        let ops = self.ops;
        let goes = |op: &&Op| op.change.new.is_none();
        let gone = self.gone.get_or_insert_with(|| {
            let named = |op: &'a Op| Some((op.change.path.name()?, op));
            ops.iter().filter(goes).filter_map(named).collect()
        });
        let op = gone.get(path.name()?)?;
        match op.change.old {
            Some(Entry::File { digest, size: old, .. }) if comparable(old, size) => {
                Some((op.change.path.clone(), digest))
            }
            _ => None,
        }
    }

    fn neighbour(&self, path: &SyncPath, size: u64) -> Option<(SyncPath, Digest)> {
        let (parent, name) = (path.parent()?, path.name()?);
        let dir = self.base.dir(&parent).filter(|dir| dir.len() <= MOST_NEIGHBOURS)?;
        let stem = name.iter().rposition(|&byte| byte == b'.').filter(|&at| at > 0);
        let enough = stem.unwrap_or(name.len() * 2 / 3).max(1);
        let mut best: Option<(usize, &[u8], Digest)> = None;
        for (other, node) in dir.iter() {
            let Node::File { digest, size: old, .. } = *node else { continue };
            let shared = name.iter().zip(other).take_while(|(a, b)| a == b).count();
            let better = best.is_none_or(|(most, ..)| shared > most);
            if shared >= enough && better && comparable(old, size) {
                best = Some((shared, other, digest));
            }
        }
        let (_, other, digest) = best?;
        let from = parent.join(other).ok()?;
        // What this generation puts another content at is no base.
        let changes = self.ops.binary_search_by(|op| op.change.path.cmp(&from)).ok();
        let stays = changes.is_none_or(|at| self.ops[at].change.new.is_none());
        stays.then_some((from, digest))
    }
}

fn comparable(old: u64, new: u64) -> bool {
    old > 0 && old / RATIO <= new && new / RATIO <= old
}

#[cfg(test)]
mod tests {
    use e2ek_sidecar::tree::{Change, Edit, Stamp};
    use e2ek_sidecar::wire::{How, Meta};

    use super::*;

    fn path(text: &str) -> SyncPath {
        SyncPath::try_from(text).unwrap()
    }

    fn file(content: &str, size: u64) -> Entry {
        Entry::File { digest: Digest::of(content.as_bytes()), size, executable: false }
    }

    fn op(at: &str, old: Option<Entry>, new: Option<Entry>) -> Op {
        Op { change: Change { path: path(at), old, new }, how: How::None, meta: Meta::default() }
    }

    #[test]
    fn a_new_file_is_made_from_what_is_called_like_it() {
        let files = [("0/d/user.py", 900), ("0/d/user_names.py", 900), ("0/d/big.py", 90_000)];
        let mut edits: Vec<Edit> =
            vec![(path("0"), Some(Node::directory())), (path("0/d"), Some(Node::directory()))];
        edits.extend(files.map(|(at, size)| {
            (path(at), Some(Node::from_entry(&file(at, size), Stamp::default())))
        }));
        edits.sort_by(|a, b| a.0.cmp(&b.0));
        let base = Snapshot::empty().apply(&edits).unwrap();
        let find = |at: &str, ops: &[Op]| {
            let mut likened = Likened::default();
            let mut kin = Kin::new(&base, ops, &mut likened);
            let found = kin.find(&path(at), Digest::of(b"new"), 1000);
            if found.is_some() {
                assert_eq!(kin.find(&path(at), Digest::of(b"new"), 1000), None, "once");
            }
            found.map(|(from, _)| from.to_string())
        };
        assert_eq!(find("0/d/user.new", &[]).as_deref(), Some("0/d/user.py"));
        assert_eq!(find("0/d/user_names.pyi", &[]).as_deref(), Some("0/d/user_names.py"));
        assert_eq!(find("0/d/us.py", &[]).as_deref(), Some("0/d/user.py"));
        assert_eq!(find("0/d/other.py", &[]), None);
        assert_eq!(find("0/d/big.new", &[]), None, "of another size");
        let changed = [op("0/d/user.py", Some(file("a", 900)), Some(file("b", 900)))];
        assert_eq!(find("0/d/user.new", &changed), None, "it is written anew meanwhile");
        let gone = [op("0/e/moved.py", Some(file("m", 900)), None)];
        assert_eq!(find("0/d/moved.py", &gone).as_deref(), Some("0/e/moved.py"));
    }
}
