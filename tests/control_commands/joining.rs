//! A second `watch` beside a first one that just begins or ends.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::place::Place;

/// A first `watch` may take long to end, and at its very end its lock outlives its socket for a moment.
#[test]
fn who_waits_for_a_watch_that_ends_slowly_comes_after_it() {
    let place = Place::new();
    let (heard, ended) = place.ending_daemon();
    let target = place.folder.with_file_name("copy");
    let mut command = place.command(&["watch", ".", target.to_str().unwrap()]);
    command.args(["--output", "lines"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = command.spawn().unwrap();
    // Longer than somebody may hold the lock without being heard of.
    let first = heard.recv().unwrap();
    while first.elapsed() < Duration::from_millis(2500) {
        heard.recv().unwrap();
    }
    drop(heard);
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map_while(Result::ok);
    let begun = lines.find(|line| line.contains("] scan end "));
    kill_process(Pid::from_child(&watch), Signal::TERM).unwrap();
    lines.for_each(drop);
    let output = watch.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(begun.is_some(), "it is the first one now: {said}");
    assert_eq!(output.status.code(), Some(143), "{said}");
    ended.join().unwrap();
}

impl Place {
    /// A daemon that hangs up on whoever calls, and says so, until nobody wants to know it; then its
    /// socket goes, and some time later its lock.
    fn ending_daemon(&self) -> (mpsc::Receiver<Instant>, thread::JoinHandle<()>) {
        let (lock, socket) = self.daemon_place();
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let lock = e2ek_sync::control::Lock::take(&lock).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let (tell, heard) = mpsc::channel();
        let ending = thread::spawn(move || {
            while let Ok(call) = listener.accept() {
                drop(call);
                if tell.send(Instant::now()).is_err() {
                    break;
                }
            }
            drop(listener);
            std::fs::remove_file(&socket).unwrap();
            // Some tries of whoever waits.
            thread::sleep(Duration::from_millis(200));
            drop(lock);
        });
        (heard, ending)
    }
}
