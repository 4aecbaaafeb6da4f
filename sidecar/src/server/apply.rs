//! Performs the steps of a generation at a site: the one place where the record, the roots and the
//! trash meet.
//!
//! Before anything is replaced it is looked at. What we wrote ourselves is known by its stamp; what
//! is equal already is taken over; anything else goes to the trash first and is counted. A fault is
//! the fault of one path: it becomes a reason, and the rest goes on.

use std::collections::HashMap;
use std::io::Read;
use std::ops::Range;
use std::time::Instant;

use tracing::{debug, info, warn};

use super::root::{
    Found, FoundKind, PutMeta, Removed, RootError, RootErrorKind, Staged, TargetRoot,
};
use super::site::{Site, entry_of};
use crate::path::SyncPath;
use crate::receive::{Finished, Step};
use crate::tree::{Digest, Entry, Node, Problem, Reason, Stamp};
use crate::wire::{self, FromHub, How, Listed, OPS_PER_FRAME, Op, WireError};

/// Files of one frame that are worth a second thread.
const PARALLEL_FROM: usize = 8;

/// What a generation needs while it is being applied.
#[derive(Default)]
pub(super) struct Applying {
    /// Content that comes in several pieces.
    pieces: HashMap<u32, (Staged, blake3::Hasher)>,
    /// Content set aside.
    staged: HashMap<u32, Staged>,
    /// Foreign content that went to the trash.
    overwritten: Vec<SyncPath>,
    adopted: u64,
    began: Option<Instant>,
    generation: u64,
}

/// How one op went.
enum Outcome {
    Done(Stamp),
    Skip(Reason),
    /// The record is wrong about this path.
    Lost,
    /// The content is not there.
    Need,
    /// Something that is not ours stands there; it goes to the trash before the next try.
    Foreign,
}

impl From<RootError> for Outcome {
    fn from(error: RootError) -> Self {
        Self::Skip(reason(&error))
    }
}

fn reason(error: &RootError) -> Reason {
    match error.kind {
        RootErrorKind::NoSpace | RootErrorKind::Quota => Reason::NoSpace,
        RootErrorKind::ReadOnly => Reason::ReadOnly,
        RootErrorKind::Denied => Reason::Denied,
        RootErrorKind::Busy => Reason::Busy,
        RootErrorKind::MountPoint => Reason::MountPoint,
        RootErrorKind::LinkInTheWay => Reason::LinkInTheWay,
        RootErrorKind::NotEmpty => Reason::NotEmpty,
        RootErrorKind::NotRegular => Reason::Special,
        RootErrorKind::Reserved | RootErrorKind::NameTooLong => Reason::Name,
        RootErrorKind::UnsafeLink => Reason::UnsafeLink,
        RootErrorKind::Changed => Reason::Unstable,
        _ => match &error.source {
            Some(source) => Reason::Io(format!("{}: {source}", error.kind)),
            None => Reason::Io(error.kind.to_string()),
        },
    }
}

impl Site {
    /// Takes ops; with the last of them come the first steps, and the answer to the questions.
    pub(super) fn take_ops(
        &mut self,
        generation: u64,
        ops: Vec<Op>,
        last: bool,
    ) -> Result<Vec<FromHub>, WireError> {
        let steps = self.receiver.take_ops(generation, ops, last)?;
        if !last {
            return Ok(Vec::new());
        }
        self.applying = Applying { generation, began: Some(Instant::now()), ..Applying::default() };
        if let Some(store) = &mut self.store {
            let changes = self.receiver.ops().iter().map(|op| &op.change);
            if let Err(error) = store.begin(generation, changes) {
                // Without the note nothing may be written: a crash would orphan it.
                warn!(%error, "the record cannot be written");
                for index in 0..self.receiver.ops().len() {
                    self.receiver.skip(index as u32, Reason::from(&error));
                }
                return Ok(self.answer());
            }
        }
        self.perform(steps, &[]);
        Ok(self.answer())
    }

    fn answer(&self) -> Vec<FromHub> {
        let adopted = self.applying.adopted;
        let Some(indices) = self.receiver.needed() else { return Vec::new() };
        let parts = wire::batches(indices);
        let mut answers: Vec<FromHub> =
            parts.map(|indices| FromHub::Need { indices, adopted, last: false }).collect();
        answers.push(FromHub::Need { indices: Vec::new(), adopted, last: true });
        answers
    }

    /// Takes content.
    pub(super) fn take_data(
        &mut self,
        body: &[u8],
        pieces: Vec<(u32, Range<usize>)>,
    ) -> Result<(), WireError> {
        let steps = self.receiver.take_data(pieces)?;
        self.perform(steps, body);
        Ok(())
    }

    /// Ends the generation; the answer is the acknowledgement.
    pub(super) fn commit(
        &mut self,
        generation: u64,
        target: crate::tree::TreeId,
    ) -> Result<Vec<FromHub>, WireError> {
        let steps = self.receiver.commit(generation, target)?;
        self.perform(steps, &[]);
        let Finished { generation, edits, skipped } = self.receiver.finish()?;
        let held = self.receiver.held().clone();
        if let Some(Err(error)) = self.store.as_mut().map(|s| s.finish(generation, &edits, &held)) {
            warn!(%error, generation, "the record cannot be written; it is tried again");
        }
        let done = std::mem::take(&mut self.applying);
        let micros = done.began.map_or(0, |began| began.elapsed().as_micros() as u64);
        debug!(generation, micros, edits = edits.len(), skipped = skipped.len(), "applied");
        let (tree, overwritten) = (held.id(), done.overwritten);
        let small = skipped.len() + overwritten.len() <= OPS_PER_FRAME / 8;
        if small {
            let all = FromHub::Applied { generation, tree, skipped, overwritten, micros };
            return Ok(vec![all]);
        }
        let nothing = Vec::new;
        let skips = wire::batches(skipped)
            .map(|skipped| FromHub::AppliedPart { skipped, overwritten: nothing() });
        let mut answers: Vec<FromHub> = skips.collect();
        answers.extend(
            wire::batches(overwritten)
                .map(|overwritten| FromHub::AppliedPart { skipped: Vec::new(), overwritten }),
        );
        let (skipped, overwritten) = (Vec::new(), Vec::new());
        answers.push(FromHub::Applied { generation, tree, skipped, overwritten, micros });
        Ok(answers)
    }

    /// Forgets a generation whose link was cut: what was done of it enters the record.
    pub(super) fn abandon(&mut self) {
        if self.receiver.ops().is_empty() {
            return;
        }
        self.applying = Applying::default();
        self.receiver.abandon();
        let (generation, held) = (self.receiver.generation(), self.receiver.held().clone());
        if let Some(Err(error)) = self.store.as_mut().map(|s| s.reset(generation, &held)) {
            warn!(%error, "the record cannot be written");
        }
    }

    fn perform(&mut self, steps: Vec<Step>, body: &[u8]) {
        let mut small = Vec::new();
        for step in steps {
            match step {
                Step::Write { index, offset: 0, range, complete: true } => {
                    small.push((index, &body[range]));
                }
                Step::Write { index, range, complete, .. } => {
                    self.piece(index, &body[range], complete);
                }
                step => self.perform_one(&step),
            }
        }
        self.write_small(&small);
    }

    fn perform_one(&mut self, step: &Step) {
        let (index, outcome) = match *step {
            Step::Stage { index } => return self.set_aside(index),
            Step::Place { index } => return self.place(index),
            Step::Ask { index } => (index, self.ask(index)),
            Step::Copy { index } => return self.copy(index),
            Step::Move { index, removal } => return self.move_file(index, removal),
            Step::MakeDirectory { index } => (index, self.twice(index, Self::make_directory)),
            Step::Make { index } => (index, self.twice(index, Self::make)),
            Step::Remove { index } => (index, self.twice(index, Self::remove)),
            Step::Write { .. } => return,
        };
        self.report(index, outcome);
    }

    fn report(&mut self, index: u32, outcome: Outcome) {
        match outcome {
            Outcome::Done(stamp) => self.receiver.done(index, stamp),
            Outcome::Skip(reason) => self.receiver.skip(index, reason),
            Outcome::Lost => self.receiver.lost(index),
            Outcome::Need => self.receiver.need(index),
            Outcome::Foreign => self.receiver.skip(index, Reason::Conflict),
        }
    }

    /// Tries; when something foreign stands there, puts it into the trash and tries once more.
    fn twice(&mut self, index: u32, attempt: impl Fn(&Self, u32) -> Outcome) -> Outcome {
        match attempt(self, index) {
            Outcome::Foreign => match self.trash(index) {
                Ok(()) => attempt(self, index),
                Err(reason) => Outcome::Skip(reason),
            },
            outcome => outcome,
        }
    }

    /// Puts what stands at an op's path into the trash, and takes it away.
    fn trash(&mut self, index: u32) -> Result<(), Reason> {
        let path = self.receiver.op(index).change.path.clone();
        self.trash_path(&path)?;
        self.applying.overwritten.push(path);
        Ok(())
    }

    fn trash_path(&mut self, path: &SyncPath) -> Result<(), Reason> {
        let generation = self.applying.generation;
        let Some((root, below)) = self.locate(path) else { return Err(Reason::Name) };
        let found = root.stat(&below).map_err(|error| reason(&error))?;
        let content: Box<dyn Read> = match found.map(|found| found.kind) {
            Some(FoundKind::File) => {
                Box::new(root.open_file(&below).map_err(|error| reason(&error))?)
            }
            Some(FoundKind::Symlink { target }) => Box::new(std::io::Cursor::new(target)),
            Some(FoundKind::Directory) => return Err(Reason::NotEmpty),
            Some(FoundKind::Other) => return Err(Reason::Special),
            None => return Ok(()),
        };
        let store = self.store.as_mut().ok_or(Reason::ReadOnly)?;
        let kept = store.trash(path, generation, content).map_err(|e| Reason::from(&e))?;
        info!(%path, kept = %kept.display(), "foreign content went to the trash");
        let Some((root, below)) = self.locate(path) else { return Err(Reason::Name) };
        root.remove_file(&below).map_err(|error| reason(&error))?;
        Ok(())
    }

    /// What stands at an op's path, and whether it is what the record says.
    fn look(&self, index: u32) -> Result<Look, Outcome> {
        let op = self.receiver.op(index);
        let Some((root, below)) = self.locate(&op.change.path) else {
            return Err(Outcome::Skip(Reason::Name));
        };
        look(root, &below, self.receiver.held().get(&op.change.path), op)
    }

    fn write_small(&mut self, files: &[(u32, &[u8])]) {
        let write = |&(index, content): &(u32, &[u8])| (index, self.write(index, content));
        let outcomes: Vec<(u32, Outcome)> = if files.len() < PARALLEL_FROM {
            files.iter().map(write).collect()
        } else {
            let (left, right) = files.split_at(files.len() / 2);
            std::thread::scope(|scope| {
                let other = scope.spawn(|| right.iter().map(write).collect::<Vec<_>>());
                let mut all: Vec<_> = left.iter().map(write).collect();
                all.extend(other.join().unwrap_or_default());
                all
            })
        };
        for ((index, outcome), (_, content)) in outcomes.into_iter().zip(files) {
            let outcome = match outcome {
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
    fn write(&self, index: u32, content: &[u8]) -> Outcome {
        let op = self.receiver.op(index);
        if Some(Digest::of(content)) != digest(op) {
            return Outcome::Skip(Reason::Unstable);
        }
        let Some((root, below)) = self.locate(&op.change.path) else {
            return Outcome::Skip(Reason::Name);
        };
        match look(root, &below, self.receiver.held().get(&op.change.path), op) {
            Err(outcome) => outcome,
            Ok(Look::Equal(stamp)) => Outcome::Done(stamp),
            Ok(Look::Foreign) => Outcome::Foreign,
            Ok(Look::Free) => put(root, &below, op, content).unwrap_or_else(Outcome::from),
        }
    }

    /// Writes a piece of a large file.
    fn piece(&mut self, index: u32, bytes: &[u8], complete: bool) {
        let path = self.receiver.op(index).change.path.clone();
        if !self.applying.pieces.contains_key(&index) {
            let Some((root, below)) = self.locate(&path) else { return };
            match root.stage(&below, file_size(self.receiver.op(index))) {
                Ok(staged) => {
                    self.applying.pieces.insert(index, (staged, blake3::Hasher::new()));
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
        if Some(Digest::from(hasher.finalize())) != digest(self.receiver.op(index)) {
            return self.receiver.skip(index, Reason::Unstable);
        }
        self.applying.staged.insert(index, staged);
        self.place(index);
    }

    /// Puts staged content in place.
    fn place(&mut self, index: u32) {
        let Some(staged) = self.applying.staged.remove(&index) else { return };
        let mut look = self.look(index);
        if matches!(look, Ok(Look::Foreign)) {
            look = match self.trash(index) {
                Ok(()) => self.look(index),
                Err(reason) => Err(Outcome::Skip(reason)),
            };
        }
        let op = self.receiver.op(index);
        let outcome = match (look, self.locate(&op.change.path)) {
            (Ok(Look::Equal(stamp)), _) => Outcome::Done(stamp),
            (Ok(Look::Free), Some((root, below))) => root
                .put(&below, staged, &meta(op))
                .map_or_else(Outcome::from, |put| Outcome::Done(put.stamp)),
            (Ok(_), _) => Outcome::Skip(Reason::Conflict),
            (Err(outcome), _) => outcome,
        };
        self.report(index, outcome);
    }

    fn set_aside(&mut self, index: u32) {
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
            Ok((staged, found)) if Some(found) == digest(op) => Ok(staged),
            Ok(_) => Err(Outcome::Need),
            Err(error) if error.kind == RootErrorKind::NoSpace => Err(Outcome::from(error)),
            Err(_) => Err(Outcome::Need),
        }
    }

    fn copy(&mut self, index: u32) {
        match self.copy_aside(index) {
            Ok(staged) => {
                self.applying.staged.insert(index, staged);
                self.place(index);
            }
            Err(outcome) => self.report(index, outcome),
        }
    }

    /// Renames a file that the same generation removes. Anything unusual: copied instead.
    fn move_file(&mut self, index: u32, removal: u32) {
        let from = self.receiver.op(removal).change.path.clone();
        let to = self.receiver.op(index).change.path.clone();
        let plain = matches!(self.look(index), Ok(Look::Free))
            && same_mode(self.receiver.op(removal), self.receiver.op(index));
        let moved = match (self.locate(&from), self.locate(&to)) {
            (Some((a, from_below)), Some((b, to_below))) if plain && std::ptr::eq(a, b) => {
                let ours = matches!(
                    (self.receiver.held().get(&from), a.stat(&from_below)),
                    (Some(Node::File { stamp, .. }), Ok(Some(found)))
                        if *stamp == found.stamp && *stamp != Stamp::default()
                );
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

    fn ask(&mut self, index: u32) -> Outcome {
        match self.look(index) {
            Ok(Look::Equal(stamp)) => {
                self.applying.adopted += 1;
                Outcome::Done(stamp)
            }
            Ok(_) => Outcome::Need,
            Err(outcome) => outcome,
        }
    }

    fn make_directory(&self, index: u32) -> Outcome {
        let op = self.receiver.op(index);
        let Some((root, below)) = self.locate(&op.change.path) else {
            return Outcome::Skip(Reason::Name);
        };
        if below.is_root() {
            return Outcome::Done(Stamp::default());
        }
        match self.look(index) {
            Err(outcome) => outcome,
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
    fn make(&self, index: u32) -> Outcome {
        let op = self.receiver.op(index);
        let Some((root, below)) = self.locate(&op.change.path) else {
            return Outcome::Skip(Reason::Name);
        };
        let look = match self.look(index) {
            Err(outcome) => return outcome,
            Ok(look) => look,
        };
        let made = match (look, &op.change.new) {
            (Look::Equal(stamp), _) => return Outcome::Done(stamp),
            (Look::Foreign, Some(Entry::File { size: 1.., .. })) => return Outcome::Lost,
            (Look::Foreign, _) => return Outcome::Foreign,
            (Look::Free, Some(Entry::Symlink { target })) => root.make_symlink(&below, target),
            (Look::Free, Some(Entry::File { size: 0, .. })) => {
                return put(root, &below, op, &[]).unwrap_or_else(Outcome::from);
            }
            (Look::Free, Some(Entry::File { executable, .. })) => {
                root.set_executable(&below, *executable)
            }
            (Look::Free, _) => return Outcome::Skip(Reason::Conflict),
        };
        made.map_or_else(Outcome::from, Outcome::Done)
    }

    fn remove(&self, index: u32) -> Outcome {
        let op = self.receiver.op(index);
        let Some((root, below)) = self.locate(&op.change.path) else {
            return Outcome::Skip(Reason::Name);
        };
        if below.is_root() {
            return Outcome::Done(Stamp::default());
        }
        let removed = match (self.look(index), &op.change.old) {
            (Err(outcome), _) => return outcome,
            (Ok(Look::Foreign), _) => return Outcome::Foreign,
            (Ok(_), Some(Entry::Directory)) => root.remove_directory(&below),
            (Ok(_), _) => root.remove_file(&below),
        };
        match removed {
            // Files that others made stay, and so does the directory they lie in.
            Ok(Removed::Gone | Removed::Absent | Removed::NotEmpty) => {
                Outcome::Done(Stamp::default())
            }
            Err(error) => error.into(),
        }
    }

    /// Removes unmanaged paths that still are what was listed (`mirror`).
    pub(super) fn remove_foreign(&mut self, paths: &[(SyncPath, Listed)]) -> FromHub {
        self.applying.generation = self.receiver.generation();
        let (mut removed, mut problems) = (0, Vec::new());
        for (path, listed) in paths.iter().rev() {
            match self.remove_foreign_one(path, listed) {
                Ok(true) => removed += 1,
                Ok(false) => {}
                Err(reason) => problems.push(Problem { path: path.clone(), reason }),
            }
        }
        FromHub::ForeignRemoved { removed, problems }
    }

    fn remove_foreign_one(&mut self, path: &SyncPath, listed: &Listed) -> Result<bool, Reason> {
        let Some((root, below)) = self.locate(path) else { return Err(Reason::Name) };
        if self.receiver.held().get(path).is_some() || below.is_root() {
            return Ok(false);
        }
        if matches!(listed, Listed::Directory(_)) {
            let removed = root.remove_directory(&below).map_err(|error| reason(&error))?;
            return Ok(removed == Removed::Gone);
        }
        let expected = Node::from_entry(&entry_of(listed), Stamp::default());
        match root.stat(&below).map_err(|error| reason(&error))? {
            None => Ok(false),
            Some(found) if is_entry(root, &below, &found, &expected) => {
                self.trash_path(path)?;
                Ok(true)
            }
            Some(_) => Err(Reason::Conflict),
        }
    }
}

/// What stands at a path, for who wants to change it.
enum Look {
    /// Nothing, or what we put there: it may be replaced.
    Free,
    /// What is wanted, already.
    Equal(Stamp),
    /// Somebody else's.
    Foreign,
}

fn look(
    root: &TargetRoot,
    below: &SyncPath,
    held: Option<&Node>,
    op: &Op,
) -> Result<Look, Outcome> {
    let Some(found) = root.stat(below).or_else(absent)? else { return Ok(Look::Free) };
    match (&found.kind, held, &op.change.new) {
        (FoundKind::Other, ..) => Err(Outcome::Skip(Reason::Special)),
        // An emptied directory makes room; `put` refuses one that is not empty.
        (FoundKind::Directory, _, Some(Entry::Directory)) => Ok(Look::Equal(Stamp::default())),
        (FoundKind::Directory, Some(Node::Directory(_)), _) => Ok(Look::Free),
        (FoundKind::Directory, ..) => Err(Outcome::Skip(Reason::NotEmpty)),
        (FoundKind::Symlink { target }, Some(Node::Symlink(link)), _) if link == target => {
            Ok(Look::Free)
        }
        (FoundKind::Symlink { target }, _, Some(Entry::Symlink { target: wanted }))
            if target == wanted =>
        {
            Ok(Look::Equal(found.stamp))
        }
        (FoundKind::File, Some(&Node::File { size, stamp, .. }), _)
            if stamp == found.stamp && size == found.size && stamp != Stamp::default() =>
        {
            Ok(Look::Free)
        }
        (FoundKind::File, held, wanted) => {
            let Some((digest, found)) = root.hash(below)? else { return Ok(Look::Free) };
            let found_entry =
                Entry::File { digest, size: found.size, executable: found.executable };
            Ok(if wanted.as_ref() == Some(&found_entry) {
                Look::Equal(found.stamp)
            } else if held.map(Node::entry) == Some(found_entry) {
                Look::Free
            } else {
                Look::Foreign
            })
        }
        (FoundKind::Symlink { .. }, ..) => Ok(Look::Foreign),
    }
}

/// A missing directory on the way means that nothing stands there.
fn absent(error: RootError) -> Result<Option<Found>, Outcome> {
    if error.kind == RootErrorKind::NotFound { Ok(None) } else { Err(error.into()) }
}

fn is_entry(root: &TargetRoot, below: &SyncPath, found: &Found, expected: &Node) -> bool {
    match (&found.kind, expected) {
        (FoundKind::Symlink { target }, Node::Symlink(link)) => target == link,
        (FoundKind::File, Node::File { digest, .. }) => {
            matches!(root.hash(below), Ok(Some((found, _))) if found == *digest)
        }
        _ => false,
    }
}

fn put(root: &TargetRoot, below: &SyncPath, op: &Op, content: &[u8]) -> Result<Outcome, RootError> {
    let mut staged = root.stage(below, content.len() as u64)?;
    if let Err(error) = staged.write_all(content) {
        return Ok(Outcome::Skip(Reason::from(&error)));
    }
    root.put(below, staged, &meta(op)).map(|put| Outcome::Done(put.stamp))
}

fn meta(op: &Op) -> PutMeta {
    PutMeta {
        executable: matches!(op.change.new, Some(Entry::File { executable: true, .. })),
        mode: (op.meta.mode != 0).then_some(op.meta.mode.into()),
        mtime_ns: (op.meta.mtime_ns != 0).then_some(op.meta.mtime_ns),
    }
}

fn digest(op: &Op) -> Option<Digest> {
    match op.change.new {
        Some(Entry::File { digest, .. }) => Some(digest),
        _ => None,
    }
}

fn file_size(op: &Op) -> u64 {
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
