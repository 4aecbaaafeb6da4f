//! Owns how finely a file system tells two moments of change apart, and so which stamps to trust.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use e2ek_sidecar::tree::Stamp;
use rustix::fs::{Mode, OFlags};
use rustix::time::{ClockId, clock_gettime};

use super::file::Facts;

/// Pairs of write and stat that must all differ. With a clock that ticks every 1 to 10 ms, eight
/// changes within some microseconds do not all fall into different ticks.
const PROBES: usize = 8;
/// A jiffy is at most 10 ms (`CONFIG_HZ=100`).
const TICK: Duration = Duration::from_millis(10);
/// FAT keeps two seconds; so coarse a clock is assumed wherever fractions of seconds are missing,
/// and where nothing may be written to find out.
const SECONDS: Duration = Duration::from_secs(2);

/// How far apart two changes of a file must be to be sure of different times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    /// A change after a stat always shows (multigrain timestamps, kernel 6.13: ext4, xfs, btrfs,
    /// tmpfs; Documentation/filesystems/multigrain-ts.rst).
    Exact,
    /// Only changes further apart than this.
    Coarse(Duration),
}

impl Grain {
    /// The stamp to keep for a file whose content was read after `asked` (nanoseconds since the
    /// epoch) and which had `stamp` before and after: unknown when a later change could leave the
    /// very same one (git calls such an entry racy).
    pub(super) fn trusted(self, stamp: Stamp, asked: i64) -> Stamp {
        match self {
            Self::Exact => stamp,
            Self::Coarse(grain) => {
                let grain = i64::try_from(grain.as_nanos()).unwrap_or(i64::MAX);
                let safe_before = asked.saturating_sub(grain);
                if stamp.mtime_ns.max(stamp.ctime_ns) < safe_before {
                    stamp
                } else {
                    Stamp::default()
                }
            }
        }
    }
}

/// Now, by the clock that file systems stamp with: nanoseconds since the epoch.
pub(super) fn wall_clock() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// The grain of each file system met so far, by device number.
#[derive(Debug, Default)]
pub(super) struct Grains {
    known: Mutex<HashMap<u64, Grain>>,
}

impl Grains {
    /// For a test: `grain` for the file system `device`.
    #[cfg(test)]
    pub(super) fn with(device: u64, grain: Grain) -> Self {
        Self { known: Mutex::new(HashMap::from([(device, grain)])) }
    }

    /// The grain of the file system `device`, which `directory` lies on; found out once, with an
    /// unnamed file there that nobody sees.
    pub(super) fn of(&self, device: u64, directory: &OwnedFd) -> Grain {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(device).or_insert_with(|| probe(directory).unwrap_or(Grain::Coarse(SECONDS)))
    }
}

fn probe(directory: &OwnedFd) -> rustix::io::Result<Grain> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, ".", flags, Mode::RUSR | Mode::WUSR)?;
    let mut stamps = Vec::with_capacity(PROBES);
    for _ in 0..PROBES {
        rustix::io::write(&file, b"x")?;
        stamps.push(Facts::of(&file)?.stamp);
    }
    let moves_on = stamps.windows(2).all(|pair| pair[0].ctime_ns != pair[1].ctime_ns);
    let whole_seconds = stamps.iter().all(|s| s.mtime_ns % 1_000_000_000 == 0);
    Ok(match (moves_on, whole_seconds) {
        (true, _) => Grain::Exact,
        (false, true) => Grain::Coarse(SECONDS),
        (false, false) => Grain::Coarse(TICK),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i5_a_stamp_as_young_as_the_clock_is_coarse_is_not_trusted() {
        let at = |ms: i64| ms * 1_000_000;
        let stamp = |m, c| Stamp { inode: 1, mtime_ns: at(m), ctime_ns: at(c) };
        let tick = Grain::Coarse(TICK);
        for (stamp, asked, trusted) in [
            (stamp(80, 80), 100, true),
            (stamp(80, 90), 100, false),
            (stamp(90, 80), 100, false),
            (stamp(80, 100), 100, false),
            (stamp(80, 120), 100, false),
            (stamp(200, 80), 100, false),
        ] {
            let expected = if trusted { stamp } else { Stamp::default() };
            assert_eq!(tick.trusted(stamp, at(asked)), expected, "{stamp:?} at {asked} ms");
            assert_eq!(Grain::Exact.trusted(stamp, at(asked)), stamp);
        }
    }
}
