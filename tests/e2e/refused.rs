//! What is refused before anything is written, and what the refusal names.

use std::fs;

use rustix::process::Signal;

use crate::daemon::Daemon;
use crate::place::{Link, Place, Said, sidecar, until};
use crate::processes;

over_each_link! {
    a_missing_source_or_parent_is_told,
    i14_two_sources_on_one_target_are_refused,
    i14_nested_targets_are_refused,
}

fn a_missing_source_or_parent_is_told(place: &Place) {
    place.write("file", "1");
    let mut command = place.command(&["sync", "--once", "nowhere"]);
    command.arg(&place.target).args(place.transport());
    Said::of(command).ends_with(2).says("does not exist");
    let mut command = place.command(&["sync", "--once"]);
    command.arg(&place.source).arg(place.top.join("no/such/place")).args(place.transport());
    Said::of(command).ends_with(3).says("mkdir -p");
    assert!(!place.top.join("no").exists());
    let mut command = place.command(&["sync", "--once"]);
    command.arg(place.source.join("file")).arg(&place.target).args(place.transport());
    Said::of(command).ends_with(2).says("not a directory");
    place.assert_clean();
}

#[test]
fn source_and_target_inside_each_other_are_refused() {
    let place = Place::new(Link::Local);
    place.write("file", "1");
    let once = |source: &std::path::Path, target: &std::path::Path| {
        let mut command = place.command(&["sync", "--once"]);
        command.arg(source).arg(target);
        Said::of(command)
    };
    once(&place.source, &place.source.join("copy")).ends_with(2).says("inside the source");
    once(&place.source, &place.top).ends_with(2).says("inside the target");
    once(&place.source, &place.source).ends_with(2).says("the source itself");
    // By another name.
    std::os::unix::fs::symlink(&place.source, place.top.join("alias")).unwrap();
    once(&place.source, &place.top.join("alias")).ends_with(2).says("source");
    assert!(!place.source.join("copy").exists());
    assert_eq!(fs::read_dir(&place.source).unwrap().count(), 1);
    place.assert_clean();
}

/// Another source, with another workspace.
fn other(place: &Place, target: &std::path::Path) -> Said {
    let source = place.top.join("other");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("file"), "other").unwrap();
    let mut command = place.command(&["sync", "--once"]);
    Said::of({
        command.arg(source).arg(target).args(place.transport());
        command
    })
}

fn i14_two_sources_on_one_target_are_refused(place: &Place) {
    place.write("file", "1");
    let daemon = place.watch(&[]).synced();
    let said = other(place, &place.target).ends_with(5);
    said.says(place.source.to_str().unwrap()).says("tester@").says("--take-over");
    assert_eq!(place.read("file").unwrap(), "1");
    daemon.stop();
}

/// In dev containers everybody's folder has the same name, and user and host may have, too.
#[test]
fn i14_the_same_folder_of_somebody_else_is_another_source() {
    let place = Place::new(Link::Served);
    place.write("file", "1");
    let daemon = place.watch(&[]).synced();
    let mut theirs = place.syncing(&["sync", "--once"], &[]);
    theirs.env("E2EK_STATE_DIR", place.top.join("theirs"));
    Said::of(theirs).ends_with(5).says("--take-over");
    place.write("file", "2");
    daemon.flush();
    assert_eq!(place.read("file").unwrap(), "2");
    daemon.stop();
}

#[test]
fn i14_a_right_that_was_taken_over_is_not_taken_a_second_time() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new(Link::Served);
    let [gate, carrier, other] = ["shut", "carrier", "other"].map(|name| place.top.join(name));
    let bridge = format!("{} connect --socket {}", sidecar().display(), "hub.sock");
    let script = format!("#!/bin/sh\ntest ! -e {} || exit 1\nexec {bridge}\n", gate.display());
    fs::write(&carrier, script).unwrap();
    fs::set_permissions(&carrier, fs::Permissions::from_mode(0o755)).unwrap();
    place.write("file", "1");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("file"), "other").unwrap();
    let watch = |source: &std::path::Path, carrier: &str| {
        let mut command = place.command(&["watch"]);
        command.arg(source).arg(&place.target).args(["--transport-cmd", carrier]);
        command.args(["--output", "lines", "--take-over"]);
        Daemon::start(&place, command)
    };
    let mut first = watch(&place.source, carrier.to_str().unwrap()).synced();
    fs::write(&gate, "").unwrap();
    processes::signal(first.hub(), Signal::KILL);
    first.event("disconnected");
    let mut second = watch(&other, &bridge);
    second.event("sync end gen=");
    assert_eq!(place.read("file").unwrap(), "other");
    fs::remove_file(&gate).unwrap();
    assert_eq!(first.wait(), Some(5), "{}", first.rest());
    fs::write(other.join("file"), "still there").unwrap();
    until("the second one writes", || place.read("file").unwrap() == "still there");
}

fn i14_nested_targets_are_refused(place: &Place) {
    place.write("file", "1");
    fs::create_dir(place.source.join("inner")).unwrap();
    let daemon = place.watch(&[]).synced();
    let inside = other(place, &place.target.join("inner")).ends_with(5);
    inside.says(place.target.to_str().unwrap()).says("tester@");
    assert_eq!(place.read("inner/file"), None);
    daemon.stop();
}
