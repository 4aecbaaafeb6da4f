//! Owns the keeping of what was written: the store gets a copy of each content, to write it again.
//!
//! The small contents of a save are kept before it is acknowledged. What is more, or large, comes after
//! that, so that nothing waits for it: small ones a few at a time, whenever the hub has nothing else to
//! do, and large ones by a thread. When the app ends meanwhile, the rest is read from the root that the
//! hub still holds; hub and app killed together, it is what only the daemon has.

use std::collections::{BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tokio::sync::Notify;
use tracing::{debug, warn};

use super::super::root::TargetRoot;
use super::super::site::Site;
use super::super::store::{Contents, Slot, write_note};
use super::{GONE, Inside};
use crate::path::SyncPath;
use crate::tree::{Digest, Edit, Node, Snapshot};
use crate::wire::FromHub;

/// A generation of more edits is kept after it was acknowledged.
const KEEP_FIRST: usize = 64;
/// Contents from here on are kept by a thread: a few milliseconds, in bytes.
const LARGE_BYTES: u64 = 1 << 20;
/// What is kept at a time of what was put off: about 5 ms.
const STEP_FILES: usize = 64;
const STEP_BYTES: u64 = 4 << 20;
/// So many removed paths are remembered.
const GONE_MAX: usize = 100_000;
/// Paths that are told by name.
const TOLD: usize = 100;

impl Site {
    /// Takes what a generation did. Of what was `forgotten` nothing was removed.
    pub(in super::super) fn remember(&mut self, edits: &[Edit], forgotten: &HashSet<SyncPath>) {
        let Some(mut inside) = self.inside.take() else { return };
        if inside.contents.as_mut().is_some_and(Contents::rise) {
            inside.put_off(self.receiver.held());
        }
        if inside.contents.is_some() {
            // At once, as long as that takes no more than a step.
            let mut room = if edits.len() <= KEEP_FIRST { STEP_BYTES } else { 0 };
            for (path, node) in edits {
                inside.later.remove(path);
                match node {
                    &Some(Node::File { digest, size: size @ 1.., .. }) => {
                        if size < LARGE_BYTES.min(room) {
                            room -= size;
                            self.keep_content(&mut inside, path, digest, size);
                        } else {
                            inside.later.insert(path.clone(), (digest, size));
                        }
                    }
                    _ => inside.is_kept(path, true),
                }
            }
            self.remember_gone(&mut inside, edits, forgotten);
        }
        self.inside = Some(inside);
    }

    /// Whether [`Self::keep_more`] has something to do.
    pub(in super::super) fn has_more_to_keep(&self) -> bool {
        self.inside.as_ref().is_some_and(|inside| !inside.later.is_empty())
    }

    /// Whether [`Self::finish_keeping`] has something to do.
    pub(in super::super) fn is_keeping(&self) -> bool {
        let busy = |inside: &Inside| inside.keeper.is_some() || !inside.later.is_empty();
        self.inside.as_ref().is_some_and(busy)
    }

    /// Keeps some of what was put off.
    pub(in super::super) fn keep_more(&mut self) {
        let Some(mut inside) = self.inside.take() else { return };
        let (mut bytes, mut astray) = (0, false);
        for _ in 0..STEP_FILES {
            let Some((path, (digest, size))) = inside.later.pop_first() else { break };
            let there = matches!(self.receiver.held().get(&path),
                Some(&Node::File { digest: now, .. }) if now == digest);
            if !there {
                // Its directory was moved, for one.
                astray = true;
                continue;
            }
            self.keep_content(&mut inside, &path, digest, size);
            bytes += if size < LARGE_BYTES { size } else { 0 };
            if bytes >= STEP_BYTES {
                break;
            }
        }
        self.inside = Some(inside);
        if astray {
            self.keep_all();
        }
    }

    /// Puts off all that is there and not kept.
    pub(super) fn keep_all(&mut self) {
        if let Some(inside) = &mut self.inside {
            inside.put_off(self.receiver.held());
        }
    }

    /// Lets go of what is kept, as the volume is full; it is kept anew, and less of it. Whether there was
    /// anything.
    pub(in super::super) fn give_way(&mut self) -> bool {
        let held = self.receiver.held();
        self.inside.as_mut().is_some_and(|inside| inside.give_way(held))
    }

    /// Keeps all that was put off and all that is under way, however long that takes: the container has
    /// ended.
    pub(in super::super) fn finish_keeping(&mut self) {
        while self.has_more_to_keep() {
            self.keep_more();
        }
        let keeper = self.inside.as_mut().and_then(|inside| inside.keeper.take());
        keeper.map(Keeper::finish).into_iter().flatten().for_each(|done| self.kept(&done));
    }

    /// Takes in what the thread has kept.
    pub(in super::super) fn take_kept(&mut self) {
        let keeper = |site: &Self| site.inside.as_ref()?.keeper.as_ref()?.done.try_recv().ok();
        while let Some(done) = keeper(self) {
            self.kept(&done);
        }
    }

    fn kept(&mut self, done: &Done) {
        let (held, Some(inside)) = (self.receiver.held(), &mut self.inside) else { return };
        let Some(contents) = &mut inside.contents else { return };
        let kept = contents.filled(&done.slot, done.whole);
        if done.full {
            inside.give_way(held);
            return;
        }
        if done.whole && !kept {
            inside.later.insert(done.path.clone(), done.content);
        } else if !kept {
            // Others may have the same content.
            inside.unkept = missing(held, contents);
            inside.unkept_told = false;
        }
    }

    /// Whom to tell when something was kept by a thread.
    pub(in super::super) fn tell_kept(&mut self, kept: &Arc<Notify>) {
        if let Some(inside) = &mut self.inside {
            inside.kept = Arc::clone(kept);
        }
    }

    /// What to tell of what cannot be written again; `None` when that is known, or not yet.
    pub(in super::super) fn not_replayable(&mut self) -> Option<FromHub> {
        let inside = self.inside.as_mut()?;
        if !inside.later.is_empty() || std::mem::replace(&mut inside.unkept_told, true) {
            return None;
        }
        let paths = inside.unkept.iter().take(TOLD).cloned().collect();
        Some(FromHub::NotReplayable { paths, count: inside.unkept.len() as u64 })
    }

    /// Somebody else listens from now on, who knows of nothing.
    pub(in super::super) fn tell_unkept_again(&mut self) {
        if let Some(inside) = &mut self.inside {
            inside.unkept_told &= inside.unkept.is_empty();
        }
    }

    fn remember_gone(&self, inside: &mut Inside, edits: &[Edit], forgotten: &HashSet<SyncPath>) {
        let mut changed = false;
        for (path, node) in edits {
            changed |= match node {
                None if forgotten.contains(path) => false,
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

    /// Keeps one content, or has it kept.
    fn keep_content(&self, inside: &mut Inside, path: &SyncPath, digest: Digest, size: u64) {
        let Some(contents) = &mut inside.contents else { return };
        let (evictions, mut full) = (contents.evictions(), false);
        let mut keep = || -> io::Result<bool> {
            if contents.contains(&digest) || !contents.takes(size) {
                return Ok(contents.contains(&digest));
            }
            let held = self.receiver.held();
            let Some((root, below)) = self.locate(path) else { return Ok(false) };
            if size < LARGE_BYTES {
                let (file, mode) = open(root, &below)?;
                return contents.put(digest, size, mode, file, held);
            }
            let Some(slot) = contents.reserve(digest, size, held)? else { return Ok(false) };
            let (root, path) = (Arc::clone(root), path.clone());
            let job = Job { slot, root, below, path, content: (digest, size) };
            let keeper = inside.keeper.get_or_insert_with(|| Keeper::new(Arc::clone(&inside.kept)));
            Ok(keeper.give(job).map_err(|job| contents.filled(&job.slot, false)).is_ok())
        };
        let kept = keep().unwrap_or_else(|error| {
            debug!(%path, %error, "its content is not kept");
            full = is_full(&error);
            false
        });
        if full {
            inside.give_way(self.receiver.held());
            return;
        }
        let evicted = contents.evictions() != evictions;
        inside.is_kept(path, kept);
        if let Some(contents) = inside.contents.as_ref().filter(|_| evicted) {
            inside.unkept = missing(self.receiver.held(), contents);
            inside.unkept_told = false;
        }
    }
}

impl Inside {
    /// Puts off all that is there and not kept.
    fn put_off(&mut self, held: &Snapshot) {
        let Self { contents: Some(contents), later, unkept, unkept_told, gone, .. } = self else {
            return;
        };
        let before = unkept.len();
        held.walk(&mut |path, node| match node {
            &Node::File { digest, size: size @ 1.., .. } if !contents.contains(&digest) => {
                if contents.takes(size) {
                    later.insert(path.clone(), (digest, size));
                } else {
                    unkept.insert(path.clone());
                }
            }
            _ => {}
        });
        *unkept_told &= unkept.len() == before;
        gone.retain(|path| held.get(path).is_none());
    }

    /// As [`Site::give_way`].
    pub(in super::super) fn give_way(&mut self, held: &Snapshot) -> bool {
        let gave = self.contents.as_mut().is_some_and(Contents::give_way);
        warn!(gave, "the store's volume is full; fewer contents are kept to be written again");
        (self.unkept, self.unkept_told) = (BTreeSet::new(), false);
        self.put_off(held);
        gave
    }

    /// Notes whether the content at a path can be written again, if it has any.
    fn is_kept(&mut self, path: &SyncPath, kept: bool) {
        let changed = match kept {
            true => self.unkept.remove(path),
            false => self.unkept.insert(path.clone()),
        };
        self.unkept_told &= !changed;
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

/// Opens a file at the target, with its permission bits.
fn open(root: &TargetRoot, below: &SyncPath) -> io::Result<(File, u16)> {
    let file = root.open_file(below).map_err(io::Error::other)?;
    let mode = (file.metadata()?.mode() & 0o777) as u16;
    Ok((file, mode))
}

/// Whether a volume has no room, or none for us.
pub(in super::super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A content to be kept.
struct Job {
    slot: Slot,
    root: Arc<TargetRoot>,
    /// Where it lies below the root.
    below: SyncPath,
    path: SyncPath,
    content: (Digest, u64),
}

/// What became of a [`Job`].
struct Done {
    slot: Slot,
    path: SyncPath,
    content: (Digest, u64),
    whole: bool,
    /// The volume is.
    full: bool,
}

/// A thread that keeps large contents, one after the other. Dropped, it ends, and what it was at is not
/// kept. Its jobs are files of the record, each once: they need no other bound.
pub(super) struct Keeper {
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Keeper {
    fn new(told: Arc<Notify>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (give, take) = channel::<Job>();
        let (tell, done) = channel();
        let stopped = Arc::clone(&stop);
        let work = move || {
            while let Ok(job) = take.recv() {
                if tell.send(perform(job, &stopped)).is_err() {
                    return;
                }
                told.notify_one();
            }
        };
        let thread = std::thread::Builder::new().name("e2ek-keep".to_owned()).spawn(work).ok();
        Self { jobs: Some(give), done, thread, stop }
    }

    /// Hands over a job. Gives it back where there can be no thread.
    fn give(&self, job: Job) -> Result<(), Job> {
        match &self.jobs {
            Some(jobs) => jobs.send(job).map_err(|refused| refused.0),
            None => Err(job),
        }
    }

    /// Waits for all of it.
    fn finish(mut self) -> Vec<Done> {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.done.try_iter().collect()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn perform(mut job: Job, stop: &AtomicBool) -> Done {
    let filled = open(&job.root, &job.below)
        .and_then(|(file, mode)| job.slot.fill(mode, file, stop))
        .inspect_err(|error| debug!(path = %job.path, %error, "its content is not kept"));
    let Job { slot, path, content, .. } = job;
    let full = filled.as_ref().is_err_and(is_full);
    Done { slot, path, content, whole: filled.is_ok(), full }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::site;
    use super::*;
    use crate::tree::{Entry, Stamp};

    /// Files in a directory, as edits of an empty tree.
    fn files(top: &Path, of: &[(String, Vec<u8>)]) -> Vec<Edit> {
        let mut edits = vec![(SyncPath::try_from("0").unwrap(), Some(Node::directory()))];
        for (name, bytes) in of {
            std::fs::write(top.join(name), bytes).unwrap();
            let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
            let entry = Entry::File { digest, size, executable: false };
            let path = SyncPath::try_from(format!("0/{name}").as_str()).unwrap();
            edits.push((path, Some(Node::from_entry(&entry, Stamp::default()))));
        }
        edits.sort_by(|a, b| a.0.cmp(&b.0));
        edits
    }

    fn kept(site: &Site, edits: &[Edit]) -> usize {
        let contents = site.inside.as_ref().unwrap().contents.as_ref().unwrap();
        let is_kept = |edit: &&Edit| {
            matches!(&edit.1, Some(Node::File { digest, .. })
            if contents.read(digest).is_some())
        };
        edits.iter().filter(is_kept).count()
    }

    fn small(count: usize) -> Vec<(String, Vec<u8>)> {
        (0..count).map(|n| (format!("f{n:03}"), format!("text {n}").into_bytes())).collect()
    }

    #[test]
    fn a_save_is_kept_at_once_and_what_is_more_or_large_bit_by_bit() {
        let home = tempfile::tempdir().unwrap();
        let [top, store] = ["top", "store"].map(|name| home.path().join(name));
        [&top, &store].into_iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        let mut all = small(3);
        all.push(("large".to_owned(), vec![7; 2 << 20]));
        let save = files(&top, &all);
        let mut here = site(&top, &store, &save);
        here.remember(&save, &HashSet::new());
        assert_eq!(kept(&here, &save), 3, "the large one is put off");
        assert!(here.has_more_to_keep() && here.not_replayable().is_none(), "nobody knows yet");
        here.finish_keeping();
        assert_eq!(kept(&here, &save), 4);
        assert!(!here.is_keeping() && here.not_replayable().is_none());
        drop(here);

        let many = files(&top, &small(STEP_FILES * 2 + 10));
        let mut here = site(&top, &store, &many);
        here.remember(&many, &HashSet::new());
        assert_eq!(kept(&here, &many), 3, "as before");
        let mut steps = 0;
        while here.has_more_to_keep() {
            let before = kept(&here, &many);
            here.keep_more();
            assert!(kept(&here, &many) <= before + STEP_FILES);
            steps += 1;
        }
        assert!(steps >= 2 && kept(&here, &many) == STEP_FILES * 2 + 10);
    }

    #[test]
    fn i12_what_cannot_be_kept_is_told_when_all_is_known() {
        let home = tempfile::tempdir().unwrap();
        let [top, store] = ["top", "store"].map(|name| home.path().join(name));
        [&top, &store].into_iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        let mut all = small(100);
        all.push(("large".to_owned(), vec![7; 2 << 20]));
        all.push(("larger".to_owned(), vec![8; 33 << 20]));
        let edits = files(&top, &all);
        let mut here = site(&top, &store, &edits);
        // Somebody changes two of them meanwhile.
        std::fs::write(top.join("f050"), "others'").unwrap();
        std::fs::write(top.join("large"), vec![9; 2 << 20]).unwrap();
        here.remember(&edits, &HashSet::new());
        here.finish_keeping();
        assert_eq!(kept(&here, &edits), 99);
        let Some(FromHub::NotReplayable { paths, count }) = here.not_replayable() else {
            panic!("not told");
        };
        let names: Vec<String> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(
            (names, count),
            (["0/f050", "0/large", "0/larger"].map(str::to_owned).to_vec(), 3)
        );
        assert!(here.not_replayable().is_none(), "once");
        // A path that moved before it was kept makes it look at all of them again.
        let moved = SyncPath::try_from("0/moved").unwrap();
        here.inside.as_mut().unwrap().later.insert(moved, (Digest::of(b"text 1"), 6));
        std::fs::write(top.join("f050"), "text 50").unwrap();
        here.finish_keeping();
        assert_eq!(kept(&here, &edits), 100);
        assert!(matches!(here.not_replayable(), Some(FromHub::NotReplayable { count: 2, .. })));
    }
}
