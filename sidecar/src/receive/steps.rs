//! What is to be done, in an order in which no step destroys what a later one needs.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::incoming::{Incoming, State, is_directory};
use crate::path::SyncPath;
use crate::tree::Entry;
use crate::wire::{How, Op};

/// One thing to do at the target. `index` names the op.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Set content of another path aside, before something destroys it; [`Step::Place`] follows.
    Stage {
        /// The op that needs it.
        index: u32,
    },
    /// Make a directory, in place of a file or link if the op says that one is there.
    MakeDirectory {
        /// Which op.
        index: u32,
    },
    /// Take over equal content that lies at the op's own path, else need data.
    Ask {
        /// Which op.
        index: u32,
    },
    /// Move a directory with all it holds; report with [`Receiver::moved`](super::Receiver::moved). Where that cannot be, or
    /// it holds anything else than the record says: [`Receiver::scattered`](super::Receiver::scattered) gives the steps instead.
    MoveTree {
        /// The op that gets it.
        index: u32,
        /// The op that removes it where it is.
        removal: u32,
    },
    /// Move a file that another op removes; report both. Else need data.
    Move {
        /// The op that gets the file.
        index: u32,
        /// The op that removes it where it is.
        removal: u32,
    },
    /// Copy a file, else need data.
    Copy {
        /// Which op.
        index: u32,
    },
    /// Remove what stands in the way of another op, or is to go.
    Remove {
        /// Which op.
        index: u32,
    },
    /// Put what was set aside.
    Place {
        /// Which op.
        index: u32,
    },
    /// Put what came ahead ([`How::Held`]).
    PutHeld {
        /// Which op.
        index: u32,
    },
    /// Make a link, an empty file, or set the executable bit.
    Make {
        /// Which op.
        index: u32,
    },
    /// Write a piece of content.
    Write {
        /// Which op.
        index: u32,
        /// Where it goes, in bytes.
        offset: u64,
        /// Where it lies in the unpacked body.
        range: Range<usize>,
        /// The file is complete with it.
        complete: bool,
    },
    /// Go on with a patch of the old content, or of another path's ([`Receiver::patched`](super::Receiver::patched)).
    Patch {
        /// Which op.
        index: u32,
        /// Where its next bytes lie in the unpacked body.
        range: Range<usize>,
    },
}

/// What can be done before any data, in this order: set aside content that would be destroyed; make
/// directories; copy and move; clear directories that become something else; put what was set aside;
/// links and the like.
pub(super) fn first_steps(open: &Incoming, wanted: impl Fn(u32) -> bool) -> Vec<Step> {
    let mut free: Vec<bool> = open.states.iter().map(|state| *state == State::Waiting).collect();
    for tree in &open.trees {
        let inside = if open.numbers.is_some() { 0 } else { tree.count };
        for (to, from) in (0..=inside).map(|inside| (tree.to + inside, tree.from + inside)) {
            [to, from].iter().filter_map(|&index| open.at(index)).for_each(|at| free[at] = false);
        }
    }
    let free = |index: u32| open.at(index).is_some_and(|at| free[at]);
    let waiting = |index: u32| free(index) && wanted(index);
    let all = || {
        let all = open.numbered().map(|(index, op, _)| (index, op));
        all.filter(|(index, _)| waiting(*index))
    };
    let by_path: HashMap<&SyncPath, (u32, &Op)> =
        open.numbered().map(|(index, op, _)| (&op.change.path, (index, op))).collect();
    let cleared: Vec<&SyncPath> = (open.ops.iter())
        .filter(|op| {
            let change = &op.change;
            is_directory(change.old.as_ref())
                && change.new.is_some()
                && !is_directory(change.new.as_ref())
        })
        .map(|op| &op.change.path)
        .collect();
    let below_cleared = |path: &SyncPath| cleared.iter().any(|c| path.starts_with(c));
    // Content is at risk where another op puts something or clears the way before it is copied.
    let at_risk = |from: &SyncPath| {
        below_cleared(from) || by_path.get(from).is_some_and(|(_, op)| op.change.new.is_some())
    };
    let (mut stage, mut copy, mut place) = (Vec::new(), Vec::new(), Vec::new());
    let mut moved = HashSet::new();
    for (index, op) in all() {
        let How::Copy { from } = &op.how else { continue };
        if at_risk(from) || below_cleared(&op.change.path) {
            stage.push(Step::Stage { index });
            place.push(Step::Place { index });
            continue;
        }
        match by_path.get(from) {
            Some(&(removal, _)) if free(removal) && moved.insert(removal) => {
                copy.push(Step::Move { index, removal });
            }
            _ => copy.push(Step::Copy { index }),
        }
    }
    // A file may be moved only after all copies of it were made.
    copy.sort_by_key(|step| matches!(step, Step::Move { .. }));
    let mut steps = stage;
    steps.extend(
        all()
            .filter(|(_, op)| is_directory(op.change.new.as_ref()))
            .map(|(index, _)| Step::MakeDirectory { index }),
    );
    steps.extend(all().filter(|(_, op)| op.how == How::Ask).map(|(index, _)| Step::Ask { index }));
    steps.extend(copy);
    let whole = open.trees.iter().filter(|tree| wanted(tree.to));
    steps.extend(whole.map(|tree| Step::MoveTree { index: tree.to, removal: tree.from }));
    steps.extend(waiting_removals(open, |index, path| wanted(index) && below_cleared(path)));
    steps.extend(place);
    let held = all().filter(|(_, op)| op.how == How::Held);
    steps.extend(held.map(|(index, _)| Step::PutHeld { index }));
    let makes = |op: &Op| {
        op.how == How::None
            && matches!(op.change.new, Some(Entry::File { .. } | Entry::Symlink { .. }))
    };
    steps.extend(all().filter(|(_, op)| makes(op)).map(|(index, _)| Step::Make { index }));
    steps
}

/// Removals not yet done, deepest first.
pub(super) fn waiting_removals(
    open: &Incoming,
    wanted: impl Fn(u32, &SyncPath) -> bool,
) -> Vec<Step> {
    (open.numbered())
        .filter(|(index, op, state)| {
            op.change.new.is_none() && **state == State::Waiting && wanted(*index, &op.change.path)
        })
        .map(|(index, ..)| Step::Remove { index })
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect()
}
