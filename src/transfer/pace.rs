//! How hard to compress, by how fast the link takes what it is given. Pure.

use std::time::Duration;

use super::Distance;

/// So much must have gone out before anything is concluded from it, in bytes.
const ENOUGH_BYTES: u64 = 512 << 10;
/// Or so long waited for the link.
const ENOUGH_WAIT: Duration = Duration::from_millis(200);

/// Watches a link and names the zstd level for it. A far link is never given more bytes than need
/// be: it may be metered, or shared. On this machine bytes are cheaper than compressing them.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    distance: Distance,
    level: i32,
    bytes: u64,
    waited: Duration,
}

impl Pace {
    /// Before anything is known of the link.
    #[must_use]
    pub fn new(distance: Distance) -> Self {
        let level = if distance == Distance::Here { 0 } else { 1 };
        Self { distance, level, bytes: 0, waited: Duration::ZERO }
    }

    /// The level: 0 is none.
    #[must_use]
    pub fn level(&self) -> i32 {
        self.level
    }

    /// So many bytes went out, and the link let us wait so long.
    pub fn observe(&mut self, bytes: u64, waited: Duration) {
        self.bytes += bytes;
        self.waited += waited;
        if self.distance == Distance::Here || self.bytes < ENOUGH_BYTES && self.waited < ENOUGH_WAIT
        {
            return;
        }
        // Below, whatever is waited for is no matter of the link's speed.
        let waited = self.waited.max(Duration::from_micros(1));
        let bytes_per_second = self.bytes as f64 / waited.as_secs_f64();
        self.level = match bytes_per_second {
            ..2e6 => 6,
            ..30e6 => 3,
            _ => 1,
        };
        (self.bytes, self.waited) = (0, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_link_is_given_less() {
        let level = |distance, bytes, millis| {
            let mut pace = Pace::new(distance);
            pace.observe(bytes, Duration::from_millis(millis));
            pace.level()
        };
        assert_eq!(level(Distance::Here, 1 << 20, 10_000), 0);
        assert_eq!(level(Distance::Far, 1 << 20, 0), 1);
        assert_eq!(level(Distance::Far, 1 << 20, 20), 1);
        assert_eq!(level(Distance::Far, 1 << 20, 50), 3);
        assert_eq!(level(Distance::Far, 1 << 20, 1000), 6);
        assert_eq!(level(Distance::Far, 1 << 10, 10), 1, "too little to tell");
        assert_eq!(level(Distance::Far, 10 << 10, 200), 6);
    }

    #[test]
    fn a_link_that_gets_faster_is_noticed() {
        let mut pace = Pace::new(Distance::Far);
        pace.observe(1 << 20, Duration::from_secs(2));
        pace.observe(1 << 20, Duration::from_millis(1));
        assert_eq!(pace.level(), 1);
    }
}
