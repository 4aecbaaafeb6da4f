//! Modes, owners, type changes, odd names, full and read-only disks: real files, real mounts.

mod mounts;
mod staging;

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

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root may give files away");
    }
    root
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
fn i2_a_replaced_root_is_noticed() {
    let bench = Bench::new();
    bench.root.check().unwrap();
    fs::rename(bench.at(""), bench.temp.path().join("away")).unwrap();
    assert_eq!(bench.root.check().unwrap_err().kind, RootErrorKind::RootReplaced);
    fs::create_dir(bench.at("")).unwrap();
    assert_eq!(bench.root.check().unwrap_err().kind, RootErrorKind::RootReplaced);
}
