//! A second `watch` of a workspace: brings its target, follows, takes it away again.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::daemon::Daemon;
use crate::place::{Link, Place, Said, until};
use crate::processes;

over_each_link! {
    an_edit_arrives_at_both_until_the_second_takes_its_target_away,
    when_the_first_ends_the_second_says_so_and_ends_with_7,
    what_differs_is_named_and_nobody_is_disturbed,
    i8_a_killed_second_takes_its_target_along,
    a_target_stays_as_long_as_somebody_wants_it,
    a_target_brings_its_command,
    a_target_is_restarted_and_stopped_by_its_name,
    a_target_that_cannot_be_had_ends_only_who_asked_for_it,
    a_place_that_is_just_let_go_of_is_waited_for,
    whoever_comes_while_the_first_ends_is_the_next_first,
}

#[test]
fn served_joins() {
    an_edit_arrives_at_both_until_the_second_takes_its_target_away(&Place::new(Link::Served));
}

/// A second target of the place.
fn side(place: &Place) -> PathBuf {
    place.top.join("side")
}

fn words(place: &Place, target: &Path, more: &[&str]) -> std::process::Command {
    let mut command = place.command(&["watch"]);
    command.arg(&place.source).arg(target).args(place.transport());
    command.args(["--output", "lines"]).args(more);
    command
}

/// A watch that has joined.
#[track_caller]
fn join<'a>(place: &'a Place, target: &Path, more: &[&str]) -> Daemon<'a> {
    let mut daemon = Daemon::start(place, words(place, target, more));
    daemon.event("joined pid=");
    place.control(&["wait", "--synced", "--timeout", "100s"]).ends_with(0);
    daemon
}

fn targets(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status();
    let targets = status["targets"].as_array().unwrap().iter();
    targets.map(|target| target["name"].as_str().unwrap().to_owned()).collect()
}

fn name(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn an_edit_arrives_at_both_until_the_second_takes_its_target_away(place: &Place) {
    let side = side(place);
    place.write("file", "0");
    let mut first = place.watch(&[]).synced();
    let mut second = join(place, &side, &[]);
    assert_eq!(fs::read_to_string(side.join("file")).unwrap(), "0", "brought up to date");
    assert_eq!(targets(&first), [name(&place.target), name(&side)]);
    first.event("target added");
    place.save("file", "1");
    for daemon in [&mut first, &mut second] {
        daemon.event("sync end gen=2 status=ok files=1 bytes=1");
    }
    first.flush();
    assert_eq!(place.read("file").unwrap(), "1");
    assert_eq!(fs::read_to_string(side.join("file")).unwrap(), "1");

    let hubs = processes::children(first.pid());
    assert_eq!(hubs.len(), 2);
    second.signal(Signal::INT);
    assert_eq!(second.wait(), Some(130), "{}", second.rest());
    // Whoever reads the code may count on it: all of this is so already.
    assert_eq!(targets(&first), [name(&place.target)]);
    assert_eq!(processes::children(first.pid()).len(), 1, "its hub is gone");
    second.event("stopping reason=interrupted");
    second.event("target removed");
    second.event("stopped exit=130");
    first.event("target removed");
    // Free for another workspace, and not written any more.
    let other = place.top.join("other");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("theirs"), "1").unwrap();
    let mut once = place.command(&["sync", "--once"]);
    once.arg(&other).arg(&side).args(place.transport());
    Said::of(once).ends_with(0);
    place.write("file", "2");
    first.flush();
    assert_eq!(place.read("file").unwrap(), "2");
    assert_eq!(fs::read_to_string(side.join("file")).unwrap(), "1");
    first.stop();
}

fn when_the_first_ends_the_second_says_so_and_ends_with_7(place: &Place) {
    let side = side(place);
    place.write("file", "0");
    let first = place.watch(&[]).synced();
    let mut second = join(place, &side, &[]);
    let pid = first.pid();
    first.place.control(&["stop"]).ends_with(0);
    assert_eq!(second.wait(), Some(7), "{}", second.rest());
    second.event("stopping reason=stop");
    second.event("stopped exit=7");
    second.line(&["kind=no-daemon", &format!("process {pid}"), "has ended"]);
    drop(first);
    place.assert_clean();
    // However it ends.
    let first = place.watch(&[]).synced();
    let mut second = join(place, &side, &[]);
    first.kill();
    assert_eq!(second.wait(), Some(7), "{}", second.rest());
    second.line(&["kind=no-daemon", "has ended"]);
    // The next one is the first, and nothing has to be repaired.
    place.write("file", "1");
    let mut first = Daemon::start(place, words(place, &side, &[])).synced();
    assert_eq!(fs::read_to_string(side.join("file")).unwrap(), "1");
    first.event("scan end");
    first.stop();
}

fn what_differs_is_named_and_nobody_is_disturbed(place: &Place) {
    let side = side(place);
    place.write("file", "0");
    let first = place.watch(&["-e", "*.tmp"]).synced();
    let refused = |target: &Path, more: &[&str]| {
        let said = Said::of(words(place, target, more)).ends_with(5);
        said.says("kind=conflict").never_says("] started").never_says("] joined")
    };
    refused(&side, &[]).says("another exclude: `*.tmp`, not none");
    refused(&side, &["-e", "*.log"]).says("another exclude: `*.tmp`, not `*.log`");
    refused(&side, &["-e", "*.tmp", "--include", ".env"]).says("another include: none, not `.env`");
    refused(&side, &["-e", "*.tmp", "--mode", "mirror"]).says("another mode: `keep`, not `mirror`");
    refused(&place.target, &["-e", "*.tmp", "--write", "in-place"]).says("another write: `auto`");
    refused(&place.target.join("inner"), &["-e", "*.tmp"]).says(&name(&place.target));
    // The same workspace by its e2ek.toml, another source in it.
    fs::create_dir_all(place.source.join("part")).unwrap();
    let part = place.source.join("part");
    let config = place.top.join("src/e2ek.toml");
    fs::write(&config, "").unwrap();
    let mut command = place.command(&["watch"]);
    command.arg(&part).arg(&side).args(place.transport()).args(["-e", "*.tmp"]);
    Said::of(command).ends_with(5).says("another source directory").says(&name(&part));
    assert!(!side.exists());
    // `sync --once` beside a watch is not a second watch.
    place.once(&["-e", "*.tmp"]).ends_with(5).says("already");
    assert_eq!(targets(&first), [name(&place.target)]);
    place.write("file", "1");
    first.flush();
    assert_eq!(place.read("file").unwrap(), "1");
    first.stop();
}

fn i8_a_killed_second_takes_its_target_along(place: &Place) {
    let side = side(place);
    place.write("file", "0");
    let mut first = place.watch(&[]).synced();
    join(place, &side, &["--", "sh", "-c", "echo up; exec sleep 1000"]).kill();
    first.event("target removed");
    assert_eq!(targets(&first), [name(&place.target)]);
    until("its hub and its command are gone", || {
        processes::of_place(&place.top).len() <= 2 + usize::from(place.link == Link::Served)
    });
    place.write("file", "1");
    first.flush();
    assert_eq!(fs::read_to_string(side.join("file")).unwrap(), "0");
    assert!(!side.join(".e2ek-sync").exists(), "nothing is left there");
    first.stop();
}

fn a_target_stays_as_long_as_somebody_wants_it(place: &Place) {
    let side = side(place);
    place.write("file", "0");
    let mut first = place.watch(&[]).synced();
    let mut second = join(place, &side, &[]);
    let mut third = join(place, &side, &[]);
    // The first one's own: it only follows.
    let mut fourth = join(place, &place.target, &[]);
    assert_eq!(targets(&first), [name(&place.target), name(&side)]);
    assert_eq!(processes::children(first.pid()).len(), 2);
    for daemon in [&mut fourth, &mut second] {
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait(), Some(143), "{}", daemon.rest());
    }
    assert_eq!(targets(&first), [name(&place.target), name(&side)]);
    place.write("file", "1");
    first.flush();
    assert_eq!(place.read("file").unwrap(), "1");
    assert_eq!(fs::read_to_string(side.join("file")).unwrap(), "1");
    third.event("sync end gen=2");
    third.signal(Signal::HUP);
    assert_eq!(third.wait(), Some(143));
    assert_eq!(targets(&first), [name(&place.target)]);
    first.event("target removed");
    assert_eq!(first.rest().matches("target removed").count(), 1, "once, at the end");
    first.stop();
}

fn a_target_brings_its_command(place: &Place) {
    let side = side(place);
    let run = ["--", "sh", "-c", "cat file; echo; exec sleep 1000"];
    place.write("file", "zero");
    let mut first = place.watch(&[]).synced();
    let mut second = join(place, &side, &run);
    second.line(&["zero"]);
    first.line(&["zero"]);
    let said = Said::of(words(place, &side, &["--", "sleep", "7"])).ends_with(5);
    said.says("already being watched with `sh -c").says("not with `sleep 7`");
    let said = Said::of(words(place, &place.target, &["--", "sleep", "7"])).ends_with(5);
    said.says("already being watched without a command");
    // The same, or none, follows.
    let mut third = join(place, &side, &run);
    let mut fourth = join(place, &side, &[]);
    place.save("file", "one");
    for daemon in [&mut first, &mut second, &mut third, &mut fourth] {
        daemon.event("restart end");
        daemon.line(&["one"]);
    }
    place.control(&["flush", "--restarted", "--timeout", "100s"]).ends_with(0);
    let status = first.status();
    assert!(status["targets"][0]["child"].is_null());
    assert_eq!(status["targets"][1]["restarts"], 1);
    for mut daemon in [fourth, second, third] {
        daemon.signal(Signal::INT);
        assert_eq!(daemon.wait(), Some(130), "{}", daemon.rest());
    }
    assert_eq!(processes::children(first.pid()).len(), 1);
    // Other words for commands matter only to who brings one.
    let said = Said::of(words(place, &side, &["--debounce", "1s", "--", "sleep", "7"]));
    said.ends_with(5).says("another debounce: `50ms`, not `1s`");
    first.stop();
}

fn a_target_is_restarted_and_stopped_by_its_name(place: &Place) {
    let side = side(place);
    place.write("file", "0");
    let run = ["--", "sh", "-c", "echo began; exec sleep 1000"];
    let first = place.watch(&run).synced();
    let mut second = join(place, &side, &run);
    let [target, side] = [name(&place.target), name(&side)];
    second.line(&["began"]);
    let restarts = |first: &Daemon| {
        let status = first.status();
        [0, 1].map(|at| status["targets"][at]["restarts"].as_u64().unwrap())
    };
    place.control(&["restart", "--target", &side]).ends_with(0);
    second.line(&["began"]);
    until("it is told", || restarts(&first) == [0, 1]);
    place.control(&["restart"]).ends_with(0);
    until("both are restarted", || restarts(&first) == [1, 2]);
    for words in ["restart", "stop"] {
        let said = place.control(&[words, "--target", "nobody"]).ends_with(3);
        said.says("named `nobody`").says(&format!("it has: {target}, {side}"));
    }
    place.control(&["stop", "--target", &target]).ends_with(5).says("the first watch");
    place.control(&["stop", "--target", &side]).ends_with(0);
    assert_eq!(targets(&first), [target]);
    assert_eq!(processes::children(first.pid()).len(), 1);
    assert_eq!(second.wait(), Some(0), "{}", second.rest());
    second.event("target removed");
    second.event("stopped exit=0");
    first.stop();
}

fn a_target_that_cannot_be_had_ends_only_who_asked_for_it(place: &Place) {
    place.write("file", "0");
    let mut first = place.watch(&[]).synced();
    let nowhere = place.top.join("no/such/place");
    let mut second = Daemon::start(place, words(place, &nowhere, &[]));
    assert_eq!(second.wait(), Some(3), "{}", second.rest());
    second.event("joined");
    second.event("stopped exit=3");
    second.line(&["kind=not-found", "mkdir -p"]);
    first.event("target removed");
    assert_eq!(targets(&first), [name(&place.target)]);
    // No hub at all.
    let mut command = place.command(&["watch"]);
    command.arg(&place.source).arg(side(place)).args(["--transport-cmd", "./no-such-program"]);
    Said::of(command).ends_with(1).says("no-such-program").says("cannot be started");
    place.write("file", "1");
    first.flush();
    assert_eq!(place.read("file").unwrap(), "1");
    first.stop();
}

fn a_place_that_is_just_let_go_of_is_waited_for(place: &Place) {
    let side = side(place);
    place.write("file", "0");
    let first = place.watch(&[]).synced();
    let stubborn = "trap '' INT TERM; echo ready; while :; do sleep 0.1; done";
    let more = ["--kill-after", "1s", "--", "sh", "-c", stubborn];
    let mut second = join(place, &side, &more);
    second.line(&["ready"]);
    second.signal(Signal::INT);
    second.event("stopping");
    // Its command takes its time.
    let mut third = join(place, &side, &[]);
    assert_eq!(second.wait(), Some(130));
    third.event("target added");
    assert_eq!(targets(&first), [name(&place.target), name(&side)]);
    place.write("file", "1");
    first.flush();
    assert_eq!(fs::read_to_string(side.join("file")).unwrap(), "1");
    // A second Ctrl-C ends it at once, whatever its target does.
    drop(third);
    until("it is gone", || targets(&first).len() == 1);
    let mut second = join(place, &side, &["--kill-after", "30s", "--", "sh", "-c", stubborn]);
    second.line(&["ready"]);
    second.signal(Signal::INT);
    second.event("stopping");
    second.signal(Signal::INT);
    assert_eq!(second.wait(), Some(130));
    until("it is forgotten", || targets(&first) == [name(&place.target)]);
    first.kill();
}

fn whoever_comes_while_the_first_ends_is_the_next_first(place: &Place) {
    place.write("file", "0");
    let stubborn = "trap '' INT TERM; echo ready; while :; do sleep 0.1; done";
    let mut first = place.watch(&["--kill-after", "1s", "--", "sh", "-c", stubborn]);
    first.line(&["ready"]);
    first.signal(Signal::INT);
    first.event("stopping");
    let mut second = place.watch(&[]);
    second.event("scan end");
    assert_eq!(first.wait(), Some(130));
    let second = second.synced();
    place.write("file", "1");
    second.flush();
    assert_eq!(place.read("file").unwrap(), "1");
    second.stop();
}
