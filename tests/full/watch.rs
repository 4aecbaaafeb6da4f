//! `watch` while saves come in, stopped at every call that matters (I1, I3, I8, I12).
//!
//! A hub that is stopped is followed by another one without anybody's help. A daemon that is stopped
//! is started again by hand, once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::injection::{Fault, Stops, calls_made, can_inject, survey, was_impossible};
use crate::once::{Subject, daemon_traced, hub_traced};
use crate::place::{Link, PATIENCE, Place, sidecar, until};
use crate::processes;
use crate::scenario::{Side, neither_old_nor_new};
use crate::table::Table;

/// Of how many stops the short run tries one.
const SHARE: usize = 97;

#[test]
fn i1_i3_i8_a_hub_stopped_anywhere_under_saves() {
    sweep("watch, hub", Subject::Hub);
}

#[test]
fn i1_i3_i8_a_daemon_stopped_anywhere_under_saves() {
    sweep("watch, daemon", Subject::Daemon);
}

/// A `watch` with a part of it run by these words, of strace. Of the hubs only the first one.
fn traced(place: &Place, subject: Subject, tracer: &[String]) -> Command {
    let mut command = match subject {
        Subject::Daemon => daemon_traced(place, &["watch"], tracer),
        Subject::Hub => {
            let (script, once) = (place.top.join("hub.sh"), place.top.join("struck"));
            let _ = fs::remove_dir(&once);
            let plain = format!("{} stdio --state {}", sidecar().display(), place.far.display());
            let struck = hub_traced(place, tracer);
            let once = once.display();
            let text = format!(
                "#!/bin/sh\nif mkdir {once} 2>/dev/null; then exec {struck}; fi\nexec {plain}\n"
            );
            fs::write(&script, text).unwrap();
            let mut command = place.command(&["watch"]);
            command.arg(&place.source).arg(&place.target).args(["--output", "lines"]);
            // Not by its name: a process that another test starts may hold it open for writing.
            command.arg("--transport-cmd").arg(format!("sh {}", script.display()));
            command
        }
    };
    let said = fs::File::create(said_at(place)).unwrap();
    command.stdout(said.try_clone().unwrap()).stderr(said);
    command
}

/// Where it says what it says.
pub(crate) fn said_at(place: &Place) -> PathBuf {
    place.top.join("said")
}

/// Runs a `watch` from one side to the other: both sides become equal, or it ends by itself, and then
/// this is its exit code.
pub(crate) fn run(
    place: &Place,
    mut command: Command,
    old: Side,
    new: Side,
    what: &str,
) -> Option<String> {
    let (over, old, new_tree) = (AtomicBool::new(false), old.tree(), new.tree());
    let mut child = command.spawn().unwrap();
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut wrong = Vec::new();
            if what.starts_with("EACCES at rename") {
                // A directory that takes no new name: the file is written in place, and that is told.
                return wrong;
            }
            while wrong.is_empty() && !over.load(Ordering::Relaxed) {
                wrong = neither_old_nor_new(&place.target, &old, &new_tree);
            }
            wrong
        });
        let end = End(&over);
        let ended = follow(place, &mut child, new, what);
        drop(end);
        let wrong = watching.join().unwrap();
        assert!(wrong.is_empty(), "i1: {what}:\n{}", wrong.join("\n"));
        ended
    })
}

/// Ends the reader, should the rest panic too.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn follow(place: &Place, child: &mut Child, new: Side, what: &str) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    let said = || fs::read_to_string(said_at(place)).unwrap_or_default();
    let mut saved = false;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            new.put_at(&place.source);
            return Some(format!("{:?}", status.code()));
        }
        let words: &[&str] = if saved {
            &["flush", "--timeout", "2s"]
        } else {
            &["wait", "--synced", "--timeout", "2s"]
        };
        if place.control(words).code == Some(0) {
            if saved {
                break;
            }
            new.put_at(&place.source);
            saved = true;
        }
        if was_impossible(&place.top.join("strace.log")) {
            processes::of_place(&place.top).into_iter().for_each(processes::kill);
            continue;
        }
        assert!(Instant::now() < deadline, "i3: {what}: never in sync:\n{}", said());
    }
    let (there, wanted) = (crate::tree::of(&place.target), new.tree());
    let more = there.iter().filter(|(path, entry)| wanted.get(*path) != Some(entry));
    let less = wanted.keys().filter(|path| !there.contains_key(*path));
    let differ: Vec<_> = more.map(|(path, _)| path).chain(less).collect();
    assert!(differ.is_empty(), "i12: {what}: flushed, but these differ: {differ:?}\n{}", said());
    place.control(&["stop"]);
    let mut status = None;
    until("it stops", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    // The fault may hit the end itself.
    status.filter(|status| !status.success()).map(|status| format!("{:?}", status.code()))
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
    let command = traced(&place, subject, &survey(&log, alone));
    run(&place, command, side, side.other(), "a survey");
    side = side.other();
    let made = calls_made(&log);
    let mut table = Table::new(name);
    Stops::one_of(SHARE).each(&made, |injection| {
        if alone && injection.call == "write" && injection.fault != Fault::Kill {
            // Most are the runtime's wake-ups; a daemon that stands still there proves nothing.
            return false;
        }
        let (old, new) = (side, side.other());
        let what = injection.to_string();
        let _ = fs::remove_file(&log);
        let command = traced(&place, subject, &injection.words(&log, alone));
        let code = run(&place, command, old, new, &what);
        side = new;
        let struck = injection.has_fired(&log);
        // What the end itself could not remove, the next start does.
        settle(&place, &what, code.is_some() || injection.call.starts_with("unlink"));
        if struck && !was_impossible(&log) {
            table.count(injection, code.as_deref().unwrap_or("went on"));
        }
        println!("{what}: {code:?}");
        struck
    });
    table.close();
}

/// After one plain run both sides are equal and nothing is left; a `watch` that went on needed none.
pub(crate) fn settle(place: &Place, what: &str, plainly: bool) {
    let said = fs::read_to_string(said_at(place)).unwrap_or_default();
    let panicked = said.contains("panicked") && !was_impossible(&place.top.join("strace.log"));
    assert!(!panicked, "{what}:\n{said}");
    let top: &Path = &place.top;
    until("all processes of a struck run end", || processes::of_place(top).is_empty());
    if plainly {
        let daemon = place.watch(&[]).synced();
        place.assert_equal();
        daemon.stop();
    }
    place.assert_equal();
    place.assert_clean();
    assert_eq!(place.trash(), Vec::<Vec<u8>>::new(), "{what}: all of it was ours");
}
