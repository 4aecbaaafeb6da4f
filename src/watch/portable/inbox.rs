//! Owns the events that `notify` told and the watching thread has not worked off yet.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use notify::Event;

/// Most events kept until the watching thread has time (about 15 MB); beyond them all are lost.
const MAX_WAITING: usize = 65_536;

/// Takes in the events of `notify`, and wakes the watching thread.
#[derive(Debug, Clone, Default)]
pub(in crate::watch) struct Waker(Arc<(Mutex<Inbox>, Condvar)>);

#[derive(Debug, Default)]
struct Inbox {
    events: Vec<Event>,
    /// Some were not kept, or not told.
    lost: bool,
    woken: bool,
    /// The number of the watcher in use; what earlier ones still tell is not taken.
    watcher: u64,
}

impl Waker {
    /// Ends the wait that is on, or else the next one.
    pub(in crate::watch) fn wake(&self) {
        self.lock().woken = true;
        self.0.1.notify_one();
    }

    /// Takes in what one watcher tells.
    pub(super) fn put(&self, watcher: u64, told: notify::Result<Event>) {
        let mut inbox = self.lock();
        if inbox.watcher != watcher {
            return;
        }
        match told {
            Ok(event) if !event.need_rescan() && inbox.events.len() < MAX_WAITING => {
                inbox.events.push(event);
            }
            Ok(_) | Err(_) => inbox.lost = true,
        }
        drop(inbox);
        self.0.1.notify_one();
    }

    /// Begins anew with another watcher; its number.
    pub(super) fn renew(&self) -> u64 {
        let mut inbox = self.lock();
        *inbox = Inbox { watcher: inbox.watcher + 1, ..Inbox::default() };
        inbox.watcher
    }

    /// Waits for something, until `until` at most. The events, and whether some were lost.
    pub(super) fn wait(&self, until: Instant) -> (Vec<Event>, bool) {
        let mut inbox = self.lock();
        while inbox.events.is_empty() && !inbox.lost && !inbox.woken {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.0.1.wait_timeout(inbox, left);
            inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        inbox.woken = false;
        (std::mem::take(&mut inbox.events), std::mem::take(&mut inbox.lost))
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        // Nothing between lock and unlock can leave it half changed.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
