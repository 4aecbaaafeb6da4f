//! Owns the thread that reads inotify, and what each event means.
//!
//! One thread does everything, so that a save costs one wake-up. The table of directories changes
//! in the order of the kernel's queue, except that a walk may be ahead of it: the last event about a
//! name always opens what stands there now, which repairs that, and where it cannot, all
//! directories are gone through again.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::ReadFlags;
use rustix::fs::{AtFlags, CWD, FileType};
use rustix::io::Errno;
use tokio::sync::oneshot;

use super::directories::{Id, ROOT};
use super::queue::{Event, Queue};
use super::walk::{Out, Tools, Tree, open_root, shortage};
use super::{Command, Degraded, Observed, Shared, Shortage, Wanted};
use crate::engine::debounce::{SHORT_HOLD, Seen};

/// How often what cannot be watched is looked at, and a root that is gone is looked for.
const POLL_EVERY: Duration = Duration::from_secs(2);
/// Observations gathered before they are posted in the middle of a batch.
const POST_AT: usize = 4096;

/// Wakes the watching thread from its wait.
#[derive(Debug, Clone)]
pub(super) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Ends the wait that is on, or else the next one.
    pub(super) fn wake(&self) {
        // Fails only when 2^64 - 2 wake-ups are pending: awake enough.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    fn clear(&self) {
        // Fails only when there is nothing to clear.
        let _ = rustix::io::read(&*self.0, &mut [0; 8]);
    }
}

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
        let out = Out { now: Instant::now(), observed: Vec::new(), created: Vec::new() };
        let mut watcher = Watcher {
            root,
            cookies,
            wanted,
            shared,
            waker,
            out,
            queue: None,
            tree: None,
            root_gone: false,
            without_root: None,
            cookie_watch: None,
            root_suspect: false,
            next_poll: None,
            answers: Vec::new(),
        };
        watcher.run();
    })
}

/// How long a write without its close is kept from the daemon, once.
const LINGER: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Tells everybody that nothing more comes, however the thread ends.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.blind = true;
        state.ended = true;
        // Dropped, not answered: who waits for a sync point learns that there is none.
        state.cookies.clear();
        state.commands.clear();
        drop(state);
        self.0.mailbox.close();
    }
}

struct Watcher {
    root: PathBuf,
    cookies: PathBuf,
    wanted: Wanted,
    shared: Arc<Shared>,
    waker: Waker,
    out: Out,
    /// `None` when no inotify can be had: then everything is polled.
    queue: Option<Queue>,
    /// `None` while the root is gone, or cannot be watched at all.
    tree: Option<Tree>,
    /// What was last said about the root.
    root_gone: bool,
    /// Why a root that is there has no tree.
    without_root: Option<Shortage>,
    /// On the cookie directory, unless that failed.
    cookie_watch: Option<i32>,
    /// The root's path may lead elsewhere now.
    root_suspect: bool,
    next_poll: Option<Instant>,
    /// Sync points reached, to be answered once all observations are posted.
    answers: Vec<oneshot::Sender<()>>,
}

impl Watcher {
    fn run(&mut self) {
        self.establish();
        self.finish_batch();
        let mut lingered = false;
        while !self.shared.stopping() {
            self.wait();
            self.out.now = Instant::now();
            self.obey();
            if let Some(queue) = &mut self.queue {
                queue.fetch();
            }
            while let Some(event) = self.queue.as_mut().and_then(Queue::pop) {
                self.handle(&event);
                if self.out.observed.len() >= POST_AT {
                    self.post();
                }
            }
            // A write is mostly followed by its close at once. Waking the daemon for both would
            // cost the second one the time that matters (measured: 60 us of a save).
            lingered = !lingered && self.is_patient() && self.more_comes();
            if lingered {
                continue;
            }
            self.repair();
            self.finish_batch();
        }
    }

    /// Whether nothing was observed but what is held back anyway until its close comes.
    fn is_patient(&self) -> bool {
        !self.out.observed.is_empty()
            && self.answers.is_empty()
            && self.out.observed.iter().all(|observed| {
                matches!(
                    observed,
                    Observed::Path { seen: Seen::Modified | Seen::Created { open: true }, .. }
                )
            })
    }

    /// Waits a little for the next event.
    fn more_comes(&self) -> bool {
        let Some(queue) = &self.queue else { return false };
        let mut fds = [PollFd::new(queue, PollFlags::IN)];
        poll(&mut fds, Some(&LINGER)).is_ok_and(|ready| ready > 0)
    }

    /// Waits for an event, a command or the next poll.
    fn wait(&self) {
        let moving = self.tree.as_ref().is_some_and(|tree| !tree.moving.is_empty());
        let moved = moving.then(|| Instant::now() + SHORT_HOLD);
        let until = [self.next_poll, moved].into_iter().flatten().min();
        let left = until.map(|at| at.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        });
        let waker: BorrowedFd<'_> = self.waker.0.as_fd();
        let mut fds = vec![PollFd::from_borrowed_fd(waker, PollFlags::IN)];
        if let Some(queue) = &self.queue {
            fds.push(PollFd::new(queue, PollFlags::IN));
        }
        // An interrupted wait is a wait that ended: all that follows finds nothing to do.
        let _ = poll(&mut fds, left.as_ref());
        if !fds[0].revents().is_empty() {
            self.waker.clear();
        }
    }

    /// Does what the owner of the watch asked for.
    fn obey(&mut self) {
        let commands = std::mem::take(&mut self.shared.state().commands);
        for command in commands {
            match command {
                Command::Rewalk(wanted) => {
                    self.wanted = wanted;
                    self.rewalk();
                }
                Command::Everywhere(answer) => {
                    self.out.everywhere(SyncPath::root());
                    self.answers.push(answer);
                }
            }
        }
    }

    /// Looks for the root with a new inotify, and says what it found.
    fn establish(&mut self) {
        self.root_suspect = false;
        self.without_root = None;
        self.tree = None;
        self.queue = Queue::new().map_err(|error| self.without_root = Some(instance(error))).ok();
        self.cookie_watch =
            self.queue.as_ref().and_then(|queue| queue.watch_arrivals(&self.cookies).ok());
        self.shared.state().blind = self.cookie_watch.is_none();
        // Those placed before this watch stood may never be seen; all will be looked at below.
        self.take_all_cookies();
        let here = self.watch_root();
        let at = self.out.now;
        if here {
            if std::mem::take(&mut self.root_gone) {
                self.out.observed.push(Observed::RootBack { at });
            }
            self.walk_all();
        } else if !std::mem::replace(&mut self.root_gone, true) {
            self.out.observed.push(Observed::RootGone { at });
        }
    }

    /// Watches the root and whether its path goes on leading there. Whether it is there.
    fn watch_root(&mut self) -> bool {
        let Some(queue) = &self.queue else {
            return open_root(&self.root).is_ok();
        };
        for directory in self.root.ancestors().skip(1) {
            // What fails here is found out when the root is opened, or polled for.
            let _ = queue.watch_self(directory);
        }
        let opened = open_root(&self.root).or_else(|_| {
            // Watch first, then look again.
            let parent = self.root.parent().unwrap_or(&self.root);
            let _ = queue.watch_arrivals(parent);
            open_root(&self.root)
        });
        let Ok(root) = opened else { return false };
        match Tree::new(&root, queue) {
            Ok(tree) => self.tree = Some(tree),
            Err(error) => {
                let other = Shortage::Other(error.raw_os_error());
                self.without_root = Some(shortage(error).unwrap_or(other));
            }
        }
        true
    }

    /// Goes through all directories and says "look everywhere".
    fn walk_all(&mut self) {
        self.with_tree(|tree, tools| tree.walk_all(tools));
        if !self.root_gone {
            self.out.everywhere(SyncPath::root());
        }
    }

    fn rewalk(&mut self) {
        self.shared.state().stats.rewalks += 1;
        self.walk_all();
    }

    fn with_tree<R>(&mut self, act: impl FnOnce(&mut Tree, &mut Tools<'_>) -> R) -> Option<R> {
        let (tree, queue) = self.tree.as_mut().zip(self.queue.as_mut())?;
        let (root, wanted, shared) = (&*self.root, &self.wanted, &*self.shared);
        Some(act(tree, &mut Tools { root, queue, out: &mut self.out, wanted, shared }))
    }

    fn handle(&mut self, event: &Event) {
        if Some(event.watch) == self.cookie_watch && self.cookie_seen(event) {
            return;
        }
        let Some(id) = self.tree.as_ref().and_then(|tree| tree.dirs.by_watch(event.watch)) else {
            // A directory above the root, or a watch that we ended ourselves. While the root is
            // gone any arrival beside it may be it.
            let itself = ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF;
            let is_root = self.root.file_name().is_some_and(|n| n.as_bytes() == &*event.name);
            self.root_suspect |= event.mask.intersects(itself) || (self.root_gone && is_root);
            return;
        };
        if event.mask.intersects(ReadFlags::IGNORED | ReadFlags::UNMOUNT) {
            self.watch_lost(id);
        } else if event.name.is_empty() {
            let itself = ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF;
            self.root_suspect |= id == ROOT && event.mask.intersects(itself);
        } else if event.mask.contains(ReadFlags::ISDIR) {
            self.directory_event(id, event);
        } else {
            self.file_event(id, event);
        }
    }

    fn file_event(&mut self, inside: Id, event: &Event) {
        let Some(path) = self.path_of(inside, &event.name) else {
            return;
        };
        let seen = match event.mask {
            mask if mask.contains(ReadFlags::CLOSE_WRITE) => Seen::Closed,
            mask if mask.contains(ReadFlags::MOVED_TO) => Seen::MovedIn,
            mask if mask.contains(ReadFlags::MOVED_FROM) => Seen::MovedOut,
            mask if mask.contains(ReadFlags::CREATE) => Seen::Created { open: true },
            mask if mask.contains(ReadFlags::DELETE) => Seen::Removed,
            mask if mask.contains(ReadFlags::MODIFY) => Seen::Modified,
            mask if mask.contains(ReadFlags::ATTRIB) => Seen::Attributes,
            _ => return,
        };
        self.out.path(path, seen);
    }

    fn directory_event(&mut self, inside: Id, event: &Event) {
        let Some(path) = self.path_of(inside, &event.name) else {
            return;
        };
        let (mask, name) = (event.mask, &*event.name);
        if mask.contains(ReadFlags::CREATE) {
            self.out.path(path, Seen::Created { open: false });
            self.with_tree(|tree, tools| tree.walk_below(inside, name, true, tools));
        } else if mask.contains(ReadFlags::MOVED_TO) {
            self.with_tree(|tree, tools| moved_in(tree, inside, event, tools));
            self.out.everywhere(path);
        } else if mask.contains(ReadFlags::MOVED_FROM) {
            self.with_tree(|tree, tools| moved_out(tree, inside, event, tools));
            self.out.path(path, Seen::MovedOut);
        } else if mask.contains(ReadFlags::DELETE) {
            self.with_tree(|tree, tools| {
                tree.dirs.child(inside, name).map(|id| tree.forget(id, tools.queue))
            });
            self.out.path(path, Seen::Removed);
        } else if mask.contains(ReadFlags::ATTRIB) {
            self.attributes(inside, name, path);
        }
    }

    /// A directory's mode changed: perhaps it can be watched only now. Nothing else about it is
    /// part of a tree.
    fn attributes(&mut self, inside: Id, name: &[u8], path: SyncPath) {
        let watched_now = self.with_tree(|tree, tools| {
            tree.dirs.child(inside, name).is_none() && tree.walk_below(inside, name, false, tools)
        });
        if watched_now == Some(true) {
            self.out.everywhere(path);
        }
    }

    /// The kernel ended a watch: the directory was removed, or its file system unmounted.
    fn watch_lost(&mut self, id: Id) {
        if id == ROOT {
            self.root_suspect = true;
            return;
        }
        let rewatched = self.with_tree(|tree, tools| {
            let path = tree.dirs.path(id);
            let parent = tree.dirs.parent(id);
            tree.forget(id, tools.queue);
            let path = path?;
            tree.walk_below(parent?, path.name()?, false, tools).then_some(path)
        });
        if let Some(path) = rewatched.flatten() {
            self.out.everywhere(path);
        }
    }

    fn path_of(&self, inside: Id, name: &[u8]) -> Option<SyncPath> {
        // A name that a path cannot hold is a Problem of the scan.
        self.tree.as_ref()?.dirs.path(inside)?.join(name).ok()
    }

    /// Whether the event was a cookie's.
    fn cookie_seen(&mut self, event: &Event) -> bool {
        let answer = self.shared.state().cookies.remove(&*event.name);
        let found = answer.is_some();
        self.answers.extend(answer);
        found
    }

    /// Makes good what events alone could not: lost ones, a lost root, what cannot be watched.
    fn repair(&mut self) {
        self.drop_moved_away();
        if self.queue.as_mut().is_some_and(Queue::take_overflow) {
            self.shared.state().stats.overflows += 1;
            // A cookie's event may be among the lost; what it stands for will be looked at.
            self.take_all_cookies();
            self.root_suspect = true;
            self.rewalk();
        }
        if std::mem::take(&mut self.root_suspect) && !self.root_stands() {
            self.lose_root();
        }
        if self.tree.as_ref().is_some_and(|tree| tree.suspect) {
            self.rewalk();
        }
        self.poll();
        if !self.answers.is_empty() {
            for path in self.tree.iter().flat_map(|tree| tree.polled.keys()) {
                self.out.everywhere(path.clone());
            }
        }
    }

    fn root_stands(&self) -> bool {
        self.tree.as_ref().is_some_and(|tree| tree.open_root(&self.root).is_some())
    }

    fn lose_root(&mut self) {
        if !std::mem::replace(&mut self.root_gone, true) {
            self.out.observed.push(Observed::RootGone { at: self.out.now });
        }
        self.establish();
    }

    /// Ends the watches of directories that were moved out of the tree.
    fn drop_moved_away(&mut self) {
        let now = self.out.now;
        self.with_tree(|tree, tools| {
            let late = tree.moving.extract_if(|_, (_, at)| now >= *at + SHORT_HOLD);
            for (id, _) in late.map(|(_, moved)| moved).collect::<Vec<_>>() {
                tree.forget(id, tools.queue);
            }
        });
    }

    fn poll(&mut self) {
        let needed = self.tree.as_ref().is_none_or(|tree| !tree.polled.is_empty());
        if !needed {
            self.next_poll = None;
        } else if self.next_poll.is_none_or(|at| at <= self.out.now) {
            if self.next_poll.is_some() {
                match &self.tree {
                    Some(_) => drop(self.with_tree(|tree, tools| tree.poll(tools))),
                    None => self.establish(),
                }
            }
            self.next_poll = Some(self.out.now + POLL_EVERY);
        }
    }

    fn take_all_cookies(&mut self) {
        let cookies = std::mem::take(&mut self.shared.state().cookies);
        self.answers.extend(cookies.into_values());
    }

    /// Brings the figures up to date, posts what was gathered, then answers sync points.
    fn finish_batch(&mut self) {
        let mut state = self.shared.state();
        state.stats.directories = self.tree.as_ref().map_or(0, |tree| tree.dirs.len());
        let polled = self.tree.iter().flat_map(|tree| tree.polled.values());
        state.stats.polled = 0;
        state.degraded.clear();
        for &shortage in polled.chain(&self.without_root) {
            state.stats.polled += 1;
            match state.degraded.iter_mut().find(|d| d.shortage == shortage) {
                Some(degraded) => degraded.directories += 1,
                None => state.degraded.push(Degraded { shortage, directories: 1 }),
            }
        }
        drop(state);
        self.post();
        for answer in self.answers.drain(..) {
            // Who does not wait any more needs no answer.
            let _ = answer.send(());
        }
    }

    fn post(&mut self) {
        self.settle_created();
        self.shared.mailbox.post(&mut self.out.observed);
    }

    /// Finds out which created files have no close to wait for: links of either kind. Those whose
    /// close is in the same batch, nearly all, cost nothing.
    fn settle_created(&mut self) {
        let created = std::mem::take(&mut self.out.created);
        for place in created {
            let (before, after) = self.out.observed.split_at_mut(place + 1);
            let Some(Observed::Path { path: created, seen, .. }) = before.last_mut() else {
                continue;
            };
            let next = after.iter().take(4).find_map(|observed| match observed {
                Observed::Path { path, seen, .. } if path == created => Some(*seen),
                _ => None,
            });
            if !matches!(next, Some(Seen::Closed | Seen::Modified)) {
                let file = self.root.join(as_path(created));
                *seen = Seen::Created { open: !is_complete(&file) };
            }
        }
    }
}

/// A directory came to a name: with all its watches if it was moved within the tree. It is gone
/// through again either way, as what is wanted below it may differ under its new name.
fn moved_in(tree: &mut Tree, inside: Id, event: &Event, tools: &mut Tools<'_>) {
    if let Some((id, _)) = tree.moving.remove(&event.cookie) {
        if let Some(there) = tree.dirs.child(inside, &event.name) {
            // Dead when it was replaced; alive when the two were exchanged, and then it is lost.
            tree.suspect |= tree.forget(there, tools.queue);
        }
        if tree.dirs.is_inside(inside, id) {
            tree.suspect |= tree.forget(id, tools.queue);
        } else {
            tree.dirs.attach(id, inside, &event.name);
        }
    }
    tree.walk_below(inside, &event.name, false, tools);
}

/// A directory left its name: it keeps its watches until it is known where to.
fn moved_out(tree: &mut Tree, inside: Id, event: &Event, tools: &mut Tools<'_>) {
    if let Some(id) = tree.dirs.child(inside, &event.name) {
        tree.dirs.detach(id);
        tree.moving.insert(event.cookie, (id, tools.out.now));
    }
}

/// Whether a name just created has no close to come: it is not a regular file, or it is another
/// name of one. What has vanished has its removal to come.
fn is_complete(file: &Path) -> bool {
    rustix::fs::statat(CWD, file, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1
    })
}

fn as_path(path: &SyncPath) -> &Path {
    Path::new(OsStr::from_bytes(path.as_bytes()))
}

/// Why there is no inotify: EMFILE stands for two limits (inotify_init(2)).
fn instance(error: Errno) -> Shortage {
    match shortage(error) {
        Some(Shortage::Descriptors) if open_root(Path::new("/")).is_ok() => Shortage::Instances,
        Some(shortage) => shortage,
        None => Shortage::Other(error.raw_os_error()),
    }
}
