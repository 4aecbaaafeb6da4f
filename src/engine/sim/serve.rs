//! The hub's loop: carries messages to the receiver and the leases and sends what they say, as
//! `server` does; and reads the content that is sent to it, as the daemon's sender does.

use e2ek_sidecar::tree::Entry;
use e2ek_sidecar::wire::{Blob, FromHub, How, Op, Refusal, ToHub, WireError, unpack_ops};

use super::World;
use super::clock::Event;
use super::link::{Down, carried};
use crate::engine::session::TargetId;

impl World {
    /// The hub says something to the link it listens to, in one part or in two.
    pub(super) fn answer(&mut self, target: TargetId, message: FromHub) {
        let Some(serial) = self.hubs[target].peer else { return };
        for part in self.parts(message) {
            self.wires.answer((target, serial), part, &mut self.clock, &mut self.rng);
        }
    }

    fn parts(&mut self, message: FromHub) -> Vec<FromHub> {
        if !self.rng.one_in(4) {
            return vec![message];
        }
        match message {
            FromHub::Need { mut indices, adopted, last } => {
                let rest = indices.split_off(indices.len() / 2);
                let part = FromHub::Need { indices, adopted, last: false };
                vec![part, FromHub::Need { indices: rest, adopted, last }]
            }
            FromHub::Listing { path, mut children, last } => {
                let rest = children.split_off(children.len() / 2);
                let part = FromHub::Listing { path: path.clone(), children, last: false };
                vec![part, FromHub::Listing { path, children: rest, last }]
            }
            FromHub::Applied { generation, tree, skipped, overwritten, micros } => {
                let part = FromHub::AppliedPart { skipped, overwritten };
                let (skipped, overwritten) = (Vec::new(), Vec::new());
                vec![part, FromHub::Applied { generation, tree, skipped, overwritten, micros }]
            }
            message => vec![message],
        }
    }

    pub(super) fn hub_hears(&mut self, target: TargetId, serial: u64) {
        if let Some(later) = self.wires.delayed(target, serial, self.clock.now) {
            return self.clock.after(later, Event::ToHub { target, serial });
        }
        let Some(item) = self.wires.get(target, serial).down.pop_front() else { return };
        self.checks.i10_no_ping_pong(self.clock.now);
        let current = self.wires.current[target] == Some(serial);
        if let Down::Message(message) = &item
            && current
            && self.breaks(target, message, |link| link.down.clear())
        {
            return;
        }
        let result = self.arrive(target, serial, item);
        if let Err(error) = result {
            let tampered = self.wires.get(target, serial).tampered;
            assert!(tampered, "i11: the hub refuses: {error}");
            self.trace.count("the hub refuses to go on");
            self.hub_lets_go(target);
            self.hubs[target].unlink();
            if current {
                self.cut(target);
            }
        }
        if self.hubs[target].dead {
            self.trace.count("the hub killed within a generation");
            self.crash_hub(target);
        }
    }

    fn arrive(&mut self, target: TargetId, serial: u64, item: Down) -> Result<(), WireError> {
        let now = self.clock.instant();
        if let Down::Message(ToHub::Open(_)) = item {
            return self.opened(target, serial);
        }
        let epoch = self.wires.get(target, serial).epoch;
        let hub = &mut self.hubs[target];
        if !hub.may_write(now, epoch) {
            self.trace.count("a stale link's message refused");
            return Ok(());
        }
        assert_eq!(hub.peer, Some(serial), "i14: a stale link writes");
        match item {
            Down::Data { generation, ops, indices, commit } => {
                let commit = ToHub::Commit { generation, target: commit };
                self.read(target, serial, &ops, &indices, commit);
                Ok(())
            }
            Down::Pieces(pieces) => hub.take_pieces(pieces),
            Down::Ahead { number, op, bits } => self.read_ahead(target, serial, number, op, bits),
            Down::Message(message) => self.message(target, message),
        }
    }

    fn opened(&mut self, target: TargetId, serial: u64) -> Result<(), WireError> {
        let hub = &mut self.hubs[target];
        if hub.peer == Some(serial) {
            return Err(WireError::Order("opened twice"));
        }
        let taken_over = hub.peer.is_some();
        if self.wires.has_newer_epoch(target, serial) {
            self.trace.count("a link given up comes late");
        }
        if taken_over {
            self.trace.count("a link taken over by the next");
            self.answer(target, FromHub::Refused(Refusal::Superseded));
        }
        let hub = &mut self.hubs[target];
        let (epoch, answers) = hub.open(self.clock.instant(), serial);
        self.wires.get(target, serial).epoch = Some(epoch);
        answers.into_iter().for_each(|answer| self.answer(target, answer));
        Ok(())
    }

    fn message(&mut self, target: TargetId, message: ToHub) -> Result<(), WireError> {
        let message = if self.rng.one_in(32) { carried(&message) } else { message };
        let hub = &mut self.hubs[target];
        let answers = match message {
            ToHub::Ops { generation, ops, last } => hub.take_ops(generation, None, ops, last)?,
            ToHub::PackedOps { generation, base, encoding, body, digests, last } => {
                let ops = unpack_ops(encoding, body.0, &digests.0)?;
                hub.take_ops(generation, Some(base), ops, last)?
            }
            ToHub::Withdraw { index } => {
                hub.receiver.withdraw(index)?;
                Vec::new()
            }
            ToHub::Ahead { number, op } => hub.begin_ahead(number, op)?,
            ToHub::AheadData { number, body, .. } => hub.take_ahead(number, body.0.len() as u64)?,
            ToHub::AheadEnd { number } => {
                let link = self.wires.now(target);
                let kept =
                    |item: &Down| !matches!(item, Down::Ahead { number: n, .. } if *n == number);
                link.into_iter().for_each(|link| link.down.retain(kept));
                self.hubs[target].end_ahead(number)?
            }
            ToHub::Commit { generation, target: tree } => hub.commit(generation, tree)?,
            ToHub::Describe { paths } => hub.describe(&paths),
            ToHub::ListForeign => {
                vec![FromHub::Foreign { paths: hub.foreign(), last: true }]
            }
            ToHub::RemoveForeign { paths } => {
                assert!(self.options.mirror, "i4: unmanaged paths are kept");
                vec![hub.remove_foreign(&paths)]
            }
            ToHub::Run(_) => {
                self.i9_starts_between_generations(target);
                let (answer, owed) = self.hubs[target].run();
                if owed {
                    let generation = self.hubs[target].receiver.generation();
                    self.restart_begins(target, generation);
                }
                answer.into_iter().collect()
            }
            ToHub::Act { generation, actions } => {
                self.i9_acts_after_its_files(target, generation);
                if self.hubs[target].act(&actions) {
                    self.restart_begins(target, generation);
                }
                Vec::new()
            }
            other => panic!("not sent by a session: {other:?}"),
        };
        if !self.hubs[target].dead {
            answers.into_iter().for_each(|answer| self.answer(target, answer));
        }
        Ok(())
    }

    fn restart_begins(&mut self, target: TargetId, generation: u64) {
        let hub = &mut self.hubs[target];
        if !std::mem::replace(&mut hub.starting, true) {
            let pid = hub.pids;
            let after = 1000 + self.rng.below(60_000);
            self.clock.after(after, Event::Restarted { target, generation, pid });
        }
    }

    /// What the sender's task does when its turn comes: reads the files as they are by now. What
    /// changed is withdrawn, some of it halfway.
    fn read(&mut self, target: TargetId, serial: u64, ops: &[Op], indices: &[u32], commit: ToHub) {
        let mut items = Vec::new();
        let mut changed = false;
        for &index in indices {
            let op = &ops[index as usize];
            let Some(Entry::File { digest, size, .. }) = op.change.new else { unreachable!() };
            let same = matches!(self.source.disk.get(&op.change.path),
                Some(Entry::File { digest: now, .. }) if *now == digest);
            let middle = size as usize / 2;
            if (same || self.rng.one_in(2)) && middle > 0 {
                items.push(Down::Pieces(vec![(index, 0..middle)]));
            }
            if same {
                items.push(Down::Pieces(vec![(index, middle..size as usize)]));
            } else {
                items.push(Down::Message(ToHub::Withdraw { index }));
                changed = true;
            }
        }
        if changed {
            self.trace.count("a file changed before it was sent");
            self.touched();
        }
        items.push(Down::Message(commit));
        self.wires.expand(target, serial, items, &mut self.clock);
    }

    /// What the sender's task does with content that goes ahead when its turn comes: reads a bit of
    /// the file as it is by now, and lets others go first before the next.
    fn read_ahead(
        &mut self,
        target: TargetId,
        serial: u64,
        number: u64,
        op: Op,
        bits: u32,
    ) -> Result<(), WireError> {
        let Some(Entry::File { digest, size, .. }) = op.change.new else { unreachable!() };
        let same = matches!(self.source.disk.get(&op.change.path),
            Some(Entry::File { digest: now, .. }) if *now == digest);
        // What is open can be read although another file has its place, or it grew.
        let same = same || matches!(op.how, How::Like { .. }) || bits > 1 && self.rng.one_in(2);
        let first = size / 2;
        let message = match bits {
            0 => ToHub::Ahead { number, op: op.clone() },
            _ if !same => {
                self.trace.count("a file changed while it was sent ahead");
                self.touched();
                return self.message(target, ToHub::AheadEnd { number });
            }
            1 => ToHub::AheadData { number, encoding: 0, body: Blob(vec![0; first as usize]) },
            _ => {
                let rest = (size - first) as usize;
                ToHub::AheadData { number, encoding: 0, body: Blob(vec![0; rest]) }
            }
        };
        if bits < 2 {
            let item = Down::Ahead { number, op, bits: bits + 1 };
            self.wires.push_back(target, serial, item, &mut self.clock, &mut self.rng);
        }
        self.message(target, message)
    }
}
