//! `sync --once`, stopped at every call that matters (I1, I3, I8, I12).
//!
//! The place goes to and fro between two trees: each transition is struck at its N-th call, checked,
//! and then one plain run has to bring both sides together and leave nothing behind.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::injection::{Stops, calls_made, can_inject, survey, was_impossible};
use crate::place::{Link, PATIENCE, Place, Said, sidecar, until};
use crate::processes;
use crate::scenario::{Side, neither_old_nor_new, records, unknown};
use crate::table::Table;
use crate::tree::Tree;

/// Of how many stops the short run tries one.
const SHARE: usize = 29;

/// More than a run takes.
const MUCH: Duration = Duration::from_secs(5);

/// Who is struck.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Hub,
    Daemon,
}

#[test]
fn i1_i8_a_hub_stopped_anywhere() {
    sweep("sync, hub", Subject::Hub);
}

#[test]
fn i1_i8_a_daemon_stopped_anywhere() {
    sweep("sync, daemon", Subject::Daemon);
}

#[test]
fn i1_i4_i8_a_hub_stopped_anywhere_in_its_first_sync() {
    sweep_first("first sync, hub", Subject::Hub);
}

#[test]
fn i1_i4_i8_a_daemon_stopped_anywhere_in_its_first_sync() {
    sweep_first("first sync, daemon", Subject::Daemon);
}

/// One `sync --once` with a part of it run by these words, of strace.
fn traced(place: &Place, subject: Subject, tracer: &[String]) -> Said {
    let words = ["sync", "--once"];
    let command = match subject {
        Subject::Daemon => daemon_traced(place, &words, tracer),
        Subject::Hub => {
            let mut command = place.command(&words);
            command.arg(&place.source).arg(&place.target).args(["--output", "lines"]);
            command.arg("--transport-cmd").arg(hub_traced(place, tracer));
            command
        }
    };
    let said = ended(place, command);
    until("all processes of a struck run end", || processes::of_place(&place.top).is_empty());
    said
}

/// Runs a command to its end, and a little longer than the product itself ever waits.
pub(crate) fn ended(place: &Place, mut command: Command) -> Said {
    let [out, err] = ["out", "err"].map(|name| place.top.join(name));
    command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
    let mut child = command.spawn().unwrap();
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let late = began.elapsed() > PATIENCE;
        if late || (began.elapsed() > MUCH && was_impossible(&place.top.join("strace.log"))) {
            processes::of_place(&place.top).into_iter().for_each(processes::kill);
            assert!(!late, "it does not end:\n{}{}", text(&out), text(&err));
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    Said { code: status.code(), out: text(&out), err: text(&err) }
}

/// The command with all of its own process under strace.
pub(crate) fn daemon_traced(place: &Place, words: &[&str], tracer: &[String]) -> Command {
    let plain = place.syncing(words, &[]);
    let mut command = place.environment(tracer[0].as_ref());
    command.args(&tracer[1..]).arg(plain.get_program()).args(plain.get_args());
    command
}

/// The transport that runs the hub under strace.
pub(crate) fn hub_traced(place: &Place, tracer: &[String]) -> String {
    let (hub, far) = (sidecar().display(), place.far.display());
    format!("{} {hub} stdio --state {far}", tracer.join(" "))
}

/// What must hold at a stop, and after one plain run.
pub(crate) fn judge(
    place: &Place,
    injection: impl std::fmt::Display,
    said: &Said,
    old: &Tree,
    new: &Tree,
) {
    let mut wrong = neither_old_nor_new(&place.target, old, new);
    wrong.extend(unknown(&place.target, old, new));
    assert!(wrong.is_empty(), "i1: {injection}:\n{}\n{}{}", wrong.join("\n"), said.out, said.err);
    let panicked = said.err.contains("panicked") && !was_impossible(&place.top.join("strace.log"));
    assert!(!panicked, "{injection}:\n{}", said.err);
    if said.code == Some(0) {
        let there = crate::tree::of(&place.target);
        assert!(there == *new, "i12: {injection}: ended well, but differs:\n{}", said.out);
    }
    let after = place.once(&[]);
    assert_eq!(
        after.code,
        Some(0),
        "i3: after {injection}:\n{}{}\nbefore:\n{}{}",
        after.out,
        after.err,
        said.out,
        said.err
    );
    println!("{injection}: {:?}", said.code);
    place.assert_equal();
    place.assert_clean();
}

fn sweep(name: &'static str, subject: Subject) {
    if !can_inject() {
        return;
    }
    let place = Place::new(Link::Stdio);
    let log = place.top.join("strace.log");
    let alone = subject == Subject::Daemon;
    let mut side = Side::Before;
    side.put_at(&place.source);
    place.once(&[]).ends_with(0);
    place.assert_equal();
    side = side.other();
    side.put_at(&place.source);
    traced(&place, subject, &survey(&log, alone)).ends_with(0);
    let made = calls_made(&log);
    let ordinary = records([&place.state, &place.far]);
    let mut table = Table::new(name);
    Stops::one_of(SHARE).each(&made, |injection| {
        let mut fired = false;
        // There, and back again.
        for _ in 0..2 {
            let old = side.tree();
            side = side.other();
            side.put_at(&place.source);
            let _ = fs::remove_file(&log);
            let said = traced(&place, subject, &injection.words(&log, alone));
            let struck = injection.has_fired(&log);
            judge(&place, injection, &said, &old, &side.tree());
            assert_eq!(place.trash(), Vec::<Vec<u8>>::new(), "{injection}: all of it was ours");
            assert_eq!(records([&place.state, &place.far]), ordinary, "i8: {injection}");
            if struck && !was_impossible(&log) {
                table.count(injection, &format!("{:?}", said.code));
            }
            fired |= struck;
        }
        fired
    });
    table.close();
}

fn sweep_first(name: &'static str, subject: Subject) {
    if !can_inject() {
        return;
    }
    let alone = subject == Subject::Daemon;
    let new = Side::After.tree();
    let fresh = || {
        let place = Place::new(Link::Stdio);
        Side::After.put_at(&place.source);
        // Of others: something at the place of ours, and something equal.
        fs::create_dir_all(place.target.join("deep")).unwrap();
        fs::write(place.target.join("small.txt"), "of others").unwrap();
        fs::write(place.target.join("same.txt"), "as ever").unwrap();
        let log = place.top.join("strace.log");
        (place, log)
    };
    let (place, log) = fresh();
    traced(&place, subject, &survey(&log, alone)).ends_with(0);
    let made = calls_made(&log);
    let mut table = Table::new(name);
    Stops::one_of(SHARE).each(&made, |injection| {
        let (place, log) = fresh();
        let old = crate::tree::of(&place.target);
        let said = traced(&place, subject, &injection.words(&log, alone));
        let struck = injection.has_fired(&log);
        judge(&place, injection, &said, &old, &new);
        // At least once: a hub that was stopped before it wrote keeps it again.
        let mut kept = place.trash();
        kept.dedup();
        assert_eq!(kept, [b"of others"], "i4: {injection}");
        if struck && !was_impossible(&log) {
            table.count(injection, &format!("{:?}", said.code));
        }
        struck
    });
    table.close();
}
