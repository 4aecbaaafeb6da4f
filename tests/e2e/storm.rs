//! A storm that the kernel's queue cannot hold.

use std::fs;
use std::thread;

use crate::place::{Link, Place};
use crate::tree;

const SETTING: &str = "/proc/sys/fs/inotify/max_queued_events";

/// The machine's longest queue of events; put back when dropped.
pub(crate) struct Queue(String);

impl Queue {
    /// `None` where it may not be set.
    pub(crate) fn of(events: u32) -> Option<Self> {
        let before = fs::read_to_string(SETTING).ok()?;
        fs::write(SETTING, events.to_string()).ok()?;
        Some(Self(before))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let _ = fs::write(SETTING, &self.0);
    }
}

#[test]
fn i5_i9_a_storm_on_a_queue_of_sixteen_arrives_and_restarts_once() {
    // It is taken over by who begins to watch: put back as soon as that is done.
    let Some(queue) = Queue::of(16) else {
        println!("left out: only root may set fs.inotify.max_queued_events");
        return;
    };
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
    let command = ["--", "sh", "-c", "echo up; exec sleep 1000"];
    let mut daemon = place.watch(&command).synced();
    daemon.line(&["up"]);
    drop(queue);
    let lock = place.source.join(".git/index.lock");
    fs::write(&lock, "").unwrap();
    thread::scope(|scope| {
        for part in 0..4 {
            let place = &place;
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
    daemon.flush();
    for part in ["p0", "p1", "p2", "p3"] {
        let [source, target] =
            [&place.source, &place.target].map(|root| tree::of(&root.join(part)));
        assert_eq!(source.len(), 5050);
        tree::assert_equal(&source, &target);
    }
    let status = daemon.status();
    assert!(status["watch"]["overflows"].as_u64().unwrap() > 0, "{:#}", status["watch"]);
    fs::remove_file(&lock).unwrap();
    place.control(&["flush", "--restarted", "--timeout", "100s"]).ends_with(0);
    daemon.line(&["up"]);
    let rest = daemon.rest();
    assert_eq!(rest.lines().filter(|line| *line == "up").count(), 2, "one restart:\n{rest}");
    daemon.stop();
}
