//! What a kill at any instant, or damage to any byte, leaves behind.

mod calls;
mod damage;
mod registry;
mod trash;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use proptest::prelude::*;

/// Opens a store that nobody holds. Between its fork and its exec a process that another test starts
/// has our descriptors, the lock among them: that moment is waited out.
fn open(dir: &Path) -> (Store, Loaded) {
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        match Store::open(dir) {
            Err(StoreError::Locked { .. }) if std::time::Instant::now() < give_up => {
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

use super::files::MANIFEST;
use super::format::Record;
use super::replay::Replay;
use super::*;
use crate::tree::{Digest, Node, Stamp};

fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

fn file(content: &str, inode: u64) -> Node {
    let stamp = Stamp { inode, mtime_ns: -1, ctime_ns: 7 };
    let digest = Digest::of(content.as_bytes());
    Node::File { digest, size: content.len() as u64, executable: false, stamp }
}

fn owner(epoch: u64) -> Owner {
    Owner { workspace: [7; 16], writer: "ann@desk:src".to_owned(), epoch }
}

/// Every detail, stamps included.
fn dump(tree: &Snapshot) -> String {
    let mut lines = Vec::new();
    tree.walk(&mut |path, node| lines.push(format!("{path} {:?} {node:?}", node.entry())));
    lines.join("\n")
}

/// Applies a generation as the hub does.
fn step(store: &mut Store, held: &mut Snapshot, generation: u64, edits: &[Edit]) {
    let after = held.apply(edits).unwrap();
    let changes = held.diff(&after);
    store.begin(generation, changes.iter(), std::iter::empty()).unwrap();
    store.finish(generation, edits, &after).unwrap();
    *held = after;
}

fn three_generations(store: &mut Store) -> Snapshot {
    let mut held = Snapshot::empty();
    let below = Snapshot::empty().apply(&[(path("deep"), Some(file("x", 9)))]).unwrap();
    let link = Node::Symlink(b"a/b"[..].into());
    let first = [
        (path("0"), Some(Node::directory())),
        (path("0/a"), Some(file("one", 1))),
        (path("0/l"), Some(link)),
    ];
    step(store, &mut held, 1, &first);
    let second = [
        (path("0/a"), Some(file("two", 2))),
        (path("0/d"), Some(Node::Directory(below.root().clone()))),
        (path("0/d/e"), Some(file("", 3))),
    ];
    step(store, &mut held, 2, &second);
    step(store, &mut held, 3, &[(path("0/l"), None)]);
    held
}

fn log_of(dir: &Path) -> PathBuf {
    let is_log = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with("log.");
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).find(is_log).unwrap()
}

#[test]
fn i8_what_was_done_is_there_again_after_a_kill_and_after_a_close() {
    for clean in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, first) = open(dir.path());
        assert_eq!((first.generation, first.damaged, first.rebooted), (0, false, false));
        store.set_owner(&owner(4)).unwrap();
        let held = three_generations(&mut store);
        let marker = store.marker().to_owned();
        if clean {
            // Any log is a long one now.
            store.fold_from = 0;
            store.close().unwrap()
        } else {
            drop(store)
        }

        let (store, loaded) = open(dir.path());
        assert_eq!(dump(&loaded.held), dump(&held));
        assert_eq!((loaded.generation, loaded.owner), (3, Some(owner(4))));
        assert_eq!((loaded.unfinished, loaded.damaged), (vec![], false));
        assert_eq!(store.marker(), marker);
        assert_eq!(marker.len(), 32);
        let log_bytes = fs::metadata(log_of(dir.path())).unwrap().len();
        assert_eq!(log_bytes == LOG_HEAD_BYTES as u64, clean);
    }
}

#[test]
fn i8_a_begin_without_its_end_is_told_until_reset() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut held = three_generations(&mut store);
    let change = Change { path: path("0/a"), old: held.entry(&path("0/a")), new: None };
    store.begin(4, [&change].into_iter(), std::iter::empty()).unwrap();
    drop(store);
    let (mut store, loaded) = open(dir.path());
    assert_eq!(loaded.unfinished, std::slice::from_ref(&change));
    assert_eq!((dump(&loaded.held), loaded.generation), (dump(&held), 3));
    // A later generation does not hide it, nor does folding.
    step(&mut store, &mut held, 4, &[(path("0/new"), Some(file("n", 5)))]);
    store.close().unwrap();
    let (mut store, loaded) = open(dir.path());
    assert_eq!(loaded.unfinished, [change]);
    assert_eq!((dump(&loaded.held), loaded.generation), (dump(&held), 4));
    store.reset(4, &held).unwrap();
    drop(store);
    assert!(open(dir.path()).1.unfinished.is_empty());
}

#[test]
fn i8_staged_names_survive_until_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let record = store.staged_journal();
    record(&path("d/.x"));
    record(&path(".y"));
    drop((store, record));
    // Half a name, as a kill leaves it, hides none before or after it.
    let journal = dir.path().join(journal::NAME);
    let mut bytes = fs::read(&journal).unwrap();
    bytes.extend_from_slice(&bytes.clone()[..9]);
    fs::write(&journal, bytes).unwrap();
    let (mut store, loaded) = open(dir.path());
    assert_eq!(loaded.staged, [path(".y"), path("d/.x")]);
    store.forget_staged(&path(".y")).unwrap();
    store.staged_journal()(&path(".z"));
    store.forget_staged(&path("d/.x")).unwrap();
    drop(store);
    let (mut store, loaded) = open(dir.path());
    assert_eq!(loaded.staged, [path(".y"), path(".z"), path("d/.x")], "a new name was forgotten");
    for path in &loaded.staged {
        store.forget_staged(path).unwrap();
    }
    drop(store);
    let (store, loaded) = open(dir.path());
    assert!(loaded.staged.is_empty());
    store.staged_journal()(&path(".z"));
    store.close().unwrap();
    assert!(open(dir.path()).1.staged.is_empty());
}

#[test]
fn a_long_log_is_folded() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let first = log_of(dir.path());
    let mut held = Snapshot::empty();
    let many: Vec<Edit> =
        (0..20_000).map(|i| (path(&format!("f{i:05}")), Some(file("x", i)))).collect();
    step(&mut store, &mut held, 1, &many);
    assert_ne!(log_of(dir.path()), first, "a log beyond the limit was not folded");
    let folded = log_of(dir.path());
    step(&mut store, &mut held, 2, &[(path("one"), Some(file("y", 1)))]);
    assert_eq!(log_of(dir.path()), folded, "one file folded the log");
    drop(store);
    let (_store, loaded) = open(dir.path());
    assert_eq!((dump(&loaded.held), loaded.generation), (dump(&held), 2));
}

#[test]
fn edits_that_do_not_lead_to_what_is_held_are_not_logged_as_if() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let held = Snapshot::empty().apply(&[(path("a"), Some(file("a", 1)))]).unwrap();
    store.finish(1, &[], &held).unwrap();
    drop(store);
    let (_store, loaded) = open(dir.path());
    assert_eq!((dump(&loaded.held), loaded.damaged), (dump(&held), false));
}

#[test]
fn another_boot_is_told_until_reset() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.boot = [1; 16];
    store.fold().unwrap();
    drop(store);
    let (store, loaded) = open(dir.path());
    assert!(loaded.rebooted);
    store.close().unwrap();
    let (mut store, loaded) = open(dir.path());
    assert!(loaded.rebooted);
    store.reset(0, &Snapshot::empty()).unwrap();
    drop(store);
    assert!(!open(dir.path()).1.rebooted);
}

#[test]
fn i14_one_hub_at_a_time_and_the_other_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let refused = Store::open(dir.path()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::Locked { owner: None }));
    store.set_owner(&owner(3)).unwrap();
    let refused = Store::open(dir.path()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::Locked { owner: Some(o) } if o == owner(3)));
    drop(store);
    let (_store, _) = open(dir.path());
    let refused = Store::open(dir.path()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::Locked { owner: None }), "a dead owner was named");
}

/// Runs this very test binary as a second process that runs one of the `child_` tests.
fn second_process(test: &str, dir: &Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("server::store::tests::{test}"), "--nocapture"])
        .env("STORE_TEST_DIR", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_for(child: &mut std::process::Child, word: &str) {
    use std::io::BufRead as _;
    let out = io::BufReader::new(child.stdout.take().unwrap());
    assert!(out.lines().map_while(Result::ok).any(|line| line.ends_with(word)), "child ended");
}

/// Not a test by itself: holds a store, and says so, until it is killed.
#[test]
fn child_holds_the_store() {
    let Some(dir) = std::env::var_os("STORE_TEST_DIR") else { return };
    let (mut store, _) = open(Path::new(&dir));
    store.set_owner(&owner(8)).unwrap();
    three_generations(&mut store);
    let _claim = Registry::claim(Path::new(&dir), Path::new("/srv/app"), "child").unwrap();
    println!("\nready");
    let _ = io::stdin().read(&mut [0]);
}

#[test]
fn i8_a_killed_hub_leaves_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = second_process("child_holds_the_store", dir.path());
    wait_for(&mut child, "ready");
    let refused = Store::open(dir.path()).map(|_| ()).unwrap_err();
    assert!(matches!(refused, StoreError::Locked { owner: Some(o) } if o.epoch == 8));
    let clash = Registry::claim(dir.path(), Path::new("/srv"), "us").unwrap_err();
    assert!(matches!(clash, ClaimError::Clash(Clash { same: false, .. })));
    child.kill().unwrap();
    child.wait().unwrap();
    let (_store, loaded) = open(dir.path());
    assert_eq!((loaded.generation, loaded.damaged), (3, false));
    let _claim = Registry::claim(dir.path(), Path::new("/srv"), "us").unwrap();
    let files: BTreeSet<_> =
        fs::read_dir(dir.path().join("roots")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(files.len(), 2, "the dead claim is gone: {files:?}");
}

#[test]
fn i8_a_directory_that_moves_is_one_record_and_told_as_all_it_holds() {
    for (done, folds) in [(true, false), (false, false), (false, true)] {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path());
        let mut held = Snapshot::empty();
        let first: Vec<Edit> = std::iter::once((path("d"), Some(Node::directory())))
            .chain((100..600).map(|n| (path(&format!("d/f{n}")), Some(file("x", n)))))
            .collect();
        step(&mut store, &mut held, 1, &first);
        let before = store.log_bytes;
        let node = held.get(&path("d")).cloned();
        let edits = [(path("d"), None), (path("e"), node)];
        let after = held.apply(&edits).unwrap();
        let changes = held.diff(&after);
        let (tops, inside): (Vec<Change>, Vec<Change>) =
            changes.into_iter().partition(|change| change.path.components().count() == 1);
        let (to, from) = (path("e"), path("d"));
        store.begin(2, tops.iter(), [(&to, &from)].into_iter()).unwrap();
        if done {
            store.finish(2, &edits, &after).unwrap();
        }
        assert!(store.log_bytes - before < 300, "{}", store.log_bytes - before);
        if folds {
            // Another generation is what is held by then.
            let other = held.apply(&[(path("d/f100"), None)]).unwrap();
            store.held = other;
            store.fold().unwrap();
        }
        drop(store);
        let (_store, loaded) = open(dir.path());
        assert!(!loaded.damaged);
        if done {
            assert_eq!((dump(&loaded.held), loaded.unfinished), (dump(&after), vec![]));
        } else {
            let mut told = loaded.unfinished;
            told.sort_by(|a, b| a.path.cmp(&b.path));
            let mut all: Vec<Change> = tops.into_iter().chain(inside).collect();
            all.sort_by(|a, b| a.path.cmp(&b.path));
            assert_eq!(told, all);
        }
    }
}

/// The bytes are kept for good: a change of a line here needs a new version of the file.
#[test]
fn records_keep_their_bytes() {
    let change = Change { path: path("a"), old: None, new: Some(file("x", 1).entry()) };
    let below = Snapshot::empty().apply(&[(path("b"), Some(Node::directory()))]).unwrap();
    let edits = [
        (path("a"), Some(file("x", 1))),
        (path("d"), Some(Node::directory())),
        (path("l"), Some(Node::Symlink(b"t"[..].into()))),
        (path("s"), Some(Node::Directory(below.root().clone()))),
        (path("z"), None),
    ];
    let logged = edits.iter().map(|(p, n)| (p, n.as_ref().map(Logged::from))).collect();
    let records = [
        RecordRef::Begin { generation: 5, changes: vec![&change] },
        RecordRef::Done { generation: 5, edits: logged, tree: below.id() },
        RecordRef::Owner(&owner(300)),
        RecordRef::BeginMoves {
            generation: 6,
            changes: vec![&change],
            moves: vec![(&edits[1].0, &edits[3].0)],
        },
        RecordRef::Done {
            generation: 6,
            edits: vec![(&edits[1].0, Some(Logged::Moved(path("s"))))],
            tree: below.id(),
        },
    ];
    let mut lines = Vec::new();
    for record in &records {
        let mut bytes = Vec::new();
        format::push_frame(record, &mut bytes).unwrap();
        lines.push(bytes.iter().map(|b| format!("{b:02x}")).collect::<String>());
        // What is written borrowed is read back owned.
        let owned: Record = format::take_frame(&mut &*bytes).unwrap().unwrap();
        let mut again = Vec::new();
        format::push_frame(&owned, &mut again).unwrap();
        assert_eq!(again, bytes);
    }
    let header = Header { nonce: 1 << 40, generation: 3, owner: Some(owner(1)) };
    let made = format::manifest(&header, &below).unwrap();
    lines.push(made.iter().map(|b| format!("{b:02x}")).collect::<String>());
    lines.push(format::log_head(7, [9; 16]).iter().map(|b| format!("{b:02x}")).collect());
    assert_eq!(lines, include_str!("golden.txt").lines().collect::<Vec<_>>());
}

#[test]
fn a_peek_changes_nothing_and_needs_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    assert!(Store::peek(&absent).unwrap().is_none() && !absent.exists());
    let (mut store, _) = open(dir.path());
    store.set_owner(&owner(2)).unwrap();
    let held = three_generations(&mut store);
    let seen = Store::peek(dir.path()).unwrap().unwrap();
    assert_eq!((dump(&seen.held), seen.owner), (dump(&held), Some(owner(2))));
    fs::remove_file(log_of(dir.path())).unwrap();
    assert!(Store::peek(dir.path()).unwrap().unwrap().damaged);
    assert!(dir.path().join(MANIFEST).exists());
}

/// What generation `number` of the endless writer does.
fn endless(number: u64) -> [Edit; 1] {
    let node = (!number.is_multiple_of(7)).then(|| file(&format!("content {number}"), number));
    [(path(&format!("f{:02}", number % 40)), node)]
}

/// Not a test by itself: goes from generation to generation, saying each, until it is killed.
#[test]
fn child_writes_without_end() {
    let Some(dir) = std::env::var_os("STORE_TEST_DIR") else { return };
    let (mut store, loaded) = open(Path::new(&dir));
    store.fold_from = 3000;
    store.reset(loaded.generation, &loaded.held).unwrap();
    let mut held = loaded.held;
    for generation in loaded.generation + 1.. {
        step(&mut store, &mut held, generation, &endless(generation));
        println!("done {generation}");
    }
}

#[test]
fn i8_kill_9_at_any_moment_leaves_a_true_record() {
    use std::io::BufRead as _;
    let dir = tempfile::tempdir().unwrap();
    let mut held = Snapshot::empty();
    let mut generation = 0;
    for round in 0..12 {
        let mut child = second_process("child_writes_without_end", dir.path());
        let mut lines = io::BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = generation;
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("done ") {
                said = number.parse().unwrap();
            }
            if said > generation + 20 * round {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let (_store, loaded) = open(dir.path());
        assert!(!loaded.damaged && loaded.generation >= said, "{} < {said}", loaded.generation);
        for number in generation + 1..=loaded.generation {
            held = held.apply(&endless(number)).unwrap();
        }
        generation = loaded.generation;
        assert_eq!(dump(&loaded.held), dump(&held));
        let next = endless(generation + 1);
        assert!(loaded.unfinished.iter().all(|change| change.path == next[0].0));
        assert!(loaded.unfinished.len() <= 1);
    }
    let logs = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
    let logs = logs.filter(|name| name.as_encoded_bytes().starts_with(b"log."));
    assert_eq!(logs.count(), 1);
}
