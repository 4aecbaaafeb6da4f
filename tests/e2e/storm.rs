//! Storms that the kernel's queue cannot hold.

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::place::{Link, Place};
use crate::tree;

const SETTING: &str = "/proc/sys/fs/inotify/max_queued_events";

/// The setting is the whole machine's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The kernel's own choice.
const USUAL: u32 = 16_384;

/// The machine's longest queue of events; put back when dropped.
struct Queue {
    before: u32,
    _alone: MutexGuard<'static, ()>,
}

impl Queue {
    /// `None` where it may not be set.
    fn of(events: u32) -> Option<Self> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let before = fs::read_to_string(SETTING).ok()?.trim().parse::<u32>().ok()?;
        if fs::write(SETTING, events.to_string()).is_err() {
            println!("left out: only root may set fs.inotify.max_queued_events");
            return None;
        }
        // One that was killed with its short queue has left it so.
        Some(Self { before: before.max(USUAL), _alone: alone })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let _ = fs::write(SETTING, self.before.to_string());
    }
}

/// A `watch` of a command that says when it starts, with a queue of sixteen events.
fn watch(place: &Place) -> Option<Daemon<'_>> {
    let queue = Queue::of(16)?;
    let mut daemon = place.watch(&["--", "sh", "-c", "echo up; exec sleep 1000"]).synced();
    // It is taken over by who begins to watch: other tests are to begin with the usual one.
    drop(queue);
    daemon.line(&["up"]);
    Some(daemon)
}

/// 20,000 files in 204 directories, from four sides.
fn storm(place: &Place) {
    thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || {
                for number in 0..5000 {
                    let directory = place.source.join(format!("p{part}/d{}", number / 100));
                    if number % 100 == 0 {
                        fs::create_dir_all(&directory).unwrap();
                    }
                    fs::write(directory.join(number.to_string()), number.to_string()).unwrap();
                }
            });
        }
    });
}

/// All of it is there, although events were lost.
fn assert_arrived(place: &Place, daemon: &Daemon<'_>) {
    for part in ["p0", "p1", "p2", "p3"] {
        let [source, target] =
            [&place.source, &place.target].map(|root| tree::of(&root.join(part)));
        assert_eq!(source.len(), 5050);
        tree::assert_equal(&source, &target);
    }
    let status = daemon.status();
    assert!(status["watch"]["overflows"].as_u64().unwrap() > 0, "{:#}", status["watch"]);
}

/// Once, where a batch that took so long is waited for so long: at its end at the latest.
fn assert_restarted_once(mut daemon: Daemon<'_>, took: Duration, waited: Duration) {
    daemon.place.control(&["flush", "--restarted", "--timeout", "100s"]).ends_with(0);
    daemon.line(&["up"]);
    let rest = daemon.rest();
    let starts = rest.lines().filter(|line| *line == "up").count();
    println!("{starts} starts, for {took:?}");
    assert!(starts == 2 || took > waited, "{starts} starts, for {took:?}:\n{rest}");
    daemon.stop();
}

#[test]
fn i5_i9_a_storm_on_a_queue_of_sixteen_arrives_and_restarts_once() {
    let place = Place::new(Link::Local);
    place.write("first", "here");
    // As while a branch is switched: the restart waits, the files do not.
    fs::create_dir_all(place.source.join(".git")).unwrap();
    for (name, content) in [("HEAD", "ref: refs/heads/main\n"), ("config", "")] {
        fs::write(place.source.join(".git").join(name), content).unwrap();
    }
    for name in ["objects", "refs"] {
        fs::create_dir(place.source.join(".git").join(name)).unwrap();
    }
    let Some(daemon) = watch(&place) else { return };
    let lock = place.source.join(".git/index.lock");
    let began = Instant::now();
    fs::write(&lock, "").unwrap();
    storm(&place);
    daemon.flush();
    fs::remove_file(&lock).unwrap();
    let took = began.elapsed();
    assert_arrived(&place, &daemon);
    // That git is busy is believed for thirty seconds.
    assert_restarted_once(daemon, took, Duration::from_secs(25));
}

/// Nothing says when it is over.
#[test]
fn i5_i9_a_storm_without_a_lock_arrives_and_restarts_once() {
    let place = Place::new(Link::Local);
    place.write("first", "here");
    let Some(daemon) = watch(&place) else { return };
    let began = Instant::now();
    storm(&place);
    let took = began.elapsed();
    daemon.flush();
    assert_arrived(&place, &daemon);
    // Half of what a batch is waited for: the rest of it is still to be seen and looked at.
    assert_restarted_once(daemon, took, Duration::from_secs(1));
}
