//! How much of large contents may be on its way at a time: enough to keep the link busy, so little that
//! what is saved meanwhile waits for no more than [`QUEUE`]; or, where nothing is saved meanwhile, as
//! much as the hub takes. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use e2ek_sidecar::wire::{AHEAD_WINDOW_BYTES, PIECE_BYTES};

/// How long a byte may wait within the link because of those before it; with what is on its way when
/// that is noticed, some 40 ms. A slow link holds two pieces at the most.
const QUEUE: Duration = Duration::from_millis(25);
/// Before anything is known of the link, in bytes.
const FIRST_BYTES: u64 = 256 << 10;
/// By so much it goes up in the time of one way and back, in bytes.
const STEP_BYTES: u64 = PIECE_BYTES as u64;
/// How long the shortest way of a byte counts: routes change.
const REMEMBERED: Duration = Duration::from_secs(15);

/// Watches how long bytes take until the other end says that it took them. The shortest time is that
/// of a link with nothing in it; what is above it was spent in a queue (as RFC 6817 does).
#[derive(Debug)]
pub struct Window {
    size: u64,
    sent: u64,
    taken: u64,
    /// Where each piece ends in all that was sent, and when it was.
    pieces: VecDeque<(u64, Instant)>,
    /// The shortest time lately, and before that.
    shortest: (Option<Duration>, Option<Duration>),
    since: Option<Instant>,
    /// What is sent up to here was sent before the size went down: it says nothing new.
    heeded: u64,
    /// The size went down once: from then on it goes up step by step.
    careful: bool,
    /// Nothing waits behind it: the size stays.
    whole: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            size: FIRST_BYTES,
            sent: 0,
            taken: 0,
            pieces: VecDeque::new(),
            shortest: (None, None),
            since: None,
            heeded: 0,
            careful: false,
            whole: false,
        }
    }
}

impl Window {
    /// Where nobody saves anything meanwhile: a queue is no harm, and every process on the way has
    /// something to do all the time.
    #[must_use]
    pub fn whole() -> Self {
        Self { size: AHEAD_WINDOW_BYTES, whole: true, ..Self::default() }
    }

    /// Whether another piece may go out.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.sent == self.taken || self.sent + PIECE_BYTES as u64 <= self.taken + self.size
    }

    /// So many bytes went out.
    pub fn sent(&mut self, now: Instant, bytes: u64) {
        self.sent += bytes;
        self.pieces.push_back((self.sent, now));
    }

    /// So many of all bytes were taken by now.
    pub fn taken(&mut self, now: Instant, total: u64) {
        let before = std::mem::replace(&mut self.taken, total.min(self.sent));
        let mut last = None;
        while let Some(piece) = self.pieces.pop_front_if(|(end, _)| *end <= self.taken) {
            last = Some(piece);
        }
        let Some((end, at)) = last.filter(|_| !self.whole) else { return };
        let took = now.saturating_duration_since(at);
        self.remember(now, took);
        let shortest = self.shortest.0.into_iter().chain(self.shortest.1).min().unwrap_or(took);
        if took <= shortest + QUEUE {
            let taken = self.taken - before;
            let more = if self.careful { taken * STEP_BYTES / self.size } else { taken };
            self.size = (self.size + more).min(AHEAD_WINDOW_BYTES);
        } else if end > self.heeded {
            self.shrink();
        }
    }

    fn remember(&mut self, now: Instant, took: Duration) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= REMEMBERED {
            self.shortest = (None, self.shortest.0);
            self.since = Some(now);
            // The queue runs empty, so that the way without one is seen again.
            self.shrink();
        }
        self.shortest.0 = Some(self.shortest.0.map_or(took, |known| known.min(took)));
    }

    fn shrink(&mut self) {
        self.size = (self.size / 4 * 3).max(PIECE_BYTES as u64);
        self.heeded = self.sent;
        self.careful = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link that takes so long for a byte, and so many bytes in a millisecond. Returns the longest
    /// wait in its queue after the first second, and the bytes it carried in ten.
    fn carry(way_ms: u64, bytes_per_ms: u64) -> (u64, u64) {
        let base = Instant::now();
        let mut window = Window::default();
        let (mut queued, mut carried, mut longest) = (0_u64, 0_u64, 0);
        let mut on_the_way: VecDeque<(u64, u64)> = VecDeque::new();
        for ms in 0..10_000 {
            let now = base + Duration::from_millis(ms);
            while window.has_room() {
                window.sent(now, PIECE_BYTES as u64);
                queued += PIECE_BYTES as u64;
            }
            if ms > 2000 {
                longest = longest.max(queued / bytes_per_ms);
            }
            let out = queued.min(bytes_per_ms);
            (queued, carried) = (queued - out, carried + out);
            on_the_way.push_back((ms + way_ms, carried));
            while let Some((_, total)) = on_the_way.pop_front_if(|(at, _)| *at <= ms) {
                // Whole pieces are told of.
                window.taken(now, total - total % PIECE_BYTES as u64);
            }
        }
        (longest, carried)
    }

    #[test]
    fn where_nothing_waits_the_window_is_the_hubs() {
        let now = Instant::now();
        let mut window = Window::whole();
        let (mut sent, mut taken) = (0, 0);
        for round in 0..50 {
            while window.has_room() {
                window.sent(now, PIECE_BYTES as u64);
                sent += PIECE_BYTES as u64;
            }
            assert_eq!(sent - taken, AHEAD_WINDOW_BYTES);
            // However long it takes, and longer each time.
            taken += AHEAD_WINDOW_BYTES / 2;
            window.taken(now + Duration::from_secs(round * round), taken);
        }
    }

    #[test]
    fn the_link_is_busy_and_its_queue_is_short() {
        for (way_ms, bytes_per_ms) in [(1, 500_000), (1, 20_000), (40, 20_000), (100, 50_000)] {
            let (longest, carried) = carry(way_ms, bytes_per_ms);
            let most = bytes_per_ms * 10_000;
            // As much as can be on its way on such a link.
            let most = most.min(AHEAD_WINDOW_BYTES / way_ms * 10_000);
            assert!(carried > most / 2, "{way_ms} ms, {bytes_per_ms}: {carried} of {most}");
            assert!(longest <= 50, "{way_ms} ms, {bytes_per_ms}: a queue of {longest} ms");
        }
        // A slow one: at least one piece is always on its way.
        let (longest, carried) = carry(1, 1000);
        assert!(carried > 9_000_000 && longest <= 300, "{carried} {longest}");
    }
}
