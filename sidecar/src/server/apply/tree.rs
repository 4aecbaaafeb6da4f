//! Owns the move of a directory with all it holds: one rename, when all of it is as we left it.
//!
//! Anything else in it, of whoever, and it goes the usual way, entry by entry: there each is looked at,
//! what others made stays where it is, and what they changed is kept.

use super::super::look::is_as_written;
use super::super::root::{FoundKind, TargetRoot};
use super::super::site::Site;
use crate::path::SyncPath;
use crate::tree::{Dir, Node};

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

/// Whether a directory holds what the record says, as it was written, and nothing else.
fn holds_just(root: &TargetRoot, at: &SyncPath, dir: &Dir) -> bool {
    let Ok(found) = root.list(at) else { return false };
    found.len() == dir.len()
        && found.iter().all(|(name, found)| match (dir.get(name), &found.kind) {
            _ if found.mount_root => false,
            (Some(node @ Node::File { .. }), FoundKind::File) => is_as_written(Some(node), found),
            (Some(Node::Symlink(known)), FoundKind::Symlink { target }) => known == target,
            (Some(Node::Directory(inside)), FoundKind::Directory) => {
                at.join(name).is_ok_and(|below| holds_just(root, &below, inside))
            }
            _ => false,
        })
}
