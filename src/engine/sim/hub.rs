//! A model of a hub: the real [`Receiver`] over a disk that is a map, performing steps as
//! `server::apply` does and opening as `server::site` does.

use std::collections::{BTreeMap, BTreeSet};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::receive::{Receiver, Step};
use e2ek_sidecar::tree::{Change, Edit, Entry, Node, Reason, Snapshot, Stamp};
use e2ek_sidecar::wire::{Blob, FromHub, How, Listed, Op, WireError};

pub(super) type Disk = BTreeMap<SyncPath, Entry>;

pub(super) fn snapshot(disk: &Disk) -> Snapshot {
    let edits: Vec<Edit> = disk
        .iter()
        .map(|(p, e)| (p.clone(), Some(Node::from_entry(e, Stamp::default()))))
        .collect();
    Snapshot::empty().apply(&edits).expect("a disk is a tree")
}

pub(super) fn is_dir(entry: Option<&Entry>) -> bool {
    matches!(entry, Some(Entry::Directory))
}

enum Look {
    Free,
    Equal,
    Foreign,
}

pub(super) struct Hub {
    pub(super) disk: Disk,
    pub(super) receiver: Receiver,
    /// What the store would know of a generation that was begun.
    unfinished: Vec<Change>,
    staged: BTreeMap<u32, Entry>,
    overwritten: Vec<SyncPath>,
    /// Paths at which every write fails.
    pub(super) broken: BTreeMap<SyncPath, Reason>,
    /// Put there by us and not taken away since.
    pub(super) ours: BTreeSet<SyncPath>,
    /// Changed by others since the record was made true.
    pub(super) drifted: bool,
    pub(super) ever_drifted: bool,
    pub(super) peer: Option<u64>,
    pub(super) pid: Option<i32>,
    pub(super) pids: i32,
    /// The tree that the command has loaded.
    pub(super) loaded: Option<Snapshot>,
    pub(super) starting: bool,
}

impl Hub {
    pub(super) fn new(disk: Disk) -> Self {
        Self {
            disk,
            receiver: Receiver::new(Snapshot::empty(), 0, 1),
            unfinished: Vec::new(),
            staged: BTreeMap::new(),
            overwritten: Vec::new(),
            broken: BTreeMap::new(),
            ours: BTreeSet::new(),
            drifted: false,
            ever_drifted: false,
            peer: None,
            pid: None,
            pids: 0,
            loaded: None,
            starting: false,
        }
    }

    /// kill -9: what was done of an open generation stays on the disk, not in the record.
    pub(super) fn crash(&mut self) {
        let (held, generation) = (self.receiver.held().clone(), self.receiver.generation());
        self.receiver = Receiver::new(held, generation, 1);
        self.staged.clear();
        self.peer = None;
        (self.pid, self.loaded, self.starting) = (None, None, false);
    }

    pub(super) fn unlink(&mut self) {
        self.peer = None;
        self.receiver.abandon();
        self.unfinished.clear();
        self.staged.clear();
    }

    pub(super) fn open(&mut self) -> Vec<FromHub> {
        let mut edits: Vec<Edit> = Vec::new();
        let mut drifted = Vec::new();
        let disk = &self.disk;
        let begun: BTreeSet<&SyncPath> = self.unfinished.iter().map(|c| &c.path).collect();
        self.receiver.held().walk(&mut |path, node| {
            let below = edits.last().is_some_and(|(gone, _)| path.starts_with(gone));
            if !below && disk.get(path) != Some(&node.entry()) {
                edits.push((path.clone(), None));
                if !begun.contains(path) {
                    drifted.push(path.clone());
                }
            }
        });
        let mut held = self.receiver.held().apply(&edits).unwrap_or_default();
        for change in std::mem::take(&mut self.unfinished) {
            if let Some(new) = &change.new
                && held.entry(&change.path) != change.new
                && self.disk.get(&change.path) == Some(new)
                && let Ok(with) = held
                    .apply(&[(change.path.clone(), Some(Node::from_entry(new, Stamp::default())))])
            {
                held = with;
            }
        }
        let generation = self.receiver.generation();
        let populated = held.root().is_empty() && self.disk.len() > 1;
        let tree = held.id();
        self.receiver = Receiver::new(held, generation, 1);
        self.drifted = false;
        let mut answers = Vec::new();
        if !drifted.is_empty() {
            answers.push(FromHub::Drifted { paths: drifted });
        }
        answers.push(FromHub::Opened { tree, generation, epoch: 1, populated });
        answers
    }

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
        self.overwritten.clear();
        self.unfinished = self.receiver.ops().iter().map(|op| op.change.clone()).collect();
        self.perform(steps);
        let need = |indices| FromHub::Need { indices, adopted: 0, last: true };
        Ok(self.receiver.needed().map(need).into_iter().collect())
    }

    pub(super) fn commit(
        &mut self,
        generation: u64,
        tree: e2ek_sidecar::tree::TreeId,
    ) -> Result<FromHub, WireError> {
        let steps = self.receiver.commit(generation, tree)?;
        self.perform(steps);
        let finished = self.receiver.finish()?;
        self.unfinished.clear();
        Ok(FromHub::Applied {
            generation,
            tree: self.receiver.held().id(),
            skipped: finished.skipped,
            overwritten: std::mem::take(&mut self.overwritten),
            micros: 1,
        })
    }

    pub(super) fn describe(&self, paths: &[SyncPath]) -> Vec<FromHub> {
        let root = [SyncPath::root()];
        let wanted = if paths.is_empty() { &root[..] } else { paths };
        (wanted.iter())
            .map(|path| {
                let dir = self.receiver.held().dir(path);
                let children = dir.iter().flat_map(|dir| dir.iter());
                let children = children.map(|(n, node)| (Blob(n.to_vec()), listed(node))).collect();
                let path = (!path.is_root()).then(|| path.clone());
                FromHub::Listing { path, children, last: true }
            })
            .collect()
    }

    pub(super) fn foreign(&self) -> Vec<(SyncPath, Listed)> {
        (self.disk.iter())
            .filter(|(path, _)| self.receiver.held().get(path).is_none())
            .map(|(path, entry)| (path.clone(), listed(&Node::from_entry(entry, Stamp::default()))))
            .filter(|(path, _)| path.parent().is_some_and(|p| !p.is_root()))
            .collect()
    }

    pub(super) fn remove_foreign(&mut self, paths: &[(SyncPath, Listed)]) -> FromHub {
        let (mut removed, problems) = (0, Vec::new());
        for (path, _) in paths.iter().rev() {
            if self.receiver.held().get(path).is_none() && !self.has_children(path) {
                self.disk.remove(path);
                self.ours.remove(path);
                removed += 1;
            }
        }
        FromHub::ForeignRemoved { removed, problems }
    }

    fn has_children(&self, path: &SyncPath) -> bool {
        self.disk.keys().any(|p| p != path && p.starts_with(path))
    }

    pub(super) fn perform(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Stage { index } => {
                    if let Some(entry) = self.source(index) {
                        self.staged.insert(index, entry);
                    }
                }
                Step::Place { index } => {
                    if let Some(entry) = self.staged.remove(&index) {
                        self.put(index, entry);
                    }
                }
                Step::Copy { index } => {
                    if let Some(entry) = self.source(index) {
                        self.put(index, entry);
                    }
                }
                Step::MoveTree { index, .. } => {
                    let steps = self.receiver.scattered(index);
                    self.perform(steps);
                }
                Step::Move { index, removal } => self.move_file(index, removal),
                Step::Ask { index } => match self.look(index) {
                    Ok(Look::Equal) => self.done(index),
                    Ok(_) => self.receiver.need(index),
                    Err(reason) => self.receiver.skip(index, reason),
                },
                Step::Write { index, complete, .. } => {
                    if complete && let Some(entry) = self.wanted(index) {
                        self.put(index, entry);
                    }
                }
                // The model's contents are names of contents: a patch is as good as the whole.
                Step::Patch { index, .. } => {
                    if let Some(entry) = self.wanted(index) {
                        self.put(index, entry);
                    }
                }
                Step::MakeDirectory { index } => self.put(index, Entry::Directory),
                Step::Make { index } => self.make(index),
                Step::Remove { index } => self.remove(index),
            }
        }
    }

    fn path(&self, index: u32) -> SyncPath {
        self.receiver.op(index).change.path.clone()
    }

    fn wanted(&self, index: u32) -> Option<Entry> {
        self.receiver.op(index).change.new.clone()
    }

    fn done(&mut self, index: u32) {
        self.receiver.done(index, Stamp::default());
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
            (Entry::Directory, _, Some(Entry::Directory)) => Ok(Look::Equal),
            (Entry::Directory, Some(Entry::Directory), _) => Ok(Look::Free),
            (Entry::Directory, ..) => Err(Reason::NotEmpty),
            (found, _, Some(new)) if found == new => Ok(Look::Equal),
            (found, Some(held), _) if found == held => Ok(Look::Free),
            _ => Ok(Look::Foreign),
        }
    }

    fn trash(&mut self, index: u32) -> Result<(), Reason> {
        let path = self.path(index);
        self.may_write(&path)?;
        self.disk.remove(&path);
        self.overwritten.push(path);
        Ok(())
    }

    fn may_write(&self, path: &SyncPath) -> Result<(), Reason> {
        match self.broken.get(path) {
            Some(reason) => Err(reason.clone()),
            None => Ok(()),
        }
    }

    fn put(&mut self, index: u32, entry: Entry) {
        let path = self.path(index);
        assert_eq!(self.wanted(index).as_ref(), Some(&entry), "wrong content for {path}");
        let result = self.try_put(index, &path, entry);
        match result {
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
        self.may_write(path)?;
        let parent = path.parent().unwrap_or_default();
        if !parent.is_root() && !is_dir(self.disk.get(&parent)) {
            return Err(Reason::Io("no parent".to_owned()));
        }
        if is_dir(self.disk.get(path)) && self.has_children(path) {
            return Err(Reason::NotEmpty);
        }
        self.disk.insert(path.clone(), entry);
        self.ours.insert(path.clone());
        Ok(())
    }

    fn make(&mut self, index: u32) {
        let Some(entry) = self.wanted(index) else { return };
        let content = matches!(entry, Entry::File { size: 1.., .. });
        if content {
            // Only the executable bit: the content must be there.
            match self.look(index) {
                Ok(Look::Foreign) => return self.receiver.lost(index),
                Ok(Look::Free) if !self.disk.contains_key(&self.path(index)) => {
                    return self.receiver.skip(index, Reason::Io("not found".to_owned()));
                }
                _ => {}
            }
        }
        self.put(index, entry);
    }

    fn remove(&mut self, index: u32) {
        let path = self.path(index);
        let result = match self.look(index) {
            Err(reason) => Err(reason),
            Ok(Look::Foreign) => self.trash(index),
            Ok(_) if self.has_children(&path) => Ok(()),
            Ok(_) => self.may_write(&path).map(|()| {
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
                self.disk.insert(to.clone(), entry);
            }
            self.ours.remove(&from);
            self.ours.insert(to);
            self.done(index);
            self.done(removal);
        } else if let Some(entry) = self.source(index) {
            self.put(index, entry);
        }
    }
}

fn listed(node: &Node) -> Listed {
    match node {
        &Node::File { digest, size, executable, .. } => Listed::File { digest, size, executable },
        Node::Symlink(target) => Listed::Symlink(Blob(target.to_vec())),
        Node::Directory(dir) => Listed::Directory(dir.id()),
    }
}
