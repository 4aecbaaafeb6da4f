//! Owns what the kernel tells about a source root, as observations of paths below it.
//!
//! One [`Watch`] per root. Promises: a change in a wanted directory is observed, by its own path or
//! by "look everywhere" at a directory above it; observations wait in a mailbox that merges and
//! never drops; whatever cannot be watched is polled, counted and told by [`Watch::degraded`]; an
//! idle watch does not wake up. Leaves what stands at a path to the scan, and when to look to the
//! debounce. A file system mounted over a directory after it was watched is not noticed until
//! something else calls for a look there: the kernel tells nobody.
//!
//! On Linux it speaks inotify itself, the room's only backend so far. `notify` 9.0.0-rc.7 used the
//! same way (one watch a directory, watch first and then list) lost nothing either, but names each
//! directory by its path and takes each watch over a channel. Both here, 2 shared cores under other
//! load, release, tmpfs, November 2026:
//!
//! | | notify | inotify |
//! |---|---|---|
//! | 2,000 new directories x 5 files: lost / CPU of storm and watch | 0 / 0.27-0.33 s | 0 / 0.26 s |
//! | 20,000 x 10 | 0 / 9.8 s | 0 / 6.2 s |
//! | 10,000 / 100,000 directories set up | 0.79 / 6.0 s | 0.15 / 1.9 s |
//! | 5,000 directories renamed | each watched anew, by path | one pointer |
//!
//! The save's way to a waiting tokio task is one wake-up of this room's thread and one of the
//! task's: 58 us p50, 106 us p90 from the writer's return, under that load.

mod directories;
mod inotify;
mod mailbox;
mod queue;
mod walk;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use e2ek_sidecar::path::SyncPath;
use tokio::sync::oneshot;

use crate::engine::debounce::Seen;
use mailbox::Mailbox;

/// Says whether a directory is watched. Asked once for each, from the watching thread, outermost
/// first; what lies below an unwanted one is not asked about.
pub type Wanted = Arc<dyn Fn(&SyncPath) -> bool + Send + Sync>;

/// One thing that was noticed. Paths are relative to the watched root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// Something happened at a path.
    Path {
        /// Where.
        path: SyncPath,
        /// What.
        seen: Seen,
        /// When the event was read.
        at: Instant,
    },
    /// Anything may have happened in a subtree. Also sent for the root once all watches stand: a
    /// scan that starts after it misses nothing.
    Everywhere {
        /// The directory and all below it.
        subtree: SyncPath,
        /// When that became known.
        at: Instant,
    },
    /// The root is not there (any more), or another directory took its place.
    RootGone {
        /// When that became known.
        at: Instant,
    },
    /// A root that was gone is there; "look everywhere" at it follows.
    RootBack {
        /// When that became known.
        at: Instant,
    },
}

impl Observed {
    /// When it was noticed.
    #[must_use]
    pub fn at(&self) -> Instant {
        match self {
            Self::Path { at, .. }
            | Self::Everywhere { at, .. }
            | Self::RootGone { at }
            | Self::RootBack { at } => *at,
        }
    }
}

/// What a watch did so far and has now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Directories watched now.
    pub directories: usize,
    /// Directories polled now, each with all below it, because they cannot be watched.
    pub polled: usize,
    /// How often the kernel's queue, or ours, overflowed.
    pub overflows: u64,
    /// How often all directories were gone through again.
    pub rewalks: u64,
}

/// Why directories are polled every two seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shortage {
    /// `fs.inotify.max_user_watches` is used up.
    Watches,
    /// `fs.inotify.max_user_instances` is used up.
    Instances,
    /// This process, or the machine, has no more file descriptors.
    Descriptors,
    /// The same directory is mounted at two places of the tree; only one of them can be watched.
    MountedTwice,
    /// Anything else the kernel said: the raw `errno`.
    Other(i32),
}

impl Shortage {
    /// The setting that would help, and its value now.
    #[must_use]
    pub fn setting(self) -> Option<(&'static str, u64)> {
        let name = match self {
            Self::Watches => "fs.inotify.max_user_watches",
            Self::Instances => "fs.inotify.max_user_instances",
            Self::Descriptors | Self::MountedTwice | Self::Other(_) => return None,
        };
        let file = PathBuf::from("/proc/sys").join(name.replace('.', "/"));
        Some((name, std::fs::read_to_string(file).ok()?.trim().parse().ok()?))
    }
}

/// A part of the tree that is polled instead of watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Degraded {
    /// Why.
    pub shortage: Shortage,
    /// How many directories, each with all below it.
    pub directories: usize,
}

/// What the watching thread and its owner share.
#[derive(Debug, Default)]
struct Shared {
    mailbox: Mailbox,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stats: Stats,
    degraded: Vec<Degraded>,
    commands: Vec<Command>,
    /// Sync points whose cookie has not been seen, by the cookie's file name.
    cookies: HashMap<Vec<u8>, oneshot::Sender<()>>,
    /// For the next cookie's name.
    next_cookie: u64,
    /// No events come, so cookies are useless: a sync point is a look everywhere.
    blind: bool,
    /// The watching thread is gone: nobody obeys any more.
    ended: bool,
}

enum Command {
    Rewalk(Wanted),
    /// Look everywhere, then answer.
    Everywhere(oneshot::Sender<()>),
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rewalk(_) => "Rewalk",
            Self::Everywhere(_) => "Everywhere",
        })
    }
}

impl Shared {
    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each holder changes the state in single steps; a panic leaves none half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches one root until dropped.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    waker: inotify::Waker,
    cookies: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to watch all directories of `root` (absolute, canonical) that are `wanted`.
    /// `cookies` is an existing directory of ours, best outside `root`, for [`Watch::sync_point`].
    /// Returns before the watches stand; "look everywhere" at the root says that they do. A root
    /// that is not there is not an error: it is waited for.
    ///
    /// # Errors
    /// When a thread or the descriptor that wakes it cannot be had.
    pub fn start(root: PathBuf, cookies: PathBuf, wanted: Wanted) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let waker = inotify::Waker::new()?;
        let thread =
            inotify::spawn(root, cookies.clone(), wanted, Arc::clone(&shared), waker.clone())?;
        Ok(Self { shared, waker, cookies, thread: Some(thread) })
    }

    /// Waits for observations and takes all there are; `None` when the watch has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when dropped early.
    pub async fn next(&self) -> Option<Vec<Observed>> {
        self.shared.mailbox.take().await
    }

    /// The observations that wait now.
    #[must_use]
    pub fn take_now(&self) -> Vec<Observed> {
        self.shared.mailbox.take_now()
    }

    /// Waits until everything that happened in the tree before the call waits in the mailbox (or
    /// was taken): a cookie file is made in the cookie directory, and its event comes after all
    /// earlier ones in the kernel's queue. What cannot be known that way is looked at everywhere.
    /// Returns at once when the watch has ended.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn sync_point(&self) {
        let (answer, answered) = oneshot::channel();
        if let Some(_cookie) = self.place_cookie(answer) {
            // An error means that the watch has ended: nobody will ever answer.
            let _ = answered.await;
        } else {
            let (answer, answered) = oneshot::channel();
            self.command(Command::Everywhere(answer));
            let _ = answered.await;
        }
    }

    /// Goes through all directories again with new rules of what is wanted: watches what is now,
    /// unwatches what is no more; "look everywhere" at the root follows.
    pub fn rewalk(&self, wanted: Wanted) {
        self.command(Command::Rewalk(wanted));
    }

    /// Figures for `status`.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.state().stats
    }

    /// What is polled instead of watched, by cause; empty when all is well.
    #[must_use]
    pub fn degraded(&self) -> Vec<Degraded> {
        self.shared.state().degraded.clone()
    }

    fn place_cookie(&self, answer: oneshot::Sender<()>) -> Option<Cookie> {
        let name = {
            let mut state = self.shared.state();
            if state.blind {
                return None;
            }
            state.next_cookie += 1;
            let name = format!("flush-{}-{}", std::process::id(), state.next_cookie);
            state.cookies.insert(name.clone().into_bytes(), answer);
            name
        };
        let cookie = Cookie { file: self.cookies.join(&name) };
        if std::fs::write(&cookie.file, b"").is_err() {
            self.shared.state().cookies.remove(name.as_bytes());
            return None;
        }
        Some(cookie)
    }

    fn command(&self, command: Command) {
        let mut state = self.shared.state();
        if !state.ended {
            state.commands.push(command);
        }
        drop(state);
        self.waker.wake();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // It stops at the next directory at the latest; a panic there was told by closing.
            let _ = thread.join();
        }
    }
}

/// A cookie file, removed when no longer waited for.
struct Cookie {
    file: PathBuf,
}

impl Drop for Cookie {
    fn drop(&mut self) {
        // When it cannot be removed it is an empty file in our own state directory.
        let _ = std::fs::remove_file(&self.file);
    }
}
