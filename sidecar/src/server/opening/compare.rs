//! The look at everything when a site is opened: what the record says, against the disk.
//!
//! One `statx` a name, and a directory is one when it can be opened as one. Several threads take part
//! when there is much to look at: of 100,000 files it is the kernel's work of 0.2 s on one.

use std::sync::Arc;

use super::super::root::{Found, FoundKind, NamesIn, RootErrorKind, TargetRoot};
use crate::crew::Crew;
use crate::path::SyncPath;
use crate::receive::root_index;
use crate::tree::{Dir, Edit, Node, Stamp};

/// Most threads, this one included.
const MAX_THREADS: usize = 8;

/// Where the disk differs from the record.
#[derive(Default)]
pub(super) struct Differences {
    /// What makes the record true, in path order.
    pub(super) edits: Vec<Edit>,
    /// What is not as it was written, in path order.
    pub(super) drifted: Vec<SyncPath>,
}

/// What stands at a path, compared with a node.
pub(super) enum Seen {
    /// Just that.
    Unchanged,
    /// That, with the stamp it has now.
    Same(Node),
    /// Something else, or nothing.
    Other,
    /// It cannot be looked at just now. Before it is changed it is looked at again.
    Unknown,
}

/// One such look.
pub(super) struct Compare<'a> {
    roots: &'a [Option<Arc<TargetRoot>>],
    /// Directories to look at, each with its path.
    left: Crew<(SyncPath, &'a Dir)>,
}

impl<'a> Compare<'a> {
    pub(super) fn new(roots: &'a [Option<Arc<TargetRoot>>]) -> Self {
        Self { roots, left: Crew::default() }
    }

    /// Looks at all that is below the session's tree's top, where only the roots have names.
    pub(super) fn all(&self, top: &'a Dir) -> Differences {
        let mut all = Differences::default();
        self.left.add([(SyncPath::root(), top)]);
        let look = |(path, dir): (SyncPath, &'a Dir), found: &mut Differences| {
            self.directory(&path, dir, found);
        };
        for found in self.left.work_off(MAX_THREADS, &mut all, Differences::default, look) {
            all.edits.extend(found.edits);
            all.drifted.extend(found.drifted);
        }
        all.in_order()
    }

    /// Looks at the names of one directory, and hands on the directories in it.
    fn directory(&self, at: &SyncPath, dir: &'a Dir, found: &mut Differences) {
        let names = if at.is_root() { None } else { Some(self.open(at)) };
        let names = match names {
            None => None,
            Some(Ok(names)) => Some(names),
            Some(Err(seen)) => return found.enter(seen, || at.clone()),
        };
        let inside = |name: &[u8]| at.join(name).expect("names and depth were checked");
        let mut below = Vec::new();
        for (name, node) in dir.iter() {
            if let Node::Directory(dir) = node {
                below.push((inside(name), &**dir));
                continue;
            }
            let stat = names.as_ref().map_or(Ok(None), |names| names.stat(name));
            found.enter(self.seen(|| inside(name), stat, node), || inside(name));
        }
        if !below.is_empty() {
            self.left.add(below);
        }
    }

    fn open(&self, path: &SyncPath) -> Result<NamesIn<'a>, Seen> {
        let (root, below) = locate(self.roots, path).ok_or(Seen::Other)?;
        root.names_in(&below).map_err(|error| match error.kind {
            kind if is_unknown(kind) => Seen::Unknown,
            _ => Seen::Other,
        })
    }

    /// How what was found at a path compares with what the record says. Reads a file whose stamp is
    /// another one.
    pub(super) fn seen(
        &self,
        path: impl FnOnce() -> SyncPath,
        found: Result<Option<Found>, RootErrorKind>,
        node: &Node,
    ) -> Seen {
        let found = match found {
            Ok(Some(found)) => found,
            Err(kind) if is_unknown(kind) => return Seen::Unknown,
            Ok(None) | Err(_) => return Seen::Other,
        };
        match (node, &found.kind) {
            (Node::Directory(_), FoundKind::Directory) => Seen::Unchanged,
            (Node::Symlink(link), FoundKind::Symlink { target }) if link == target => {
                Seen::Unchanged
            }
            (&Node::File { digest, size, executable, stamp }, FoundKind::File) => {
                if found.size != size || found.executable != executable {
                    return Seen::Other;
                }
                if stamp != Stamp::default() && found.stamp == stamp {
                    return Seen::Unchanged;
                }
                let hashed = locate(self.roots, &path()).map(|(root, below)| root.hash(&below));
                match hashed {
                    Some(Ok(Some((same, found)))) if same == digest => {
                        Seen::Same(Node::File { digest, size, executable, stamp: found.stamp })
                    }
                    Some(Err(error)) if is_unknown(error.kind) => Seen::Unknown,
                    _ => Seen::Other,
                }
            }
            _ => Seen::Other,
        }
    }
}

impl Differences {
    /// Enters what was seen at a path.
    fn enter(&mut self, seen: Seen, path: impl FnOnce() -> SyncPath) {
        match seen {
            // Forgotten, it would be somebody else's from now on: never removed nor updated.
            Seen::Unchanged | Seen::Unknown => {}
            Seen::Same(stamped) => self.edits.push((path(), Some(stamped))),
            Seen::Other => {
                let path = path();
                self.edits.push((path.clone(), None));
                self.drifted.push(path);
            }
        }
    }

    fn in_order(mut self) -> Self {
        self.edits.sort_by(|a, b| a.0.cmp(&b.0));
        self.drifted.sort();
        self
    }
}

fn locate<'a>(
    roots: &'a [Option<Arc<TargetRoot>>],
    path: &SyncPath,
) -> Option<(&'a TargetRoot, SyncPath)> {
    let (index, below) = root_index(path)?;
    Some((roots.get(index)?.as_ref()?, below))
}

/// Whether a fault at a path says nothing about what stands there.
fn is_unknown(kind: RootErrorKind) -> bool {
    use RootErrorKind::{Changed, IsDirectory, LinkInTheWay, NotADirectory, NotFound, NotRegular};
    !matches!(kind, Changed | IsDirectory | LinkInTheWay | NotADirectory | NotFound | NotRegular)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::tree::{Digest, Snapshot};

    fn path(text: &str) -> SyncPath {
        SyncPath::try_from(text).unwrap()
    }

    fn file(at: &std::path::Path) -> Node {
        let found = fs::metadata(at).unwrap();
        let time = |seconds: i64, nanos: i64| seconds * 1_000_000_000 + nanos;
        let stamp = Stamp {
            inode: found.ino(),
            mtime_ns: time(found.mtime(), found.mtime_nsec()),
            ctime_ns: time(found.ctime(), found.ctime_nsec()),
        };
        let digest = Digest::of(&fs::read(at).unwrap());
        Node::File { digest, size: found.len(), executable: false, stamp }
    }

    /// More directories than one thread looks at alone, some of them changed.
    #[test]
    fn i4_every_change_is_found_wherever_it_is() {
        let home = tempfile::tempdir().unwrap();
        let top = home.path();
        let mut edits: Vec<Edit> = vec![(path("0"), Some(Node::directory()))];
        for outer in 0..8 {
            edits.push((path(&format!("0/d{outer}")), Some(Node::directory())));
            for inner in 0..8 {
                let dir = format!("d{outer}/e{inner}");
                fs::create_dir_all(top.join(&dir)).unwrap();
                edits.push((path(&format!("0/{dir}")), Some(Node::directory())));
                for name in ["f", "g"] {
                    let below = format!("{dir}/{name}");
                    fs::write(top.join(&below), &below).unwrap();
                    edits.push((path(&format!("0/{below}")), Some(file(&top.join(&below)))));
                }
                symlink("f", top.join(&dir).join("l")).unwrap();
                let link = Node::Symlink(b"f"[..].into());
                edits.push((path(&format!("0/{dir}/l")), Some(link)));
            }
        }
        edits.sort_by(|a, b| a.0.cmp(&b.0));
        let held = Snapshot::empty().apply(&edits).unwrap();
        let look = || {
            let root = TargetRoot::look_at_directory(top).unwrap();
            let roots = [Some(Arc::new(root))];
            Compare::new(&roots).all(held.root())
        };
        let found = look();
        assert!(found.edits.is_empty() && found.drifted.is_empty());
        fs::write(top.join("d0/e0/f"), "theirs").unwrap();
        fs::remove_file(top.join("d3/e3/g")).unwrap();
        fs::remove_dir_all(top.join("d5")).unwrap();
        fs::remove_dir_all(top.join("d6/e1")).unwrap();
        symlink("e2", top.join("d6/e1")).unwrap();
        fs::remove_file(top.join("d7/e7/l")).unwrap();
        symlink("g", top.join("d7/e7/l")).unwrap();
        // Another inode with the same content is no change, but gets another stamp.
        fs::write(top.join("aside"), "d2/e2/f").unwrap();
        fs::rename(top.join("aside"), top.join("d2/e2/f")).unwrap();
        let found = look();
        let drifted = ["0/d0/e0/f", "0/d3/e3/g", "0/d5", "0/d6/e1", "0/d7/e7/l"];
        assert_eq!(found.drifted, drifted.map(path));
        let mut edits: Vec<Edit> = found.drifted.iter().map(|at| (at.clone(), None)).collect();
        edits.push((path("0/d2/e2/f"), Some(file(&top.join("d2/e2/f")))));
        edits.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(format!("{:?}", found.edits), format!("{edits:?}"));
    }
}
