//! Owns which directories `notify` watches, by their paths.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use e2ek_sidecar::path::SyncPath;
use notify::{
    Config, ErrorKind, Event, EventKindMask, RecommendedWatcher, RecursiveMode, WatchPathConfig,
    Watcher as _, WatcherKind,
};
use rustix::io::Errno;

use crate::watch::shared::Shared;
use crate::watch::{Shortage, Wanted};

/// The watches of one watcher.
pub(super) struct Table {
    root: PathBuf,
    pub(super) wanted: Wanted,
    /// `None` when none can be had: then everything is polled.
    watcher: Option<RecommendedWatcher>,
    /// The directories that were watched, with all above them up to the root.
    watched: BTreeSet<PathBuf>,
    /// Those that could not be.
    pub(super) polled: BTreeMap<PathBuf, Shortage>,
}

impl Table {
    /// No watches, and nothing to have them with.
    pub(super) fn new(root: PathBuf, wanted: Wanted) -> Self {
        let (watched, polled) = (BTreeSet::new(), BTreeMap::new());
        Self { root, wanted, watcher: None, watched, polled }
    }

    /// Begins anew, with a watcher that tells `tell` and no watches yet.
    pub(super) fn begin(&mut self, tell: impl FnMut(notify::Result<Event>) + Send + 'static) {
        self.watched.clear();
        self.polled.clear();
        // Ended before the next one: there may be only so many.
        self.watcher = None;
        let kinds = EventKindMask::CORE | EventKindMask::ACCESS_CLOSE;
        let config = Config::default().with_event_kinds(kinds).with_follow_symlinks(false);
        match RecommendedWatcher::new(tell, config) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(error) => {
                let shortage = Shortage::of_everything(errno(&error));
                self.polled.insert(self.root.clone(), shortage);
            }
        }
    }

    /// Whether there is no watcher.
    pub(super) fn is_blind(&self) -> bool {
        self.watcher.is_none()
    }

    /// Watches the directory of cookies. Whether a cookie's event comes after all earlier ones.
    pub(super) fn watch_cookies(&mut self, directory: &Path) -> bool {
        let ordered =
            matches!(RecommendedWatcher::kind(), WatcherKind::Inotify | WatcherKind::Fsevent);
        self.watcher.as_mut().is_some_and(|watcher| {
            ordered && watcher.watch(directory, RecursiveMode::NonRecursive).is_ok()
        })
    }

    /// How many directories are watched.
    pub(super) fn len(&self) -> usize {
        self.watched.len()
    }

    /// Whether a directory is watched.
    pub(super) fn contains(&self, directory: &Path) -> bool {
        self.watched.contains(directory)
    }

    /// Watches and lists a directory that is not watched, and all wanted ones below it. The caller
    /// says "look everywhere" there afterwards.
    pub(super) fn walk(&mut self, top: &Path, shared: &Shared) {
        let mut todo = vec![top.to_owned()];
        while let Some(directory) = todo.pop() {
            if shared.stopping() {
                return;
            }
            if !self.watch(&directory) {
                continue;
            }
            // One removed meanwhile lists nothing; its parent's watch tells of that.
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    todo.push(entry.path());
                }
            }
        }
    }

    /// Whether the directory is wanted and now watched.
    fn watch(&mut self, directory: &Path) -> bool {
        let (Some(watcher), Some(path)) = (&mut self.watcher, below(&self.root, directory)) else {
            return false;
        };
        if !path.is_root() && !self.wanted.wants(&path) {
            return false;
        }
        let config = WatchPathConfig::new(RecursiveMode::NonRecursive)
            .with_dereference_symlinks(path.is_root());
        let watched = watcher.watch_with(directory, config);
        // From here on a change is told, or polled for.
        self.wanted.forget(&path);
        if let Err(error) = watched {
            if let Some(shortage) = Shortage::of_directory(errno(&error)) {
                self.polled.insert(directory.to_owned(), shortage);
            }
            return false;
        }
        self.polled.remove(directory);
        self.watched.insert(directory.to_owned());
        if path.is_root() || is_directory(directory) {
            return true;
        }
        // It was one when it was listed.
        self.forget(directory);
        false
    }

    /// Ends the watches at a path and below it.
    pub(super) fn forget(&mut self, path: &Path) {
        self.polled.retain(|polled, _| !polled.starts_with(path));
        let from_here = (Bound::Included(path), Bound::Unbounded);
        let gone = self.watched.range::<Path, _>(from_here);
        let gone: Vec<_> = gone.take_while(|p| p.starts_with(path)).cloned().collect();
        for path in gone {
            self.watched.remove(&path);
            // Fails when it ended by itself.
            let _ = self.watcher.as_mut().map(|watcher| watcher.unwatch(&path));
        }
    }
}

/// The path of `file` below `root`; `None` for what is not there or cannot be named.
pub(super) fn below(root: &Path, file: &Path) -> Option<SyncPath> {
    let mut names = file.strip_prefix(root).ok()?.iter();
    names.try_fold(SyncPath::root(), |path, name| path.join(name.as_encoded_bytes()).ok())
}

pub(super) fn is_directory(file: &Path) -> bool {
    file.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

fn errno(error: &notify::Error) -> Errno {
    match &error.kind {
        ErrorKind::MaxFilesWatch => Errno::NOSPC,
        ErrorKind::PathNotFound => Errno::NOENT,
        ErrorKind::Io(error) => Errno::from_io_error(error).unwrap_or(Errno::IO),
        _ => Errno::IO,
    }
}
