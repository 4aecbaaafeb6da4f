//! Performs the receiver's steps on the model's disk, as `server::apply` and `server::look` do; a
//! fuse may end it between any two.

use std::collections::{BTreeMap, BTreeSet};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::receive::Step;
use e2ek_sidecar::tree::{Entry, Reason};
use e2ek_sidecar::wire::How;

use super::{Hub, stamp};
use crate::engine::sim::disk::is_dir;

/// What a generation needs while it is being applied.
#[derive(Default)]
pub(super) struct Applying {
    /// Content set aside.
    staged: BTreeMap<u32, Entry>,
    /// Files whose pieces came in another order than they lie in.
    garbled: BTreeSet<u32>,
    pub(super) overwritten: Vec<SyncPath>,
}

/// What stands at a path, for who wants to change it.
enum Look {
    Free,
    Equal,
    Foreign,
}

impl Hub {
    pub(super) fn perform(&mut self, steps: Vec<Step>) {
        let replaced = self.replaced();
        for step in steps {
            if self.blows() {
                return;
            }
            self.perform_one(step);
            for path in &replaced {
                assert!(self.disk.contains_key(path), "i1: {path} is gone for a moment");
            }
        }
    }

    /// Files that stand there and are to be other files: a reader finds one of the two at any moment.
    fn replaced(&self) -> Vec<SyncPath> {
        let file = |entry: &Option<Entry>| entry.as_ref().is_some_and(|e| !is_dir(Some(e)));
        (self.receiver.ops().iter())
            .filter(|op| file(&op.change.old) && file(&op.change.new))
            .filter(|op| self.disk.contains_key(&op.change.path))
            .map(|op| op.change.path.clone())
            .collect()
    }

    fn perform_one(&mut self, step: Step) {
        match step {
            Step::Stage { index } => {
                if let Some(entry) = self.source(index) {
                    self.applying.staged.insert(index, entry);
                }
            }
            Step::Place { index } => {
                if let Some(entry) = self.applying.staged.remove(&index) {
                    self.put(index, entry);
                }
            }
            Step::PutHeld { index } => match self.wanted(index) {
                Some(entry) if self.ahead.take(self.receiver.op(index)).is_some() => {
                    self.put(index, entry);
                }
                _ => self.receiver.skip(index, Reason::Unstable),
            },
            Step::Copy { index } => {
                if let Some(entry) = self.source(index) {
                    self.put(index, entry);
                }
            }
            Step::MoveTree { index, .. } => {
                for step in self.receiver.scattered(index) {
                    self.perform_one(step);
                }
            }
            // The model's contents are names of contents: a patch is as good as the whole.
            Step::Patch { index, .. } => {
                if let Some(entry) = self.wanted(index) {
                    self.put(index, entry);
                }
            }
            Step::Move { index, removal } => self.move_file(index, removal),
            Step::Ask { index } => match self.look(index) {
                Ok(Look::Equal) => self.done(index),
                Ok(_) => self.receiver.need(index),
                Err(reason) => self.receiver.skip(index, reason),
            },
            Step::Write { index, offset, range, complete } => {
                if offset != range.start as u64 {
                    self.applying.garbled.insert(index);
                }
                match self.wanted(index) {
                    _ if !complete => {}
                    Some(_) if self.applying.garbled.contains(&index) => {
                        self.receiver.skip(index, Reason::Unstable);
                    }
                    Some(entry) => self.put(index, entry),
                    None => {}
                }
            }
            Step::MakeDirectory { index } => self.put(index, Entry::Directory),
            Step::Make { index } => self.make(index),
            Step::Remove { index } => self.remove(index),
        }
    }

    fn path(&self, index: u32) -> SyncPath {
        self.receiver.op(index).change.path.clone()
    }

    fn wanted(&self, index: u32) -> Option<Entry> {
        self.receiver.op(index).change.new.clone()
    }

    fn done(&mut self, index: u32) {
        let stamp = stamp(self.receiver.op(index).change.new.as_ref());
        self.receiver.done(index, stamp);
        if self.wanted(index).is_some() {
            // Taken over, if it was there.
            self.ours.insert(self.path(index));
        }
    }

    /// What is ignored now stays, and is not ours any more.
    pub(super) fn disown_forgotten(&mut self) {
        for op in self.receiver.ops().iter().filter(|op| op.how == How::Forget) {
            self.ours.remove(&op.change.path);
        }
    }

    /// The content to copy; else it is asked for.
    fn source(&mut self, index: u32) -> Option<Entry> {
        let op = self.receiver.op(index);
        let How::Copy { from } = &op.how else { return None };
        let same = match (self.disk.get(from), &op.change.new) {
            (Some(Entry::File { digest, .. }), Some(Entry::File { digest: wanted, .. })) => {
                digest == wanted
            }
            _ => false,
        };
        let entry = same.then(|| op.change.new.clone()).flatten();
        if entry.is_none() {
            self.receiver.need(index);
        }
        entry
    }

    fn look(&self, index: u32) -> Result<Look, Reason> {
        let change = &self.receiver.op(index).change;
        let held = self.receiver.held().entry(&change.path);
        let Some(found) = self.disk.get(&change.path) else { return Ok(Look::Free) };
        match (found, &held, &change.new) {
            // What was ours is gone already; what came in its place is not ours to remove.
            (Entry::File { .. } | Entry::Symlink { .. }, Some(Entry::Directory), None) => {
                Ok(Look::Equal)
            }
            (Entry::Directory, _, Some(Entry::Directory)) => Ok(Look::Equal),
            (Entry::Directory, held, None) if !is_dir(held.as_ref()) => Ok(Look::Equal),
            (Entry::Directory, ..) => Ok(Look::Free),
            (found, _, Some(new)) if found == new => Ok(Look::Equal),
            (found, Some(held), _) if found == held => Ok(Look::Free),
            _ => Ok(Look::Foreign),
        }
    }

    fn trash(&mut self, index: u32) -> Result<(), Reason> {
        let path = self.path(index);
        self.can_write(&path)?;
        self.disk.remove(&path);
        self.applying.overwritten.push(path);
        Ok(())
    }

    fn can_write(&self, path: &SyncPath) -> Result<(), Reason> {
        match self.broken.get(path) {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    fn put(&mut self, index: u32, entry: Entry) {
        let path = self.path(index);
        assert_eq!(self.wanted(index).as_ref(), Some(&entry), "i1: wrong content for {path}");
        match self.try_put(index, &path, entry) {
            Ok(()) => self.done(index),
            Err(reason) => self.receiver.skip(index, reason),
        }
    }

    fn try_put(&mut self, index: u32, path: &SyncPath, entry: Entry) -> Result<(), Reason> {
        match self.look(index)? {
            Look::Equal => return Ok(()),
            Look::Foreign => self.trash(index)?,
            Look::Free => {}
        }
        self.can_write(path)?;
        let parent = path.parent().unwrap_or_default();
        if !parent.is_root() && !is_dir(self.disk.get(&parent)) {
            return Err(Reason::Io("no parent".to_owned()));
        }
        if is_dir(self.disk.get(path)) && self.has_children(path) {
            return Err(Reason::NotEmpty);
        }
        self.disk.insert(path.clone(), entry);
        Ok(())
    }

    fn make(&mut self, index: u32) {
        let Some(entry) = self.wanted(index) else { return };
        let content = matches!(entry, Entry::File { size: 1.., .. });
        if content {
            // Only the executable bit: the content must be there.
            let there = matches!(self.disk.get(&self.path(index)), Some(Entry::File { .. }));
            match self.look(index) {
                Ok(Look::Equal) => {}
                Ok(Look::Free) if there => {}
                Err(reason) => return self.receiver.skip(index, reason),
                Ok(_) => return self.receiver.lost(index),
            }
        }
        self.put(index, entry);
    }

    fn remove(&mut self, index: u32) {
        let path = self.path(index);
        assert!(self.receiver.held().get(&path).is_some(), "i7: {path} is not ours to remove");
        let result = match self.look(index) {
            Err(reason) => Err(reason),
            Ok(Look::Foreign) => self.trash(index),
            Ok(Look::Equal) => Ok(()),
            Ok(Look::Free) if self.has_children(&path) => Ok(()),
            Ok(Look::Free) => self.can_write(&path).map(|()| {
                if path.parent().is_some_and(|p| !p.is_root()) {
                    self.disk.remove(&path);
                }
            }),
        };
        match result {
            Ok(()) => {
                self.ours.remove(&path);
                if self.disk.contains_key(&path) {
                    self.done(index);
                } else {
                    self.receiver.gone(index);
                }
            }
            Err(reason) => self.receiver.skip(index, reason),
        }
    }

    fn move_file(&mut self, index: u32, removal: u32) {
        let (from, to) = (self.path(removal), self.path(index));
        let same = self.disk.get(&from).cloned() == self.wanted(index)
            && self.receiver.held().entry(&from) == self.wanted(index);
        let free = matches!(self.look(index), Ok(Look::Free));
        let parent = to.parent().is_some_and(|p| is_dir(self.disk.get(&p)));
        let writable = !self.broken.contains_key(&from) && !self.broken.contains_key(&to);
        let clear = !is_dir(self.disk.get(&to));
        if same && free && parent && writable && clear {
            if let Some(entry) = self.disk.remove(&from) {
                self.disk.insert(to, entry);
            }
            self.ours.remove(&from);
            self.done(index);
            self.done(removal);
        } else if let Some(entry) = self.source(index) {
            self.put(index, entry);
        }
    }
}
