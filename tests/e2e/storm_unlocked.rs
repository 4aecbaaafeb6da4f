//! A storm that the kernel's queue cannot hold, and nothing that says when it is over.

use std::fs;
use std::thread;

use crate::place::{Link, Place};
use crate::storm::Queue;
use crate::tree;

#[test]
fn i5_i9_a_storm_without_a_lock_arrives_and_restarts_once() {
    let Some(queue) = Queue::of(16) else {
        println!("left out: only root may set fs.inotify.max_queued_events");
        return;
    };
    let place = Place::new(Link::Local);
    place.write("first", "here");
    let command = ["--", "sh", "-c", "echo up; exec sleep 1000"];
    let mut daemon = place.watch(&command).synced();
    daemon.line(&["up"]);
    drop(queue);
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
    place.control(&["flush", "--restarted", "--timeout", "100s"]).ends_with(0);
    let [source, target] = [&place.source, &place.target].map(|root| tree::of(root));
    assert_eq!(source.len(), 1 + 4 * 5051);
    tree::assert_equal(&source, &target);
    let status = daemon.status();
    assert!(status["watch"]["overflows"].as_u64().unwrap() > 0, "{:#}", status["watch"]);
    daemon.line(&["up"]);
    let rest = daemon.rest();
    assert_eq!(rest.lines().filter(|line| *line == "up").count(), 2, "one restart:\n{rest}");
    daemon.stop();
}
