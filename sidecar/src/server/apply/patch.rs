//! Owns content that is made from what the target holds: the old file, or another one that is much
//! like the new, and a patch become the new one.
//!
//! The old file is read as it is found, whoever wrote it; the result's digest decides. Where it is not
//! what the op says, for the old file was not what the record says, nothing is written and the record
//! forgets the path: the daemon sends the whole, and the look before that finds whose the old file is.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use super::super::look::content_of;
use super::super::root::{InPlace, Staged};
use super::super::site::Site;
use super::overlay::{self, Overlay};
use super::redo::{Head, Redo};
use super::{Outcome, file_size, meta};
use crate::delta::{NodeHasher, Patcher, Piece};
use crate::tree::{Digest, Reason};

/// Content up to here is made in memory and written as a small file is.
const IN_MEMORY_BYTES: u64 = 128 << 10;
/// The most that is read of the old file at once, in bytes.
const READ_BYTES: usize = 256 << 10;

/// A content that is being made.
pub(super) struct Patching {
    old: File,
    patcher: Patcher,
    new: New,
    /// For what is read of the old file.
    buffer: Vec<u8>,
}

/// Where it is made.
enum New {
    Memory(Vec<u8>),
    Staged(Staged, Box<NodeHasher>),
    Over(Box<Overlay>),
    /// Between two ways, and after a fault.
    Nowhere,
}

/// Why it cannot be made.
enum Fault {
    /// The old content or the patch is not what it should be: the whole is needed.
    Base,
    /// It cannot be written.
    Write(io::Error),
}

impl Site {
    /// Goes on with a patch; with its end the file is put in place.
    pub(super) fn patch(&mut self, index: u32, bytes: &[u8]) {
        if !self.applying.patches.contains_key(&index) {
            match self.begin_patch(index) {
                Ok(patching) => drop(self.applying.patches.insert(index, patching)),
                Err(outcome) => return self.report(index, outcome),
            }
        }
        let Some(patching) = self.applying.patches.get_mut(&index) else { return };
        match patching.take(bytes) {
            Ok(()) if !patching.patcher.is_complete() => {}
            Ok(()) => self.end_patch(index),
            Err(fault) => {
                self.applying.patches.remove(&index);
                let outcome = match fault {
                    Fault::Base => self.wrong_base(index),
                    Fault::Write(error) => Outcome::Skip(Reason::from(&error)),
                };
                self.report(index, outcome);
            }
        }
    }

    fn begin_patch(&self, index: u32) -> Result<Patching, Outcome> {
        let op = self.receiver.op(index);
        let Some((root, below)) = self.locate(&op.change.path) else {
            return Err(Outcome::Skip(Reason::Name));
        };
        let Some((from, old_size)) = self.receiver.patched(index) else {
            return Err(self.wrong_base(index));
        };
        let itself = *from == op.change.path;
        let base = self.locate(from);
        // Whatever is wrong with the old file, the look before a whole one tells it better.
        let old = base.and_then(|(base, from)| base.open_file(&from).ok());
        let old = old.ok_or_else(|| self.wrong_base(index))?;
        if old.metadata().map_or(true, |found| found.len() != old_size) {
            return Err(self.wrong_base(index));
        }
        let size = file_size(op);
        let new = if size <= IN_MEMORY_BYTES {
            New::Memory(Vec::with_capacity(size as usize))
        } else {
            let staged = root.stage(&below, size)?;
            let redo = (itself && old_size.min(size) > overlay::ABOVE_BYTES)
                .then(|| self.begin_redo(index, &old, size))
                .flatten();
            match redo {
                Some(redo) => New::Over(Box::new(Overlay::new(redo, staged, old_size))),
                None => New::Staged(staged, Box::default()),
            }
        };
        Ok(Patching { old, patcher: Patcher::new(old_size, size), new, buffer: Vec::new() })
    }

    /// A record for a patch in place; `None` where that cannot be.
    fn begin_redo(&self, index: u32, old: &File, size: u64) -> Option<Redo> {
        let found = old.metadata().ok()?;
        let file = (found.dev(), found.ino());
        if !self.in_place || !self.may_patch(index, file) {
            return None;
        }
        let op = self.receiver.op(index);
        let head = Head::new(&op.change.path, file, size, &meta(op));
        let folder = self.store.as_ref()?.redo_folder();
        let name = format!("{}-{index}", self.applying.generation);
        let begun = Redo::begin(&folder, &name, head);
        begun.inspect_err(|error| tracing::info!(%error, "no record of a patch")).ok()
    }

    fn end_patch(&mut self, index: u32) {
        let Some(mut patching) = self.applying.patches.remove(&index) else { return };
        let wanted = content_of(self.receiver.op(index).change.new.as_ref());
        if let New::Over(overlay) = patching.new {
            patching.new = match self.end_over(index, *overlay, &patching.old, wanted) {
                Ok(Ok(outcome)) => return self.report(index, outcome),
                Ok(Err(new)) => new,
                Err(error) => return self.report(index, Outcome::Skip(Reason::from(&error))),
            };
        }
        match patching.new {
            New::Memory(content) if Some(Digest::of(&content)) == wanted => {
                let outcome = self.twice(index, |site, index| site.fill(index, &content));
                self.report(index, outcome);
            }
            New::Staged(staged, hasher) => {
                let (digest, nodes) = hasher.finish();
                if Some(digest) != wanted {
                    let outcome = self.wrong_base(index);
                    return self.report(index, outcome);
                }
                self.parts.keep(digest, nodes);
                self.applying.staged.insert(index, staged);
                self.place(index);
            }
            _ => {
                let outcome = self.wrong_base(index);
                self.report(index, outcome);
            }
        }
    }

    /// Patches in place, once it is certain what comes of it; else makes the content beside.
    fn end_over(
        &mut self,
        index: u32,
        mut overlay: Overlay,
        old: &File,
        wanted: Option<Digest>,
    ) -> io::Result<Result<Outcome, New>> {
        let op = self.receiver.op(index);
        let before = content_of(op.change.old.as_ref());
        let known = before.and_then(|digest| self.parts.get(digest));
        let nodes = overlay.nodes(old, known.as_deref())?;
        let digest = nodes.digest();
        if digest.is_none() || digest != wanted {
            return Ok(Ok(self.wrong_base(index)));
        }
        let Head { file, size, .. } = overlay.redo.head().clone();
        let beside = |overlay: Overlay| {
            let (staged, hasher) = overlay.make(old)?;
            Ok(Err(New::Staged(staged, Box::new(hasher))))
        };
        let located = self.locate(&op.change.path);
        let Some((root, below)) = located.filter(|_| self.may_patch(index, file)) else {
            return beside(overlay);
        };
        overlay.redo.seal()?;
        let mut extents = overlay.redo.extents().iter();
        let mut next = || match extents.next() {
            Some(&extent) => Ok(Some((extent.offset, overlay.redo.read(extent)?))),
            None => Ok(None),
        };
        let patched = root.patch_in_place(&below, file, size, &meta(op), &mut next);
        match patched {
            Ok(stamp) => {
                overlay.redo.forget();
                self.parts.keep(digest.unwrap_or_default(), Some(nodes));
                Ok(Ok(Outcome::InPlace(stamp, InPlace::Patch)))
            }
            // A running program, for one; or some of it is written. The record stays: a hub that
            // finds this file again finishes it, and once another has its place it counts no more.
            Err(error) => {
                tracing::info!(%error, "not patched in place");
                beside(overlay)
            }
        }
    }

    fn wrong_base(&self, index: u32) -> Outcome {
        let path = &self.receiver.op(index).change.path;
        tracing::info!(%path, "not what a patch was made for: the whole is needed");
        Outcome::Lost
    }
}

impl Patching {
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while let Some(piece) = self.patcher.next(&mut bytes).map_err(|_| Fault::Base)? {
            match piece {
                Piece::Bytes(bytes) => self.bring(bytes)?,
                Piece::Copy { offset, length } => self.copy(offset, length)?,
            }
        }
        Ok(())
    }

    fn bring(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if let New::Over(overlay) = &mut self.new
            && !overlay.bring(bytes).map_err(Fault::Write)?
        {
            self.beside()?;
        } else if matches!(self.new, New::Over(_)) {
            return Ok(());
        }
        self.new.append(bytes).map_err(Fault::Write)
    }

    /// Gives up to patch in place.
    fn beside(&mut self) -> Result<(), Fault> {
        if let New::Over(overlay) = std::mem::replace(&mut self.new, New::Nowhere) {
            let (staged, hasher) = overlay.make(&self.old).map_err(Fault::Write)?;
            self.new = New::Staged(staged, Box::new(hasher));
        }
        Ok(())
    }

    fn copy(&mut self, mut offset: u64, mut length: u64) -> Result<(), Fault> {
        if let New::Over(overlay) = &mut self.new {
            if overlay.stays(offset, length) {
                return Ok(());
            }
            self.beside()?;
        }
        while length > 0 {
            let now = usize::try_from(length).map_or(READ_BYTES, |length| length.min(READ_BYTES));
            if self.buffer.len() < now {
                self.buffer.resize(now, 0);
            }
            let buffer = &mut self.buffer[..now];
            // It may have become shorter meanwhile.
            self.old.read_exact_at(buffer, offset).map_err(|_| Fault::Base)?;
            self.new.append(buffer).map_err(Fault::Write)?;
            offset += now as u64;
            length -= now as u64;
        }
        Ok(())
    }
}

impl New {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Memory(content) => content.extend_from_slice(bytes),
            Self::Staged(staged, hasher) => {
                hasher.update(bytes);
                staged.write_all(bytes)?;
            }
            Self::Over(_) | Self::Nowhere => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(())
    }
}
