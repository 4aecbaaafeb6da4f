//! Modes, owners, type changes, odd names, full and read-only disks: real files, real mounts.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Mutex;

use rustix::fs::{FileType, Mode};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

use super::*;
use crate::tree::{Digest, Stamp};

const SECOND_NS: i64 = 1_000_000_000;
const PLAIN: PutMeta = PutMeta { executable: false, mode: None, mtime_ns: None };
const PROGRAM: PutMeta = PutMeta { executable: true, mode: None, mtime_ns: None };

struct Bench {
    temp: tempfile::TempDir,
    root: TargetRoot,
}

impl Bench {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let root = TargetRoot::open_directory(&temp.path().join("root"), true).unwrap();
        Self { temp, root }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.temp.path().join("root").join(path)
    }

    fn put(&self, to: &str, content: &str, meta: PutMeta) -> Result<Put, RootErrorKind> {
        put(&self.root, &path(to), content.as_bytes(), &meta)
    }

    fn mode(&self, path: &str) -> u32 {
        fs::symlink_metadata(self.at(path)).unwrap().mode() & 0o7777
    }

    /// Names in the staging directory.
    fn staged(&self) -> usize {
        fs::read_dir(self.at(".e2ek-sync")).map_or(0, Iterator::count)
    }
}

fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

fn put(
    root: &TargetRoot,
    to: &SyncPath,
    content: &[u8],
    meta: &PutMeta,
) -> Result<Put, RootErrorKind> {
    let put = || -> Result<Put, RootError> {
        let mut staged = root.stage(to, content.len() as u64)?;
        staged.write_all(content).unwrap();
        root.put(to, staged, meta)
    };
    put().map_err(|error| error.kind)
}

/// Runs in a mount namespace of its own; without root, says so and does nothing.
fn in_own_mounts(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| {
            // SAFETY: of this thread only; nothing here relies on sharing the working directory.
            let alone =
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) };
            if let Err(errno) = alone {
                eprintln!("skipped: a mount namespace of our own is refused ({errno})");
                return;
            }
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            test();
        });
        ran.join().unwrap();
    });
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root may give files away");
    }
    root
}

#[test]
fn i1_a_new_file_comes_complete_and_nothing_stays_behind() {
    let bench = Bench::new();
    let done = bench.put("a", "text", PLAIN).unwrap();
    assert_eq!(fs::read(bench.at("a")).unwrap(), b"text");
    assert_eq!((done.in_place, bench.mode("a")), (None, 0o644));
    let found = bench.root.stat(&path("a")).unwrap().unwrap();
    assert_eq!((found.stamp, found.size, found.kind), (done.stamp, 4, FoundKind::File));
    let given = PutMeta { mode: Some(0o6740), ..PROGRAM };
    bench.put("b", "", given).unwrap();
    assert_eq!(bench.mode("b"), 0o740, "setuid and setgid are dropped");
    bench.put("c", "", PutMeta { mode: Some(0o640), ..PROGRAM }).unwrap();
    assert_eq!(bench.mode("c"), 0o750, "executable is content");
    drop(bench.root.stage(&path("d"), 0).unwrap());
    assert_eq!(bench.staged(), 0, "dropped staging is gone");
    assert!(!bench.at("d").exists());
    let Bench { temp, root } = bench;
    drop(root);
    assert!(!temp.path().join("root/.e2ek-sync").exists(), "tidy at a clean end");
}

#[test]
fn i1_i4_the_short_way_makes_a_file_only_where_nothing_stands() {
    let bench = Bench::new();
    fs::create_dir(bench.at("d")).unwrap();
    fs::write(bench.at("d/theirs"), "theirs").unwrap();
    symlink("..", bench.at("link")).unwrap();
    let mut within = Within::default();
    let mut make = |to: &str, meta| {
        let made = bench.root.put_new(&path(to), b"text", &meta, &mut within);
        made.map_err(|error| error.kind)
    };
    let dated = PutMeta { mode: Some(0o6640), mtime_ns: Some(SECOND_NS), ..PROGRAM };
    let stamps =
        [make("d/a", PLAIN).unwrap(), make("d/b", dated).unwrap(), make("c", PLAIN).unwrap()];
    for (name, stamp) in ["d/a", "d/b", "c"].into_iter().zip(stamps) {
        assert_eq!(fs::read(bench.at(name)).unwrap(), b"text");
        assert_eq!(bench.root.stat(&path(name)).unwrap().unwrap().stamp, stamp, "{name}");
    }
    assert_eq!((bench.mode("d/a"), bench.mode("d/b")), (0o644, 0o750));
    assert_eq!(stamps[1].mtime_ns, SECOND_NS);
    for (to, kind) in [
        ("d/theirs", RootErrorKind::Changed),
        ("d", RootErrorKind::Changed),
        ("link", RootErrorKind::Changed),
        ("link/d/x", RootErrorKind::LinkInTheWay),
        ("none/x", RootErrorKind::NotFound),
        (".e2ek-sync/x", RootErrorKind::Reserved),
    ] {
        assert_eq!(make(to, PLAIN), Err(kind), "{to}");
    }
    assert_eq!(fs::read(bench.at("d/theirs")).unwrap(), b"theirs");
    assert_eq!(bench.staged(), 0, "nothing is left of what was refused");
}

#[test]
fn i1_an_existing_file_keeps_its_other_bits() {
    let bench = Bench::new();
    fs::write(bench.at("a"), "old").unwrap();
    for (before, meta, after) in [
        (0o640, PLAIN, 0o640),
        (0o640, PROGRAM, 0o750),
        (0o751, PLAIN, 0o640),
        (0o744, PROGRAM, 0o744),
        (0o4755, PROGRAM, 0o755),
        (0o600, PutMeta { mode: Some(0o777), ..PLAIN }, 0o600),
    ] {
        fs::set_permissions(bench.at("a"), fs::Permissions::from_mode(before)).unwrap();
        bench.put("a", "new", meta).unwrap();
        assert_eq!(bench.mode("a"), after, "{before:o} {meta:?}");
    }
    let stamp = bench.root.set_executable(&path("a"), true).unwrap();
    assert_eq!(bench.mode("a"), 0o700);
    assert_eq!(bench.root.stat(&path("a")).unwrap().unwrap().stamp, stamp);
}

#[test]
fn owners_are_those_of_the_file_or_its_directory() {
    if !is_root() {
        return;
    }
    let mut bench = Bench::new();
    let chown = |name: &str, uid, gid| {
        std::os::unix::fs::chown(bench.at(name), Some(uid), Some(gid)).unwrap();
    };
    let owner = |bench: &Bench, name: &str| {
        let found = bench.root.stat(&path(name)).unwrap().unwrap();
        (found.uid, found.gid)
    };
    fs::create_dir(bench.at("d")).unwrap();
    fs::write(bench.at("d/old"), "").unwrap();
    chown("d", 1000, 2000);
    chown("d/old", 3000, 4000);
    for name in ["d/old", "d/new"] {
        bench.put(name, "x", PROGRAM).unwrap();
    }
    bench.root.make_directory(&path("d/sub"), Some(0o7750)).unwrap();
    bench.root.make_symlink(&path("d/link"), b"old").unwrap();
    assert_eq!(owner(&bench, "d/old"), (3000, 4000));
    for name in ["d/new", "d/sub", "d/link"] {
        assert_eq!(owner(&bench, name), (1000, 2000), "{name}");
    }
    assert_eq!((bench.mode("d/sub"), bench.mode("d/new")), (0o750, 0o755));
    fs::set_permissions(bench.at("d"), fs::Permissions::from_mode(0o2755)).unwrap();
    let owner_of_app = Owner::Fixed { uid: 7, gid: 8 };
    bench.root.configure(Settings { owner: owner_of_app, ..Settings::default() });
    bench.root.make_directory(&path("d/app"), None).unwrap();
    bench.put("d/file", "x", PLAIN).unwrap();
    assert_eq!((owner(&bench, "d/app"), bench.mode("d/app")), ((7, 2000), 0o2755));
    assert_eq!(owner(&bench, "d/file"), (7, 8));
}

#[test]
fn a_changed_file_always_has_a_later_time() {
    for fleeting in [false, true] {
        let mut bench = Bench::new();
        bench.root.configure(Settings { fleeting, ..Settings::default() });
        has_a_later_time(&bench);
    }
}

fn has_a_later_time(bench: &Bench) {
    let at = |mtime_ns| PutMeta { mtime_ns: Some(mtime_ns), ..PLAIN };
    let put = |content: &str, mtime| bench.put("a", content, at(mtime)).unwrap().stamp.mtime_ns;
    assert_eq!(put("1", 5 * SECOND_NS + 7), 5 * SECOND_NS + 7, "the source's");
    assert_eq!(put("22", 3 * SECOND_NS), 5 * SECOND_NS + 8, "a slow clock hides nothing");
    assert_eq!(put("x-y", 5 * SECOND_NS + 9), 5 * SECOND_NS + 9, "another size will do");
    assert_eq!(put("x+y", 5 * SECOND_NS + 10), 6 * SECOND_NS, ".pyc compares second and size");
    assert_eq!(put("x*y", 9 * SECOND_NS), 9 * SECOND_NS);
    fs::write(bench.at("b"), "z-y").unwrap();
    let old = bench.root.stat(&path("b")).unwrap().unwrap().stamp.mtime_ns;
    let moved = bench.root.rename(&path("a"), &path("b")).unwrap();
    assert!(moved.mtime_ns > old, "a moved file too");
    assert_eq!(fs::read(bench.at("b")).unwrap(), b"x*y");
    assert_eq!(bench.put("n", "", at(-1)).unwrap().stamp.mtime_ns, -1, "before the epoch");
}

#[test]
fn types_change_and_what_must_stay_stays() {
    let bench = Bench::new();
    let kind = |name: &str| bench.root.stat(&path(name)).unwrap().unwrap().kind;
    bench.put("x", "file", PLAIN).unwrap();
    bench.root.make_symlink(&path("x"), b"elsewhere").unwrap();
    assert_eq!(kind("x"), FoundKind::Symlink { target: (*b"elsewhere").into() });
    bench.put("x", "file", PLAIN).unwrap();
    assert_eq!(kind("x"), FoundKind::File);
    bench.root.make_directory(&path("x"), None).unwrap();
    assert_eq!(kind("x"), FoundKind::Directory);
    bench.put("x/theirs", "", PLAIN).unwrap();
    assert_eq!(bench.put("x", "", PLAIN), Err(RootErrorKind::NotEmpty));
    let refused = bench.root.make_symlink(&path("x"), b"a").unwrap_err();
    assert_eq!(refused.kind, RootErrorKind::NotEmpty);
    assert!(bench.at("x/theirs").exists(), "i4: what others put there stays");
    bench.root.remove_file(&path("x/theirs")).unwrap();
    bench.root.make_symlink(&path("x"), b"a").unwrap();
    bench.root.make_directory(&path("x"), None).unwrap();
    bench.put("x", "file", PLAIN).unwrap();
    assert_eq!(fs::read(bench.at("x")).unwrap(), b"file");
    assert_eq!(bench.staged(), 0);
}

#[test]
fn i4_what_appears_meanwhile_is_not_lost() {
    let bench = Bench::new();
    // A file where nothing was seen.
    fs::write(bench.at("staged"), "ours").unwrap();
    fs::write(bench.at("new"), "theirs").unwrap();
    let root = bench.root.fd.as_fd();
    let fault = put::install((root, b"staged"), root, b"new", None, false).unwrap_err();
    assert_eq!(fault.kind, RootErrorKind::Changed);
    assert_eq!(fs::read(bench.at("new")).unwrap(), b"theirs");
    // A file in the directory that makes room, at any moment.
    let (mut kept, mut made_room) = (0, 0);
    for _ in 0..2000 {
        bench.root.make_directory(&path("x"), None).unwrap();
        let theirs = bench.at("x/theirs");
        let started = std::sync::Barrier::new(2);
        let (created, put) = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                started.wait();
                fs::write(&theirs, "theirs").is_ok()
            });
            started.wait();
            let put = bench.put("x", "ours", PLAIN);
            (other.join().unwrap(), put)
        });
        assert!(put.is_ok() || created, "{put:?}");
        if created {
            assert_eq!(put, Err(RootErrorKind::NotEmpty));
            fs::remove_file(&theirs).expect("what they put there stays");
            kept += 1;
        } else {
            made_room += 1;
        }
    }
    println!("{kept} kept, {made_room} made room");
}

#[test]
fn i6_fifos_are_neither_opened_nor_replaced() {
    let bench = Bench::new();
    let mode = Mode::from(0o666);
    rustix::fs::mknodat(rustix::fs::CWD, bench.at("fifo"), FileType::Fifo, mode, 0).unwrap();
    let fifo = path("fifo");
    let root = &bench.root;
    assert_eq!(bench.put("fifo", "", PLAIN), Err(RootErrorKind::NotRegular));
    for kind in [
        root.open_file(&fifo).unwrap_err().kind,
        root.hash(&fifo).unwrap_err().kind,
        root.make_directory(&fifo, None).unwrap_err().kind,
        root.make_symlink(&fifo, b"a").unwrap_err().kind,
        root.set_executable(&fifo, true).unwrap_err().kind,
        root.remove_file(&fifo).unwrap_err().kind,
        root.rename(&fifo, &path("a")).unwrap_err().kind,
    ] {
        assert_eq!(kind, RootErrorKind::NotRegular);
    }
    assert_eq!(root.stat(&fifo).unwrap().unwrap().kind, FoundKind::Other);
    symlink("fifo", bench.at("link")).unwrap();
    assert_eq!(root.open_file(&path("link")).unwrap_err().kind, RootErrorKind::NotRegular);
}

#[test]
fn i6_names_are_bytes_and_ours_are_refused() {
    let bench = Bench::new();
    let long = SyncPath::new(vec![b'n'; 255]).unwrap();
    let odd = SyncPath::new(&b"\xff\n"[..]).unwrap();
    for name in [&long, &odd] {
        put(&bench.root, name, b"x", &PLAIN).unwrap();
        let digest = bench.root.hash(name).unwrap().unwrap().0;
        assert_eq!(digest, Digest::of(b"x"));
    }
    let on_disk = bench.at("").join(std::ffi::OsStr::from_bytes(b"\xff\n"));
    assert_eq!(fs::read(on_disk).unwrap(), b"x");
    let mut names: Vec<_> =
        bench.root.list(&SyncPath::root()).unwrap().into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, [long.as_bytes().into(), Box::from(&b"\xff\n"[..])], "staging is hidden");
    for ours in [".e2ek-sync", ".e2ek-sync/x", "d/.e2ek-sync/x", ".e2ek-sync.1.tmp"] {
        assert_eq!(bench.put(ours, "", PLAIN), Err(RootErrorKind::Reserved), "{ours}");
        assert_eq!(bench.root.remove_file(&path(ours)).unwrap_err().kind, RootErrorKind::Reserved);
    }
    assert_eq!(
        bench.root.remove_directory(&SyncPath::root()).unwrap_err().kind,
        RootErrorKind::Reserved
    );
}

#[test]
fn i6_a_link_on_the_way_is_never_followed() {
    let bench = Bench::new();
    fs::create_dir(bench.temp.path().join("out")).unwrap();
    fs::write(bench.temp.path().join("out/f"), "canary").unwrap();
    symlink("../out", bench.at("d")).unwrap();
    let root = &bench.root;
    let f = path("d/f");
    assert_eq!(bench.put("d/f", "", PLAIN), Err(RootErrorKind::LinkInTheWay));
    for kind in [
        root.stat(&f).unwrap_err().kind,
        root.open_file(&f).unwrap_err().kind,
        root.remove_file(&f).unwrap_err().kind,
        root.make_directory(&path("d/s"), None).unwrap_err().kind,
        root.make_symlink(&path("d/s"), b"a").unwrap_err().kind,
        root.list(&path("d")).unwrap_err().kind,
    ] {
        assert_eq!(kind, RootErrorKind::LinkInTheWay);
    }
    // Nor one that took a file's place after it was looked at.
    let out = bench.root.resolver.directory(bench.root.fd.as_fd(), b"").unwrap();
    let fault = found::open_checked(out.as_fd(), b"d", rustix::fs::OFlags::RDONLY).unwrap_err();
    assert_eq!(fault.kind, RootErrorKind::LinkInTheWay);
    let text = bench.root.open_file(&f).unwrap_err().to_string();
    assert_eq!(text, "read d/f: a symbolic link stands where a directory is expected");
}

#[test]
fn i6_other_names_of_a_file_do_not_change() {
    let mut bench = Bench::new();
    let out = bench.temp.path().join("out");
    for write in [WriteMode::Rename, WriteMode::InPlace] {
        bench.root.configure(Settings { write, ..Settings::default() });
        fs::write(&out, "store").unwrap();
        let _ = fs::remove_file(bench.at("a"));
        fs::hard_link(&out, bench.at("a")).unwrap();
        bench.root.set_executable(&path("a"), true).unwrap();
        assert_eq!(bench.mode("a") & 0o111, 0o111);
        assert_eq!(fs::metadata(&out).unwrap().mode() & 0o111, 0);
        let _ = fs::remove_file(bench.at("a"));
        fs::hard_link(&out, bench.at("a")).unwrap();
        assert_eq!(bench.put("a", "new", PLAIN).unwrap().in_place, None, "{write:?}");
        assert_eq!(fs::read(&out).unwrap(), b"store");
    }
    fs::hard_link(bench.at("a"), bench.at("b")).unwrap();
    bench.root.rename(&path("a"), &path("b")).unwrap();
    assert!(!bench.at("a").exists(), "two names of one inode: the old one goes all the same");
}

#[test]
fn in_place_keeps_the_inode_and_running_programs_run_on() {
    let mut bench = Bench::new();
    let in_place = Settings { write: WriteMode::InPlace, ..Settings::default() };
    bench.root.configure(in_place);
    bench.put("a", "a longer text", PLAIN).unwrap();
    let inode = fs::metadata(bench.at("a")).unwrap().ino();
    for content in ["short", "a much longer text than before", ""] {
        let done = bench.put("a", content, PROGRAM).unwrap();
        assert_eq!((done.in_place, done.stamp.inode), (Some(InPlace::Asked), inode));
        assert_eq!(fs::read(bench.at("a")).unwrap(), content.as_bytes());
    }
    assert_eq!(bench.mode("a"), 0o755);
    fs::copy("/bin/cat", bench.at("cat")).unwrap();
    let mut running = std::process::Command::new(bench.at("cat"))
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(bench.put("cat", "new", PROGRAM).unwrap().in_place, None, "ETXTBSY: renamed");
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
}

#[test]
fn removals_say_what_they_found() {
    let bench = Bench::new();
    bench.root.make_directory(&path("d"), Some(0o700)).unwrap();
    bench.put("d/f", "", PLAIN).unwrap();
    let root = &bench.root;
    assert_eq!(root.remove_directory(&path("d")).unwrap(), Removed::NotEmpty);
    assert_eq!(root.remove_file(&path("d")).unwrap_err().kind, RootErrorKind::IsDirectory);
    assert_eq!(root.remove_directory(&path("d/f")).unwrap_err().kind, RootErrorKind::NotADirectory);
    assert_eq!(root.remove_file(&path("d/f")).unwrap(), Removed::Gone);
    assert_eq!(root.remove_directory(&path("d")).unwrap(), Removed::Gone);
    for gone in ["d", "d/f", "x/y/z"] {
        assert_eq!(root.remove_file(&path(gone)).unwrap(), Removed::Absent);
        assert_eq!(root.remove_directory(&path(gone)).unwrap(), Removed::Absent);
        assert_eq!(root.stat(&path(gone)).unwrap(), None);
        assert_eq!(root.hash(&path(gone)).unwrap(), None);
    }
    bench.put("file", "", PLAIN).unwrap();
    assert_eq!(root.stat(&path("file/x")).unwrap(), None);
    assert_eq!(root.hash(&path("file/x")).unwrap(), None);
    assert_eq!(root.remove_file(&path("file/x")).unwrap(), Removed::Absent);
    assert_eq!(bench.put("file/x", "", PLAIN), Err(RootErrorKind::NotADirectory));
    assert_eq!(bench.put("x/y", "", PLAIN), Err(RootErrorKind::NotFound));
    assert_eq!(root.rename(&path("n"), &path("m")).unwrap_err().kind, RootErrorKind::NotFound);
}

#[test]
fn copies_are_hashed_on_the_way() {
    let bench = Bench::new();
    let content = vec![7; 600_000];
    fs::write(bench.at("a"), &content).unwrap();
    let (staged, digest) = bench.root.copy_to_stage(&path("a"), &path("b")).unwrap();
    assert_eq!((digest, staged.len()), (Digest::of(&content), 600_000));
    bench.root.put(&path("b"), staged, &PROGRAM).unwrap();
    assert_eq!(fs::read(bench.at("b")).unwrap(), content);
}

#[test]
fn i10_a_file_that_keeps_growing_does_not_keep_us() {
    let bench = Bench::new();
    // As if it had grown since its size was asked.
    fs::write(bench.at("log"), [b'x'; 100]).unwrap();
    let digest = |size| {
        let log = bench.root.open_file(&path("log")).unwrap();
        found::digest_of(log.as_fd(), size)
    };
    assert_eq!(digest(10), Err(rustix::io::Errno::AGAIN));
    assert_eq!(digest(100), Ok((Digest::of(&[b'x'; 100]), 100)));
}

#[test]
fn i8_leftovers_are_swept_but_not_those_of_the_living() {
    let bench = Bench::new();
    let alive = bench.root.stage(&path("a"), 0).unwrap();
    let second = TargetRoot::open_directory(&bench.at(""), false).unwrap();
    assert_eq!(bench.staged(), 1, "a living hub's staging is left alone");
    assert_eq!(second.identity(), bench.root.identity());
    drop((second, alive));
    // What a kill leaves: the names, and no lock.
    let killed = tempfile::tempdir().unwrap();
    let place = killed.path().join(".e2ek-sync");
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(place.join("0123456789abcdef-7"), "half").unwrap();
    fs::create_dir(place.join("0123456789abcdef-8")).unwrap();
    symlink("/etc/passwd", place.join("0123456789abcdef-9")).unwrap();
    let root = TargetRoot::open_directory(killed.path(), false).unwrap();
    assert!(!place.exists(), "swept at open");
    put(&root, &path("a"), b"x", &PLAIN).unwrap();
}

#[test]
fn i8_staging_beside_is_recorded_and_swept() {
    let mut bench = Bench::new();
    let recorded = std::sync::Arc::new(Mutex::new(Vec::new()));
    let record = std::sync::Arc::clone(&recorded);
    bench.root.on_beside(move |path| record.lock().unwrap().push(path.clone()));
    fs::create_dir(bench.temp.path().join("out")).unwrap();
    symlink("../out", bench.at(".e2ek-sync")).unwrap();
    bench.root.make_directory(&path("d"), None).unwrap();
    bench.put("d/f", "x", PLAIN).unwrap();
    bench.root.make_symlink(&path("d/l"), b"f").unwrap();
    let killed = bench.root.stage(&path("d/g"), 0).unwrap();
    std::mem::forget(killed);
    let left: Vec<SyncPath> = recorded.lock().unwrap().clone();
    assert_eq!((left.len(), left[1].parent()), (2, Some(path("d"))));
    assert_eq!(bench.root.list(&path("d")).unwrap().len(), 2, "hidden from lists");
    assert_eq!(fs::read_dir(bench.at("d")).unwrap().count(), 3);
    bench.root.sweep_beside(&left);
    bench.root.sweep_beside(&[path("d/f")]);
    assert_eq!(fs::read_dir(bench.at("d")).unwrap().count(), 2);
    assert_eq!(fs::read_dir(bench.temp.path().join("out")).unwrap().count(), 0);
}

#[test]
fn staging_that_was_taken_away_is_made_again() {
    let bench = Bench::new();
    bench.put("a", "1", PLAIN).unwrap();
    fs::remove_dir(bench.at(".e2ek-sync")).unwrap();
    bench.put("a", "2", PLAIN).unwrap();
    fs::rename(bench.at(".e2ek-sync"), bench.temp.path().join("moved")).unwrap();
    bench.put("a", "3", PLAIN).unwrap();
    assert_eq!(fs::read(bench.at("a")).unwrap(), b"3");
    assert_eq!(fs::read_dir(bench.temp.path().join("moved")).unwrap().count(), 0);
}

#[test]
fn i2_a_replaced_root_is_noticed() {
    let bench = Bench::new();
    bench.root.check().unwrap();
    fs::rename(bench.at(""), bench.temp.path().join("away")).unwrap();
    assert_eq!(bench.root.check().unwrap_err().kind, RootErrorKind::RootReplaced);
    fs::create_dir(bench.at("")).unwrap();
    assert_eq!(bench.root.check().unwrap_err().kind, RootErrorKind::RootReplaced);
}

#[test]
fn two_threads_write_at_once() {
    let bench = Bench::new();
    bench.root.make_directory(&path("d"), None).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let root = &bench.root;
            scope.spawn(move || {
                for number in 0..500 {
                    let own = path(&format!("d/{thread}-{number}"));
                    put(root, &own, b"x", &PLAIN).unwrap();
                    put(root, &path("d/shared"), b"x", &PLAIN).or_else(changed).unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read_dir(bench.at("d")).unwrap().count(), 1001);
    assert_eq!(bench.staged(), 0);
}

/// The only fault two writers of one path may see: it appeared between look and rename.
fn changed(kind: RootErrorKind) -> Result<Put, RootErrorKind> {
    match kind {
        RootErrorKind::Changed => Ok(Put { stamp: Stamp::default(), in_place: None }),
        other => Err(other),
    }
}

#[test]
fn i1_a_full_disk_leaves_the_old_file() {
    in_own_mounts(|| {
        let temp = tempfile::tempdir().unwrap();
        let size = Some(c"size=1m,nr_inodes=64");
        rustix::mount::mount("tmpfs", temp.path(), "tmpfs", MountFlags::empty(), size).unwrap();
        let mut root = TargetRoot::open_directory(temp.path(), false).unwrap();
        put(&root, &path("a"), b"old", &PLAIN).unwrap();
        fs::write(temp.path().join("ballast"), vec![0; 700_000]).unwrap();
        let mut staged = root.stage(&path("a"), 600_000).unwrap();
        let full = staged.write_all(&vec![1; 600_000]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        drop(staged);
        fs::remove_file(temp.path().join("ballast")).unwrap();
        let mut staged = root.stage(&path("a"), 500_000).unwrap();
        staged.write_all(&vec![1; 500_000]).unwrap();
        fs::write(temp.path().join("ballast"), vec![0; 450_000]).unwrap();
        root.configure(Settings { write: WriteMode::InPlace, ..Settings::default() });
        let full = root.put(&path("a"), staged, &PLAIN).unwrap_err();
        assert_eq!(full.kind, RootErrorKind::NoSpace, "found out before the first byte is lost");
        assert_eq!(fs::read(temp.path().join("a")).unwrap(), b"old");
        let no_inode = (0..64).find_map(|n| put(&root, &path(&format!("f{n}")), b"", &PLAIN).err());
        assert_eq!(no_inode, Some(RootErrorKind::NoSpace));
        assert_eq!(fs::read_dir(temp.path().join(".e2ek-sync")).unwrap().count(), 0);
    });
}

#[test]
fn a_read_only_disk_is_said_to_be_one() {
    in_own_mounts(|| {
        let bench = Bench::new();
        bench.put("a", "old", PLAIN).unwrap();
        let Bench { temp, root } = bench;
        drop(root);
        let at = temp.path().join("root");
        rustix::mount::mount_bind(&at, &at).unwrap();
        let read_only = MountFlags::BIND | MountFlags::RDONLY;
        rustix::mount::mount_remount(&at, read_only, "").unwrap();
        let root = TargetRoot::open_directory(&at, false).unwrap();
        for (name, kind) in [("a", RootErrorKind::ReadOnly), ("new", RootErrorKind::ReadOnly)] {
            assert_eq!(put(&root, &path(name), b"x", &PLAIN), Err(kind), "{name}");
        }
        let kind = |error: RootError| error.kind;
        assert_eq!(
            root.make_directory(&path("d"), None).map_err(kind),
            Err(RootErrorKind::ReadOnly)
        );
        assert_eq!(root.remove_file(&path("a")).map_err(kind), Err(RootErrorKind::ReadOnly));
        assert_eq!(fs::read(at.join("a")).unwrap(), b"old");
    });
}

#[test]
fn layers_of_an_image_take_every_change() {
    in_own_mounts(|| {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        rustix::mount::mount("tmpfs", temp.path(), "tmpfs", MountFlags::empty(), None).unwrap();
        for name in ["lower/dir", "lower/full", "lower/gone", "upper", "work", "app"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::write(at("lower/file"), "old").unwrap();
        fs::write(at("lower/full/theirs"), "theirs").unwrap();
        fs::hard_link(at("lower/file"), at("lower/full/name")).unwrap();
        let layers = ["lower", "upper", "work"].map(|name| at(name).display().to_string());
        let [lower, upper, work] = layers;
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let options = std::ffi::CString::new(options).unwrap();
        let none = MountFlags::empty();
        let mounted = rustix::mount::mount("overlay", at("app"), "overlay", none, &*options);
        if let Err(errno) = mounted {
            eprintln!("skipped: no overlay file system here ({errno})");
            return;
        }
        let root = TargetRoot::open_directory(&at("app"), false).unwrap();
        for name in ["file", "dir", "full/new", "full/name"] {
            assert_eq!(put(&root, &path(name), b"new", &PROGRAM).unwrap().in_place, None, "{name}");
            assert_eq!(fs::read(at("app").join(name)).unwrap(), b"new");
        }
        assert_eq!(put(&root, &path("full"), b"", &PLAIN), Err(RootErrorKind::NotEmpty));
        root.make_directory(&path("file"), None).unwrap();
        root.make_symlink(&path("gone"), b"file").unwrap();
        root.rename(&path("full/theirs"), &path("dir")).unwrap();
        assert_eq!(fs::read(at("app/dir")).unwrap(), b"theirs");
        assert_eq!(fs::read(at("lower/file")).unwrap(), b"old");
        assert_eq!(fs::read_dir(at("app/.e2ek-sync")).unwrap().count(), 0);
    });
}

#[test]
fn without_root_a_closed_directory_still_takes_a_writable_file() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    fs::create_dir(bench.at("closed")).unwrap();
    fs::write(bench.at("closed/open"), "old").unwrap();
    fs::write(bench.at("closed/shut"), "old").unwrap();
    for (name, mode) in [("closed/open", 0o666), ("closed/shut", 0o644), ("", 0o777)] {
        fs::set_permissions(bench.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(bench.temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let at = bench.at("");
    let nobody = move || {
        let (uid, gid) =
            (rustix::process::Uid::from_raw(65534), rustix::process::Gid::from_raw(65534));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        let root = TargetRoot::open_directory(&at, false).unwrap();
        let done = put(&root, &path("closed/open"), b"new", &PLAIN).unwrap();
        assert_eq!(done.in_place, Some(InPlace::Directory));
        for refused in ["closed/shut", "closed/none"] {
            let kind = put(&root, &path(refused), b"new", &PLAIN);
            assert_eq!(kind, Err(RootErrorKind::Denied), "{refused}");
        }
        put(&root, &path("mine"), b"new", &PLAIN).unwrap();
        root.make_directory(&path("dir"), None).unwrap();
    };
    std::thread::spawn(nobody).join().unwrap();
    assert_eq!(fs::read(bench.at("closed/open")).unwrap(), b"new");
    assert_eq!(fs::read(bench.at("closed/shut")).unwrap(), b"old");
}

#[test]
fn everything_works_without_openat2() {
    let mut bench = Bench::new();
    bench.root.resolver = Resolver::Walk;
    bench.root.make_directory(&path("d"), None).unwrap();
    bench.root.make_directory(&path("d/e"), None).unwrap();
    bench.put("d/e/f", "x", PLAIN).unwrap();
    bench.root.rename(&path("d/e/f"), &path("g")).unwrap();
    let moved = bench.temp.path().join("moved");
    fs::rename(bench.at(".e2ek-sync"), &moved).unwrap();
    bench.put("h", "x", PLAIN).unwrap();
    assert_eq!(fs::metadata(moved).unwrap().nlink(), 2);
    symlink("d", bench.at("l")).unwrap();
    assert_eq!(bench.put("l/f", "x", PLAIN), Err(RootErrorKind::LinkInTheWay));
    assert_eq!(fs::read(bench.at("g")).unwrap(), b"x");
}

/// For a look at the cost: `strace -fc`, or the time it prints. Run with `--ignored`.
#[test]
#[ignore = "a measurement"]
fn ten_thousand_new_files_from_two_threads() {
    let bench = Bench::new();
    let content = vec![b'x'; 3700];
    let meta = PutMeta { mtime_ns: Some(SECOND_NS), ..PLAIN };
    for directory in 0..200 {
        bench.root.make_directory(&path(&format!("d{directory}")), None).unwrap();
    }
    let before = std::time::Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (root, content, meta) = (&bench.root, &content, &meta);
            scope.spawn(move || {
                for number in 0..5000 {
                    let to = path(&format!("d{}/{thread}-{number}", number % 200));
                    put(root, &to, content, meta).unwrap();
                }
            });
        }
    });
    println!("{:?}", before.elapsed());
}
