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

mod keep;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use tracing::{debug, info, warn};

use self::keep::Keeper;
pub(super) use self::keep::is_full;
use super::Settings;
use super::apply::Brought;
use super::entry::{Request, near, path_of};
use super::root::{Found, FoundKind};
use super::site::Site;
use super::store::{Contents, Loaded, read_note, read_tree, write_note, write_tree};
use super::target::{Identity, Target as Process};
use crate::path::SyncPath;
use crate::tree::{Change, Digest, Entry, Node, Snapshot};
use crate::wire::{FromHub, How, Meta, Op, PIECE_BYTES, WireError};

/// Which start of the container the record is of.
const INCARNATION: &str = "incarnation";
/// What is to be written again, as long as that goes on.
const WANTED: &str = "wanted";
/// There when a session has said once that all its files were there.
const CURRENT: &str = "current";
/// Paths that are to be removed again.
const GONE: &str = "gone";
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
    /// Files that are there and not kept yet, and how long each is.
    later: BTreeMap<SyncPath, (Digest, u64)>,
    keeper: Option<Keeper>,
    /// Whom the keeper tells.
    kept: Arc<Notify>,
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
            later: BTreeMap::new(),
            keeper: None,
            kept: Arc::default(),
        }
    }

    /// Whose root it is.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// As at the beginning.
    pub(super) fn emptied(self) -> Self {
        Self::of(self.identity)
    }
}

/// What targets in containers were written to, according to the records.
pub(super) fn standing(state: &Path) -> Vec<Request> {
    let mut noted: Vec<_> = notes(state)
        .filter_map(|(dir, request)| {
            let written = std::fs::metadata(dir.join(STANDING)).and_then(|note| note.modified());
            Some((written.ok()?, dir, request))
        })
        .collect();
    noted.sort_by_key(|(written, ..)| std::cmp::Reverse(*written));
    let mut standing: Vec<Request> = Vec::new();
    for (_, dir, request) in noted {
        if standing.iter().any(|newer| are_near(newer, &request)) {
            fall(&dir);
        } else {
            standing.push(request);
        }
    }
    standing
}

/// Lets go of what targets were written to that lie where this one does, above or below it.
pub(super) fn stand_alone(state: &Path, open: &Request) {
    let others = notes(state).filter(|(_, request)| are_near(request, open));
    others.filter(|(_, request)| request.roots != open.roots).for_each(|(dir, _)| fall(&dir));
}

fn notes(state: &Path) -> impl Iterator<Item = (PathBuf, Request)> + use<> {
    let folders = std::fs::read_dir(state.join("hubs")).into_iter().flatten().flatten();
    folders.filter_map(|folder| Some((folder.path(), read_note(&folder.path(), STANDING)?)))
}

fn are_near(a: &Request, b: &Request) -> bool {
    let names = |request: &Request| -> Vec<PathBuf> {
        request.roots.iter().map(|root| path_of(root).to_owned()).collect()
    };
    a.inside() == b.inside() && near(&names(a), &names(b))
}

/// Removes the contents that a target's record keeps. Whether there were any.
pub(super) fn make_way(dir: &Path) -> bool {
    let bytes = Contents::bytes_in(dir);
    Contents::remove(dir).is_ok() && bytes > 0
}

/// A target is not gone on with any more; nor is it written again when a session comes back to it.
fn fall(dir: &Path) {
    let forgotten = [STANDING, CURRENT].iter().try_for_each(|name| forget(dir, name));
    if let Err(error) = forgotten.and_then(|()| Contents::remove(dir)) {
        warn!(%error, dir = %dir.display(), "what is not written again is still kept");
    }
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
        let stood = read_note::<Request>(dir, STANDING).is_some();
        let lost = if ours && stood {
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
        if let Some(lost) = lost {
            let whole = self.replay(&lost);
            self.remove_again();
            if !whole {
                // Nor is it at the next opening: a session has to say so again.
                forget(&dir, CURRENT)?;
            }
            forget(&dir, WANTED)?;
        }
        if let Some(inside) = &mut self.inside {
            inside.complete = read_note::<()>(&dir, CURRENT).is_some();
        }
        self.keep_all();
        Ok(())
    }

    /// Somebody else has this place now.
    pub(super) fn fall(&self) {
        if let (Some(store), Some(_)) = (&self.store, &self.inside) {
            fall(store.folder());
        }
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

    /// Removes again what was removed and the image brought back; on a volume nothing comes back by
    /// itself. The trash gets a copy.
    fn remove_again(&mut self) {
        let Some(inside) = &self.inside else { return };
        let held = self.receiver.held();
        let gone = inside.gone.iter().rev().filter(|path| held.get(path).is_none());
        // All are looked at before the first is removed, which changes the directory it lies in.
        let gone: Vec<_> = gone
            .filter_map(|path| {
                let (root, below) = self.locate(path)?;
                let found = root.stat(&below).ok()??;
                let came_back =
                    !found.mount_root && !self.is_of_the_app(&found) && self.is_of_the_image(path);
                came_back.then(|| (path.clone(), Arc::clone(root), below, found))
            })
            .collect();
        let generation = self.receiver.generation();
        for (path, root, below, found) in gone {
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

    /// Whether the app may have made it: it is younger than the container's process.
    fn is_of_the_app(&self, found: &Found) -> bool {
        let started = self.process.as_ref().and_then(Process::started_ns);
        started.is_some_and(|started| found.stamp.ctime_ns >= started)
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
            frame.body.resize(start + step as usize, 0);
            if source.read_exact(&mut frame.body[start..]).is_err() {
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
