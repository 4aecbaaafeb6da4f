//! How what was done enters the record.

use crate::path::SyncPath;
use crate::tree::{Edit, Node, Snapshot};

/// A directory stays in the record as long as something managed stays in it: leaves out the removals
/// of directories that hold more than what is removed with them. What stands in a directory's place
/// tells that it held nothing. `of` tells an item's path, and whether nothing stands there any more;
/// items are in path order.
pub fn leave_out_stayers<T>(
    held: &Snapshot,
    items: &mut Vec<T>,
    of: impl Fn(&T) -> (&SyncPath, bool),
) {
    let mut kept: Vec<T> = Vec::with_capacity(items.len());
    while let Some(item) = items.pop() {
        let (path, gone) = of(&item);
        let stays = gone
            && held.dir(path).is_some_and(|dir| {
                let below = kept.iter().rev().map(&of).take_while(|(p, _)| p.starts_with(path));
                removed(held, below) < dir.count()
            });
        if !stays {
            kept.push(item);
        }
    }
    kept.reverse();
    *items = kept;
}

/// How many entries of the record removals take, those in a directory of which nothing is left included:
/// of one that moved away whole, what it held is not told.
fn removed<'a>(held: &Snapshot, removals: impl Iterator<Item = (&'a SyncPath, bool)>) -> u64 {
    let (mut count, mut whole): (u64, Option<&SyncPath>) = (0, None);
    for (path, may_stay) in removals {
        if whole.is_some_and(|whole| path.starts_with(whole)) {
            continue;
        }
        match held.get(path) {
            None => {}
            Some(Node::Directory(dir)) if !may_stay => {
                count += 1 + dir.count();
                whole = Some(path);
            }
            Some(_) => count += 1,
        }
    }
    count
}

/// Applies edits, leaving out those whose parent was not made.
pub(crate) fn apply_what_fits(held: &Snapshot, edits: &mut Vec<Edit>) -> Snapshot {
    loop {
        match held.apply(edits) {
            Ok(tree) => return tree,
            Err(error) => {
                let (crate::tree::TreeError::Order(bad) | crate::tree::TreeError::NoParent(bad)) =
                    error;
                edits.retain(|(path, _)| *path != bad);
            }
        }
    }
}
