//! Large files go ahead of their generation: nothing waits behind them, and nothing of them is left.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::daemon::Daemon;
use crate::place::{Link, Place, sidecar, until};

/// So much of content is on its way before a save goes out, at the most: what the link holds, and what
/// may be on its way.
const AHEAD: u64 = 4 << 20;

/// A carrier that passes on so many bytes to the hub, and waits to be allowed more. Each link gets a
/// hub of its own.
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
                            known = state.1.wait(known).unwrap();
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
        let carrier = format!("{} connect --socket {}", sidecar().display(), socket.display());
        let mut command = self.place.command(&["watch"]);
        command.arg(&self.place.source).arg(&self.place.target);
        command.args(["--transport-cmd", &carrier, "--output", "lines"]).args(more);
        Daemon::start(&self.place, command)
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

    fn passed(&self) -> u64 {
        self.state.0.lock().unwrap().passed
    }

    /// Opens the gate step by step until something has happened; how many bytes that took.
    #[track_caller]
    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) -> u64 {
        let before = self.passed();
        until(what, || {
            if self.is_shut() {
                self.allow(128 << 10);
            }
            condition()
        });
        self.passed() - before
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
    daemon.rest();
    gate.allow(0);
    large(place, "first.bin", 256 << 20, 1);
    large(place, "second.bin", 256 << 20, 2);
    let begun = gate.until("the first is on its way", || staged(place) >= 2 << 20);
    assert!(begun < AHEAD, "{begun}");
    place.write("app.py", "two");
    let took = gate.until("the save is there", || place.read("app.py").as_deref() == Some("two"));
    assert!(took < AHEAD, "a save cost {took} bytes of others");
    // And it is said, while everybody who asks is told that not all is there.
    let mut said = false;
    let told = gate.until("the save is told", || {
        said |= daemon.rest().contains("sync end");
        said
    });
    assert!(told < AHEAD, "{told}");
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
