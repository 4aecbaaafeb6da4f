//! Large contents that go to a target ahead of the generations that put them in place.
//!
//! As long as one is not held there, its path is left out of generations, so that nothing waits behind
//! it; the target is not level with the source before it is in place. What a content is for may move
//! while it is on its way; one that nothing is for any more is ended. A file that changes meanwhile
//! gets what was begun first, then what became of it, as a patch of that: one that is appended to for
//! ever arrives version after version.

use std::collections::{BTreeMap, HashMap, HashSet};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Digest, Entry, Snapshot};
use e2ek_sidecar::wire::{AHEAD_BYTES, AHEAD_CONTENTS, How, NotHeld, Op};

use super::super::{Effect, Settings, TargetId};
use crate::engine::plan;

/// A content, by its digest and size.
type Content = (Digest, u64);

/// One that was begun.
struct Begun {
    op: Op,
    /// The hub has all of it.
    held: bool,
    /// The restart rules ask for something when it is there.
    awaited: bool,
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
    /// Large files that were left out of the last plan.
    left_out: usize,
    /// Held ones are being put in place, and more are to come: people are told of one sync.
    pub(super) in_parts: bool,
}

/// What of a plan waits for its content.
#[derive(Default)]
pub(super) struct Waiting {
    /// Large files of the plan whose content is on its way or still to be begun.
    pub(super) ops: Vec<Op>,
    /// Something was left out of the plan: it leads elsewhere than to the source.
    pub(super) less: bool,
}

impl Lane {
    /// The link is lost, and with it all that was held.
    pub(super) fn link_down(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    /// Whether the hub holds something that is to be put in place.
    pub(super) fn holds(&self) -> bool {
        self.begun.values().any(|begun| begun.held)
    }

    /// Whether something is on its way that a restart is to wait for.
    pub(super) fn is_awaited(&self) -> bool {
        self.begun.values().any(|begun| begun.awaited)
    }

    /// Large files that were left out of the last plan.
    pub(super) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether a content is sent ahead, wherever else it may be found.
    pub(super) fn sends(&self, content: &Content) -> bool {
        self.by_content.contains_key(content) || self.absent.contains(content)
    }

    /// The hub does not have the content of an op that it was asked for.
    pub(super) fn is_absent(&mut self, op: &Op) {
        self.absent.extend(content_of(op));
    }

    /// Takes large files out of a plan; with `put` those stay that are held, each content once.
    pub(super) fn leave_out(&mut self, ops: &mut Vec<Op>, from: u64, put: bool) -> Waiting {
        let mut waiting = Waiting::default();
        let mut given = HashSet::new();
        let mut wait = HashSet::new();
        for op in ops.iter_mut().filter(|op| op.how == How::Data) {
            let Some(content) = content_of(op).filter(|content| content.1 >= from) else {
                continue;
            };
            let number = self.by_content.get(&content).or_else(|| self.by_path(&op.change.path));
            let begun = number.copied().and_then(|number| self.begun.get_mut(&number));
            match begun {
                // An older version of it comes first.
                Some(begun) if content_of(&begun.op) != Some(content) => {
                    if put && begun.held {
                        waiting.ops.push(op.clone());
                        waiting.less = true;
                        op.change.new.clone_from(&begun.op.change.new);
                        op.how = How::Held;
                    } else {
                        wait.insert(op.change.path.clone());
                        waiting.ops.push(op.clone());
                    }
                }
                Some(begun) if put && begun.held && given.insert(content) => {
                    op.how = How::Held;
                }
                begun => {
                    // What it is for may have been renamed meanwhile.
                    if let Some(begun) = begun.filter(|_| !given.contains(&content)) {
                        begun.op.change.path = op.change.path.clone();
                    }
                    given.insert(content);
                    wait.insert(op.change.path.clone());
                    waiting.ops.push(op.clone());
                }
            }
        }
        if !wait.is_empty() {
            plan::leave_out(ops, |op| &op.change, |change| wait.contains(&change.path));
            waiting.less = true;
        }
        if !put {
            self.left_out = waiting.ops.len();
        }
        waiting
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

    /// What was begun for a path.
    fn by_path(&self, path: &SyncPath) -> Option<&u64> {
        let mut begun = self.begun.iter();
        begun.find(|(_, begun)| begun.op.change.path == *path).map(|(number, _)| number)
    }

    /// Begins as many as may be on their way at a time.
    pub(super) fn begin(
        &mut self,
        id: TargetId,
        waiting: &[Op],
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        for op in waiting {
            let begun = |c: &Content| {
                self.by_content.contains_key(c) || self.by_path(&op.change.path).is_some()
            };
            let Some(content) = content_of(op).filter(|content| !begun(content)) else { continue };
            let bytes = self.by_content.keys().fold(content.1, |sum, c| sum.saturating_add(c.1));
            let count = self.begun.len();
            if count >= AHEAD_CONTENTS || count > 0 && bytes > AHEAD_BYTES {
                return;
            }
            self.last += 1;
            let awaited = !(settings.rules)(&op.change.path).is_empty();
            self.begun.insert(self.last, Begun { op: op.clone(), held: false, awaited });
            self.by_content.insert(content, self.last);
            let whole = self.whole.contains(&content);
            effects.push(Effect::Ahead { target: id, number: self.last, op: op.clone(), whole });
        }
    }

    /// The hub holds one.
    pub(super) fn held(&mut self, number: u64) {
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

    /// What is held was given to the ops that put it in place.
    pub(super) fn given<'a>(&mut self, ops: impl Iterator<Item = &'a Op>) {
        for op in ops.filter(|op| op.how == How::Held) {
            let Some(content) = content_of(op) else { continue };
            self.absent.remove(&content);
            self.whole.remove(&content);
            if let Some(number) = self.by_content.get(&content).copied() {
                self.forget(number);
            }
        }
    }

    fn forget(&mut self, number: u64) -> Option<Op> {
        let op = self.begun.remove(&number)?.op;
        self.by_content.retain(|_, of| *of != number);
        Some(op)
    }
}

fn content_of(op: &Op) -> Option<Content> {
    match op.change.new {
        Some(Entry::File { digest, size, .. }) => Some((digest, size)),
        _ => None,
    }
}
