//! Owns the place at the kernel's queue while the watching thread has lent it to the waiting task.
//!
//! Waking a sleeping thread costs a save about 60 us, and the thread would only wake the next one.
//! So in quiet times the task that waits for observations reads the queue itself. It works off what
//! tells of files in known directories; the rest it leaves to the thread, which takes its place
//! back when woken, and lends it again when it has been quiet for a while.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::unix::AsyncFdReadyGuard;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Observed;
use super::inotify::{LINGER, Waker, Watcher};
use super::queue::Events;
use super::shared::Shared;

/// Where the thread leaves what it knows.
pub(super) struct Lent {
    inside: Mutex<Inside>,
    waker: Waker,
    /// Something was left here.
    arrived: Notify,
}

#[derive(Default)]
struct Inside {
    watcher: Option<Watcher>,
    /// The thread was asked to take it back.
    recalled: bool,
    /// The queue, registered with the runtime of the waiting task.
    events: Option<Arc<Events>>,
    /// It cannot be registered: the place stays with the thread.
    refused: bool,
}

impl Lent {
    pub(super) fn new(waker: Waker) -> Self {
        Self { inside: Mutex::default(), waker, arrived: Notify::new() }
    }

    /// What makes the thread take its place back.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Leaves the place to the waiting task until the thread is woken. Whether it may be left again.
    pub(super) fn lend(&self, watcher: Watcher) -> (Watcher, bool) {
        *self.lock() = Inside { watcher: Some(watcher), ..Inside::default() };
        self.arrived.notify_one();
        loop {
            self.waker.wait();
            let inside = std::mem::take(&mut *self.lock());
            if let Some(watcher) = inside.watcher {
                return (watcher, !inside.refused);
            }
        }
    }

    /// Waits for observations and takes all there are; `None` when the watch has ended. To be called
    /// within a runtime.
    ///
    /// # Cancel safety
    /// Nothing is lost when dropped early.
    pub(super) async fn next(&self, shared: &Shared) -> Option<Vec<Observed>> {
        // Held back by a call that was dropped while it lingered.
        self.post();
        loop {
            let events = self.events();
            let ready = tokio::select! {
                biased;
                taken = shared.mailbox.take() => return taken,
                () = self.arrived.notified() => continue,
                ready = readable(events.as_deref()) => ready,
            };
            let patient = ready.is_ok_and(|mut ready| self.read(&mut ready));
            // A write is mostly followed by its close at once.
            if patient && let Ok(Ok(mut ready)) = timeout(LINGER, readable(events.as_deref())).await
            {
                self.read(&mut ready);
            }
            self.post();
        }
    }

    /// The queue, once the thread has lent it.
    fn events(&self) -> Option<Arc<Events>> {
        let mut inside = self.lock();
        let watcher = inside.watcher.as_ref().filter(|_| !inside.recalled)?;
        if inside.events.is_none() {
            match watcher.events() {
                Some(Ok(events)) => inside.events = Some(Arc::new(events)),
                _ => {
                    inside.refused = true;
                    self.recall(&mut inside);
                }
            }
        }
        inside.events.clone()
    }

    /// Reads and works off what has come. Whether the rest is worth a little wait.
    fn read(&self, ready: &mut AsyncFdReadyGuard<'_, Arc<OwnedFd>>) -> bool {
        let mut inside = self.lock();
        let recalled = inside.recalled;
        let Some(watcher) = inside.watcher.as_mut().filter(|_| !recalled) else { return false };
        let all = watcher.read_plain();
        let patient = watcher.is_patient();
        // Emptied: what came since counts as a new readiness.
        ready.clear_ready();
        if !all {
            self.recall(&mut inside);
        }
        all && patient
    }

    /// Asks the thread to go on; it posts what was read so far, too.
    fn recall(&self, inside: &mut Inside) {
        inside.recalled = true;
        inside.events = None;
        self.waker.wake();
    }

    fn post(&self) {
        if let Some(watcher) = &mut self.lock().watcher {
            watcher.post();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // After a panic in the waiting task nobody waits any more; the thread only ends.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn readable(events: Option<&Events>) -> std::io::Result<AsyncFdReadyGuard<'_, Arc<OwnedFd>>> {
    match events {
        Some(events) => events.readable().await,
        None => std::future::pending().await,
    }
}
