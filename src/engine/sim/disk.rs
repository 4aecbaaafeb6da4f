//! A model of files: a map from path to entry, and the snapshot of it.

use std::collections::BTreeMap;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Edit, Entry, Node, Snapshot, Stamp};

/// Files by path; a directory stands before what it holds.
pub(super) type Disk = BTreeMap<SyncPath, Entry>;

pub(super) fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

/// The one path pair.
pub(super) fn root() -> SyncPath {
    path("0")
}

pub(super) fn empty() -> Disk {
    Disk::from([(root(), Entry::Directory)])
}

pub(super) fn is_dir(entry: Option<&Entry>) -> bool {
    matches!(entry, Some(Entry::Directory))
}

/// The path itself and all directories above it.
pub(super) fn upwards(path: &SyncPath) -> impl Iterator<Item = SyncPath> + use<> {
    std::iter::successors(Some(path.clone()), SyncPath::parent)
}

/// What `stat` would say: equal stamps mean equal content, as on a file system with fine times.
pub(super) fn stamp_of(entry: &Entry) -> Stamp {
    match entry {
        Entry::File { digest, size, executable } => {
            let (inode, rest) = digest.0.split_at(8);
            let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
            let ctime_ns = (*size << 1 | u64::from(*executable)) as i64;
            Stamp { inode: number(inode), mtime_ns: number(rest) as i64, ctime_ns }
        }
        _ => Stamp::default(),
    }
}

/// The tree of a disk, each entry turned into a node by `node`.
pub(super) fn tree(disk: &Disk, node: impl Fn(&SyncPath, &Entry) -> Node) -> Snapshot {
    let edits: Vec<Edit> = disk.iter().map(|(p, e)| (p.clone(), Some(node(p, e)))).collect();
    Snapshot::empty().apply(&edits).expect("a disk is a tree")
}
