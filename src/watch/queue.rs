//! Owns one inotify descriptor and the events read from it.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// One read takes this much of the kernel's queue: at least [`FULL`] events.
const READ_BYTES: usize = 256 * 1024;
/// A read that gave fewer events than fit, the longest names assumed, has emptied the queue.
const FULL: usize = READ_BYTES / (16 + 256) - 1;
/// Most events read ahead while watches are added (about 20 MB); more is an overflow.
const MAX_AHEAD: usize = 1 << 18;

/// Never OPEN or ACCESS: our own scan would be seen (115,000 events for a grep of 100,000 files).
const TREE_MASK: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);
/// What makes a root's path lead elsewhere, for the root and each directory above it.
const SELF_MASK: WatchFlags = WatchFlags::DELETE_SELF
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::MASK_ADD);
/// For the cookie directory, and for the root's parent while the root is gone.
const ARRIVAL_MASK: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::MASK_ADD);

/// For a folder of which single names matter.
const NAMES_MASK: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(SELF_MASK);

/// An event as the kernel gave it.
#[derive(Debug)]
pub(super) struct Event {
    /// The watch it belongs to; -1 for an overflow.
    pub(super) watch: i32,
    /// What happened.
    pub(super) mask: ReadFlags,
    /// Pairs the two halves of a rename.
    pub(super) cookie: u32,
    /// Empty when the event is about the watched directory itself.
    pub(super) name: Box<[u8]>,
}

/// The descriptor, registered with a runtime.
pub(super) type Events = AsyncFd<Arc<OwnedFd>>;

/// An inotify descriptor with all its watches, and what was read from it but not worked off.
#[derive(Debug)]
pub(super) struct Queue {
    inotify: Arc<OwnedFd>,
    ahead: VecDeque<Event>,
    /// Events were lost since this was last taken.
    overflowed: bool,
    buffer: Vec<MaybeUninit<u8>>,
}

impl Queue {
    /// A new descriptor without watches. EMFILE when all instances, or descriptors, are used up.
    pub(super) fn new() -> Result<Self, Errno> {
        Ok(Self {
            inotify: Arc::new(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?),
            ahead: VecDeque::new(),
            overflowed: false,
            buffer: vec![MaybeUninit::uninit(); READ_BYTES],
        })
    }

    /// Watches an open directory of the tree. The same directory gives the same number again.
    pub(super) fn watch_tree(&self, directory: &OwnedFd) -> Result<i32, Errno> {
        // Through the descriptor, so that what is watched is what will be listed.
        let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
        inotify::add_watch(&self.inotify, link, TREE_MASK)
    }

    /// Watches the open root as part of the tree, and whether it is moved or removed itself.
    pub(super) fn watch_root(&self, root: &OwnedFd) -> Result<i32, Errno> {
        let link = format!("/proc/self/fd/{}", root.as_raw_fd());
        inotify::add_watch(&self.inotify, link, TREE_MASK | SELF_MASK)
    }

    /// Watches whether a directory itself is moved or removed.
    pub(super) fn watch_self(&self, directory: &Path) -> Result<i32, Errno> {
        inotify::add_watch(&self.inotify, directory, SELF_MASK)
    }

    /// Watches what arrives in a directory.
    pub(super) fn watch_arrivals(&self, directory: &Path) -> Result<i32, Errno> {
        inotify::add_watch(&self.inotify, directory, ARRIVAL_MASK)
    }

    /// Watches what becomes of the names in a directory, and whether it is moved or removed itself.
    pub(super) fn watch_names(&self, directory: &Path) -> Result<i32, Errno> {
        inotify::add_watch(&self.inotify, directory, NAMES_MASK)
    }

    /// Ends a watch; whether it was still alive.
    pub(super) fn unwatch(&self, watch: i32) -> bool {
        inotify::remove_watch(&self.inotify, watch).is_ok()
    }

    /// Reads all that the kernel has, without waiting. What does not fit is an overflow. Returns how
    /// many events wait now.
    pub(super) fn fetch(&mut self) -> usize {
        let mut reader = inotify::Reader::new(&self.inotify, &mut self.buffer);
        let mut of_this_read = 0;
        loop {
            if reader.is_buffer_empty() && (1..FULL).contains(&std::mem::take(&mut of_this_read)) {
                return self.ahead.len();
            }
            of_this_read += 1;
            match reader.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                    self.overflowed = true;
                }
                Ok(_) if self.ahead.len() >= MAX_AHEAD => self.overflowed = true,
                Ok(event) => self.ahead.push_back(Event {
                    watch: event.wd(),
                    mask: event.events(),
                    cookie: event.cookie(),
                    name: event.file_name().map_or(&b""[..], |name| name.to_bytes()).into(),
                }),
                Err(Errno::INTR) => of_this_read = 0,
                Err(Errno::AGAIN) => return self.ahead.len(),
                Err(_) => {
                    // Not known to happen (inotify(7)); nothing may be lost silently.
                    self.overflowed = true;
                    return self.ahead.len();
                }
            }
        }
    }

    /// The oldest event that was read.
    pub(super) fn pop(&mut self) -> Option<Event> {
        self.ahead.pop_front()
    }

    /// Makes an event the oldest again.
    pub(super) fn put_back(&mut self, event: Event) {
        self.ahead.push_front(event);
    }

    /// Whether there is something to work off that the descriptor does not tell of any more: it was read
    /// ahead.
    pub(super) fn is_ahead(&self) -> bool {
        self.overflowed || !self.ahead.is_empty()
    }

    /// The descriptor, to wait on within a runtime.
    pub(super) fn events(&self) -> io::Result<Events> {
        let inotify = Arc::clone(&self.inotify);
        // SAFETY: an `Arc<OwnedFd>` names the same open descriptor as long as it lives, and the
        // registration ends before it does.
        Ok(unsafe { Events::register_with_interest(inotify, Interest::READABLE) }?)
    }

    /// Whether events were lost since the last [`Queue::take_overflow`].
    pub(super) fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    /// Whether events were lost since the last call.
    pub(super) fn take_overflow(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
