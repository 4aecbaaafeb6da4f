//! Owns the thread that speaks for a daemon, so that the daemon never waits for a reader.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::backlog::Backlog;
use super::{Event, Heard, Reporter};

/// Events that may wait for a reader.
const MAX_EVENTS: usize = 4096;
/// The app's output that may wait for a reader, in bytes.
const MAX_BYTES: usize = 8 << 20;

/// Takes events without ever waiting; a thread says them.
///
/// When the reader is too slow (a terminal stopped by Ctrl-S, a pager), events beyond the bounds
/// are left out and counted, and the count is said where they would have stood.
pub struct Desk {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Something was queued, or the desk was closed, or the thread has ended.
    changed: Condvar,
}

struct State {
    backlog: Backlog<(Event, Instant, SystemTime)>,
    /// No event will come.
    closed: bool,
    /// The thread has said everything.
    done: bool,
    heard: Heard,
}

impl Desk {
    /// Hands the outputs to a thread.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn open(reporter: Reporter) -> std::io::Result<Self> {
        let state = State {
            backlog: Backlog::new(MAX_EVENTS, MAX_BYTES),
            closed: false,
            done: false,
            heard: Heard::Yes,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("report".into()).spawn(move || theirs.speak(reporter))?;
        Ok(Self { shared })
    }

    /// Queues an event. Tells whether the outputs were still there a moment ago.
    pub fn say(&self, event: Event) -> Heard {
        self.say_all([event])
    }

    /// Queues events of one moment: the thread is woken once for all of them.
    pub fn say_all(&self, events: impl IntoIterator<Item = Event>) -> Heard {
        let (now, date) = (Instant::now(), SystemTime::now());
        let mut state = self.shared.lock();
        for event in events {
            let bytes = if let Event::Output { bytes, .. } = &event { bytes.len() } else { 0 };
            state.backlog.push((event, now, date), bytes);
        }
        let heard = state.heard;
        drop(state);
        self.shared.changed.notify_all();
        heard
    }

    /// Waits until everything is said, but no longer than `patience`: a stopped terminal must not
    /// keep the process from its end.
    pub fn close(self, patience: Duration) -> Heard {
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.changed.notify_all();
        let waited = self.shared.changed.wait_timeout_while(state, patience, |state| !state.done);
        waited.unwrap_or_else(PoisonError::into_inner).0.heard
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements: a poisoned lock is as good as another.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn speak(&self, mut reporter: Reporter) {
        loop {
            let waiting = |state: &mut State| state.backlog.is_empty() && !state.closed;
            let mut state = self
                .changed
                .wait_while(self.lock(), waiting)
                .unwrap_or_else(PoisonError::into_inner);
            let (events, left_out) = state.backlog.take();
            let last = state.closed;
            drop(state);
            let mut heard = Heard::Yes;
            for (event, now, date) in &events {
                heard = reporter.say_at(event, *now, *date);
            }
            if left_out > 0 {
                heard = reporter.say(&Event::LeftOut { count: left_out });
            }
            if last {
                heard = reporter.finish();
            }
            let mut state = self.lock();
            state.heard = heard;
            state.done = last;
            if last {
                self.changed.notify_all();
                return;
            }
        }
    }
}
