//! Owns the move of a directory with all it holds: one rename, when all of it is as we left it.
//!
//! Anything else in it, of whoever, and it goes the usual way, entry by entry: there each is looked at,
//! what others made stays where it is, and what they changed is kept.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::super::look::is_as_written;
use super::super::root::{FoundKind, TargetRoot};
use super::super::site::Site;
use crate::path::SyncPath;
use crate::tree::{Dir, Node};

/// Entries from which other threads are worth their start.
const PARALLEL_FROM: u64 = 1000;
/// Threads that look at a time.
const MOST_THREADS: usize = 4;

impl Site {
    /// Moves the directory of the op `removal` to the path of the op `index`.
    pub(super) fn move_tree(&mut self, index: u32, removal: u32) {
        if self.try_move_tree(index, removal) {
            return self.receiver.moved(index);
        }
        for step in self.receiver.scattered(index) {
            self.perform_one(&step);
        }
    }

    fn try_move_tree(&self, index: u32, removal: u32) -> bool {
        let to = &self.receiver.op(index).change.path;
        let from = &self.receiver.op(removal).change.path;
        let Some(dir) = self.receiver.moving(index) else { return false };
        let (Some((goal, to)), Some((root, from))) = (self.locate(to), self.locate(from)) else {
            return false;
        };
        !from.is_root()
            && !to.is_root()
            && std::ptr::eq(goal, root)
            && holds_just(root, &from, dir)
            && root.rename_directory(&from, &to).is_ok()
    }
}

/// Whether a directory holds what the record says, as it was written, and nothing else. Where there
/// is much of it several threads look: it costs a system call for each entry.
fn holds_just(root: &TargetRoot, at: &SyncPath, dir: &Dir) -> bool {
    let mut all = Vec::new();
    if !directories(at, dir, &mut all) {
        return false;
    }
    let threads = match dir.count() {
        ..PARALLEL_FROM => 1,
        _ => std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS),
    };
    let (next, holds) = (AtomicUsize::new(0), AtomicBool::new(true));
    let look = || {
        while holds.load(Ordering::Relaxed)
            && let Some((at, dir)) = all.get(next.fetch_add(1, Ordering::Relaxed))
        {
            if !holds_itself(root, at, dir) {
                holds.store(false, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Without another thread this one does it all.
            let _ = std::thread::Builder::new().spawn_scoped(scope, look);
        }
        look();
    });
    holds.into_inner()
}

/// The directory and all in it, with their paths; `false` where one would be too long.
fn directories<'a>(at: &SyncPath, dir: &'a Dir, all: &mut Vec<(SyncPath, &'a Dir)>) -> bool {
    all.push((at.clone(), dir));
    dir.iter().all(|(name, node)| match node {
        Node::Directory(inside) => {
            at.join(name).is_ok_and(|below| directories(&below, inside, all))
        }
        _ => true,
    })
}

/// Whether there is just what the record says, but for what is in the directories.
fn holds_itself(root: &TargetRoot, at: &SyncPath, dir: &Dir) -> bool {
    let Ok(found) = root.list(at) else { return false };
    found.len() == dir.len()
        && found.iter().all(|(name, found)| match (dir.get(name), &found.kind) {
            _ if found.mount_root => false,
            (Some(node @ Node::File { .. }), FoundKind::File) => is_as_written(Some(node), found),
            (Some(Node::Symlink(known)), FoundKind::Symlink { target }) => known == target,
            (Some(Node::Directory(_)), FoundKind::Directory) => true,
            _ => false,
        })
}
