//! Large files go ahead of their generation: nothing waits behind them, and nothing of them is left.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::daemon::Daemon;
use crate::place::{Link, Place, sidecar, until};
use crate::processes;

/// So much of content is on its way before a save goes out, at the most: what the link holds, and what
/// may be on its way.
const AHEAD: u64 = 4 << 20;
/// A large file, in bytes: much more than that.
const LARGE: u64 = 24 << 20;
/// A log that is large as well, in bytes.
const LOG: u64 = 9 << 20;

/// A carrier that passes on so many bytes to the hub, and waits to be allowed more; meanwhile one a
/// second, for a link that is slow is not one that is dead. Each link gets a hub of its own.
struct Gate {
    place: Place,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    allowed: u64,
    passed: u64,
    /// The link that is open.
    link: Option<UnixStream>,
    hub: Option<u32>,
}

impl Gate {
    fn new() -> Self {
        let place = Place::new(Link::Stdio);
        let listener = UnixListener::bind(place.top.join("hub.sock")).unwrap();
        let gate = Self { place, state: Arc::default() };
        let (state, far) = (gate.state.clone(), gate.place.far.clone());
        thread::spawn(move || {
            for link in listener.incoming().map_while(Result::ok) {
                let (hub, theirs) = UnixStream::pair().unwrap();
                let stream = || Stdio::from(OwnedFd::from(theirs.try_clone().unwrap()));
                let mut command = Command::new(sidecar());
                command.args(["stdio", "--state"]).arg(&far).stdin(stream()).stdout(stream());
                let mut child = command.stderr(Stdio::null()).spawn().unwrap();
                drop((command, theirs));
                {
                    let mut state = state.0.lock().unwrap();
                    state.link = Some(link.try_clone().unwrap());
                    state.hub = Some(child.id());
                }
                thread::spawn(move || child.wait());
                let (back, from) = (link.try_clone().unwrap(), hub.try_clone().unwrap());
                thread::spawn(move || copy(from, back, |_| usize::MAX));
                let state = state.clone();
                thread::spawn(move || {
                    copy(link, hub, |passed| {
                        let mut known = state.0.lock().unwrap();
                        known.passed += passed;
                        state.1.notify_all();
                        while known.passed >= known.allowed {
                            let waited = state.1.wait_timeout(known, Duration::from_secs(1));
                            let timeout;
                            (known, timeout) = waited.unwrap();
                            if timeout.timed_out() {
                                return 1;
                            }
                        }
                        (known.allowed - known.passed) as usize
                    });
                });
            }
        });
        gate
    }

    fn watch(&self, more: &[&str]) -> Daemon<'_> {
        let socket = self.place.top.join("hub.sock");
        let carrier =
            format!("{} connect --carry --socket {}", sidecar().display(), socket.display());
        let mut command = self.place.command(&["watch"]);
        command.arg(&self.place.source).arg(&self.place.target);
        command.args(["--transport-cmd", &carrier, "--output", "lines"]).args(more);
        Daemon::start(&self.place, self.place.apart(command).0)
    }

    /// Lets everything through.
    fn open(&self) {
        self.allow(u64::MAX / 2);
    }

    fn allow(&self, more: u64) {
        let mut state = self.state.0.lock().unwrap();
        state.allowed = state.passed.saturating_add(more);
        self.state.1.notify_all();
    }

    /// All that was allowed has passed.
    fn is_shut(&self) -> bool {
        let state = self.state.0.lock().unwrap();
        state.passed >= state.allowed
    }

    /// Opens the gate step by step until something has happened.
    #[track_caller]
    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        until(what, || {
            if self.is_shut() {
                self.allow(128 << 10);
            }
            condition()
        });
    }

    /// Opens it for [`AHEAD`] bytes: that is enough for something to happen.
    #[track_caller]
    fn enough_for(&self, what: &str, condition: impl FnMut() -> bool) {
        self.allow(AHEAD);
        until(what, condition);
    }

    fn cut(&self) {
        if let Some(link) = self.state.0.lock().unwrap().link.take() {
            let _ = link.shutdown(Shutdown::Both);
        }
    }
}

/// Carries bytes until one end is closed; `room` is told how many more were carried, and says how
/// many may follow.
fn copy(mut from: UnixStream, mut to: UnixStream, mut room: impl FnMut(u64) -> usize) {
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0;
    loop {
        let most = room(passed).min(buffer.len());
        let Ok(len @ 1..) = from.read(&mut buffer[..most]) else { break };
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
        passed = len as u64;
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Bytes without a pattern, into a file that appears at once.
fn large(place: &Place, name: &str, len: u64, seed: u64) {
    let aside = place.top.join("aside");
    let mut bytes = vec![0; 1 << 20];
    let mut noise = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut file = fs::File::create(&aside).unwrap();
    for at in (0..len).step_by(bytes.len()) {
        noise.fill(&mut bytes);
        let now = (len - at).min(bytes.len() as u64) as usize;
        file.write_all(&bytes[..now]).unwrap();
    }
    fs::rename(&aside, place.source.join(name)).unwrap();
}

/// What the hub has in staging, in bytes.
fn staged(place: &Place) -> u64 {
    let staging = place.target.join(".e2ek-sync");
    let files = crate::place::files_below(&staging);
    files.iter().filter_map(|file| fs::metadata(file).ok()).map(|found| found.len()).sum()
}

fn synced(status: &serde_json::Value) -> bool {
    status["state"] == "synced"
}

#[test]
fn a_save_waits_for_no_large_file() {
    let gate = Gate::new();
    let place = &gate.place;
    place.write("app.py", "one");
    gate.open();
    let mut daemon = gate.watch(&[]).synced();
    gate.allow(0);
    // Unoptimised, 512 MiB take half a minute.
    let len = if std::env::var_os("E2EK_FULL").is_some() { 256 << 20 } else { 48 << 20 };
    // What passes before the save is seen says nothing: first the large files are known, one by one,
    // then it is.
    let seen = |trees| until("it is seen", || daemon.status()["gen"]["local"] == trees);
    large(place, "first.bin", len, 1);
    seen(2);
    large(place, "second.bin", len, 2);
    seen(3);
    gate.enough_for("the first is on its way", || staged(place) >= 2 << 20);
    place.save("app.py", "two");
    seen(4);
    gate.enough_for("the save is there", || place.read("app.py").as_deref() == Some("two"));
    // And it is said, while everybody who asks is told that not all is there.
    gate.allow(AHEAD);
    daemon.event("sync end gen=4 ");
    assert!(!place.target.join("first.bin").exists() && !place.target.join("second.bin").exists());
    assert!(!synced(&daemon.status()), "{:#}", daemon.status());
    place.control(&["wait", "--synced", "--timeout", "0.2s"]).ends_with(6);
    place.control(&["flush", "--timeout", "0.2s"]).ends_with(6);
    gate.open();
    daemon.flush();
    assert!(synced(&daemon.status()));
    place.assert_equal();
    daemon.stop();
}

/// Any end of either side, or of the link, while a large file is on its way.
#[derive(Clone, Copy, Debug)]
enum Harm {
    KillHub,
    KillDaemon,
    Cut,
}

fn harmed_on_its_way(harm: Harm) {
    let gate = Gate::new();
    let place = &gate.place;
    place.write("large.bin", "small at first");
    place.write("app.py", "one");
    gate.open();
    let mut daemon = gate.watch(&[]).synced();
    gate.allow(0);
    large(place, "large.bin", LARGE, 1);
    gate.until("it is on its way", || staged(place) >= 2 << 20);
    match harm {
        Harm::KillHub => processes::kill(gate.state.0.lock().unwrap().hub.unwrap()),
        Harm::Cut => gate.cut(),
        Harm::KillDaemon => {
            daemon.kill();
            gate.open();
            until("nothing of it is left", || !place.target.join(".e2ek-sync").exists());
            assert_eq!(place.read("large.bin").as_deref(), Some("small at first"), "old or new");
            daemon = gate.watch(&[]);
        }
    }
    gate.open();
    daemon = daemon.synced();
    // What the source has now is there, from whichever link.
    place.write("app.py", "two");
    daemon.flush();
    place.assert_equal();
    daemon.stop();
}

#[test]
fn i1_i8_a_hub_killed_with_a_large_file_on_its_way() {
    harmed_on_its_way(Harm::KillHub);
}

#[test]
fn i1_i8_a_daemon_killed_with_a_large_file_on_its_way() {
    harmed_on_its_way(Harm::KillDaemon);
}

#[test]
fn i1_i8_a_link_cut_with_a_large_file_on_its_way() {
    harmed_on_its_way(Harm::Cut);
}

#[test]
fn a_large_file_that_goes_or_changes_on_its_way_leaves_nothing() {
    let gate = Gate::new();
    let place = &gate.place;
    place.write("app.py", "one");
    gate.open();
    let daemon = gate.watch(&[]).synced();
    let begin = |seed: u64| {
        gate.allow(0);
        large(place, "large.bin", LARGE, seed);
        gate.until("it is on its way", || staged(place) >= 2 << 20);
    };
    begin(1);
    fs::remove_file(place.source.join("large.bin")).unwrap();
    gate.until("it is let go", || staged(place) == 0);
    assert!(!place.target.join("large.bin").exists());
    // Written over where it stands: what is sent is never a mixture of two.
    begin(2);
    let file = fs::OpenOptions::new().write(true).open(place.source.join("large.bin")).unwrap();
    let rewritten: Vec<u8> = vec![7; LARGE as usize];
    std::os::unix::fs::FileExt::write_all_at(&file, &rewritten, 0).unwrap();
    drop(file);
    gate.open();
    daemon.flush();
    place.assert_equal();
    assert_eq!(staged(place), 0);
    // Another takes its name: what was open is sent to its end, and then what became of it.
    begin(3);
    large(place, "large.bin", LARGE - 1, 4);
    gate.open();
    daemon.flush();
    place.assert_equal();
    daemon.stop();
}

/// A log that somebody writes to all the time.
#[test]
fn i3_a_large_file_that_grows_for_ever_arrives_all_the_same() {
    let gate = Gate::new();
    let place = &gate.place;
    large(place, "large.log", LOG, 1);
    fs::rename(place.source.join("large.log"), place.top.join("large.log")).unwrap();
    gate.open();
    let daemon = gate.watch(&[]).synced();
    fs::rename(place.top.join("large.log"), place.source.join("large.log")).unwrap();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (path, stop) = (place.source.join("large.log"), over.clone());
    let writer = thread::spawn(move || {
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            file.write_all(&[b'x'; 4096]).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
    });
    let there = place.target.join("large.log");
    let length = || fs::metadata(&there).map_or(0, |found| found.len());
    until("a version of it is there", || length() >= LOG);
    let first = length();
    until("and a later one", || length() > first);
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    daemon.flush();
    place.assert_equal();
    daemon.stop();
}

#[test]
fn a_one_off_sync_ends_when_the_large_files_are_there() {
    for link in [Link::Local, Link::Stdio] {
        let place = Place::new(link);
        large(&place, "first.bin", 24 << 20, 1);
        large(&place, "second.bin", 9 << 20, 2);
        place.write("app.py", "one");
        place.once(&[]).ends_with(0);
        place.assert_equal();
        // One byte, and one moved.
        let file = fs::OpenOptions::new().write(true).open(place.source.join("first.bin")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"!", 12 << 20).unwrap();
        fs::rename(place.source.join("second.bin"), place.source.join("third.bin")).unwrap();
        place.once(&[]).ends_with(0);
        place.assert_equal();
        place.assert_clean();
    }
}

#[test]
fn i9_the_app_is_not_restarted_with_half_of_a_batch() {
    let gate = Gate::new();
    let place = &gate.place;
    place.write("app.py", "one");
    gate.open();
    let run = ["--", "sh", "-c", "ls; sleep 1000"];
    let mut daemon = gate.watch(&run).synced();
    daemon.line(&["app.py"]);
    gate.allow(0);
    large(place, "model.bin", LARGE, 1);
    place.write("app.py", "two");
    gate.until("the save is there", || place.read("app.py").as_deref() == Some("two"));
    gate.open();
    // It lists what is there as it starts.
    daemon.event("restart");
    daemon.line(&["model.bin"]);
    daemon.stop();
}

/// Of a small file system: the large file does not fit, and the small ones go on.
#[test]
fn i12_a_large_file_that_does_not_fit_holds_no_save_up() {
    let place = Place::new(Link::Stdio);
    fs::create_dir(&place.target).unwrap();
    let small = ["-t", "tmpfs", "-o", "size=4m", "none"];
    let mounted = Command::new("mount").args(small).arg(&place.target).status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: a small file system cannot be mounted here");
        return;
    }
    place.write("app.py", "one");
    let mut daemon = place.watch(&[]).synced();
    large(&place, "large.bin", 16 << 20, 1);
    daemon.line(&["large.bin"]);
    place.write("app.py", "two");
    until("the save is there", || place.read("app.py").as_deref() == Some("two"));
    place.control(&["flush"]).ends_with(1);
    assert!(!synced(&daemon.status()));
    until("nothing of it is left", || staged(&place) == 0);
    large(&place, "large.bin", 2 << 20, 2);
    daemon.flush();
    place.assert_equal();
    daemon.stop();
    let _ = Command::new("umount").arg("-l").arg(&place.target).status();
}
