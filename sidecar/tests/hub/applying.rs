//! What a hub does with trees, and with what others did at the target.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use e2ek_sidecar::tree::{Digest, Node, Reason, Stamp};
use e2ek_sidecar::wire::{FromHub, ToHub};

use super::client::{ANN, BOB, Client, Tree, listing, open, path, texts};

struct Place {
    _folder: tempfile::TempDir,
    root: std::path::PathBuf,
    state: std::path::PathBuf,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let (root, state) = (folder.path().join("target"), folder.path().join("state"));
    Place { _folder: folder, root, state }
}

/// Every file in the trash, with its content.
fn trash(state: &Path) -> Vec<String> {
    listing(state)
        .into_iter()
        .filter(|(name, _)| name.contains("/trash/") && !name.ends_with('/'))
        .map(|(_, content)| content)
        .collect()
}

#[test]
fn equal_content_is_taken_over_and_other_content_goes_to_the_trash() {
    let place = place();
    fs::create_dir_all(place.root.join("d")).unwrap();
    for (name, content) in [("d/same", "same"), ("other", "theirs"), ("d/alone", "unmanaged")] {
        fs::write(place.root.join(name), content).unwrap();
    }
    let inode = fs::metadata(place.root.join("d/same")).unwrap().ino();
    let mut client = Client::stdio(&place.state);
    let opened = client.open(open(ANN, &place.root)).1;
    assert!(matches!(opened, FromHub::Opened { populated: true, generation: 0, .. }), "{opened:?}");
    let wanted = Tree::new(&[("d/same", "same"), ("other", "ours"), ("new", "new")]);
    let outcome = client.sync(&Tree::default(), &wanted, true);
    assert_eq!((outcome.tree, outcome.needed), (wanted.id(), 2), "{outcome:?}");
    assert_eq!(outcome.overwritten, ["0/other"]);
    assert_eq!(fs::metadata(place.root.join("d/same")).unwrap().ino(), inode, "not rewritten");
    assert_eq!(trash(&place.state), ["theirs"], "i4");
    // i7: everything managed goes, what others made stays.
    let nothing = Tree::new(&[]);
    let outcome = client.sync(&wanted, &nothing, false);
    assert_eq!((outcome.tree, outcome.skipped), (nothing.id(), vec![]));
    client.leave();
    assert_eq!(listing(&place.root), texts(&[("d/alone", "unmanaged")]));
}

#[test]
fn i4_among_many_new_files_those_of_others_are_kept() {
    let place = place();
    let name = |number: usize| format!("d{}/f{number}", number % 30);
    let files = |content: &str| Tree::of((0..600).map(|n| (name(n), format!("{content} {n}"))));
    let mut client = Client::stdio(&place.state);
    client.enter(ANN, &place.root);
    // What comes between the question and the answer.
    fs::create_dir_all(place.root.join("d7")).unwrap();
    fs::write(place.root.join("d7/f7"), "theirs").unwrap();
    fs::write(place.root.join("d7/f37"), "ours 37").unwrap();
    let wanted = files("ours");
    let outcome = client.sync(&Tree::default(), &wanted, false);
    assert_eq!((outcome.tree, outcome.skipped), (wanted.id(), vec![]));
    assert_eq!(outcome.overwritten, ["0/d7/f7"]);
    assert_eq!(trash(&place.state), ["theirs"]);
    client.leave();
    let mut expected: Vec<_> = (0..600).map(|n| (name(n), format!("ours {n}"))).collect();
    expected.sort();
    let mut found = listing(&place.root);
    found.retain(|(name, _)| !name.ends_with('/'));
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn any_tree_follows_any_other_in_place() {
    let place = place();
    let mut client = Client::stdio(&place.state);
    client.enter(ANN, &place.root);
    let steps: &[&[(&str, &str)]] = &[
        &[("a", "one"), ("b", "two"), ("d/x", "in"), ("run", "#!x")],
        // A swap, a move, a copy, a bit that changes with the content.
        &[("a", "two"), ("b", "one"), ("e/x", "in"), ("e/y", "in"), ("run", "x")],
        // A file becomes a directory and a directory a file; a link comes.
        &[("a/b", "two"), ("e", "one"), ("run", "-> a/b"), ("empty", "")],
        &[("a", "-> e"), ("e/e/e", "one"), ("run", "#!now"), ("empty", "")],
        &[],
    ];
    let mut before = Tree::default();
    for files in steps {
        let wanted = Tree::new(files);
        let outcome = client.sync(&before, &wanted, false);
        assert_eq!((outcome.tree, outcome.skipped), (wanted.id(), vec![]), "{files:?}");
        assert_eq!(outcome.overwritten, Vec::<String>::new());
        let seen: Vec<_> = listing(&place.root)
            .into_iter()
            .filter(|(name, _)| !name.starts_with(".e2ek-sync"))
            .collect();
        assert_eq!(seen, texts(files));
        for (name, content) in files.iter().filter(|(_, content)| !content.starts_with("-> ")) {
            let mode = fs::metadata(place.root.join(name)).unwrap().mode();
            assert_eq!(mode & 0o100 != 0, content.starts_with("#!"), "{name}");
        }
        before = wanted;
    }
    client.leave();
    assert_eq!(trash(&place.state), Vec::<String>::new(), "our own files are no drift");
    assert_eq!(listing(&place.root), vec![], "no staging is left");
}

#[test]
fn modes_of_existing_files_stay_but_for_the_executable_bit() {
    let place = place();
    let mut client = Client::stdio(&place.state);
    client.enter(ANN, &place.root);
    let first = Tree::new(&[("f", "one")]);
    client.sync(&Tree::default(), &first, false);
    let file = place.root.join("f");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let second = Tree::new(&[("f", "#!two")]);
    let outcome = client.sync(&first, &second, false);
    assert_eq!((outcome.tree, outcome.overwritten.len()), (second.id(), 0));
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o750);
}

#[test]
fn i4_what_somebody_changed_meanwhile_is_found_kept_and_put_right() {
    let place = place();
    let tree = Tree::new(&[("gone", "1"), ("same-size", "abc"), ("dir", "2"), ("link", "3")]);
    let mut client = Client::stdio(&place.state);
    client.enter(ANN, &place.root);
    client.sync(&Tree::default(), &tree, false);
    client.leave();
    let at = |name: &str| place.root.join(name);
    // The same size and time: only ctime tells.
    let time = fs::metadata(at("same-size")).unwrap().modified().unwrap();
    fs::write(at("same-size"), "xyz").unwrap();
    fs::File::options().write(true).open(at("same-size")).unwrap().set_modified(time).unwrap();
    fs::remove_file(at("gone")).unwrap();
    fs::remove_file(at("dir")).unwrap();
    fs::create_dir(at("dir")).unwrap();
    fs::remove_file(at("link")).unwrap();
    std::os::unix::fs::symlink("gone", at("link")).unwrap();
    let mut client = Client::stdio(&place.state);
    let (mut drifted, _) = client.open(open(ANN, &place.root));
    drifted.sort();
    assert_eq!(drifted, ["0/dir", "0/gone", "0/link", "0/same-size"]);
    let mut outcome = client.sync(&Tree::new(&[]), &tree, false);
    outcome.overwritten.sort();
    assert_eq!((outcome.tree, outcome.skipped), (tree.id(), vec![]));
    assert_eq!(outcome.overwritten, ["0/link", "0/same-size"]);
    let mut kept = trash(&place.state);
    kept.sort();
    assert_eq!(kept, ["gone", "xyz"]);
    client.leave();
    let wanted = [("gone", "1"), ("same-size", "abc"), ("dir", "2"), ("link", "3")];
    assert_eq!(listing(&place.root), texts(&wanted));
}

#[test]
fn what_was_changed_just_before_its_deletion_is_kept_too() {
    let place = place();
    let tree = Tree::new(&[("f", "ours"), ("d/x", "x")]);
    let mut client = Client::stdio(&place.state);
    client.enter(ANN, &place.root);
    client.sync(&Tree::default(), &tree, false);
    fs::write(place.root.join("f"), "precious").unwrap();
    fs::remove_dir_all(place.root.join("d")).unwrap();
    fs::write(place.root.join("d"), "a file of theirs").unwrap();
    let nothing = Tree::new(&[]);
    let outcome = client.sync(&tree, &nothing, false);
    assert_eq!((outcome.tree, outcome.skipped), (nothing.id(), vec![]));
    assert_eq!(outcome.overwritten, ["0/f"]);
    assert_eq!(trash(&place.state), ["precious"]);
    client.leave();
    assert_eq!(listing(&place.root), texts(&[("d", "a file of theirs")]));
}

#[test]
fn what_cannot_be_done_is_told_so_that_both_ends_know_the_same_tree() {
    let place = place();
    let mut client = Client::stdio(&place.state);
    client.enter(ANN, &place.root);
    let tree = Tree::new(&[("d/file", "1"), ("f", "2")]);
    client.sync(&Tree::default(), &tree, false);
    // Something stands in the way that is not ours.
    fs::remove_file(place.root.join("f")).unwrap();
    fs::create_dir(place.root.join("f")).unwrap();
    fs::write(place.root.join("f/theirs"), "").unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.root.join("fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let wanted = Tree::new(&[("d/file", "1"), ("f", "3"), ("fifo", "4"), ("ok", "5")]);
    let outcome = client.sync(&tree, &wanted, false);
    let reached = Tree::new(&[("d/file", "1"), ("f", "2"), ("ok", "5")]);
    assert_eq!(outcome.tree, reached.id());
    let reasons = [("0/f", Reason::NotEmpty), ("0/fifo", Reason::Special)];
    let reasons: Vec<_> = reasons.map(|(at, why)| (at.to_owned(), Some(why))).into();
    assert_eq!(outcome.skipped, reasons);
}

#[test]
fn a_bit_for_a_file_that_is_gone_makes_the_record_forget_it() {
    let place = place();
    let mut client = Client::stdio(&place.state);
    client.enter(ANN, &place.root);
    let before = Tree::new(&[("f", "1")]);
    client.sync(&Tree::default(), &before, false);
    let file = place.root.join("f");
    let (digest, size, executable) = (Digest::of(b"1"), 1, true);
    let node = Node::File { digest, size, executable, stamp: Stamp::default() };
    let snapshot = before.snapshot.apply(&[(path("0/f"), Some(node))]).unwrap();
    let after = Tree { snapshot, ..before.clone() };
    assert_eq!(client.sync(&before, &after, false).tree, after.id());
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o111, 0o111);
    fs::remove_file(&file).unwrap();
    // Told as it is, the daemon would ask for the same bit for ever.
    let outcome = client.sync(&after, &before, false);
    assert_eq!(outcome.skipped, [("0/f".to_owned(), Some(Reason::Conflict))]);
    assert_eq!(outcome.tree, Tree::new(&[]).id());
}

#[test]
fn a_look_leaves_no_trace() {
    let place = place();
    let look = |root: &Path| {
        let mut client = Client::stdio(&place.state);
        let mut question = open(BOB, root);
        question.dry_run = true;
        let answer = client.open(question).1;
        let FromHub::Opened { tree, .. } = answer else { panic!("{answer:?}") };
        (client, tree)
    };
    let (client, tree) = look(&place.root);
    assert_eq!(tree, Tree::default().id());
    client.leave();
    assert!(!place.root.exists() && !place.state.exists());
    // Beside a session that writes: it is not disturbed, and nothing of it is swept.
    let mut writer = Client::stdio(&place.state);
    writer.enter(ANN, &place.root);
    let files = Tree::new(&[("f", "1")]);
    writer.sync(&Tree::default(), &files, false);
    fs::create_dir_all(place.root.join(".e2ek-sync")).unwrap();
    fs::write(place.root.join(".e2ek-sync/left"), "").unwrap();
    let before = (listing(&place.root), listing(&place.state));
    let (mut client, _) = look(&place.root);
    assert_eq!((listing(&place.root), listing(&place.state)), before);
    // Nor may it write.
    client.send(&ToHub::Commit { generation: 9, target: files.id() });
    assert!(
        matches!(client.next(), Some(FromHub::Bye { reason }) if reason.contains("only looks"))
    );
    let more = Tree::new(&[("f", "2")]);
    assert_eq!(writer.sync(&files, &more, false).tree, more.id());
}

#[test]
fn mirror_removes_what_was_listed_and_nothing_else() {
    let place = place();
    let mut client = Client::stdio(&place.state);
    client.enter(ANN, &place.root);
    let tree = Tree::new(&[("d/ours", "1")]);
    client.sync(&Tree::default(), &tree, false);
    fs::create_dir_all(place.root.join("deep/er")).unwrap();
    fs::create_dir_all(place.root.join("odd")).unwrap();
    for (name, content) in [("deep/er/f", "f"), ("d/changes", "old"), ("d/stays", "s")] {
        fs::write(place.root.join(name), content).unwrap();
    }
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.root.join("odd/fifo"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    client.send(&ToHub::ListForeign);
    let mut found = Vec::new();
    while let Some(FromHub::Foreign { paths, last }) = client.next() {
        found.extend(paths);
        if last {
            break;
        }
    }
    let names: Vec<_> = found.iter().map(|(path, _)| path.to_string()).collect();
    let expected = ["0/d/changes", "0/d/stays", "0/deep", "0/deep/er", "0/deep/er/f", "0/odd"];
    assert_eq!(names, expected);
    fs::write(place.root.join("d/changes"), "new").unwrap();
    found.retain(|(path, _)| path.to_string() != "0/d/stays");
    client.send(&ToHub::RemoveForeign { paths: found });
    let Some(FromHub::ForeignRemoved { removed, problems }) = client.next() else { panic!() };
    assert_eq!(removed, 3);
    let told: Vec<_> = problems.iter().map(|p| (p.path.to_string(), p.reason.clone())).collect();
    let expected = [("0/odd", Reason::NotEmpty), ("0/d/changes", Reason::Conflict)];
    assert_eq!(told, expected.map(|(at, why)| (at.to_owned(), why)));
    assert_eq!(trash(&place.state), ["f"]);
    client.leave();
    let left = [("d/changes", "new"), ("d/ours", "1"), ("d/stays", "s"), ("odd/fifo", "special")];
    assert_eq!(listing(&place.root), texts(&left));
}
