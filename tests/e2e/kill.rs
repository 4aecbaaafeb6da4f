//! kill -9 of either end at random moments of a storm (I1, I3, I8).

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::place::{Place, until};
use crate::processes;

over_each_link! {
    i1_i8_the_daemon_is_killed,
    i1_i8_the_hub_is_killed,
}

const FILES: u64 = 12;

fn rounds() -> u64 {
    std::env::var("E2EK_KILL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10)
}

/// A small generator (xorshift64*), for moments only.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("E2EK_KILL_SEED").ok().and_then(|n| n.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) * 2_654_435_761 + 1);
        println!("E2EK_KILL_SEED={seed}");
        Self(seed | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

/// Content and mode of a version: a torn or mixed one is none.
fn content(version: u64) -> String {
    format!("version {version}\n").repeat((version % 7 * 9_000 + 10) as usize)
}

fn mode(version: u64) -> u32 {
    if version.is_multiple_of(2) { 0o644 } else { 0o755 }
}

/// Saves whole versions by renaming, until told to stop.
fn storm(source: &Path, aside: &Path, over: &AtomicBool, saves: &AtomicU64) {
    let mut version = 0;
    while !over.load(Ordering::Relaxed) {
        version += 1;
        let new = aside.join("new");
        fs::write(&new, content(version)).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(mode(version))).unwrap();
        let name = format!("d{}/file{}", version % 3, version % FILES);
        fs::create_dir_all(source.join(&name).parent().unwrap()).unwrap();
        fs::rename(&new, source.join(&name)).unwrap();
        if version.is_multiple_of(11) {
            let _ = fs::remove_file(source.join(format!("d1/file{}", version % 12)));
        }
        saves.store(version, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(1));
    }
}

/// Reads the target all the time: each file is a whole version with its mode, or not there.
fn check(target: &Path, over: &AtomicBool, reads: &AtomicU64) -> Result<(), String> {
    while !over.load(Ordering::Relaxed) {
        for path in crate::place::files_below(target) {
            if path.components().any(|part| part.as_os_str() == ".e2ek-sync") {
                continue;
            }
            let Ok(mut file) = fs::File::open(&path) else { continue };
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(|error| error.to_string())?;
            let found = file.metadata().unwrap().permissions().mode() & 0o7777;
            let version = text.lines().next().and_then(|line| line.strip_prefix("version "));
            let version = version.and_then(|number| number.parse().ok());
            let whole =
                version.is_some_and(|version| text == content(version) && found == mode(version));
            if !whole {
                let start: String = text.chars().take(60).collect();
                let len = text.len();
                return Err(format!("{}: mode {found:o}, {len} bytes: {start:?}", path.display()));
            }
            reads.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// A storm and a checker around `work`.
fn under_storm(place: &Place, work: impl FnOnce(&mut Dice)) {
    let aside = place.top.join("aside");
    fs::create_dir(&aside).unwrap();
    let (over, saves, reads) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let storming = scope.spawn(|| storm(&place.source, &aside, &over, &saves));
        let checking = scope.spawn(|| check(&place.target, &over, &reads));
        let end = End(&over);
        until("the storm has begun", || saves.load(Ordering::Relaxed) > FILES);
        work(&mut Dice::new());
        until("the target was read", || reads.load(Ordering::Relaxed) > 0);
        drop(end);
        storming.join().unwrap();
        checking.join().unwrap().unwrap();
    });
}

/// Ends the threads, should the work panic too.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn i1_i8_the_daemon_is_killed(place: &Place) {
    under_storm(place, |dice| {
        for round in 0..rounds() {
            let mut daemon = place.watch(&["--", "sleep", "1000"]);
            if round % 2 == 0 {
                daemon.event("sync end");
            }
            thread::sleep(Duration::from_millis(dice.below(120)));
            daemon.kill();
            until("the hub and its command end", || processes::of_place(&place.top).is_empty());
        }
    });
    let daemon = place.watch(&[]).synced();
    daemon.flush();
    place.assert_equal();
    daemon.stop();
}

fn i1_i8_the_hub_is_killed(place: &Place) {
    let mut daemon = None;
    under_storm(place, |dice| {
        let mut running = place.watch(&[]);
        running.event("sync end");
        for _ in 0..rounds() {
            let hub = running.hub();
            thread::sleep(Duration::from_millis(dice.below(60)));
            processes::kill(hub);
            // Its link may be seen to end before it has ended itself, and the next one to come.
            until("the hub is gone", || !processes::is_alive(hub));
            running.event("disconnected");
            running.event("connected");
            running.event("sync end");
        }
        daemon = Some(running);
    });
    let daemon = daemon.unwrap();
    daemon.flush();
    place.assert_equal();
    daemon.synced().stop();
}
