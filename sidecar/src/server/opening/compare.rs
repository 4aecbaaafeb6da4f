//! The look at everything when a site is opened: what the record says, against the disk.
//!
//! One `statx` a name, and a directory is one when it can be opened as one. Several threads take part
//! when there is much to look at: of 100,000 files it is the kernel's work of 0.2 s on one.

use std::num::NonZero;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::super::root::{Found, FoundKind, NamesIn, RootErrorKind, TargetRoot};
use crate::path::SyncPath;
use crate::receive::root_index;
use crate::tree::{Dir, Edit, Node, Stamp};

/// Directories looked at before threads are started: fewer are over sooner than a thread has started.
const ALONE: usize = 16;
/// Most threads, this one included. More than cores: cold disks gain, warm caches lose nothing.
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
    shared: Mutex<Shared<'a>>,
    /// A directory was added, or the last one done.
    changed: Condvar,
}

/// What the threads share.
#[derive(Default)]
struct Shared<'a> {
    /// Directories to look at, each with its path.
    todo: Vec<(SyncPath, &'a Dir)>,
    /// Threads at work on one.
    running: usize,
    /// Threads that wait for one.
    waiting: usize,
}

impl<'a> Compare<'a> {
    pub(super) fn new(roots: &'a [Option<Arc<TargetRoot>>]) -> Self {
        Self { roots, shared: Mutex::default(), changed: Condvar::new() }
    }

    /// Looks at all that is below the session's tree's top, where only the roots have names.
    pub(super) fn all(&self, top: &'a Dir) -> Differences {
        let mut all = Differences::default();
        self.shared().todo.push((SyncPath::root(), top));
        for _ in 0..ALONE {
            let Some((path, dir)) = self.shared().todo.pop() else { return all.in_order() };
            self.directory(&path, dir, &mut all);
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let others = (2 * cores).clamp(4, MAX_THREADS) - 1;
        std::thread::scope(|scope| {
            let others: Vec<_> = (0..others)
                .map(|_| {
                    scope.spawn(|| {
                        let mut found = Differences::default();
                        self.take_part(&mut found);
                        found
                    })
                })
                .collect();
            self.take_part(&mut all);
            for other in others {
                match other.join() {
                    Ok(found) => {
                        all.edits.extend(found.edits);
                        all.drifted.extend(found.drifted);
                    }
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
        all.in_order()
    }

    fn shared(&self) -> MutexGuard<'_, Shared<'a>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at directories until none is left and none can come.
    fn take_part(&self, found: &mut Differences) {
        let mut shared = self.shared();
        loop {
            if let Some((path, dir)) = shared.todo.pop() {
                shared.running += 1;
                drop(shared);
                let done = Running(self);
                self.directory(&path, dir, found);
                drop(done);
                shared = self.shared();
            } else if shared.running == 0 {
                return;
            } else {
                shared.waiting += 1;
                shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
                shared.waiting -= 1;
            }
        }
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
        if below.is_empty() {
            return;
        }
        let mut shared = self.shared();
        let more = below.len() > 1;
        shared.todo.append(&mut below);
        match shared.waiting {
            0 => {}
            1 => self.changed.notify_one(),
            _ if more => self.changed.notify_all(),
            _ => self.changed.notify_one(),
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

/// Counts a directory as done, however that ends, so that nobody waits for it for ever.
struct Running<'a, 'b>(&'a Compare<'b>);

impl Drop for Running<'_, '_> {
    fn drop(&mut self) {
        let mut shared = self.0.shared();
        shared.running -= 1;
        if shared.running == 0 && shared.todo.is_empty() {
            self.0.changed.notify_all();
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
