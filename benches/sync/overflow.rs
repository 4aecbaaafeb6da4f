//! Measures a storm that the kernel's queue cannot hold: 20,000 files at once, a queue of 16 events.
//!
//! The length of the queue is the machine's, taken over when a program begins to watch: it is set
//! before ours is started and put back as soon as it watches.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::figures::{between, ms};
use crate::product::Daemon;
use crate::storm::PAUSE;
use crate::table::Row;
use crate::{Result, Settings, clock, progress};

const SETTING: &str = "/proc/sys/fs/inotify/max_queued_events";
const QUEUE: &str = "16";
const FILES: usize = 20_000;
const PER_DIRECTORY: usize = 100;
const LOST: Duration = Duration::from_secs(120);

/// The setting as it was; put back when dropped.
struct Queue(String);

impl Queue {
    fn of_few() -> std::io::Result<Self> {
        let before = fs::read_to_string(SETTING)?;
        fs::write(SETTING, QUEUE)?;
        Ok(Self(before))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Whoever could write it can write it again.
        let _ = fs::write(SETTING, &self.0);
    }
}

pub(crate) fn run(settings: &Settings, place: &Path, rows: &mut Vec<Row>) -> Result<()> {
    let what = format!("{FILES} files in one storm, queue of {QUEUE}");
    let Ok(queue) = Queue::of_few() else {
        let why = "absent: needs root, to set fs.inotify.max_queued_events";
        rows.push(Row::new(what).ours(why));
        return Ok(());
    };
    progress(format_args!("storm: {what}"));
    let (source, target) = (place.join("source"), place.join("target"));
    fs::create_dir_all(&source)?;
    fs::create_dir_all(&target)?;
    fs::write(source.join("first"), "here\n")?;
    let mut command = settings.product.command(place)?;
    command.arg("watch").args([&source, &target]).args(["--", "sleep", "1000000"]);
    let mut daemon = Daemon::start(command, place)?;
    daemon.wait_synced(1)?;
    drop(queue);
    std::thread::sleep(PAUSE);
    drop(daemon.said());
    let paths: Vec<PathBuf> =
        (0..FILES).map(|number| format!("d{}/f{number}", number / PER_DIRECTORY).into()).collect();
    let began = clock::now();
    for (number, path) in paths.iter().enumerate() {
        let path = source.join(path);
        if number % PER_DIRECTORY == 0 {
            fs::create_dir(path.parent().ok_or("a file has a directory")?)?;
        }
        fs::write(path, format!("file {number}\n"))?;
    }
    let wrote = between(began, clock::now());
    let there = arrived(&paths, &source, &target)?;
    // What the restart waits for is over by then.
    std::thread::sleep(PAUSE * 2);
    let restarts =
        daemon.said().iter().filter(|line| line.text.starts_with("[e2ek] restart begin")).count();
    let overflows = overflows(settings, place, &source)?;
    daemon.stop()?;
    let row =
        Row::new(format!("{what}: all there")).floor(format!("{} (writing)", ms(Some(wrote))));
    rows.push(row.ours(ms(Some(between(began, there)))).reach("all there", Some(true)));
    let row = Row::new(format!("{what}: overflows counted, restarts"));
    let row = row.ours(format!("{overflows}, {restarts}"));
    rows.push(row.reach("counted, one restart", Some(overflows > 0 && restarts == 1)));
    Ok(())
}

/// When the last of them was found equal.
fn arrived(paths: &[PathBuf], source: &Path, target: &Path) -> Result<u64> {
    let deadline = clock::now() + u64::try_from(LOST.as_nanos())?;
    for path in paths {
        while !crate::visible::same_content(&source.join(path), &target.join(path)) {
            if clock::now() > deadline {
                return Err(format!("{} does not come", path.display()).into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(clock::now())
}

fn overflows(settings: &Settings, place: &Path, source: &Path) -> Result<u64> {
    let mut command = settings.product.command(place)?;
    let output = command.arg("-C").arg(source).args(["status", "--json"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = text.split_once("\"overflows\":").map(|(_, rest)| rest);
    let count = count.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    Ok(count.ok_or_else(|| format!("no overflows in {text:?}"))?.parse()?)
}
