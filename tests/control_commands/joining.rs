//! A second `watch` beside a first one that just begins or ends.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::place::{PATIENCE, Place};

/// A first `watch` may take long to end, and at its very end its lock outlives its socket for a moment.
#[test]
fn who_waits_for_a_watch_that_ends_slowly_comes_after_it() {
    let place = Place::new();
    let (heard, ended) = place.ending_daemon();
    let second = place.watch_to_a_copy();
    let first = heard.recv().unwrap();
    while first.elapsed() < UNHEARD {
        heard.recv().unwrap();
    }
    drop(heard);
    is_the_first(second);
    ended.join().unwrap();
}

/// A program that signs in to a cluster may wait for a human.
#[test]
fn who_comes_while_a_watch_signs_in_waits_for_it() {
    let place = Place::new();
    let [asked, go, program, kubeconfig] =
        ["asked", "go", "program", "kubeconfig"].map(|name| place.folder.with_file_name(name));
    let script = format!("touch {asked:?}; until [ -e {go:?} ]; do sleep 0.05; done; exit 1");
    std::fs::write(&program, script).unwrap();
    let user = serde_json::json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
        "command": "sh", "args": [program.to_str().unwrap()]}});
    let config = serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": user}]});
    std::fs::write(&kubeconfig, config.to_string()).unwrap();
    let mut first = place.command(&["watch", ".", "deploy/app:/srv", "--kubeconfig"]);
    let first = first.arg(&kubeconfig).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    until("it signs in", || asked.exists());
    let mut second = place.watch_to_a_copy();
    let came = Instant::now();
    until("it has waited for long", || {
        second.try_wait().unwrap().is_some() || came.elapsed() > UNHEARD + UNHEARD
    });
    std::fs::write(go, "").unwrap();
    let first = first.unwrap().wait_with_output().unwrap();
    assert_eq!(first.status.code(), Some(4), "{first:?}");
    is_the_first(second);
}

/// Longer than somebody may hold the lock without being heard of.
const UNHEARD: Duration = Duration::from_millis(2500);

/// Waits until a `watch` looks at the source itself, and ends it.
#[track_caller]
fn is_the_first(mut watch: Child) {
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map_while(Result::ok);
    let begun = lines.find(|line| line.contains("] scan end "));
    // It may have ended by itself.
    let _ = kill_process(Pid::from_child(&watch), Signal::TERM);
    lines.for_each(drop);
    let output = watch.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(begun.is_some(), "it is the first one now: {said}");
    assert_eq!(output.status.code(), Some(143), "{said}");
}

/// Waits for something that no event tells.
#[track_caller]
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

impl Place {
    fn watch_to_a_copy(&self) -> Child {
        let target = self.folder.with_file_name("copy");
        let mut command = self.command(&["watch", ".", target.to_str().unwrap()]);
        command.args(["--output", "lines"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

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
