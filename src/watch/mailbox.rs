//! Owns the observations on their way from the watching thread to the daemon's loop.

use std::sync::{Mutex, MutexGuard, PoisonError};

use e2ek_sidecar::path::SyncPath;
use tokio::sync::Notify;

use super::Observed;

/// Most observations kept one by one (about 6 MB); above it they become "look everywhere".
const MAX_WAITING: usize = 65_536;

/// A place for observations that merges at its cap and never drops. One reader.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    inside: Mutex<Inside>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    waiting: Vec<Observed>,
    /// No more will come.
    closed: bool,
}

impl Mailbox {
    /// Puts all of `batch` in, in order, and leaves it empty.
    pub(super) fn post(&self, batch: &mut Vec<Observed>) {
        if batch.is_empty() {
            return;
        }
        let mut inside = self.lock();
        inside.waiting.append(batch);
        if inside.waiting.len() > MAX_WAITING {
            collapse(&mut inside.waiting);
        }
        drop(inside);
        self.arrived.notify_one();
    }

    /// Says that no more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// All that waits; empty when nothing does.
    pub(super) fn take_now(&self) -> Vec<Observed> {
        std::mem::take(&mut self.lock().waiting)
    }

    /// Waits until there is something and takes all of it; `None` when no more will come.
    ///
    /// # Cancel safety
    /// Nothing is taken unless it is returned.
    pub(super) async fn take(&self) -> Option<Vec<Observed>> {
        loop {
            {
                let mut inside = self.lock();
                if !inside.waiting.is_empty() {
                    return Some(std::mem::take(&mut inside.waiting));
                }
                if inside.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Nothing between lock and unlock can leave the list half changed.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turns observations of places into one look everywhere; keeps the root's coming and going.
fn collapse(waiting: &mut Vec<Observed>) {
    let Some(at) = waiting.iter().map(Observed::at).min() else {
        return;
    };
    // What was lost is not found by looking now, only once a look everywhere was asked for after it.
    let everywhere =
        |o: &Observed| matches!(o, Observed::Everywhere { subtree, .. } if subtree.is_root());
    let lost =
        waiting.iter().rfind(|o| everywhere(o) || matches!(o, Observed::Lost { .. })).cloned();
    waiting.retain(|o| matches!(o, Observed::RootGone { .. } | Observed::RootBack { .. }));
    waiting.push(Observed::Everywhere { subtree: SyncPath::root(), at });
    waiting.extend(lost.filter(|o| !everywhere(o)));
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::engine::debounce::Seen;

    #[tokio::test]
    async fn i10_a_full_mailbox_says_everywhere_and_keeps_the_rest() {
        let (mailbox, at) = (Mailbox::default(), Instant::now());
        mailbox.post(&mut vec![Observed::RootGone { at }, Observed::RootBack { at }]);
        for i in 0..MAX_WAITING {
            let path = SyncPath::new(i.to_string().into_bytes()).unwrap();
            mailbox.post(&mut vec![Observed::Path { path, seen: Seen::Closed, at }]);
        }
        mailbox.close();
        let all = mailbox.take().await.unwrap();
        assert!(matches!(all[0], Observed::RootGone { .. }));
        assert!(matches!(all[1], Observed::RootBack { .. }));
        assert_eq!(all[2], Observed::Everywhere { subtree: SyncPath::root(), at });
        assert!(all.len() < MAX_WAITING);
        assert!(!all.iter().any(|o| matches!(o, Observed::Lost { .. })));
        assert_eq!(mailbox.take().await, None);
        // What was lost is still to be found after that.
        let mailbox = Mailbox::default();
        let mut batch = vec![Observed::Lost { at }; MAX_WAITING + 1];
        mailbox.post(&mut batch);
        let all = mailbox.take_now();
        assert!(matches!(all[..], [Observed::Everywhere { .. }, Observed::Lost { .. }]), "{all:?}");
    }
}
