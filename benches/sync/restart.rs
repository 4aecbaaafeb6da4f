//! Measures from the end of the settle window to the start of the new process.
//!
//! The command is this program: it notes when it starts and when it was told to end. A restart is
//! due when the save was applied and the settle window has passed; what the old process itself
//! takes to end is not ours. What remains: deciding, signalling, reaping, starting.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::fs::inotify::WatchFlags;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::signal::unix::{SignalKind, signal};

use crate::events::Events;
use crate::figures::{Samples, between, ms, ratio};
use crate::product::Daemon;
use crate::table::Row;
use crate::tree::{Edit, Tree};
use crate::{Result, Settings, clock, progress};

pub(crate) const ROLE: &str = "__child";

/// The product's default, given by flag all the same.
const WINDOW: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_secs(15);
/// Between a start and the next save.
const PAUSE: Duration = Duration::from_millis(300);
/// From due to started.
const REACH: i64 = 5_000_000;

/// What a child has noted, with its moment.
#[derive(Debug, PartialEq)]
enum Note {
    Started(u64),
    Signalled(u64),
    Ended(u64),
}

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place.join("restart");
    fs::create_dir(&place)?;
    progress("restart: first sync");
    let source = settings.source()?;
    let target = place.join("target");
    fs::create_dir(&target)?;
    let notes = Notes::open(&place.join("notes"))?;
    let rounds = if settings.short { 5 } else { 20 };
    let floor = bare_starts(&notes, rounds)?;
    let mut command = settings.product.command(&place)?;
    command.arg("watch").args([&source.root, &target]);
    command.args(["--debounce", &format!("{}ms", WINDOW.as_millis())]).arg("--");
    command.arg(std::env::current_exe()?).arg(ROLE).arg(&notes.path);
    let mut daemon = Daemon::start(command, &place)?;
    daemon.wait_synced(source.files.len())?;
    notes.started()?;
    let arrivals =
        Events::watch(&source.at(&target), WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO)?;
    let (mut beyond, mut own, mut whole) = Default::default();
    for round in 0..rounds {
        std::thread::sleep(PAUSE);
        progress(format_args!("restart: {} of {rounds}", round + 1));
        let one = once(source, &arrivals, &notes, round)
            .map_err(|error| format!("{error}; said: {}", said(&daemon)))?;
        Samples::push(&mut beyond, one.beyond);
        Samples::push(&mut own, one.own);
        Samples::push(&mut whole, one.whole);
    }
    daemon.stop()?;
    rows.extend(rows_of(&floor, &beyond, &own, &whole));
    Ok(())
}

fn rows_of(floor: &Samples, beyond: &Samples, own: &Samples, whole: &Samples) -> Vec<Row> {
    let count = beyond.count();
    let (p50, max) = (beyond.percentile(50), beyond.percentile(100));
    let due = Row::new(format!("settle window over -> new process, {count} saves, p50"))
        .floor(format!("{} (bare start)", ms(floor.percentile(50))))
        .ours(ms(p50))
        .ratio(ratio(p50, floor.percentile(50)))
        .reach("<= 5 ms", p50.map(|p50| p50 <= REACH));
    let worst = Row::new("the same, max")
        .floor(format!("{} (bare start)", ms(floor.percentile(100))))
        .ours(ms(max))
        .reach("<= 5 ms", max.map(|max| max <= REACH));
    let own = Row::new("the old process's own exit (min / median / max)").ours(own.range());
    let whole_row = Row::new(format!(
        "save -> new process, window of {} ms included (min / median / max)",
        WINDOW.as_millis()
    ));
    vec![due, worst, own, whole_row.ours(whole.range())]
}

/// One restart, in nanoseconds.
struct Restart {
    /// From due to started, without what the old process took itself.
    beyond: i64,
    /// From the old process's notice of the signal to its end.
    own: i64,
    /// From save to started.
    whole: i64,
}

fn once(source: &Tree, arrivals: &Events, notes: &Notes, round: usize) -> Result<Restart> {
    let path = &source.files[round % source.files.len()];
    let saved = Edit::prepare(&source.root.join(path), u64::try_from(round)? + 1)?.save()?;
    let deadline = clock::now() + u64::try_from(TIMEOUT.as_nanos())?;
    let applied = loop {
        let seen = arrivals.next(deadline).ok_or("the save did not arrive")?;
        if seen.path == *path {
            break seen.at;
        }
    };
    let (mut signalled, mut ended) = (None, None);
    let started = loop {
        match notes.next()? {
            Note::Started(at) => break at,
            Note::Signalled(at) => signalled = Some(at),
            Note::Ended(at) => ended = Some(at),
        }
    };
    let (signalled, ended) =
        signalled.zip(ended).ok_or("a new process was started before the old one ended")?;
    let own = between(signalled, ended);
    let due = applied + u64::try_from(WINDOW.as_nanos())?;
    Ok(Restart { beyond: between(due, started) - own, own, whole: between(saved, started) })
}

/// The least a start costs: spawned here, until it notes that it runs.
fn bare_starts(notes: &Notes, rounds: usize) -> Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..rounds {
        let began = clock::now();
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ROLE)
            .arg(&notes.path)
            .stdin(Stdio::null())
            .spawn()?;
        samples.push(between(began, notes.started()?));
        child.kill()?;
        child.wait()?;
    }
    Ok(samples)
}

/// The notes of all children, by a named pipe: whoever waits for them uses no CPU meanwhile.
struct Notes {
    path: std::path::PathBuf,
    notes: Receiver<Note>,
}

impl Notes {
    fn open(path: &Path) -> Result<Self> {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        // For writing too: the pipe never ends, and opening it waits for nobody.
        let pipe = OpenOptions::new().read(true).write(true).open(path)?;
        let (sender, notes) = channel();
        // Waits for ever; it ends with this process.
        std::thread::spawn(move || read_notes(pipe, |note| sender.send(note).is_ok()));
        Ok(Self { path: path.to_owned(), notes })
    }

    fn next(&self) -> Result<Note> {
        self.notes.recv_timeout(TIMEOUT).map_err(|_| "the command noted nothing".into())
    }

    fn started(&self) -> Result<u64> {
        match self.next()? {
            Note::Started(at) => Ok(at),
            other => Err(format!("a start was awaited, noted was {other:?}").into()),
        }
    }
}

fn read_notes(pipe: File, mut each: impl FnMut(Note) -> bool) {
    for line in BufReader::new(pipe).lines().map_while(std::io::Result::ok) {
        let Some((word, moment)) = line.split_once(' ') else { continue };
        let Ok(moment) = moment.parse() else { continue };
        let note = match word {
            "started" => Note::Started(moment),
            "signalled" => Note::Signalled(moment),
            _ => Note::Ended(moment),
        };
        if !each(note) {
            return;
        }
    }
}

/// The command under `watch`: notes its start, waits for SIGINT, notes it and its own end.
pub(crate) fn child(words: &[String]) -> Result<()> {
    let started = clock::now();
    let [notes] = words else { return Err("one argument: the pipe".into()) };
    let mut notes = OpenOptions::new().write(true).open(notes)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Noted only now: from here on a signal is heard.
        notes.write_all(format!("started {started}\n").as_bytes())?;
        interrupt.recv().await;
        let signalled = clock::now();
        notes.write_all(format!("signalled {signalled}\n").as_bytes())?;
        notes.write_all(format!("ended {}\n", clock::now()).as_bytes())?;
        std::process::exit(0);
    })
}

fn said(daemon: &Daemon) -> String {
    let lines: Vec<String> = daemon.said().into_iter().map(|line| line.text).collect();
    lines.join(" | ")
}
