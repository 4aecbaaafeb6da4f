//! The one clock and the agenda: what happens when, in microseconds of virtual time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::engine::session::TargetId;

/// Something that will happen.
#[derive(Clone, Copy)]
pub(super) enum Event {
    /// A look at the source ends; the first change it is for was seen then.
    Look { seen: u64 },
    /// What was sent first of what is on its way arrives.
    ToHub { target: TargetId, serial: u64 },
    /// The same, the other way.
    ToDaemon { target: TargetId, serial: u64 },
    /// The daemon's end notices that the link is over.
    Lost { target: TargetId, serial: u64 },
    /// The hub's end notices.
    Unlink { target: TargetId, serial: u64 },
    /// A restart that the hub began is done.
    Restarted { target: TargetId, generation: u64, pid: i32 },
    /// Paths that could not be written can be.
    Mend { target: TargetId },
    /// The source's root is there again.
    Mounted,
    /// The next fault or edit.
    Fault,
}

/// What is due next.
pub(super) enum Due {
    /// The session's deadline.
    Deadline,
    Event(Event),
    /// Nothing at all; a second has passed.
    Nothing,
}

pub(super) struct Clock {
    base: Instant,
    pub(super) now: u64,
    count: u64,
    agenda: BTreeMap<(u64, u64), Event>,
}

impl Clock {
    pub(super) fn new(base: Instant) -> Self {
        Self { base, now: 0, count: 0, agenda: BTreeMap::new() }
    }

    pub(super) fn at(&self, micros: u64) -> Instant {
        self.base + Duration::from_micros(micros)
    }

    pub(super) fn instant(&self) -> Instant {
        self.at(self.now)
    }

    pub(super) fn after(&mut self, micros: u64, event: Event) {
        self.count += 1;
        self.agenda.insert((self.now + micros, self.count), event);
    }

    /// The machine slept: everything that was due is late.
    pub(super) fn jump(&mut self, micros: u64) {
        self.now += micros;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.agenda.is_empty()
    }

    /// Moves on to what is due next.
    pub(super) fn next(&mut self, deadline: Option<Instant>) -> Due {
        let deadline = deadline.map(|at| {
            let micros = at.saturating_duration_since(self.base).as_nanos().div_ceil(1000);
            (micros as u64).max(self.now)
        });
        let first = self.agenda.first_key_value().map(|(key, _)| key.0);
        match (deadline, first) {
            (Some(at), first) if first.is_none_or(|first| at <= first) => {
                self.now = at;
                Due::Deadline
            }
            (_, Some(_)) => {
                let ((at, _), event) = self.agenda.pop_first().unwrap();
                self.now = self.now.max(at);
                Due::Event(event)
            }
            _ => {
                self.now += 1_000_000;
                Due::Nothing
            }
        }
    }
}
