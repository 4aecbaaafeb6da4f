//! The generation that is coming in: its ops, and how far each of them is.

use std::sync::Arc;

use super::check::{check_content, check_place};
use super::moved::{Tops, Tree, Unfolded, nothing_of, tops, unfold};
use crate::path::SyncPath;
use crate::tree::{Dir, Edit, Entry, Node, Reason, Snapshot, Stamp, TreeError, TreeId};
use crate::wire::{How, Op, WireError};

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum State {
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

pub(super) struct Incoming {
    pub(super) generation: u64,
    pub(super) ops: Vec<Op>,
    pub(super) states: Vec<State>,
    /// Bytes of paths, links and such that came.
    pub(super) bytes: usize,
    /// Directories that move whole, as long as they do.
    pub(super) trees: Vec<Tree>,
    /// The index of each op, as long as what a directory holds that moves is left out of them;
    /// without this an op's place is its index.
    pub(super) numbers: Option<Vec<u32>>,
    /// It was made from another tree than the record: nothing of it is done.
    pub(super) elsewhere: bool,
    /// The last Ops frame has come.
    pub(super) whole: bool,
}

impl Incoming {
    /// Works out what folded ops stand for, and where each op stands at the beginning.
    pub(super) fn unfold(&mut self, held: &Snapshot, roots: usize) -> Result<(), WireError> {
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
    pub(super) fn nothing(&mut self, ops: Vec<Op>) {
        self.states = vec![State::Skipped(Some(Reason::Conflict)); ops.len()];
        self.ops = ops;
    }

    /// Where an op of this index lies.
    pub(super) fn at(&self, index: u32) -> Option<usize> {
        match &self.numbers {
            None => Some(index as usize).filter(|&at| at < self.ops.len()),
            Some(numbers) => numbers.binary_search(&index).ok(),
        }
    }

    /// The index of the op that lies there.
    pub(super) fn number(&self, at: usize) -> u32 {
        self.numbers.as_ref().map_or(at as u32, |numbers| numbers[at])
    }

    pub(super) fn numbered(&self) -> impl Iterator<Item = (u32, &Op, &State)> {
        let all = self.ops.iter().zip(&self.states).enumerate();
        all.map(|(at, (op, state))| (self.number(at), op, state))
    }

    /// Where it and what it was are told by one op each: the directories that move.
    pub(super) fn moves<'a>(&'a self, held: &'a Snapshot) -> impl Iterator<Item = Move<'a>> {
        let trees = self.numbers.iter().flat_map(|_| &self.trees);
        trees.filter_map(move |tree| {
            let (to, from) = (self.at(tree.to)?, self.at(tree.from)?);
            let [to, from] = [to, from].map(|at| &self.ops[at].change.path);
            Some(Move { to, from, dir: held.dir(from)?, tree })
        })
    }

    /// Puts all ops in the place of those that stand for them.
    pub(super) fn expand(&mut self, held: &Snapshot) {
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
    pub(super) fn reached(&self, held: &Snapshot) -> Result<TreeId, TreeError> {
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
pub(super) struct Move<'a> {
    pub(super) to: &'a SyncPath,
    pub(super) from: &'a SyncPath,
    pub(super) dir: &'a Arc<Dir>,
    pub(super) tree: &'a Tree,
}

/// Enters what became of each op of a directory that moved.
pub(super) fn enter_moved(tree: Tree, ops: &[Op], states: &mut [State], held: &Snapshot) {
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
pub(super) fn check_move(
    ops: &[Op],
    numbers: &[u32],
    tree: Tree,
    roots: usize,
) -> Result<(), WireError> {
    [tree.to, tree.from].iter().try_for_each(|number| {
        let at =
            numbers.binary_search(number).map_err(|_| WireError::Order("a move of nothing"))?;
        check_place(&ops[at], None, roots)?;
        check_content(&ops[at], roots)
    })
}

impl Tree {
    /// The ops of what moves, there and here, the directory's own first.
    pub(super) fn members(self) -> impl Iterator<Item = (usize, usize)> {
        (0..=self.count as usize).map(move |n| (self.to as usize + n, self.from as usize + n))
    }
}

/// Where ops stand at the beginning. What is put needs a directory in the record, or one of this
/// generation: a directory whose op was skipped may stand at the target all the same, and what is put
/// there would be nobody's. Cost: a comparison where the op before lies in the same directory.
pub(super) fn first_states(ops: &[Op], held: &Snapshot) -> Vec<State> {
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

pub(super) fn first_state(op: &Op, held: &Snapshot) -> State {
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

pub(super) fn same_content(node: Option<&Node>, op: &Op) -> bool {
    match (node, &op.change.new) {
        (
            Some(Node::File { digest: a, size: n, .. }),
            Some(Entry::File { digest: b, size: m, .. }),
        ) => a == b && n == m,
        _ => false,
    }
}

pub(super) fn is_directory(entry: Option<&Entry>) -> bool {
    matches!(entry, Some(Entry::Directory))
}
