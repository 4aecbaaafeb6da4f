//! A generation on its way to a target: sent, asked for, acknowledged, and what was refused of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::receive::{expand, leave_out_stayers};
use e2ek_sidecar::tree::{
    Change, Dir, Edit, Entry, Node, Problem, Reason, Snapshot, Stamp, TreeId,
};
use e2ek_sidecar::wire::{How, Op, Skipped, ToHub, WireError};

use super::super::{Amount, Applied, Closing, Effect, Local, Notice, Settings, is_race};
use super::Target;
use super::plans::Planned;
use crate::engine::plan;

/// What the hub says of a generation.
pub(in crate::engine::session) struct Report {
    pub(in crate::engine::session) generation: u64,
    pub(in crate::engine::session) tree: TreeId,
    pub(in crate::engine::session) skipped: Vec<Skipped>,
    pub(in crate::engine::session) overwritten: Vec<SyncPath>,
    pub(in crate::engine::session) micros: u64,
}

/// A generation that was sent and is not acknowledged.
pub(super) struct InFlight {
    generation: u64,
    /// As planned; where an index has to be understood, all that they stand for.
    ops: Arc<[Op]>,
    /// What they lead on from.
    base: Snapshot,
    /// What the hub will hold; the Commit carries its hash.
    reached: Snapshot,
    /// Part of a sync in several generations of which more is to come.
    more: bool,
    /// `Need` is unanswered: neither data nor Commit was sent.
    pub(super) asking: bool,
    /// What came of `Need` so far; afterwards, sorted, all whose content was sent for it.
    needed: Vec<u32>,
    /// Ops whose content goes ahead of a later generation instead.
    withdrawn: BTreeSet<u32>,
    /// What was held for ops, by their indices.
    given: BTreeMap<u32, u64>,
    /// What came of `Applied` so far.
    part: (Vec<Skipped>, Vec<SyncPath>),
    seen: Instant,
    hashed: Instant,
    sent: Instant,
}

impl InFlight {
    /// Puts an op for each entry in the place of those for directories that move: an index counts
    /// them all.
    fn expand(&mut self) {
        if let Some(ops) = expand(&self.base, &self.ops) {
            self.ops = ops.into();
        }
    }
}

impl Target {
    /// Sends what was planned as a generation.
    pub(super) fn send(
        &mut self,
        now: Instant,
        planned: Planned,
        local: &Local,
        generation: &mut u64,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        let Planned { ops, part, less, put, .. } = planned;
        // With nothing left out the ops lead to the source itself: no need to build it again.
        let reached = match &part {
            Some(part) if !less => part.clone(),
            None if !less && self.refused.is_empty() => local.tree.clone(),
            _ => {
                match self.sent.apply(&edits(&self.sent, &ops)) {
                    Ok(reached) => reached,
                    // What was refused before makes the rest not fit: compare afresh.
                    Err(_) => return self.close(Closing::Desync, effects),
                }
            }
        };
        // Counted before some of it is given.
        let large = self.lane.amount();
        let (given, seen) = self.lane.given(&ops);
        let seen = seen.or_else(|| self.seen.take()).unwrap_or(local.seen);
        // People are told of one sync: of a first one, and of large files that came together.
        let waits = self.lane.left_out() > 0;
        let in_parts = self.filling || put && (self.lane.in_parts || waits);
        let more = part.is_some() || in_parts && waits;
        let begins = more && !(self.in_parts || self.lane.in_parts);
        let all = begins.then(|| match self.filling {
            true => plan::amount(&local.tree).without(plan::amount(&self.sent)),
            false => large,
        });
        self.in_parts |= more && self.filling;
        self.lane.in_parts = if put { more && !self.filling } else { self.lane.in_parts };
        self.filling &= more;
        if *generation <= self.last_used {
            *generation = self.last_used + 1;
        }
        self.last_used = *generation;
        let number = *generation;
        self.count_deletes(now, &ops, local);
        // What was refused before may be again: its wishes count when it is done.
        let fresh = ops.iter().map(|op| &op.change.path).filter(|p| !self.told.contains_key(*p));
        self.command.settle(now, number, fresh, settings);
        for (to, from, dir) in moves(&self.sent, &ops) {
            let mut inside = Vec::new();
            [to, from].iter().for_each(|at| paths_below(at, dir, &mut inside));
            self.command.settle(now, number, inside.iter(), settings);
        }
        let count = ops.len();
        let asking = ops.iter().any(|op| op.how.asks());
        // Until it is applied the target has not all of this generation, whatever it had before.
        self.reached = self.reached.min(number.saturating_sub(1));
        self.begun = true;
        let (target, amount, first) = (self.id, amount(&self.sent, &ops), in_parts);
        effects.push(Effect::Say(Notice::Begin { target, generation: number, amount, first, all }));
        let base = self.sent.clone();
        effects.push(Effect::SendOps { target, generation: number, base, ops: ops.clone() });
        if !asking {
            effects.push(Effect::SendData {
                target: self.id,
                generation: number,
                ops: ops.clone(),
                indices: with_data(&ops).collect(),
                commit: reached.id(),
            });
        }
        self.in_flight.push_back(InFlight {
            generation: number,
            ops,
            base: self.sent.clone(),
            reached: reached.clone(),
            more,
            asking,
            needed: Vec::new(),
            withdrawn: BTreeSet::new(),
            given,
            part: Default::default(),
            seen,
            hashed: local.hashed,
            sent: now,
        });
        self.sent = reached;
        if !first {
            self.pace.sent(now, count);
        }
    }

    pub(in crate::engine::session) fn needs(
        &mut self,
        indices: Vec<u32>,
        last: bool,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Closing> {
        let asking = self.in_flight.back_mut().filter(|flight| flight.asking);
        let Some(flight) = asking else {
            return Err(Closing::Protocol(WireError::Order("need without a question")));
        };
        if !indices.is_empty() {
            flight.expand();
        }
        let asked = |&index: &u32| {
            let how = flight.ops.get(index as usize).map(|op| &op.how);
            matches!(how, Some(How::Ask | How::Copy { .. }))
        };
        if !indices.iter().all(asked) {
            return Err(Closing::Protocol(WireError::Order("need of what has no content")));
        }
        flight.needed.extend(indices);
        if flight.needed.len() > flight.ops.len() {
            return Err(Closing::Protocol(WireError::Order("more needs than ops")));
        }
        if !last {
            return Ok(());
        }
        if flight.ops.iter().any(|op| op.how == How::Data) {
            flight.expand();
        }
        let mut indices = std::mem::take(&mut flight.needed);
        indices.extend(with_data(&flight.ops));
        indices.sort_unstable();
        indices.dedup();
        // What is large goes ahead of the next generation: this one is over soon.
        for index in indices.extract_if(.., |index| is_large(&flight.ops, *index, settings)) {
            self.lane.is_absent(&flight.ops[index as usize]);
            flight.withdrawn.insert(index);
            effects.push(Effect::Send(self.id, ToHub::Withdraw { index }));
        }
        flight.asking = false;
        flight.needed.clone_from(&indices);
        effects.push(Effect::SendData {
            target: self.id,
            generation: flight.generation,
            ops: flight.ops.clone(),
            indices,
            commit: flight.reached.id(),
        });
        Ok(())
    }

    pub(in crate::engine::session) fn applied_part(
        &mut self,
        skipped: Vec<Skipped>,
        overwritten: Vec<SyncPath>,
    ) -> Result<(), Closing> {
        let flight = self.in_flight.front_mut().filter(|flight| !flight.asking);
        let flight = flight.ok_or(Closing::Protocol(WireError::Order("applied without ops")))?;
        flight.part.0.extend(skipped);
        flight.part.1.extend(overwritten);
        let most = flight.part.0.len().max(flight.part.1.len());
        if most > flight.ops.len() {
            // Told of what lies in a directory that moves.
            flight.expand();
        }
        if most > flight.ops.len() {
            return Err(Closing::Protocol(WireError::Order("more applied than ops")));
        }
        Ok(())
    }

    pub(in crate::engine::session) fn applied(
        &mut self,
        now: Instant,
        mut report: Report,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Closing> {
        let flight = self.in_flight.pop_front();
        let mut flight = flight
            .filter(|flight| flight.generation == report.generation && !flight.asking)
            .ok_or(Closing::Protocol(WireError::Order("applied of another generation")))?;
        report.skipped.append(&mut flight.part.0);
        report.overwritten.append(&mut flight.part.1);
        let skipped: BTreeMap<u32, Option<Reason>> =
            report.skipped.into_iter().map(|skip| (skip.index, skip.reason)).collect();
        let as_planned = skipped.is_empty() && report.tree == flight.reached.id();
        if !as_planned {
            flight.expand();
        }
        let partly = (!as_planned).then(|| done(&self.acked, &flight.ops, &skipped));
        let done: Vec<&Change> = match &partly {
            None => flight.ops.iter().map(|op| &op.change).collect(),
            Some(done) => done.iter().collect(),
        };
        let before = std::mem::take(&mut self.acked);
        self.acked = if report.tree == flight.reached.id() {
            // As expected: one tree, shared with the source's, in place of another just like it.
            flight.reached.clone()
        } else {
            let done = partly.as_deref().unwrap_or_default();
            before.apply_changes(done).unwrap_or(before)
        };
        self.ask &= self.filling;
        self.fruitless = 0;
        let retried = done.iter().map(|change| &change.path);
        let mut retried = retried.filter(|path| self.told.contains_key(*path)).peekable();
        if retried.peek().is_some() {
            self.command.settle(now, self.last_used, retried, settings);
        }
        for number in skipped.keys().filter_map(|index| flight.given.get(index)) {
            effects.push(Effect::EndAhead(self.id, *number));
        }
        let mut told = skipped.clone();
        told.retain(|index, reason| reason.is_some() || !flight.withdrawn.contains(index));
        let problems = self.learn(&flight.ops, &told, &done, now, effects);
        // Where the record lost a path, or left out what hangs on another: ask what is there.
        self.unsure = (self.acked.id() != report.tree).then_some(report.tree);
        self.astray |= done.len() != flight.ops.len();
        if self.in_flight.is_empty() {
            self.sent = self.acked.clone();
            self.astray = false;
            self.begun = flight.more || self.lane.in_parts;
        }
        effects.push(Effect::Say(Notice::Applied {
            target: self.id,
            report: Applied {
                generation: report.generation,
                more: flight.more,
                files: done.iter().filter(|change| is_file(change)).count() as u64
                    + 2 * files_of_moves(&flight.base, &flight.ops).files,
                bytes: new_bytes(&flight.ops, &flight.needed, &skipped),
                skipped: problems,
                overwritten: report.overwritten,
                seen: flight.seen,
                hashed: flight.hashed,
                sent: flight.sent,
                written: Duration::from_micros(report.micros),
                acked: now,
            },
        }));
        Ok(())
    }

    /// Remembers what was refused, tells what is new of it and what is over. Returns how many.
    fn learn(
        &mut self,
        ops: &[Op],
        skipped: &BTreeMap<u32, Option<Reason>>,
        done: &[&Change],
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> u64 {
        for change in done {
            self.refused.remove(&change.path);
            self.raced.remove(&change.path);
            if self.told.remove(&change.path).is_some() {
                let path = change.path.clone();
                effects.push(Effect::Say(Notice::ProblemGone { target: self.id, path }));
            }
        }
        let mut count = 0;
        for (&index, reason) in skipped {
            let Some(op) = ops.get(index as usize) else { continue };
            let path = op.change.path.clone();
            match reason {
                // Sent before it was known that an earlier generation left the path as it was.
                Some(reason) if is_race(reason) && self.acked.entry(&path) != op.change.old => {}
                // A lost race is run again at once, but told when it is lost again.
                Some(reason) if is_race(reason) && self.raced.insert(path.clone()) => {}
                // The next look brings another content.
                None => self.refuse(op, Reason::Unstable, now),
                Some(reason) => {
                    self.tell(op, reason, now, effects);
                    count += 1;
                }
            }
        }
        count
    }

    /// Remembers that an op was refused, and tells it if that is new.
    pub(super) fn tell(
        &mut self,
        op: &Op,
        reason: &Reason,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        self.refuse(op, reason.clone(), now);
        let path = op.change.path.clone();
        let known = self.told.get(&path);
        if known.is_none_or(|(known, _)| known != reason) {
            let before = match known {
                Some((_, before)) => before.clone(),
                None => self.acked.entry(&path),
            };
            self.told.insert(path.clone(), (reason.clone(), before));
            let problem = Problem { path, reason: reason.clone() };
            effects.push(Effect::Say(Notice::Problem { target: self.id, problem }));
        }
    }

    pub(super) fn refuse(&mut self, op: &Op, reason: Reason, now: Instant) {
        self.refused.insert(op.change.path.clone(), (op.change.new.clone(), reason));
        self.retry_later(now);
    }
}

/// What was done of a generation, as the hub enters it into its record: a directory stays there as
/// long as something in it stays.
fn done(held: &Snapshot, ops: &[Op], skipped: &BTreeMap<u32, Option<Reason>>) -> Vec<Change> {
    let mut done: Vec<Change> = (0u32..)
        .zip(ops)
        .filter(|(index, _)| !skipped.contains_key(index))
        .map(|(_, op)| op.change.clone())
        .collect();
    leave_out_stayers(held, &mut done, |change| (&change.path, change.new.is_none()));
    done
}

fn with_data(ops: &[Op]) -> impl Iterator<Item = u32> {
    (0u32..).zip(ops).filter(|(_, op)| op.how == How::Data).map(|(index, _)| index)
}

/// Whether an op's content goes ahead of its generation.
fn is_large(ops: &[Op], index: u32, settings: &Settings) -> bool {
    let new = ops.get(index as usize).map(|op| &op.change.new);
    matches!(new, Some(Some(Entry::File { size, .. })) if *size >= settings.ahead_from)
}

fn is_file(change: &Change) -> bool {
    let file =
        |entry: &Option<Entry>| matches!(entry, Some(Entry::File { .. } | Entry::Symlink { .. }));
    file(&change.new) || change.new.is_none() && file(&change.old)
}

/// The directories that move as a whole: where to, where from, and what they hold.
fn moves<'a>(
    base: &'a Snapshot,
    ops: &'a [Op],
) -> impl Iterator<Item = (&'a SyncPath, &'a SyncPath, &'a Arc<Dir>)> {
    ops.iter().filter_map(|op| match &op.how {
        How::Tree { from, .. } => Some((&op.change.path, from, base.dir(from)?)),
        _ => None,
    })
}

/// What ops make of a tree.
fn edits(base: &Snapshot, ops: &[Op]) -> Vec<Edit> {
    let node = |op: &Op| match &op.how {
        How::Tree { from, .. } => base.dir(from).map(|dir| Node::Directory(Arc::clone(dir))),
        _ => {
            let new = op.change.new.as_ref();
            new.map(|entry| Node::from_entry(entry, Stamp::default()))
        }
    };
    ops.iter().map(|op| (op.change.path.clone(), node(op))).collect()
}

/// Everything in a directory that lies at `at`.
fn paths_below(at: &SyncPath, dir: &Dir, paths: &mut Vec<SyncPath>) {
    for (name, node) in dir.iter() {
        let path = at.join(name).expect("planned from trees that hold it");
        if let Node::Directory(inside) = node {
            paths_below(&path, inside, paths);
        }
        paths.push(path);
    }
}

/// Files and links in directories that move as a whole.
fn files_of_moves(base: &Snapshot, ops: &[Op]) -> Amount {
    let inside = moves(base, ops).map(|(.., dir)| plan::amount(&Snapshot::from_root(dir.clone())));
    inside.fold(Amount::default(), Amount::and)
}

/// Each file that moves is made and removed.
fn amount(base: &Snapshot, ops: &[Op]) -> Amount {
    let moved = files_of_moves(base, ops);
    let mut amount = Amount { files: 2 * moved.files, ..moved };
    for op in ops.iter().filter(|op| is_file(&op.change)) {
        let bytes = match op.change.new {
            Some(Entry::File { size, .. }) => size,
            _ => 0,
        };
        amount = amount.and(Amount { files: 1, bytes });
    }
    amount
}

fn new_bytes(ops: &[Op], needed: &[u32], skipped: &BTreeMap<u32, Option<Reason>>) -> u64 {
    (0u32..)
        .zip(ops)
        .filter(|(index, op)| {
            let sent =
                matches!(op.how, How::Data | How::Held) || needed.binary_search(index).is_ok();
            sent && !skipped.contains_key(index)
        })
        .map(|(_, op)| match op.change.new {
            Some(Entry::File { size, .. }) => size,
            _ => 0,
        })
        .sum()
}
