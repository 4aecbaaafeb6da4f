//! `watch`: saves of every kind, flush, status, signals.

use std::fs;

use rustix::process::Signal;

use crate::place::{Link, Place, until};
use crate::processes;

over_each_link! {
    every_way_of_saving_arrives,
    trees_come_and_go_at_once,
    i5_a_storm_of_500_files_arrives,
    rules_that_change_count_at_once,
    i2_what_was_saved_before_a_flush_is_there_after_it,
    i12_status_is_honest_and_has_its_schema,
    pause_holds_and_reset_looks_again,
    signals_end_it_with_their_codes,
    a_closed_stdout_does_not_end_it,
    i7_a_moved_root_is_held_until_it_is_back,
    i7_an_emptied_root_is_held_until_it_is_accepted,
}

#[test]
fn served_saves_arrive() {
    every_way_of_saving_arrives(&Place::new(Link::Served));
}

#[test]
fn i2_served_flush() {
    i2_what_was_saved_before_a_flush_is_there_after_it(&Place::new(Link::Served));
}

fn every_way_of_saving_arrives(place: &Place) {
    place.write("app.py", "0");
    let mut daemon = place.watch(&[]).synced();
    assert_eq!(place.read("app.py").unwrap(), "0");
    // At once.
    place.save("app.py", "saved");
    daemon.event("sync end gen=2 status=ok files=1");
    assert_eq!(place.read("app.py").unwrap(), "saved");
    // In place, as nano does; the empty file may be seen first.
    place.write("app.py", "in place");
    until("it arrives", || place.read("app.py").unwrap() == "in place");
    // Renamed over, as vim with backupcopy=no, VS Code's atomic save, sed -i.
    place.write("app.py~", "renamed");
    fs::rename(place.source.join("app.py~"), place.source.join("app.py")).unwrap();
    daemon.flush();
    assert_eq!(place.read("app.py").unwrap(), "renamed");
    assert_eq!(place.read("app.py~"), None);
    // The old one kept under another name first.
    fs::rename(place.source.join("app.py"), place.source.join("app.py.bak")).unwrap();
    place.write("app.py", "with a backup");
    daemon.flush();
    assert_eq!(place.read("app.py").unwrap(), "with a backup");
    assert_eq!(place.read("app.py.bak").unwrap(), "renamed");
    // Deleted and made again.
    fs::remove_file(place.source.join("app.py")).unwrap();
    place.write("app.py", "made again");
    daemon.flush();
    assert_eq!(place.read("app.py").unwrap(), "made again");
    place.assert_equal();
    daemon.stop();
}

fn trees_come_and_go_at_once(place: &Place) {
    place.write("keep", "1");
    let daemon = place.watch(&[]).synced();
    for number in 0..30 {
        place.write(&format!("new/{}/{number}/file", number % 3), format!("{number}"));
    }
    fs::create_dir_all(place.source.join("new/empty/inside")).unwrap();
    daemon.flush();
    place.assert_equal();
    fs::rename(place.source.join("new"), place.source.join("moved")).unwrap();
    place.write("moved/1/1/file", "after the move");
    daemon.flush();
    place.assert_equal();
    // A tree that comes from elsewhere, whole.
    let aside = place.top.join("aside");
    fs::create_dir_all(aside.join("x/y")).unwrap();
    fs::write(aside.join("x/y/z"), "whole").unwrap();
    fs::rename(&aside, place.source.join("arrived")).unwrap();
    daemon.flush();
    place.assert_equal();
    fs::remove_dir_all(place.source.join("moved")).unwrap();
    daemon.flush();
    place.assert_equal();
    daemon.stop();
}

fn i5_a_storm_of_500_files_arrives(place: &Place) {
    for number in 0..500 {
        place.write(&format!("{}/{number}", number % 17), "branch one");
    }
    let daemon = place.watch(&[]).synced();
    for number in 0..500 {
        match number % 5 {
            0 => fs::remove_file(place.source.join(format!("{}/{number}", number % 17))).unwrap(),
            1 => place.write(&format!("new{}/{number}", number % 17), "branch two"),
            _ => place.write(&format!("{}/{number}", number % 17), format!("two {number}")),
        }
    }
    daemon.flush();
    place.assert_equal();
    daemon.stop();
}

fn rules_that_change_count_at_once(place: &Place) {
    place.write(".gitignore", "*.log\n");
    place.write("a.log", "1");
    place.write("build/out", "1");
    let daemon = place.watch(&[]).synced();
    assert_eq!(place.read("a.log"), None);
    place.write(".gitignore", "build/\n");
    daemon.flush();
    assert_eq!(place.read("a.log").unwrap(), "1", "no longer ignored");
    place.write("build/out", "2");
    place.write("a.log", "2");
    daemon.flush();
    assert_eq!(place.read("build/out").unwrap(), "1", "ignored now, and left as it is");
    assert_eq!(place.read("a.log").unwrap(), "2");
    daemon.stop();
}

fn i2_what_was_saved_before_a_flush_is_there_after_it(place: &Place) {
    place.write("file", "0");
    place.write("d/other", "0");
    let daemon = place.watch(&[]).synced();
    for round in 0..200 {
        let name = if round % 3 == 0 { "d/other".to_owned() } else { format!("n{}", round % 7) };
        place.write(&name, format!("{round}"));
        daemon.flush();
        assert_eq!(place.read(&name), Some(format!("{round}")), "round {round}");
    }
    // Asked before the daemon can have read what the kernel tells of the save.
    let mut connection = daemon.connection();
    for round in 0..500 {
        let name = if round % 3 == 0 { "d/other".to_owned() } else { format!("k{}", round % 7) };
        place.write(&name, format!("kept {round}"));
        connection.flush();
        assert_eq!(place.read(&name), Some(format!("kept {round}")), "round {round}");
    }
    daemon.stop();
}

fn i12_status_is_honest_and_has_its_schema(place: &Place) {
    place.write("file", "0");
    let daemon = place.watch(&[]).synced();
    let status = daemon.status();
    assert_eq!(status["v"], 1);
    assert_eq!(status["pid"], daemon.pid());
    assert_eq!(status["state"], "synced");
    assert_eq!(status["source"], place.source.to_str().unwrap());
    assert_eq!(status["gen"]["local"], 1);
    assert_eq!(status["gen"]["acked"], 1);
    let target = &status["targets"][0];
    assert_eq!(target["state"], "synced");
    assert_eq!(target["gen_acked"], 1);
    assert_eq!(target["tree"].as_str().unwrap().len(), 64);
    assert_eq!(target["problems"].as_array().unwrap().len(), 0);
    assert!(target["child"].is_null());
    for key in ["directories", "overflows", "rescans", "polled"] {
        assert!(status["watch"][key].is_u64(), "{key}");
    }
    for key in ["p50", "p95", "count"] {
        assert!(!status["latency_ms"][key].is_null(), "{key}");
    }
    assert!(status["degraded"].is_array());
    // A path that cannot be applied is outstanding: a directory in the way with what others made.
    fs::create_dir(place.target.join("busy")).unwrap();
    fs::write(place.target.join("busy/theirs"), "kept").unwrap();
    place.write("busy", "a file here");
    let _ = place.control(&["flush", "--timeout", "100s"]);
    let status = daemon.status();
    if place.read("busy/theirs").is_some() {
        assert_ne!(status["state"], "synced", "{status}");
        assert_eq!(status["targets"][0]["problems"][0]["path"], "busy");
    }
    place.control(&["wait", "--gen", "2", "--timeout", "1ms"]);
    place.control(&["wait", "--gen", "99", "--timeout", "20ms"]).ends_with(6);
    daemon.stop();
}

fn pause_holds_and_reset_looks_again(place: &Place) {
    place.write("file", "0");
    let daemon = place.watch(&[]).synced();
    place.control(&["pause"]).ends_with(0);
    place.write("file", "1");
    place.control(&["flush"]).ends_with(5).says("resume");
    assert_eq!(place.read("file").unwrap(), "0");
    assert_ne!(daemon.status()["state"], "synced");
    place.control(&["resume"]).ends_with(0);
    daemon.flush();
    assert_eq!(place.read("file").unwrap(), "1");
    let before = daemon.status()["watch"]["rescans"].as_u64().unwrap();
    place.control(&["reset"]).ends_with(0);
    daemon.flush();
    assert!(daemon.status()["watch"]["rescans"].as_u64().unwrap() > before);
    place.assert_equal();
    daemon.stop();
    place.control(&["status"]).ends_with(7);
    place.control(&["flush"]).ends_with(7);
}

fn signals_end_it_with_their_codes(place: &Place) {
    place.write("file", "0");
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 143), (Signal::INT, 130)] {
        let mut daemon = place.watch(&["--", "sleep", "1000"]);
        daemon.event("sync end");
        daemon.signal(signal);
        assert_eq!(daemon.wait(), Some(code), "{signal:?}\n{}", daemon.rest());
        place.assert_clean();
        fs::write(place.source.join("file"), format!("{signal:?}")).unwrap();
    }
    // A command that does not want to end: the second Ctrl-C ends it at once.
    let stubborn = "trap '' INT TERM; echo ready; while :; do sleep 0.1; done";
    let mut daemon = place.watch(&["--kill-after", "1h", "--", "sh", "-c", stubborn]);
    daemon.line(&["ready"]);
    daemon.signal(Signal::INT);
    daemon.event("stopping");
    daemon.signal(Signal::INT);
    assert_eq!(daemon.wait(), Some(130), "{}", daemon.rest());
    place.assert_clean();
}

fn a_closed_stdout_does_not_end_it(place: &Place) {
    place.write("file", "0");
    let mut command = place.syncing(&["watch"], &[]);
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    for round in 0..5 {
        place.write("file", format!("{round}"));
        place.control_retried(&["flush", "--timeout", "100s"]).ends_with(0);
        assert_eq!(place.read("file").unwrap(), format!("{round}"));
    }
    assert!(processes::is_alive(child.id()));
    place.control(&["stop"]).ends_with(0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    place.assert_clean();
}

fn i7_a_moved_root_is_held_until_it_is_back(place: &Place) {
    for number in 0..80 {
        place.write(&format!("d/{number}"), "0");
    }
    let mut daemon = place.watch(&[]).synced();
    let away = place.top.join("away");
    fs::rename(&place.source, &away).unwrap();
    daemon.event("held");
    assert_eq!(place.read("d/7").unwrap(), "0");
    fs::write(away.join("d/7"), "1").unwrap();
    fs::rename(&away, &place.source).unwrap();
    until("what changed meanwhile is there", || place.read("d/7").as_deref() == Some("1"));
    place.write("d/8", "2");
    daemon.flush();
    place.assert_equal();
    daemon.stop();
}

fn i7_an_emptied_root_is_held_until_it_is_accepted(place: &Place) {
    for number in 0..80 {
        place.write(&format!("d/{number}"), "0");
    }
    let mut daemon = place.watch(&[]).synced();
    // All in one step: deletes that are seen one by one are few at a time.
    fs::rename(place.source.join("d"), place.top.join("emptied")).unwrap();
    let held = daemon.event("held");
    assert!(held.contains("resume --accept"), "{held}");
    place.control(&["flush"]).ends_with(5);
    assert_eq!(daemon.status()["state"], "held");
    assert_eq!(place.read("d/79").unwrap(), "0");
    place.control(&["resume", "--accept"]).ends_with(0);
    daemon.flush();
    assert_eq!(place.read("d/79"), None);
    place.assert_equal();
    // What comes back is followed again.
    place.write("d/79", "back");
    daemon.flush();
    assert_eq!(place.read("d/79").unwrap(), "back");
    daemon.stop();
}

/// As many files as several generations take.
fn much(place: &Place) {
    for n in 0..41_000 {
        if n % 1000 == 0 {
            fs::create_dir_all(place.source.join(format!("{}", n / 1000))).unwrap();
        }
        place.write(&format!("{}/{n}", n / 1000), "");
    }
}

#[test]
fn a_first_sync_in_several_generations_is_one_sync() {
    let place = Place::new(Link::Local);
    much(&place);
    let mut daemon = place.watch(&[]);
    let end = daemon.event("sync end");
    assert!(end.contains("gen=3 status=ok files=41000 "), "{end}");
    place.assert_equal();
    let said = daemon.rest();
    assert_eq!(said.matches("[e2ek] sync begin gen=1 files=41000").count(), 1, "{said}");
    assert_eq!(said.matches("[e2ek] sync ").count(), 2, "{said}");
    place.save("0/0", "saved");
    daemon.event("sync end gen=4 status=ok files=1");
    daemon.stop();
}
