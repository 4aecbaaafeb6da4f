//! Contents that come ahead of their generation, and what is left of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use e2ek_sidecar::delta::PatchWriter;
use e2ek_sidecar::tree::{Change, Digest, Entry, Reason};
use e2ek_sidecar::wire::{
    AHEAD_CONTENTS, Blob, FromHub, How, Meta, NotHeld, Op, PIECE_BYTES, ToHub,
};

use super::client::{ANN, Client, Tree, content, listing, open, path, plan, texts};

const SIZE: usize = 3 << 20;

/// The one op that makes `f` of the other tree.
fn op(from: &Tree, to: &Tree, how: How) -> Op {
    let at = path("0/f");
    let [old, new] = [from, to].map(|tree| tree.snapshot.entry(&at));
    Op { change: Change { path: at, old, new }, how, meta: Meta::default() }
}

/// Sends bytes of a content, in frames.
fn data(client: &mut Client, number: u64, bytes: &[u8]) {
    for piece in bytes.chunks(PIECE_BYTES) {
        let body = Blob(piece.to_vec());
        client.send(&ToHub::AheadData { number, encoding: 0, body });
    }
}

/// Ends a generation; what was skipped, and what was overwritten.
fn apply(client: &mut Client, ops: Vec<Op>, to: &Tree) -> (Vec<Option<Reason>>, usize) {
    client.generation += 1;
    let generation = client.generation;
    let messages = content(&ops, to, &[]);
    client.send(&ToHub::Ops { generation, ops, last: true });
    messages.iter().for_each(|message| client.send(message));
    client.send(&ToHub::Commit { generation, target: to.id() });
    match client.next() {
        Some(FromHub::Applied { skipped, overwritten, .. }) => {
            (skipped.into_iter().map(|s| s.reason).collect(), overwritten.len())
        }
        other => panic!("{other:?}"),
    }
}

fn staged(root: &Path) -> Vec<fs::Metadata> {
    let staging = fs::read_dir(root.join(".e2ek-sync")).into_iter().flatten().flatten();
    staging.map(|entry| entry.metadata().unwrap()).collect()
}

struct Place {
    _folder: tempfile::TempDir,
    root: std::path::PathBuf,
    state: std::path::PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (root, state) = (folder.path().join("target"), folder.path().join("state"));
        Self { _folder: folder, root, state }
    }

    fn enter(&self) -> Client {
        let mut client = Client::stdio(&self.state);
        client.enter(ANN, &self.root);
        client
    }
}

#[test]
fn what_came_ahead_is_renamed_into_place_and_generations_go_between() {
    let place = Place::new();
    let text = "large ".repeat(SIZE / 6);
    let (nothing, small) = (Tree::default(), Tree::new(&[("s", "small")]));
    let both = Tree::new(&[("s", "small"), ("f", &text)]);
    let mut client = place.enter();
    client.send(&ToHub::Ahead { number: 1, op: op(&small, &both, How::Data) });
    data(&mut client, 1, &text.as_bytes()[..SIZE / 2]);
    // In the middle of it a save is applied.
    assert_eq!(apply(&mut client, plan(&nothing, &small, false), &small), (vec![], 0));
    assert!(!place.root.join("f").exists());
    data(&mut client, 1, &text.as_bytes()[SIZE / 2..]);
    assert_eq!(client.next(), Some(FromHub::Held { number: 1 }));
    let inode = staged(&place.root)[0].ino();
    assert_eq!(apply(&mut client, vec![op(&small, &both, How::Held)], &both), (vec![], 0));
    assert_eq!(fs::metadata(place.root.join("f")).unwrap().ino(), inode);
    client.leave();
    assert_eq!(listing(&place.root), texts(&[("f", &text), ("s", "small")]));
}

#[test]
fn i4_foreign_content_is_kept_and_what_is_not_held_is_not_put() {
    let place = Place::new();
    let text = "large ".repeat(SIZE / 6);
    let (nothing, large) = (Tree::new(&[]), Tree::new(&[("f", &text)]));
    let mut client = place.enter();
    client.sync(&Tree::default(), &nothing, false);
    let held = vec![op(&nothing, &large, How::Held)];
    assert_eq!(apply(&mut client, held.clone(), &large).0, [Some(Reason::Unstable)]);
    assert!(!place.root.join("f").exists());
    fs::write(place.root.join("f"), "somebody's").unwrap();
    client.send(&ToHub::Ahead { number: 1, op: op(&nothing, &large, How::Data) });
    data(&mut client, 1, text.as_bytes());
    assert_eq!(client.next(), Some(FromHub::Held { number: 1 }));
    assert_eq!(apply(&mut client, held.clone(), &large), (vec![], 1));
    client.leave();
    assert!(fs::read_to_string(place.root.join("f")).unwrap() == text);
    // Nothing of it is held for another.
    let other = Tree::new(&[("f", &text), ("g", &text)]);
    let mut client = place.enter();
    let change = Change { path: path("0/g"), old: None, ..held[0].change.clone() };
    let ops = vec![Op { change, ..held[0].clone() }];
    assert_eq!(apply(&mut client, ops, &other).0, [Some(Reason::Unstable)]);
    client.leave();
}

#[test]
fn i8_i11_what_is_wrong_or_ended_or_cut_off_leaves_nothing() {
    let place = Place::new();
    let text = "large ".repeat(SIZE / 6);
    let (nothing, large) = (Tree::new(&[]), Tree::new(&[("f", &text)]));
    let announce = |number| ToHub::Ahead { number, op: op(&nothing, &large, How::Data) };
    let mut client = place.enter();
    client.sync(&Tree::default(), &nothing, false);
    client.send(&announce(1));
    data(&mut client, 1, text.replace('l', "L").as_bytes());
    let why = NotHeld::Base;
    assert_eq!(client.next(), Some(FromHub::NotHeld { number: 1, why }));
    client.send(&announce(2));
    data(&mut client, 2, &text.as_bytes()[..SIZE / 2]);
    client.send(&ToHub::AheadEnd { number: 2 });
    let why = NotHeld::Ended;
    assert_eq!(client.next(), Some(FromHub::NotHeld { number: 2, why }));
    // What is still on its way is passed over; it may begin again.
    data(&mut client, 2, &text.as_bytes()[SIZE / 2..]);
    client.send(&announce(3));
    data(&mut client, 3, text.as_bytes());
    assert_eq!(client.next(), Some(FromHub::Held { number: 3 }));
    client.send(&ToHub::AheadEnd { number: 3 });
    // Answered in order: the end was heard.
    client.sync(&nothing, &nothing, false);
    assert_eq!(staged(&place.root).len(), 0);
    for kill in [false, true] {
        client.send(&announce(4));
        data(&mut client, 4, &text.as_bytes()[..SIZE / 2]);
        client.send(&announce(5));
        client.sync(&nothing, &nothing, false);
        assert_eq!(staged(&place.root).len(), 2);
        if kill {
            client.kill();
        } else {
            client.leave();
            assert_eq!(listing(&place.root), []);
        }
        client = place.enter();
        assert_eq!(staged(&place.root).len(), 0);
    }
    client.leave();
    assert_eq!(listing(&place.root), []);
}

#[test]
fn i11_what_makes_no_sense_ahead_ends_the_link() {
    let text = "large ".repeat(SIZE / 6);
    let (nothing, large) = (Tree::new(&[]), Tree::new(&[("f", &text)]));
    let announce = |number| ToHub::Ahead { number, op: op(&nothing, &large, How::Data) };
    let some = |number| ToHub::AheadData { number, encoding: 0, body: Blob(vec![1; 9]) };
    let elsewhere = |at: &str| {
        let mut op = op(&nothing, &large, How::Data);
        op.change.path = path(at);
        ToHub::Ahead { number: 1, op }
    };
    let sized = |number: u64, size: u64| {
        let mut op = op(&nothing, &large, How::Data);
        let digest = Digest::of(&number.to_le_bytes());
        op.change.new = Some(Entry::File { digest, size, executable: false });
        ToHub::Ahead { number, op }
    };
    let endless = (0..=SIZE / PIECE_BYTES).map(|_| ToHub::AheadData {
        number: 1,
        encoding: 0,
        body: Blob(vec![1; PIECE_BYTES]),
    });
    let many = (1..=AHEAD_CONTENTS as u64 + 1).map(|number| sized(number, 5));
    let cases: Vec<(&str, Vec<ToHub>)> = vec![
        ("never announced", vec![some(1)]),
        ("an end of nothing", vec![ToHub::AheadEnd { number: 1 }]),
        ("a number used before", vec![announce(1), announce(1)]),
        ("outside of the roots", vec![elsewhere("1/f")]),
        ("more than there is", std::iter::once(announce(1)).chain(endless).collect()),
        (
            "no frame",
            vec![announce(1), ToHub::AheadData { number: 1, encoding: 1, body: Blob(vec![1; 9]) }],
        ),
        ("too many", many.collect()),
        ("too much", vec![sized(1, 1 << 62), sized(2, 1 << 62)]),
    ];
    for (what, messages) in cases {
        let place = Place::new();
        let mut client = place.enter();
        client.sync(&Tree::default(), &nothing, false);
        for message in messages {
            // The hub may be gone before the last.
            let _ = client.try_send(&message);
        }
        loop {
            match client.next() {
                Some(FromHub::Bye { reason }) => assert!(!reason.is_empty(), "{what}"),
                Some(FromHub::NotHeld { .. }) => {}
                // What it did not read any more may have cost its last word.
                None => break,
                other => panic!("{what}: {other:?}"),
            }
        }
        client.child.take().unwrap().wait().unwrap();
        assert_eq!(listing(&place.root), [], "{what}");
    }
    // Nor in a session that only looks.
    let place = Place::new();
    let mut client = Client::stdio(&place.state);
    let mut dry = open(ANN, &place.root);
    dry.dry_run = true;
    client.open(dry);
    client.send(&announce(1));
    assert!(matches!(client.next(), Some(FromHub::Bye { reason }) if !reason.is_empty()));
}

/// A copy is a patch of one line. Nothing waits for it, and one that nobody wants any more ends.
#[test]
fn a_save_is_applied_while_a_large_copy_is_under_way() {
    let place = Place::new();
    let text = "large ".repeat(SIZE / 6);
    let before = Tree::new(&[("f", &text)]);
    let mut client = place.enter();
    client.sync(&Tree::default(), &before, false);
    let at = |at: &str, tree: &Tree, size: u64, how: How| {
        let new = match tree.snapshot.entry(&path("0/f")) {
            Some(Entry::File { digest, .. }) => {
                Some(Entry::File { digest, size, executable: false })
            }
            other => panic!("{other:?}"),
        };
        let change = Change { path: path(at), old: None, new };
        Op { change, how, meta: Meta::default() }
    };
    let copy = |size: u64| {
        let mut patch = PatchWriter::default();
        for _ in 0..size / text.len() as u64 {
            patch.copy(0, text.len() as u64);
        }
        patch.finish()
    };
    let like = || How::Like { from: path("0/f") };
    // More than is written while a save is: it is to be ended before it is done.
    let much = (32 << 30) / text.len() as u64 * text.len() as u64;
    client.send(&ToHub::Ahead { number: 1, op: at("0/much", &before, much, like()) });
    data(&mut client, 1, &copy(much));
    let after = Tree::new(&[("f", &text), ("s", "small")]);
    assert_eq!(apply(&mut client, plan(&before, &after, false), &after), (vec![], 0));
    client.send(&ToHub::AheadEnd { number: 1 });
    let why = NotHeld::Ended;
    assert_eq!(client.next(), Some(FromHub::NotHeld { number: 1, why }));
    // One that is wanted is made, and put in place.
    let op = |how| at("0/g", &before, text.len() as u64, how);
    client.send(&ToHub::Ahead { number: 2, op: op(like()) });
    data(&mut client, 2, &copy(text.len() as u64));
    assert_eq!(client.next(), Some(FromHub::Held { number: 2 }));
    let all = Tree::new(&[("f", &text), ("s", "small"), ("g", &text)]);
    assert_eq!(apply(&mut client, vec![op(How::Held)], &all), (vec![], 0));
    client.leave();
    assert_eq!(listing(&place.root), texts(&[("f", &text), ("g", &text), ("s", "small")]));
}
