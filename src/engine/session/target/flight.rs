//! A generation on its way to a target: sent, asked for, acknowledged, and what was refused of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::receive::leave_out_stayers;
use e2ek_sidecar::tree::{Change, Entry, Problem, Reason, Snapshot, TreeId};
use e2ek_sidecar::wire::{How, Op, Skipped, WireError};

use super::super::{Amount, Applied, Closing, Effect, Local, Notice, Settings, is_race};
use super::Target;
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
    ops: Arc<[Op]>,
    /// What the hub will hold; the Commit carries its hash.
    reached: Snapshot,
    /// Part of a first sync of which more is to come.
    more: bool,
    /// `Need` is unanswered: neither data nor Commit was sent.
    pub(super) asking: bool,
    /// What came of `Need` so far; afterwards, sorted, all whose content was sent for it.
    needed: Vec<u32>,
    /// What came of `Applied` so far.
    part: (Vec<Skipped>, Vec<SyncPath>),
    seen: Instant,
    hashed: Instant,
    sent: Instant,
}

impl Target {
    /// Sends these ops, which lead to the source, as a generation.
    pub(super) fn send(
        &mut self,
        now: Instant,
        (ops, part): (Vec<Op>, Option<Snapshot>),
        local: &Local,
        generation: &mut u64,
        settings: &Settings,
        effects: &mut Vec<Effect>,
    ) {
        let (first, more) = (self.filling, part.is_some());
        // With nothing left out the ops lead to the source itself: no need to build it again.
        self.filling &= more;
        let reached = if let Some(part) = part {
            part
        } else if self.refused.is_empty() {
            local.tree.clone()
        } else {
            let changes: Vec<Change> = ops.iter().map(|op| op.change.clone()).collect();
            match self.sent.apply_changes(&changes) {
                Ok(reached) => reached,
                // What was refused before makes the rest not fit: compare afresh.
                Err(_) => return self.close(Closing::Desync, effects),
            }
        };
        if *generation <= self.last_used {
            *generation = self.last_used + 1;
        }
        self.last_used = *generation;
        let number = *generation;
        self.count_deletes(now, &ops, local);
        // What was refused before may be again: its wishes count when it is done.
        let fresh = ops.iter().map(|op| &op.change.path).filter(|p| !self.told.contains_key(*p));
        self.command.settle(now, number, fresh, settings);
        let count = ops.len();
        let ops: Arc<[Op]> = ops.into();
        let asking = ops.iter().any(|op| matches!(op.how, How::Ask | How::Copy { .. }));
        // Until it is applied the target has not all of this generation, whatever it had before.
        self.reached = self.reached.min(number.saturating_sub(1));
        let all = (more && !self.in_parts)
            .then(|| plan::amount(&local.tree).without(plan::amount(&self.sent)));
        self.in_parts |= more;
        self.begun = true;
        let (target, amount) = (self.id, amount(&ops));
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
            reached: reached.clone(),
            more,
            asking,
            needed: Vec::new(),
            part: Default::default(),
            seen: self.seen.take().unwrap_or(local.seen),
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
        effects: &mut Vec<Effect>,
    ) -> Result<(), Closing> {
        let asking = self.in_flight.back_mut().filter(|flight| flight.asking);
        let Some(flight) = asking else {
            return Err(Closing::Protocol(WireError::Order("need without a question")));
        };
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
        let mut indices = std::mem::take(&mut flight.needed);
        indices.extend(with_data(&flight.ops));
        indices.sort_unstable();
        indices.dedup();
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
        let bound = flight.ops.len();
        if flight.part.0.len() > bound || flight.part.1.len() > bound {
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
        let done = done(&self.acked, &flight.ops, &skipped);
        let before = std::mem::take(&mut self.acked);
        self.acked = if report.tree == flight.reached.id() {
            // As expected: one tree, shared with the source's, in place of another just like it.
            flight.reached.clone()
        } else {
            before.apply_changes(&done).unwrap_or(before)
        };
        self.ask &= self.filling;
        let retried = done.iter().map(|change| &change.path);
        let mut retried = retried.filter(|path| self.told.contains_key(*path)).peekable();
        if retried.peek().is_some() {
            self.command.settle(now, self.last_used, retried, settings);
        }
        let problems = self.learn(&flight.ops, &skipped, &done, now, effects);
        // Where the record lost a path, or left out what hangs on another: ask what is there.
        self.unsure = (self.acked.id() != report.tree).then_some(report.tree);
        self.astray |= done.len() != flight.ops.len();
        if self.in_flight.is_empty() {
            self.sent = self.acked.clone();
            self.astray = false;
            self.begun = flight.more;
        }
        effects.push(Effect::Say(Notice::Applied {
            target: self.id,
            report: Applied {
                generation: report.generation,
                more: flight.more,
                files: done.iter().filter(|change| is_file(change)).count() as u64,
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
        done: &[Change],
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
                None => self.refuse(path, op, Reason::Unstable, now),
                Some(reason) => {
                    self.refuse(path.clone(), op, reason.clone(), now);
                    count += 1;
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
            }
        }
        count
    }

    fn refuse(&mut self, path: SyncPath, op: &Op, reason: Reason, now: Instant) {
        self.refused.insert(path, (op.change.new.clone(), reason));
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

fn is_file(change: &Change) -> bool {
    let file =
        |entry: &Option<Entry>| matches!(entry, Some(Entry::File { .. } | Entry::Symlink { .. }));
    file(&change.new) || change.new.is_none() && file(&change.old)
}

fn amount(ops: &[Op]) -> Amount {
    let mut amount = Amount::default();
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
            let sent = matches!(op.how, How::Data) || needed.binary_search(index).is_ok();
            sent && !skipped.contains_key(index)
        })
        .map(|(_, op)| match op.change.new {
            Some(Entry::File { size, .. }) => size,
            _ => 0,
        })
        .sum()
}
