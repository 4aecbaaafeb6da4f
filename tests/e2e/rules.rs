//! Ignore rules that change while they are followed, however they change.

use std::fs;

use crate::place::Place;

over_each_link! {
    a_directory_that_takes_the_place_of_another_brings_its_own_rules,
    what_is_ignored_from_now_on_is_told_and_left_alone,
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
