//! What somebody changed at the target is told, kept aside and made good.

use std::fs;

use crate::place::Place;
use crate::processes;

over_each_link! {
    i4_i12_what_changed_at_the_target_is_told_by_the_next_sync,
    i4_i12_what_changed_at_the_target_is_told_while_a_watch_runs,
}

fn i4_i12_what_changed_at_the_target_is_told_by_the_next_sync(place: &Place) {
    for name in ["ours", "theirs", "gone"] {
        place.write(name, "as it was");
    }
    place.once(&[]).ends_with(0).never_says("conflict");
    fs::write(place.target.join("theirs"), "changed by them").unwrap();
    fs::remove_file(place.target.join("gone")).unwrap();
    let said = place.once(&[]).ends_with(0);
    for name in ["theirs", "gone"] {
        let told: Vec<_> = said.out.lines().filter(|line| is_told(line, name)).collect();
        assert_eq!(told.len(), 1, "{name}:\n{}", said.out);
    }
    said.never_says("path=ours");
    assert_eq!(place.trash(), [b"changed by them"]);
    place.assert_equal();
    place.once(&[]).ends_with(0).never_says("conflict");
}

fn is_told(line: &str, name: &str) -> bool {
    line.contains("] conflict ")
        && line.contains(&format!("path={name} "))
        && line.contains("changed at the target")
}

fn i4_i12_what_changed_at_the_target_is_told_while_a_watch_runs(place: &Place) {
    for name in ["ours", "theirs", "both"] {
        place.write(name, "as it was");
    }
    let mut daemon = place.watch(&[]).synced();
    // Where a save meets it, before that is written.
    fs::write(place.target.join("both"), "theirs first").unwrap();
    place.write("both", "ours then");
    let told = daemon.event("overwritten");
    assert!(told.contains("path=both"), "{told}");
    daemon.flush();
    assert_eq!(place.read("both").unwrap(), "ours then");
    // Everywhere, when the hub comes again.
    fs::write(place.target.join("theirs"), "changed by them").unwrap();
    processes::kill(daemon.hub());
    let told = daemon.event("conflict");
    assert!(is_told(&told, "theirs"), "{told}");
    daemon.flush();
    assert_eq!(place.read("theirs").unwrap(), "as it was");
    let mut kept = place.trash();
    kept.sort();
    assert_eq!(kept, [&b"changed by them"[..], b"theirs first"]);
    let rest = daemon.rest();
    assert!(!rest.contains("path=ours"), "{rest}");
    place.assert_equal();
    daemon.stop();
}
