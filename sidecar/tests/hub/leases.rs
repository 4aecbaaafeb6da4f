//! Who may write: one workspace at a time, one link of it.

use std::fs;
use std::path::Path;

use e2ek_sidecar::wire::{FromHub, Refusal, ToHub};

use super::client::{ANN, BOB, Client, Tree, listing, open, texts};
use super::socket::Served;

fn refusal(answer: FromHub) -> Refusal {
    match answer {
        FromHub::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

/// Two workspaces, each by a hub of its own or both by one.
fn refused_with_the_others_name(ann: &mut Client, bob: &mut Client, root: &Path) {
    ann.enter(ANN, root);
    let by = "writer-1".to_owned();
    let answer = refusal(bob.open(open(BOB, root)).1);
    assert_eq!(answer, Refusal::Owned { by: by.clone(), active: true });
    let below = root.join("below");
    let answer = refusal(bob.open(open(BOB, &below)).1);
    let shown = root.canonicalize().unwrap().display().to_string();
    assert_eq!(answer, Refusal::Nested { root: shown.clone(), by: by.clone() });
    assert!(!below.exists(), "nothing is made in another's root");
    let answer = refusal(bob.open(open(BOB, root.parent().unwrap())).1);
    assert_eq!(answer, Refusal::Nested { root: shown, by });
    let tree = Tree::new(&[("f", "1")]);
    assert_eq!(ann.sync(&Tree::default(), &tree, false).tree, tree.id());
}

#[test]
fn two_workspaces_on_one_root_and_nested_roots_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (root, state) = (folder.path().join("target"), folder.path().join("state"));
    let (mut ann, mut bob) = (Client::stdio(&state), Client::stdio(&state));
    refused_with_the_others_name(&mut ann, &mut bob, &root);
    ann.leave();
    // Nobody writes now.
    bob.enter(BOB, &root);
}

#[test]
fn two_links_of_one_hub_are_refused_just_so() {
    let served = Served::new();
    let root = served.folder.path().join("target");
    let (mut ann, mut bob) = (served.client(), served.client());
    refused_with_the_others_name(&mut ann, &mut bob, &root);
    let mut taking = open(BOB, &root);
    taking.take_over = true;
    let answer = bob.open(taking).1;
    assert!(matches!(answer, FromHub::Opened { epoch: 2, .. }), "{answer:?}");
    let told = refusal(ann.next().unwrap());
    assert_eq!(told, Refusal::Owned { by: "writer-2".to_owned(), active: true });
    assert_eq!(ann.next(), None, "and the link is closed");
}

#[test]
fn i14_the_same_workspace_re_enters_at_once_and_its_old_link_writes_nothing() {
    let served = Served::new();
    let root = served.folder.path().join("target");
    let (mut old, mut new) = (served.client(), served.client());
    let (_, first) = old.enter(ANN, &root);
    let tree = Tree::new(&[("f", "1")]);
    old.sync(&Tree::default(), &tree, false);
    let (known, second) = new.enter(ANN, &root);
    assert!(second > first);
    assert_eq!(known, tree.id());
    // What the old link sends now, and what it still had on the way, is lost.
    let stale = Tree::new(&[("f", "stale")]);
    let ops = super::client::plan(&tree, &stale, false);
    old.try_send(&ToHub::Ops { generation: 9, ops: ops.clone(), last: true });
    for message in super::client::content(&ops, &stale, &[]) {
        old.try_send(&message);
    }
    old.try_send(&ToHub::Commit { generation: 9, target: stale.id() });
    assert_eq!(refusal(old.next().unwrap()), Refusal::Superseded);
    assert_eq!(old.next(), None);
    let next = Tree::new(&[("f", "2")]);
    assert_eq!(new.sync(&tree, &next, false).tree, next.id());
    new.leave();
    assert_eq!(listing(&root), texts(&[("f", "2")]));
    assert!(fs::read_dir(&root).unwrap().count() == 1);
}

#[test]
fn another_writer_of_the_same_workspace_is_named() {
    let served = Served::new();
    let root = served.folder.path().join("target");
    let (mut old, mut new) = (served.client(), served.client());
    old.enter(ANN, &root);
    let mut other = open(ANN, &root);
    other.writer = "another host".to_owned();
    assert!(matches!(new.open(other).1, FromHub::Opened { .. }));
    let told = refusal(old.next().unwrap());
    assert_eq!(told, Refusal::Owned { by: "another host".to_owned(), active: true });
}
