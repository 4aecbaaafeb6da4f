//! Owns what a watching thread and its owner share, whichever backend the thread runs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::mailbox::Mailbox;
use super::{Degraded, Shortage, Stats, Wanted};

/// What the watching thread and its owner share.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) mailbox: Mailbox,
    pub(super) stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) stats: Stats,
    pub(super) degraded: Vec<Degraded>,
    /// Rules by which all directories are to be gone through: only the latest count.
    pub(super) rewalk: Option<Wanted>,
    /// Who waits for a look everywhere.
    pub(super) everywhere: Vec<oneshot::Sender<()>>,
    /// Sync points whose cookie has not been seen, by the cookie's file name.
    pub(super) cookies: HashMap<Vec<u8>, oneshot::Sender<()>>,
    /// For the next cookie's name.
    pub(super) next_cookie: u64,
    /// No events come, so cookies are useless: a sync point is a look everywhere.
    pub(super) blind: bool,
    /// The watching thread is gone: nobody obeys any more.
    pub(super) ended: bool,
}

impl Shared {
    /// Whether the thread is to end.
    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Each holder changes the state in single steps; a panic leaves none half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the figures up to date: what is watched, and why each polled directory is polled.
    pub(super) fn tell(&self, directories: usize, polled: impl Iterator<Item = Shortage>) {
        let mut state = self.state();
        state.stats.directories = directories;
        state.stats.polled = 0;
        state.degraded.clear();
        for shortage in polled {
            state.stats.polled += 1;
            match state.degraded.iter_mut().find(|d| d.shortage == shortage) {
                Some(degraded) => degraded.directories += 1,
                None => state.degraded.push(Degraded { shortage, directories: 1 }),
            }
        }
    }
}

/// Tells everybody that nothing more comes, however the thread ends.
pub(super) struct Closing(pub(super) Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.blind = true;
        state.ended = true;
        // Dropped, not answered: who waits for a sync point learns that there is none.
        state.cookies.clear();
        state.everywhere.clear();
        state.rewalk = None;
        drop(state);
        self.0.mailbox.close();
    }
}
