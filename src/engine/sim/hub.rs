//! A model of a hub: the real [`Receiver`] and the real [`Leases`] over a disk that is a map, with a
//! record that outlives it. Opens as `server::opening` and `server::entry` do.

pub(super) mod record;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Instant;

use e2ek_sidecar::lease::Leases;
use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::receive::{Ahead, Receiver};
use e2ek_sidecar::restart::ActionSet;
use e2ek_sidecar::tree::{Edit, Entry, Node, Reason, Snapshot, Stamp, TreeId};
use e2ek_sidecar::wire::{Blob, ChildEvent, FromHub, How, Listed, NotHeld, Op, WireError};

use self::record::Record;
use self::steps::Applying;
use super::disk::{self, Disk, stamp_of, upwards};
use super::seed::Rng;

pub(super) struct Hub {
    pub(super) disk: Disk,
    pub(super) receiver: Receiver,
    pub(super) record: Record,
    applying: Applying,
    /// Contents that come ahead of their generation.
    pub(super) ahead: Ahead,
    /// What those that are coming are for, and how much of each is there.
    coming: BTreeMap<u64, (Op, u64)>,
    /// Paths at which every write fails.
    pub(super) broken: BTreeMap<SyncPath, Reason>,
    /// Put there by us and not taken away since, by somebody who remembers it.
    pub(super) ours: BTreeSet<SyncPath>,
    /// Changed by others since the record was made true.
    pub(super) drift: BTreeSet<SyncPath>,
    pub(super) ever_drifted: bool,
    leases: Leases,
    /// The link that it listens to.
    pub(super) peer: Option<u64>,
    /// It outlives its clients (`serve`), and goes on as it is as long as its command runs.
    pub(super) served: bool,
    /// It looks at everything at the next open, whatever goes on.
    pub(super) check: bool,
    /// It is killed after so many steps.
    pub(super) fuse: Option<u64>,
    pub(super) dead: bool,
    pub(super) pid: Option<i32>,
    pub(super) pids: i32,
    /// The tree that the command has loaded.
    pub(super) loaded: Option<Snapshot>,
    pub(super) starting: bool,
    /// The tree that the session has asked for all it wants of.
    settled: Option<TreeId>,
    /// A session was lost before it asked for what its last files need.
    owed: bool,
}

impl Hub {
    pub(super) fn new(disk: Disk, served: bool) -> Self {
        Self {
            disk,
            receiver: Receiver::new(Snapshot::empty(), 0, 1),
            record: Record::default(),
            applying: Applying::default(),
            ahead: Ahead::default(),
            coming: BTreeMap::new(),
            broken: BTreeMap::new(),
            ours: BTreeSet::new(),
            drift: BTreeSet::new(),
            ever_drifted: false,
            leases: Leases::new(0),
            peer: None,
            served,
            check: false,
            fuse: None,
            dead: false,
            pid: None,
            pids: 0,
            loaded: None,
            starting: false,
            settled: None,
            owed: false,
        }
    }

    /// kill -9: what was done of an open generation stays on the disk, not in the record. The next
    /// one starts with what the record says.
    pub(super) fn crash(&mut self) {
        let Record { held, generation, epoch, .. } = self.record.clone();
        self.receiver = Receiver::new(held, generation, 1);
        self.leases = Leases::new(epoch);
        self.applying = Applying::default();
        (self.ahead, self.coming) = Default::default();
        self.peer = None;
        (self.fuse, self.dead) = (None, false);
        self.end_command();
    }

    /// The disk is another one, as it was at first; what the record says is written again, as one
    /// generation that nobody sent, but for contents that are not kept (`server::replay`).
    pub(super) fn replay(&mut self, rng: &mut Rng) {
        self.disk = disk::empty();
        self.ours.clear();
        // What the replay before left out is still not there, and nobody was told.
        let held = &self.record.held;
        self.drift.retain(|path| held.get(path).is_none());
        let mut edits: Vec<Edit> = Vec::new();
        self.record.held.walk(&mut |path, node| {
            let entry = node.entry();
            if matches!(node, Node::File { size: 1.., .. }) && rng.one_in(8) {
                // Nobody knows before the next open.
                self.drift.insert(path.clone());
                self.ever_drifted = true;
                return;
            }
            edits.push((path.clone(), Some(Node::from_entry(&entry, stamp_of(&entry)))));
            self.disk.insert(path.clone(), entry);
            self.ours.insert(path.clone());
        });
        self.record.held = Snapshot::empty().apply(&edits).expect("parts of a tree are one");
        self.record.generation += 1;
        self.record.unfinished.clear();
        self.crash();
    }

    fn end_command(&mut self) {
        (self.pid, self.loaded, self.starting) = (None, None, false);
    }

    /// Whether it is killed now.
    fn blows(&mut self) -> bool {
        match &mut self.fuse {
            Some(0) => self.dead = true,
            Some(left) => *left -= 1,
            None => {}
        }
        self.dead
    }

    /// The record was lost or is another: what it does not name is nobody's.
    pub(super) fn disown(&mut self) {
        let (held, disk) = (&self.record.held, &self.disk);
        self.ours.retain(|path| held.entry(path).as_ref() == disk.get(path));
    }

    pub(super) fn unlink(&mut self) {
        self.peer = None;
        self.abandon();
        if !self.served {
            self.end_command();
        }
    }

    fn abandon(&mut self) {
        (self.ahead, self.coming) = Default::default();
        if self.receiver.ops().is_empty() {
            return;
        }
        self.disown_forgotten();
        self.applying = Applying::default();
        self.receiver.abandon();
        self.record.finish(&self.receiver);
        self.i4_record_is_true();
    }

    /// Whether the epoch may write.
    pub(super) fn may_write(&mut self, now: Instant, epoch: Option<u64>) -> bool {
        epoch.is_some_and(|epoch| self.leases.touch(now, epoch))
    }

    /// Takes the link as its only one; returns its epoch, and the answers to Open.
    pub(super) fn open(&mut self, now: Instant, serial: u64) -> (u64, Vec<FromHub>) {
        if self.peer.is_some() {
            self.unlink();
        }
        self.abandon();
        let epoch =
            self.leases.acquire(now, [1; 16], "sim", false).expect("there is one workspace");
        self.record.epoch = epoch;
        self.peer = Some(serial);
        let check = std::mem::take(&mut self.check);
        let goes_on = self.served && self.pid.is_some() && !check;
        let drifted = if goes_on { Vec::new() } else { self.make_true() };
        let held = self.receiver.held();
        let populated = held.root().is_empty() && self.disk.len() > 1;
        let (tree, generation) = (held.id(), self.receiver.generation());
        self.owed |= self.pid.is_some() && Some(tree) != self.settled;
        let mut answers = Vec::new();
        if !drifted.is_empty() {
            answers.push(FromHub::Drifted { paths: drifted });
        }
        answers.push(FromHub::Opened { tree, generation, epoch, populated });
        (epoch, answers)
    }

    /// Compares the record with the disk, and makes it say what is there.
    fn make_true(&mut self) -> Vec<SyncPath> {
        let mut edits: Vec<Edit> = Vec::new();
        let mut drifted = Vec::new();
        let (disk, record) = (&self.disk, &self.record);
        record.held.walk(&mut |path, node| {
            let below = edits.last().is_some_and(|(gone, _)| path.starts_with(gone));
            if !below && disk.get(path) != Some(&node.entry()) {
                edits.push((path.clone(), None));
                if !record.begun(path) {
                    drifted.push(path.clone());
                }
            }
        });
        let mut held = record.held.apply(&edits).unwrap_or_default();
        let mut further: Vec<Edit> = (record.unfinished.iter())
            .filter(|change| held.entry(&change.path) != change.new)
            .filter(|change| change.new.is_some() && disk.get(&change.path) == change.new.as_ref())
            .map(|change| (change.path.clone(), change.new.as_ref().map(node_of)))
            .collect();
        further.sort_by(|a, b| a.0.cmp(&b.0));
        for edit in further {
            held = held.apply(&[edit]).unwrap_or(held);
        }
        self.receiver = Receiver::new(held, self.record.generation, 1);
        self.record.finish(&self.receiver);
        let ours = &mut self.ours;
        self.receiver.held().walk(&mut |path, _| {
            ours.insert(path.clone());
        });
        self.drift.clear();
        self.i4_record_is_true();
        drifted
    }

    /// Whether the record says no more than the disk holds, whatever others did.
    pub(super) fn is_true(&self) -> bool {
        let mut all = true;
        self.receiver.held().walk(&mut |path, node| {
            all &= self.disk.get(path) == Some(&node.entry());
        });
        all
    }

    /// The record never says more than the disk holds: else foreign content would pass for ours.
    fn i4_record_is_true(&self) {
        self.receiver.held().walk(&mut |path, node| {
            let there = self.disk.get(path) == Some(&node.entry());
            let drifted = || upwards(path).any(|up| self.drift.contains(&up));
            assert!(there || drifted(), "i4: the record claims {path}, and it is not there");
        });
    }

    pub(super) fn take_ops(
        &mut self,
        generation: u64,
        base: Option<TreeId>,
        ops: Vec<Op>,
        last: bool,
    ) -> Result<Vec<FromHub>, WireError> {
        let steps = match base {
            Some(base) => self.receiver.take_packed(generation, base, ops, last)?,
            None => self.receiver.take_ops(generation, ops, last)?,
        };
        if !last {
            return Ok(Vec::new());
        }
        self.applying = Applying::default();
        if self.record.begin(&self.receiver) {
            self.perform(steps);
        } else {
            self.receiver.skip_all(&Reason::NoSpace);
        }
        self.ahead.let_go(self.receiver.ops());
        let need = |indices| FromHub::Need { indices, adopted: 0, last: true };
        Ok(self.receiver.needed().map(need).into_iter().collect())
    }

    pub(super) fn take_pieces(
        &mut self,
        pieces: Vec<(u32, Range<usize>)>,
    ) -> Result<(), WireError> {
        let steps = self.receiver.take_data(pieces)?;
        self.perform(steps);
        Ok(())
    }

    pub(super) fn commit(
        &mut self,
        generation: u64,
        tree: TreeId,
    ) -> Result<Vec<FromHub>, WireError> {
        let steps = self.receiver.commit(generation, tree)?;
        self.perform(steps);
        if self.blows() {
            return Ok(Vec::new());
        }
        self.disown_forgotten();
        let finished = self.receiver.finish()?;
        self.record.finish(&self.receiver);
        self.i4_record_is_true();
        if self.blows() {
            return Ok(Vec::new());
        }
        let overwritten = std::mem::take(&mut self.applying.overwritten);
        let (tree, skipped) = (self.receiver.held().id(), finished.skipped);
        Ok(vec![FromHub::Applied { generation, tree, skipped, overwritten, micros: 1 }])
    }

    pub(super) fn begin_ahead(&mut self, number: u64, op: Op) -> Result<Vec<FromHub>, WireError> {
        self.ahead.begin(number, &op, 1)?;
        let change = &op.change;
        let content = |entry: Option<&Entry>| match entry {
            Some(Entry::File { digest, .. }) => Some(*digest),
            _ => None,
        };
        let fits = match &op.how {
            How::Patch => self.disk.get(&change.path) == change.old.as_ref(),
            // Only copies are made here.
            How::Like { from } => {
                let known = matches!(self.receiver.held().get(from), Some(Node::File { .. }));
                known && content(self.disk.get(from)) == content(change.new.as_ref())
            }
            _ => true,
        };
        if !fits {
            self.ahead.failed(number);
            return Ok(vec![FromHub::NotHeld { number, why: NotHeld::Base }]);
        }
        self.coming.insert(number, (op, 0));
        Ok(Vec::new())
    }

    pub(super) fn take_ahead(
        &mut self,
        number: u64,
        bytes: u64,
    ) -> Result<Vec<FromHub>, WireError> {
        if !self.ahead.data(number)? || self.blows() {
            return Ok(Vec::new());
        }
        let taken = FromHub::AheadTaken { bytes };
        let Some((op, got)) = self.coming.get_mut(&number) else { return Ok(vec![taken]) };
        *got += bytes;
        let fault = self.broken.get(&op.change.path).filter(|why| **why == Reason::NoSpace);
        if let Some(fault) = fault.cloned() {
            self.ahead.failed(number);
            self.coming.remove(&number);
            let why = NotHeld::Fault(fault);
            return Ok(vec![taken, FromHub::NotHeld { number, why }]);
        }
        let Some(Entry::File { size, .. }) = op.change.new else { return Ok(vec![taken]) };
        if *got < size {
            return Ok(vec![taken]);
        }
        self.coming.remove(&number);
        self.ahead.whole(number);
        Ok(vec![taken, FromHub::Held { number }])
    }

    pub(super) fn end_ahead(&mut self, number: u64) -> Result<Vec<FromHub>, WireError> {
        self.coming.remove(&number);
        let answer = FromHub::NotHeld { number, why: NotHeld::Ended };
        Ok(self.ahead.end(number)?.then_some(answer).into_iter().collect())
    }

    pub(super) fn describe(&self, paths: &[SyncPath]) -> Vec<FromHub> {
        let root = [SyncPath::root()];
        let wanted = if paths.is_empty() { &root[..] } else { paths };
        (wanted.iter())
            .map(|path| {
                let dir = self.receiver.held().dir(path);
                let children = dir.iter().flat_map(|dir| dir.iter());
                let children = children.map(|(n, node)| (Blob(n.to_vec()), listed(node))).collect();
                let path = (!path.is_root()).then(|| path.clone());
                FromHub::Listing { path, children, last: true }
            })
            .collect()
    }

    pub(super) fn foreign(&self) -> Vec<(SyncPath, Listed)> {
        (self.disk.iter())
            .filter(|(path, _)| self.receiver.held().get(path).is_none())
            .map(|(path, entry)| (path.clone(), listed(&node_of(entry))))
            .filter(|(path, _)| path.parent().is_some_and(|p| !p.is_root()))
            .collect()
    }

    pub(super) fn remove_foreign(&mut self, paths: &[(SyncPath, Listed)]) -> FromHub {
        let (mut removed, problems) = (0, Vec::new());
        for (path, listed_then) in paths.iter().rev() {
            let managed = self.receiver.held().get(path).is_some();
            let now = self.disk.get(path).map(|entry| listed(&node_of(entry)));
            let same = now.as_ref() == Some(listed_then);
            if !managed && same && !self.has_children(path) && !self.blows() {
                self.disk.remove(path);
                self.ours.remove(path);
                removed += 1;
            }
        }
        FromHub::ForeignRemoved { removed, problems }
    }

    /// Starts the command, unless it runs; then says whether a restart is owed to it. One that has no
    /// process just now does not answer.
    pub(super) fn run(&mut self) -> (Option<FromHub>, bool) {
        self.settled = Some(self.receiver.held().id());
        let owed = std::mem::take(&mut self.owed) && self.pid.is_some();
        if self.pid.is_none() {
            self.pids += 1;
            self.pid = Some(self.pids);
            self.loaded = Some(self.receiver.held().clone());
        }
        let pid = self.pid.filter(|_| !self.starting);
        (pid.map(|pid| FromHub::Child(ChildEvent::Started { pid })), owed)
    }

    /// Takes what the session asks of the command; nothing at all says that nothing is owed. Returns
    /// whether it is to be restarted.
    pub(super) fn act(&mut self, actions: &ActionSet) -> bool {
        self.settled = Some(self.receiver.held().id());
        self.owed &= !actions.restart && !actions.is_empty();
        actions.restart && self.pid.is_some()
    }

    /// A restart that was begun is done, if the command is still the same.
    pub(super) fn restarted(&mut self, generation: u64, pid: i32) -> Option<FromHub> {
        if self.pid != Some(pid) || !std::mem::take(&mut self.starting) {
            return None;
        }
        self.pids += 1;
        self.pid = Some(self.pids);
        self.loaded = Some(self.receiver.held().clone());
        Some(FromHub::Child(ChildEvent::Restarted { generation, micros: 1, pid: self.pids }))
    }

    fn has_children(&self, path: &SyncPath) -> bool {
        (self.disk.range(path.clone()..)).take_while(|(p, _)| p.starts_with(path)).nth(1).is_some()
    }
}

fn node_of(entry: &e2ek_sidecar::tree::Entry) -> Node {
    Node::from_entry(entry, Stamp::default())
}

/// The stamp of what was put.
fn stamp(entry: Option<&e2ek_sidecar::tree::Entry>) -> Stamp {
    entry.map(stamp_of).unwrap_or_default()
}

fn listed(node: &Node) -> Listed {
    match node {
        &Node::File { digest, size, executable, .. } => Listed::File { digest, size, executable },
        Node::Symlink(target) => Listed::Symlink(Blob(target.to_vec())),
        Node::Directory(dir) => Listed::Directory(dir.id()),
    }
}
