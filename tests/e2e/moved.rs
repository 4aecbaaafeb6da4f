//! Directories that move as a whole, and what may happen to them meanwhile.

use std::fs;
use std::io::Write;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::place::Place;

over_each_link! {
    edited_while_it_moves,
    moved_to_and_fro,
    moved_over_another,
    moved_to_where_other_rules_count,
    i4_moved_where_others_changed_the_target,
}

/// A directory of some files in some directories.
fn fill(place: &Place, top: &str) {
    for file in 0..60 {
        place.write(&format!("{top}/{}/{file}", file % 6), format!("{top} {file}"));
    }
}

fn rename(place: &Place, from: &str, to: &str) {
    fs::rename(place.source.join(from), place.source.join(to)).unwrap();
}

fn edited_while_it_moves(place: &Place) {
    fill(place, "a");
    let daemon = place.watch(&[]).synced();
    // Before, at the same moment, and after, under either name.
    place.write("a/1/1", "just before");
    rename(place, "a", "b");
    place.write("b/2/2", "just after");
    daemon.flush();
    place.assert_equal();
    // By somebody who opened it under the old name.
    let mut open = fs::OpenOptions::new().append(true).open(place.source.join("b/3/3")).unwrap();
    open.write_all(b" first").unwrap();
    rename(place, "b", "c");
    open.write_all(b" second").unwrap();
    drop(open);
    daemon.flush();
    place.assert_equal();
    assert!(place.read("c/3/3").unwrap().ends_with(" first second"));
    // What is born, and what goes, in it.
    place.write("c/4/born", "1");
    rename(place, "c", "d");
    fs::remove_file(place.source.join("d/5/5")).unwrap();
    rename(place, "d/1", "d/moved");
    place.write("d/moved/born", "2");
    daemon.flush();
    place.assert_equal();
    daemon.stop();
}

fn moved_to_and_fro(place: &Place) {
    fill(place, "a");
    fill(place, "beside");
    let daemon = place.watch(&[]).synced();
    for round in 0..20 {
        rename(place, "a", "b");
        rename(place, "beside", "a");
        place.write("a/0/0", format!("round {round}"));
        rename(place, "b", "beside");
        if round % 7 == 0 {
            daemon.flush();
            place.assert_equal();
        }
    }
    daemon.flush();
    place.assert_equal();
    daemon.stop();
}

fn moved_over_another(place: &Place) {
    fill(place, "a");
    fill(place, "b");
    place.write("b/only/here", "1");
    fs::create_dir(place.source.join("empty")).unwrap();
    let daemon = place.watch(&[]).synced();
    rename(place, "a", "empty");
    daemon.flush();
    place.assert_equal();
    // Each takes the other's place.
    let [empty, b] = ["empty", "b"].map(|name| place.source.join(name));
    renameat_with(CWD, &empty, CWD, &b, RenameFlags::EXCHANGE).unwrap();
    daemon.flush();
    place.assert_equal();
    fs::remove_dir_all(&b).unwrap();
    fs::rename(&empty, &b).unwrap();
    daemon.flush();
    place.assert_equal();
    assert_eq!(place.read("b/only/here").unwrap(), "1");
    daemon.stop();
}

fn moved_to_where_other_rules_count(place: &Place) {
    fill(place, "a");
    place.write(".gitignore", "ignored/\n/a/hidden\n/b/private\n");
    place.write("a/hidden", "seen in b");
    place.write("a/private", "not seen in b");
    fs::create_dir(place.source.join("ignored")).unwrap();
    let daemon = place.watch(&[]).synced();
    assert_eq!((place.read("a/hidden"), place.read("a/private").is_some()), (None, true));
    rename(place, "a", "b");
    daemon.flush();
    assert_eq!(place.read("b/hidden").unwrap(), "seen in b");
    assert_eq!((place.read("a/private"), place.read("b/private")), (None, None));
    assert_eq!(place.read("b/1/1").unwrap(), "a 1");
    rename(place, "b/1", "ignored/1");
    daemon.flush();
    assert_eq!((place.read("b/1/1"), place.read("ignored/1/1")), (None, None));
    rename(place, "ignored/1", "back");
    place.write("back/1", "edited");
    daemon.flush();
    assert_eq!(place.read("back/1").unwrap(), "edited");
    assert_eq!(place.read("back/7").unwrap(), "a 7");
    daemon.stop();
}

fn i4_moved_where_others_changed_the_target(place: &Place) {
    fill(place, "a");
    let daemon = place.watch(&[]).synced();
    fs::write(place.target.join("a/1/1"), "theirs").unwrap();
    fs::write(place.target.join("a/2/new"), "theirs, too").unwrap();
    fs::remove_file(place.target.join("a/3/3")).unwrap();
    rename(place, "a", "b");
    daemon.flush();
    assert_eq!(place.trash(), [b"theirs"]);
    assert_eq!(fs::read(place.target.join("a/2/new")).unwrap(), b"theirs, too");
    fs::remove_dir_all(place.target.join("a")).unwrap();
    place.assert_equal();
    // Something stands where it is to come.
    fs::create_dir(place.target.join("c")).unwrap();
    fs::write(place.target.join("c/theirs"), "3").unwrap();
    rename(place, "b", "c");
    daemon.flush();
    assert_eq!(fs::read(place.target.join("c/theirs")).unwrap(), b"3");
    fs::remove_file(place.target.join("c/theirs")).unwrap();
    place.assert_equal();
    daemon.stop();
}
