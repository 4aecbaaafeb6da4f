//! Owns a watching thread: what happens to files in a tree's directories, each with its moment.
//!
//! It knows only the directories that the tree was made with: whatever a program stages elsewhere
//! does not count.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

use crate::tree::Tree;
use crate::{Result, clock};

/// Something happened to a file, or to a directory where those were asked for.
pub(crate) struct Seen {
    /// Relative to the tree's root.
    pub(crate) path: PathBuf,
    /// When the event was read.
    pub(crate) at: u64,
}

/// Watches until dropped.
pub(crate) struct Events {
    seen: Receiver<Seen>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Inotify with one watch a directory; the watches' numbers lead to the directories.
pub(crate) struct Watches {
    pub(crate) inotify: OwnedFd,
    directories: HashMap<i32, PathBuf>,
}

impl Watches {
    pub(crate) fn new(root: &Path, directories: &[PathBuf], what: WatchFlags) -> Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC)?;
        let add = |directory: &PathBuf| {
            inotify::add_watch(&inotify, root.join(directory), what | WatchFlags::ONLYDIR)
                .map(|watch| (watch, directory.clone()))
                .map_err(|error| format!("watch {}: {error}", root.join(directory).display()))
        };
        let directories = directories.iter().map(add).collect::<std::result::Result<_, _>>()?;
        Ok(Self { inotify, directories })
    }

    /// The file an event is about, relative to the root; `None` for what is about a directory.
    pub(crate) fn file(&self, event: &inotify::Event<'_>) -> Option<PathBuf> {
        if event.events().contains(ReadFlags::ISDIR) { None } else { self.entry(event) }
    }

    fn entry(&self, event: &inotify::Event<'_>) -> Option<PathBuf> {
        let name = event.file_name()?;
        Some(self.directories.get(&event.wd())?.join(OsStr::from_bytes(name.to_bytes())))
    }
}

impl Events {
    pub(crate) fn watch(tree: &Tree, what: WatchFlags) -> Result<Self> {
        Self::start(Watches::new(&tree.root, &tree.directories, what)?, false)
    }

    /// What happens to the directories right below a root.
    pub(crate) fn directories(root: &Path, what: WatchFlags) -> Result<Self> {
        Self::start(Watches::new(root, &[PathBuf::new()], what)?, true)
    }

    fn start(watches: Watches, directories: bool) -> Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (sender, seen) = channel();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || follow(&watches, directories, &stopped, &sender));
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// Forgets what was seen until now.
    pub(crate) fn forget(&self) {
        self.seen.try_iter().for_each(drop);
    }

    /// The next one, waited for until `deadline`.
    pub(crate) fn next(&self, deadline: u64) -> Option<Seen> {
        let left = deadline.saturating_sub(clock::now());
        self.seen.recv_timeout(std::time::Duration::from_nanos(left)).ok()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn follow(watches: &Watches, directories: bool, stop: &OwnedFd, sender: &Sender<Seen>) {
    let mut buffer = [MaybeUninit::uninit(); 64 << 10];
    let mut reader = Reader::new(watches.inotify.as_fd(), &mut buffer);
    loop {
        if reader.is_buffer_empty() {
            let mut waiting =
                [PollFd::new(&watches.inotify, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
            let woken = poll(&mut waiting, None);
            if woken.is_err() || !waiting[1].revents().is_empty() {
                return;
            }
        }
        let Ok(event) = reader.next() else { return };
        let at = clock::now();
        if event.events().contains(ReadFlags::ISDIR) != directories {
            continue;
        }
        let Some(path) = watches.entry(&event) else { continue };
        if sender.send(Seen { path, at }).is_err() {
            return;
        }
    }
}
