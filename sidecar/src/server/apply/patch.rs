//! Owns content that is made from what the target holds: the old file and a patch become the new one.
//!
//! The old file is read as it is found, whoever wrote it; the result's digest decides. Where it is not
//! what the op says, for the old file was not what the record says, nothing is written and the record
//! forgets the path: the daemon sends the whole, and the look before that finds whose the old file is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::super::look::content_of;
use super::super::root::Staged;
use super::super::site::Site;
use super::{Outcome, file_size};
use crate::delta::{Patcher, Piece};
use crate::tree::{Digest, Entry, Reason};

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
    Staged(Staged, Box<blake3::Hasher>),
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
        let Some(Entry::File { size: old_size, .. }) = op.change.old else {
            return Err(self.wrong_base(index));
        };
        // Whatever is wrong with the old file, the look before a whole one tells it better.
        let old = root.open_file(&below).map_err(|_| self.wrong_base(index))?;
        if old.metadata().map_or(true, |found| found.len() != old_size) {
            return Err(self.wrong_base(index));
        }
        let size = file_size(op);
        let new = if size <= IN_MEMORY_BYTES {
            New::Memory(Vec::with_capacity(size as usize))
        } else {
            New::Staged(root.stage(&below, size)?, Box::default())
        };
        Ok(Patching { old, patcher: Patcher::new(old_size, size), new, buffer: Vec::new() })
    }

    fn end_patch(&mut self, index: u32) {
        let Some(patching) = self.applying.patches.remove(&index) else { return };
        let wanted = content_of(self.receiver.op(index).change.new.as_ref());
        match patching.new {
            New::Memory(content) if Some(Digest::of(&content)) == wanted => {
                let outcome = self.twice(index, |site, index| site.fill(index, &content));
                self.report(index, outcome);
            }
            New::Staged(staged, hasher) if Some(Digest::from(hasher.finalize())) == wanted => {
                self.applying.staged.insert(index, staged);
                self.place(index);
            }
            _ => {
                let outcome = self.wrong_base(index);
                self.report(index, outcome);
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
                Piece::Bytes(bytes) => self.new.append(bytes).map_err(Fault::Write)?,
                Piece::Copy { offset, length } => self.copy(offset, length)?,
            }
        }
        Ok(())
    }

    fn copy(&mut self, mut offset: u64, mut length: u64) -> Result<(), Fault> {
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
        }
        Ok(())
    }
}
