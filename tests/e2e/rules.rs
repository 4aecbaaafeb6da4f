//! Ignore rules that change while they are followed, however they change.

use std::fs;
use std::path::Path;

use crate::place::Place;

over_each_link! {
    a_directory_that_takes_the_place_of_another_brings_its_own_rules,
    what_is_ignored_from_now_on_is_told_and_left_alone,
    the_settings_are_followed_where_they_lie,
    settings_above_the_source_are_followed,
}

fn a_directory_that_takes_the_place_of_another_brings_its_own_rules(place: &Place) {
    for (name, text) in [("dist/app.js", "1"), ("site/.gitignore", "*.css\n"), ("site/a.css", "1")]
    {
        place.write(name, text);
    }
    let daemon = place.watch(&[]).synced();
    assert_eq!(place.read("dist/app.js").unwrap(), "1");
    assert_eq!(place.read("site/a.css"), None);
    // Made elsewhere, as a build does, and swapped in whole: no event names a file in it.
    let made = place.top.join("made");
    for (name, text) in [
        ("dist/.gitignore", "secret.txt\nlogs/\n"),
        ("dist/app.js", "2"),
        ("dist/secret.txt", "hidden"),
        ("dist/deep/secret.txt", "hidden"),
        ("dist/logs/today", "hidden"),
        ("site/a.css", "2"),
        ("site/deep/a.css", "2"),
    ] {
        let file = made.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    for name in ["dist", "site"] {
        fs::rename(place.source.join(name), place.top.join(format!("old-{name}"))).unwrap();
        fs::rename(made.join(name), place.source.join(name)).unwrap();
    }
    daemon.flush();
    assert_eq!(place.read("dist/app.js").unwrap(), "2");
    for hidden in ["dist/secret.txt", "dist/deep/secret.txt", "dist/logs/today"] {
        assert_eq!(place.read(hidden), None, "{hidden} is ignored by dist/.gitignore");
    }
    assert_eq!(place.read("site/a.css").unwrap(), "2", "nothing ignores it any more");
    assert_eq!(place.read("site/deep/a.css").unwrap(), "2");
    // What is wanted by now is watched, too; so is a directory made again without rules.
    fs::rename(place.source.join("dist"), place.top.join("older-dist")).unwrap();
    place.write("dist/logs/today", "shown");
    daemon.flush();
    assert_eq!(place.read("dist/logs/today").unwrap(), "shown");
    place.write("dist/logs/today", "shown again");
    place.write("site/deep/a.css", "3");
    daemon.flush();
    assert_eq!(place.read("dist/logs/today").unwrap(), "shown again");
    assert_eq!(place.read("site/deep/a.css").unwrap(), "3");
    daemon.stop();
    // The root itself.
    place.write(".e2ekignore", "*.map\n");
    place.write("a.map", "hidden");
    let daemon = place.watch(&[]).synced();
    assert_eq!(place.read("a.map"), None);
    let other = place.top.join("other");
    fs::create_dir_all(other.join("dist/logs")).unwrap();
    for (name, text) in [(".gitignore", "*.txt\n"), ("a.map", "shown"), ("a.txt", "hidden")] {
        fs::write(other.join(name), text).unwrap();
    }
    fs::write(other.join("dist/logs/today"), "other").unwrap();
    fs::rename(&place.source, place.top.join("before")).unwrap();
    fs::rename(&other, &place.source).unwrap();
    crate::place::until("the other root's file", || {
        place.read("a.map").is_some_and(|text| text == "shown")
    });
    daemon.flush();
    assert_eq!(place.read("a.txt"), None);
    daemon.stop();
}

fn what_is_ignored_from_now_on_is_told_and_left_alone(place: &Place) {
    for name in ["a.log", "sub/b.log", "sub/c.txt"] {
        place.write(name, "1");
    }
    let mut daemon = place.watch(&[]).synced();
    place.write(".e2ekignore", "*.log\n");
    let told = daemon.line(&["ignored from now on"]);
    assert!(told.contains('2'), "{told}");
    for name in ["a.log", "sub/b.log", "sub/c.txt"] {
        place.write(name, "2");
    }
    fs::remove_file(place.source.join("a.log")).unwrap();
    daemon.flush();
    assert_eq!(place.read("a.log").unwrap(), "1");
    assert_eq!(place.read("sub/b.log").unwrap(), "1");
    assert_eq!(place.read("sub/c.txt").unwrap(), "2");
    fs::remove_file(place.source.join(".e2ekignore")).unwrap();
    daemon.flush();
    assert_eq!(place.read("sub/b.log").unwrap(), "2", "wanted again");
    daemon.stop();
}

fn the_settings_are_followed_where_they_lie(place: &Place) {
    place.write("e2ek.toml", "[workspace]\nexclude = ['*.log']\n");
    settings_are_followed(place, &place.source.join("e2ek.toml"));
}

fn settings_above_the_source_are_followed(place: &Place) {
    fs::write(place.top.join("e2ek.toml"), "[workspace]\nexclude = ['*.log']\n").unwrap();
    settings_are_followed(place, &place.top.join("e2ek.toml"));
}

/// Of the file that excludes `*.log`.
fn settings_are_followed(place: &Place, file: &Path) {
    let save = |text: &str| place.save(file.to_str().unwrap(), text);
    for name in ["a.log", "sub/b.log", "a.txt", "big/c"] {
        place.write(name, "1");
    }
    let mut daemon = place.watch(&["--", "sh", "-c", "echo up; exec sleep 1000"]).synced();
    daemon.line(&["up"]);
    assert_eq!(place.read("sub/b.log"), None);
    let rule = "[[restart.rule]]\npaths = ['*.txt']\naction = 'nothing'\n";
    save(&format!("[workspace]\nexclude = ['big/']\nmode = 'mirror'\n{rule}"));
    daemon.event("setting key=restart.rule");
    daemon.event("setting key=workspace.exclude value=\"big/\"");
    daemon.line(&["workspace.mode", "started again"]);
    daemon.line(&["1 file ignored from now on"]);
    crate::place::until("what is wanted now", || place.read("sub/b.log").is_some());
    place.write("big/c", "2");
    place.write("sub/b.log", "2");
    place.write("a.txt", "2");
    daemon.flush();
    assert_eq!(place.read("big/c").unwrap(), "1");
    assert_eq!(place.read("sub/b.log").unwrap(), "2");
    // A fault changes nothing, and the mended file is followed again.
    let mut connection = daemon.connection();
    save("[workspace]\nexclude = [");
    daemon.line(&["e2ek.toml", "stays"]);
    place.write("big/c", "3");
    connection.flush();
    assert_eq!(place.read("big/c").unwrap(), "1");
    fs::write(file, "").unwrap();
    daemon.event("setting key=workspace.exclude value=\"none\"");
    crate::place::until("what no rule leaves out", || {
        place.read("big/c").is_some_and(|text| text == "3")
    });
    daemon.stop();
}
