//! Owns content that is made from what the target holds: the old file, or another one that is much
//! like the new, and a patch become the new one.
//!
//! The old file is read as it is found, whoever wrote it; the result's digest decides. Where it is not
//! what the op says, for the old file was not what the record says, nothing is written and the record
//! forgets the path: the daemon sends the whole, and the look before that finds whose the old file is.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::look::content_of;
use super::super::root::{InPlace, RootError, Staged};
use super::super::site::Site;
use super::Outcome;
use super::overlay::{self, Overlay};
use super::redo::{Head, Redo, Sizes};
use super::step::{file_size, meta};
use crate::delta::{NodeHasher, Nodes, Patcher, Piece};
use crate::path::SyncPath;
use crate::tree::{Digest, Reason};
use crate::wire::Op;

/// Content up to here is made in memory and written as a small file is.
const IN_MEMORY_BYTES: u64 = 128 << 10;
/// The most that is read of the old file at once, in bytes.
const READ_BYTES: usize = 256 << 10;

/// A content that is being made.
pub(in super::super) struct Patching {
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

/// A content that was made, and is what the op says.
pub(in super::super) enum Made {
    Memory(Vec<u8>),
    Staged(Staged, Option<Nodes>),
    /// Written down, to be patched into the old file.
    Over(Box<Over>),
}

/// See [`Made::Over`].
pub(in super::super) struct Over {
    overlay: Overlay,
    old: File,
    nodes: Nodes,
}

/// Why it cannot be made.
pub(in super::super) enum Fault {
    /// The old content or the patch is not what it should be: the whole is needed.
    Base,
    /// It cannot be written.
    Write(io::Error),
    /// The target's directory takes nothing.
    Root(RootError),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl Site {
    /// Goes on with a patch; with its end the file is put in place.
    pub(super) fn patch(&mut self, index: u32, bytes: &[u8]) {
        if !self.applying.patches.contains_key(&index) {
            let name = format!("{}-{index}", self.applying.generation);
            let base = self.receiver.patched(index).ok_or(Fault::Base);
            let begun =
                base.and_then(|base| self.begin_patch(self.receiver.op(index), base, &name));
            match begun {
                Ok(patching) => drop(self.applying.patches.insert(index, patching)),
                Err(fault) => return self.not_made(index, fault),
            }
        }
        let Some(patching) = self.applying.patches.get_mut(&index) else { return };
        let taken = patching.take(bytes, &AtomicBool::new(false));
        if matches!(taken, Ok(false)) {
            return;
        }
        let Some(patching) = self.applying.patches.remove(&index) else { return };
        let change = &self.receiver.op(index).change;
        let wanted = content_of(change.new.as_ref());
        let known = content_of(change.old.as_ref()).and_then(|digest| self.parts.get(digest));
        let made =
            taken.and_then(|_| patching.finish(wanted, known.as_deref(), &AtomicBool::new(false)));
        match made {
            Ok(made) => self.put_made(index, made),
            Err(fault) => self.not_made(index, fault),
        }
    }

    /// Begins to make an op's content from what stands at `from`, `old_size` bytes; `name` is for the
    /// record of a patch in place.
    pub(in super::super) fn begin_patch(
        &self,
        op: &Op,
        (from, old_size): (&SyncPath, u64),
        name: &str,
    ) -> Result<Patching, Fault> {
        let (root, below) = self.locate(&op.change.path).ok_or(Fault::Base)?;
        let itself = *from == op.change.path;
        let (base, from) = self.locate(from).ok_or(Fault::Base)?;
        // Whatever is wrong with the old file, the look before a whole one tells it better.
        let old = base.open_file(&from).map_err(|_| Fault::Base)?;
        if old.metadata().map_or(true, |found| found.len() != old_size) {
            return Err(Fault::Base);
        }
        let size = file_size(op);
        let new = if size <= IN_MEMORY_BYTES {
            New::Memory(Vec::with_capacity(size as usize))
        } else {
            let staged = root.stage(&below, size).map_err(Fault::Root)?;
            let redo = (itself && old_size.min(size) > overlay::ABOVE_BYTES)
                .then(|| self.begin_redo(op, name, &old, Sizes { old: old_size, new: size }))
                .flatten();
            match redo {
                Some(redo) => New::Over(Box::new(Overlay::new(redo, staged, old_size))),
                None => New::Staged(staged, Box::default()),
            }
        };
        Ok(Patching { old, patcher: Patcher::new(old_size, size), new, buffer: Vec::new() })
    }

    /// A record for a patch in place; `None` where that cannot be.
    fn begin_redo(&self, op: &Op, name: &str, old: &File, sizes: Sizes) -> Option<Redo> {
        if sizes.old.saturating_sub(sizes.new) > sizes.old / 4 {
            return None;
        }
        let found = old.metadata().ok()?;
        let file = (found.dev(), found.ino());
        if !self.in_place || !self.may_patch(&op.change.path, file) {
            return None;
        }
        let head = Head::new(&op.change.path, file, sizes, &meta(op));
        let folder = self.store.as_ref()?.redo_folder();
        let begun = Redo::begin(&folder, name, head);
        begun.inspect_err(|error| tracing::info!(%error, "no record of a patch")).ok()
    }

    /// Puts a content in place that was made.
    pub(in super::super) fn put_made(&mut self, index: u32, made: Made) {
        let (staged, nodes) = match made {
            Made::Memory(content) => {
                let outcome = self.twice(index, |site, index| site.fill(index, &content));
                return self.report(index, outcome);
            }
            Made::Staged(staged, nodes) => (staged, nodes),
            Made::Over(over) => match self.put_over(index, *over) {
                Ok(Ok(outcome)) => return self.report(index, outcome),
                Ok(Err(beside)) => beside,
                Err(error) => return self.report(index, Outcome::Skip(Reason::from(&error))),
            },
        };
        if let Some(digest) = content_of(self.receiver.op(index).change.new.as_ref()) {
            self.parts.keep(digest, nodes);
        }
        self.applying.staged.insert(index, staged);
        self.place(index);
    }

    fn not_made(&mut self, index: u32, fault: Fault) {
        let path = &self.receiver.op(index).change.path;
        let outcome = match fault {
            Fault::Base => {
                tracing::info!(%path, "not what a patch was made for: the whole is needed");
                Outcome::Lost
            }
            Fault::Write(error) => Outcome::Skip(Reason::from(&error)),
            Fault::Root(error) => error.into(),
        };
        self.report(index, outcome);
    }

    /// Patches in place, if that still may be; else makes the content beside.
    #[allow(clippy::type_complexity)]
    fn put_over(
        &mut self,
        index: u32,
        over: Over,
    ) -> io::Result<Result<Outcome, (Staged, Option<Nodes>)>> {
        let Over { mut overlay, old, nodes } = over;
        let op = self.receiver.op(index);
        let Head { path, file, size, .. } = overlay.redo.head().clone();
        let located = self.locate(&op.change.path);
        // What is patched is the very file that the record speaks of.
        let same = path == op.change.path && self.may_patch(&path, file);
        let Some((root, below)) = located.filter(|_| same) else {
            return self.make_beside(index, overlay, &old);
        };
        overlay.redo.seal()?;
        let mut touched = false;
        let mut extents = overlay.redo.extents().iter();
        let mut next = || {
            touched = true;
            match extents.next() {
                Some(&extent) => Ok(Some((extent.offset, overlay.redo.read(extent)?))),
                None => Ok(None),
            }
        };
        let patched = root.patch_in_place(&below, file, size, &meta(op), &mut next);
        if patched.is_ok() || !touched {
            overlay.redo.forget();
        }
        match patched {
            Ok(stamp) => {
                self.parts.keep(nodes.digest().unwrap_or_default(), Some(nodes));
                Ok(Ok(Outcome::InPlace(stamp, InPlace::Patch)))
            }
            // A running program, for one; or some of it is written. Then the record stays until
            // another file has its place.
            Err(error) => {
                tracing::info!(%error, "not patched in place");
                self.make_beside(index, overlay, &old)
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn make_beside(
        &mut self,
        index: u32,
        mut overlay: Overlay,
        old: &File,
    ) -> io::Result<Result<Outcome, (Staged, Option<Nodes>)>> {
        let made = overlay.make(old);
        let Overlay { redo, staged, .. } = overlay;
        self.torn.keep(redo);
        let (digest, nodes) = made?.finish();
        // It was what the op says when it was written down, and somebody wrote since.
        if Some(digest) != content_of(self.receiver.op(index).change.new.as_ref()) {
            return Ok(Ok(Outcome::Lost));
        }
        Ok(Err((staged, nodes)))
    }
}

impl Patching {
    /// Takes some of the patch; whether that was all of it. Ends early when it is to `stop`.
    pub(in super::super) fn take(
        &mut self,
        mut bytes: &[u8],
        stop: &AtomicBool,
    ) -> Result<bool, Fault> {
        while let Some(piece) = self.patcher.next(&mut bytes).map_err(|_| Fault::Base)? {
            match piece {
                Piece::Bytes(bytes) => self.bring(bytes)?,
                Piece::Copy { offset, length } => self.copy(offset, length, stop)?,
            }
        }
        Ok(self.patcher.is_complete())
    }

    /// Checks what was made: `known` are the hashes of the old content's parts.
    pub(in super::super) fn finish(
        self,
        wanted: Option<Digest>,
        known: Option<&Nodes>,
        stop: &AtomicBool,
    ) -> Result<Made, Fault> {
        match self.new {
            New::Memory(content) if Some(Digest::of(&content)) == wanted => {
                Ok(Made::Memory(content))
            }
            New::Staged(staged, hasher) => {
                let (digest, nodes) = hasher.finish();
                if Some(digest) == wanted {
                    Ok(Made::Staged(staged, nodes))
                } else {
                    Err(Fault::Base)
                }
            }
            New::Over(mut overlay) => {
                let nodes = overlay.nodes(&self.old, known, stop)?;
                let digest = nodes.digest();
                if digest.is_none() || digest != wanted {
                    return Err(Fault::Base);
                }
                overlay.redo.take_rest(&self.old).map_err(not_as_it_was)?;
                Ok(Made::Over(Box::new(Over { overlay: *overlay, old: self.old, nodes })))
            }
            New::Memory(_) | New::Nowhere => Err(Fault::Base),
        }
    }

    fn bring(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if let New::Over(overlay) = &mut self.new
            && !overlay.bring(bytes, &self.old).map_err(not_as_it_was)?
        {
            self.beside()?;
        } else if matches!(self.new, New::Over(_)) {
            return Ok(());
        }
        Ok(self.new.append(bytes)?)
    }

    /// Gives up to patch in place.
    fn beside(&mut self) -> Result<(), Fault> {
        if let New::Over(mut overlay) = std::mem::replace(&mut self.new, New::Nowhere) {
            let hasher = overlay.make(&self.old)?;
            self.new = New::Staged(overlay.staged, Box::new(hasher));
        }
        Ok(())
    }

    fn copy(&mut self, mut offset: u64, mut length: u64, stop: &AtomicBool) -> Result<(), Fault> {
        if let New::Over(overlay) = &mut self.new {
            if overlay.stays(offset, length) {
                return Ok(());
            }
            self.beside()?;
        }
        while length > 0 {
            if stop.load(Ordering::Relaxed) {
                return Err(io::Error::from(io::ErrorKind::Interrupted).into());
            }
            let now = usize::try_from(length).map_or(READ_BYTES, |length| length.min(READ_BYTES));
            if self.buffer.len() < now {
                self.buffer.resize(now, 0);
            }
            let buffer = &mut self.buffer[..now];
            // It may have become shorter meanwhile.
            self.old.read_exact_at(buffer, offset).map_err(|_| Fault::Base)?;
            self.new.append(buffer)?;
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

/// The old file has become shorter, or it cannot be read or written down.
fn not_as_it_was(error: io::Error) -> Fault {
    if error.kind() == io::ErrorKind::UnexpectedEof { Fault::Base } else { error.into() }
}
