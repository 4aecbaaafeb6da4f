//! `sync --once` and `plan`.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::place::{Place, files_below};
use crate::tree;

over_each_link! {
    i3_everything_arrives_and_a_second_run_reads_nothing,
    i5_same_size_and_time_is_still_seen,
    i4_foreign_content_is_kept_aside_and_told,
    i4_equal_content_is_adopted_without_a_byte,
    i4_keep_leaves_what_others_made,
    i7_mirror_removes_within_the_budget_and_holds_beyond,
    i6_special_files_and_loops_do_not_hang,
    i6_links_out_of_the_target_are_not_followed,
    i6_secrets_and_ignored_files_stay_here,
    settings_of_the_file_are_followed,
    plan_changes_nothing,
    deletes_and_kinds_follow,
}

/// One of each kind of thing that may be synced.
fn fill(source: &Path) {
    let write = |name: &[u8], mode: u32, content: &[u8]| {
        let path = source.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write(b"app.py", 0o644, b"print(1)\n");
    write(b"run.sh", 0o755, b"#!/bin/sh\n");
    write(b"private", 0o600, b"mine\n");
    write(b"empty", 0o644, b"");
    write(&[b'n'; 255], 0o644, b"long name");
    write(b"not \xff utf-8 \xfe", 0o644, b"bytes");
    write(b"\x1b]0;x\x07", 0o644, b"bell");
    write(b"-rf $(touch x)\n", 0o644, b"argument");
    write(b"a/b/c/deep", 0o644, b"deep");
    write(b"big", 0o644, &b"0123456789abcdef".repeat(200_000));
    fs::create_dir_all(source.join("nothing/in/here")).unwrap();
    symlink("app.py", source.join("link")).unwrap();
    symlink("b/c", source.join("a/directory-link")).unwrap();
    symlink("nowhere", source.join("dangling")).unwrap();
}

fn i3_everything_arrives_and_a_second_run_reads_nothing(place: &Place) {
    fill(&place.source);
    place.once(&[]).ends_with(0).never_says("\x1b").never_says("problem");
    place.assert_equal();
    place.assert_clean();
    settled(place);
    let opens = Opens::of(&[&place.source, &place.target]);
    place.once(&[]).ends_with(0).says("equal=true").never_says("sync begin");
    assert_eq!(opens.read(), Vec::<String>::new(), "files opened by a run without changes");
    place.assert_equal();
    place.assert_clean();
}

/// Runs until no file was changed within the clock's grain before the look: only then is a stamp
/// worth believing.
fn settled(place: &Place) {
    std::thread::sleep(std::time::Duration::from_millis(50));
    place.once(&[]).ends_with(0);
}

/// Tells which regular files are opened in directories.
struct Opens(std::os::fd::OwnedFd);

impl Opens {
    fn of(roots: &[&Path]) -> Self {
        use rustix::fs::inotify;
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        let flags = inotify::WatchFlags::OPEN | inotify::WatchFlags::ACCESS;
        for root in roots {
            let below = crate::place::everything_below(root);
            let directories = below.iter().filter(|path| path.is_dir() && !path.is_symlink());
            for directory in directories.map(|path| path.as_path()).chain([*root]) {
                inotify::add_watch(&watch, directory, flags).unwrap();
            }
        }
        Self(watch)
    }

    fn read(&self) -> Vec<String> {
        use rustix::fs::inotify;
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut names = Vec::new();
        while let Ok(event) = reader.next() {
            if !event.events().contains(inotify::ReadFlags::ISDIR) {
                names.push(event.file_name().unwrap_or_default().to_string_lossy().into_owned());
            }
        }
        names
    }
}

fn i5_same_size_and_time_is_still_seen(place: &Place) {
    place.write("code", "x + y");
    place.once(&[]).ends_with(0);
    settled(place);
    let before = fs::metadata(place.source.join("code")).unwrap().modified().unwrap();
    place.write("code", "x * y");
    let file = fs::File::options().write(true).open(place.source.join("code")).unwrap();
    file.set_modified(before).unwrap();
    drop(file);
    place.once(&[]).ends_with(0);
    assert_eq!(place.read("code").unwrap(), "x * y");
}

fn i4_foreign_content_is_kept_aside_and_told(place: &Place) {
    place.write("settings", "mine");
    fs::create_dir(&place.target).unwrap();
    fs::write(place.target.join("settings"), "theirs").unwrap();
    place.once(&[]).ends_with(0).says("overwritten target=").says("path=settings");
    assert_eq!(place.read("settings").unwrap(), "mine");
    assert_eq!(place.trash(), [b"theirs"]);
}

fn i4_equal_content_is_adopted_without_a_byte(place: &Place) {
    for number in 0..20 {
        place.write(&format!("d/{number}"), format!("content {number}"));
    }
    fs::create_dir_all(place.target.join("d")).unwrap();
    for path in files_below(&place.source) {
        fs::copy(&path, place.target.join("d").join(path.file_name().unwrap())).unwrap();
    }
    let before = fs::metadata(place.target.join("d/3")).unwrap();
    place.once(&[]).ends_with(0).says("bytes=0 ").never_says("overwritten");
    let after = fs::metadata(place.target.join("d/3")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(before.ino(), after.ino(), "it was not written anew");
    assert!(place.trash().is_empty());
}

fn i4_keep_leaves_what_others_made(place: &Place) {
    place.write("d/ours", "1");
    place.once(&[]).ends_with(0);
    fs::write(place.target.join("d/theirs"), "kept").unwrap();
    fs::write(place.target.join("log"), "kept").unwrap();
    fs::remove_dir_all(place.source.join("d")).unwrap();
    place.write("other", "1");
    place.once(&["--delete-budget", "100%"]).ends_with(0);
    assert_eq!(place.read("d/theirs").unwrap(), "kept");
    assert_eq!(place.read("log").unwrap(), "kept");
    assert_eq!(place.read("d/ours"), None);
}

fn i7_mirror_removes_within_the_budget_and_holds_beyond(place: &Place) {
    for number in 0..12 {
        place.write(&format!("ours{number}"), "1");
    }
    place.once(&["--mode", "mirror"]).ends_with(0);
    fs::write(place.target.join("theirs"), "away").unwrap();
    place.once(&["--mode", "mirror"]).ends_with(0);
    assert_eq!(place.read("theirs"), None);
    for number in 0..50 {
        fs::write(place.target.join(format!("theirs{number}")), "stays").unwrap();
    }
    let held = place.once(&["--mode", "mirror", "--delete-budget", "10"]).ends_with(5);
    held.says("kind=conflict").says("--delete-budget");
    assert_eq!(place.read("theirs7").unwrap(), "stays");
    for number in 0..11 {
        fs::remove_file(place.source.join(format!("ours{number}"))).unwrap();
    }
    let held = place.once(&["--delete-budget", "10"]).ends_with(5);
    held.says("11 of 12").says("--delete-budget 100%");
    assert_eq!(place.read("ours3").unwrap(), "1");
    place.once(&["--delete-budget", "100%"]).ends_with(0);
    assert_eq!(place.read("ours3"), None);
    assert_eq!(place.read("theirs7").unwrap(), "stays");
    fs::remove_file(place.source.join("ours11")).unwrap();
    place.once(&[]).ends_with(5).says("is empty now");
    assert_eq!(place.read("ours11").unwrap(), "1");
}

fn i6_special_files_and_loops_do_not_hang(place: &Place) {
    place.write("d/file", "1");
    let fifo = place.source.join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.source.join("socket")).unwrap();
    symlink("loop2", place.source.join("loop1")).unwrap();
    symlink("loop1", place.source.join("loop2")).unwrap();
    symlink(".", place.source.join("d/self")).unwrap();
    let said = place.once(&[]);
    assert_eq!(place.read("d/file").unwrap(), "1", "{said:?}");
    assert!(fs::symlink_metadata(place.target.join("pipe")).is_err());
    assert!(fs::symlink_metadata(place.target.join("socket")).is_err());
    place.assert_clean();
}

fn i6_links_out_of_the_target_are_not_followed(place: &Place) {
    let outside = place.top.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "canary").unwrap();
    fs::create_dir(&place.target).unwrap();
    symlink(&outside, place.target.join("d")).unwrap();
    symlink(outside.join("file"), place.target.join("f")).unwrap();
    place.write("d/file", "ours");
    place.write("d/new", "ours");
    place.write("f", "ours");
    let said = place.once(&[]);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "canary", "{said:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{said:?}");
}

fn i6_secrets_and_ignored_files_stay_here(place: &Place) {
    const CANARY: &str = "canary-7f3a91";
    fs::create_dir(place.source.join(".git")).unwrap();
    for name in [
        ".git/config",
        ".env",
        ".env.local",
        "d/key.pem",
        "id_rsa",
        "id_ed25519",
        "kubeconfig",
        ".kube/config",
        "ignored.log",
        "node/x",
        "own.secret",
    ] {
        place.write(name, CANARY);
    }
    place.write(".gitignore", "*.log\nnode/\n");
    place.write(".e2ekignore", "*.secret\n");
    place.write("flagged", CANARY);
    place.write("seen", "1");
    place.once(&["--exclude", "flagged", "-v", "--log", "trace"]).ends_with(0).never_says(CANARY);
    assert_eq!(place.read("seen").unwrap(), "1");
    assert_no_canary(place, CANARY);
    place.once(&["--exclude", "flagged", "--include", ".env"]).ends_with(0);
    assert_eq!(place.read(".env").unwrap(), CANARY);
    assert_eq!(place.read(".env.local"), None);
    assert_eq!(place.read("ignored.log"), None);
}

#[track_caller]
fn assert_no_canary(place: &Place, canary: &str) {
    for root in [&place.target, &place.state, &place.far] {
        for path in files_below(root) {
            let content = fs::read(&path).unwrap();
            let found = content.windows(canary.len()).any(|part| part == canary.as_bytes());
            assert!(!found, "the secret is in {}", path.display());
        }
    }
}

fn settings_of_the_file_are_followed(place: &Place) {
    place.write("web/index.html", "page");
    place.write("web/skip.tmpl", "no");
    place.write("api/main.py", "code");
    place.write("other/file", "no");
    fs::create_dir_all(place.target.join("srv")).unwrap();
    let to = format!("{:?}", place.target.to_str().unwrap());
    let transport = place.transport().get(1).map_or(String::new(), |words| {
        let words: Vec<_> = words.split(' ').map(|word| format!("{word:?}")).collect();
        format!("transport-cmd = [{}]", words.join(", "))
    });
    place.write(
        "e2ek.toml",
        format!(
            "[workspace]\nexclude = [\"*.tmpl\"]\n[[target]]\nname = \"box\"\nto = {to}\n\
             paths = [{{ from = \"web\", to = \"public\" }}, {{ from = \"api\", to = \"srv/api\" }}]\n\
             {transport}\n"
        ),
    );
    let said = place.control(&["sync", "--once", "--output", "lines"]).ends_with(0);
    said.says("box");
    assert_eq!(place.read("public/index.html").unwrap(), "page");
    assert_eq!(place.read("srv/api/main.py").unwrap(), "code");
    assert_eq!(files_below(&place.target).len(), 2);
    place.write("e2ek.toml", "[workspace]\nexlude = []\n");
    place.control(&["sync", "--once"]).ends_with(2).says("exclude");
}

fn plan_changes_nothing(place: &Place) {
    fs::create_dir(&place.target).unwrap();
    fs::write(place.target.join("settings"), "theirs").unwrap();
    place.write("settings", "mine");
    place.write("new", "1234");
    let before = tree::of(&place.top);
    let plan = crate::place::Said::of(place.syncing(&["plan"], &[]));
    plan.ends_with(0).says("path=new").says("path=settings").says("plan end");
    let after = tree::of(&place.top);
    let outside = |tree: tree::Tree| -> tree::Tree {
        let ours = [&b"src"[..], b"dst"];
        tree.into_iter().filter(|(path, _)| ours.iter().any(|o| path.starts_with(o))).collect()
    };
    tree::assert_equal(&outside(before), &outside(after));
    place.assert_clean();
}

fn deletes_and_kinds_follow(place: &Place) {
    for number in 0..20 {
        place.write(&format!("stay/{number}"), "1");
    }
    place.write("file-then-dir", "1");
    place.write("dir-then-file/x", "1");
    place.write("gone", "1");
    symlink("gone", place.source.join("link-then-file")).unwrap();
    place.once(&[]).ends_with(0);
    fs::remove_file(place.source.join("gone")).unwrap();
    fs::remove_file(place.source.join("file-then-dir")).unwrap();
    place.write("file-then-dir/now", "2");
    fs::remove_dir_all(place.source.join("dir-then-file")).unwrap();
    place.write("dir-then-file", "2");
    fs::remove_file(place.source.join("link-then-file")).unwrap();
    place.write("link-then-file", "2");
    fs::set_permissions(place.source.join("stay/3"), fs::Permissions::from_mode(0o755)).unwrap();
    place.once(&[]).ends_with(0);
    place.assert_equal();
    assert_eq!(place.read("gone"), None);
}
