//! The workspace's files: how people and git change them, and how the daemon looks at them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Digest, Entry, Node, Snapshot};

use super::disk::{self, Disk, is_dir, root, stamp_of};
use super::seed::Rng;

/// What an ignore rule keeps out, as long as it is there.
const IGNORED: &[u8] = b"d";

/// The largest of files, in bytes.
pub(super) const LARGE_BYTES: u64 = 40_000;

pub(super) struct Source {
    pub(super) disk: Disk,
    /// As the session was shown it last.
    pub(super) shown: Disk,
    /// As it was when the look that is under way began.
    began: Disk,
    tokens: u64,
    /// A rule ignores [`IGNORED`]; the session's filter asks here, too.
    pub(super) ignoring: Arc<AtomicBool>,
    /// The daemon's index as it lies in its state directory, and as it lay there earlier.
    pub(super) index: Vec<u8>,
    pub(super) older_index: Vec<u8>,
}

/// Whether the rule, when it is there, keeps a path out.
pub(super) fn is_ignored(path: &SyncPath) -> bool {
    path.components().any(|name| name == IGNORED)
}

impl Source {
    pub(super) fn new() -> Self {
        Self {
            disk: disk::empty(),
            shown: Disk::new(),
            began: disk::empty(),
            tokens: 0,
            ignoring: Arc::new(AtomicBool::new(false)),
            index: Vec::new(),
            older_index: Vec::new(),
        }
    }

    /// A file with content; often content that was there before, to be copied and reverted to.
    pub(super) fn file(&mut self, rng: &mut Rng) -> Entry {
        if !rng.one_in(3) {
            self.tokens += 1;
        }
        let token = self.tokens;
        let size = [0, 1, 7, LARGE_BYTES][(token % 4) as usize];
        let digest = if size == 0 { Digest::of(b"") } else { Digest::of(&token.to_le_bytes()) };
        Entry::File { digest, size, executable: rng.one_in(5) }
    }

    /// What the daemon cares for.
    pub(super) fn wanted(&self) -> Disk {
        self.filtered(&self.disk)
    }

    /// Whether the rule is there and keeps a path out.
    pub(super) fn ignores(&self, path: &SyncPath) -> bool {
        self.ignoring.load(Ordering::Relaxed) && is_ignored(path)
    }

    fn filtered(&self, disk: &Disk) -> Disk {
        let kept = disk.iter().filter(|(path, _)| !self.ignores(path));
        kept.map(|(path, entry)| (path.clone(), entry.clone())).collect()
    }

    /// Something changed: the next look begins.
    pub(super) fn look_begins(&mut self) {
        self.began = self.disk.clone();
    }

    /// Ends a look. What changed while it went on may be seen as it was before, directory by
    /// directory (`torn`); then it must be looked again. Returns the tree and whether.
    pub(super) fn look(&mut self, rng: &mut Rng) -> (Snapshot, bool) {
        let mut seen = self.disk.clone();
        let torn = self.began != self.disk && rng.one_in(3);
        if torn {
            let tops = self.began.keys().chain(self.disk.keys());
            let mut tops: Vec<SyncPath> =
                tops.filter(|p| p.components().count() == 2).cloned().collect();
            tops.sort();
            tops.dedup();
            for top in tops.into_iter().filter(|_| rng.one_in(2)) {
                seen.retain(|p, _| !p.starts_with(&top));
                let before = self.began.iter().filter(|(p, _)| p.starts_with(&top));
                seen.extend(before.map(|(p, e)| (p.clone(), e.clone())));
            }
        }
        self.shown = self.filtered(&seen);
        // What cannot be read counts as nothing; then everything is hashed.
        let index = Snapshot::decode(&self.index).unwrap_or_default();
        let tree = disk::tree(&self.shown, |path, entry| {
            let stamp = stamp_of(entry);
            match index.get(path) {
                Some(known @ Node::File { stamp: then, .. }) if *then == stamp => known.clone(),
                _ => Node::from_entry(entry, stamp),
            }
        });
        (tree, torn)
    }

    /// The daemon keeps its index.
    pub(super) fn keep_index(&mut self, tree: &Snapshot) {
        let mut bytes = Vec::new();
        tree.encode(&mut bytes);
        self.older_index = std::mem::replace(&mut self.index, bytes);
    }

    /// One change, as a person or git would make it.
    pub(super) fn edit(&mut self, rng: &mut Rng) {
        let paths: Vec<SyncPath> = self.disk.keys().skip(1).cloned().collect();
        let is_file = |at: &SyncPath| !is_dir(self.disk.get(at));
        let files: Vec<SyncPath> = paths.iter().filter(|p| is_file(p)).cloned().collect();
        let dirs: Vec<SyncPath> = (self.disk.iter())
            .filter(|(p, e)| is_dir(Some(e)) && p.components().count() < 4)
            .map(|(p, _)| p.clone())
            .collect();
        match rng.below(10) {
            0..4 => self.make(rng, &dirs),
            4 | 5 => {
                if let Some(at) = rng.pick(&files) {
                    let entry = self.file(rng);
                    self.disk.insert(at, entry);
                }
            }
            6 => {
                if let Some(at) = rng.pick(&paths) {
                    self.clear(&at);
                }
            }
            7 => {
                if let (Some(from), Some(dir)) = (rng.pick(&paths), rng.pick(&dirs)) {
                    self.rename(&from, &dir.join(b"e").unwrap());
                }
            }
            8 => {
                if let (Some(a), Some(b)) = (rng.pick(&files), rng.pick(&files)) {
                    let (x, y) = (self.disk[&a].clone(), self.disk[&b].clone());
                    self.disk.insert(a, y);
                    self.disk.insert(b, x);
                }
            }
            _ => {
                if let Some(at) = rng.pick(&paths)
                    && let Some(Entry::File { executable, .. }) = self.disk.get_mut(&at)
                {
                    *executable = !*executable;
                }
            }
        }
    }

    fn make(&mut self, rng: &mut Rng, dirs: &[SyncPath]) {
        let Some(dir) = rng.pick(dirs) else { return };
        let name = [b"a", b"b", b"c", b"d"][rng.below(4) as usize];
        let at = dir.join(name).unwrap();
        let entry = match rng.below(6) {
            0 | 1 => Entry::Directory,
            2 => Entry::Symlink { target: b"x".as_slice().into() },
            _ => self.file(rng),
        };
        self.clear(&at);
        self.disk.insert(at, entry);
    }

    fn clear(&mut self, at: &SyncPath) {
        self.disk.retain(|path, _| !path.starts_with(at));
    }

    fn rename(&mut self, from: &SyncPath, to: &SyncPath) {
        if to.starts_with(from) || from.starts_with(to) {
            return;
        }
        self.clear(to);
        let moved: Vec<_> = (self.disk.iter())
            .filter(|(p, _)| p.starts_with(from))
            .map(|(p, e)| (to.append(&p.strip_prefix(from).unwrap()).unwrap(), e.clone()))
            .collect();
        self.clear(from);
        self.disk.extend(moved);
    }

    /// Everything below the root is gone.
    pub(super) fn empty(&mut self) {
        self.disk.retain(|path, _| *path == root());
    }

    /// Goes back to what was shown last.
    pub(super) fn revert(&mut self) {
        if !self.shown.is_empty() {
            self.disk = self.shown.clone();
        }
    }
}
