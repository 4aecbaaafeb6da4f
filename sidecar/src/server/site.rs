//! Owns one target while it is served: its roots, its record, the right to write there.
//!
//! Opening a site makes the record true again: what a killed hub began is looked at, every managed
//! path is compared by `stat` with what was written, and what somebody changed leaves the record, so
//! that the daemon sends it anew. Performing generations is `apply`'s part.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::apply::Applying;
use super::root::{Found, FoundKind, RootErrorKind, Settings, TargetRoot, WriteMode};
use super::store::{ClaimError, Owner, Registry, Store, StoreError};
use super::target::Target;
use crate::path::{Escaped, SyncPath};
use crate::receive::{Receiver, root_index};
use crate::tree::{Change, Edit, Entry, Node, Snapshot, Stamp, TreeId};
use crate::wire::{self, Blob, Listed, Open, Refusal};

/// How long a hub waits for the hub before it, of the same workspace, to finish.
const HAND_OVER: Duration = Duration::from_secs(15);
const HAND_OVER_STEP: Duration = Duration::from_millis(20);

/// One target being served.
pub(super) struct Site {
    pub(super) roots: Vec<TargetRoot>,
    /// Whose root the paths are resolved in.
    process: Option<Target>,
    pub(super) store: Option<Store>,
    pub(super) receiver: Receiver,
    pub(super) applying: Applying,
    /// Where the command runs: the first root.
    directory: PathBuf,
    epoch: u64,
    /// Something lies there although nothing is managed.
    populated: bool,
    /// Managed paths that somebody changed since they were written.
    drifted: Vec<SyncPath>,
    _claims: Vec<super::store::Claim>,
}

impl Site {
    /// Opens what `open` asks for and makes the record true.
    pub(super) fn open(open: &Open, state: &Path) -> Result<Self, Refusal> {
        if open.roots.is_empty() || open.roots.len() > usize::from(u16::MAX) {
            return Err(Refusal::Unusable("a session needs at least one root".to_owned()));
        }
        let process = open
            .process
            .map(Target::pin)
            .transpose()
            .map_err(|error| refusal_of_process(open.process.unwrap_or_default(), &error))?;
        let mut roots = Vec::new();
        let mut names = Vec::new();
        for path in &open.roots {
            let (root, name) = open_root(path, process.as_ref(), open)?;
            roots.push(root);
            names.push(name);
        }
        let mut site = Self {
            directory: names[0].clone(),
            receiver: Receiver::new(Snapshot::empty(), 0, roots.len()),
            roots,
            process,
            store: None,
            applying: Applying::default(),
            epoch: 0,
            populated: false,
            drifted: Vec::new(),
            _claims: Vec::new(),
        };
        site.claim(open, state, &names)?;
        site.populated = site.receiver.held().root().is_empty() && site.holds_something();
        Ok(site)
    }

    /// Takes the right to write and the record that belongs to it.
    fn claim(&mut self, open: &Open, state: &Path, names: &[PathBuf]) -> Result<(), Refusal> {
        let dir = state.join("hubs").join(folder_name(names, &self.roots));
        let (mut store, loaded) = open_store(&dir, open)?;
        for name in names {
            self._claims.push(claim_root(state, name, open)?);
        }
        let ours = loaded.owner.as_ref().is_none_or(|owner| owner.workspace == open.workspace);
        if let Some(owner) = loaded.owner.as_ref().filter(|_| !ours && !open.take_over) {
            return Err(Refusal::Owned { by: owner.writer.clone(), active: false });
        }
        // What another workspace put there is not ours to delete.
        let held = if ours { loaded.held } else { Snapshot::empty() };
        let unfinished = if ours { loaded.unfinished } else { Vec::new() };
        if loaded.damaged {
            warn!("the record of this target was damaged; it is made anew");
        }
        let generation = loaded.generation;
        for root in &self.roots {
            root.sweep_beside(&loaded.staged);
        }
        let (held, drifted, changed) = self.make_true(held, &unfinished);
        self.drifted = drifted;
        self.receiver = Receiver::new(held.clone(), generation, self.roots.len());
        if !open.dry_run {
            self.epoch = loaded.owner.map_or(1, |owner| owner.epoch + 1);
            let owner =
                Owner { workspace: open.workspace, writer: open.writer.clone(), epoch: self.epoch };
            let written = store.set_owner(&owner).and_then(|()| {
                for path in &loaded.staged {
                    store.forget_staged(path)?;
                }
                if changed || !ours || loaded.rebooted || !unfinished.is_empty() {
                    store.reset(generation, &held)?;
                }
                Ok(())
            });
            written.map_err(|error| Refusal::Unusable(format!("{}: {error}", dir.display())))?;
            self.store = Some(store);
        }
        Ok(())
    }

    /// Compares the record with the disk. Returns the true record, the managed paths that somebody
    /// changed, and whether anything differs.
    fn make_true(&self, held: Snapshot, unfinished: &[Change]) -> (Snapshot, Vec<SyncPath>, bool) {
        let mut edits: Vec<Edit> = Vec::new();
        let mut drifted = Vec::new();
        let begun: std::collections::HashMap<&SyncPath, &Change> =
            unfinished.iter().map(|change| (&change.path, change)).collect();
        let mut gone: Option<SyncPath> = None;
        held.walk(&mut |path, node| {
            if gone.as_ref().is_some_and(|dir| path.starts_with(dir)) {
                return;
            }
            let seen = self.seen_as(path, node);
            match seen {
                Seen::Same => {}
                Seen::Restamped(node) => edits.push((path.clone(), Some(node))),
                Seen::Other => {
                    edits.push((path.clone(), None));
                    gone = Some(path.clone());
                    if !begun.contains_key(path) {
                        drifted.push(path.clone());
                    }
                }
            }
        });
        let mut held = held.apply(&edits).unwrap_or_default();
        let mut changed = !edits.is_empty();
        // A killed hub may have come further than its record: what is complete counts.
        for change in unfinished {
            let Some(new) = change.new.as_ref().filter(|_| held.entry(&change.path) != change.new)
            else {
                continue;
            };
            if let Seen::Restamped(node) =
                self.seen_as(&change.path, &Node::from_entry(new, Stamp::default()))
                && let Ok(with) = held.apply(&[(change.path.clone(), Some(node))])
            {
                held = with;
                changed = true;
            }
        }
        (held, drifted, changed)
    }

    /// How what stands at a path compares with what the record says.
    fn seen_as(&self, path: &SyncPath, node: &Node) -> Seen {
        let Some((root, below)) = self.locate(path) else { return Seen::Other };
        let Ok(Some(found)) = root.stat(&below) else { return Seen::Other };
        match (node, &found.kind) {
            (Node::Directory(_), FoundKind::Directory) => Seen::Same,
            (Node::Symlink(link), FoundKind::Symlink { target }) if link == target => Seen::Same,
            (&Node::File { digest, size, executable, stamp }, FoundKind::File) => {
                if found.size != size || found.executable != executable {
                    return Seen::Other;
                }
                if stamp != Stamp::default() && found.stamp == stamp {
                    return Seen::Same;
                }
                match root.hash(&below) {
                    Ok(Some((same, found))) if same == digest => {
                        Seen::Restamped(Node::File { digest, size, executable, stamp: found.stamp })
                    }
                    _ => Seen::Other,
                }
            }
            _ => Seen::Other,
        }
    }

    /// The root that a path of the session's tree lies in, and the path below it.
    pub(super) fn locate(&self, path: &SyncPath) -> Option<(&TargetRoot, SyncPath)> {
        let (index, below) = root_index(path)?;
        Some((self.roots.get(index)?, below))
    }

    fn holds_something(&self) -> bool {
        let occupied =
            |root: &TargetRoot| root.list(&SyncPath::root()).is_ok_and(|l| !l.is_empty());
        self.roots.iter().any(occupied)
    }

    /// Answers `Open`.
    pub(super) fn opened(&mut self) -> Vec<wire::FromHub> {
        let mut answers = Vec::new();
        if !self.drifted.is_empty() {
            let paths = std::mem::take(&mut self.drifted);
            answers.extend(wire::batches(paths).map(|paths| wire::FromHub::Drifted { paths }));
        }
        answers.push(wire::FromHub::Opened {
            tree: self.receiver.held().id(),
            generation: self.receiver.generation(),
            epoch: self.epoch,
            populated: self.populated,
        });
        answers
    }

    /// Answers `Describe`: the record's listings; unknown directories are told as empty.
    pub(super) fn describe(&self, paths: &[SyncPath]) -> Vec<wire::FromHub> {
        let root = [SyncPath::root()];
        let wanted = if paths.is_empty() { &root[..] } else { paths };
        let mut answers = Vec::new();
        for path in wanted {
            let dir = self.receiver.held().dir(path);
            let children = dir.iter().flat_map(|dir| dir.iter());
            let children = children.map(|(name, node)| (Blob(name.to_vec()), listed(node)));
            let told = (!path.is_root()).then(|| path.clone());
            for children in wire::batches(children) {
                let path = told.clone();
                answers.push(wire::FromHub::Listing { path, children, last: false });
            }
            answers.push(wire::FromHub::Listing { path: told, children: Vec::new(), last: true });
        }
        answers
    }

    /// Answers `ListForeign`: what lies at the roots and is not in the record.
    pub(super) fn foreign(&self) -> Vec<wire::FromHub> {
        let mut found = Vec::new();
        for index in 0..self.roots.len() {
            if let Ok(top) = SyncPath::root().join(index.to_string().as_bytes()) {
                self.list_foreign(index, &top, &SyncPath::root(), &mut found);
            }
        }
        let mut answers: Vec<_> = wire::batches(found)
            .map(|paths| wire::FromHub::Foreign { paths, last: false })
            .collect();
        answers.push(wire::FromHub::Foreign { paths: Vec::new(), last: true });
        answers
    }

    fn list_foreign(
        &self,
        root: usize,
        path: &SyncPath,
        below: &SyncPath,
        out: &mut Vec<(SyncPath, Listed)>,
    ) {
        let Ok(mut list) = self.roots[root].list(below) else { return };
        list.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, found) in list {
            let (Ok(path), Ok(below)) = (path.join(&name), below.join(&name)) else { continue };
            let managed = self.receiver.held().get(&path).is_some();
            let directory = found.kind == FoundKind::Directory;
            if !managed && let Some(listed) = self.listed_as(root, &below, &found) {
                out.push((path.clone(), listed));
            }
            if directory {
                self.list_foreign(root, &path, &below, out);
            }
        }
    }

    fn listed_as(&self, root: usize, below: &SyncPath, found: &Found) -> Option<Listed> {
        match &found.kind {
            FoundKind::Directory => Some(Listed::Directory(TreeId([0; 32]))),
            FoundKind::Symlink { target } => Some(Listed::Symlink(Blob(target.to_vec()))),
            FoundKind::File => {
                let (digest, found) = self.roots[root].hash(below).ok()??;
                Some(Listed::File { digest, size: found.size, executable: found.executable })
            }
            FoundKind::Other => None,
        }
    }

    /// Whether what was written is where people look for it (I2).
    pub(super) fn is_visible(&self) -> bool {
        self.process.as_ref().is_none_or(|process| process.check().is_ok())
            && self.roots.iter().all(|root| root.check().is_ok())
    }

    /// Where the command runs.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Ends cleanly.
    pub(super) fn close(self) {
        for root in &self.roots {
            root.tidy();
        }
        if let Some(Err(error)) = self.store.map(Store::close) {
            info!(%error, "the record was not folded; its log serves as well");
        }
    }
}

enum Seen {
    Same,
    Restamped(Node),
    Other,
}

/// A node as a listing tells it.
fn listed(node: &Node) -> Listed {
    match node {
        &Node::File { digest, size, executable, .. } => Listed::File { digest, size, executable },
        Node::Symlink(target) => Listed::Symlink(Blob(target.to_vec())),
        Node::Directory(dir) => Listed::Directory(dir.id()),
    }
}

/// The entry that a listing tells of.
pub(super) fn entry_of(listed: &Listed) -> Entry {
    match listed {
        &Listed::File { digest, size, executable } => Entry::File { digest, size, executable },
        Listed::Symlink(target) => Entry::Symlink { target: target.0.as_slice().into() },
        Listed::Directory(_) => Entry::Directory,
    }
}

fn open_root(
    path: &Blob,
    process: Option<&Target>,
    open: &Open,
) -> Result<(TargetRoot, PathBuf), Refusal> {
    let path = Path::new(std::ffi::OsStr::from_bytes(&path.0));
    let shown = Escaped(path.as_os_str().as_bytes()).to_string();
    let opened = match process {
        Some(process) => TargetRoot::open_in_process(process, path),
        None => TargetRoot::open_directory(path, !open.dry_run),
    };
    let mut root = opened.map_err(|error| match error.kind {
        RootErrorKind::NotFound => Refusal::NotFound(shown.clone()),
        RootErrorKind::Denied => Refusal::Forbidden(shown.clone()),
        RootErrorKind::NotADirectory => Refusal::Unusable(format!("{shown} is not a directory")),
        _ => Refusal::Unusable(format!("{shown}: {error}")),
    })?;
    let write = match open.write {
        wire::WriteMode::Auto | wire::WriteMode::Rename => WriteMode::Rename,
        wire::WriteMode::InPlace => WriteMode::InPlace,
    };
    root.configure(Settings { write, ..root.settings() });
    let name = match process {
        Some(process) => {
            let below = path.strip_prefix("/").unwrap_or(path);
            PathBuf::from(format!("/proc/{}/root", process.pid())).join(below)
        }
        None => std::fs::canonicalize(path)
            .map_err(|error| Refusal::Unusable(format!("{shown}: {error}")))?,
    };
    Ok((root, name))
}

fn refusal_of_process(pid: i32, error: &super::target::TargetError) -> Refusal {
    use super::target::TargetError;
    match error {
        TargetError::Gone(_) => Refusal::NotFound(format!("process {pid}")),
        TargetError::Denied(_) => Refusal::Forbidden(format!("process {pid}: {error}")),
        _ => Refusal::Unusable(format!("process {pid}: {error}")),
    }
}

/// The record's folder: named by the roots, and by which directories they are.
fn folder_name(names: &[PathBuf], roots: &[TargetRoot]) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, root) in names.iter().zip(roots) {
        hasher.update(name.as_os_str().as_bytes());
        hasher.update(&[0]);
        let identity = root.identity();
        hasher.update(&identity.device.to_le_bytes());
        hasher.update(&identity.inode.to_le_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// Opens the record; waits for an earlier hub of the same workspace that is still ending.
fn open_store(dir: &Path, open: &Open) -> Result<(Store, super::store::Loaded), Refusal> {
    let give_up = Instant::now() + HAND_OVER;
    loop {
        match Store::open(dir) {
            Ok(opened) => return Ok(opened),
            Err(StoreError::Locked { owner }) => {
                let ours = owner.as_ref().is_none_or(|owner| owner.workspace == open.workspace);
                if !ours || Instant::now() >= give_up {
                    let by = owner.map_or_else(|| "another hub".to_owned(), |owner| owner.writer);
                    return Err(Refusal::Owned { by, active: true });
                }
                std::thread::sleep(HAND_OVER_STEP);
            }
            Err(error @ StoreError::Io { .. }) => {
                let why = std::error::Error::source(&error).map(ToString::to_string);
                let why = why.unwrap_or_default();
                return Err(Refusal::Unusable(format!("state folder {error}: {why}")));
            }
        }
    }
}

fn claim_root(state: &Path, canonical: &Path, open: &Open) -> Result<super::store::Claim, Refusal> {
    Registry::claim(state, canonical, &open.writer).map_err(|error| match error {
        ClaimError::Clash(clash) if clash.same => Refusal::Owned { by: clash.writer, active: true },
        ClaimError::Clash(clash) => Refusal::Nested {
            root: Escaped(clash.root.as_os_str().as_bytes()).to_string(),
            by: clash.writer,
        },
        other => Refusal::Unusable(other.to_string()),
    })
}
