//! A directory that moved, as one op on the wire: what it stands for, and how both ends know.
//!
//! The daemon plans a directory that went and came as it was as two ops: one that makes it
//! ([`How::Tree`]), one that removes it; [`fold`] is what crosses of that. It also makes one op of all
//! the ops of a directory that goes and of an equal one that comes. [`unfold`] is the hub's half: it
//! works the same ops out from its record, in the same order, so that an index means the same op at
//! both ends; [`expand`] does so for the daemon, when an index has to be understood. Where the record
//! is not what the op was made from, nothing of the generation is done and the daemon plans again.

use std::collections::HashMap;

use crate::path::SyncPath;
use crate::tree::{Change, Dir, Entry, Node, Snapshot, TreeId};
use crate::wire::{How, MAX_OPS, Meta, Op, WireError};

/// Smallest directory that is worth it: so many entries.
pub const FROM_ENTRIES: usize = 2;

/// A directory that moves within a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tree {
    /// The op that makes it; those of what it holds follow.
    pub(super) to: u32,
    /// The op that removes it where it was; those of what it holds follow.
    pub(super) from: u32,
    /// How many follow.
    pub(super) count: u32,
    /// It has.
    pub(super) moved: bool,
}

/// What came over the wire, where each directory that moves stands for itself.
pub(super) struct Tops {
    /// In path order; the removals of the directories are among them.
    pub(super) ops: Vec<Op>,
    /// The index of each: those it stands for are counted.
    pub(super) numbers: Vec<u32>,
    pub(super) trees: Vec<Tree>,
}

/// Most comparisons that are made to find out whether directories move by themselves.
const MOST_COMPARED: usize = 1 << 20;

/// Leaves directories that move as they came, where nothing else in the generation touches what they
/// hold; `None` where each op must be looked at.
pub(super) fn tops(folded: &[Op], held: &Snapshot) -> Result<Option<Tops>, WireError> {
    let mut tops: Vec<(&SyncPath, &SyncPath, u32)> = Vec::new();
    for op in folded {
        let How::Tree { from, tree, count } = &op.how else { continue };
        let is_it = held.dir(from).is_some_and(|dir| {
            dir.id() == *tree && dir.count() == u64::from(*count) && dir.fits(&op.change.path)
        });
        if !is_it || held.get(&op.change.path).is_some() {
            return Ok(None);
        }
        tops.push((&op.change.path, from, *count));
    }
    if tops.is_empty() || tops.len().saturating_mul(folded.len()) > MOST_COMPARED {
        return Ok(None);
    }
    total_of(folded)?;
    let apart = |&(to, from, _): &(&SyncPath, &SyncPath, u32)| {
        let others = folded.iter().map(|op| &op.change.path).filter(|path| *path != to);
        let froms = tops.iter().map(|(_, from, _)| *from);
        !to.starts_with(from)
            && others.into_iter().all(|path| !path.starts_with(to) && !path.starts_with(from))
            && froms.clone().filter(|other| other.starts_with(from)).count() == 1
            && froms.into_iter().all(|other| !other.starts_with(to))
    };
    if !tops.iter().all(apart) {
        return Ok(None);
    }
    let removals = tops.iter().map(|(_, from, _)| gone((*from).clone(), Entry::Directory));
    let mut ops: Vec<Op> = folded.iter().cloned().chain(removals).collect();
    ops.sort_by(|a, b| a.change.path.cmp(&b.change.path));
    let (mut shift, mut numbers) = (0, Vec::with_capacity(ops.len()));
    let mut trees: Vec<Tree> =
        tops.iter().map(|&(_, _, count)| Tree { to: 0, from: 0, count, moved: false }).collect();
    for (at, op) in ops.iter().enumerate() {
        let number = at as u32 + shift;
        numbers.push(number);
        for (tree, (to, from, count)) in trees.iter_mut().zip(&tops) {
            if op.change.path == **to {
                tree.to = number;
            } else if op.change.path == **from {
                tree.from = number;
            } else {
                continue;
            }
            shift += count;
        }
    }
    Ok(Some(Tops { ops, numbers, trees }))
}

/// The changes that the move of a directory stands for, in path order.
#[must_use]
pub fn changes_of_move(dir: &Dir, to: &SyncPath, from: &SyncPath) -> Vec<Change> {
    let mut ops = Vec::new();
    // Paths that the record holds fit; of those that are made the daemon's op was checked.
    let _ = members(dir, to, from, &mut ops);
    let mut changes: Vec<Change> = ops.into_iter().map(|op| op.change).collect();
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    changes
}

/// All ops that planned ones stand for, in path order, where a directory among them moves: each entry
/// has its own, and none is a [`How::Tree`]. `base` is what they lead on from. `None` without such, or
/// where `base` is something else.
#[must_use]
pub fn expand(base: &Snapshot, ops: &[Op]) -> Option<Vec<Op>> {
    let moves = moves_of(ops);
    if moves.is_empty() {
        return None;
    }
    let cross = ops.iter().filter(|op| !moves.contains_key(&op.change.path));
    match unfold(cross.cloned().collect(), base) {
        Ok(Unfolded::Ops(mut ops, _)) => {
            let whole = ops.iter_mut().filter(|op| matches!(op.how, How::Tree { .. }));
            whole.for_each(|op| op.how = How::None);
            Some(ops)
        }
        Ok(Unfolded::Other(_)) | Err(_) => None,
    }
}

/// The directories that planned ops move: where from, and how much they hold.
fn moves_of(ops: &[Op]) -> HashMap<&SyncPath, u32> {
    ops.iter()
        .filter_map(|op| match &op.how {
            How::Tree { from, count, .. } => Some((from, *count)),
            _ => None,
        })
        .collect()
}

/// The ops of a generation as they cross the wire, each with its index: `ops` are in path order and
/// lead on from `base`.
#[must_use]
pub fn fold(base: &Snapshot, ops: &[Op]) -> Vec<(u32, Op)> {
    let moves = moves_of(ops);
    if !moves.is_empty() {
        return without_removals(ops, &moves);
    }
    let mut trees: Vec<(usize, usize, usize, TreeId)> = Vec::new();
    let mut at = 0;
    while at < ops.len() {
        match tree_at(base, ops, at) {
            Some((from, count, id)) if trees.iter().all(|tree| tree.1 != from) => {
                trees.push((at, from, count, id));
                at += count;
            }
            _ => {}
        }
        at += 1;
    }
    let mut folded = vec![false; if trees.is_empty() { 0 } else { ops.len() }];
    for &(to, from, count, _) in &trees {
        folded[to + 1..=to + count].fill(true);
        folded[from..=from + count].fill(true);
    }
    let mut trees = trees.into_iter().peekable();
    let kept = ops.iter().enumerate().filter(|(index, _)| folded.get(*index) != Some(&true));
    kept.map(|(index, op)| {
        let mut op = op.clone();
        if let Some((_, from, count, tree)) = trees.next_if(|(to, ..)| *to == index) {
            let from = ops[from].change.path.clone();
            op.how = How::Tree { from, tree, count: count as u32 };
        }
        (index as u32, op)
    })
    .collect()
}

/// Leaves out the removals of directories that move, and counts what their ops stand for.
fn without_removals(ops: &[Op], moves: &HashMap<&SyncPath, u32>) -> Vec<(u32, Op)> {
    let (mut number, mut cross) = (0, Vec::with_capacity(ops.len()));
    for op in ops {
        let gone = moves.get(&op.change.path);
        if gone.is_none() {
            cross.push((number, op.clone()));
        }
        let inside = match &op.how {
            How::Tree { count, .. } => *count,
            _ => gone.copied().unwrap_or(0),
        };
        number += 1 + inside;
    }
    cross
}

/// Whether the op makes a directory that is equal to one that goes: the op that removes that, how
/// much they hold, and what.
fn tree_at(base: &Snapshot, ops: &[Op], at: usize) -> Option<(usize, usize, TreeId)> {
    let to = &ops[at];
    if to.change.old.is_some() || to.change.new != Some(Entry::Directory) || to.how != How::None {
        return None;
    }
    let inside = below(ops, at);
    let (tail, from) = inside.iter().find_map(|op| match &op.how {
        How::Copy { from } => Some((op.change.path.strip_prefix(&to.change.path)?, from)),
        _ => None,
    })?;
    let top = from.as_bytes().strip_suffix(tail.as_bytes())?.strip_suffix(b"/")?;
    let top = SyncPath::new(top).ok()?;
    let from = ops.binary_search_by(|op| op.change.path.cmp(&top)).ok()?;
    let gone = below(ops, from);
    let goes = |op: &Op| op.change.new.is_none() && op.how == How::None;
    let dir = base.dir(&top)?;
    if inside.len() < FROM_ENTRIES
        || inside.len() != gone.len()
        || inside.len() as u64 != dir.count()
        || !goes(&ops[from])
        || ops[from].change.old != Some(Entry::Directory)
        || top.starts_with(&to.change.path)
        || to.change.path.starts_with(&top)
    {
        return None;
    }
    let same = |(new, old): (&Op, &Op)| {
        let moves = match (&new.change.new, &new.how) {
            (Some(Entry::File { size: 1.., .. }), How::Copy { .. }) => true,
            (Some(Entry::File { size: 1.., .. }) | None, _) => false,
            (_, how) => *how == How::None,
        };
        moves
            && goes(old)
            && new.change.old.is_none()
            && new.change.new == old.change.old
            && rest(new, &to.change.path) == rest(old, &top)
    };
    // All that goes is all there was, so what comes is that directory.
    inside.iter().zip(gone).all(same).then(|| (from, inside.len(), dir.id()))
}

/// What an op's path has beyond the top that it lies below.
fn rest<'a>(op: &'a Op, top: &SyncPath) -> &'a [u8] {
    &op.change.path.as_bytes()[top.as_bytes().len()..]
}

/// The ops below the path of an op.
fn below(ops: &[Op], at: usize) -> &[Op] {
    let top = &ops[at].change.path;
    let rest = &ops[at + 1..];
    &rest[..rest.partition_point(|op| op.change.path.starts_with(top))]
}

/// What became of ops that came over the wire.
pub(super) enum Unfolded {
    /// All of them, in path order, and the directories that move.
    Ops(Vec<Op>, Vec<Tree>),
    /// The record is not what they were made from. As many ops as they would be, that do nothing.
    Other(Vec<Op>),
}

/// How many ops folded ones stand for.
fn total_of(ops: &[Op]) -> Result<usize, WireError> {
    let folded = |op: &Op| match &op.how {
        How::Tree { count, .. } => *count as usize * 2 + 1,
        _ => 0,
    };
    let total = ops.len() + ops.iter().map(folded).sum::<usize>();
    if total > MAX_OPS {
        return Err(WireError::Order("more ops than a generation may have"));
    }
    Ok(total)
}

/// As many ops as these stand for, that do nothing; they ask when some of these do.
pub(super) fn nothing_of(ops: &[Op]) -> Result<Vec<Op>, WireError> {
    let Some(first) = ops.first() else { return Ok(Vec::new()) };
    let change = Change { path: first.change.path.clone(), old: None, new: None };
    let how = if ops.iter().any(|op| op.how.asks()) { How::Ask } else { How::Forget };
    let nothing = Op { change, how, meta: Meta::default() };
    Ok(vec![nothing; total_of(ops)?])
}

/// The ops that folded ones stand for.
pub(super) fn unfold(ops: Vec<Op>, held: &Snapshot) -> Result<Unfolded, WireError> {
    let total = total_of(&ops)?;
    if total == ops.len() {
        return Ok(Unfolded::Ops(ops, Vec::new()));
    }
    // What was skipped of an earlier generation may be less than was to be moved in this one.
    let is_held = |op: &Op| match &op.how {
        How::Tree { from, tree, .. } => held.dir(from).is_some_and(|dir| dir.id() == *tree),
        _ => true,
    };
    if !ops.iter().all(is_held) {
        return Ok(Unfolded::Other(nothing_of(&ops)?));
    }
    // Each entry moves once.
    if (total - ops.len()) as u64 / 2 > held.count() {
        return Err(WireError::Order("more moves than entries"));
    }
    let mut all = Vec::with_capacity(total);
    let mut tops = Vec::new();
    for op in ops {
        let (to, how) = (op.change.path.clone(), op.how.clone());
        all.push(op);
        let How::Tree { from, tree, count } = how else { continue };
        let Some(dir) = held.dir(&from).filter(|dir| dir.id() == tree) else {
            let change = Change { path: to, old: None, new: None };
            let nothing = Op { change, how: How::Ask, meta: Meta::default() };
            return Ok(Unfolded::Other(vec![nothing; total]));
        };
        if dir.count() != u64::from(count) {
            return Err(WireError::Order("a directory of another size"));
        }
        all.push(gone(from.clone(), Entry::Directory));
        members(dir, &to, &from, &mut all)?;
        tops.push((to, from, count));
    }
    all.sort_by(|a, b| a.change.path.cmp(&b.change.path));
    if all.windows(2).any(|pair| pair[0].change.path == pair[1].change.path) {
        return Err(WireError::Order("two ops of one path"));
    }
    let at = |path: &SyncPath| all.binary_search_by(|op| op.change.path.cmp(path)).ok();
    let trees = tops.iter().map(|(to, from, count)| {
        Some(Tree { to: at(to)? as u32, from: at(from)? as u32, count: *count, moved: false })
    });
    let trees = trees.collect::<Option<Vec<_>>>();
    Ok(Unfolded::Ops(all, trees.ok_or(WireError::Order("a directory without its op"))?))
}

fn gone(path: SyncPath, old: Entry) -> Op {
    let change = Change { path, old: Some(old), new: None };
    Op { change, how: How::None, meta: Meta::default() }
}

/// What a directory holds, as it comes and as it goes.
fn members(dir: &Dir, to: &SyncPath, from: &SyncPath, ops: &mut Vec<Op>) -> Result<(), WireError> {
    for (name, node) in dir.iter() {
        let long = |_| WireError::Order("a path too long");
        let (new, old) = (to.join(name).map_err(long)?, from.join(name).map_err(long)?);
        let (how, meta) = match node {
            Node::File { size: 1.., stamp, .. } => {
                let meta = Meta { mode: 0, mtime_ns: stamp.mtime_ns };
                (How::Copy { from: old.clone() }, meta)
            }
            _ => (How::None, Meta::default()),
        };
        let change = Change { path: new.clone(), old: None, new: Some(node.entry()) };
        ops.push(Op { change, how, meta });
        ops.push(gone(old.clone(), node.entry()));
        if let Node::Directory(inside) = node {
            members(inside, &new, &old, ops)?;
        }
    }
    Ok(())
}
