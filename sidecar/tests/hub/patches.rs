//! Patches as a hub takes them: good ones, bad ones, and ones that are cut off.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use e2ek_sidecar::delta::PatchWriter;
use e2ek_sidecar::tree::{Change, Reason};
use e2ek_sidecar::wire::{Blob, FromHub, How, Meta, NotHeld, Op, Packer, ToHub};

use super::client::{ANN, Client, Tree, listing, open, path};

/// The hub died of it.
#[derive(Debug)]
pub(crate) struct Died;

/// Sends a patch of one file, with its generation or ahead of it; why it was not applied, if it was
/// not.
pub(crate) fn patch(
    c: &mut Client,
    (old, new): (&Tree, &Tree),
    bytes: &[u8],
    ahead: bool,
) -> Result<Option<Reason>, Died> {
    let at = path("0/f");
    let [from, to] = [old, new].map(|tree| tree.snapshot.entry(&at));
    let change = Change { path: at, old: from, new: to };
    let mut op = Op { change, how: How::Patch, meta: Meta::default() };
    c.generation += 1;
    let generation = c.generation;
    let mut packer = Packer::new(0);
    let mut messages = Vec::new();
    if ahead {
        c.ahead += 1;
        let number = c.ahead;
        let body = Blob(bytes.to_vec());
        let announced = ToHub::Ahead { number, op: op.clone() };
        for message in [announced, ToHub::AheadData { number, encoding: 0, body }] {
            if !c.try_send(&message) {
                return Err(Died);
            }
        }
        match c.next() {
            Some(FromHub::Held { .. }) => {}
            Some(FromHub::NotHeld { why: NotHeld::Base, .. }) => {
                c.generation -= 1;
                return Ok(Some(Reason::Conflict));
            }
            Some(other) => panic!("{other:?}"),
            None => return Err(Died),
        }
        op.how = How::Held;
        messages.push(ToHub::Ops { generation, ops: vec![op], last: true });
    } else {
        messages.push(ToHub::Ops { generation, ops: vec![op], last: true });
        messages.extend(packer.push(0, bytes));
        messages.extend(packer.flush());
    }
    messages.push(ToHub::Commit { generation, target: new.id() });
    if !messages.iter().all(|message| c.try_send(message)) {
        return Err(Died);
    }
    match c.next() {
        Some(FromHub::Applied { skipped, .. }) => Ok(skipped.into_iter().find_map(|s| s.reason)),
        Some(other) => panic!("{other:?}"),
        None => Err(Died),
    }
}

pub(crate) fn tree(content: &[u8]) -> Tree {
    Tree::new(&[("f", std::str::from_utf8(content).unwrap())])
}

#[test]
fn i11_a_patch_that_does_not_lead_there_leaves_the_file_and_is_told() {
    for (size, ahead) in [(5_000, false), (300_000, false), (300_000, true)] {
        let old = b"0123456789".repeat(size / 10);
        let mut new = old.clone();
        new[size / 2] = b'x';
        let mut writer = PatchWriter::default();
        writer.copy(0, size as u64 / 2);
        writer.bring(b"x");
        writer.copy(size as u64 / 2 + 1, size as u64 / 2 - 1);
        let good = writer.finish();
        let mut other = good.clone();
        let at = other.iter().position(|&byte| byte == b'x').unwrap();
        other[at] = b'y';
        let beyond = [&[3][..], &[0xff; 9], &[1]].concat();
        let conflict = Some(Reason::Conflict);
        for (what, bytes, why) in [
            ("another content", other, conflict.clone()),
            ("from beyond", beyond, conflict.clone()),
            ("an endless number", vec![0xff; 64], conflict.clone()),
            ("zeros", vec![0; 64], conflict.clone()),
            ("too much", [&good[..], b"\x02zz"].concat(), conflict.clone()),
            ("the right one", good, None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (root, state) = (folder.path().join("target"), folder.path().join("state"));
            let mut client = Client::stdio(&state);
            client.enter(ANN, &root);
            client.sync(&Tree::default(), &tree(&old), false);
            let told = patch(&mut client, (&tree(&old), &tree(&new)), &bytes, ahead).unwrap();
            assert_eq!(told, why, "{what}");
            let wanted = if why.is_none() { &new } else { &old };
            assert!(&fs::read(root.join("f")).unwrap() == wanted, "{what}");
            client.leave();
            assert_eq!(listing(&root).len(), 1, "{what}: nothing staged is left");
        }
    }
}

#[test]
fn i1_i8_a_patch_in_place_that_is_cut_off_is_finished() {
    cut_off(false);
}

#[test]
fn i1_i8_a_patch_in_place_that_came_ahead_and_is_cut_off_is_finished() {
    cut_off(true);
}

/// kill -9 at each write of a patch in place: the next hub finds the old file, or makes it new.
fn cut_off(ahead: bool) {
    if Command::new("strace").arg("-V").output().is_err() {
        return println!("skipped: there is no strace");
    }
    const SIZE: usize = 65 << 20;
    let old = vec![b'a'; SIZE];
    let mut new = old.clone();
    let mut writer = PatchWriter::default();
    let mut at = 0;
    for place in [10 << 20, 30 << 20, 50 << 20] {
        writer.copy(at as u64, (place - at) as u64);
        writer.bring(b"changed");
        new[place..place + 7].copy_from_slice(b"changed");
        at = place + 7;
    }
    writer.copy(at as u64, (SIZE - at) as u64);
    let bytes = writer.finish();
    let (before, after) = (tree(&old), tree(&new));
    let folder = tempfile::tempdir().unwrap();
    let (root, state) = (folder.path().join("target"), folder.path().join("state"));
    let mut client = Client::stdio(&state);
    client.enter(ANN, &root);
    client.sync(&Tree::default(), &before, false);
    client.leave();
    let inode_now = || fs::metadata(root.join("f")).unwrap().ino();
    let (mut olds, mut finished) = (0, 0);
    for number in 1..40 {
        let mut client = Client::killed_at_pwrite(&state, number);
        if !client.try_send(&ToHub::Open(open(ANN, &root))) {
            continue;
        }
        let Some(FromHub::Opened { generation, .. }) = client.next() else { continue };
        client.generation = generation;
        let inode = inode_now();
        let died = patch(&mut client, (&before, &after), &bytes, ahead).is_err();
        drop(client);
        let mut client = Client::stdio(&state);
        client.enter(ANN, &root);
        let found = fs::read(root.join("f")).unwrap();
        assert!(found == old || found == new, "a mixture after the kill at write {number}");
        assert_eq!(inode_now(), inode, "in place");
        assert!(no_records(&state));
        if !died {
            assert!(found == new);
            client.leave();
            break;
        }
        if found == new {
            finished += 1;
            let outcome = client.sync(&after, &before, false);
            assert_eq!(outcome.skipped, vec![], "the record knows that it is new");
        } else {
            olds += 1;
        }
        client.leave();
    }
    // Ahead, another thread writes most of it, and strace counts for each.
    let least = if ahead { 1 } else { 3 };
    assert!(olds >= least && finished >= least, "{olds} times old, {finished} times finished");
}

pub(crate) fn no_records(state: &Path) -> bool {
    let is_record = |name: &str| name.contains("/redo/") && !name.ends_with('/');
    listing(state).iter().all(|(name, _)| !is_record(name))
}
