//! Permissions, read-only and full targets: a Problem, the rest goes on, and it heals.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::place::{Place, Said, binary, everything_below, is_root, sidecar};

over_each_link! {
    an_unreadable_file_does_not_stop_the_rest,
    a_read_only_target_is_forbidden,
    i12_a_full_disk_is_told_and_heals,
    i12_a_disk_that_turns_read_only_is_told_and_heals,
    a_file_that_grows_while_it_is_read_arrives_whole,
    i5_a_file_that_shrinks_and_vanishes_while_it_is_read_ends_right,
    i5_times_of_any_kind_are_only_stamps,
    names_that_differ_in_case_alone_are_two,
    i3_file_systems_inside_of_both_trees_are_part_of_them,
    with_few_descriptors_it_syncs_or_says_so,
}

const NOBODY: u32 = 65534;

/// `sync --once` as an ordinary user, whoever runs the tests.
fn once_as_nobody(place: &Place) -> Command {
    let plain = place.syncing(&["sync", "--once"], &[]);
    if !is_root() {
        return plain;
    }
    // Where the binaries lie, perhaps only this user may look. They are copied by a process of its own:
    // what another test starts meanwhile would hold them open for writing.
    let (here, copies) = (binary().parent().unwrap(), place.top.join("binaries"));
    if !copies.exists() {
        fs::create_dir(&copies).unwrap();
        let copied = Command::new("cp").args([binary(), sidecar(), &copies]).status().unwrap();
        assert!(copied.success());
    }
    for path in everything_below(&place.top).iter().chain([&place.top]) {
        std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let [here, copies] = [here, &copies].map(|folder| folder.to_str().unwrap());
    let copy = |word: &OsStr| word.to_str().unwrap().replace(here, copies);
    let mut command = place.environment(copy(plain.get_program()).as_ref());
    command.args(plain.get_args().map(copy)).uid(NOBODY).gid(NOBODY);
    command
}

fn an_unreadable_file_does_not_stop_the_rest(place: &Place) {
    place.write("open", "1");
    place.write("closed", "secret");
    place.write("d/open", "1");
    place.write("locked/file", "1");
    let mode = |name: &str, mode| {
        fs::set_permissions(place.source.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("closed", 0o000);
    mode("locked", 0o000);
    let said = Said::of(once_as_nobody(place));
    said.ends_with(1).says("problem path=closed").says("problem path=locked").says("left out");
    assert_eq!(place.read("open").unwrap(), "1");
    assert_eq!(place.read("d/open").unwrap(), "1");
    assert_eq!(place.read("closed"), None);
    mode("closed", 0o644);
    mode("locked", 0o755);
    Said::of(once_as_nobody(place)).ends_with(0);
    place.assert_equal();
}

fn a_read_only_target_is_forbidden(place: &Place) {
    place.write("file", "1");
    fs::create_dir(&place.target).unwrap();
    let command = once_as_nobody(place);
    fs::set_permissions(&place.target, fs::Permissions::from_mode(0o555)).unwrap();
    let said = Said::of(command);
    assert!(matches!(said.code, Some(1 | 4)), "{said:?}");
    said.says("permission");
    assert_eq!(place.read("file"), None);
    fs::set_permissions(&place.target, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A small file system; unmounted at the end.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(path: &'a Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(path).output();
        let mounted = mount.is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: a small file system cannot be mounted here");
        }
        mounted.then_some(Self(path))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn i12_a_full_disk_is_told_and_heals(place: &Place) {
    let Some(_small) = Small::mount(&place.target) else { return };
    fs::write(place.target.join("ballast"), vec![1; 600 << 10]).unwrap();
    place.write("small", "1");
    let mut daemon = place.watch(&[]).synced();
    place.write("large", vec![7; 700 << 10]);
    place.write("small", "2");
    let problem = daemon.event("problem path=large");
    assert!(problem.contains("space"), "{problem}");
    assert_ne!(daemon.status()["state"], "synced");
    place.control(&["flush", "--timeout", "100s"]).ends_with(1).says("left out");
    assert_eq!(place.read("small").unwrap(), "2");
    assert!(!place.target.join("large").exists());
    fs::remove_file(place.target.join("ballast")).unwrap();
    daemon.event("problem gone path=large");
    daemon.flush();
    assert_eq!(fs::metadata(place.target.join("large")).unwrap().len(), 700 << 10);
    assert_eq!(daemon.status()["state"], "synced");
    daemon.stop();
}

fn a_file_that_grows_while_it_is_read_arrives_whole(place: &Place) {
    use std::io::Write;
    place.write("log.txt", "");
    let daemon = place.watch(&[]).synced();
    let mut file = fs::File::options().append(true).open(place.source.join("log.txt")).unwrap();
    for number in 0..2000 {
        writeln!(file, "{number} {}", "x".repeat(400)).unwrap();
    }
    drop(file);
    daemon.flush();
    place.assert_equal();
    daemon.stop();
}

fn remount(path: &Path, how: &str) {
    let mut mount = Command::new("mount");
    assert!(mount.args(["-o", how]).arg(path).status().unwrap().success(), "{how}");
}

fn i12_a_disk_that_turns_read_only_is_told_and_heals(place: &Place) {
    let Some(_small) = Small::mount(&place.target) else { return };
    place.write("d/file", "1");
    let mut daemon = place.watch(&[]).synced();
    remount(&place.target, "remount,ro");
    place.write("d/file", "2");
    place.write("new", "1");
    let problem = daemon.event("problem path=d/file");
    assert!(problem.contains("read-only"), "{problem}");
    place.control(&["flush", "--timeout", "100s"]).ends_with(1).says("left out");
    assert_eq!(place.read("d/file").unwrap(), "1");
    remount(&place.target, "remount,rw");
    daemon.event("problem gone path=d/file");
    daemon.flush();
    place.assert_equal();
    daemon.stop();
}

fn i5_a_file_that_shrinks_and_vanishes_while_it_is_read_ends_right(place: &Place) {
    let whole = vec![7; 3 << 20];
    place.write("data", &whole);
    place.write("still", "here");
    let daemon = place.watch(&[]).synced();
    let path = place.source.join("data");
    for round in 0..60_u64 {
        match round % 4 {
            0 => fs::write(&path, &whole).unwrap(),
            1 => {
                let file = fs::File::options().write(true).open(&path).unwrap();
                file.set_len((3 << 20) - round * 40_000).unwrap();
            }
            2 => fs::remove_file(&path).unwrap(),
            _ => fs::write(&path, &whole[..usize::try_from(round).unwrap()]).unwrap(),
        }
        // A reader at the target sees a content that the source had.
        if let Ok(found) = fs::read(place.target.join("data")) {
            assert!(found.iter().all(|byte| *byte == 7), "{round}: {} bytes", found.len());
        }
    }
    daemon.flush();
    place.assert_equal();
    daemon.stop();
}

/// Sets both times of a source's file, in seconds since 1970.
fn set_time(place: &Place, name: &str, seconds: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, place.source.join(name), &times, AtFlags::empty()).unwrap();
}

fn i5_times_of_any_kind_are_only_stamps(place: &Place) {
    // The beginning, before it, a whole second of the past, beyond 2038 and beyond 2106.
    let times = [0, -1, 1_000_000_000, 1 << 31, 1 << 33];
    for (number, time) in times.into_iter().enumerate() {
        place.write(&format!("file{number}"), "one");
        set_time(place, &format!("file{number}"), time);
    }
    let daemon = place.watch(&[]).synced();
    place.assert_equal();
    // Same size, same time; then another time and the same content.
    for (number, time) in times.into_iter().enumerate() {
        place.write(&format!("file{number}"), "two");
        set_time(place, &format!("file{number}"), time);
    }
    daemon.flush();
    place.assert_equal();
    (0..times.len()).for_each(|number| set_time(place, &format!("file{number}"), 5));
    daemon.flush();
    place.assert_equal();
    daemon.stop();
    place.once(&[]).ends_with(0).says("equal=true");
}

fn names_that_differ_in_case_alone_are_two(place: &Place) {
    place.write("readme", "1");
    place.write("Dir/file", "1");
    let daemon = place.watch(&[]).synced();
    let rename = |from: &str, to: &str| {
        fs::rename(place.source.join(from), place.source.join(to)).unwrap();
    };
    rename("readme", "README");
    rename("Dir", "dir");
    daemon.flush();
    place.assert_equal();
    place.write("readme", "another");
    rename("dir/file", "dir/File");
    daemon.flush();
    place.assert_equal();
    assert_eq!(place.read("README").unwrap(), "1");
    daemon.stop();
}

fn i3_file_systems_inside_of_both_trees_are_part_of_them(place: &Place) {
    let (there, here) = (place.target.join("volume"), place.source.join("disk"));
    let Some(_there) = Small::mount(&there) else { return };
    let Some(_here) = Small::mount(&here) else { return };
    place.write("volume/a", "1");
    place.write("disk/b", "1");
    place.write("c", "1");
    let daemon = place.watch(&[]).synced();
    place.assert_equal();
    // Over the edges, as a rename where it can be one and as a copy where not.
    fs::rename(place.source.join("c"), place.source.join("volume/c")).unwrap();
    fs::rename(place.source.join("volume/a"), place.source.join("a")).unwrap();
    place.write("disk/deep/d", "1");
    fs::copy(place.source.join("disk/b"), place.source.join("volume/b")).unwrap();
    daemon.flush();
    place.assert_equal();
    fs::remove_file(here.join("b")).unwrap();
    fs::remove_file(place.source.join("volume/b")).unwrap();
    daemon.flush();
    place.assert_equal();
    daemon.stop();
}

fn with_few_descriptors_it_syncs_or_says_so(place: &Place) {
    for number in 0..300 {
        place.write(&format!("{}/{}/{number}", number % 7, number % 3), format!("{number}"));
    }
    let plain = place.syncing(&["sync", "--once"], &[]);
    let mut synced = false;
    // With fewer no runtime can be started.
    for limit in 12..60 {
        let mut command = place.environment("sh".as_ref());
        command.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\"")]);
        command.arg(plain.get_program()).args(plain.get_args());
        let said = Said::of(command);
        assert!(!said.err.contains("panicked"), "{limit}: {said:?}");
        if said.code == Some(0) {
            place.assert_equal();
            synced = true;
        }
    }
    assert!(synced, "sixty descriptors are enough");
    place.once(&[]).ends_with(0);
    place.assert_equal();
    place.assert_clean();
}
