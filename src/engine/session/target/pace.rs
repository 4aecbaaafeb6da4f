//! How soon the next generation may go out. Pure.
//!
//! A save goes out at once. Where many changes come one after the other (a branch is switched, a build
//! writes), each generation waits a little for company, the longer the more there were: what a
//! generation costs besides its ops is then shared by many, and neighbours compress together.

use std::time::{Duration, Instant};

/// Ops that are no burst yet.
const FREE_OPS: u32 = 16;
/// Each further op of a burst makes the next generation wait so much longer.
const PER_OP: Duration = Duration::from_micros(10);
/// The longest wait.
const MOST: Duration = Duration::from_millis(50);
/// Quiet that ends a burst.
const QUIET: Duration = Duration::from_millis(250);

/// Counts what goes out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Ops of the burst that is under way.
    ops: u32,
    /// When the last generation went out.
    last: Option<Instant>,
}

impl Pace {
    /// A generation of so many ops goes out.
    pub(super) fn sent(&mut self, now: Instant, ops: usize) {
        if self.last.is_none_or(|last| last + QUIET <= now) {
            self.ops = 0;
        }
        self.ops = self.ops.saturating_add(u32::try_from(ops).unwrap_or(u32::MAX));
        self.last = Some(now);
    }

    /// Before this moment no other is to go out.
    pub(super) fn next(&self) -> Option<Instant> {
        let counted = self.ops.saturating_sub(FREE_OPS);
        self.last.map(|last| last + PER_OP.saturating_mul(counted).min(MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // One moment is as good as another.
    #[allow(clippy::disallowed_methods)]
    #[test]
    fn a_save_waits_for_nothing_and_a_burst_for_company() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::default();
        assert_eq!(pace.next(), None);
        for save in 0..1000 {
            // One each 20 ms, for as long as one likes.
            assert!(pace.next().is_none_or(|next| next <= at(save * 20)), "save {save}");
            pace.sent(at(save * 20), 1);
        }
        let mut now = at(60_000);
        let mut sent = 0;
        // One file each half millisecond, for two seconds.
        for file in 0..4000 {
            now += Duration::from_micros(500);
            if pace.next().is_none_or(|next| next <= now) {
                pace.sent(now, file - sent);
                sent = file;
            }
        }
        assert!(sent > 3900, "{sent}");
        let most = now + MOST;
        assert_eq!(pace.next().map(|next| next <= most), Some(true));
        assert!(pace.ops > 3900);
        let later = now + QUIET * 2;
        pace.sent(later, 17);
        assert_eq!(pace.next(), Some(later + PER_OP));
    }
}
