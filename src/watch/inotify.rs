//! Owns the thread that watches, and what each event means.
//!
//! The thread does everything while there is much to do. In quiet times it lends its place to the
//! waiting task ([`super::lent`]), so that a save wakes one thread and not two. The table of
//! directories changes in the order of the kernel's queue, except that a walk may be ahead of it:
//! the last event about a name always opens what stands there now, which repairs that, and where it
//! cannot, all directories are gone through again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::ReadFlags;

use super::directories::{Id, ROOT};
use super::lent::Lent;
use super::out::Out;
use super::queue::{Event, Events, Queue};
use super::shared::{Closing, Shared};
use super::walk::{Tools, Tree, open_root};
use super::{Observed, POLL_EVERY, Shortage, Wanted};
use crate::engine::debounce::{SHORT_HOLD, Seen};

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

    /// Waits until woken.
    pub(super) fn wait(&self) {
        // An interrupted wait is a wait that ended.
        let _ = poll(&mut [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)], None);
        self.clear();
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
    lent: Arc<Lent>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("watch".into()).spawn(move || {
        let _closing = Closing(Arc::clone(&shared));
        let out = Out::new();
        let watcher = Watcher {
            root,
            cookies,
            wanted,
            shared,
            waker: lent.waker().clone(),
            out,
            queue: None,
            tree: None,
            root_gone: false,
            without_root: None,
            cookie_watch: None,
            root_suspect: false,
            next_poll: None,
        };
        watcher.run(&lent);
    })
}

/// How long a write without its close is kept from the daemon, once.
pub(super) const LINGER: Duration = Duration::from_millis(1);
/// After this long without an event the thread lends its place.
const CALM: Duration = Duration::from_millis(20);
/// More events than this at once are worth a thread.
const FEW: usize = 64;

/// All that is known of one watched root; held by whoever reads its events.
pub(super) struct Watcher {
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
}

impl Watcher {
    fn run(mut self, lent: &Lent) {
        self.establish();
        self.finish_batch();
        let (mut lingered, mut lendable) = (false, true);
        while !self.shared.stopping() {
            if self.wait(lendable) {
                (self, lendable) = lent.lend(self);
            }
            self.out.now = Instant::now();
            self.obey();
            if let Some(queue) = &mut self.queue {
                queue.fetch();
            }
            self.tell_loss();
            while let Some(event) = self.queue.as_mut().and_then(Queue::pop) {
                self.handle(&event);
                if self.out.is_full() {
                    self.out.post(&self.root, &self.shared);
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

    /// Reads what has come, and works off what takes neither a walk nor much time. Whether that was
    /// all; if not, the rest is the thread's.
    pub(super) fn read_plain(&mut self) -> bool {
        self.out.now = Instant::now();
        let Some(queue) = &mut self.queue else { return false };
        let few = queue.fetch() <= FEW;
        self.tell_loss();
        if !few {
            return false;
        }
        while let Some(event) = self.queue.as_mut().and_then(Queue::pop) {
            if !self.is_plain(&event) {
                self.queue.as_mut().expect("popped from just now").put_back(event);
                return false;
            }
            self.handle(&event);
        }
        self.queue.as_ref().is_some_and(|queue| !queue.has_overflowed())
    }

    /// Whether an event tells of a file in a directory that is watched, or of a cookie.
    fn is_plain(&self, event: &Event) -> bool {
        let other = ReadFlags::IGNORED | ReadFlags::UNMOUNT | ReadFlags::ISDIR;
        let known = || self.tree.as_ref().is_some_and(|t| t.dirs.by_watch(event.watch).is_some());
        !event.mask.intersects(other)
            && !event.name.is_empty()
            && (Some(event.watch) == self.cookie_watch || known())
    }

    /// Whether only events can bring something new: nothing is polled, nothing half done.
    fn is_lendable(&self) -> bool {
        let whole = |tree: &Tree| tree.moving.is_empty() && tree.polled.is_empty();
        self.queue.is_some() && self.next_poll.is_none() && self.tree.as_ref().is_some_and(whole)
    }

    /// What to wait for events on, within a runtime.
    pub(super) fn events(&self) -> Option<io::Result<Events>> {
        self.queue.as_ref().map(Queue::events)
    }

    /// Whether nothing was observed but what is held back anyway until its close comes.
    pub(super) fn is_patient(&self) -> bool {
        !self.out.observed.is_empty()
            && self.out.answers.is_empty()
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
        poll(&mut fds, Some(&timespec(LINGER))).is_ok_and(|ready| ready > 0)
    }

    /// Waits for an event, a command or the next poll. Whether it has become calm instead.
    fn wait(&self, lendable: bool) -> bool {
        // Read while all was gone through: no event may follow.
        if self.queue.as_ref().is_some_and(Queue::is_ahead) {
            return false;
        }
        let calm = (lendable && self.is_lendable()).then(|| Instant::now() + CALM);
        let moving = self.tree.as_ref().is_some_and(|tree| !tree.moving.is_empty());
        let moved = moving.then(|| Instant::now() + SHORT_HOLD);
        let until = [self.next_poll, moved, calm].into_iter().flatten().min();
        let left = until.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let waker: BorrowedFd<'_> = self.waker.0.as_fd();
        let mut fds = vec![PollFd::from_borrowed_fd(waker, PollFlags::IN)];
        if let Some(queue) = &self.queue {
            fds.push(PollFd::new(queue, PollFlags::IN));
        }
        // An interrupted wait is a wait that ended: all that follows finds nothing to do.
        let waited = poll(&mut fds, left.as_ref());
        if !fds[0].revents().is_empty() {
            self.waker.clear();
        }
        calm.is_some() && waited == Ok(0)
    }

    /// Does what the owner of the watch asked for.
    fn obey(&mut self) {
        if let Some(wanted) = self.out.take_orders(&self.shared) {
            self.wanted = wanted;
            self.rewalk();
        }
    }

    /// Looks for the root with a new inotify, and says what it found.
    fn establish(&mut self) {
        self.root_suspect = false;
        self.without_root = None;
        self.tree = None;
        self.queue = Queue::new()
            .map_err(|error| self.without_root = Some(Shortage::of_everything(error)))
            .ok();
        self.cookie_watch =
            self.queue.as_ref().and_then(|queue| queue.watch_arrivals(&self.cookies).ok());
        self.shared.state().blind = self.cookie_watch.is_none();
        // Those placed before this watch stood may never be seen; all will be looked at below.
        self.out.all_cookies_seen(&self.shared);
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
                self.without_root = Some(Shortage::of_directory(error).unwrap_or(other));
            }
        }
        true
    }

    /// Goes through all directories and says "look everywhere".
    fn walk_all(&mut self) {
        // What is known of it was read before it was watched; and it may be another directory.
        self.wanted.forget(&SyncPath::root());
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
        if Some(event.watch) == self.cookie_watch && self.out.cookie_seen(&event.name, &self.shared)
        {
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
            self.wanted.forget(&path);
            let moved = self.with_tree(|tree, tools| moved_in(tree, inside, event, tools));
            self.out.everywhere(path.clone());
            if moved == Some(true) {
                // All that was watched still is: the daemon need not wait for the walk.
                self.out.post(&self.root, &self.shared);
            }
            let walked = self.with_tree(|tree, tools| {
                let before = tree.inserted;
                tree.walk_below(inside, name, false, tools);
                tree.inserted > before
            });
            if walked == Some(true) {
                self.out.everywhere(path);
            }
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

    /// Makes good what events alone could not: lost ones, a lost root, what cannot be watched.
    fn repair(&mut self) {
        self.drop_moved_away();
        if self.queue.as_mut().is_some_and(Queue::take_overflow) {
            self.shared.state().stats.overflows += 1;
            // A cookie's event may be among the lost; what it stands for will be looked at.
            self.out.all_cookies_seen(&self.shared);
            self.root_suspect = true;
            self.rewalk();
        }
        if std::mem::take(&mut self.root_suspect) && !self.root_stands() {
            self.lose_root();
        }
        if self.tree.as_ref().is_some_and(|tree| tree.suspect) {
            self.out.lost(&self.root, &self.shared);
            self.rewalk();
        }
        self.poll();
        if !self.out.answers.is_empty() {
            for path in self.tree.iter().flat_map(|tree| tree.polled.keys()) {
                self.out.everywhere(path.clone());
            }
        }
    }

    fn root_stands(&self) -> bool {
        self.tree.as_ref().is_some_and(|tree| !matches!(tree.open_root(&self.root), Err(None)))
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

    /// Posts what was gathered, then answers sync points.
    pub(super) fn post(&mut self) {
        self.out.finish(&self.root, &self.shared);
    }

    /// Brings the figures up to date, posts what was gathered, then answers sync points.
    fn finish_batch(&mut self) {
        let polled = self.tree.iter().flat_map(|tree| tree.polled.values());
        let directories = self.tree.as_ref().map_or(0, |tree| tree.dirs.len());
        self.shared.tell(directories, polled.chain(&self.without_root).copied());
        // Also while all was gone through anew.
        self.tell_loss();
        self.post();
    }

    /// Says that events were lost, if so: what follows may take long.
    fn tell_loss(&mut self) {
        if self.queue.as_ref().is_some_and(Queue::has_overflowed) && !self.root_gone {
            self.out.lost(&self.root, &self.shared);
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// A directory came to a name: with all its watches if it was moved within the tree, and whether it
/// was. It is to be gone through again either way, as what is wanted below it may differ under its new
/// name.
fn moved_in(tree: &mut Tree, inside: Id, event: &Event, tools: &mut Tools<'_>) -> bool {
    let Some((id, _)) = tree.moving.remove(&event.cookie) else { return false };
    if let Some(there) = tree.dirs.child(inside, &event.name) {
        // Dead when it was replaced; alive when the two were exchanged, and then it is lost.
        tree.suspect |= tree.forget(there, tools.queue);
    }
    if tree.dirs.is_inside(inside, id) {
        tree.suspect |= tree.forget(id, tools.queue);
        return false;
    }
    tree.dirs.attach(id, inside, &event.name);
    true
}

/// A directory left its name: it keeps its watches until it is known where to.
fn moved_out(tree: &mut Tree, inside: Id, event: &Event, tools: &mut Tools<'_>) {
    if let Some(id) = tree.dirs.child(inside, &event.name) {
        tree.dirs.detach(id);
        tree.moving.insert(event.cookie, (id, tools.out.now));
    }
}
