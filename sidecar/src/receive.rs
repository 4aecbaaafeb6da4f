//! The hub's side of a generation: is it in order, does it fit what is held, what is to be done next.
//!
//! Pure. It hands out [`Step`]s in an order in which no step destroys what a later one needs; whoever
//! performs them (`server::apply`) reports each with [`Receiver::done`], [`Receiver::skip`] or
//! [`Receiver::need`]. What was not done stays as it was in the record, so that the record never says
//! more than the disk holds.

#![deny(clippy::disallowed_methods)]

mod ahead;
mod moved;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

pub use self::ahead::Ahead;
use self::moved::{Tops, Tree, Unfolded, nothing_of, tops, unfold};
pub use self::moved::{changes_of_move, fold};
use crate::path::SyncPath;
use crate::tree::{Change, Dir, Edit, Entry, Node, Reason, Snapshot, Stamp, TreeError, TreeId};
use crate::wire::{How, MAX_OPS, Op, Skipped, WireError};

/// Most bytes of paths and links that the ops of a generation may have.
const MAX_OPS_BYTES: usize = 256 << 20;

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
    /// Move a directory with all it holds; report with [`Receiver::moved`]. Where that cannot be, or
    /// it holds anything else than the record says: [`Receiver::scattered`] gives the steps instead.
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
    /// Go on with a patch of the old content, or of another path's ([`Receiver::patched`]).
    Patch {
        /// Which op.
        index: u32,
        /// Where its next bytes lie in the unpacked body.
        range: Range<usize>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    /// Nothing happened yet.
    Waiting,
    /// Content must come in Data.
    Receiving {
        got: u64,
    },
    /// A patch must come in Data; whoever applies it sees its end.
    Patching,
    /// All content was handed out; the report is awaited.
    Received,
    Done(Stamp),
    /// Removed, and nothing stands there: what the record holds below is gone as well.
    Gone,
    Skipped(Option<Reason>),
    /// What stood there is not what the record says: the record forgets it.
    Lost,
}

struct Incoming {
    generation: u64,
    ops: Vec<Op>,
    states: Vec<State>,
    /// Bytes of paths, links and such that came.
    bytes: usize,
    /// Directories that move whole, as long as they do.
    trees: Vec<Tree>,
    /// The index of each op, as long as what a directory holds that moves is left out of them;
    /// without this an op's place is its index.
    numbers: Option<Vec<u32>>,
    /// It was made from another tree than the record: nothing of it is done.
    elsewhere: bool,
    /// The last Ops frame has come.
    whole: bool,
}

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

impl Incoming {
    /// Works out what folded ops stand for, and where each op stands at the beginning.
    fn unfold(&mut self, held: &Snapshot, roots: usize) -> Result<(), WireError> {
        let folded = std::mem::take(&mut self.ops);
        if self.elsewhere {
            self.nothing(nothing_of(&folded)?);
            return Ok(());
        }
        if let Some(Tops { ops, numbers, trees }) = tops(&folded, held)? {
            let states = first_states(&ops, held);
            let waits = |number| {
                let at = numbers.binary_search(number);
                at.is_ok_and(|at| states[at] == State::Waiting)
            };
            if trees.iter().all(|tree| waits(&tree.to) && waits(&tree.from)) {
                for tree in &trees {
                    check_move(&ops, &numbers, *tree, roots)?;
                }
                (self.ops, self.states, self.trees) = (ops, states, trees);
                self.numbers = Some(numbers);
                return Ok(());
            }
        }
        match unfold(folded, held)? {
            Unfolded::Ops(ops, trees) => {
                if !trees.is_empty() {
                    let before = std::iter::once(None).chain(ops.iter().map(Some));
                    ops.iter().zip(before).try_for_each(|(op, b)| {
                        check_place(op, b, roots)?;
                        check_content(op, roots)
                    })?;
                }
                self.states = first_states(&ops, held);
                (self.ops, self.trees) = (ops, trees);
                // Where part of it stands in the way, all goes its own way.
                let states = &self.states;
                self.trees.retain(|tree| {
                    tree.members()
                        .all(|(to, from)| [to, from].iter().all(|&at| states[at] == State::Waiting))
                });
            }
            Unfolded::Other(ops) => self.nothing(ops),
        }
        Ok(())
    }

    /// Nothing of it is done.
    fn nothing(&mut self, ops: Vec<Op>) {
        self.states = vec![State::Skipped(Some(Reason::Conflict)); ops.len()];
        self.ops = ops;
    }

    /// Where an op of this index lies.
    fn at(&self, index: u32) -> Option<usize> {
        match &self.numbers {
            None => Some(index as usize).filter(|&at| at < self.ops.len()),
            Some(numbers) => numbers.binary_search(&index).ok(),
        }
    }

    /// The index of the op that lies there.
    fn number(&self, at: usize) -> u32 {
        self.numbers.as_ref().map_or(at as u32, |numbers| numbers[at])
    }

    fn numbered(&self) -> impl Iterator<Item = (u32, &Op, &State)> {
        let all = self.ops.iter().zip(&self.states).enumerate();
        all.map(|(at, (op, state))| (self.number(at), op, state))
    }

    /// Where it and what it was are told by one op each: the directories that move.
    fn moves<'a>(&'a self, held: &'a Snapshot) -> impl Iterator<Item = Move<'a>> {
        let trees = self.numbers.iter().flat_map(|_| &self.trees);
        trees.filter_map(move |tree| {
            let (to, from) = (self.at(tree.to)?, self.at(tree.from)?);
            let [to, from] = [to, from].map(|at| &self.ops[at].change.path);
            Some(Move { to, from, dir: held.dir(from)?, tree })
        })
    }

    /// Puts all ops in the place of those that stand for them.
    fn expand(&mut self, held: &Snapshot) {
        let Some(numbers) = &self.numbers else { return };
        let removal = |number: &u32| self.trees.iter().any(|tree| tree.from == *number);
        let folded: Vec<Op> = (self.ops.iter().zip(numbers))
            .filter(|(_, number)| !removal(number))
            .map(|(op, _)| op.clone())
            .collect();
        let Ok(Unfolded::Ops(ops, trees)) = unfold(folded, held) else { return };
        let mut states = vec![State::Waiting; ops.len()];
        for (number, state) in numbers.iter().zip(&self.states) {
            states[*number as usize] = state.clone();
        }
        for tree in self.trees.iter().filter(|tree| tree.moved) {
            enter_moved(*tree, &ops, &mut states, held);
        }
        let moved = |tree: &Tree| self.trees.iter().any(|old| old.to == tree.to && old.moved);
        let trees = trees.into_iter().filter(|tree| !moved(tree)).collect();
        (self.ops, self.states, self.trees, self.numbers) = (ops, states, trees, None);
    }

    /// What the record would say with all of it done.
    fn reached(&self, held: &Snapshot) -> Result<TreeId, TreeError> {
        let mut edits: Vec<Edit> = (self.ops.iter())
            .map(|op| {
                let node = op.change.new.as_ref();
                let node = node.map(|entry| Node::from_entry(entry, Stamp::default()));
                (op.change.path.clone(), node)
            })
            .collect();
        for Move { dir, tree, .. } in self.moves(held) {
            if let Some(at) = self.at(tree.to) {
                edits[at].1 = Some(Node::Directory(Arc::clone(dir)));
            }
        }
        held.apply(&edits).map(|tree| tree.id())
    }
}

/// A directory that moves whole.
struct Move<'a> {
    to: &'a SyncPath,
    from: &'a SyncPath,
    dir: &'a Arc<Dir>,
    tree: &'a Tree,
}

/// Enters what became of each op of a directory that moved.
fn enter_moved(tree: Tree, ops: &[Op], states: &mut [State], held: &Snapshot) {
    for (to, from) in tree.members() {
        // A file keeps its inode and times when the directory it lies in is renamed.
        let stamp = match held.get(&ops[from].change.path) {
            Some(&Node::File { stamp, .. }) => stamp,
            _ => Stamp::default(),
        };
        states[to] = State::Done(stamp);
        states[from] = State::Gone;
    }
}

/// Refuses a move that leads out of the roots.
fn check_move(ops: &[Op], numbers: &[u32], tree: Tree, roots: usize) -> Result<(), WireError> {
    [tree.to, tree.from].iter().try_for_each(|number| {
        let at =
            numbers.binary_search(number).map_err(|_| WireError::Order("a move of nothing"))?;
        check_place(&ops[at], None, roots)?;
        check_content(&ops[at], roots)
    })
}

impl Tree {
    /// The ops of what moves, there and here, the directory's own first.
    fn members(self) -> impl Iterator<Item = (usize, usize)> {
        (0..=self.count as usize).map(move |n| (self.to as usize + n, self.from as usize + n))
    }
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

/// Refuses an op that is out of order or leaves the roots.
fn check_place(op: &Op, before: Option<&Op>, roots: usize) -> Result<(), WireError> {
    let change = &op.change;
    if before.is_some_and(|b| b.change.path >= change.path) || change.path.is_root() {
        return Err(WireError::Order("ops are not sorted by path"));
    }
    if root_index(&change.path).is_none_or(|(root, _)| root >= roots) {
        return Err(WireError::Order("op outside the session's roots"));
    }
    Ok(())
}

/// Refuses an op that is nonsense in itself.
fn check_content(op: &Op, roots: usize) -> Result<(), WireError> {
    let change = &op.change;
    let fits = match (&change.new, &op.how) {
        (Some(Entry::File { size, .. }), How::Data | How::Ask | How::Held) => *size > 0,
        (Some(Entry::File { size, .. }), How::Copy { from } | How::Like { from }) => {
            *size > 0 && root_index(from).is_some_and(|(root, _)| root < roots)
        }
        (Some(Entry::File { size, .. }), How::Patch) => {
            *size > 0 && matches!(change.old, Some(Entry::File { size: 1.., .. }))
        }
        (Some(Entry::Directory), How::Tree { from, .. }) => {
            change.old.is_none() && root_index(from).is_some_and(|(root, _)| root < roots)
        }
        // Without content: empty, or the same content with another executable bit.
        (Some(Entry::File { digest, size, .. }), How::None) => {
            *size == 0
                || matches!(&change.old, Some(Entry::File { digest: old, .. }) if old == digest)
        }
        (_, How::None) | (None, How::Forget) => true,
        _ => false,
    };
    if fits { Ok(()) } else { Err(WireError::Order("op without its content")) }
}

/// Splits a path of the session's tree: the number of its path pair, and the path below that root.
#[must_use]
pub fn root_index(path: &SyncPath) -> Option<(usize, SyncPath)> {
    let mut components = path.components();
    let first = components.next()?;
    let digits = std::str::from_utf8(first).ok().filter(|d| *d == "0" || !d.starts_with('0'))?;
    let index = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
    let base = SyncPath::new(first).ok()?;
    Some((index, path.strip_prefix(&base)?))
}

fn bytes_of(op: &Op) -> usize {
    let link = |entry: &Option<Entry>| match entry {
        Some(Entry::Symlink { target }) => target.len(),
        _ => 0,
    };
    let from = match &op.how {
        How::Copy { from } | How::Like { from } | How::Tree { from, .. } => from.as_bytes().len(),
        _ => 0,
    };
    op.change.path.as_bytes().len() + link(&op.change.old) + link(&op.change.new) + from
}

fn file_size(op: &Op) -> u64 {
    match op.change.new {
        Some(Entry::File { size, .. }) => size,
        _ => 0,
    }
}

/// Where ops stand at the beginning. What is put needs a directory in the record, or one of this
/// generation: a directory whose op was skipped may stand at the target all the same, and what is put
/// there would be nobody's. Cost: a comparison where the op before lies in the same directory.
fn first_states(ops: &[Op], held: &Snapshot) -> Vec<State> {
    let mut states: Vec<State> = Vec::with_capacity(ops.len());
    // The directory that was asked about last, and whether it is one.
    let mut last: Option<(&[u8], bool)> = None;
    for op in ops {
        let path = op.change.path.as_bytes();
        let cut = path.iter().rposition(|&byte| byte == b'/').filter(|_| op.change.new.is_some());
        let fits = cut.is_none_or(|cut| match last {
            Some((known, place)) if known == &path[..cut] => place,
            _ => {
                let place = op.change.path.parent().is_some_and(|parent| {
                    let made = ops.binary_search_by(|op| op.change.path.cmp(&parent)).ok();
                    let made = made.is_some_and(|at| {
                        let skipped = matches!(states.get(at), Some(State::Skipped(_)));
                        is_directory(ops[at].change.new.as_ref()) && !skipped
                    });
                    made || held.dir(&parent).is_some()
                });
                last = Some((&path[..cut], place));
                place
            }
        });
        let conflict = || State::Skipped(Some(Reason::Conflict));
        states.push(if fits { first_state(op, held) } else { conflict() });
    }
    states
}

fn first_state(op: &Op, held: &Snapshot) -> State {
    if held.entry(&op.change.path) != op.change.old {
        return State::Skipped(Some(Reason::Conflict));
    }
    match &op.how {
        How::Forget => State::Done(Stamp::default()),
        How::Data => State::Receiving { got: 0 },
        How::Like { from } if !matches!(held.get(from), Some(Node::File { size: 1.., .. })) => {
            State::Lost
        }
        How::Patch | How::Like { .. } => State::Patching,
        How::Copy { from } if !same_content(held.get(from), op) => State::Receiving { got: 0 },
        _ => State::Waiting,
    }
}

fn same_content(node: Option<&Node>, op: &Op) -> bool {
    match (node, &op.change.new) {
        (
            Some(Node::File { digest: a, size: n, .. }),
            Some(Entry::File { digest: b, size: m, .. }),
        ) => a == b && n == m,
        _ => false,
    }
}

fn is_directory(entry: Option<&Entry>) -> bool {
    matches!(entry, Some(Entry::Directory))
}

/// What can be done before any data, in this order: set aside content that would be destroyed; make
/// directories; copy and move; clear directories that become something else; put what was set aside;
/// links and the like.
fn first_steps(open: &Incoming, wanted: impl Fn(u32) -> bool) -> Vec<Step> {
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
fn waiting_removals(open: &Incoming, wanted: impl Fn(u32, &SyncPath) -> bool) -> Vec<Step> {
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

#[cfg(test)]
mod tests;
