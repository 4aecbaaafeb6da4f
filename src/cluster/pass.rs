//! Owns the client that is in use, and when it is made anew: before who we are ends, and when a file
//! that it came from changes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use kube::Client;

use super::ClusterError;
use super::access::Entry;

/// So long before its end a credential is not used any more; half of its life where that is short.
const MARGIN: Duration = Duration::from_secs(60);
/// Between two tries that came to nothing: a program may ask a person each time. Doubles.
const AGAIN_FIRST: Duration = Duration::from_secs(5);
const AGAIN_LAST: Duration = Duration::from_secs(60);

/// A client, and how long it serves.
pub(super) struct Pass {
    pub(super) client: Client,
    /// Which one it is: who was refused with an older one need only take this.
    pub(super) serial: u64,
    life: Option<Life>,
    files: Files,
    /// The last try to make a new one, since it began to serve.
    failed: Option<Failed>,
    /// It was made because the one before was refused: as long as this holds, another would be, too.
    pub(super) instead_of: Option<Pause>,
}

/// Files, with what they were.
type Files = Vec<(PathBuf, Option<Stamp>)>;

/// A try that came to nothing.
struct Failed {
    error: ClusterError,
    /// As they were then: others may lead to another end.
    files: Files,
    pause: Pause,
}

/// A time during which nothing is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    since: Instant,
    lasts: Duration,
}

/// What tells that a file is another by now: device, inode, size, time of its change.
type Stamp = (u64, u64, u64, i64, i64);

/// The life of a credential, by two clocks: the wall's, which may be set, and that of this machine,
/// which stands still while it sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    began: Instant,
    lasts: Duration,
    ends: SystemTime,
}

/// What is to be done about a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    No,
    /// A new one is wanted; this one serves if there is none.
    Wanted,
    /// It does not serve any more.
    Over,
}

impl Pass {
    pub(super) fn new(serial: u64, entry: &Entry) -> Self {
        let files = stamped(&entry.files);
        let life = entry
            .until
            .and_then(|until| Life::new(Instant::now(), SystemTime::now(), system_time(until)));
        let client = entry.client.clone();
        Self { client, serial, life, files, failed: None, instead_of: None }
    }

    /// Whether a new one is due.
    pub(super) fn due(&self) -> Due {
        let now = Instant::now();
        match self.life.map_or(Due::No, |life| life.due(now, SystemTime::now())) {
            Due::Over => Due::Over,
            _ if self.why_not().is_some() => Due::No,
            Due::No if have_changed(&self.files) => Due::Wanted,
            due => due,
        }
    }

    /// Why making a new one would come to nothing: it did so a moment ago.
    pub(super) fn why_not(&self) -> Option<ClusterError> {
        let failed = self.failed.as_ref()?;
        let holds = failed.pause.holds() && !have_changed(&failed.files);
        holds.then(|| failed.error.clone())
    }

    /// Making a new one failed.
    pub(super) fn failed(&mut self, error: ClusterError) {
        let files = stamped(self.files.iter().map(|(path, _)| path));
        let before = self.failed.as_ref().map(|failed| failed.pause);
        let pause = Pause::after(before);
        self.failed = Some(Failed { error, files, pause });
    }
}

impl Pause {
    /// From now on; after another it is longer, unless that is long over.
    pub(super) fn after(before: Option<Self>) -> Self {
        Self::since(Instant::now(), before)
    }

    fn since(now: Instant, before: Option<Self>) -> Self {
        let recent = before.filter(|one| now < one.since + 4 * one.lasts);
        let lasts = recent.map_or(AGAIN_FIRST, |one| (2 * one.lasts).min(AGAIN_LAST));
        Self { since: now, lasts }
    }

    pub(super) fn holds(self) -> bool {
        self.since.elapsed() < self.lasts
    }
}

impl Life {
    /// `None` where the end is past already: either clock may be wrong, so it is used until refused.
    fn new(now: Instant, today: SystemTime, ends: SystemTime) -> Option<Self> {
        let lasts = ends.duration_since(today).ok().filter(|lasts| !lasts.is_zero())?;
        Some(Self { began: now, lasts, ends })
    }

    fn due(&self, now: Instant, today: SystemTime) -> Due {
        let by_wall = self.ends.duration_since(today).unwrap_or_default();
        let lived = now.saturating_duration_since(self.began);
        let left = by_wall.min(self.lasts.saturating_sub(lived));
        match left {
            left if left.is_zero() => Due::Over,
            left if left <= MARGIN.min(self.lasts / 2) => Due::Wanted,
            _ => Due::No,
        }
    }
}

fn stamp(path: &PathBuf) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

/// Files with what they are now.
fn stamped<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Files {
    paths.into_iter().map(|path| (path.clone(), stamp(path))).collect()
}

fn have_changed(files: &Files) -> bool {
    files.iter().any(|(path, before)| stamp(path) != *before)
}

fn system_time(time: Timestamp) -> SystemTime {
    SystemTime::from(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_renewed_before_it_ends_by_either_clock() {
        let (now, today) = (Instant::now(), SystemTime::now());
        let seconds = Duration::from_secs;
        let life = |lasts| Life::new(now, today, today + seconds(lasts)).unwrap();
        // Seconds later by this machine's clock, and by the wall's.
        let due =
            |lasts, later, by_wall| life(lasts).due(now + seconds(later), today + seconds(by_wall));
        assert_eq!(due(600, 539, 539), Due::No);
        assert_eq!(due(600, 540, 540), Due::Wanted);
        assert_eq!(due(600, 600, 600), Due::Over);
        assert_eq!(due(600, 1, 3600), Due::Over, "this machine slept");
        assert_eq!(due(600, 601, 1), Due::Over, "the clock was set back");
        assert_eq!(due(20, 9, 9), Due::No);
        assert_eq!(due(20, 10, 10), Due::Wanted, "one that lives short is used for half of that");
        // The clock of this machine is an hour ahead of the cluster's.
        assert_eq!(Life::new(now, today + seconds(3600), today + seconds(600)), None);
    }

    #[test]
    fn what_comes_to_nothing_again_and_again_is_tried_ever_later() {
        let (mut now, mut pause, mut lasted) = (Instant::now(), None, Vec::new());
        for _ in 0..6 {
            let next = Pause::since(now, pause);
            lasted.push(next.lasts.as_secs());
            (now, pause) = (now + next.lasts, Some(next));
        }
        assert_eq!(lasted, [5, 10, 20, 40, 60, 60]);
        assert_eq!(Pause::since(now + AGAIN_LAST * 4, pause).lasts, AGAIN_FIRST);
    }
}
