//! Large contents on their way ahead of their generations: one after the other, a piece at a time,
//! and between two pieces whatever else is to be sent.
//!
//! So much is on its way that the link is busy, and no more: what waits within the link waits before
//! every save ([`Window`]).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use e2ek_sidecar::delta::PatchWriter;
use e2ek_sidecar::tree::{Entry, Snapshot};
use e2ek_sidecar::wire::{Blob, How, Op, PIECE_BYTES, Packer, Shrunk, ToHub};
use tokio::sync::Notify;

use super::{LinkEvent, PROGRESS_EVERY, Progress, Sender};
use crate::transfer::{Changed, Folder, Kin, Patch, Reading, Window};

/// What the hub took of all that was sent ahead on a link; told by the daemon's loop.
#[derive(Default)]
pub(in crate::daemon) struct Taken {
    bytes: AtomicU64,
    told: Notify,
}

impl Taken {
    /// So many more.
    pub(in crate::daemon) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.told.notify_one();
    }

    /// Cancel safe.
    pub(super) async fn changed(&self) {
        self.told.notified().await;
    }
}

/// What is sent ahead. Bounded by the session, which begins no more than the hub keeps.
pub(super) struct Lane {
    items: VecDeque<Item>,
    pub(super) taken: Arc<Taken>,
    window: Window,
    packer: Packer,
    piece: Vec<u8>,
    /// Of those that were begun since it was last idle.
    progress: Progress,
    told: Instant,
}

struct Item {
    number: u64,
    op: Op,
    patch: Option<Patch>,
    reading: Option<Reading>,
}

impl Lane {
    pub(super) fn new(taken: Arc<Taken>, window: Window, shrunk: Arc<Shrunk>) -> Self {
        Self {
            items: VecDeque::new(),
            taken,
            window,
            packer: Packer::sharing(0, shrunk),
            piece: Vec::new(),
            progress: nothing(),
            told: Instant::now(),
        }
    }

    /// Whether anything is still to be sent.
    pub(super) fn is_busy(&self) -> bool {
        !self.items.is_empty()
    }

    /// Whether a piece may be sent now.
    pub(super) fn may_send(&mut self) -> bool {
        if self.items.is_empty() {
            return false;
        }
        self.window.taken(Instant::now(), self.taken.bytes.load(Ordering::Relaxed));
        self.window.has_room()
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
    }

    /// Sends no more of a content.
    pub(super) fn end(&mut self, number: u64) {
        self.items.retain(|item| item.number != number);
    }
}

impl Sender {
    /// Announces a content; its pieces follow as there is room for them.
    pub(super) async fn begin_ahead(
        &mut self,
        number: u64,
        op: &Op,
        base: Option<&Snapshot>,
    ) -> io::Result<()> {
        let meta = self.maker.origin.meta(op, &mut Folder::default());
        let mut op = Op { meta, ..op.clone() };
        let mut patch = None;
        if let How::Copy { from } = op.how.clone() {
            let content = |entry: Option<Entry>| match entry {
                Some(Entry::File { digest, size, .. }) => Some((digest, size)),
                _ => None,
            };
            let there = base.and_then(|base| content(base.entry(&from)));
            if there.is_some() && there == content(op.change.new.clone()) {
                return self.copy_ahead(number, Op { how: How::Like { from }, ..op }).await;
            }
            op.how = How::Data;
        }
        if let Some(base) = base {
            let mut kin = Kin::new(base, &[], &mut self.maker.likened);
            if let Some(own) = self.maker.origin.patch(&op, self.maker.distance) {
                (patch, op.how) = (Some(own), How::Patch);
            } else if let Some((from, like)) =
                self.maker.origin.patch_like(&op, &mut kin, self.maker.distance)
            {
                (patch, op.how) = (Some(like), How::Like { from });
            }
        }
        self.message(&ToHub::Ahead { number, op: op.clone() }).await?;
        if self.lane.items.is_empty() {
            self.lane.progress = nothing();
        }
        self.lane.progress.total_files += 1;
        self.lane.progress.total_bytes += size_of(&op);
        self.lane.items.push_back(Item { number, op, patch, reading: None });
        Ok(())
    }

    /// Has the hub copy what it has: nothing is read here, and what is sent is a patch of one line.
    async fn copy_ahead(&mut self, number: u64, op: Op) -> io::Result<()> {
        let mut patch = PatchWriter::default();
        patch.copy(0, size_of(&op));
        self.message(&ToHub::Ahead { number, op }).await?;
        let (encoding, body) = self.lane.packer.alone(&patch.finish());
        let message = ToHub::AheadData { number, encoding, body: Blob(body) };
        let len = self.message(&message).await? as u64;
        self.lane.window.sent(Instant::now(), len);
        Ok(())
    }

    /// Reads the next piece of the first content, and sends what comes of it.
    pub(super) async fn send_ahead(&mut self) -> io::Result<()> {
        let Some(item) = self.lane.items.front_mut() else { return Ok(()) };
        let number = item.number;
        let mut piece = std::mem::take(&mut self.lane.piece);
        let more = match &mut item.reading {
            Some(reading) => reading.piece(&mut piece),
            None => {
                let (patch, mut folder) = (item.patch.take(), Folder::default());
                let reading =
                    self.maker.origin.read(&item.op, patch, self.maker.distance, &mut folder);
                reading.and_then(|reading| item.reading.insert(reading).piece(&mut piece))
            }
        };
        match more {
            Ok(true) => {
                for bytes in piece.chunks(PIECE_BYTES) {
                    self.lane.packer.set_level(self.pace.level());
                    let (encoding, body) = self.lane.packer.alone(bytes);
                    let body = Blob(body);
                    let message = ToHub::AheadData { number, encoding, body };
                    let len = self.message(&message).await? as u64;
                    self.lane.window.sent(Instant::now(), len);
                }
                self.write().await?;
                self.tell_ahead().await;
            }
            Ok(false) => {
                let item = self.lane.items.pop_front();
                self.lane.progress.files += 1;
                self.lane.progress.bytes += item.map_or(0, |item| size_of(&item.op));
            }
            Err(Changed) => {
                let item = self.lane.items.pop_front();
                self.message(&ToHub::AheadEnd { number }).await?;
                if let Some(item) = item {
                    self.tell(LinkEvent::Changed(item.op.change.path)).await;
                }
            }
        }
        self.lane.piece = piece;
        // A patch of much may be so little that nothing else makes this task wait.
        tokio::task::yield_now().await;
        Ok(())
    }

    async fn tell_ahead(&mut self) {
        if self.lane.told.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.lane.told = Instant::now();
        let mut progress = self.lane.progress;
        progress.files += 1;
        let reading = self.lane.items.front().and_then(|item| item.reading.as_ref());
        progress.ahead = reading.map_or(0, Reading::progress);
        progress.bytes += progress.ahead;
        self.tell(LinkEvent::Progress(progress)).await;
    }
}

fn nothing() -> Progress {
    Progress { generation: None, files: 0, bytes: 0, ahead: 0, total_files: 0, total_bytes: 0 }
}

fn size_of(op: &Op) -> u64 {
    match op.change.new {
        Some(Entry::File { size, .. }) => size,
        _ => 0,
    }
}
