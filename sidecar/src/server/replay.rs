//! Owns what a container loses when it is started anew, and writes it again.
//!
//! A container's root begins anew with each start, so all that was written there is gone, but for
//! volumes. The record says what was there, [`Contents`] hold the bytes: the difference becomes one
//! generation that the hub gives itself, by the same steps as any other, so that what stands there
//! meanwhile is looked at and kept as always. Nobody need be there for it.
//!
//! What is to be there is written down (`wanted`) before the record says what is: a hub that is
//! killed in between begins again. What the contents do not hold is left out, and the daemon sends it
//! when it comes.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use tracing::{debug, info, warn};

use super::Settings;
use super::apply::Brought;
use super::entry::Request;
use super::root::FoundKind;
use super::site::Site;
use super::store::{Contents, Loaded, read_note, read_tree, write_note, write_tree};
use super::target::Identity;
use crate::path::SyncPath;
use crate::tree::{Change, Digest, Edit, Entry, Node, Snapshot};
use crate::wire::{FromHub, How, Meta, Op, PIECE_BYTES, WireError};

/// Which start of the container the record is of.
const INCARNATION: &str = "incarnation";
/// What is to be written again, as long as that goes on.
const WANTED: &str = "wanted";
/// There when a session has said once that all its files were there.
const CURRENT: &str = "current";
/// Paths that are to be removed again.
const GONE: &str = "gone";
/// A generation of more edits is kept after it was acknowledged. Killed in between, hub and app together,
/// they lose what only the daemon has then.
const KEEP_FIRST: usize = 64;
/// So many of them are remembered.
const GONE_MAX: usize = 100_000;
/// Paths that are told by name.
const TOLD: usize = 100;
/// The request that is gone on with after a start of the hub.
const STANDING: &str = "standing";

/// A container that is written to.
pub(super) struct Inside {
    identity: Identity,
    /// `None` in a session that only looks.
    contents: Option<Contents>,
    /// All that a session once wanted to be there is there: the app may start.
    complete: bool,
    /// Managed files whose content is not kept.
    unkept: BTreeSet<SyncPath>,
    /// It was told; anything that changes it makes this false.
    unkept_told: bool,
    /// Paths that were managed and removed: the image may bring them again.
    gone: BTreeSet<SyncPath>,
    /// Done and acknowledged, and not kept yet.
    later: Vec<Edit>,
}

impl Inside {
    pub(super) fn of(identity: Identity) -> Self {
        Self {
            identity,
            contents: None,
            complete: false,
            unkept: BTreeSet::new(),
            unkept_told: true,
            gone: BTreeSet::new(),
            later: Vec::new(),
        }
    }
}

/// What targets in containers were written to, according to the records.
pub(super) fn standing(state: &Path) -> Vec<Request> {
    let Ok(folders) = std::fs::read_dir(state.join("hubs")) else { return Vec::new() };
    folders.flatten().filter_map(|folder| read_note(&folder.path(), STANDING)).collect()
}

impl Site {
    /// What the container held at an earlier start and is to hold again; `None` when it is the same
    /// start, or what was there is not ours.
    pub(super) fn lost(
        &mut self,
        dir: &Path,
        loaded: &Loaded,
        ours: bool,
        settings: &Settings,
    ) -> io::Result<Option<Snapshot>> {
        let Some(inside) = &mut self.inside else { return Ok(None) };
        inside.contents = Some(Contents::open(dir, settings.contents_bytes)?);
        let before: Option<String> = read_note(dir, INCARNATION);
        let now = inside.identity.incarnation();
        let lost = if ours {
            let restarted = before.as_ref().is_some_and(|before| *before != now);
            read_tree(dir, WANTED).or_else(|| restarted.then(|| loaded.held.clone()))
        } else {
            None
        };
        match &lost {
            Some(lost) => write_tree(dir, WANTED, lost)?,
            None => forget(dir, WANTED)?,
        }
        if ours {
            inside.gone = read_note(dir, GONE).unwrap_or_default();
        } else {
            forget(dir, CURRENT)?;
            forget(dir, GONE)?;
        }
        if before.as_ref() != Some(&now) {
            write_note(dir, INCARNATION, &now)?;
        }
        Ok(lost)
    }

    /// Goes on with this target from now on, whoever is there: writes again what was lost, and keeps
    /// what is there.
    pub(super) fn stand(&mut self, open: &Request, lost: Option<Snapshot>) -> io::Result<()> {
        let Some(dir) = self.store.as_ref().map(|store| store.folder().to_owned()) else {
            return Ok(());
        };
        write_note(&dir, STANDING, &open.lasting())?;
        let mut whole = true;
        if let Some(lost) = lost {
            whole = self.replay(&lost);
            self.remove_again();
            forget(&dir, WANTED)?;
        }
        if let Some(inside) = &mut self.inside {
            inside.complete = whole && read_note::<()>(&dir, CURRENT).is_some();
        }
        let held = self.receiver.held().clone();
        let mut files = Vec::new();
        held.walk(&mut |path, node| files.push((path.clone(), Some(node.clone()))));
        self.keep_contents(&files);
        Ok(())
    }

    /// Whether all that a session once wanted to be there is there.
    pub(super) fn is_complete(&self) -> bool {
        self.inside.as_ref().is_some_and(|inside| inside.complete)
    }

    /// The session has all its files there.
    pub(super) fn complete(&mut self) {
        let Some(inside) = &mut self.inside else { return };
        inside.complete = true;
        if let Some(store) = &self.store
            && let Err(error) = write_note(store.folder(), CURRENT, &())
        {
            warn!(%error, "it is not written down that the files are there");
        }
    }

    /// Whether every root lies on a mount of its own in the container, so that it outlives it.
    pub(super) fn is_on_volumes(&self) -> bool {
        let top = self.process.as_ref().map_or(0, |process| process.root_mount());
        let mut roots = self.roots.iter().flatten();
        top != 0 && roots.all(|root| root.identity().mount != top)
    }

    /// Takes what a generation did: a save is kept before it is acknowledged, and much more after that.
    pub(super) fn remember(&mut self, edits: Vec<Edit>) {
        match &mut self.inside {
            Some(inside) if edits.len() > KEEP_FIRST => inside.later = edits,
            Some(_) => self.keep_contents(&edits),
            None => {}
        }
    }

    /// Whether [`Self::keep_more`] has something to do.
    pub(super) fn has_more_to_keep(&self) -> bool {
        self.inside.as_ref().is_some_and(|inside| !inside.later.is_empty())
    }

    /// Keeps what was acknowledged before.
    pub(super) fn keep_more(&mut self) {
        let later = self.inside.as_mut().map(|inside| std::mem::take(&mut inside.later));
        self.keep_contents(&later.unwrap_or_default());
    }

    /// Keeps the contents of files that were put at the target, and remembers what was removed.
    pub(super) fn keep_contents(&mut self, edits: &[Edit]) {
        let Some(mut inside) = self.inside.take() else { return };
        if let Some(contents) = &mut inside.contents {
            let evictions = contents.evictions();
            let mut changed = false;
            for (path, node) in edits {
                changed |= match node {
                    &Some(Node::File { digest, size: size @ 1.., .. })
                        if !self.keep_content(contents, path, digest, size) =>
                    {
                        inside.unkept.insert(path.clone())
                    }
                    _ => inside.unkept.remove(path),
                };
            }
            if contents.evictions() != evictions {
                inside.unkept = missing(self.receiver.held(), contents);
                changed = true;
            }
            inside.unkept_told &= !changed;
            self.remember_gone(&mut inside, edits);
        }
        self.inside = Some(inside);
    }

    fn remember_gone(&self, inside: &mut Inside, edits: &[Edit]) {
        let mut changed = false;
        for (path, node) in edits {
            changed |= match node {
                None if inside.gone.len() < GONE_MAX => inside.gone.insert(path.clone()),
                None => false,
                Some(_) => inside.gone.remove(path),
            };
        }
        if let Some(store) = self.store.as_ref().filter(|_| changed)
            && let Err(error) = write_note(store.folder(), GONE, &inside.gone)
        {
            warn!(%error, "it is not written down what was removed");
        }
    }

    /// What to tell of what cannot be written again; `None` when that is known.
    pub(super) fn not_replayable(&mut self) -> Option<FromHub> {
        let inside = self.inside.as_mut()?;
        if std::mem::replace(&mut inside.unkept_told, true) {
            return None;
        }
        let paths = inside.unkept.iter().take(TOLD).cloned().collect();
        Some(FromHub::NotReplayable { paths, count: inside.unkept.len() as u64 })
    }

    /// Keeps one content. Whether it is there now.
    fn keep_content(
        &self,
        contents: &mut Contents,
        path: &SyncPath,
        digest: Digest,
        size: u64,
    ) -> bool {
        if contents.contains(&digest) || !contents.takes(size) {
            return contents.contains(&digest);
        }
        let kept = self.read_content(contents, path, digest, size);
        kept.unwrap_or_else(|error| {
            debug!(%path, %error, "its content is not kept");
            false
        })
    }

    fn read_content(
        &self,
        contents: &mut Contents,
        path: &SyncPath,
        digest: Digest,
        size: u64,
    ) -> io::Result<bool> {
        let Some((root, below)) = self.locate(path) else { return Ok(false) };
        let file = root.open_file(&below).map_err(io::Error::other)?;
        let mode = (file.metadata()?.mode() & 0o777) as u16;
        contents.put(digest, size, mode, file, self.receiver.held())
    }

    /// Removes again what was removed and the image brought back; on a volume nothing comes back by
    /// itself. The trash gets a copy.
    fn remove_again(&mut self) {
        let Some(inside) = &self.inside else { return };
        let held = self.receiver.held();
        let gone = inside.gone.iter().rev().filter(|path| held.get(path).is_none());
        let gone: Vec<SyncPath> = gone.cloned().collect();
        let generation = self.receiver.generation();
        for path in gone {
            let Some((root, below)) = self.locate(&path) else { continue };
            let Ok(Some(found)) = root.stat(&below) else { continue };
            let root = root.clone();
            if found.mount_root || !self.is_of_the_image(&path) {
                continue;
            }
            let removed = match found.kind {
                FoundKind::Directory => root.remove_directory(&below),
                FoundKind::File | FoundKind::Symlink { .. } => match self.keep(&path, generation) {
                    Ok(_) => root.remove_file(&below),
                    Err(reason) => {
                        warn!(%path, %reason, "came back, and is not removed again");
                        continue;
                    }
                },
                FoundKind::Other => continue,
            };
            if let Err(error) = removed {
                debug!(%path, %error, "not removed again");
            }
        }
    }

    /// Whether a path lies in the container's own root, not on a volume: by its directory's device.
    fn is_of_the_image(&self, path: &SyncPath) -> bool {
        let top = self.process.as_ref().map(|process| process.root_device());
        let above = path.parent().unwrap_or_else(SyncPath::root);
        let device = match self.locate(&above) {
            Some((root, below)) if below.is_root() => Some(root.identity().device),
            Some((root, below)) => root.stat(&below).ok().flatten().map(|found| found.device),
            None => None,
        };
        device.is_some() && device == top
    }

    /// Writes again what is not there, as far as its content is kept. Whether that was all.
    fn replay(&mut self, lost: &Snapshot) -> bool {
        let began = Instant::now();
        let Some(contents) = self.inside.as_mut().and_then(|inside| inside.contents.take()) else {
            return false;
        };
        let mut missing = 0_usize;
        let ops: Vec<Op> = self
            .receiver
            .held()
            .diff(lost)
            .into_iter()
            // Never a removal: what the record says is there lies at the target.
            .filter(|change| change.new.is_some())
            .filter_map(|change| {
                op(change, lost, &contents).or_else(|| {
                    missing += 1;
                    None
                })
            })
            .collect();
        let count = ops.len();
        let mut skipped = 0;
        if count > 0 {
            match self.give(ops, &contents) {
                Ok(not_done) => skipped = not_done,
                Err(error) => {
                    skipped = count;
                    warn!(%error, "what was lost is not written again");
                }
            }
        }
        if let Some(inside) = &mut self.inside {
            inside.contents = Some(contents);
            inside.later = Vec::new();
            let container = &inside.identity.name;
            let took = began.elapsed();
            info!(container, count, missing, skipped, ?took, "written again");
        }
        missing + skipped == 0
    }

    /// Applies ops as one generation, with content from the store. How many were not done.
    fn give(&mut self, ops: Vec<Op>, contents: &Contents) -> Result<usize, WireError> {
        let changes: Vec<Change> = ops.iter().map(|op| op.change.clone()).collect();
        let target = self.receiver.held().apply_changes(&changes).unwrap_or_default().id();
        let data: Vec<(u32, Digest)> = (0_u32..)
            .zip(&ops)
            .filter(|(_, op)| op.how == How::Data)
            .filter_map(|(index, op)| match op.change.new {
                Some(Entry::File { digest, .. }) => Some((index, digest)),
                _ => None,
            })
            .collect();
        let generation = self.receiver.generation() + 1;
        self.take_ops(Brought { generation, base: None, ops, last: true })?;
        let mut frame = Frame::default();
        for (index, digest) in data {
            if !self.give_content(index, &digest, contents, &mut frame)? {
                self.flush(&mut frame)?;
                self.receiver.withdraw(index)?;
            }
        }
        self.flush(&mut frame)?;
        let mut not_done = 0;
        for answer in self.commit(generation, target)? {
            if let FromHub::Applied { skipped, .. } | FromHub::AppliedPart { skipped, .. } = answer
            {
                not_done += skipped.len();
            }
        }
        Ok(not_done)
    }

    /// Hands in one content, several small ones in a frame. Whether it was there.
    fn give_content(
        &mut self,
        index: u32,
        digest: &Digest,
        contents: &Contents,
        frame: &mut Frame,
    ) -> Result<bool, WireError> {
        let Some((mut left, _, mut source)) = contents.read(digest) else { return Ok(false) };
        while left > 0 {
            if frame.body.len() >= PIECE_BYTES {
                self.flush(frame)?;
            }
            let start = frame.body.len();
            let step = left.min((PIECE_BYTES - start) as u64);
            let read = source.by_ref().take(step).read_to_end(&mut frame.body);
            if !read.is_ok_and(|read| read as u64 == step) {
                frame.body.truncate(start);
                return Ok(false);
            }
            frame.pieces.push((index, start..frame.body.len()));
            left -= step;
        }
        Ok(true)
    }

    fn flush(&mut self, frame: &mut Frame) -> Result<(), WireError> {
        let Frame { body, pieces } = std::mem::take(frame);
        if pieces.is_empty() { Ok(()) } else { self.take_data(body, pieces) }
    }
}

/// The files of a tree whose content is not kept.
fn missing(held: &Snapshot, contents: &Contents) -> BTreeSet<SyncPath> {
    let mut missing = BTreeSet::new();
    held.walk(&mut |path, node| {
        if let Node::File { digest, size: 1.., .. } = node
            && !contents.contains(digest)
        {
            missing.insert(path.clone());
        }
    });
    missing
}

/// Content on its way, as from a daemon.
#[derive(Default)]
struct Frame {
    body: Vec<u8>,
    pieces: Vec<(u32, std::ops::Range<usize>)>,
}

/// The op that makes a change; `None` when its content is not there.
fn op(change: Change, lost: &Snapshot, contents: &Contents) -> Option<Op> {
    let mut meta = Meta::default();
    let mut how = How::None;
    if let Some(&Node::File { digest, size, stamp, .. }) = lost.get(&change.path) {
        meta.mtime_ns = stamp.mtime_ns;
        let same = matches!(change.old, Some(Entry::File { digest: old, .. }) if old == digest);
        if size > 0 && !same {
            let (_, mode, _) = contents.read(&digest)?;
            (meta.mode, how) = (mode, How::Data);
        }
    }
    Some(Op { change, how, meta })
}

fn forget(dir: &Path, name: &str) -> io::Result<()> {
    match std::fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
