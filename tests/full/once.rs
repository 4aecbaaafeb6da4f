//! `sync --once`, stopped at every call that matters (I1, I3, I8, I12).
//!
//! The place goes to and fro between two trees: each transition is struck at its N-th call, checked,
//! and then one plain run has to bring both sides together and leave nothing behind.

use std::fs;
use std::path::PathBuf;

use crate::injection::{CALLS, Fault, Injection, can_inject, faults};
use crate::place::{Link, Place, Said, sidecar, until};
use crate::processes;
use crate::scenario::{Side, neither_old_nor_new, records};
use crate::table::Table;
use crate::tree::Tree;

/// Of how many stops the short run tries one.
const SHORT: u32 = 23;

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

/// The first stop and the distance to the next.
pub(crate) fn stride(call: &str, fault: Fault, short: u32) -> (u32, u32) {
    if crate::is_full() {
        return (1, 1);
    }
    let salt =
        format!("{call}{fault}").bytes().fold(7u32, |sum, byte| sum * 31 % 65521 + u32::from(byte));
    (1 + salt % short, short)
}

/// A run with one fault in it.
pub(crate) fn strike(place: &Place, subject: Subject, log: &PathBuf, injection: Injection) -> Said {
    let _ = fs::remove_file(log);
    let words = ["sync", "--once"];
    let command = match subject {
        Subject::Daemon => {
            let plain = place.syncing(&words, &[]);
            let traced = injection.words(log, true);
            let mut command = place.environment(traced[0].as_ref());
            command.args(&traced[1..]).arg(plain.get_program()).args(plain.get_args());
            command
        }
        Subject::Hub => {
            let hub = format!("{} stdio --state {}", sidecar().display(), place.far.display());
            let traced = format!("{} {hub}", injection.words(log, false).join(" "));
            let mut command = place.command(&words);
            command.arg(&place.source).arg(&place.target).args(["--transport-cmd", &traced]);
            command.args(["--output", "lines"]);
            command
        }
    };
    let began = std::time::Instant::now();
    let said = Said::of(command);
    println!("struck for {:?}", began.elapsed());
    until("all processes of a struck run end", || processes::of_place(&place.top).is_empty());
    said
}

/// What must hold at a stop, and after one plain run.
fn judge(place: &Place, injection: Injection, said: &Said, old: &Tree, new: &Tree) {
    let wrong = neither_old_nor_new(&place.target, old, new);
    assert!(wrong.is_empty(), "i1: {injection}:\n{}\n{}{}", wrong.join("\n"), said.out, said.err);
    // The runtime wakes itself by writing to an eventfd, which cannot fail but here.
    let panicked = said.err.contains("panicked") && !said.err.contains("failed to wake I/O driver");
    assert!(!panicked, "{injection}:\n{}", said.err);
    if said.code == Some(0) {
        let there = crate::tree::of(&place.target);
        assert!(there == *new, "i12: {injection}: ended well, but differs:\n{}", said.out);
    }
    let began = std::time::Instant::now();
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
    println!("{injection}: {:?}, by {:?}", said.code, began.elapsed());
    place.assert_equal();
    place.assert_clean();
}

fn sweep(name: &'static str, subject: Subject) {
    if !can_inject() {
        return;
    }
    let place = Place::new(Link::Stdio);
    let log = place.top.join("strace.log");
    let mut side = Side::Before;
    side.put_at(&place.source);
    place.once(&[]).ends_with(0);
    place.assert_equal();
    let ordinary = records([&place.state, &place.far]);
    let mut table = Table::new(name);
    for &call in CALLS {
        for fault in faults(call) {
            let (mut when, step) = stride(call, fault, SHORT);
            // One direction may end before the other.
            let mut quiet = 0;
            while quiet < 2 {
                let old = side.tree();
                side = side.other();
                side.put_at(&place.source);
                let injection = Injection { call, fault, when };
                let said = strike(&place, subject, &log, injection);
                judge(&place, injection, &said, &old, &side.tree());
                assert_eq!(place.trash(), Vec::<Vec<u8>>::new(), "{injection}: all of it was ours");
                assert_eq!(records([&place.state, &place.far]), ordinary, "i8: {injection}");
                if injection.has_fired(&log) {
                    table.count(call, fault, &format!("{:?}", said.code));
                    quiet = 0;
                } else {
                    quiet += 1;
                }
                if side == Side::Before {
                    when += step;
                }
            }
        }
    }
    assert!(table.total() > 0, "nothing was ever struck");
    table.close();
}

fn sweep_first(name: &'static str, subject: Subject) {
    if !can_inject() {
        return;
    }
    let mut table = Table::new(name);
    let new = Side::After.tree();
    for &call in CALLS {
        for fault in faults(call) {
            let (mut when, step) = stride(call, fault, SHORT);
            loop {
                let place = Place::new(Link::Stdio);
                let log = place.top.join("strace.log");
                Side::After.put_at(&place.source);
                // Of others: something at the place of ours, something equal, something apart.
                fs::create_dir_all(place.target.join("deep")).unwrap();
                fs::write(place.target.join("small.txt"), "of others").unwrap();
                fs::write(place.target.join("same.txt"), "as ever").unwrap();
                let old = crate::tree::of(&place.target);
                let injection = Injection { call, fault, when };
                let said = strike(&place, subject, &log, injection);
                judge(&place, injection, &said, &old, &new);
                assert_eq!(place.trash(), [b"of others"], "i4: {injection}");
                if !injection.has_fired(&log) {
                    break;
                }
                table.count(call, fault, &format!("{:?}", said.code));
                when += step;
            }
        }
    }
    assert!(table.total() > 0, "nothing was ever struck");
    table.close();
}
