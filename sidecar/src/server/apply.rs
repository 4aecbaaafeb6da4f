//! Performs the steps of a generation at a site: the one place where the record, the roots and the
//! trash meet.
//!
//! Before anything is replaced it is looked at (`look`); of what is somebody else's the trash gets a
//! copy first, and it is counted. A fault is the fault of one path: it becomes a reason, and the rest
//! goes on. [`Reason::Conflict`] makes the daemon plan again at once, so it is only given where the
//! record differs afterwards from what the daemon believed; what may happen again is
//! [`Reason::Unstable`], which is tried again later.

mod overlay;
mod patch;
mod redo;
mod step;
mod tree;

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tracing::{debug, info, warn};

pub(super) use self::overlay::{Parts, Torn};
pub(super) use self::patch::{Fault, Made, Patching};
use self::step::meta;
use super::ahead::Lane;
use super::hands::{AHEAD, Hands, Job, NewFile};
use super::look::{Look, content_of, is_as_written, look, reason};
use super::memory;
use super::replay::is_full;
use super::root::{FoundKind, InPlace, Put, RootError, Staged, TargetRoot};
use super::site::Site;
use super::store::Store;
use crate::delta::NodeHasher;
use crate::path::SyncPath;
use crate::receive::{Finished, Step};
use crate::tree::{Reason, Stamp, TreeId};
use crate::wire::{self, FromHub, How, OPS_PER_FRAME, Op, WireError};

/// Pieces of one frame that are worth other threads.
const PARALLEL_FROM: usize = 8;

/// What a generation needs while it is being applied.
#[derive(Default)]
pub(super) struct Applying {
    /// Content that comes in several pieces.
    pieces: HashMap<u32, (Staged, NodeHasher)>,
    /// Content that is made from the old one.
    patches: HashMap<u32, Patching>,
    /// Content set aside.
    staged: HashMap<u32, Staged>,
    /// Foreign content that went to the trash.
    overwritten: Vec<SyncPath>,
    /// What the trash holds a copy of, as it stood then: it may be replaced.
    kept: HashMap<u32, Stamp>,
    /// Who makes new files meanwhile, once there are many.
    hands: Option<Hands>,
    adopted: u64,
    /// Files that could not be replaced by a rename.
    in_place: u64,
    began: Option<Instant>,
    generation: u64,
}

/// One frame of a generation's ops.
pub(super) struct Brought {
    pub(super) generation: u64,
    /// What they lead on from, where that tells what stands at their paths.
    pub(super) base: Option<TreeId>,
    pub(super) ops: Vec<Op>,
    pub(super) last: bool,
}

/// How one op went.
enum Outcome {
    Done(Stamp),
    /// Removed, and nothing stands there.
    Gone,
    /// Done, but a reader may have seen a mixture (the exception of I1).
    InPlace(Stamp, InPlace),
    Skip(Reason),
    /// The record is wrong about this path.
    Lost,
    /// The content is not there.
    Need,
    /// Something that is not ours stands there; the trash gets a copy before the next try.
    Foreign,
}

impl From<RootError> for Outcome {
    fn from(error: RootError) -> Self {
        Self::Skip(reason(&error))
    }
}

impl From<Reason> for Outcome {
    fn from(reason: Reason) -> Self {
        Self::Skip(reason)
    }
}

impl From<Result<Put, RootError>> for Outcome {
    fn from(put: Result<Put, RootError>) -> Self {
        match put {
            Ok(Put { stamp, in_place: None }) => Self::Done(stamp),
            Ok(Put { stamp, in_place: Some(why) }) => Self::InPlace(stamp, why),
            Err(error) => error.into(),
        }
    }
}

impl Site {
    /// Takes ops; with the last of them come the first steps, and the answer to the questions.
    pub(super) fn take_ops(&mut self, brought: Brought) -> Result<Vec<FromHub>, WireError> {
        let Brought { generation, base, ops, last } = brought;
        let steps = match base {
            Some(base) => self.receiver.take_packed(generation, base, ops, last)?,
            None => self.receiver.take_ops(generation, ops, last)?,
        };
        if !last {
            return Ok(Vec::new());
        }
        self.applying = Applying { generation, began: Some(Instant::now()), ..Applying::default() };
        self.roots.iter().flatten().for_each(|root| root.ask_for_staging_again());
        if let Some(store) = &mut self.store {
            let receiver = &self.receiver;
            let begin = |store: &mut Store| {
                let changes = receiver.ops().iter().map(|op| &op.change);
                store.begin(generation, changes, receiver.moves())
            };
            let begun = begin(store).or_else(|error| {
                let held = receiver.held();
                let inside = self.inside.as_mut().filter(|_| is_full(&error));
                // Rather than not to sync at all.
                let gave_way = inside.is_some_and(|inside| inside.give_way(held));
                if gave_way { begin(store) } else { Err(error) }
            });
            if let Err(error) = begun {
                // Without the note nothing may be written: a crash would orphan it.
                warn!(%error, "the record cannot be written");
                self.receiver.skip_all(&Reason::from(&error));
                self.ahead.let_go(self.receiver.ops());
                return Ok(self.answer());
            }
        }
        self.perform(steps, &[]);
        self.ahead.let_go(self.receiver.ops());
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
        body: Vec<u8>,
        pieces: Vec<(u32, Range<usize>)>,
    ) -> Result<(), WireError> {
        let steps = self.receiver.take_data(pieces)?;
        if self.applying.hands.is_some() || steps.len() >= PARALLEL_FROM {
            self.hand_out(&body.into(), steps);
        } else {
            self.perform(steps, &body);
        }
        Ok(())
    }

    /// Has new files made by other threads; does the rest itself.
    fn hand_out(&mut self, body: &Arc<[u8]>, mut steps: Vec<Step>) {
        if self.applying.hands.is_none() {
            self.applying.hands = Hands::new().ok();
        }
        let mut files = Vec::new();
        if self.applying.hands.is_some() {
            steps.retain(|step| {
                let file = self.new_file(step);
                let keep = file.is_none();
                files.extend(file);
                keep
            });
        }
        if let Some(hands) = self.applying.hands.as_mut().filter(|_| !files.is_empty()) {
            hands.give(Job { body: Arc::clone(body), files });
        }
        self.perform(steps, body);
        self.gather(AHEAD);
    }

    /// The file that a step makes where nothing stood and nothing is expected.
    fn new_file(&self, step: &Step) -> Option<NewFile> {
        let Step::Write { index, offset: 0, ref range, complete: true } = *step else {
            return None;
        };
        let op = self.receiver.op(index);
        let digest = content_of(op.change.new.as_ref())?;
        let (root, path) = self.locate(&op.change.path)?;
        let root = Arc::clone(root);
        let file = NewFile { index, root, path, range: range.clone(), digest, meta: meta(op) };
        (op.change.old.is_none() && op.how == How::Data).then_some(file)
    }

    /// Takes in what other threads did, until at most `ahead` frames are left with them.
    fn gather(&mut self, ahead: usize) {
        while let Some(done) = self.applying.hands.as_mut().and_then(|hands| hands.gather(ahead)) {
            let mut left = Vec::new();
            for (index, range, made) in done.files {
                match made {
                    Some(stamp) => self.receiver.done(index, stamp),
                    None => left.push((index, &done.body[range])),
                }
            }
            self.write_small(&left);
        }
    }

    /// Ends the generation; the answer is the acknowledgement.
    pub(super) fn commit(
        &mut self,
        generation: u64,
        target: TreeId,
    ) -> Result<Vec<FromHub>, WireError> {
        self.gather(0);
        self.applying.hands = None;
        let steps = self.receiver.commit(generation, target)?;
        self.perform(steps, &[]);
        let forgotten: HashSet<SyncPath> = (self.receiver.ops().iter())
            .filter(|op| op.how == How::Forget)
            .map(|op| op.change.path.clone())
            .collect();
        let Finished { generation, edits, skipped } = self.receiver.finish()?;
        let held = self.receiver.held().clone();
        if let Some(Err(error)) = self.store.as_mut().map(|s| s.finish(generation, &edits, &held)) {
            warn!(%error, generation, "the record cannot be written; it is tried again");
        }
        let done = std::mem::take(&mut self.applying);
        let micros = done.began.map_or(0, |began| began.elapsed().as_micros() as u64);
        let (count, skips, in_place) = (edits.len(), skipped.len(), done.in_place);
        self.remember(&edits, &forgotten);
        if count >= memory::WORTH_FROM {
            memory::give_back();
        }
        debug!(generation, micros, edits = count, skipped = skips, in_place, "applied");
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

    /// Forgets a generation whose link was cut: what was done of it enters the record. What came ahead
    /// is gone.
    pub(super) fn abandon(&mut self) {
        self.ahead = Lane::default();
        if self.receiver.ops().is_empty() {
            return;
        }
        self.gather(0);
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
                Step::Write { index, offset, range, complete } => {
                    self.piece(index, offset, &body[range], complete);
                }
                Step::Patch { index, range } => self.patch(index, &body[range]),
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
            Step::MoveTree { index, removal } => return self.move_tree(index, removal),
            Step::Move { index, removal } => return self.move_file(index, removal),
            Step::MakeDirectory { index } => (index, self.twice(index, Self::make_directory)),
            Step::Make { index } => (index, self.twice(index, Self::make)),
            Step::PutHeld { index } => return self.put_held(index),
            Step::Remove { index } => (index, self.twice(index, Self::remove)),
            Step::Write { .. } | Step::Patch { .. } => return,
        };
        self.report(index, outcome);
    }

    fn report(&mut self, index: u32, outcome: Outcome) {
        if matches!(outcome, Outcome::Done(_) | Outcome::InPlace(..) | Outcome::Gone) {
            self.torn.whole(&self.receiver.op(index).change.path);
        }
        match outcome {
            Outcome::Done(stamp) => self.receiver.done(index, stamp),
            Outcome::Gone => self.receiver.gone(index),
            Outcome::InPlace(stamp, why) => {
                let path = &self.receiver.op(index).change.path;
                info!(%path, ?why, "written in place: a reader may have seen a mixture");
                self.applying.in_place += 1;
                self.receiver.done(index, stamp);
            }
            Outcome::Skip(reason) => self.receiver.skip(index, reason),
            Outcome::Lost => self.receiver.lost(index),
            Outcome::Need => self.receiver.need(index),
            // Somebody writes there at the same time.
            Outcome::Foreign => self.receiver.skip(index, Reason::Unstable),
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

    /// Keeps a copy of what stands at an op's path; it stays there until it is replaced.
    fn trash(&mut self, index: u32) -> Result<(), Reason> {
        let path = self.receiver.op(index).change.path.clone();
        if let Some(stamp) = self.keep(&path, self.applying.generation)? {
            self.applying.kept.insert(index, stamp);
            self.applying.overwritten.push(path);
        }
        Ok(())
    }

    /// Copies what stands at a path to the trash; the stamp of what was copied, `None` for nothing.
    pub(super) fn keep(
        &mut self,
        path: &SyncPath,
        generation: u64,
    ) -> Result<Option<Stamp>, Reason> {
        let Some((root, below)) = self.locate(path) else { return Err(Reason::Name) };
        let Some(found) = root.stat(&below).map_err(|error| reason(&error))? else {
            return Ok(None);
        };
        let content: Box<dyn Read> = match found.kind {
            FoundKind::File => Box::new(root.open_file(&below).map_err(|error| reason(&error))?),
            FoundKind::Symlink { target } => Box::new(std::io::Cursor::new(target)),
            FoundKind::Directory => return Err(Reason::NotEmpty),
            FoundKind::Other => return Err(Reason::Special),
        };
        let store = self.store.as_mut().ok_or(Reason::ReadOnly)?;
        let kept = store.trash(path, generation, content).map_err(|error| {
            // The next try finds room; a trash that is full by its own bound is no volume's matter.
            if error.kind() == std::io::ErrorKind::StorageFull {
                self.give_way();
            }
            Reason::from(&error)
        })?;
        info!(%path, kept = %kept.display(), "content of others is kept in the trash");
        Ok(Some(found.stamp))
    }

    /// An op, and the root and the path in it that it is for; `None` where no root has its path.
    fn place_of(&self, index: u32) -> Option<(&Op, &Arc<TargetRoot>, SyncPath)> {
        let op = self.receiver.op(index);
        let (root, below) = self.locate(&op.change.path)?;
        Some((op, root, below))
    }

    /// What stands at an op's path, and whose it is.
    fn look(&self, index: u32) -> Result<Look, Reason> {
        let Some((op, root, below)) = self.place_of(index) else { return Err(Reason::Name) };
        let kept = self.applying.kept.get(&index).copied();
        look(root, &below, self.receiver.held().get(&op.change.path), kept, op)
    }
}
