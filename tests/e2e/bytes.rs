//! How many bytes a change costs on the way.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::daemon::Daemon;
use crate::place::{Link, Place, Said, sidecar, until};

/// A place whose link is recorded on its way, in both directions.
struct Recorded {
    place: Place,
    out: PathBuf,
    back: PathBuf,
}

impl Recorded {
    fn new() -> Self {
        let place = Place::new(Link::Stdio);
        let [out, back] = ["out", "back"].map(|name| place.top.join(name));
        Self { place, out, back }
    }

    fn syncing(&self, words: &[&str]) -> Command {
        let (out, back) = (self.out.display(), self.back.display());
        let (hub, far) = (sidecar().display(), self.place.far.display());
        // What has come out at the other end is in the file: that is tee's first output.
        let tee = |file| format!("tee /dev/fd/3 3>&1 >>{file}");
        let (out, back) = (tee(out), tee(back));
        let carrier = format!("sh -c '{out} | {hub} stdio --state {far} | {back}'");
        let mut command = self.place.command(words);
        command.arg(&self.place.source).arg(&self.place.target);
        command.args(["--transport-cmd", &carrier, "--output", "lines"]);
        command
    }

    fn watch(&self) -> Daemon<'_> {
        Daemon::start(&self.place, self.syncing(&["watch"])).synced()
    }

    /// Bytes to the hub and from it so far.
    fn bytes(&self) -> (u64, u64) {
        let len = |path| fs::metadata(path).unwrap().len();
        (len(&self.out), len(&self.back))
    }

    /// What saving this content costs, out and back.
    #[track_caller]
    fn cost(&self, daemon: &mut Daemon<'_>, path: &str, content: &[u8]) -> (u64, u64) {
        let next = daemon.next_generation();
        let before = self.bytes();
        // Half a file that is seen while it is written costs more.
        self.place.save(path, content);
        daemon.event(&format!("sync end gen={next} "));
        let after = self.bytes();
        assert!(fs::read(self.place.target.join(path)).unwrap() == content, "{path} is there");
        (after.0 - before.0, after.1 - before.1)
    }
}

/// Lines like a program's.
fn source(len: usize) -> Vec<u8> {
    let mut text = String::new();
    for line in 0.. {
        if text.len() >= len {
            break;
        }
        text.push_str(&format!("    let value_{line} = compute({});\n", line * 7919));
    }
    text.into_bytes()
}

/// Bytes without a pattern.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn a_line_of_an_11_kb_file_costs_250_bytes() {
    let recorded = Recorded::new();
    let mut text = source(11_000);
    recorded.place.write("src/views/app.py", &text);
    let mut daemon = recorded.watch();
    let change = |text: &mut Vec<u8>, at: usize, line: &[u8]| {
        text.splice(at..at, line.iter().copied());
    };
    change(&mut text, 5_000, b"    let sum = x + y;\n");
    let (out, back) = recorded.cost(&mut daemon, "src/views/app.py", &text);
    assert!(out <= 250 && back <= 120, "the first: {out} out, {back} back");
    change(&mut text, 2_000, b"    let sum = x + y + z;\n");
    let (out, back) = recorded.cost(&mut daemon, "src/views/app.py", &text);
    assert!(out <= 250 && back <= 120, "the second: {out} out, {back} back");
    daemon.stop();
}

#[test]
fn an_insert_at_the_front_of_a_large_file_costs_a_kilobyte() {
    let recorded = Recorded::new();
    let old = noise(16 << 20, 1);
    recorded.place.write("large", &old);
    let mut daemon = recorded.watch();
    let mut new = noise(120, 2);
    new.extend_from_slice(&old);
    let (out, back) = recorded.cost(&mut daemon, "large", &new);
    assert!(out + back <= 1024, "{out} out, {back} back");
    // In place, and once more on top of what was a patch itself.
    new[9 << 20] ^= 1;
    let (out, back) = recorded.cost(&mut daemon, "large", &new);
    assert!(out + back <= 2048, "{out} out, {back} back");
    daemon.stop();
}

/// Made at the target, by its own thread; and again when what it is made from is not there any more.
#[test]
fn a_copy_of_a_large_file_costs_a_kilobyte() {
    let recorded = Recorded::new();
    let content = noise(16 << 20, 1);
    recorded.place.write("large", &content);
    let mut daemon = recorded.watch();
    let (out, back) = recorded.cost(&mut daemon, "copy", &content);
    assert!(out + back <= 1024, "{out} out, {back} back");
    for name in ["large", "copy"] {
        fs::remove_file(recorded.place.target.join(name)).unwrap();
    }
    let (out, _) = recorded.cost(&mut daemon, "another", &content);
    assert!(out >= 16 << 20, "{out} out");
    daemon.stop();
}

/// The target's file is not what a patch is made for: the whole is sent, and what was there kept.
#[test]
fn i4_a_patch_of_what_is_not_there_any_more_is_sent_whole() {
    for len in [11_000, 700_000] {
        let recorded = Recorded::new();
        let place = &recorded.place;
        let mut text = source(len);
        place.write("code", &text);
        let mut daemon = recorded.watch();
        let mut theirs = text.clone();
        theirs[0] ^= 1;
        for (foreign, kept) in [(Some(theirs), 1), (Some(b"short".to_vec()), 2), (None, 2)] {
            match &foreign {
                Some(content) => fs::write(place.target.join("code"), content).unwrap(),
                None => fs::remove_file(place.target.join("code")).unwrap(),
            }
            text.extend(b"one more line\n");
            place.write("code", &text);
            daemon.flush();
            assert!(fs::read(place.target.join("code")).unwrap() == text);
            let trash = place.trash();
            assert_eq!(trash.len(), kept, "what others wrote is kept");
            assert!(foreign.is_none_or(|content| trash.contains(&content)));
        }
        assert!(!daemon.rest().contains("problem"), "{}", daemon.rest());
        daemon.stop();
    }
}

#[test]
fn a_renamed_directory_costs_a_kilobyte() {
    let recorded = Recorded::new();
    let place = &recorded.place;
    for file in 0..500 {
        place.write(&format!("old/{}/file_{file}.py", file % 20), format!("content {file}"));
    }
    place.write("old/empty", "");
    std::os::unix::fs::symlink("0/file_0.py", place.source.join("old/link")).unwrap();
    let mut daemon = recorded.watch();
    daemon.flush();
    let inode = inode_of(place, "old/3/file_3.py");
    let before = recorded.bytes();
    fs::rename(place.source.join("old"), place.source.join("new")).unwrap();
    daemon.flush();
    let after = recorded.bytes();
    place.assert_equal();
    eprintln!("{:?} {:?}\n{}", before, after, daemon.rest());
    assert_eq!(inode_of(place, "new/3/file_3.py"), inode, "moved, not made again");
    let (out, back) = (after.0 - before.0, after.1 - before.1);
    assert!(out + back <= 1024, "{out} out, {back} back");
    // What others made in it stays where it is.
    fs::write(place.target.join("new/3/theirs"), "theirs").unwrap();
    fs::write(place.target.join("new/4/file_4.py"), "changed by them").unwrap();
    fs::rename(place.source.join("new"), place.source.join("newer")).unwrap();
    daemon.flush();
    assert_eq!(place.read("new/3/theirs").unwrap(), "theirs");
    assert_eq!(place.read("newer/4/file_4.py").unwrap(), "content 4");
    assert_eq!(place.trash(), [b"changed by them"]);
    fs::remove_dir_all(place.target.join("new")).unwrap();
    place.assert_equal();
    daemon.stop();
}

fn inode_of(place: &Place, path: &str) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(place.target.join(path)).unwrap())
}

/// Over 64 MiB a file stays the inode it is, and only what changed is written.
#[test]
fn a_byte_of_a_huge_file_is_patched_where_it_stands() {
    let recorded = Recorded::new();
    let mut content = noise(65 << 20, 1);
    recorded.place.write("huge", &content);
    let mut daemon = recorded.watch();
    let inode = inode_of(&recorded.place, "huge");
    content[40 << 20] ^= 1;
    content.extend_from_slice(b"and a little more");
    let (out, back) = recorded.cost(&mut daemon, "huge", &content);
    assert!(out + back <= 16 << 10, "{out} out, {back} back");
    assert_eq!(inode_of(&recorded.place, "huge"), inode, "patched in place");
    // What moves is made anew beside it.
    content.splice(0..0, *b"front");
    let (out, back) = recorded.cost(&mut daemon, "huge", &content);
    assert!(out + back <= 1024, "{out} out, {back} back");
    assert_ne!(inode_of(&recorded.place, "huge"), inode);
    daemon.stop();
    let left = crate::place::files_below(&recorded.place.far);
    assert!(left.iter().all(|path| !path.to_string_lossy().contains("redo")), "{left:?}");
}

/// Bytes that a process has read so far, from files and pipes.
fn read_by(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}

/// One pass over the file at the source, and at the hub only the parts that changed.
#[test]
fn a_byte_of_a_huge_file_is_found_in_one_pass() {
    let place = Place::new(Link::Local);
    let mut content = noise(65 << 20, 1);
    place.write("huge", &content);
    let mut daemon = place.watch(&[]).synced();
    for round in 0..2 {
        let next = daemon.next_generation();
        let before = (read_by(daemon.pid()), read_by(daemon.hub()));
        content[(40 + round) << 20] ^= 1;
        place.save("huge", &content);
        daemon.event(&format!("sync end gen={next} "));
        let after = (read_by(daemon.pid()), read_by(daemon.hub()));
        assert!(fs::read(place.target.join("huge")).unwrap() == content);
        let (source, hub) = (after.0 - before.0, after.1 - before.1);
        let size = content.len() as u64;
        assert!((size..size + (1 << 20)).contains(&source), "{source} read at the source");
        assert!(hub <= 3 << 20, "{hub} read at the hub");
    }
    daemon.stop();
}

/// Traces outlive the daemon: what changed while none ran costs no more than else.
#[test]
fn a_byte_that_changed_while_no_daemon_ran_costs_little() {
    let recorded = Recorded::new();
    let place = &recorded.place;
    let mut content = noise(5 << 20, 1);
    let mut text = source(40_000);
    place.write("large", &content);
    place.write("text", &text);
    let once = |change: &str| {
        let before = recorded.bytes();
        let said = Said::of(recorded.syncing(&["sync", "--once"]));
        said.ends_with(0);
        place.assert_equal();
        let after = recorded.bytes();
        let bytes = after.0 + after.1 - before.0 - before.1;
        assert!(bytes <= 4096, "{bytes} bytes for {change}");
    };
    let daemon = recorded.watch();
    let traces = || {
        let all = crate::place::files_below(&place.state);
        all.into_iter().find(|path| path.file_name().is_some_and(|name| name == "traces"))
    };
    // On a slow machine those of the one file may be there long before those of the other.
    let digests = [&content, &text].map(|content| e2ek_sidecar::tree::Digest::of(content).0);
    let kept = |bytes: Vec<u8>| {
        digests.iter().all(|digest| bytes.windows(digest.len()).any(|part| part == digest))
    };
    until("the traces are kept", || {
        traces().and_then(|path| fs::read(path).ok()).is_some_and(kept)
    });
    daemon.kill();
    content[3 << 20] ^= 1;
    text.splice(9_000..9_000, *b"one more line\n");
    place.write("large", &content);
    place.write("text", &text);
    once("a byte and a line after a kill");
    content[1 << 20] ^= 1;
    place.write("large", &content);
    once("a byte after an end");
    // Damaged ones are none.
    let path = traces().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    content[2 << 20] ^= 1;
    place.write("large", &content);
    let before = recorded.bytes();
    Said::of(recorded.syncing(&["sync", "--once"])).ends_with(0);
    place.assert_equal();
    assert!(recorded.bytes().0 - before.0 >= content.len() as u64, "sent whole");
    content[4 << 20] ^= 1;
    place.write("large", &content);
    once("a byte after that");
}
