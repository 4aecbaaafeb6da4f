//! Bad peers, lost links and killed hubs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use e2ek_sidecar::wire::{FromHub, Hello, ToHub};

use super::client::{ANN, Client, Tree, content, hub_of_one_link, listing, open, path, plan};

/// What a hub that was greeted so says to people, and how long it took.
fn greeted(bytes: &[u8]) -> (Option<i32>, String, Duration) {
    let folder = tempfile::tempdir().unwrap();
    let (child, mut stream) = hub_of_one_link(&folder.path().join("state"));
    let began = Instant::now();
    stream.write_all(bytes).unwrap();
    let mut rest = Vec::new();
    // Its own Hello, then the end.
    stream.read_to_end(&mut rest).unwrap();
    let took = began.elapsed();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap(), took)
}

#[test]
fn i13_skew_is_refused_at_once_and_names_both_versions() {
    let mut hello = Vec::new();
    let theirs = Hello { versions: (7, 9), build: "9.9.9".to_owned(), ..Hello::ours() };
    theirs.encode(&mut hello);
    let mut quickest = Duration::MAX;
    // One answer may be held up by whatever else this machine does.
    for _ in 0..5 {
        let (code, said, took) = greeted(&hello);
        assert_eq!(code, Some(1), "{said}");
        for part in ["1..=1", "7..=9", "9.9.9"] {
            assert!(said.contains(part), "{said}");
        }
        quickest = quickest.min(took);
    }
    assert!(quickest < Duration::from_secs(1), "{quickest:?}");
}

#[test]
fn i11_a_foreign_greeting_is_shown() {
    let (code, said, _) = greeted(b"bash: e2ek-sync: command not found\n\x1b]0;x\x07");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("command not found") && !said.contains('\x1b'), "{said}");
}

#[test]
fn i2_nothing_is_acknowledged_that_nobody_can_see() {
    let folder = tempfile::tempdir().unwrap();
    let (root, state) = (folder.path().join("target"), folder.path().join("state"));
    let mut client = Client::stdio(&state);
    client.enter(ANN, &root);
    let first = Tree::new(&[("f", "1")]);
    client.sync(&Tree::default(), &first, false);
    fs::rename(&root, folder.path().join("elsewhere")).unwrap();
    fs::create_dir(&root).unwrap();
    let second = Tree::new(&[("f", "2")]);
    let ops = plan(&first, &second, false);
    client.send(&ToHub::Ops { generation: 2, ops: ops.clone(), last: true });
    content(&ops, &second, &[]).iter().for_each(|message| client.send(message));
    client.send(&ToHub::Commit { generation: 2, target: second.id() });
    let answer = client.next();
    assert!(
        matches!(&answer, Some(FromHub::Bye { reason }) if reason.contains("replaced")),
        "{answer:?}"
    );
    assert_eq!(client.next(), None);
}

#[test]
fn i10_who_never_reads_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let (root, state) = (folder.path().join("target"), folder.path().join("state"));
    let mut client = Client::stdio(&state);
    client.enter(ANN, &root);
    let many = (0..400).map(|n| (format!("{n:0>200}"), "x".to_owned()));
    let tree = Tree::of(many);
    client.sync(&Tree::default(), &tree, false);
    // Each question is a few bytes, each answer a hundred thousand: a gigabyte in all. Nothing is
    // read, and the hub must neither hold it all nor wait for ever.
    let paths: Vec<_> = (0..1000).map(|_| path("0")).collect();
    let mut pid = 0;
    if let Some(child) = &client.child {
        pid = child.id();
    }
    client.stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    for _ in 0..10 {
        client.send(&ToHub::Describe { paths: paths.clone() });
    }
    // It still listens: the next questions are remembered up to a bound, then it is enough.
    while client.try_send(&ToHub::Describe { paths: paths.clone() }) {}
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak.map_or(0, |kib| kib.trim().trim_end_matches(" kB").parse().unwrap());
    assert!(peak < 400 << 10, "{peak} KiB");
    let child = client.child.take().unwrap();
    drop(client);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

/// A generation that has a bit of everything, by its number.
fn version(number: usize) -> BTreeMap<String, String> {
    (0..500)
        .filter(|file| !(file + number).is_multiple_of(7))
        .map(|file| {
            let folder = (file + number) % 11;
            let version = if file % 3 == 0 { number } else { 0 };
            let padding = "x".repeat(file % 40 * 200);
            (format!("d{folder}/f{file}"), format!("{file} of {version} {padding}"))
        })
        .collect()
}

#[test]
fn i1_i8_a_hub_killed_at_any_moment_is_followed_by_one_that_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (root, state) = (folder.path().join("target"), folder.path().join("state"));
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut held = Tree::default();
    let mut old: BTreeMap<String, String> = BTreeMap::new();
    for round in 1..=8 {
        let files = version(round);
        let wanted = Tree::of(files.clone());
        let mut client = Client::stdio(&state);
        client.enter(ANN, &root);
        let ops = plan(&held, &wanted, false);
        client.generation += 1;
        let generation = client.generation;
        client.send(&ToHub::Ops { generation, ops: ops.clone(), last: true });
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if ops.iter().any(|op| matches!(op.how, e2ek_sidecar::wire::How::Copy { .. })) {
            // Half of the time killed while it copies and moves.
            if random.is_multiple_of(2) {
                assert!(matches!(client.next(), Some(FromHub::Need { .. })));
            }
        }
        let pieces = content(&ops, &wanted, &[]);
        let sent = (random >> 8) as usize % (pieces.len() + 1);
        pieces.iter().take(sent).for_each(|piece| client.send(piece));
        client.kill();
        for (name, text) in listing(&root).into_iter().filter(|(name, _)| !name.ends_with('/')) {
            if !name.starts_with(".e2ek-sync/") {
                let known = [old.get(&name), files.get(&name)];
                assert!(known.contains(&Some(&text)), "i1: {name} is neither old nor new");
            }
        }
        let mut client = Client::stdio(&state);
        let (drifted, opened) = client.open(open(ANN, &root));
        let FromHub::Opened { tree, .. } = opened else { panic!("{opened:?}") };
        assert_eq!(drifted, Vec::<String>::new(), "round {round}: our own work is no drift");
        assert!(!root.join(".e2ek-sync").exists(), "i8: leftovers");
        // What the record says is what is there, no more and no less.
        let there = Tree::of(listing(&root).into_iter().filter(|(name, _)| !name.ends_with('/')));
        let found = known_as(&mut client, tree, &there);
        let outcome = client.sync(&found, &wanted, false);
        assert_eq!((outcome.tree, outcome.skipped), (wanted.id(), vec![]));
        assert_eq!(outcome.overwritten, Vec::<String>::new(), "nobody else wrote");
        client.leave();
        let seen: BTreeMap<_, _> =
            listing(&root).into_iter().filter(|(name, _)| !name.ends_with('/')).collect();
        assert_eq!(seen, files);
        (held, old) = (wanted, files);
    }
}

/// Reads the record, and checks it against the files that are there.
fn known_as(client: &mut Client, tree: e2ek_sidecar::tree::TreeId, there: &Tree) -> Tree {
    use e2ek_sidecar::tree::{Edit, Node, Snapshot, Stamp};
    use e2ek_sidecar::wire::Listed;
    let mut snapshot = Snapshot::empty();
    let mut wanted = vec![None];
    while let Some(at) = wanted.pop() {
        client.send(&ToHub::Describe { paths: at.iter().cloned().collect() });
        loop {
            let Some(FromHub::Listing { path: told, children, last }) = client.next() else {
                panic!("no listing")
            };
            assert_eq!(told, at);
            for (name, listed) in children {
                let above = at.clone().unwrap_or_default();
                let below = above.join(&name.0).unwrap();
                let node = match listed {
                    Listed::File { digest, size, executable } => {
                        Node::File { digest, size, executable, stamp: Stamp::default() }
                    }
                    Listed::Symlink(target) => Node::Symlink(target.0.into()),
                    Listed::Directory(_) => {
                        wanted.push(Some(below.clone()));
                        Node::directory()
                    }
                };
                let edit: Edit = (below, Some(node));
                snapshot = snapshot.apply(&[edit]).unwrap();
            }
            if last {
                break;
            }
        }
    }
    assert_eq!(snapshot.id(), tree);
    there.snapshot.walk(&mut |path, node| {
        if !matches!(node, Node::Directory(_)) {
            assert_eq!(snapshot.entry(path), Some(node.entry()), "unknown: {path}");
        }
    });
    Tree { snapshot, ..there.clone() }
}

#[test]
fn a_hub_that_refused_ends_with_the_good_bye() {
    let folder = tempfile::tempdir().unwrap();
    let mut client = Client::stdio(&folder.path().join("state"));
    let (_, answer) = client.open(open(ANN, &folder.path().join("no/such/place")));
    assert!(matches!(answer, FromHub::Refused(_)), "{answer:?}");
    client.leave();
}
