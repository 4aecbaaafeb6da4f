//! Large contents that go to a target ahead of the generations that put them in place; so do those that
//! the hub copies from what it has.
//!
//! As long as one is not held there, its path is left out of generations, so that nothing waits behind
//! it; the target is not level with the source before it is in place. What a content is for may move
//! while it is on its way; one that nothing is for any more is ended. A file that changes meanwhile
//! gets what was begun first, then what became of it, as a patch of that: one that is appended to for
//! ever arrives version after version.
//!
//! Many may wait. As long as they are all that a target lacks, what was planned is remembered: a
//! content that is there costs no other plan.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Instant;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Digest, Entry, Snapshot, TreeId};
use e2ek_sidecar::wire::{AHEAD_BYTES, AHEAD_CONTENTS, How, NotHeld, Op};

use super::super::{Amount, Effect, Settings, TargetId};
use crate::engine::plan;

/// A content, by its digest and size.
type Content = (Digest, u64);

/// Begun at a time: the hub keeps more, for what was given to ops that it skipped is with it until it is
/// told otherwise.
pub(in crate::engine::session) const MOST_BEGUN: usize = AHEAD_CONTENTS / 2;
/// Their sizes together, in bytes, if they are more than one.
const MOST_BEGUN_BYTES: u64 = AHEAD_BYTES / 2;

/// One that was begun.
struct Begun {
    op: Op,
    /// The hub has all of it.
    held: bool,
    /// The restart rules ask for something when it is there.
    awaited: bool,
    /// When the first change that led to it was seen.
    seen: Instant,
}

/// What goes ahead to one target, on one link.
#[derive(Default)]
pub(super) struct Lane {
    /// The last number used; goes on over all links.
    last: u64,
    begun: BTreeMap<u64, Begun>,
    by_content: HashMap<Content, u64>,
    /// Contents whose patch did not fit what lies at the target: sent whole from now on.
    whole: HashSet<Content>,
    /// Contents that the hub was asked for and does not have.
    absent: HashSet<Content>,
    /// What the last plan left out, begun or not.
    left_out: BTreeMap<SyncPath, Op>,
    /// All of it together.
    amount: Amount,
    /// What was sent and what the source was when the last plan had nothing but that.
    only: Option<(TreeId, TreeId)>,
    /// Held ones are being put in place, and more are to come: people are told of one sync.
    pub(super) in_parts: bool,
}

impl Lane {
    /// The link is lost, and with it all that was held.
    pub(super) fn link_down(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    /// Whether nothing goes ahead, and the last plan left nothing out.
    pub(super) fn is_idle(&self) -> bool {
        self.is_empty() && self.absent.is_empty() && self.left_out.is_empty()
    }

    /// Whether anything among these would go ahead.
    pub(super) fn would_take(ops: &[Op], from: u64) -> bool {
        !large(ops, from).is_empty()
    }

    /// Whether nothing was begun.
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// Whether the hub holds something that is to be put in place.
    pub(super) fn holds(&self) -> bool {
        self.begun.values().any(|begun| begun.held)
    }

    /// Whether something is on its way that a restart is to wait for.
    pub(super) fn is_awaited(&self) -> bool {
        self.begun.values().any(|begun| begun.awaited)
    }

    /// How many large files the last plan left out, as far as they are not in place yet.
    pub(super) fn left_out(&self) -> usize {
        self.left_out.len()
    }

    /// All of them together.
    pub(super) fn amount(&self) -> Amount {
        self.amount
    }

    /// Whether a content is sent ahead, wherever else it may be found.
    pub(super) fn sends(&self, content: &Content) -> bool {
        self.by_content.contains_key(content) || self.absent.contains(content)
    }

    /// The hub does not have the content of an op that it was asked for.
    pub(super) fn is_absent(&mut self, op: &Op) {
        self.absent.extend(content_of(op));
    }

    /// Whether the last plan still stands: between these two, large files are all that is left.
    pub(super) fn is_only(&self, sent: &Snapshot, local: &Snapshot) -> bool {
        !self.left_out.is_empty() && self.only == Some((sent.id(), local.id()))
    }

    /// The last plan had nothing else.
    pub(super) fn set_only(&mut self, sent: &Snapshot, local: &Snapshot) {
        self.only = Some((sent.id(), local.id()));
    }

    /// Takes large files out of a plan. Returns whether there were any.
    pub(super) fn leave_out(&mut self, ops: &mut Vec<Op>, from: u64) -> bool {
        self.only = None;
        self.left_out.clear();
        self.amount = Amount::default();
        let mut met = HashSet::new();
        for index in large(ops, from) {
            let op = &ops[index];
            let Some(content) = content_of(op) else { continue };
            // What it is for may have been renamed meanwhile.
            let number = self.by_content.get(&content).filter(|_| met.insert(content));
            if let Some(begun) = number.and_then(|number| self.begun.get_mut(number)) {
                begun.op.change.path.clone_from(&op.change.path);
            }
            self.amount = self.amount.and(Amount { files: 1, bytes: content.1 });
            self.left_out.insert(op.change.path.clone(), op.clone());
        }
        if self.left_out.is_empty() {
            return false;
        }
        plan::leave_out(ops, |op| &op.change, |change| self.left_out.contains_key(&change.path));
        true
    }

    /// Takes those out of a plan that are not held; the others are put in place. Returns whether
    /// anything was.
    pub(super) fn put(&self, ops: &mut Vec<Op>, from: u64) -> bool {
        let held = self.held();
        let mut wait = HashSet::new();
        let mut older = false;
        for index in large(ops, from) {
            let op = &mut ops[index];
            let Some(begun) = held.get(&op.change.path) else {
                wait.insert(op.change.path.clone());
                continue;
            };
            older |= op.change.new != begun.change.new;
            op.change.new.clone_from(&begun.change.new);
            op.how = How::Held;
        }
        plan::leave_out(ops, |op| &op.change, |change| wait.contains(&change.path));
        older || !wait.is_empty()
    }

    /// The ops that put in place what is held, made from the last plan where it still stands; `None`
    /// where another is needed: a directory makes room.
    pub(super) fn put_only(&self) -> Option<Vec<Op>> {
        let ops = self.held().into_iter().filter_map(|(path, held)| {
            let op = self.left_out.get(path)?;
            let change =
                e2ek_sidecar::tree::Change { new: held.change.new.clone(), ..op.change.clone() };
            Some(Op { change, how: How::Held, meta: op.meta })
        });
        let ops: Vec<Op> = ops.collect();
        let plain = |op: &Op| op.change.old != Some(Entry::Directory);
        ops.iter().all(plain).then_some(ops)
    }

    /// What is held, by the path that it is for.
    fn held(&self) -> BTreeMap<&SyncPath, &Op> {
        let held = self.begun.values().filter(|begun| begun.held);
        held.map(|begun| (&begun.op.change.path, &begun.op)).collect()
    }

    /// Ends what nothing is for any more.
    pub(super) fn end_stale(
        &mut self,
        id: TargetId,
        (local, sent): (&Snapshot, &Snapshot),
        from: u64,
        effects: &mut Vec<Effect>,
    ) {
        let stale = |op: &Op| {
            let content = |tree: &Snapshot| match tree.entry(&op.change.path) {
                Some(Entry::File { digest, size, .. }) => Some((digest, size)),
                _ => None,
            };
            let (now, there) = (content(local), content(sent));
            now.is_none_or(|now| now.1 < from) || there == now || there == content_of(op)
        };
        let over: Vec<u64> = (self.begun.iter())
            .filter(|(_, begun)| stale(&begun.op))
            .map(|(number, _)| *number)
            .collect();
        for number in over {
            self.forget(number);
            effects.push(Effect::EndAhead(id, number));
        }
    }

    /// Begins as many as may be on their way at a time, before what else is planned goes out: what it
    /// removes may be what a content is made from.
    pub(super) fn begin(
        &mut self,
        id: TargetId,
        (base, seen): (&Snapshot, Instant),
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        let mut bytes = self.by_content.keys().fold(0, |sum: u64, c| sum.saturating_add(c.1));
        let paths: HashSet<SyncPath> =
            self.begun.values().map(|begun| begun.op.change.path.clone()).collect();
        for (path, op) in &self.left_out {
            let count = self.begun.len();
            if count >= MOST_BEGUN {
                return;
            }
            let Some(content) = content_of(op) else { continue };
            if self.by_content.contains_key(&content) || paths.contains(path) {
                continue;
            }
            bytes = bytes.saturating_add(content.1);
            if count > 0 && bytes > MOST_BEGUN_BYTES {
                return;
            }
            self.last += 1;
            let awaited = !(settings.rules)(path).is_empty();
            self.begun.insert(self.last, Begun { op: op.clone(), held: false, awaited, seen });
            self.by_content.insert(content, self.last);
            let whole = self.whole.contains(&content);
            let (number, op, base) = (self.last, op.clone(), base.clone());
            effects.push(Effect::Ahead { target: id, number, op, base, whole });
        }
    }

    /// The hub holds one.
    pub(super) fn is_held(&mut self, number: u64) {
        // One that was ended meanwhile is none of ours any more.
        if let Some(begun) = self.begun.get_mut(&number) {
            begun.held = true;
        }
    }

    /// The hub does not hold one. Returns what it was for, and whether that is to be tried again at
    /// once, as a whole.
    pub(super) fn not_held(&mut self, number: u64, why: &NotHeld) -> Option<(Op, bool)> {
        let op = self.forget(number)?;
        let base = *why == NotHeld::Base;
        // A whole has no base: who says so nevertheless is not asked again at once.
        let again = base && content_of(&op).is_some_and(|content| self.whole.insert(content));
        Some((op, again))
    }

    /// What is held was given to the ops that put it in place: their indices and its numbers. With
    /// when the first change that led to any of it was seen.
    pub(super) fn given(&mut self, ops: &[Op]) -> (BTreeMap<u32, u64>, Option<Instant>) {
        let mut first: Option<Instant> = None;
        let mut given = BTreeMap::new();
        for (index, op) in (0u32..).zip(ops).filter(|(_, op)| op.how == How::Held) {
            let Some(content) = content_of(op) else { continue };
            self.absent.remove(&content);
            self.whole.remove(&content);
            if let Some(number) = self.by_content.get(&content).copied() {
                let seen = self.begun.get(&number).map(|begun| begun.seen);
                first = first.into_iter().chain(seen).min();
                given.insert(index, number);
                self.forget(number);
            }
            match self.left_out.get_mut(&op.change.path) {
                // An older version: the newer one follows.
                Some(left) if left.change.new != op.change.new => {
                    left.change.old.clone_from(&op.change.new);
                }
                Some(left) => {
                    let bytes = content_of(left).map_or(0, |content| content.1);
                    self.amount = self.amount.without(Amount { files: 1, bytes });
                    self.left_out.remove(&op.change.path);
                }
                None => {}
            }
        }
        (given, first)
    }

    fn forget(&mut self, number: u64) -> Option<Op> {
        let op = self.begun.remove(&number)?.op;
        self.by_content.retain(|_, of| *of != number);
        Some(op)
    }
}

/// The ops whose content goes ahead of its generation. A copy is made by the hub, and takes as long as a
/// large content does; one of what the same plan removes or replaces is a move, which takes nothing.
fn large(ops: &[Op], from: u64) -> Vec<usize> {
    let is_large = |op: &Op| content_of(op).is_some_and(|content| content.1 >= from);
    let is_copy = |op: &Op| matches!(op.how, How::Copy { .. });
    let mut going = HashSet::new();
    if ops.iter().any(|op| is_copy(op) && is_large(op)) {
        let goes = |op: &&Op| {
            matches!(op.change.old, Some(Entry::File { digest, .. })
                if content_of(op).is_none_or(|content| content.0 != digest))
        };
        going.extend(ops.iter().filter(goes).map(|op| &op.change.path));
    }
    let ahead = |op: &Op| match &op.how {
        How::Data => is_large(op),
        How::Copy { from } => is_large(op) && !going.contains(from),
        _ => false,
    };
    (0..ops.len()).filter(|&index| ahead(&ops[index])).collect()
}

fn content_of(op: &Op) -> Option<Content> {
    match op.change.new {
        Some(Entry::File { digest, size, .. }) => Some((digest, size)),
        _ => None,
    }
}
