//! Attacks on the only writer into the app: links exchanged under its feet, mounts in its way,
//! processes that are not what they were. Each canary lies outside the root and must not change.
//!
//! `E2EK_ATTACK_SECONDS` makes the races last longer (5 seconds in all by default).

#![cfg(target_os = "linux")]
// Clippy's leave for tests does not reach the functions that tests share.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::server::root::{
    InPlace, Put, PutMeta, RootError, RootErrorKind, Settings, TargetRoot, WriteMode,
};
use e2ek_sidecar::server::target::{Target, TargetError};
use e2ek_sidecar::tree::Digest;
use rustix::fs::{CWD, RenameFlags};

const PLAIN: PutMeta = PutMeta { executable: false, mode: None, mtime_ns: None };

fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

fn put(root: &TargetRoot, to: &str, content: &str) -> Result<Put, RootErrorKind> {
    let to = path(to);
    let put = || -> Result<Put, RootError> {
        let mut staged = root.stage(&to, content.len() as u64)?;
        staged.write_all(content.as_bytes()).unwrap();
        root.put(&to, staged, &PLAIN)
    };
    put().map_err(|error| error.kind)
}

/// Everything that can be told of a tree from outside, change times included.
fn portrait(at: &Path) -> Vec<(PathBuf, [i64; 7], Vec<u8>)> {
    let mut seen = Vec::new();
    let mut todo = vec![at.to_owned()];
    while let Some(next) = todo.pop() {
        let meta = fs::symlink_metadata(&next).unwrap();
        let bytes = if meta.is_dir() {
            todo.extend(fs::read_dir(&next).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else {
            fs::read(&next).unwrap()
        };
        let (inode, links) = (meta.ino().cast_signed(), meta.nlink().cast_signed());
        let (mode, times) = (i64::from(meta.mode()), (meta.mtime_nsec(), meta.ctime_nsec()));
        let about = [inode, links, mode, meta.mtime(), times.0, meta.ctime(), times.1];
        seen.push((next, about, bytes));
    }
    seen.sort();
    seen
}

/// A root and a directory outside that must not change.
struct Arena {
    _temp: tempfile::TempDir,
    root: PathBuf,
    canary: PathBuf,
}

impl Arena {
    /// `root/d` is a directory, `root/l` a link to the canary, which holds the same names.
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (root, canary) = (temp.path().join("root"), temp.path().join("canary"));
        for place in [&root.join("d"), &canary] {
            fs::create_dir_all(place.join("empty")).unwrap();
            for name in ["f", "a", "b"] {
                fs::write(place.join(name), "canary").unwrap();
            }
        }
        fs::write(canary.join("a"), "secret").unwrap();
        symlink(&canary, root.join("l")).unwrap();
        symlink(&canary, root.join("stage")).unwrap();
        fs::write(root.join("file"), "ours").unwrap();
        symlink(canary.join("f"), root.join("file-link")).unwrap();
        Self { _temp: temp, root, canary }
    }

    /// Exchanges each pair without pause until `stop`; counts the exchanges.
    fn flip(&self, pairs: &[(&str, &str)], stop: &AtomicBool, flips: &AtomicU64) {
        while !stop.load(Ordering::Relaxed) {
            for (one, other) in pairs {
                let (one, other) = (self.root.join(one), self.root.join(other));
                let exchanged =
                    rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
                if exchanged.is_ok() {
                    flips.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Runs `attack` while `pairs` are exchanged: for `seconds` and until it says that this is
    /// enough, but no longer than a minute more.
    fn under_fire(&self, pairs: &[(&str, &str)], seconds: f64, mut attack: impl FnMut() -> bool) {
        let (stop, flips) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| self.flip(pairs, &stop, &flips));
            let begun = Instant::now();
            let (least, most) = (Duration::from_secs_f64(seconds), Duration::from_secs(60));
            let mut rounds = 0u64;
            while begun.elapsed() < least + most && (!attack() || begun.elapsed() < least) {
                rounds += 1;
            }
            stop.store(true, Ordering::Relaxed);
            println!("{rounds} rounds, {} exchanges", flips.load(Ordering::Relaxed));
        });
    }
}

/// Seconds for one race: a share of the whole.
fn seconds(share: f64) -> f64 {
    let told = std::env::var("E2EK_ATTACK_SECONDS").ok().and_then(|text| text.parse().ok());
    told.unwrap_or(5.0) * share
}

/// Every operation once, on names that the canary has too. Counts what was done and refused.
fn all_operations(root: &TargetRoot, done: &mut [u64; 2]) {
    let mut count = |ok: bool| done[usize::from(!ok)] += 1;
    count(put(root, "d/f", "written").is_ok());
    count(root.set_executable(&path("d/f"), true).is_ok());
    count(root.rename(&path("d/f"), &path("d/a")).is_ok());
    count(root.make_directory(&path("d/new"), Some(0o777)).is_ok());
    count(root.remove_directory(&path("d/empty")).is_ok());
    count(root.make_symlink(&path("d/link"), b"a").is_ok());
    count(root.remove_file(&path("d/b")).is_ok());
    count(root.copy_to_stage(&path("d/a"), &path("d/b")).is_ok_and(|(staged, digest)| {
        assert_ne!(digest, Digest::of(b"secret"), "read outside");
        root.put(&path("d/b"), staged, &PLAIN).is_ok()
    }));
    count(root.hash(&path("d/a")).is_ok_and(|seen| {
        assert!(seen.is_none_or(|(digest, _)| digest != Digest::of(b"secret")), "read outside");
        true
    }));
    count(put(root, "file", "ours").is_ok());
}

#[test]
fn i6_nothing_outside_changes_while_links_are_exchanged() {
    let arena = Arena::new();
    let root = TargetRoot::open_directory(&arena.root, false).unwrap();
    let before = portrait(&arena.canary);
    let pairs = [("d", "l"), (".e2ek-sync", "stage"), ("file", "file-link")];
    let mut done = [0; 2];
    arena.under_fire(&pairs, seconds(0.6), || {
        all_operations(&root, &mut done);
        done[0] > 100 && done[1] > 100
    });
    assert_eq!(portrait(&arena.canary), before, "escaped");
    println!("{} operations done, {} refused", done[0], done[1]);
    assert!(done[0] > 100 && done[1] > 100, "the race was not run: {done:?}");

    // The same attack on a writer that trusts paths: it must work, or the above proves nothing.
    let mut escaped = false;
    arena.under_fire(&pairs, 0.0, || {
        let _ = fs::write(arena.root.join("d/control"), "escaped");
        escaped = arena.canary.join("control").exists();
        escaped
    });
    assert!(escaped, "the control writer did not escape in a minute");
}

#[test]
fn i6_no_bytes_outside_change_when_written_in_place() {
    let arena = Arena::new();
    let mut root = TargetRoot::open_directory(&arena.root, false).unwrap();
    root.configure(Settings { write: WriteMode::InPlace, ..Settings::default() });
    // A second name of a file outside, as the app may make one; and a link to it.
    let (hard, link) = (arena.root.join("hard"), arena.root.join("file-link"));
    fs::hard_link(arena.canary.join("f"), &hard).unwrap();
    let bytes = || portrait(&arena.canary).into_iter().map(|(at, _, bytes)| (at, bytes));
    let before: Vec<_> = bytes().collect();
    let (mut in_place, mut others) = (0, 0);
    let pairs = [("file", "file-link"), ("file", "hard"), ("d", "l")];
    let mut attack = |write: &dyn Fn(&str, &str) -> bool| -> bool {
        for (name, content) in [("file", "1"), ("d/f", "a longer text"), ("file", "")] {
            *(if write(name, content) { &mut in_place } else { &mut others }) += 1;
        }
        // What was replaced is put back, so that the attack goes on.
        let (fresh, outside) = (arena.root.join("fresh"), arena.canary.join("f"));
        let _ = fs::remove_file(&fresh);
        if fs::symlink_metadata(&link).is_ok_and(|meta| meta.is_file() && meta.nlink() == 1) {
            let _ = symlink(&outside, &fresh).and_then(|()| fs::rename(&fresh, &link));
        } else if fs::symlink_metadata(&hard).is_ok_and(|meta| meta.is_file() && meta.nlink() == 1)
        {
            let _ = fs::hard_link(&outside, &fresh).and_then(|()| fs::rename(&fresh, &hard));
        }
        in_place > 100 && others > 100
    };
    arena.under_fire(&pairs, seconds(0.3), || {
        attack(&|name, content| {
            put(&root, name, content).is_ok_and(|put| put.in_place == Some(InPlace::Asked))
        })
    });
    assert_eq!(bytes().collect::<Vec<_>>(), before, "escaped");
    let mut escaped = false;
    arena.under_fire(&pairs, 0.0, || {
        attack(&|name, content| fs::write(arena.root.join(name), content).is_ok());
        escaped = bytes().collect::<Vec<_>>() != before;
        escaped
    });
    println!("{in_place} in place, {others} otherwise");
    assert!(escaped, "the control writer did not escape in a minute");
    assert!(in_place > 100 && others > 100, "the race was not run: {in_place} {others}");
}

#[test]
fn i6_nothing_outside_is_read() {
    let arena = Arena::new();
    let root = TargetRoot::open_directory(&arena.root, false).unwrap();
    let file = path("file");
    let (mut read, mut refused) = (0, 0);
    arena.under_fire(&[("file", "file-link")], seconds(0.1), || {
        match root.hash(&file) {
            Ok(Some((digest, _))) => {
                assert_eq!(digest, Digest::of(b"ours"), "read outside");
                read += 1;
            }
            _ => refused += 1,
        }
        read > 100 && refused > 100
    });
    assert!(read > 100 && refused > 100, "the race was not run: {read} {refused}");
}

/// A process in mounts of its own whose root is a directory here.
struct Contained {
    child: Child,
    rootfs: PathBuf,
    temp: tempfile::TempDir,
}

impl Contained {
    /// Runs `setup` (shell, in `rootfs`, in the new mount namespace), then enters the root and
    /// waits. `None`, with the reason printed, where this is not permitted.
    fn start(setup: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root may mount");
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        let rootfs = temp.path().join("rootfs");
        let decoy = temp.path().join("decoy");
        fs::create_dir_all(&decoy).unwrap();
        // `/app` leads to an absolute path that exists both in the root and on this machine.
        fs::create_dir_all(rootfs.join(decoy.strip_prefix("/").unwrap())).unwrap();
        symlink(&decoy, rootfs.join("app")).unwrap();
        let script = format!(
            "set -e; cd '{}'; for d in bin lib lib64 usr proc; do [ -e /$d ] || continue\n\
             mkdir -p $d; mount --rbind /$d $d; done\n{setup}\n\
             exec chroot . /bin/sh -c 'echo ready; exec cat'",
            rootfs.display()
        );
        let mut child = Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| println!("skipped: cannot run unshare ({error})"))
            .ok()?;
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the contained process did not start");
        Some(Self { child, rootfs, temp })
    }

    fn target(&self) -> Target {
        Target::pin(self.child.id().cast_signed()).unwrap()
    }

    /// A plain path through /proc, as a writer that is not careful would use.
    fn plain(&self, at: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{at}", self.child.id()))
    }

    /// Runs a command in the process's mounts and root.
    fn run(&self, command: &[&str]) -> std::io::Result<Vec<u8>> {
        let pid = self.child.id().to_string();
        let output =
            Command::new("nsenter").args(["-t", &pid, "-m", "-r"]).args(command).output()?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr))),
        }
    }

    /// What the process itself reads at an absolute path.
    fn sees(&self, at: &str) -> std::io::Result<Vec<u8>> {
        self.run(&["/bin/cat", at])
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn i6_an_absolute_link_leads_into_the_process_s_root() {
    let Some(app) = Contained::start(":") else {
        return;
    };
    let target = app.target();
    let root = TargetRoot::open_in_process(&target, Path::new("/app")).unwrap();
    put(&root, "f", "inside").unwrap();
    root.check().unwrap();
    assert_eq!(app.sees("/app/f").unwrap(), b"inside");
    let decoy = app.temp.path().join("decoy");
    assert_eq!(fs::read_dir(&decoy).unwrap().count(), 0, "written on this machine instead");
    // The control: a plain path through /proc leads to this machine's directory.
    fs::write(app.plain("/app/f"), "escaped").unwrap();
    assert_eq!(fs::read(decoy.join("f")).unwrap(), b"escaped");
    for outside in ["/proc/self/root/app", "/none"] {
        assert!(TargetRoot::open_in_process(&target, Path::new(outside)).is_err(), "{outside}");
    }
}

#[test]
fn i6_mounts_of_the_app_stay_mounted() {
    let Some(app) = Contained::start(
        "mkdir -p srv/vol srv/empty; echo config > conf; echo under > srv/config\n\
         mount --bind conf srv/config; mount -t tmpfs none srv/vol; mount -t tmpfs none srv/empty",
    ) else {
        return;
    };
    let root = TargetRoot::open_in_process(&app.target(), Path::new("/srv")).unwrap();
    let config = path("config");
    let mounted = |at: &str| root.stat(&path(at)).unwrap().unwrap().mount_root;
    assert!(mounted("config") && mounted("empty"));

    // A file that is mounted: in place, and what it is mounted from changes.
    let done = put(&root, "config", "new").unwrap();
    assert_eq!(done.in_place, Some(InPlace::MountPoint));
    assert_eq!(app.sees("/srv/config").unwrap(), b"new");
    assert_eq!(app.sees("/conf").unwrap(), b"new");
    assert_eq!(fs::read(app.rootfs.join("srv/config")).unwrap(), b"under\n", "still mounted over");

    // What would detach it is refused, from whichever side.
    put(&root, "other", "x").unwrap();
    let refused = |error: RootError| assert_eq!(error.kind, RootErrorKind::MountPoint);
    refused(root.remove_file(&config).unwrap_err());
    refused(root.rename(&config, &path("moved")).unwrap_err());
    refused(root.rename(&path("other"), &config).unwrap_err());
    refused(root.make_directory(&config, None).unwrap_err());
    refused(root.make_symlink(&config, b"other").unwrap_err());
    refused(root.remove_directory(&path("empty")).unwrap_err());
    assert_eq!(put(&root, "empty", "x"), Err(RootErrorKind::MountPoint));
    refused(root.make_symlink(&path("empty"), b"other").unwrap_err());
    root.set_executable(&config, true).unwrap();
    assert!(mounted("config") && mounted("empty"));

    // The control: a plain unlink through /proc detaches it.
    fs::remove_file(app.plain("/srv/config")).unwrap();
    assert!(app.sees("/srv/config").is_err(), "the kernel protects by itself");
}

#[test]
fn i1_a_nested_mount_is_staged_for_at_its_top() {
    let Some(app) = Contained::start(
        "mkdir -p srv/vol; mount -t tmpfs none srv/vol; mkdir srv/vol/deep srv/vol/.e2ek-sync\n\
         chmod 700 srv/vol/.e2ek-sync; echo half > srv/vol/.e2ek-sync/0-0",
    ) else {
        return;
    };
    let root = TargetRoot::open_in_process(&app.target(), Path::new("/srv")).unwrap();
    let staging = app.plain("/srv/vol/.e2ek-sync");
    assert!(!staging.exists(), "i8: leftovers in nested mounts are swept at open");
    let mut staged = root.stage(&path("vol/deep/f"), 1).unwrap();
    assert_eq!(fs::read_dir(&staging).unwrap().count(), 1, "staged on the same mount");
    staged.write_all(b"x").unwrap();
    assert_eq!(root.put(&path("vol/deep/f"), staged, &PLAIN).unwrap().in_place, None);
    assert_eq!(app.sees("/srv/vol/deep/f").unwrap(), b"x");
    put(&root, "f", "x").unwrap();
    drop(root);
    assert!(!staging.exists(), "tidy at a clean end");
    assert!(!app.plain("/srv/.e2ek-sync").exists(), "tidy at a clean end");
}

#[test]
fn i1_a_mount_that_came_later_is_learnt() {
    let Some(app) = Contained::start("mkdir -p srv/late") else {
        return;
    };
    let root = TargetRoot::open_in_process(&app.target(), Path::new("/srv")).unwrap();
    put(&root, "late/f", "under").unwrap();
    app.run(&["/bin/mount", "-t", "tmpfs", "none", "/srv/late"]).unwrap();
    put(&root, "late/f", "over").unwrap();
    assert_eq!(app.sees("/srv/late/f").unwrap(), b"over");
    app.run(&["/bin/mount", "-t", "tmpfs", "none", "/srv/late"]).unwrap();
    root.make_directory(&path("late/d"), Some(0o750)).unwrap();
    app.run(&["/bin/mount", "-t", "tmpfs", "none", "/srv/late/d"]).unwrap();
    root.make_symlink(&path("late/d/l"), b"f").unwrap();
    app.run(&["/bin/mkdir", "/srv/late/d/f"]).unwrap();
    assert_eq!(put(&root, "late/d/f", "x").unwrap().in_place, None);
    app.run(&["/bin/mount", "-t", "tmpfs", "none", "/srv/late/d"]).unwrap();
    app.run(&["/bin/mkdir", "/srv/late/d/f", "/srv/late/d/l"]).unwrap();
    root.make_symlink(&path("late/d/l"), b"f").unwrap();
    put(&root, "late/d/f", "x").unwrap();
    assert_eq!(app.sees("/srv/late/d/l").unwrap(), b"x");
    let from = path("late/d/f");
    let kind = root.rename(&from, &path("f")).unwrap_err().kind;
    assert_eq!(kind, RootErrorKind::CrossesMounts);
    let (staged, _) = root.copy_to_stage(&from, &path("f")).unwrap();
    root.put(&path("f"), staged, &PLAIN).unwrap();
}

#[test]
fn i1_a_writable_file_on_a_read_only_root_is_written_in_place() {
    let Some(app) = Contained::start(
        "mkdir srv vol; touch srv/config; mount -t tmpfs none vol; echo old > vol/config\n\
         mount --bind srv srv; mount --bind vol/config srv/config; mount -o remount,bind,ro srv",
    ) else {
        return;
    };
    let root = TargetRoot::open_in_process(&app.target(), Path::new("/srv")).unwrap();
    assert_eq!(put(&root, "config", "new").unwrap().in_place, Some(InPlace::MountPoint));
    assert_eq!(app.sees("/srv/config").unwrap(), b"new");
    assert_eq!(put(&root, "other", "new"), Err(RootErrorKind::ReadOnly));
}

#[test]
fn i2_writes_into_a_dead_container_are_not_believed() {
    let Some(mut app) = Contained::start(":") else {
        return;
    };
    let target = app.target();
    let root = TargetRoot::open_in_process(&target, Path::new("/app")).unwrap();
    put(&root, "f", "1").unwrap();
    target.check().unwrap();
    app.child.kill().unwrap();
    app.child.wait().unwrap();
    put(&root, "f", "2").expect("the held descriptor outlives the process");
    assert!(matches!(target.check(), Err(TargetError::Gone(_))));
    let refused = TargetRoot::open_in_process(&target, Path::new("/app")).unwrap_err();
    assert_eq!(refused.kind, RootErrorKind::RootReplaced);
    assert!(Target::pin(app.child.id().cast_signed()).is_err());
}

#[test]
fn i2_a_process_that_enters_another_namespace_is_noticed() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root may unshare mounts");
        return;
    }
    let script = "echo ready; read line; exec unshare -m sh -c 'echo moved; exec cat'";
    let mut child = Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let target = Target::pin(child.id().cast_signed()).unwrap();
    target.check().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "moved");
    assert!(matches!(target.check(), Err(TargetError::Moved(_))));
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// The usual sidecar: root without the privilege to trace, an app of another user.
#[test]
fn i6_an_app_of_another_user_is_entered_with_its_own_rights() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root may start a process of another user");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (uid, gid) = (65_533, 65_532);
    let mut child = Command::new("cat").uid(uid).gid(gid).stdin(Stdio::piped()).spawn().unwrap();
    let pid = child.id().cast_signed();
    let sidecar = std::thread::scope(|scope| {
        let sidecar = || {
            let mut ours = capabilities(None).unwrap();
            ours.effective.remove(CapabilitySet::SYS_PTRACE);
            ours.permitted.remove(CapabilitySet::SYS_PTRACE);
            set_capabilities(None, ours).unwrap();
            let refused = fs::read_link(format!("/proc/{pid}/root")).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied, "the control");
            let target = Target::pin(pid).unwrap();
            target.check().unwrap();
            assert_eq!(target.owner(), (uid, gid));
            let root = TargetRoot::open_in_process(&target, temp.path()).unwrap();
            put(&root, "f", "x").unwrap();
        };
        scope.spawn(sidecar).join()
    });
    drop(child.stdin.take());
    child.wait().unwrap();
    sidecar.unwrap();
    let meta = fs::metadata(temp.path().join("f")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (uid, gid), "new files are the app's");
}
