//! Owns the right to write to one target: who has it, by which epoch, and when it is free.
//!
//! Pure; one [`Leases`] a target. Every grant has a new epoch, and only the newest epoch writes:
//! whoever was cut off, replaced or released finds its own refused by [`Leases::check`] for good
//! (I14). It does not remember anything over a restart of the hub: hand in the last epoch from the
//! store. That a target belongs to the workspace that wrote there last, though nobody writes now, is
//! the hub's rule.

#![deny(clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use crate::wire::WorkspaceId;

/// For how long after its last sign of life a writer keeps the right.
pub const LEASE: Duration = Duration::from_secs(15);

/// Why the right to write is not given.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("held by {writer}")]
pub struct HeldBy {
    /// Who has it, for people.
    pub writer: String,
    /// For how long it has written, re-entries included.
    pub held_for: Duration,
    /// When it is free, unless there is another sign of life before. Never zero.
    pub frees_in: Duration,
}

struct Holder {
    workspace: WorkspaceId,
    writer: String,
    /// When the workspace got the right; kept when it re-enters.
    since: Instant,
    /// The last sign of life.
    heard: Instant,
}

/// The right to write to one target.
pub struct Leases {
    /// The newest epoch ever given; the holder's, if there is one.
    epoch: u64,
    holder: Option<Holder>,
}

impl Leases {
    /// Held by nobody. `last_epoch` is the newest one ever given for this target, 0 for none.
    #[must_use]
    pub fn new(last_epoch: u64) -> Self {
        Self { epoch: last_epoch, holder: None }
    }

    /// Asks for the right to write. Given with a new epoch when nobody has it, the same workspace
    /// has it, its holder was silent for [`LEASE`], or `take_over` says so. An epoch given before is
    /// worth nothing from then on.
    ///
    /// # Errors
    /// Who has it, and until when.
    pub fn acquire(
        &mut self,
        now: Instant,
        workspace: WorkspaceId,
        writer: &str,
        take_over: bool,
    ) -> Result<u64, HeldBy> {
        let mut since = now;
        if let Some(holder) = &self.holder {
            let frees_in = (holder.heard + LEASE).saturating_duration_since(now);
            if holder.workspace == workspace {
                since = holder.since;
            } else if !take_over && !frees_in.is_zero() {
                return Err(HeldBy {
                    writer: holder.writer.clone(),
                    held_for: now.saturating_duration_since(holder.since),
                    frees_in,
                });
            }
        }
        self.epoch += 1;
        self.holder = Some(Holder { workspace, writer: writer.to_owned(), since, heard: now });
        Ok(self.epoch)
    }

    /// A sign of life of the holder. Returns whether the epoch is still the one that writes; a stale
    /// one extends nothing.
    pub fn touch(&mut self, now: Instant, epoch: u64) -> bool {
        match &mut self.holder {
            Some(holder) if self.epoch == epoch => {
                holder.heard = holder.heard.max(now);
                true
            }
            _ => false,
        }
    }

    /// Whether this epoch may write. A silent holder may, as long as nobody else came.
    #[must_use]
    pub fn check(&self, epoch: u64) -> bool {
        self.holder.is_some() && self.epoch == epoch
    }

    /// Gives the right back. A stale epoch gives back nothing.
    pub fn release(&mut self, epoch: u64) {
        if self.check(epoch) {
            self.holder = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANN: WorkspaceId = [1; 16];
    const BOB: WorkspaceId = [2; 16];

    /// An `Instant` can only be had from the clock; which one it is does not matter.
    #[allow(clippy::disallowed_methods)]
    fn any_moment() -> Instant {
        Instant::now()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn i14_others_wait_and_are_told_for_whom() {
        let start = any_moment();
        let mut leases = Leases::new(41);
        assert_eq!(leases.acquire(start, ANN, "ann", false), Ok(42));
        assert!(leases.touch(start + seconds(10), 42));
        let ask = |leases: &mut Leases, at| leases.acquire(start + at, BOB, "bob", false);
        let refused = ask(&mut leases, seconds(12)).unwrap_err();
        let (held_for, frees_in) = (seconds(12), seconds(13));
        assert_eq!(refused, HeldBy { writer: "ann".to_owned(), held_for, frees_in });
        let almost = seconds(25) - Duration::from_nanos(1);
        assert!(ask(&mut leases, almost).is_err());
        assert!(leases.check(42), "a refused request changes nothing");
        assert_eq!(ask(&mut leases, seconds(25)), Ok(43));
        assert!(!leases.check(42) && leases.check(43));
        assert!(!leases.touch(start + seconds(26), 42), "the silent one is back, and too late");
    }

    #[test]
    fn i14_the_same_workspace_re_enters_at_once_and_shuts_its_old_session_out() {
        let start = any_moment();
        let mut leases = Leases::new(0);
        assert_eq!(leases.acquire(start, ANN, "ann", false), Ok(1));
        assert_eq!(leases.acquire(start + seconds(1), ANN, "ann", false), Ok(2));
        assert!(!leases.check(1) && leases.check(2));
        leases.release(1);
        assert!(leases.check(2), "the old session ends and takes nothing with it");
        let refused = leases.acquire(start + seconds(3), BOB, "bob", false).unwrap_err();
        assert_eq!((refused.held_for, refused.frees_in), (seconds(3), seconds(13)));
    }

    #[test]
    fn a_take_over_or_a_release_need_no_waiting() {
        let start = any_moment();
        let mut leases = Leases::new(0);
        assert_eq!(leases.acquire(start, ANN, "ann", false), Ok(1));
        assert_eq!(leases.acquire(start, BOB, "bob", true), Ok(2));
        leases.release(2);
        assert!(!leases.check(2), "a right given back is gone");
        assert!(!leases.touch(start, 2));
        assert_eq!(leases.acquire(start, ANN, "ann", false), Ok(3));
    }

    #[test]
    fn a_silent_holder_writes_on_while_nobody_else_came() {
        let start = any_moment();
        let mut leases = Leases::new(0);
        let epoch = leases.acquire(start, ANN, "ann", false).unwrap();
        assert!(leases.touch(start + seconds(100), epoch));
        assert!(leases.acquire(start + seconds(101), BOB, "bob", false).is_err());
    }

    #[derive(Clone, Debug)]
    enum Call {
        Acquire(u8, bool),
        Touch(u64),
        Release(u64),
        Wait(u64),
    }

    fn call() -> impl Strategy<Value = Call> {
        prop_oneof![
            3 => (0_u8..3, prop::bool::weighted(0.2)).prop_map(|(who, over)| Call::Acquire(who, over)),
            2 => (0_u64..12).prop_map(Call::Touch),
            1 => (0_u64..12).prop_map(Call::Release),
            3 => (0_u64..20_000).prop_map(Call::Wait),
        ]
    }

    proptest! {
        /// Epochs only grow, at most the newest writes, what stopped writing never writes again,
        /// and nobody is shut out within 15 s of its last sign of life but by itself or by force.
        #[test]
        fn i14_one_writer(calls in prop::collection::vec(call(), 1..60)) {
            let mut now = any_moment();
            let mut leases = Leases::new(0);
            let mut newest = 0;
            let mut dead = 0;
            let mut holder: Option<(u8, Instant)> = None;
            for call in calls {
                match call {
                    Call::Wait(millis) => now += Duration::from_millis(millis),
                    Call::Acquire(who, over) => {
                        let answer = leases.acquire(now, [who; 16], "w", over);
                        let free = holder.is_none_or(|(old, heard)| old == who || now - heard >= LEASE);
                        prop_assert_eq!(answer.is_ok(), over || free);
                        match answer {
                            Ok(epoch) => {
                                prop_assert!(epoch > newest);
                                (dead, newest, holder) = (newest, epoch, Some((who, now)));
                            }
                            Err(held) => {
                                let (_, heard) = holder.unwrap();
                                prop_assert_eq!(held.frees_in, heard + LEASE - now);
                            }
                        }
                    }
                    Call::Touch(epoch) => {
                        let alive = holder.is_some() && epoch == newest;
                        prop_assert_eq!(leases.touch(now, epoch), alive);
                        holder = holder.map(|(who, heard)| (who, if alive { now } else { heard }));
                    }
                    Call::Release(epoch) => {
                        leases.release(epoch);
                        if epoch == newest && holder.take().is_some() {
                            dead = newest;
                        }
                    }
                }
                for epoch in 0..=newest + 1 {
                    prop_assert_eq!(leases.check(epoch), epoch > dead && epoch == newest);
                }
            }
        }
    }
}
