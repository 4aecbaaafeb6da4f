//! Owns the watching of systems without inotify, by the crate `notify`; on Linux for comparison.
//!
//! Used without its recursive mode, which on Linux misses files born in new directories: each
//! directory is watched first and then listed, from the root down. A table kept by path needs more
//! care than one kept by descriptor: `notify` says nothing when the path of a watch has come to
//! mean another directory. So whenever an event may mean that, the watches at the path and below it
//! are ended, and what stands there now is watched and looked at. When events were lost, all of it
//! is done again with a new watcher. The figures are in the head of the room.
//!
//! What `notify` does not give, and what is done about it:
//! - The root's own path is not watched, only the root: it is looked at every two seconds, so an
//!   idle watch does wake up.
//! - Closes are told by inotify alone: elsewhere a save waits for the debounce's quiet.
//! - Windows and kqueue have no one order of events for all directories, so there a cookie proves
//!   nothing: a sync point is a look everywhere. Windows also refuses to rename a directory above
//!   one that is watched.
//! - A directory is opened by its path. One that becomes a link at that moment may be watched where
//!   the link leads; nothing is read there, and the scan does not follow.
//! - Of a directory mounted at two places of the tree only one is told about.
//!
//! Tested on Linux only.

mod inbox;
mod table;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use e2ek_sidecar::path::SyncPath;
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Event, EventKind};

pub(super) use inbox::Waker;
use table::{Table, below, is_directory};

use super::out::Out;
use super::shared::{Closing, Shared};
use super::{Observed, POLL_EVERY, Wanted};
use crate::engine::debounce::Seen;

/// Starts the watching thread. It ends when told to stop, and closes the mailbox.
pub(super) fn spawn(
    root: PathBuf,
    cookies: PathBuf,
    wanted: Wanted,
    shared: Arc<Shared>,
    waker: Waker,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("watch".into()).spawn(move || {
        let _closing = Closing(Arc::clone(&shared));
        let table = Table::new(root.clone(), wanted);
        let mut watcher = Watcher {
            root,
            cookies,
            shared,
            waker,
            table,
            out: Out::new(),
            to_open: BTreeMap::new(),
            identity: None,
            root_gone: false,
            root_suspect: false,
            next_poll: Instant::now() + POLL_EVERY,
        };
        watcher.run();
    })
}

struct Watcher {
    root: PathBuf,
    cookies: PathBuf,
    shared: Arc<Shared>,
    waker: Waker,
    out: Out,
    table: Table,
    /// Where a directory came or went, until the end of the batch: all moves of a name are one.
    to_open: BTreeMap<PathBuf, SyncPath>,
    /// The root's device and inode when it was last gone through.
    identity: Option<(u64, u64)>,
    /// What was last said about the root.
    root_gone: bool,
    /// The root was removed or renamed.
    root_suspect: bool,
    next_poll: Instant,
}

impl Watcher {
    fn run(&mut self) {
        self.establish();
        self.finish_batch();
        while !self.shared.stopping() {
            let (events, lost) = self.waker.wait(self.next_poll);
            self.out.now = Instant::now();
            self.obey();
            if lost {
                self.shared.state().stats.overflows += 1;
                if !self.root_gone {
                    self.out.lost(&self.root, &self.shared);
                }
                self.rewalk();
            } else {
                self.work_off(&events);
            }
            self.poll();
            self.finish_batch();
        }
    }

    fn work_off(&mut self, events: &[Event]) {
        for event in events {
            if self.shared.stopping() {
                return;
            }
            for path in &event.paths {
                self.handle(path, event.kind);
            }
            if self.out.is_full() {
                self.out.post(&self.root, &self.shared);
            }
        }
        self.open_anew();
    }

    /// Does what the owner of the watch asked for.
    fn obey(&mut self) {
        if let Some(wanted) = self.out.take_orders(&self.shared) {
            self.table.wanted = wanted;
            self.rewalk();
        }
    }

    fn rewalk(&mut self) {
        self.shared.state().stats.rewalks += 1;
        self.establish();
    }

    /// Goes through everything with a new watcher, and says what it found: the old one's table of
    /// paths cannot be trusted once an event is lost.
    fn establish(&mut self) {
        self.root_suspect = false;
        self.to_open.clear();
        let (number, waker) = (self.waker.renew(), self.waker.clone());
        self.table.begin(move |told| waker.put(number, told));
        let cookies_seen = self.table.watch_cookies(&self.cookies);
        self.shared.state().blind = !cookies_seen;
        // Those placed before this watch stood may never be seen; all will be looked at below.
        self.out.all_cookies_seen(&self.shared);
        self.identity = identity(&self.root);
        let at = self.out.now;
        if self.identity.is_some() {
            if std::mem::take(&mut self.root_gone) {
                self.out.observed.push(Observed::RootBack { at });
            }
            self.table.walk(&self.root, &self.shared);
            self.out.everywhere(SyncPath::root());
        } else if !std::mem::replace(&mut self.root_gone, true) {
            self.out.observed.push(Observed::RootGone { at });
        }
    }

    fn handle(&mut self, file: &Path, kind: EventKind) {
        if file.parent() == Some(&self.cookies)
            && let Some(name) = file.file_name()
            && self.out.cookie_seen(name.as_encoded_bytes(), &self.shared)
        {
            return;
        }
        if file == self.root {
            self.root_suspect |=
                matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
            return;
        }
        // A name that a path cannot hold is a Problem of the scan.
        let Some(path) = below(&self.root, file) else {
            return;
        };
        match kind {
            EventKind::Create(kind) => self.created(file, path, kind),
            EventKind::Remove(kind) => {
                self.out.path(path.clone(), Seen::Removed);
                if kind != RemoveKind::File {
                    self.changes_meaning(file, path);
                }
            }
            EventKind::Modify(ModifyKind::Name(mode)) => self.renamed(file, path, mode),
            EventKind::Modify(ModifyKind::Metadata(_)) => self.attributes(file, path),
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.out.path(path, Seen::Closed);
            }
            EventKind::Access(_) => {}
            EventKind::Modify(_) | EventKind::Any | EventKind::Other => {
                if !self.table.contains(file) {
                    self.out.path(path, Seen::Modified);
                }
            }
        }
    }

    fn created(&mut self, file: &Path, path: SyncPath, kind: CreateKind) {
        let directory =
            kind == CreateKind::Folder || (kind != CreateKind::File && is_directory(file));
        self.out.path(path.clone(), Seen::Created { open: !directory });
        // One already watched was found by the walk through its parent. Its removal, if there was
        // one since, is an event to come.
        if directory && !self.table.contains(file) {
            self.to_open.insert(file.to_owned(), path);
        }
    }

    fn renamed(&mut self, file: &Path, path: SyncPath, mode: RenameMode) {
        match mode {
            // Told by inotify alone, which tells of each end by itself, too.
            RenameMode::Both => {}
            RenameMode::From => {
                self.out.path(path.clone(), Seen::MovedOut);
                self.changes_meaning(file, path);
            }
            RenameMode::To | RenameMode::Any | RenameMode::Other => {
                if !self.changes_meaning(file, path.clone()) {
                    let here = file.symlink_metadata().is_ok();
                    self.out.path(path, if here { Seen::MovedIn } else { Seen::MovedOut });
                }
            }
        }
    }

    /// A directory's mode changed: perhaps it can be watched only now. Nothing else about it is
    /// part of a tree.
    fn attributes(&mut self, file: &Path, path: SyncPath) {
        if self.table.contains(file) {
            return;
        }
        if !is_directory(file) {
            self.out.path(path, Seen::Attributes);
            return;
        }
        self.table.walk(file, &self.shared);
        if self.table.contains(file) {
            self.out.everywhere(path);
        }
    }

    /// Notes that a directory went from a path or came to it. Whether one is there.
    fn changes_meaning(&mut self, file: &Path, path: SyncPath) -> bool {
        let here = is_directory(file);
        if here || self.table.contains(file) || self.table.polled.contains_key(file) {
            self.to_open.insert(file.to_owned(), path);
        }
        here
    }

    /// Watches what stands now where the events said that a directory came or went.
    fn open_anew(&mut self) {
        let mut done: Option<PathBuf> = None;
        for (file, path) in std::mem::take(&mut self.to_open) {
            // What is above comes first, and was opened with all below it.
            if done.as_ref().is_some_and(|above| file.starts_with(above)) {
                continue;
            }
            self.table.forget(&file);
            if is_directory(&file) {
                self.table.walk(&file, &self.shared);
                self.out.everywhere(path);
            }
            done = Some(file);
        }
    }

    /// Makes good what events cannot: a lost root, what cannot be watched.
    fn poll(&mut self) {
        let due = self.next_poll <= self.out.now;
        if due {
            self.next_poll = self.out.now + POLL_EVERY;
        }
        if self.root_suspect || (due && identity(&self.root) != self.identity) {
            if !std::mem::replace(&mut self.root_gone, true) {
                self.out.observed.push(Observed::RootGone { at: self.out.now });
            }
            self.establish();
        } else if due && self.table.is_blind() {
            self.establish();
        } else if due || !self.out.answers.is_empty() {
            for directory in self.table.polled.keys().cloned().collect::<Vec<_>>() {
                if due {
                    self.table.walk(&directory, &self.shared);
                }
                self.out.observed.extend(
                    below(&self.root, &directory)
                        .map(|subtree| Observed::Everywhere { subtree, at: self.out.now }),
                );
            }
        }
    }

    /// Brings the figures up to date, posts what was gathered, then answers sync points.
    fn finish_batch(&mut self) {
        self.shared.tell(self.table.len(), self.table.polled.values().copied());
        self.out.finish(&self.root, &self.shared);
    }
}

/// Device and inode of the root, whose path may lead over links.
fn identity(root: &Path) -> Option<(u64, u64)> {
    let metadata = root.metadata().ok().filter(std::fs::Metadata::is_dir)?;
    Some((metadata.dev(), metadata.ino()))
}
