//! What the reporter says, for every event in every format, and how it behaves when nobody
//! listens.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use e2ek_sidecar::path::SyncPath;

use super::*;

/// An output that remembers, and fails when told to.
#[derive(Clone, Default)]
struct Page {
    text: Arc<Mutex<Vec<u8>>>,
    closed: Arc<Mutex<bool>>,
}

impl Page {
    fn read(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if *self.closed.lock().unwrap() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.text.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Pages {
    reporter: Reporter,
    out: Page,
    err: Page,
}

fn pages(options: Options) -> Pages {
    let (out, err) = (Page::default(), Page::default());
    let reporter = Reporter::new(
        options,
        Box::new(out.clone()),
        Box::new(err.clone()),
        ProgressDrawTarget::hidden(),
    );
    Pages { reporter, out, err }
}

fn format(format: Format) -> Options {
    Options { format, verbosity: Verbosity::Verbose, ..Options::default() }
}

fn date() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_395_849_123)
}

fn sync_end(generation: u64, status: Outcome, restarting: bool) -> Event {
    Event::SyncEnd {
        generation,
        status,
        files: 1,
        bytes: 2150,
        took: Duration::from_micros(9_100),
        acked: 1,
        targets: 1,
        restarting,
        stamps: Stamps {
            seen_epoch_us: Some(1_795_395_849_123_456),
            hashed_us: Some(310),
            sent_us: Some(420),
            written_us: Some(8_800),
            acked_us: Some(9_100),
            restarted_us: None,
        },
    }
}

fn restart_end(generation: u64, status: Outcome) -> Event {
    let took = Duration::from_millis(310);
    let stamps = match status {
        Outcome::Ok => Stamps {
            seen_epoch_us: None,
            hashed_us: Some(310),
            sent_us: Some(420),
            written_us: Some(8_800),
            acked_us: Some(9_100),
            restarted_us: Some(371_000),
        },
        _ => Stamps::default(),
    };
    Event::RestartEnd { generation, target: "api".into(), status, took, stamps }
}

/// A name that would set a terminal's title.
fn nasty() -> Text {
    Text::from(&SyncPath::new(&b"\x1b]0;x\x07"[..]).unwrap())
}

/// One of everything that can be said, with hostile names where names stand.
fn table() -> Vec<Event> {
    let api = || Text::from("api");
    let second = Duration::from_secs(1);
    vec![
        Event::Started {
            source: Text::name("/home/me/my app"),
            targets: vec![api(), "deploy/web:/srv".into()],
            workspace: "/home/me/my app".into(),
        },
        Event::Joined { pid: 7 },
        Event::TargetAdded { target: nasty() },
        Event::TargetRemoved { target: api() },
        Event::PodFound { target: api() },
        Event::PodGone { target: nasty() },
        Event::PodWaiting { target: api(), pod: nasty(), reason: "ImagePullBackOff".into() },
        Event::PodsAbsent { target: api() },
        Event::Forwarding { local: 8080, target: api(), remote: 80 },
        Event::Connecting { target: api() },
        Event::Connected { target: api(), equal: true },
        Event::Connected { target: api(), equal: false },
        Event::Scanned {
            files: 10_000,
            bytes: 37 << 20,
            took: Duration::from_millis(98),
            protected: 3,
            ignored: 12,
        },
        Event::Scanned { files: 1, bytes: 1, took: Duration::ZERO, protected: 0, ignored: 0 },
        Event::SyncBegin { generation: 42, files: 3 },
        sync_end(42, Outcome::Ok, false),
        sync_end(43, Outcome::Partial, false),
        Event::SyncEnd {
            generation: 44,
            status: Outcome::Held,
            files: 3,
            bytes: 2048,
            took: second,
            acked: 1,
            targets: 2,
            restarting: true,
            stamps: Stamps::default(),
        },
        Event::RestartBegin { generation: 42, target: api() },
        restart_end(42, Outcome::Ok),
        restart_end(43, Outcome::Crashed),
        restart_end(44, Outcome::Failed),
        Event::CommandRan {
            generation: 42,
            target: api(),
            argv: vec!["pip".into(), "install".into(), nasty()],
            status: Exit::Code(1),
            took: second,
        },
        Event::ChildExited { target: api(), status: Exit::Signal(9), held: true },
        Event::ChildExited { target: api(), status: Exit::Code(0), held: false },
        Event::NeedsBuild { generation: 42, paths: vec!["Dockerfile".into(), nasty()], count: 7 },
        Event::Output {
            target: api(),
            stream: Stream::Stdout,
            bytes: "\x1b[32mready\x1b[0m on :6543 \u{9b}\u{7f}\u{202e}\n".into(),
        },
        Event::Output { target: api(), stream: Stream::Stderr, bytes: b"\xff\n".into() },
        Event::Problem { target: None, path: nasty(), reason: "is a FIFO".into() },
        Event::Problem { target: Some(api()), path: "a \"b\"=c".into(), reason: "d\n".into() },
        Event::ProblemGone { target: None, path: nasty() },
        Event::Held {
            target: Some(api()),
            reason: "1,200 of 1,300 paths would be deleted".into(),
            command: "e2ek-sync resume --delete-budget 1200".into(),
        },
        Event::Released { target: Some(api()) },
        Event::Conflict { target: api(), path: nasty(), reason: "changed there".into() },
        Event::Overwritten { target: api(), path: nasty(), kept: Some("trash/1".into()) },
        Event::Overwritten { target: api(), path: nasty(), kept: None },
        Event::Disconnected {
            target: api(),
            error: "end of \u{1b}[2Jstream\" kind=ok \\".into(),
            retry: Some(second),
        },
        Event::Disconnected { target: api(), error: "gone".into(), retry: None },
        Event::Degraded { what: "polling: 812 directories".into() },
        Event::Warning { message: "the clock went back".into() },
        Event::Error {
            target: Some(api()),
            class: "forbidden".into(),
            message: "cannot write \"x\"".into(),
            hints: vec!["chown it".into(), "or not".into()],
        },
        Event::Stopping { reason: "SIGINT".into() },
        Event::LeftOut { count: 1 },
        Event::PlanStep {
            target: api(),
            action: "write".into(),
            path: nasty(),
            bytes: 2150,
            reason: "differs".into(),
        },
        Event::PlanEnd { target: api(), writes: 1, deletes: 0, bytes: 2150 },
        Event::PlanEnd { target: api(), writes: 0, deletes: 0, bytes: 0 },
        Event::Setting {
            key: "mode".into(),
            value: "mirror".into(),
            origin: "e2ek.toml:12".into(),
        },
        Event::Done { command: "flush".into(), generation: Some(42) },
        Event::Done { command: "pause".into(), generation: None },
        Event::Version { version: "0.1.0".into(), protocol: (1, 1), features: vec![] },
        Event::Stopped { exit: 130 },
    ]
}

/// Both outputs after the whole table.
fn said(options: Options) -> String {
    let mut pages = pages(options);
    let now = Instant::now();
    for event in table() {
        pages.reporter.say_at(&event, now, date());
    }
    let text = format!("{}--- stderr\n{}", pages.out.read(), pages.err.read());
    let mut shown = String::new();
    for c in text.chars() {
        // What passes through raw is the app's own; a snapshot is not a terminal.
        if c.is_control() && c != '\n' || c == '\u{202e}' {
            shown.push_str(&format!("<{:04x}>", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    shown
}

#[test]
fn every_event_for_people() {
    insta::assert_snapshot!(said(format(Format::Human)));
}

#[test]
fn every_event_in_lines() {
    insta::assert_snapshot!(said(format(Format::Lines)));
}

#[test]
fn every_event_in_json() {
    insta::assert_snapshot!(said(format(Format::Json)));
}

#[test]
fn the_lines_of_the_contract_are_as_written_there() {
    // cli.md, "Lines".
    let mut pages = pages(format(Format::Lines));
    let events = [
        Event::SyncBegin { generation: 42, files: 3 },
        Event::SyncEnd {
            generation: 42,
            status: Outcome::Ok,
            files: 3,
            bytes: 2048,
            took: Duration::from_millis(9),
            acked: 2,
            targets: 2,
            restarting: true,
            stamps: Stamps::default(),
        },
        Event::RestartBegin { generation: 42, target: "api-7d78/app".into() },
        restart_end(42, Outcome::Ok),
        Failure::new("forbidden", "...").hint("...").into(),
    ];
    for event in &events {
        pages.reporter.say(event);
    }
    assert_eq!(
        pages.out.read(),
        "[e2ek] sync begin gen=42 files=3\n\
         [e2ek] sync end gen=42 status=ok files=3 bytes=2048 ms=9 targets=2/2\n\
         [e2ek] restart begin gen=42 target=api-7d78/app\n\
         [e2ek] restart end gen=42 status=ok ms=310 target=api hashed_us=310 sent_us=420 \
         written_us=8800 acked_us=9100 restarted_us=371000\n\
         [e2ek] error kind=forbidden message=\"...\" hint=\"...\"\n"
    );
}

#[test]
fn no_text_of_ours_drives_a_terminal() {
    for which in [Format::Human, Format::Lines, Format::Json] {
        let mut pages = pages(format(which));
        for event in table() {
            if which == Format::Json || !matches!(event, Event::Output { .. }) {
                pages.reporter.say(&event);
            }
        }
        pages.reporter.failure(&Failure::new("failure", "\u{1b}\u{9b}\u{7f}").hint("\u{202e}"));
        for text in [pages.out.read(), pages.err.read()] {
            let bad = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
            assert!(!text.contains(bad), "{which:?}: {text:?}");
        }
    }
}

#[test]
fn json_is_read_back_as_it_was_said() {
    for event in table() {
        let record = Record::at(date(), event);
        let line = json_line(&record);
        let mut read: Record = serde_json::from_str(&line).unwrap();
        if let (Event::SyncEnd { took, .. }, Event::SyncEnd { took: exact, .. }) =
            (&mut read.event, &record.event)
        {
            assert_eq!(took.as_millis(), exact.as_millis());
            *took = *exact;
        }
        assert_eq!(read, record, "{line}");
    }
    let newer = r#"{"v":2,"ts":"x","kind":"moon-phase","gen":null,"target":null,"full":true}"#;
    assert_eq!(serde_json::from_str::<Record>(newer).unwrap().event, Event::Unknown);
    let grown = r#"{"v":1,"ts":"x","kind":"warning","gen":null,"target":null,"message":"m","n":1}"#;
    let event = serde_json::from_str::<Record>(grown).unwrap().event;
    assert_eq!(event, Event::Warning { message: "m".into() });
}

#[test]
fn a_restart_joins_the_line_of_its_generation_on_a_terminal() {
    let options = Options { terminal: true, ..Options::default() };
    let mut pages = pages(options);
    for event in [
        sync_end(42, Outcome::Ok, true),
        Event::RestartBegin { generation: 42, target: "api".into() },
        restart_end(42, Outcome::Ok),
        // The app speaks in between.
        sync_end(43, Outcome::Ok, true),
        Event::Output { target: "api".into(), stream: Stream::Stdout, bytes: b"bye, ".into() },
        Event::Output { target: "api".into(), stream: Stream::Stdout, bytes: b"all".into() },
        restart_end(43, Outcome::Ok),
        // One restart for two generations.
        sync_end(44, Outcome::Ok, true),
        sync_end(45, Outcome::Ok, true),
        restart_end(45, Outcome::Ok),
    ] {
        pages.reporter.say(&event);
    }
    pages.reporter.finish();
    assert_eq!(
        pages.out.read(),
        "gen 42: 1 file, 2.1 KiB, 9 ms; api restarted in 310 ms\n\
         gen 43: 1 file, 2.1 KiB, 9 ms\n\
         bye, all\n\
         gen 43: api restarted in 310 ms\n\
         gen 44: 1 file, 2.1 KiB, 9 ms\n\
         gen 45: 1 file, 2.1 KiB, 9 ms; api restarted in 310 ms\n"
    );
}

#[test]
fn an_unfinished_line_of_the_app_never_tears_one_of_ours() {
    let output = |bytes: &[u8]| Event::Output {
        target: "api".into(),
        stream: Stream::Stdout,
        bytes: bytes.into(),
    };
    let exited = Event::ChildExited { target: "api".into(), status: Exit::Code(0), held: true };
    let mut pages = pages(format(Format::Lines));
    for event in [
        output(b"half"),
        Event::SyncBegin { generation: 1, files: 1 },
        output(b" whole\nla"),
        exited,
    ] {
        pages.reporter.say(&event);
    }
    assert_eq!(
        pages.out.read(),
        "[e2ek] sync begin gen=1 files=1\nhalf whole\nla\n\
         [e2ek] exited target=api exit=0 held=true\n"
    );
}

#[test]
fn quiet_leaves_trouble_and_answers() {
    let mut pages = pages(Options { verbosity: Verbosity::Quiet, ..Options::default() });
    for event in [
        sync_end(1, Outcome::Ok, false),
        Event::Stopping { reason: "x".into() },
        Event::Warning { message: "w".into() },
        Event::PlanEnd { target: "api".into(), writes: 0, deletes: 0, bytes: 0 },
    ] {
        pages.reporter.say(&event);
    }
    assert_eq!(pages.out.read(), "api: nothing to do\n");
    assert_eq!(pages.err.read(), "warning: w\n");
}

#[test]
fn a_closed_output_is_told_once_and_nothing_more_is_written() {
    let mut pages = pages(format(Format::Lines));
    assert_eq!(pages.reporter.say(&Event::Released { target: None }), Heard::Yes);
    *pages.out.closed.lock().unwrap() = true;
    assert_eq!(pages.reporter.say(&Event::Released { target: None }), Heard::Gone);
    *pages.out.closed.lock().unwrap() = false;
    assert_eq!(pages.reporter.say(&Event::Released { target: None }), Heard::Gone);
    pages.reporter.failure(&Failure::new("failure", "m"));
    assert_eq!(pages.out.read(), "[e2ek] released\n");
    assert_eq!(pages.err.read(), "[e2ek] error kind=failure message=\"m\" hint=\"\"\n");
}

#[test]
fn progress_is_a_line_a_second_without_a_terminal() {
    let mut pages = pages(format(Format::Lines));
    let start = Instant::now();
    pages.reporter.say_at(&Event::SyncBegin { generation: 1, files: 9 }, start, date());
    for step in 0..18 {
        let event = Event::Progress {
            generation: Some(1),
            phase: Phase::Send,
            files: step,
            bytes: step * 10,
            total_files: Some(9),
            total_bytes: None,
        };
        pages.reporter.say_at(&event, start + Duration::from_millis(100 * step), date());
    }
    assert_eq!(
        pages.out.read(),
        "[e2ek] sync begin gen=1 files=9\n\
         [e2ek] progress phase=send files=5 bytes=50 total_files=9 gen=1\n\
         [e2ek] progress phase=send files=15 bytes=150 total_files=9 gen=1\n"
    );
}

#[test]
fn failures_in_all_formats() {
    let failure = Failure::new("no-daemon", "no daemon for /w").hint("e2ek-sync watch").hint("b");
    let mut all = String::new();
    for which in [Format::Human, Format::Lines] {
        let mut pages = pages(format(which));
        pages.reporter.failure(&failure);
        assert_eq!(pages.out.read(), "");
        all += &pages.err.read();
    }
    assert_eq!(
        all,
        "error: no daemon for /w\nhint: e2ek-sync watch\nhint: b\n\
         [e2ek] error kind=no-daemon message=\"no daemon for /w\" hint=\"e2ek-sync watch b\"\n"
    );
}

/// An output that stands still until it is let go.
struct Stuck(Arc<Mutex<()>>, Page);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _wait = self.0.lock();
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn i10_a_stopped_terminal_stops_nobody_and_the_gap_is_counted() {
    let (gate, page) = (Arc::new(Mutex::new(())), Page::default());
    let stopped = gate.lock().unwrap();
    let reporter = Reporter::new(
        format(Format::Lines),
        Box::new(Stuck(Arc::clone(&gate), page.clone())),
        Box::new(Page::default()),
        ProgressDrawTarget::hidden(),
    );
    let desk = Desk::open(reporter).unwrap();
    for files in 0..20_000 {
        desk.say(Event::SyncBegin { generation: 1, files });
    }
    drop(stopped);
    assert_eq!(desk.close(Duration::from_secs(30)), Heard::Yes);
    let said = page.read();
    // More than one gap when the thread was slow to begin.
    let gaps: Vec<usize> = said
        .lines()
        .filter_map(|line| line.split_once("left out count=")?.1.parse().ok())
        .collect();
    let left_out: usize = gaps.iter().sum();
    let events = said.lines().count() - gaps.len();
    assert_eq!(events + left_out, 20_000, "each is said or counted");
    assert!(left_out > 10_000);
}

#[test]
fn a_desk_does_not_wait_for_ever() {
    let gate = Arc::new(Mutex::new(()));
    let stopped = gate.lock().unwrap();
    let out = Box::new(Stuck(Arc::clone(&gate), Page::default()));
    let reporter = Reporter::new(
        format(Format::Lines),
        out,
        Box::new(Page::default()),
        ProgressDrawTarget::hidden(),
    );
    let desk = Desk::open(reporter).unwrap();
    desk.say(Event::Released { target: None });
    desk.close(Duration::from_millis(20));
    drop(stopped);
}

/// A terminal of 80 columns that remembers what is drawn.
#[derive(Clone, Debug, Default)]
struct Glass(Arc<Mutex<String>>);

impl indicatif::TermLike for Glass {
    fn width(&self) -> u16 {
        80
    }
    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(&format!("{text}\n"))
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.lock().unwrap().push_str(text);
        Ok(())
    }
    fn clear_line(&self) -> io::Result<()> {
        self.write_str("<clear>")
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_bar_is_drawn_on_a_terminal_for_what_lasts_and_is_gone_afterwards() {
    let glass = Glass::default();
    let drawn = || glass.0.lock().unwrap().clone();
    let page = Page::default();
    let mut reporter = Reporter::new(
        Options { terminal: true, ..Options::default() },
        Box::new(page.clone()),
        Box::new(Page::default()),
        ProgressDrawTarget::term_like_with_hz(Box::new(glass.clone()), 255),
    );
    let start = Instant::now();
    let progress = |files: u64| Event::Progress {
        generation: Some(1),
        phase: Phase::Send,
        files,
        bytes: files << 20,
        total_files: Some(9),
        total_bytes: Some(9 << 20),
    };
    reporter.say_at(&Event::SyncBegin { generation: 1, files: 9 }, start, date());
    reporter.say_at(&progress(1), start + Duration::from_millis(499), date());
    assert_eq!(drawn(), "", "not for what is quick");
    reporter.say_at(&progress(3), start + Duration::from_millis(500), date());
    reporter.say_at(&progress(6), start + Duration::from_millis(600), date());
    let bar = drawn();
    assert!(bar.contains("sending 3 of 9 files [") && bar.contains("/9.00 MiB"), "{bar:?}");
    assert!(bar.contains("ETA"), "{bar:?}");
    reporter.say_at(&Event::Warning { message: "w".into() }, start, date());
    reporter.say_at(&sync_end(1, Outcome::Ok, false), start, date());
    let end = drawn();
    assert!(end.ends_with("<clear>"), "no bar stays: {end:?}");
    reporter.finish();
    assert_eq!(drawn(), end);
    assert_eq!(page.read(), "gen 1: 1 file, 2.1 KiB, 9 ms\n");
}
