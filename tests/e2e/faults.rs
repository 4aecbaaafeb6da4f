//! Permissions, read-only and full targets: a Problem, the rest goes on, and it heals.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::place::{Place, Said, everything_below, is_root};

over_each_link! {
    an_unreadable_file_does_not_stop_the_rest,
    a_read_only_target_is_forbidden,
    i12_a_full_disk_is_told_and_heals,
    a_file_that_grows_while_it_is_read_arrives_whole,
}

const NOBODY: u32 = 65534;

/// As an ordinary user, whoever runs the tests.
fn as_nobody(place: &Place, mut command: Command) -> Command {
    if is_root() {
        for path in everything_below(&place.top).iter().chain([&place.top]) {
            std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Whether another user may run the binaries at all.
fn nobody_can_run() -> bool {
    let all = crate::place::binary().ancestors();
    let open = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o001 != 0;
    let can = !is_root() || all.filter(|path| !path.as_os_str().is_empty()).all(open);
    if !can {
        println!("skipped: the binaries lie where only this user may look");
    }
    can
}

fn an_unreadable_file_does_not_stop_the_rest(place: &Place) {
    if !nobody_can_run() {
        return;
    }
    place.write("open", "1");
    place.write("closed", "secret");
    place.write("d/open", "1");
    place.write("locked/file", "1");
    let mode = |name: &str, mode| {
        fs::set_permissions(place.source.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("closed", 0o000);
    mode("locked", 0o000);
    let said = Said::of(as_nobody(place, place.syncing(&["sync", "--once"], &[])));
    said.ends_with(1).says("problem path=closed").says("problem path=locked").says("left out");
    assert_eq!(place.read("open").unwrap(), "1");
    assert_eq!(place.read("d/open").unwrap(), "1");
    assert_eq!(place.read("closed"), None);
    mode("closed", 0o644);
    mode("locked", 0o755);
    Said::of(as_nobody(place, place.syncing(&["sync", "--once"], &[]))).ends_with(0);
    place.assert_equal();
}

fn a_read_only_target_is_forbidden(place: &Place) {
    if !nobody_can_run() {
        return;
    }
    place.write("file", "1");
    fs::create_dir(&place.target).unwrap();
    let command = as_nobody(place, place.syncing(&["sync", "--once"], &[]));
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
    place.control(&["flush", "--timeout", "30s"]).ends_with(1).says("left out");
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
