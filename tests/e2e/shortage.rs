//! A `watch` that gets fewer watches than it wants.

use std::fs;

use crate::daemon::Daemon;
use crate::place::{Link, Place};

const LIMIT: &str = "fs.inotify.max_user_watches";

#[test]
fn i10_i12_a_watch_that_runs_out_of_watches_says_so_once() {
    let place = Place::new(Link::Local);
    for directory in 0..100 {
        place.write(&format!("d{directory}/file"), "0");
    }
    // In a user namespace of its own, which has a limit of its own.
    let plain = place.syncing(&["watch"], &[]);
    let mut command = place.environment("unshare".as_ref());
    let script = "echo 60 > /proc/sys/user/max_inotify_watches && exec \"$0\" \"$@\"";
    command.args(["--user", "--map-root-user", "sh", "-c", script]);
    command.arg(plain.get_program()).args(plain.get_args());
    let mut daemon = Daemon::start(&place, command).synced();
    let value = fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").unwrap();
    let words = format!("directories ({LIMIT} = {})", value.trim());
    let said = daemon.event("degraded");
    assert!(said.contains("polling: ") && said.contains(&words), "{said}");
    let status = daemon.status();
    assert!(status["degraded"][0].as_str().unwrap().contains(&words), "{status:#}");
    assert!(status["watch"]["polled"].as_u64().unwrap() > 0, "{status:#}");
    for round in 1..3 {
        for directory in 0..100 {
            place.write(&format!("d{directory}/file"), format!("{round}"));
            place.write(&format!("d{directory}/new{round}/file"), format!("{round}"));
        }
        daemon.flush();
        place.assert_equal();
    }
    let rest = daemon.rest();
    assert_eq!(rest.matches("[e2ek] degraded ").count(), 1, "{rest}");
    daemon.stop();
}
