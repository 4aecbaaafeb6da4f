//! What a daemon answers, and that there is none.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use e2ek_sync::control::{Reply, Request, Until};
use e2ek_sync::report::{
    Event, Failure, Generations, Latency, Record, STATUS_VERSION, State, Status, WatchCounts,
};

use super::place::{PATIENCE, Place};

const ALL: [&[&str]; 12] = [
    &["flush"],
    &["flush", "--restarted", "--timeout", "1s"],
    &["wait", "--synced"],
    &["wait", "--gen", "3", "--timeout", "1s"],
    &["status"],
    &["status", "--watch"],
    &["restart"],
    &["pause"],
    &["resume"],
    &["resume", "--accept"],
    &["reset"],
    &["stop"],
];

#[test]
fn without_a_daemon_each_ends_with_7_and_says_what_to_do() {
    let place = Place::new();
    for words in ALL {
        let said = place.run(words);
        assert_eq!(said.code, Some(7), "{words:?} {said:?}");
        assert_eq!(said.out, "", "{words:?}");
        let folder = place.folder.display();
        let expected = format!(
            "[e2ek] error kind=no-daemon message=\"nothing is watching {folder}\" \
             hint=\"start it: e2ek-sync watch or name the workspace with -C DIR\"\n"
        );
        assert_eq!(said.err, expected, "{words:?}");
    }
    let said = place.run(&["attach"]);
    assert_eq!(said.code, Some(7), "{said:?}");
    assert!(said.out.starts_with("[e2ek] error kind=no-daemon "), "a stream holds its errors");
    let said = place.run(&["--output", "human", "status"]);
    assert!(said.err.starts_with("error: nothing is watching "), "{said:?}");
    assert!(said.err.contains("\nhint: start it: e2ek-sync watch\n"), "{said:?}");
}

fn done(generation: Option<u64>) -> Reply {
    Reply::Done { generation }
}

#[test]
fn each_command_asks_for_what_its_words_say() {
    let place = Place::new();
    let daemon = place.daemon(vec![], |_| done(Some(7)));
    let flush = |restarted, timeout_ms| Request::Flush { restarted, timeout_ms };
    let wait = |until, timeout_ms| Request::Wait { until, timeout_ms };
    let restart = |target: &str| Request::Restart { target: Some(target.into()) };
    for (words, requests) in [
        (&["flush"][..], vec![flush(false, Some(10_000))]),
        (&["flush", "--restarted", "--timeout", "500ms"], vec![flush(true, Some(500))]),
        (&["wait", "--synced"], vec![wait(Until::Synced, None)]),
        (&["wait", "--ready", "--timeout", "1m"], vec![wait(Until::Ready, Some(60_000))]),
        (&["wait", "--gen", "3"], vec![wait(Until::Gen(3), None)]),
        (&["restart"], vec![Request::Restart { target: None }]),
        (&["restart", "--target", "a", "--target", "b"], vec![restart("a"), restart("b")]),
        (&["pause"], vec![Request::Pause {}]),
        (&["resume"], vec![Request::Resume { accept: false }]),
        (&["resume", "--accept"], vec![Request::Resume { accept: true }]),
        (&["reset"], vec![Request::Reset {}]),
    ] {
        let said = place.run(words);
        assert_eq!(said.out, format!("[e2ek] done command={} gen=7\n", words[0]), "{said:?}");
        assert_eq!((said.code, &*said.err), (Some(0), ""), "{words:?}");
        for request in requests {
            assert_eq!(daemon.asked(), request, "{words:?}");
        }
    }
    let elsewhere = place.command(&["-C", daemon.folder().to_str().unwrap(), "stop"]);
    let said = { elsewhere }.current_dir("/").output().unwrap();
    assert_eq!(said.status.code(), Some(0));
    assert_eq!(daemon.asked(), Request::Stop { target: None });
    daemon.ended();
}

#[test]
fn an_answer_of_no_ends_with_the_code_of_its_kind() {
    let place = Place::new();
    let _daemon = place.daemon(vec![], |request| {
        let kind = match request {
            Request::Wait { until: Until::Gen(n), .. } => {
                ["conflict", "not-in-sync", "forbidden", "no-daemon", "usage", "of-later"]
                    [usize::try_from(*n).unwrap()]
            }
            _ => "conflict",
        };
        Reply::Failed(Failure::new(kind, "the session is paused").hint("e2ek-sync resume"))
    });
    for (generation, code) in [("0", 5), ("1", 6), ("2", 4), ("3", 7), ("4", 2), ("5", 1)] {
        let said = place.run(&["wait", "--gen", generation]);
        assert_eq!(said.code, Some(code), "{said:?}");
        assert_eq!(said.out, "");
        assert!(said.err.ends_with("hint=\"e2ek-sync resume\"\n"), "{said:?}");
    }
    assert_eq!(place.run(&["flush"]).code, Some(5));
}

#[test]
fn what_is_not_understood_is_another_version() {
    let place = Place::new();
    let _daemon = place.daemon(vec![], |_| done(None));
    let said = place.run(&["status"]);
    assert_eq!(said.code, Some(7), "{said:?}");
    assert!(said.err.contains("is not understood"), "{said:?}");
}

fn status() -> Status {
    Status {
        v: STATUS_VERSION,
        pid: 7,
        state: State::Synced,
        degraded: vec![],
        source: "/home/me/app".into(),
        generations: Generations { local: 42, acked: 42 },
        targets: vec![],
        watch: WatchCounts::default(),
        latency_ms: Latency::default(),
        groups: vec![],
    }
}

#[test]
fn status_is_one_object_or_lines() {
    let place = Place::new();
    let _daemon = place.daemon(vec![], |_| Reply::Status { status: Box::new(status()) });
    let said = place.run(&["status", "--json"]);
    assert_eq!((said.code, &*said.err), (Some(0), ""));
    assert_eq!(serde_json::from_str::<Status>(&said.out).unwrap(), status());
    assert_eq!(said.out.lines().count(), 1);
    let said = place.run(&["status"]);
    assert!(said.out.starts_with("[e2ek] status state=synced gen=42 acked=42 "), "{said:?}");
    let said = place.run(&["status", "--output", "human"]);
    assert!(said.out.starts_with("synced  /home/me/app  (pid 7)\n"), "{said:?}");
}

fn record(event: Event) -> Record {
    Record::at(SystemTime::now(), event)
}

/// The lines of a command that follows, as they come.
fn follow(place: &Place, words: &[&str]) -> (Child, Receiver<String>) {
    let mut child = place.command(words).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, receiver) = channel();
    thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    (child, receiver)
}

#[test]
fn attach_follows_until_the_daemon_says_that_it_ends() {
    let place = Place::new();
    let records = [Event::SyncBegin { generation: 1, files: 2 }, Event::Stopped { exit: 0 }];
    let daemon = place.daemon(records.map(record).into(), |_| done(None));
    let (mut following, lines) = follow(&place, &["attach"]);
    // Nobody tells when it has come so far that it hears something.
    let until = Instant::now() + PATIENCE;
    let heard = loop {
        place.run(&["pause"]);
        match lines.recv_timeout(Duration::from_millis(20)) {
            Err(RecvTimeoutError::Timeout) => assert!(Instant::now() < until, "in vain"),
            heard => break heard.unwrap(),
        }
    };
    assert_eq!(heard, "[e2ek] sync begin gen=1 files=2");
    place.run(&["stop"]);
    daemon.ended();
    assert_eq!(following.wait().unwrap().code(), Some(0));
    assert_eq!(lines.iter().last().unwrap(), "[e2ek] stopped exit=0");
}

#[test]
fn status_is_watched_until_the_daemon_ends_and_said_only_when_it_is_another() {
    let place = Place::new();
    let asked = AtomicU64::new(0);
    let daemon = place.daemon(vec![record(Event::Released { target: None })], move |_| {
        // Two looks see the same.
        let local = 42 + asked.fetch_add(1, Ordering::Relaxed) / 2;
        let generations = Generations { local, acked: 42 };
        Reply::Status { status: Box::new(Status { generations, ..status() }) }
    });
    let (mut watching, lines) = follow(&place, &["status", "--watch"]);
    for generation in 42..45 {
        let line = lines.recv_timeout(PATIENCE).unwrap();
        let expected = format!("[e2ek] status state=synced gen={generation} acked=42 ");
        assert!(line.starts_with(&expected), "{line}");
    }
    place.run(&["stop"]);
    daemon.ended();
    assert_eq!(watching.wait().unwrap().code(), Some(7));
}
