//! A generation as frames: its ops, and its content with the commit.
//!
//! What goes alike to several targets is a [`Parcel`]: read, compared, compressed and encoded by the
//! link that comes to it first, and sent by all. What is much is made bit by bit, by each link for
//! itself: no memory holds it, and the slowest link keeps none of it alive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::receive::fold;
use e2ek_sidecar::tree::{Digest, Entry, Snapshot, TreeId};
use e2ek_sidecar::wire::{self, How, Op, OpsPacker, Packer, ToHub};

use crate::transfer::{Changed, Distance, Folder, Kin, Likened, Origin, Patches, Reading};

/// So many ops and more are packed for a hub that is far away: for fewer the tree they lead on from
/// takes more bytes than it saves.
const PACK_FROM: usize = 4;
/// zstd level of packed ops: they are few, and what can be compressed of them are names.
const PACK_LEVEL: i32 = 6;
/// Most ops of a generation that is a parcel: 1 MB and less as frames.
const PARCEL_OPS: usize = 5_000;
/// Most content of a parcel as it is sent, in bytes, as far as that can be told before: each target
/// may be eight generations behind.
const PARCEL_BYTES: u64 = 512 << 10;
/// What a patch is taken for, as a part of the content that it makes.
const PATCH_PART: u64 = 16;

/// What goes alike to several targets. Lives as long as one of them has it to send.
#[derive(Default)]
pub(in crate::daemon) struct Parcel {
    ops: Alike<Distance, Ops>,
    data: Alike<(Distance, i32), Frames>,
    shared: AtomicBool,
}

/// What is made once for all who make it with the same.
struct Alike<With, Made>(Mutex<Vec<(With, Arc<Made>)>>);

/// The parcels that are just handed out.
#[derive(Default)]
pub(in crate::daemon) struct Parcels(Vec<(u64, Arc<[Op]>, Arc<Parcel>)>);

impl Parcels {
    /// The parcel of a generation, which is shared from its second target on.
    pub(in crate::daemon) fn ops(
        &mut self,
        generation: u64,
        ops: &Arc<[Op]>,
    ) -> Option<Arc<Parcel>> {
        if let Some(known) = self.data(generation, ops) {
            known.shared.store(true, Ordering::Relaxed);
            return Some(known);
        }
        if ops.len() > PARCEL_OPS {
            return None;
        }
        let parcel = Arc::new(Parcel::default());
        self.0.push((generation, Arc::clone(ops), Arc::clone(&parcel)));
        Some(parcel)
    }

    /// The one that the ops of this generation are in.
    pub(in crate::daemon) fn data(&self, generation: u64, ops: &Arc<[Op]>) -> Option<Arc<Parcel>> {
        let mut all = self.0.iter();
        let known = all.find(|(of, all, _)| *of == generation && Arc::ptr_eq(all, ops));
        known.map(|(.., parcel)| Arc::clone(parcel))
    }

    /// Nothing more of them is handed out.
    pub(in crate::daemon) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Parcel {
    fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }
}

impl<With, Made> Default for Alike<With, Made> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<With: PartialEq, Made> Alike<With, Made> {
    /// What was made with that, and whether it was made just now.
    fn of(&self, with: With, make: impl FnOnce() -> Made) -> (Arc<Made>, bool) {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = made.iter().find(|(of, _)| *of == with) {
            return (Arc::clone(known), false);
        }
        let new = Arc::new(make());
        made.push((with, Arc::clone(&new)));
        (new, true)
    }
}

/// Encoded messages.
#[derive(Default)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    /// Files that are not any more what was to be sent.
    pub(super) changed: Vec<SyncPath>,
}

/// One of them.
#[derive(Clone, Copy)]
pub(super) struct Part {
    end: usize,
    /// What it takes of the credit.
    pub(super) cost: usize,
    /// How far the content is with it.
    pub(super) done: Done,
}

/// How much of a generation's content was read.
#[derive(Clone, Copy, Default)]
pub(super) struct Done {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Frames {
    fn push(&mut self, message: &ToHub, done: Done) {
        let cost = wire::encode(message, &mut self.bytes);
        let free = matches!(message, ToHub::Withdraw { .. } | ToHub::Commit { .. });
        let cost = if free { 0 } else { cost };
        self.parts.push(Part { end: self.bytes.len(), cost, done });
    }

    /// The frames in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Part)> {
        let begins = std::iter::once(0).chain(self.parts.iter().map(|part| part.end));
        begins.zip(&self.parts).map(|(begin, part)| (&self.bytes[begin..part.end], *part))
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
        self.changed.clear();
    }
}

/// The ops of a generation.
#[derive(Default)]
pub(super) struct Ops {
    pub(super) frames: Frames,
    /// What its content is sent as.
    pub(super) patches: Patches,
    /// Contents that are patches of another file's.
    likened: Vec<Digest>,
}

/// What a link brings along to make them.
pub(super) struct Maker {
    pub(super) origin: Arc<Origin>,
    pub(super) distance: Distance,
    /// What was sent as a patch of something like it.
    pub(super) likened: Likened,
    pub(super) packer: Packer,
}

impl Maker {
    /// As [`Self::make_ops`]; once for all who send this parcel.
    pub(super) fn ops(
        &mut self,
        generation: u64,
        base: &Snapshot,
        ops: &[Op],
        parcel: Option<&Parcel>,
    ) -> Arc<Ops> {
        let Some(parcel) = parcel.filter(|parcel| parcel.is_shared()) else {
            return Arc::new(self.make_ops(generation, base, ops));
        };
        let distance = self.distance;
        let (made, ours) = parcel.ops.of(distance, || self.make_ops(generation, base, ops));
        if !ours {
            // Tried here, too: where it leads to nothing, all of it is sent the next time.
            for content in &made.likened {
                self.likened.is_new(*content);
            }
        }
        made
    }

    fn make_ops(&mut self, generation: u64, base: &Snapshot, ops: &[Op]) -> Ops {
        let mut made = Ops {
            frames: Frames::default(),
            patches: Patches::of(generation),
            likened: Vec::new(),
        };
        let mut folder = Folder::default();
        let mut kin = Kin::new(base, ops, &mut self.likened);
        // What moves with its directory is not looked at, one by one.
        let mut folded = fold(base, ops);
        for (index, op) in &mut folded {
            op.meta = self.origin.meta(op, &mut folder);
            if let Some(patch) = self.origin.patch(op, self.distance) {
                made.patches.insert(*index, patch);
                op.how = How::Patch;
            } else if let Some((from, patch)) = self.origin.patch_like(op, &mut kin, self.distance)
            {
                made.patches.insert(*index, patch);
                made.likened.extend(digest_of(op));
                op.how = How::Like { from };
            }
        }
        let packs = self.distance == Distance::Far && folded.len() >= PACK_FROM;
        let mut packer = packs.then(|| OpsPacker::new(generation, base.id(), PACK_LEVEL));
        let mut batches = wire::batches(folded.into_iter().map(|(_, op)| op)).peekable();
        while let Some(ops) = batches.next() {
            let last = batches.peek().is_none();
            let message = match &mut packer {
                Some(packer) => packer.pack(&ops, last),
                None => ToHub::Ops { generation, ops, last },
            };
            made.frames.push(&message, Done::default());
        }
        made
    }

    /// All of a generation's content that goes alike to all who send this parcel; `None` where each
    /// goes its own way.
    pub(super) fn data(
        &mut self,
        content: &Content<'_>,
        level: i32,
        parcel: Option<&Parcel>,
    ) -> Option<Arc<Frames>> {
        self.packer.set_level(level);
        let parcel = parcel.filter(|parcel| parcel.is_shared() && content.is_little())?;
        let with = (self.distance, level);
        let make = || {
            let (mut frames, mut making) = (Frames::default(), Making::default());
            while self.step(content, &mut making, &mut frames) {}
            frames
        };
        let (made, _) = parcel.data.of(with, make);
        Some(made)
    }

    /// Reads one piece more, and adds what comes of it; `false` when that was all.
    pub(super) fn step(
        &mut self,
        content: &Content<'_>,
        making: &mut Making,
        frames: &mut Frames,
    ) -> bool {
        let Some((&index, op)) = content.op(making.at) else {
            if let Some(rest) = self.packer.flush() {
                frames.push(&rest, making.done);
            }
            let Content { generation, commit: target, .. } = *content;
            frames.push(&ToHub::Commit { generation, target }, making.done);
            return false;
        };
        let more = match &mut making.reading {
            Some(reading) => reading.piece(&mut making.piece),
            None => {
                making.done.files += 1;
                making.before = making.done.bytes;
                let patch = content.patches.get(content.generation, index);
                let reading = self.origin.read(op, patch, self.distance, &mut making.folder);
                let piece = &mut making.piece;
                reading.and_then(|reading| making.reading.insert(reading).piece(piece))
            }
        };
        if let Some(reading) = &making.reading {
            making.done.bytes = making.before + reading.progress();
        }
        match more {
            Ok(true) => {
                for full in self.packer.push(index, &making.piece) {
                    frames.push(&full, making.done);
                }
                return true;
            }
            Ok(false) => {}
            Err(Changed) => {
                frames.push(&ToHub::Withdraw { index }, making.done);
                frames.changed.push(op.change.path.clone());
            }
        }
        making.reading = None;
        making.at += 1;
        true
    }
}

/// The content of a generation.
pub(super) struct Content<'a> {
    pub(super) generation: u64,
    pub(super) ops: &'a [Op],
    pub(super) indices: &'a [u32],
    pub(super) patches: &'a Patches,
    pub(super) commit: TreeId,
}

/// How far it has come.
#[derive(Default)]
pub(super) struct Making {
    at: usize,
    reading: Option<Reading>,
    folder: Folder,
    piece: Vec<u8>,
    pub(super) done: Done,
    /// What was read before this content.
    before: u64,
}

impl Content<'_> {
    fn op(&self, at: usize) -> Option<(&u32, &Op)> {
        let index = self.indices.get(at)?;
        Some((index, self.ops.get(*index as usize)?))
    }

    /// Files and bytes in all.
    pub(super) fn total(&self) -> Done {
        let size = |index: &u32| self.ops.get(*index as usize).map_or(0, size_of);
        Done { files: self.indices.len() as u64, bytes: self.indices.iter().map(size).sum() }
    }

    /// Whether all of it may be held in memory.
    fn is_little(&self) -> bool {
        let sent = |index: &u32| {
            let size = self.ops.get(*index as usize).map_or(0, size_of);
            let patched = self.patches.get(self.generation, *index).is_some();
            if patched { size / PATCH_PART } else { size }
        };
        self.indices.iter().map(sent).sum::<u64>() <= PARCEL_BYTES
    }
}

fn size_of(op: &Op) -> u64 {
    match op.change.new {
        Some(Entry::File { size, .. }) => size,
        _ => 0,
    }
}

fn digest_of(op: &Op) -> Option<Digest> {
    match op.change.new {
        Some(Entry::File { digest, .. }) => Some(digest),
        _ => None,
    }
}
