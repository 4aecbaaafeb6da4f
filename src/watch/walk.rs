//! Owns the watched part of one root: adds watches directory by directory and keeps the table true.
//!
//! A directory is opened beneath the root, watched through that descriptor, then listed through it:
//! what was born before the watch is in the listing, what was born after it is in the queue, which
//! is read after every few directories so that it does not fill meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use e2ek_sidecar::path::SyncPath;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

use super::directories::{Directories, Id, ROOT};
use super::out::Out;
use super::queue::Queue;
use super::shared::Shared;
use super::{Shortage, Wanted};
use crate::engine::debounce::Seen;

/// Directories walked between two looks at the kernel's queue (about 0.3 ms).
const STRIDE: usize = 32;
const LIST_BYTES: usize = 32 * 1024;
const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// The watched directories of one root, as long as it stays the same directory.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) dirs: Directories,
    /// Device and inode of the root.
    identity: (u64, u64),
    /// Directories moved away whose arrival has not been seen, by the rename's cookie.
    pub(super) moving: HashMap<u32, (Id, Instant)>,
    /// Directories that could not be watched: looked at from time to time instead.
    pub(super) polled: BTreeMap<SyncPath, Shortage>,
    /// The table may not be what is there: all directories must be gone through again.
    pub(super) suspect: bool,
    /// Directories that were watched anew so far.
    pub(super) inserted: u64,
    /// Counts walks from the root.
    walk: u32,
    list: Vec<MaybeUninit<u8>>,
}

/// A directory yet to be watched.
struct Todo {
    /// The open directory it lies in.
    inside: Rc<OwnedFd>,
    parent: Id,
    name: Box<[u8]>,
}

/// What a walk works with.
pub(super) struct Tools<'a> {
    pub(super) root: &'a Path,
    pub(super) queue: &'a mut Queue,
    pub(super) out: &'a mut Out,
    pub(super) wanted: &'a Wanted,
    pub(super) shared: &'a Shared,
}

/// Opens a root by its path, which may lead over links.
pub(super) fn open_root(root: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, root, OPEN & !OFlags::NOFOLLOW, Mode::empty())
}

/// Device and inode.
pub(super) fn identity(directory: &OwnedFd) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

impl Tree {
    /// Watches an open root, and nothing in it yet.
    pub(super) fn new(root: &OwnedFd, queue: &Queue) -> Result<Self, Errno> {
        Ok(Self {
            dirs: Directories::new(queue.watch_root(root)?),
            identity: identity(root)?,
            moving: HashMap::new(),
            polled: BTreeMap::new(),
            suspect: false,
            inserted: 0,
            walk: 0,
            list: vec![MaybeUninit::uninit(); LIST_BYTES],
        })
    }

    /// Opens the root.
    ///
    /// # Errors
    /// `None` when its path leads to another directory, or nowhere: an event tells of that.
    pub(super) fn open_root(&self, root: &Path) -> Result<Rc<OwnedFd>, Option<Shortage>> {
        let directory = open_root(root).map_err(Shortage::of_directory)?;
        let same = identity(&directory) == Ok(self.identity);
        same.then(|| Rc::new(directory)).ok_or(None)
    }

    /// Goes through all wanted directories: watches those that are not, forgets those not found.
    /// Reports nothing; the caller says "look everywhere" afterwards.
    pub(super) fn walk_all(&mut self, tools: &mut Tools<'_>) {
        let root = match self.open_root(tools.root) {
            Ok(root) => root,
            Err(why) => {
                self.polled.extend(why.map(|why| (SyncPath::root(), why)));
                return;
            }
        };
        self.suspect = false;
        self.polled.clear();
        self.moving.clear();
        self.walk += 1;
        self.dirs.mark(ROOT, self.walk);
        let mut todo = Vec::new();
        self.list(&root, ROOT, None, &mut todo);
        self.work_off(&root, todo, false, tools);
        if tools.shared.stopping() {
            return;
        }
        for stale in self.dirs.unmarked(self.walk) {
            self.forget(stale, tools.queue);
        }
    }

    /// Watches the directory `name` in `parent` and all wanted ones below it. With `report`,
    /// everything found in them is observed as just created. Whether it is watched now.
    pub(super) fn walk_below(
        &mut self,
        parent: Id,
        name: &[u8],
        report: bool,
        tools: &mut Tools<'_>,
    ) -> bool {
        let Some(path) = self.dirs.path(parent) else {
            return false;
        };
        let opened = self.open_root(tools.root).and_then(|root| {
            let inside = open_beneath(&root, &path).map_err(Shortage::of_directory)?;
            Ok((root, inside))
        });
        let (root, inside) = match opened {
            Ok(opened) => opened,
            // The parent's own watch, or its parent's, tells when it is not there any more.
            Err(None) => return false,
            Err(Some(why)) => {
                self.polled.extend(path.join(name).ok().map(|path| (path, why)));
                return false;
            }
        };
        let todo = Todo { inside: Rc::new(inside), parent, name: name.into() };
        self.work_off(&root, vec![todo], report, tools);
        self.dirs.child(parent, name).is_some()
    }

    /// Tries again what could not be watched, and says "look everywhere" there.
    pub(super) fn poll(&mut self, tools: &mut Tools<'_>) {
        let mut out_of_watches = false;
        for (path, shortage) in std::mem::take(&mut self.polled) {
            if path.is_root() {
                self.list_root(shortage, tools);
            } else if !out_of_watches {
                let place = path.parent().and_then(|above| self.find(&above)).zip(path.name());
                let Some((parent, name)) = place else {
                    continue;
                };
                self.walk_below(parent, name, false, tools);
                out_of_watches = self.polled.get(&path) == Some(&Shortage::Watches);
            } else {
                self.polled.insert(path.clone(), shortage);
            }
            tools.out.everywhere(path);
        }
    }

    /// Goes on from the root, which could not be listed.
    fn list_root(&mut self, why: Shortage, tools: &mut Tools<'_>) {
        let Ok(root) = self.open_root(tools.root) else {
            self.polled.insert(SyncPath::root(), why);
            return;
        };
        tools.wanted.forget(&SyncPath::root());
        let mut todo = Vec::new();
        self.list(&root, ROOT, None, &mut todo);
        self.work_off(&root, todo, false, tools);
    }

    /// Ends the watches of a directory and all below it. Whether its own was still alive.
    pub(super) fn forget(&mut self, id: Id, queue: &Queue) -> bool {
        if let Some(path) = self.dirs.path(id).filter(|_| !self.polled.is_empty()) {
            self.polled.retain(|below, _| !below.starts_with(&path));
        }
        self.moving.retain(|_, (moving, _)| *moving != id);
        let own = self.dirs.watch(id);
        self.dirs.remove(id).into_iter().fold(false, |alive, watch| {
            let was_alive = queue.unwatch(watch);
            alive || (was_alive && watch == own)
        })
    }

    fn find(&self, path: &SyncPath) -> Option<Id> {
        path.components().try_fold(ROOT, |id, name| self.dirs.child(id, name))
    }

    fn work_off(
        &mut self,
        root: &OwnedFd,
        mut todo: Vec<Todo>,
        report: bool,
        tools: &mut Tools<'_>,
    ) {
        let mut displaced = Vec::new();
        let mut steps = 0;
        while let Some(next) = todo.pop() {
            if let Some((directory, id)) = self.watch(root, &next, &mut displaced, tools) {
                let out = if report { Some(&mut *tools.out) } else { None };
                self.list(&Rc::new(directory), id, out, &mut todo);
            }
            steps += 1;
            if steps % STRIDE == 0 {
                tools.queue.fetch();
                if tools.queue.has_overflowed() {
                    tools.out.lost(tools.root, tools.shared);
                }
                if tools.shared.stopping() {
                    return;
                }
            }
        }
        for id in displaced {
            // Unless the walk found it elsewhere. If it lives on, it is somewhere we do not know.
            if self.dirs.path(id).is_none() {
                self.suspect |= self.forget(id, tools.queue);
            }
        }
    }

    /// Opens and watches one directory and enters it in the table; `None` when it is not wanted,
    /// not there, or cannot be watched.
    fn watch(
        &mut self,
        root: &OwnedFd,
        todo: &Todo,
        displaced: &mut Vec<Id>,
        tools: &mut Tools<'_>,
    ) -> Option<(OwnedFd, Id)> {
        let path = self.dirs.path(todo.parent)?.join(&todo.name).ok()?;
        let known = self.dirs.child(todo.parent, &todo.name);
        if !tools.wanted.wants(&path) {
            if let Some(id) = known {
                self.forget(id, tools.queue);
            }
            return None;
        }
        let opened = rustix::fs::openat(&*todo.inside, &*todo.name, OPEN, Mode::empty())
            .and_then(|directory| Ok((tools.queue.watch_tree(&directory)?, directory)));
        // From here on a change is told, unless it was before.
        let before = known.map(|id| self.dirs.watch(id));
        if before.is_none() || opened.as_ref().ok().map(|(watch, _)| *watch) != before {
            tools.wanted.forget(&path);
        }
        let (watch, directory) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                if let Some(shortage) = Shortage::of_directory(error) {
                    self.polled.insert(path, shortage);
                }
                return None;
            }
        };
        let id = match self.dirs.by_watch(watch) {
            Some(id) if Some(id) == known => id,
            Some(id)
                if self.dirs.is_inside(todo.parent, id) || self.stands(root, id, &directory) =>
            {
                self.polled.insert(path, Shortage::MountedTwice);
                return None;
            }
            elsewhere => {
                if let Some(known) = known {
                    self.dirs.detach(known);
                    displaced.push(known);
                }
                self.enter(elsewhere, todo, watch)
            }
        };
        self.polled.remove(&path);
        self.dirs.mark(id, self.walk);
        Some((directory, id))
    }

    /// Puts a directory in its place of the table: a new one, or one that was moved.
    fn enter(&mut self, moved: Option<Id>, todo: &Todo, watch: i32) -> Id {
        let Some(id) = moved else {
            self.inserted += 1;
            return self.dirs.insert(todo.parent, &todo.name, watch);
        };
        self.moving.retain(|_, (moving, _)| *moving != id);
        self.dirs.detach(id);
        self.dirs.attach(id, todo.parent, &todo.name);
        id
    }

    /// Whether `directory` is (also) where the table has `id`.
    fn stands(&self, root: &OwnedFd, id: Id, directory: &OwnedFd) -> bool {
        let there = self.dirs.path(id).and_then(|path| open_beneath(root, &path).ok());
        there.is_some_and(|there| identity(&there).ok() == identity(directory).ok())
    }

    /// Lists an open directory: its directories are to be done, all of it is observed in `out`.
    fn list(
        &mut self,
        directory: &Rc<OwnedFd>,
        id: Id,
        mut out: Option<&mut Out>,
        todo: &mut Vec<Todo>,
    ) {
        let Some(path) = self.dirs.path(id) else {
            return;
        };
        let mut entries = RawDir::new(&**directory, &mut self.list);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    // What is not listed is not watched. Of a directory removed meanwhile its parent's
                    // watch tells.
                    if let Some(shortage) = Shortage::of_directory(error) {
                        self.polled.insert(path, shortage);
                    }
                    return;
                }
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => kind_of(directory, entry.file_name()),
                kind => kind,
            };
            if let (Some(out), Ok(path)) = (out.as_deref_mut(), path.join(name)) {
                out.path(path, Seen::Created { open: kind == FileType::RegularFile });
            }
            if kind == FileType::Directory {
                todo.push(Todo { inside: Rc::clone(directory), parent: id, name: name.into() });
            }
        }
    }
}

/// Opens a directory of the tree without ever following a link.
fn open_beneath(root: &OwnedFd, path: &SyncPath) -> Result<OwnedFd, Errno> {
    let path = if path.is_root() { b"." } else { path.as_bytes() };
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, OPEN, Mode::empty(), beneath)
}

fn kind_of(directory: &OwnedFd, name: &std::ffi::CStr) -> FileType {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode))
}
