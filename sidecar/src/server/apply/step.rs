//! What one step does at one path.

use super::super::look::{Look, content_of, is_as_written, reason, whose};
use super::super::root::{Found, FoundKind, PutMeta, Removed, RootErrorKind, Staged};
use super::super::site::Site;
use super::Outcome;
use crate::delta::NodeHasher;
use crate::tree::{Digest, Entry, Reason, Stamp};
use crate::wire::{How, Op};

impl Site {
    pub(super) fn write_small(&mut self, files: &[(u32, &[u8])]) {
        for &(index, content) in files {
            let outcome = match self.write(index, content) {
                Outcome::Foreign => match self.trash(index) {
                    Ok(()) => self.write(index, content),
                    Err(reason) => Outcome::Skip(reason),
                },
                outcome => outcome,
            };
            self.report(index, outcome);
        }
    }

    /// Writes a whole small file.
    pub(super) fn write(&self, index: u32, content: &[u8]) -> Outcome {
        let op = self.receiver.op(index);
        if Some(Digest::of(content)) != content_of(op.change.new.as_ref()) {
            return Outcome::Skip(Reason::Unstable);
        }
        self.fill(index, content)
    }

    /// Stages content and puts it in place.
    pub(super) fn fill(&self, index: u32, content: &[u8]) -> Outcome {
        let Some((_, root, below)) = self.place_of(index) else {
            return Outcome::Skip(Reason::Name);
        };
        let mut staged = match root.stage(&below, content.len() as u64) {
            Ok(staged) => staged,
            Err(error) => return error.into(),
        };
        if let Err(error) = staged.write_all(content) {
            return Outcome::Skip(Reason::from(&error));
        }
        self.put(index, staged)
    }

    /// Puts staged content in place, if what stands there may be replaced.
    pub(super) fn put(&self, index: u32, staged: Staged) -> Outcome {
        let Some((op, root, below)) = self.place_of(index) else {
            return Outcome::Skip(Reason::Name);
        };
        let held = self.receiver.held().get(&op.change.path);
        let kept = self.applying.kept.get(&index).copied();
        let may = |found: Option<&Found>| match whose(root, &below, found, held, kept, op) {
            Ok(Look::Free) => Ok(()),
            Ok(Look::Equal(stamp)) => Err(Outcome::Done(stamp)),
            Ok(Look::Foreign) => Err(Outcome::Foreign),
            Err(reason) => Err(reason.into()),
        };
        match root.put_if(&below, staged, &meta(op), may) {
            Ok(Ok(put)) => Ok(put).into(),
            Ok(Err(outcome)) => outcome,
            Err(error) => error.into(),
        }
    }

    /// Writes a piece of a large file.
    pub(super) fn piece(&mut self, index: u32, offset: u64, bytes: &[u8], complete: bool) {
        let path = self.receiver.op(index).change.path.clone();
        if !self.applying.pieces.contains_key(&index) {
            if offset > 0 {
                // An earlier piece failed; that is told already.
                return;
            }
            let Some((root, below)) = self.locate(&path) else { return };
            match root.stage(&below, file_size(self.receiver.op(index))) {
                Ok(staged) => {
                    self.applying.pieces.insert(index, (staged, NodeHasher::default()));
                }
                Err(error) => return self.receiver.skip(index, reason(&error)),
            }
        }
        let Some((staged, hasher)) = self.applying.pieces.get_mut(&index) else { return };
        hasher.update(bytes);
        if let Err(error) = staged.write_all(bytes) {
            self.applying.pieces.remove(&index);
            return self.receiver.skip(index, Reason::from(&error));
        }
        if !complete {
            return;
        }
        let Some((staged, hasher)) = self.applying.pieces.remove(&index) else { return };
        let wanted = content_of(self.receiver.op(index).change.new.as_ref());
        let (digest, nodes) = hasher.finish();
        if Some(digest) != wanted {
            return self.receiver.skip(index, Reason::Unstable);
        }
        self.parts.keep(digest, nodes);
        self.applying.staged.insert(index, staged);
        self.place(index);
    }

    /// Puts staged content in place.
    pub(super) fn place(&mut self, index: u32) {
        let Some(staged) = self.applying.staged.remove(&index) else { return };
        let mut look = self.look(index);
        if matches!(look, Ok(Look::Foreign)) {
            look = self.trash(index).and_then(|()| self.look(index));
        }
        let op = self.receiver.op(index);
        let outcome = match (look, self.locate(&op.change.path)) {
            (Ok(Look::Equal(stamp)), _) => Outcome::Done(stamp),
            (Ok(Look::Free), Some((root, below))) => root.put(&below, staged, &meta(op)).into(),
            (Ok(_), _) => Outcome::Foreign,
            (Err(reason), _) => reason.into(),
        };
        self.report(index, outcome);
    }

    pub(super) fn set_aside(&mut self, index: u32) {
        match self.copy_aside(index) {
            Ok(staged) => {
                self.applying.staged.insert(index, staged);
            }
            Err(outcome) => self.report(index, outcome),
        }
    }

    /// Copies an op's source to staging; its content must be what the op says.
    fn copy_aside(&self, index: u32) -> Result<Staged, Outcome> {
        let op = self.receiver.op(index);
        let How::Copy { from } = &op.how else { return Err(Outcome::Need) };
        let (Some((root, below)), Some((source, from_below))) =
            (self.locate(&op.change.path), self.locate(from))
        else {
            return Err(Outcome::Skip(Reason::Name));
        };
        if !std::ptr::eq(root, source) {
            // Another path pair: its content is sent.
            return Err(Outcome::Need);
        }
        match root.copy_to_stage(&from_below, &below) {
            Ok((staged, found)) if Some(found) == content_of(op.change.new.as_ref()) => Ok(staged),
            Ok(_) => Err(Outcome::Need),
            Err(error) if matches!(error.kind, RootErrorKind::NoSpace | RootErrorKind::Quota) => {
                Err(error.into())
            }
            Err(_) => Err(Outcome::Need),
        }
    }

    pub(super) fn copy(&mut self, index: u32) {
        match self.copy_aside(index) {
            Ok(staged) => {
                self.applying.staged.insert(index, staged);
                self.place(index);
            }
            Err(outcome) => self.report(index, outcome),
        }
    }

    /// Renames a file that the same generation removes. Anything unusual: copied instead.
    pub(super) fn move_file(&mut self, index: u32, removal: u32) {
        let from = self.receiver.op(removal).change.path.clone();
        let to = self.receiver.op(index).change.path.clone();
        let plain = matches!(self.look(index), Ok(Look::Free))
            && same_mode(self.receiver.op(removal), self.receiver.op(index));
        let moved = match (self.locate(&from), self.locate(&to)) {
            (Some((a, from_below)), Some((b, to_below))) if plain && std::ptr::eq(a, b) => {
                let found = a.stat(&from_below);
                let ours = matches!(found, Ok(Some(found))
                    if is_as_written(self.receiver.held().get(&from), &found));
                if ours { a.rename(&from_below, &to_below).ok() } else { None }
            }
            _ => None,
        };
        match moved {
            Some(stamp) => {
                self.receiver.done(index, stamp);
                self.receiver.done(removal, Stamp::default());
            }
            None => self.copy(index),
        }
    }

    pub(super) fn ask(&mut self, index: u32) -> Outcome {
        match self.look(index) {
            Ok(Look::Equal(stamp)) => {
                self.applying.adopted += 1;
                Outcome::Done(stamp)
            }
            Ok(_) => Outcome::Need,
            Err(reason) => reason.into(),
        }
    }

    pub(super) fn make_directory(&self, index: u32) -> Outcome {
        let Some((op, root, below)) = self.place_of(index) else {
            return Outcome::Skip(Reason::Name);
        };
        if below.is_root() {
            return Outcome::Done(Stamp::default());
        }
        match self.look(index) {
            Err(reason) => reason.into(),
            Ok(Look::Foreign) => Outcome::Foreign,
            Ok(Look::Equal(stamp)) => Outcome::Done(stamp),
            Ok(Look::Free) => {
                let mode = (op.meta.mode != 0).then_some(op.meta.mode.into());
                match root.make_directory(&below, mode) {
                    Ok(()) => Outcome::Done(Stamp::default()),
                    Err(error) => error.into(),
                }
            }
        }
    }

    /// Links, empty files, and the executable bit.
    pub(super) fn make(&self, index: u32) -> Outcome {
        let Some((op, root, below)) = self.place_of(index) else {
            return Outcome::Skip(Reason::Name);
        };
        let look = match self.look(index) {
            Err(reason) => return reason.into(),
            Ok(look) => look,
        };
        let made = match (look, &op.change.new) {
            (Look::Equal(stamp), _) => return Outcome::Done(stamp),
            (look, Some(Entry::File { size: 1.., executable, .. })) => {
                // Only the bit changes, so the content must still be there.
                let file = matches!(root.stat(&below), Ok(Some(f)) if f.kind == FoundKind::File);
                if !file || matches!(look, Look::Foreign) {
                    return Outcome::Lost;
                }
                root.set_executable(&below, *executable)
            }
            (Look::Foreign, _) => return Outcome::Foreign,
            (Look::Free, Some(Entry::Symlink { target })) => root.make_symlink(&below, target),
            (Look::Free, Some(Entry::File { .. })) => return self.fill(index, &[]),
            (Look::Free, _) => return Outcome::Skip(Reason::Special),
        };
        made.map_or_else(Outcome::from, Outcome::Done)
    }

    pub(super) fn remove(&self, index: u32) -> Outcome {
        let Some((op, root, below)) = self.place_of(index) else {
            return Outcome::Skip(Reason::Name);
        };
        if below.is_root() {
            return Outcome::Done(Stamp::default());
        }
        let removed = match (self.look(index), &op.change.old) {
            (Err(reason), _) => return reason.into(),
            (Ok(Look::Foreign), _) => return Outcome::Foreign,
            (Ok(Look::Equal(_)), _) => return Outcome::Done(Stamp::default()),
            (Ok(_), Some(Entry::Directory)) => root.remove_directory(&below),
            (Ok(_), _) => root.remove_file(&below),
        };
        match removed {
            // Files that others made stay, and so does the directory they lie in.
            Ok(Removed::NotEmpty) => Outcome::Done(Stamp::default()),
            Ok(Removed::Gone | Removed::Absent) => Outcome::Gone,
            Err(error) => error.into(),
        }
    }
}

pub(super) fn meta(op: &Op) -> PutMeta {
    PutMeta {
        executable: matches!(op.change.new, Some(Entry::File { executable: true, .. })),
        mode: (op.meta.mode != 0).then_some(op.meta.mode.into()),
        mtime_ns: (op.meta.mtime_ns != 0).then_some(op.meta.mtime_ns),
    }
}

pub(super) fn file_size(op: &Op) -> u64 {
    match op.change.new {
        Some(Entry::File { size, .. }) => size,
        _ => 0,
    }
}

fn same_mode(a: &Op, b: &Op) -> bool {
    matches!(
        (&a.change.old, &b.change.new),
        (Some(Entry::File { executable: x, .. }), Some(Entry::File { executable: y, .. })) if x == y
    )
}
