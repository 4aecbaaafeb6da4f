//! Owns when an observed path is ready to be looked at, and the hints that say where to look.
//!
//! Promises: what was observed comes out again, as its own path or below a subtree, within
//! [`LONGEST_HOLD`]; equal scripts of inputs give equal outputs; at most [`MAX_PATHS`] paths are
//! held, above which they collapse into one "look everywhere", never into silence. Leaves what
//! stands at a path to the scan, and whether to send it to the plan: a hint never says what
//! happened, only where.
//!
//! The holds are measured timelines of real saves (vim, emacs, sed, VS Code and JetBrains styles):
//! all of them end with a close or a rename on the real name within 2.5 ms, so a finished write
//! waits for nothing at all.

#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;

/// Most paths held one by one; the next one turns them all into "look everywhere".
pub const MAX_PATHS: usize = 20_000;
/// A created regular file waits this long for its close, then is looked at anyway.
pub const CREATE_HOLD: Duration = Duration::from_millis(50);
/// A modification without a close waits for this much quiet.
pub const MODIFY_QUIET: Duration = Duration::from_millis(30);
/// No path is held longer than this from its first observation, whatever happens to it.
pub const LONGEST_HOLD: Duration = Duration::from_millis(300);
/// A removal waits this long for the name to come back (git and vim do that in under 1 ms); so do
/// the first sight of an editor's transient name and a mere change of attributes.
pub const SHORT_HOLD: Duration = Duration::from_millis(10);

/// Names renamed away that are remembered for the directory that may be what they became.
const MAX_DEPARTED: usize = 64;

/// What was seen to happen to a name, in the words of the watching edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A writer closed it.
    Closed,
    /// It was renamed to this name: complete.
    MovedIn,
    /// It was renamed away from this name.
    MovedOut,
    /// It came into being.
    Created {
        /// Whether a writer may still hold it open, so that a close is to come. False for what has
        /// none: a directory, a symbolic link, another hard link to a file.
        open: bool,
    },
    /// Its content changed; no close was seen.
    Modified,
    /// It was unlinked.
    Removed,
    /// Its mode, owner or times changed.
    Attributes,
}

/// Where to look: single paths and whole subtrees, each with the time it was first seen. Merges
/// and never drops: a path below a hinted subtree is absorbed by it, the earliest time kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    paths: BTreeMap<SyncPath, Instant>,
    subtrees: BTreeMap<SyncPath, Instant>,
}

impl Hints {
    /// Single paths, each outside every subtree hinted.
    #[must_use]
    pub fn paths(&self) -> &BTreeMap<SyncPath, Instant> {
        &self.paths
    }

    /// Whole subtrees, none inside another. The root means everywhere.
    #[must_use]
    pub fn subtrees(&self) -> &BTreeMap<SyncPath, Instant> {
        &self.subtrees
    }

    /// Whether there is nowhere to look.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.subtrees.is_empty()
    }

    /// When the earliest of what is hinted at was first seen.
    #[must_use]
    pub fn first_seen(&self) -> Option<Instant> {
        self.paths.values().chain(self.subtrees.values()).min().copied()
    }

    /// Adds one path. Beyond [`MAX_PATHS`] all of them become the root's subtree.
    pub fn look(&mut self, path: SyncPath, first: Instant) {
        if let Some(covering) = covering(&self.subtrees, &path) {
            if let Some(at) = self.subtrees.get_mut(&covering) {
                *at = first.min(*at);
            }
            return;
        }
        earliest(&mut self.paths, path, first);
        if self.paths.len() > MAX_PATHS {
            self.look_everywhere(SyncPath::root(), first);
        }
    }

    /// Adds a whole subtree, absorbing what is hinted at below it.
    pub fn look_everywhere(&mut self, subtree: SyncPath, first: Instant) {
        if let Some(covering) = covering(&self.subtrees, &subtree) {
            earliest(&mut self.subtrees, covering, first);
            return;
        }
        let paths = absorb(&mut self.paths, &subtree);
        let subtrees = absorb(&mut self.subtrees, &subtree);
        let first = paths.into_iter().chain(subtrees).fold(first, Instant::min);
        self.subtrees.insert(subtree, first);
        if self.subtrees.len() > MAX_PATHS {
            self.look_everywhere(SyncPath::root(), first);
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: Self) {
        for (subtree, first) in other.subtrees {
            self.look_everywhere(subtree, first);
        }
        for (path, first) in other.paths {
            self.look(path, first);
        }
    }
}

/// The key of `subtrees` that is `path` or above it.
fn covering(subtrees: &BTreeMap<SyncPath, Instant>, path: &SyncPath) -> Option<SyncPath> {
    if subtrees.is_empty() {
        return None;
    }
    let mut above = Some(path.clone());
    while let Some(candidate) = above {
        if subtrees.contains_key(&candidate) {
            return Some(candidate);
        }
        above = candidate.parent();
    }
    None
}

/// Takes out what is `subtree` or below it (neighbours, as paths sort by component); the earliest
/// time taken.
fn absorb(map: &mut BTreeMap<SyncPath, Instant>, subtree: &SyncPath) -> Option<Instant> {
    let mut from_here = map.split_off(subtree);
    let after = from_here.keys().find(|p| !p.starts_with(subtree)).cloned();
    if let Some(after) = after {
        map.append(&mut from_here.split_off(&after));
    }
    from_here.into_values().min()
}

fn earliest(map: &mut BTreeMap<SyncPath, Instant>, key: SyncPath, first: Instant) {
    map.entry(key).and_modify(|at| *at = first.min(*at)).or_insert(first);
}

/// One path that waits. Its `due` also stands in [`Debounce::order`].
#[derive(Debug, Clone, Copy)]
struct Held {
    /// The first observation since the path was last taken.
    first: Instant,
    /// When it may be looked at: at most `first` + [`LONGEST_HOLD`].
    due: Instant,
    /// A created file whose close has not been seen: modifications do not shorten its hold.
    awaits_close: bool,
}

/// Holds what was observed until it is due. Time is passed in; [`Debounce::deadline`] says when to
/// call [`Debounce::take`] next.
#[derive(Debug, Default)]
pub struct Debounce {
    held: BTreeMap<SyncPath, Held>,
    /// The same paths by the time they are due.
    order: BTreeSet<(Instant, SyncPath)>,
    /// Due at once, at the next `take`.
    ready: Hints,
    /// Renamed away a moment ago, at most [`MAX_DEPARTED`]; some may have come out since.
    departed: Vec<SyncPath>,
}

impl Debounce {
    /// Takes note that `seen` happened at `path`. The latest observation decides how long to wait,
    /// but never beyond [`LONGEST_HOLD`] after the first.
    pub fn observe(&mut self, now: Instant, path: SyncPath, seen: Seen) {
        let before = self.held.get(&path).copied();
        let first = before.map_or(now, |held| held.first);
        let awaited = before.is_some_and(|held| held.awaits_close);
        let mut due = match (seen, before) {
            (Seen::Closed | Seen::MovedIn | Seen::Created { open: false }, _) => now,
            (Seen::Created { open: true }, _) => now + CREATE_HOLD,
            (Seen::Modified, Some(held)) if awaited => held.due.max(now + MODIFY_QUIET),
            (Seen::Modified, _) => now + MODIFY_QUIET,
            (Seen::Removed | Seen::MovedOut, _) => now + SHORT_HOLD,
            (Seen::Attributes, Some(held)) => held.due,
            (Seen::Attributes, None) => now + SHORT_HOLD,
        };
        if path.name().is_some_and(is_transient) {
            due = due.max(first + SHORT_HOLD);
        }
        let awaits_close = match seen {
            Seen::Created { open } => open,
            Seen::Modified | Seen::Attributes => awaited,
            _ => false,
        };
        if seen == Seen::MovedOut && self.departed.len() < MAX_DEPARTED {
            self.departed.push(path.clone());
        }
        self.hold(path, Held { first, due: due.min(first + LONGEST_HOLD), awaits_close });
    }

    /// Takes note that anything may have happened in `subtree`; due at once. So is what was renamed
    /// away: a directory that comes may be what went, and is sent for nothing when both are seen in
    /// one look.
    pub fn look_everywhere(&mut self, now: Instant, subtree: SyncPath) {
        for path in std::mem::take(&mut self.departed) {
            if let Some(held) = self.held.remove(&path) {
                self.order.remove(&(held.due, path.clone()));
                self.ready.look(path, held.first);
            }
        }
        self.ready.look_everywhere(subtree, now);
    }

    /// Gives out what is due at `now`.
    #[must_use]
    pub fn take(&mut self, now: Instant) -> Hints {
        while self.order.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, path)) = self.order.pop_first() else {
                break;
            };
            if let Some(held) = self.held.remove(&path) {
                self.ready.look(path, held.first);
            }
        }
        if self.held.is_empty() {
            self.departed.clear();
        }
        std::mem::take(&mut self.ready)
    }

    /// When the next `take` will give something: now, if the time lies in the past. `None` when
    /// nothing is held.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let held = self.order.first().map(|(due, _)| *due);
        [self.ready.first_seen(), held].into_iter().flatten().min()
    }

    /// Ends every hold, for a flush: all that was observed is given by the next `take`.
    pub fn release(&mut self) {
        self.order.clear();
        for (path, held) in std::mem::take(&mut self.held) {
            self.ready.look(path, held.first);
        }
    }

    fn hold(&mut self, path: SyncPath, held: Held) {
        if let Some(before) = self.held.insert(path.clone(), held) {
            if before.due == held.due {
                return;
            }
            self.order.remove(&(before.due, path.clone()));
        }
        self.order.insert((held.due, path));
        if self.held.len() > MAX_PATHS {
            self.release();
        }
    }
}

/// Whether editors make such a name only to rename or remove it in a moment: vim's `4913` and swap
/// files `.*.sw?`, emacs' `.#*`, backups `*~`, JetBrains' `___jb_*___`, sed's `sed??????`.
fn is_transient(name: &[u8]) -> bool {
    let swap = || name.len() > 5 && name[0] == b'.' && name[..name.len() - 1].ends_with(b".sw");
    name == b"4913"
        || name.starts_with(b".#")
        || name.ends_with(b"~")
        || swap()
        || (name.starts_with(b"___jb_") && name.ends_with(b"___"))
        || (name.len() == 9 && name.starts_with(b"sed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> SyncPath {
        if text.is_empty() { SyncPath::root() } else { SyncPath::try_from(text).unwrap() }
    }

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// A moment to count from; the only clock in these tests.
    #[allow(clippy::disallowed_methods)]
    fn start() -> Instant {
        Instant::now()
    }

    /// Plays `(at ms, seen)` on one path and says when it comes out, in ms.
    fn due_after(name: &str, script: &[(u64, Seen)]) -> u64 {
        let t0 = start();
        let mut debounce = Debounce::default();
        for &(at, seen) in script {
            assert!(debounce.take(t0 + ms(at)).is_empty(), "{name} came out before {at} ms");
            debounce.observe(t0 + ms(at), path(name), seen);
        }
        let due = debounce.deadline().expect("something is held");
        let hints = debounce.take(due);
        assert_eq!(hints.paths().get(&path(name)), Some(&(t0 + ms(script[0].0))));
        assert_eq!(debounce.deadline(), None);
        u64::try_from((due - t0).as_millis()).unwrap()
    }

    /// A renamed directory was sent anew, and removed where it was ten milliseconds later.
    #[test]
    fn both_ends_of_a_renamed_directory_come_out_at_once() {
        let t0 = start();
        let mut debounce = Debounce::default();
        debounce.observe(t0, path("old"), Seen::MovedOut);
        debounce.observe(t0, path("other"), Seen::Removed);
        debounce.look_everywhere(t0, path("new"));
        let hints = debounce.take(t0);
        assert_eq!(hints.paths().keys().collect::<Vec<_>>(), [&path("old")]);
        assert!(hints.subtrees().contains_key(&path("new")));
        assert_eq!(debounce.deadline(), Some(t0 + SHORT_HOLD), "a removal still waits");
    }

    #[test]
    fn each_kind_waits_as_the_rules_say() {
        use Seen::*;
        let (open, whole) = (Created { open: true }, Created { open: false });
        for (name, script, due) in [
            ("f", &[(0, Closed)][..], 0),
            ("f", &[(0, MovedIn)], 0),
            ("f", &[(0, whole)], 0),
            ("f", &[(0, open)], 50),
            ("f", &[(0, open), (2, Closed)], 2),
            ("f", &[(0, open), (40, Modified)], 70),
            ("f", &[(0, open), (1, Modified)], 50),
            ("f", &[(0, Modified)], 30),
            ("f", &[(0, Modified), (20, Modified), (45, Modified)], 75),
            ("f", &[(0, Modified), (5, Closed)], 5),
            ("f", &[(0, Removed)], 10),
            ("f", &[(0, MovedOut), (1, MovedIn)], 1),
            ("f", &[(0, Removed), (1, open)], 51),
            ("f", &[(0, Removed), (1, open), (2, Closed)], 2),
            ("f", &[(0, Attributes)], 10),
            ("f", &[(0, open), (3, Attributes)], 50),
            ("a/4913", &[(0, Closed)], 10),
            ("a/.x.swp", &[(0, open), (1, Closed)], 10),
            ("a/x~", &[(0, MovedIn)], 10),
            ("a/.#x", &[(0, whole)], 10),
            ("___jb_tmp___", &[(0, Closed)], 10),
            ("seda1B2c3", &[(0, Closed)], 10),
            ("sed", &[(0, Closed)], 0),
            (".swp", &[(0, Closed)], 0),
            ("d/~/f", &[(0, Closed)], 0),
        ] {
            assert_eq!(due_after(name, script), due, "{name}: {script:?}");
        }
    }

    #[test]
    fn a_writer_that_never_pauses_is_looked_at_after_the_longest_hold() {
        let script: Vec<_> = (0..15).map(|i| (i * 20, Seen::Modified)).collect();
        assert_eq!(due_after("log", &script), 300);
    }

    #[test]
    fn i10_too_many_paths_become_everywhere() {
        let t0 = start();
        let mut debounce = Debounce::default();
        for i in 0..=MAX_PATHS as u64 {
            debounce.observe(t0 + ms(i / 100), path(&format!("d{i}/f")), Seen::Removed);
            if debounce.held.is_empty() {
                assert_eq!(i, MAX_PATHS as u64);
            }
        }
        let hints = debounce.take(t0 + ms(200));
        assert!(hints.paths().is_empty());
        assert_eq!(hints.subtrees(), &BTreeMap::from([(SyncPath::root(), t0)]));
    }

    #[test]
    fn a_subtree_absorbs_what_lies_below_and_nothing_beside_it() {
        let t0 = start();
        let mut hints = Hints::default();
        for (i, name) in ["a", "a/b", "a/b/c", "a-b", "a.b", "b"].iter().enumerate() {
            hints.look(path(name), t0 + ms(i as u64));
        }
        hints.look_everywhere(path("a/b/c/d"), t0 + ms(9));
        hints.look_everywhere(path("a/b"), t0 + ms(10));
        hints.look(path("a/b/z"), t0);
        assert_eq!(
            hints.paths().keys().cloned().collect::<Vec<_>>(),
            ["a", "a-b", "a.b", "b"].map(path)
        );
        assert_eq!(hints.subtrees(), &BTreeMap::from([(path("a/b"), t0)]));
    }

    fn any_seen() -> impl Strategy<Value = Seen> {
        prop_oneof![
            Just(Seen::Closed),
            Just(Seen::MovedIn),
            Just(Seen::MovedOut),
            any::<bool>().prop_map(|open| Seen::Created { open }),
            Just(Seen::Modified),
            Just(Seen::Removed),
            Just(Seen::Attributes),
        ]
    }

    #[derive(Debug, Clone)]
    enum Step {
        Observe(SyncPath, Seen),
        Everywhere(SyncPath),
        Take,
        Release,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let name = || "[ab](/[ab~]){0,3}".prop_map(|text| path(&text));
        prop_oneof![
            8 => (name(), any_seen()).prop_map(|(p, s)| Step::Observe(p, s)),
            1 => name().prop_map(Step::Everywhere),
            3 => Just(Step::Take),
            1 => Just(Step::Release),
        ]
    }

    /// Plays a script; every observation is paid off by a hint that covers it, no later than the
    /// longest hold, and with a time no later than the observation's.
    fn play(t0: Instant, script: &[(u64, Step)]) -> Vec<Hints> {
        let (mut debounce, mut out, mut now) = (Debounce::default(), Vec::new(), t0);
        let mut owed: Vec<(SyncPath, Instant)> = Vec::new();
        let mut settle = |debounce: &mut Debounce, owed: &mut Vec<(SyncPath, Instant)>, now| {
            let hints = debounce.take(now);
            owed.retain(|(path, at)| {
                let paid = |p: &SyncPath, first: &Instant, whole: bool| {
                    first <= at && (p == path || (whole && path.starts_with(p)))
                };
                !(hints.paths().iter().any(|(p, t)| paid(p, t, false))
                    || hints.subtrees().iter().any(|(p, t)| paid(p, t, true)))
            });
            out.push(hints);
        };
        for (wait, step) in script {
            now += ms(*wait);
            match step {
                Step::Observe(path, seen) => {
                    debounce.observe(now, path.clone(), *seen);
                    owed.push((path.clone(), now));
                }
                Step::Everywhere(subtree) => {
                    debounce.look_everywhere(now, subtree.clone());
                    owed.push((subtree.clone(), now));
                }
                Step::Release => debounce.release(),
                Step::Take => {
                    settle(&mut debounce, &mut owed, now);
                    assert!(owed.iter().all(|(_, at)| now < *at + LONGEST_HOLD), "{owed:?}");
                    assert!(debounce.deadline().is_none_or(|due| due > now));
                }
            }
            assert_eq!(debounce.held.len(), debounce.order.len());
        }
        settle(&mut debounce, &mut owed, now + LONGEST_HOLD);
        assert_eq!((owed, debounce.deadline()), (vec![], None));
        out
    }

    proptest! {
        #[test]
        fn i5_nothing_observed_is_lost_and_equal_scripts_give_equal_results(
            script in proptest::collection::vec((0..40u64, any_step()), 0..60)
        ) {
            let t0 = start();
            prop_assert_eq!(play(t0, &script), play(t0, &script));
        }

        #[test]
        fn merging_hints_loses_nothing_and_its_order_does_not_matter(
            parts in proptest::collection::vec(("[ab](/[ab]){0,3}", any::<bool>(), 0..9u64), 0..12),
            cut in 0..12usize,
        ) {
            let t0 = start();
            let gather = |parts: &[(String, bool, u64)]| {
                let mut hints = Hints::default();
                for (text, whole, at) in parts {
                    if *whole { hints.look_everywhere(path(text), t0 + ms(*at)) }
                    else { hints.look(path(text), t0 + ms(*at)) }
                }
                hints
            };
            let (a, b) = parts.split_at(cut.min(parts.len()));
            let (mut ab, mut ba) = (gather(a), gather(b));
            ab.merge(gather(b));
            ba.merge(gather(a));
            prop_assert_eq!(&ab, &ba);
            prop_assert_eq!(&ab, &gather(&parts));
            for (text, whole, at) in &parts {
                let p = path(text);
                let found = ab.subtrees().iter().find(|(s, _)| p.starts_with(s)).map(|(_, t)| t);
                let found = found.or_else(|| ab.paths().get(&p).filter(|_| !whole));
                prop_assert!(found.is_some_and(|t| *t <= t0 + ms(*at)), "{} is lost", p);
            }
        }
    }
}
