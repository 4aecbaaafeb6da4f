//! Owns what the kernel tells about a source root, as observations of paths below it.
//!
//! One [`Watch`] per root. Promises: a change in a wanted directory is observed, by its own path or
//! by "look everywhere" at a directory above it; observations wait in a mailbox that merges and
//! never drops; whatever cannot be watched is polled, counted and told by [`Watch::degraded`]; an
//! idle watch does not wake up. Leaves what stands at a path to the scan, and when to look to the
//! debounce. A file system mounted over a directory after it was watched is not noticed until
//! something else calls for a look there: the kernel tells nobody.
//!
//! On Linux it speaks inotify itself; elsewhere `notify` 9.0.0-rc.7 stands in (`portable`, which is
//! compiled and tested on Linux, too). Used the same way, one watch a directory, watch first and
//! then list, neither loses anything; but `notify` names each directory by its path and takes each
//! watch over a channel. Both here, 2 shared cores under other load, release, tmpfs, November 2026,
//! the column of `notify` by a trial made before `portable` was:
//!
//! | | notify | inotify |
//! |---|---|---|
//! | 2,000 new directories x 5 files: lost / CPU of storm and watch | 0 / 0.27-0.33 s | 0 / 0.26 s |
//! | 20,000 x 10 | 0 / 9.8 s | 0 / 6.2 s |
//! | 10,000 / 100,000 directories set up | 0.79 / 6.0 s | 0.15 / 1.9 s |
//! | 5,000 directories renamed | each watched anew, by path | one pointer |
//!
//! `portable` and `inotify` as they are (`figures` of `tests/watch_storm.rs`, unoptimised, one run):
//! CPU of 20,000 x 10 6.3 s and 5.9 s; 10,000 / 100,000 directories set up in 0.46 / 8.4 s and 0.26 /
//! 2.3 s; a save told after 132 us and 80 us p50.
//!
//! The save's way to a waiting tokio task is one wake-up of this room's thread and one of the
//! task's: 58 us p50, 106 us p90 from the writer's return, under that load.

#[cfg(target_os = "linux")]
mod directories;
#[cfg(target_os = "linux")]
mod folders;
#[cfg(not(target_os = "linux"))]
#[path = "portable/folders.rs"]
mod folders;
#[cfg(target_os = "linux")]
mod inotify;
#[cfg(target_os = "linux")]
mod lent;
mod mailbox;
mod out;
mod portable;
#[cfg(target_os = "linux")]
mod queue;
mod shared;
mod shortage;
#[cfg(target_os = "linux")]
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use tokio::sync::oneshot;

use crate::engine::debounce::Seen;
pub use folders::Folders;
use shared::{Shared, State};
pub use shortage::{Degraded, Shortage};

/// How often what cannot be watched is looked at, and a root that is gone is looked for.
const POLL_EVERY: Duration = Duration::from_secs(2);

/// Says which directories are watched, from the watching thread. A function of the path is one whose
/// answers never change.
pub trait Wants: Send + Sync {
    /// Whether a directory is watched. Asked once for each in a walk, outermost first; what lies below
    /// an unwanted one is not asked about.
    fn wants(&self, directory: &SyncPath) -> bool;

    /// What was known of a directory and all below it may not be true any more; it is gone through
    /// and observed after this.
    fn forget(&self, subtree: &SyncPath);
}

impl<F: Fn(&SyncPath) -> bool + Send + Sync> Wants for F {
    fn wants(&self, directory: &SyncPath) -> bool {
        self(directory)
    }

    fn forget(&self, _: &SyncPath) {}
}

/// The same, shared.
pub type Wanted = Arc<dyn Wants>;

/// Names in folders (absolute, canonical) in which nothing else matters.
pub type Names = BTreeMap<PathBuf, BTreeSet<Vec<u8>>>;

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
    /// Something happened of which it is not known yet where: events were lost. "Look everywhere" at the
    /// root follows once all directories have been gone through, or that the root is gone.
    Lost {
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
            | Self::Lost { at }
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

/// Watches one root until dropped.
pub struct Watch {
    shared: Arc<Shared>,
    backend: Backend,
    cookies: PathBuf,
    thread: Option<JoinHandle<()>>,
}

/// The watching thread of either backend, as its owner sees it.
enum Backend {
    #[cfg(target_os = "linux")]
    Inotify(Arc<lent::Lent>),
    Portable(portable::Waker),
}

impl Backend {
    fn wake(&self) {
        match self {
            #[cfg(target_os = "linux")]
            Self::Inotify(lent) => lent.waker().wake(),
            Self::Portable(waker) => waker.wake(),
        }
    }
}

impl Watch {
    /// Starts to watch all directories of `root` (absolute, canonical) that are `wanted`.
    /// `cookies` is an existing directory of ours, best outside `root`, for [`Watch::sync_point`].
    /// Returns before the watches stand; "look everywhere" at the root says that they do. A root
    /// that is not there is not an error: it is waited for.
    ///
    /// # Errors
    /// When a thread or the descriptor that wakes it cannot be had.
    #[cfg(target_os = "linux")]
    pub fn start(root: PathBuf, cookies: PathBuf, wanted: Wanted) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let lent = Arc::new(lent::Lent::new(inotify::Waker::new()?));
        let thread =
            inotify::spawn(root, cookies.clone(), wanted, Arc::clone(&shared), Arc::clone(&lent))?;
        Ok(Self { shared, backend: Backend::Inotify(lent), cookies, thread: Some(thread) })
    }

    /// As [`Watch::start_portable`], which is the only way here.
    ///
    /// # Errors
    /// When a thread cannot be had.
    #[cfg(not(target_os = "linux"))]
    pub fn start(root: PathBuf, cookies: PathBuf, wanted: Wanted) -> io::Result<Self> {
        Self::start_portable(root, cookies, wanted)
    }

    /// The same for systems without inotify, by the crate `notify`; on Linux for comparison.
    ///
    /// # Errors
    /// When a thread cannot be had.
    pub fn start_portable(root: PathBuf, cookies: PathBuf, wanted: Wanted) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let waker = portable::Waker::default();
        // Events name files by their directories' true paths.
        let cookies = cookies.canonicalize().unwrap_or(cookies);
        let thread =
            portable::spawn(root, cookies.clone(), wanted, Arc::clone(&shared), waker.clone())?;
        Ok(Self { shared, backend: Backend::Portable(waker), cookies, thread: Some(thread) })
    }

    /// Waits for observations and takes all there are; `None` when the watch has ended. To be called
    /// within a runtime with its drivers of time and I/O.
    ///
    /// # Cancel safety
    /// Nothing is lost when dropped early.
    pub async fn next(&self) -> Option<Vec<Observed>> {
        match &self.backend {
            #[cfg(target_os = "linux")]
            Backend::Inotify(lent) => lent.next(&self.shared).await,
            Backend::Portable(_) => self.shared.mailbox.take().await,
        }
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
            // Whether or not somebody waits in `next`.
            self.backend.wake();
            // An error means that the watch has ended: nobody will ever answer.
            let _ = answered.await;
        } else {
            let (answer, answered) = oneshot::channel();
            self.order(|state| state.everywhere.push(answer));
            let _ = answered.await;
        }
    }

    /// Goes through all directories again with new rules of what is wanted: watches what is now,
    /// unwatches what is no more; "look everywhere" at the root follows.
    pub fn rewalk(&self, wanted: Wanted) {
        self.order(|state| state.rewalk = Some(wanted));
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

    /// Asks the thread for something; nobody does it once that has ended.
    fn order(&self, order: impl FnOnce(&mut State)) {
        let mut state = self.shared.state();
        if !state.ended {
            order(&mut state);
        }
        drop(state);
        self.backend.wake();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.backend.wake();
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
