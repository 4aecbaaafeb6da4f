//! The hub's side of a generation: is it in order, does it fit what is held, what is to be done next.
//!
//! Pure. It hands out [`Step`]s in an order in which no step destroys what a later one needs; whoever
//! performs them (`server::apply`) reports each with [`Receiver::done`], [`Receiver::skip`] or
//! [`Receiver::need`]. What was not done stays as it was in the record, so that the record never says
//! more than the disk holds.

#![deny(clippy::disallowed_methods)]

mod ahead;
mod check;
mod incoming;
mod moved;
mod record;
mod steps;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

pub use self::ahead::Ahead;
pub use self::check::root_index;
use self::check::{bytes_of, check_content, check_place, file_size};
use self::incoming::{Incoming, Move, State, enter_moved};
pub use self::moved::{FROM_ENTRIES, changes_of_move, expand, fold};
pub(crate) use self::record::apply_what_fits;
pub use self::record::leave_out_stayers;
pub use self::steps::Step;
use self::steps::{first_steps, waiting_removals};
use crate::path::SyncPath;
use crate::tree::{Change, Dir, Edit, Node, Reason, Snapshot, Stamp, TreeId};
use crate::wire::{How, MAX_OPS, Op, Skipped, WireError};

/// Most bytes of paths and links that the ops of a generation may have.
const MAX_OPS_BYTES: usize = 256 << 20;

/// A generation that is over.
#[derive(Debug)]
pub struct Finished {
    /// Its number.
    pub generation: u64,
    /// What was done, for the log.
    pub edits: Vec<Edit>,
    /// What was not.
    pub skipped: Vec<Skipped>,
}

/// Holds the record of what is managed at the target, and the generation that is coming in.
pub struct Receiver {
    held: Snapshot,
    generation: u64,
    /// Pairs of the session: the number of top-level directories there may be.
    roots: usize,
    open: Option<Incoming>,
    /// Something was skipped; generations sent before the daemon learnt of it lead elsewhere.
    diverged: bool,
}

impl Receiver {
    /// Goes on from what the store remembers.
    #[must_use]
    pub fn new(held: Snapshot, generation: u64, roots: usize) -> Self {
        Self { held, generation, roots, open: None, diverged: false }
    }

    /// What is managed, with stamps.
    #[must_use]
    pub fn held(&self) -> &Snapshot {
        &self.held
    }

    /// The last generation applied.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Replaces the record, for a drift check between generations.
    pub fn set_held(&mut self, held: Snapshot) {
        self.held = held;
    }

    /// Ends a generation that was cut off: what was done of it enters the record, its number does not.
    pub fn abandon(&mut self) {
        self.diverged = false;
        if let Some(open) = self.open.take() {
            self.close(open);
        }
    }

    /// An op of the open generation.
    ///
    /// # Panics
    /// When no generation is open: steps are performed before the next message is looked at.
    #[must_use]
    pub fn op(&self, index: u32) -> &Op {
        let open = self.open.as_ref().expect("a generation is open");
        &open.ops[open.at(index).expect("steps name ops that there are")]
    }

    /// The ops of the open generation, for the log. What is in a directory that moves whole is not
    /// among them: see [`Self::moves`].
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        self.open.as_ref().map_or(&[], |open| &open.ops)
    }

    /// The directories of the open generation that move whole, as one: where to, and where from.
    pub fn moves(&self) -> impl Iterator<Item = (&SyncPath, &SyncPath)> {
        let moves = self.open.iter().flat_map(|open| open.moves(&self.held));
        moves.map(|Move { to, from, .. }| (to, from))
    }

    /// All changes of the open generation, in no order.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let Some(open) = &self.open else { return Vec::new() };
        let moves = open.moves(&self.held);
        let inside = moves.flat_map(|Move { to, from, dir, .. }| changes_of_move(dir, to, from));
        open.ops.iter().map(|op| op.change.clone()).chain(inside).collect()
    }

    /// Nothing of the open generation can be done.
    pub fn skip_all(&mut self, reason: &Reason) {
        let Some(open) = &mut self.open else { return };
        open.expand(&self.held);
        open.states.fill(State::Skipped(Some(reason.clone())));
    }

    /// Takes ops. With the last of them come the steps that need no data.
    ///
    /// # Errors
    /// When they are out of order, leave the roots, or are nonsense in themselves.
    pub fn take_ops(
        &mut self,
        generation: u64,
        ops: Vec<Op>,
        last: bool,
    ) -> Result<Vec<Step>, WireError> {
        self.take(generation, ops, last, false)
    }

    /// Takes ops that do not tell what stands at their paths so far, but that it is what the tree
    /// `base` says. Where the record is another tree, all of the generation is skipped as a conflict.
    ///
    /// # Errors
    /// As [`Self::take_ops`].
    pub fn take_packed(
        &mut self,
        generation: u64,
        base: TreeId,
        mut ops: Vec<Op>,
        last: bool,
    ) -> Result<Vec<Step>, WireError> {
        let elsewhere = base != self.held.id();
        if !elsewhere {
            for op in &mut ops {
                op.change.old = self.held.entry(&op.change.path);
            }
        }
        self.take(generation, ops, last, elsewhere)
    }

    fn take(
        &mut self,
        generation: u64,
        ops: Vec<Op>,
        last: bool,
        elsewhere: bool,
    ) -> Result<Vec<Step>, WireError> {
        let newer = generation > self.generation;
        let open = self.open.get_or_insert_with(|| Incoming {
            generation,
            ops: Vec::new(),
            states: Vec::new(),
            bytes: 0,
            trees: Vec::new(),
            numbers: None,
            elsewhere,
            whole: false,
        });
        if !newer
            || generation != open.generation
            || open.whole
            || open.ops.len() + ops.len() > MAX_OPS
        {
            return Err(WireError::Order("ops"));
        }
        open.elsewhere |= elsewhere;
        for op in ops {
            check_place(&op, open.ops.last(), self.roots)?;
            if !open.elsewhere {
                check_content(&op, self.roots)?;
            }
            open.bytes += bytes_of(&op);
            if open.bytes > MAX_OPS_BYTES {
                return Err(WireError::Order("more ops than are held"));
            }
            open.ops.push(op);
        }
        open.whole = last;
        if !last {
            return Ok(Vec::new());
        }
        open.unfold(&self.held, self.roots)?;
        Ok(first_steps(open, |_| true))
    }

    /// A directory moved with all it held.
    pub fn moved(&mut self, index: u32) {
        let Some(open) = &mut self.open else { return };
        let Some(tree) = open.trees.iter_mut().find(|tree| tree.to == index) else { return };
        tree.moved = true;
        let tree = *tree;
        if open.numbers.is_none() {
            return enter_moved(tree, &open.ops, &mut open.states, &self.held);
        }
        self.set(tree.to, State::Done(Stamp::default()));
        self.set(tree.from, State::Gone);
    }

    /// What is to be done in place of moving a directory whole.
    pub fn scattered(&mut self, index: u32) -> Vec<Step> {
        let Some(open) = &mut self.open else { return Vec::new() };
        open.expand(&self.held);
        let Some(at) = open.trees.iter().position(|tree| tree.to == index) else {
            return Vec::new();
        };
        let tree = open.trees.swap_remove(at);
        first_steps(open, |op| (tree.to..=tree.to + tree.count).contains(&op))
    }

    /// How long the file is that an op's patch is made from, by the record, and where it lies.
    #[must_use]
    pub fn patched(&self, index: u32) -> Option<(&SyncPath, u64)> {
        let op = self.op(index);
        let from = match &op.how {
            How::Patch => &op.change.path,
            How::Like { from } => from,
            _ => return None,
        };
        match self.held.get(from) {
            Some(&Node::File { size, .. }) => Some((from, size)),
            _ => None,
        }
    }

    /// The directories of the record that a [`Step::MoveTree`] moves.
    #[must_use]
    pub fn moving(&self, index: u32) -> Option<&Arc<Dir>> {
        match &self.op(index).how {
            How::Tree { from, .. } => self.held.dir(from),
            _ => None,
        }
    }

    /// Takes pieces of content: op, where in the body, for each.
    ///
    /// # Errors
    /// When no such content is expected.
    pub fn take_data(&mut self, pieces: Vec<(u32, Range<usize>)>) -> Result<Vec<Step>, WireError> {
        let open = self.whole()?;
        let mut steps = Vec::with_capacity(pieces.len());
        for (index, range) in pieces {
            let at = open.at(index).ok_or(WireError::Order("data of an unknown op"))?;
            let (op, state) = (&open.ops[at], &mut open.states[at]);
            let size = file_size(op);
            match state {
                State::Receiving { got } => {
                    let offset = *got;
                    *got += range.len() as u64;
                    if *got > size {
                        return Err(WireError::Order("more data than the file has"));
                    }
                    let complete = *got == size;
                    if complete {
                        *state = State::Received;
                    }
                    steps.push(Step::Write { index, offset, range, complete });
                }
                State::Patching => steps.push(Step::Patch { index, range }),
                // It failed meanwhile; the daemon will learn so from Applied.
                State::Skipped(_) | State::Lost => {}
                _ => return Err(WireError::Order("data that was not asked for")),
            }
        }
        Ok(steps)
    }

    /// The daemon cannot send an op's content.
    ///
    /// # Errors
    /// When there is no such op.
    pub fn withdraw(&mut self, index: u32) -> Result<(), WireError> {
        let open = self.whole()?;
        let at = open.at(index).ok_or(WireError::Order("withdrawal of an unknown op"))?;
        match &mut open.states[at] {
            State::Done(_) | State::Gone => Err(WireError::Order("withdrawal of what was done")),
            state => {
                *state = State::Skipped(None);
                Ok(())
            }
        }
    }

    /// Which ops need Data after the first steps: the answer to an asking generation, `None` when it
    /// asked nothing.
    #[must_use]
    pub fn needed(&self) -> Option<Vec<u32>> {
        let open = self.open.as_ref()?;
        open.ops.iter().any(|op| op.how.asks()).then(|| {
            (0u32..)
                .zip(open.ops.iter().zip(&open.states))
                .filter(|(_, (op, state))| {
                    op.how.asks() && matches!(state, State::Receiving { .. })
                })
                .map(|(index, _)| index)
                .collect()
        })
    }

    /// The generation is complete: what is left to do, the removals, deepest first.
    ///
    /// # Errors
    /// When content is missing, or the tree would not become `target` although nothing was skipped.
    pub fn commit(&mut self, generation: u64, target: TreeId) -> Result<Vec<Step>, WireError> {
        let (held, diverged) = (self.held.clone(), self.diverged);
        let open = self.whole()?;
        if generation != open.generation {
            return Err(WireError::Order("commit of another generation"));
        }
        let unfinished = |state: &State| matches!(state, State::Receiving { .. } | State::Patching);
        if open.states.iter().any(unfinished) {
            return Err(WireError::Order("commit before all data"));
        }
        let reached = open.reached(&held);
        let conflict = |state: &State| matches!(state, State::Skipped(Some(Reason::Conflict)));
        let meets = reached == Ok(target);
        if !meets && !diverged && !open.states.iter().any(conflict) {
            return Err(WireError::Order("commit of another tree"));
        }
        let steps = waiting_removals(open, |_, _| true);
        self.diverged = !meets;
        Ok(steps)
    }

    /// Closes the generation: the record now says what was done.
    ///
    /// # Errors
    /// When no generation is open.
    pub fn finish(&mut self) -> Result<Finished, WireError> {
        self.whole()?;
        let open = self.open.take().ok_or(WireError::Order("commit"))?;
        self.generation = open.generation;
        let finished = self.close(open);
        self.diverged |= !finished.skipped.is_empty();
        Ok(finished)
    }

    /// Enters what was done into the record. Whatever does not get there is told as skipped, so that
    /// the daemon knows the same tree.
    fn close(&mut self, mut open: Incoming) -> Finished {
        if open.trees.iter().any(|tree| !tree.moved) {
            open.expand(&self.held);
        }
        let whole: HashMap<u32, (Arc<Dir>, u32)> = (open.moves(&self.held))
            .map(|Move { dir, tree, .. }| (tree.to, (Arc::clone(dir), tree.count)))
            .collect();
        let numbers: Vec<u32> = (0..open.ops.len()).map(|at| open.number(at)).collect();
        let mut edits: Vec<Edit> = Vec::with_capacity(open.ops.len());
        let mut indices: Vec<(u32, SyncPath)> = Vec::with_capacity(open.ops.len());
        let mut skipped = Vec::new();
        let mut lost = Vec::new();
        let mut gone: HashSet<SyncPath> = HashSet::new();
        for ((index, op), state) in numbers.into_iter().zip(open.ops).zip(open.states) {
            let path = op.change.path;
            let node = match state {
                State::Done(_) if whole.contains_key(&index) => {
                    let (dir, count) = &whole[&index];
                    indices.extend((1..=*count).map(|inside| (index + inside, path.clone())));
                    Some(Node::Directory(Arc::clone(dir)))
                }
                State::Done(stamp) => {
                    op.change.new.as_ref().map(|entry| Node::from_entry(entry, stamp))
                }
                State::Gone => {
                    gone.insert(path.clone());
                    None
                }
                State::Lost => {
                    lost.push(Skipped { index, reason: Some(Reason::Conflict) });
                    None
                }
                State::Skipped(reason) => {
                    skipped.push(Skipped { index, reason });
                    continue;
                }
                _ => {
                    skipped.push(Skipped { index, reason: Some(Reason::Conflict) });
                    continue;
                }
            };
            indices.push((index, path.clone()));
            edits.push((path, node));
        }
        leave_out_stayers(&self.held, &mut edits, |(path, node)| {
            (path, node.is_none() && !gone.contains(path))
        });
        self.held = apply_what_fits(&self.held, &mut edits);
        let entered = |path| edits.binary_search_by(|(there, _)| there.cmp(path)).is_ok();
        skipped.extend(
            indices
                .iter()
                .filter(|(_, path)| !entered(path))
                .map(|&(index, _)| Skipped { index, reason: Some(Reason::NotEmpty) }),
        );
        skipped.extend(lost);
        skipped.sort_by_key(|skipped| skipped.index);
        skipped.dedup_by_key(|skipped| skipped.index);
        Finished { generation: open.generation, edits, skipped }
    }

    /// An op was done; the stamp is that of the file as it now stands.
    pub fn done(&mut self, index: u32, stamp: Stamp) {
        self.set(index, State::Done(stamp));
    }

    /// A removal was done, and nothing stands there any more (of a directory: nobody else's either).
    pub fn gone(&mut self, index: u32) {
        self.set(index, State::Gone);
    }

    /// An op could not be done.
    pub fn skip(&mut self, index: u32, reason: Reason) {
        self.set(index, State::Skipped(Some(reason)));
    }

    /// An op could not be done because its path holds what the record does not know of: the record
    /// forgets the path, so that the daemon sends all of it.
    pub fn lost(&mut self, index: u32) {
        self.set(index, State::Lost);
    }

    /// An op's content was not found at the target.
    pub fn need(&mut self, index: u32) {
        self.set(index, State::Receiving { got: 0 });
    }

    fn set(&mut self, index: u32, state: State) {
        if let Some(open) = &mut self.open
            && let Some(at) = open.at(index)
        {
            open.states[at] = state;
        }
    }

    fn whole(&mut self) -> Result<&mut Incoming, WireError> {
        self.open
            .as_mut()
            .filter(|open| open.whole)
            .ok_or(WireError::Order("content before the ops are complete"))
    }
}

#[cfg(test)]
mod tests;
