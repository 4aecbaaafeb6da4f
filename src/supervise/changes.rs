//! Owns the watching of `supervise`: directories in, one change per finished save out.
//!
//! A directory is watched first and listed afterwards, one at a time. A save is several kernel
//! events; it is told once: at the close of the written file or its move into place, else (a file
//! kept open, removed, its mode changed) after 50 ms of quiet, at most 2 s. Opening a file, and
//! closing it unwritten, is not even asked of the kernel. Symlinked directories are not entered.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io, mem};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKindMask, ModifyKind, RenameMode};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::pattern::Filter;
use super::{Error, Options};

/// How long a path that is not known to be finished must be quiet.
const QUIET: Duration = Duration::from_millis(50);
/// A path that never is quiet is told this often.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often a directory that vanished is looked for.
const RETURN: Duration = Duration::from_secs(1);
/// More events than this between two looks are one "something changed".
const INBOX_EVENTS: usize = 8192;

/// What matters.
#[derive(Debug)]
pub(super) enum Change {
    /// This path changed.
    Path(PathBuf),
    /// Events were lost: anything may have changed.
    Lost,
    /// This directory is not watched (any more).
    Unwatched(PathBuf, io::Error),
}

/// The watched directories, and what happened in them.
pub(super) struct Changes {
    watcher: RecommendedWatcher,
    inbox: Arc<Inbox>,
    filter: Filter,
    recursive: bool,
    ignore_directories: bool,
    roots: Vec<PathBuf>,
    watched: HashSet<PathBuf>,
    /// Not finished yet: the first and the last event.
    held: BTreeMap<PathBuf, (Instant, Instant)>,
    /// Roots to be looked for, and when.
    vanished: Vec<PathBuf>,
    look: Instant,
    ready: VecDeque<Change>,
}

/// A mailbox that merges: bounded, because the watcher's thread must never wait for us (it also
/// answers our own calls).
#[derive(Default)]
struct Inbox {
    seen: Mutex<Batch>,
    filled: Notify,
}

#[derive(Default)]
struct Batch {
    seen: Vec<Seen>,
    lost: bool,
}

#[derive(Debug)]
struct Seen {
    path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Written and closed, or moved here.
    Finished,
    /// More may come.
    Unfinished,
    /// A directory appeared.
    Folder,
    /// Removed, or moved away.
    Gone,
}

impl Inbox {
    fn put(&self, event: notify::Result<Event>) {
        let mut batch = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Ok(event) if event.need_rescan() => batch.lost = true,
            Ok(event) => batch.put(event),
            Err(_) => batch.lost = true,
        }
        drop(batch);
        self.filled.notify_one();
    }

    fn take(&self) -> Batch {
        mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Batch {
    fn put(&mut self, event: Event) {
        let Some(kind) = kind(event.kind) else { return };
        let seen = event.paths.into_iter().map(|path| Seen { path, kind });
        self.seen.extend(seen);
        if self.seen.len() > INBOX_EVENTS {
            self.seen.clear();
            self.lost = true;
        }
    }
}

fn kind(kind: EventKind) -> Option<Kind> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Kind::Finished),
        EventKind::Create(CreateKind::Folder) => Some(Kind::Folder),
        EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
            Some(Kind::Gone)
        }
        // Both halves were told one by one.
        EventKind::Modify(ModifyKind::Name(RenameMode::Both)) | EventKind::Access(_) => None,
        _ => Some(Kind::Unfinished),
    }
}

impl Changes {
    /// Watches the directories of `options`, and with `recursive` those below them.
    ///
    /// # Errors
    /// When one of the directories themselves cannot be watched; those below are told as changes.
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let inbox = Arc::new(Inbox::default());
        let sink = Arc::clone(&inbox);
        let kinds = EventKindMask::CORE | EventKindMask::ACCESS_CLOSE;
        let config = Config::default().with_event_kinds(kinds);
        let watcher = RecommendedWatcher::new(move |event| sink.put(event), config)
            .map_err(|error| Error::Watch(PathBuf::new(), io_error(error)))?;
        let mut changes = Self {
            watcher,
            inbox,
            filter: Filter::new(&options.patterns, &options.ignore_patterns),
            recursive: options.recursive,
            ignore_directories: options.ignore_directories,
            roots: Vec::new(),
            watched: HashSet::new(),
            held: BTreeMap::new(),
            vanished: Vec::new(),
            look: Instant::now(),
            ready: VecDeque::new(),
        };
        for directory in &options.directories {
            let failed = |error| Error::Watch(directory.clone(), error);
            let root = std::path::absolute(directory).map_err(failed)?;
            changes.watch(&root).map_err(failed)?;
            changes.roots.push(root.clone());
            changes.descend(&root, None);
        }
        Ok(changes)
    }

    /// The next change; pending while there is none.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Change {
        loop {
            self.sort(Instant::now());
            if let Some(change) = self.ready.pop_front() {
                return change;
            }
            tokio::select! {
                () = self.inbox.filled.notified() => {}
                () = super::until(self.deadline()) => {}
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let look = (!self.vanished.is_empty()).then_some(self.look);
        self.held.values().map(due).chain(look).min()
    }

    /// Takes what came, and what became due.
    fn sort(&mut self, now: Instant) {
        let batch = self.inbox.take();
        if batch.lost {
            self.ready.push_back(Change::Lost);
            for root in self.roots.clone() {
                self.descend(&root, None);
            }
        }
        for seen in batch.seen {
            self.seen(now, seen);
        }
        let is_due = |_: &PathBuf, times: &mut (Instant, Instant)| due(times) <= now;
        let due: Vec<_> = self.held.extract_if(.., is_due).collect();
        let due = due.into_iter().map(|(path, _)| Change::Path(path));
        self.ready.extend(due);
        if !self.vanished.is_empty() && self.look <= now {
            self.look_for_vanished(now);
        }
    }

    fn seen(&mut self, now: Instant, seen: Seen) {
        let Seen { path, kind } = seen;
        if self.vanished.iter().any(|root| path.starts_with(root)) {
            // Of a directory that was moved away, under its old name.
            return;
        }
        let folder = match kind {
            Kind::Folder => true,
            Kind::Gone => self.watched.remove(&path),
            Kind::Finished | Kind::Unfinished => is_folder(&path),
        };
        match kind {
            Kind::Gone if self.roots.contains(&path) => return self.vanish(now, path),
            Kind::Finished | Kind::Folder if folder && self.recursive => self.enter(&path, now),
            _ => {}
        }
        if !self.filter.matches(&path) || (folder && self.ignore_directories) {
            return;
        }
        if kind == Kind::Finished {
            self.held.remove(&path);
            self.ready.push_back(Change::Path(path));
        } else {
            self.hold(now, path);
        }
    }

    fn hold(&mut self, now: Instant, path: PathBuf) {
        self.held.entry(path).or_insert((now, now)).1 = now;
    }

    fn watch(&mut self, directory: &Path) -> io::Result<()> {
        let watching = self.watcher.watch(directory, RecursiveMode::NonRecursive);
        watching.map_err(io_error)?;
        self.watched.insert(directory.to_owned());
        Ok(())
    }

    /// A directory that appeared: what is in it by now was not seen coming.
    fn enter(&mut self, directory: &Path, now: Instant) {
        if self.watch_or_tell(directory) {
            self.descend(directory, Some(now));
        }
    }

    fn watch_or_tell(&mut self, directory: &Path) -> bool {
        match self.watch(directory) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                let unwatched = Change::Unwatched(directory.to_owned(), error);
                self.ready.push_back(unwatched);
                false
            }
        }
    }

    /// Lists a watched directory, and with `recursive` watches what is below it. With `new`, files
    /// that are found count as changes.
    fn descend(&mut self, directory: &Path, new: Option<Instant>) {
        if !self.recursive {
            return;
        }
        let mut todo = vec![directory.to_owned()];
        while let Some(directory) = todo.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    if self.watch_or_tell(&path) {
                        todo.push(path);
                    }
                } else if let Some(now) = new
                    && self.filter.matches(&path)
                {
                    self.hold(now, path);
                }
            }
        }
    }

    fn vanish(&mut self, now: Instant, root: PathBuf) {
        // Directories that were only moved would go on to be watched under their old names.
        let _ = self.watcher.unwatch(&root);
        for below in self.watched.extract_if(|path| path.starts_with(&root)) {
            let _ = self.watcher.unwatch(&below);
        }
        let error = io::ErrorKind::NotFound.into();
        self.ready.push_back(Change::Unwatched(root.clone(), error));
        self.vanished.push(root);
        self.look = now + RETURN;
    }

    /// Watches roots that came back; their return is a change.
    fn look_for_vanished(&mut self, now: Instant) {
        for root in mem::take(&mut self.vanished) {
            if self.watch(&root).is_ok() {
                self.descend(&root, None);
                self.ready.push_back(Change::Path(root));
            } else {
                self.vanished.push(root);
            }
        }
        self.look = now + RETURN;
    }
}

fn due((first, last): &(Instant, Instant)) -> Instant {
    (*last + QUIET).min(*first + PATIENCE)
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

fn io_error(error: notify::Error) -> io::Error {
    match error.kind {
        notify::ErrorKind::Io(error) => error,
        notify::ErrorKind::PathNotFound => io::ErrorKind::NotFound.into(),
        notify::ErrorKind::MaxFilesWatch => io::ErrorKind::StorageFull.into(),
        _ => io::Error::other(error),
    }
}
