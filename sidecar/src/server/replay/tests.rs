//! Sites in a container that is a directory, and what they know after what.

use std::path::Path;
use std::sync::Arc;

use super::super::ahead::Lane;
use super::super::apply::{Applying, Brought, Parts};
use super::super::root::TargetRoot;
use super::super::store::{Contents, Store};
use super::super::target::Identity;
use super::*;
use crate::receive::Receiver;
use crate::tree::{Edit, Stamp};
use crate::wire::{Blob, Container, Open, WriteMode};

/// A site of container `app` whose root is `top`, with its contents in `store`. Nothing of it is
/// written down.
pub(in crate::server) fn site(top: &Path, store: &Path, held: &[Edit]) -> Site {
    let [pod, name, start] = ["pod", "app", "1"].map(str::to_owned);
    let mut inside = Inside::of(Identity { pod, name, start, id: None });
    inside.contents = Some(Contents::open(store, 64 << 20).unwrap());
    let held = Snapshot::empty().apply(held).unwrap();
    Site {
        roots: vec![Some(Arc::new(TargetRoot::open_directory(top, false).unwrap()))],
        process: None,
        inside: Some(inside),
        store: None,
        receiver: Receiver::new(held, 1, 1),
        applying: Applying::default(),
        ahead: Lane::default(),
        torn: Default::default(),
        in_place: true,
        parts: Parts::default(),
        directory: top.to_owned(),
        epoch: 1,
        populated: false,
        drifted: Vec::new(),
        claims: Vec::new(),
    }
}

/// What a workspace asks for in container `app`.
pub(in crate::server) fn request(who: u8, roots: &[&str]) -> Request {
    let open = Open {
        workspace: [who; 16],
        writer: format!("writer-{who}"),
        roots: roots.iter().map(|root| Blob(root.as_bytes().to_vec())).collect(),
        process: None,
        write: WriteMode::Auto,
        take_over: false,
        check: false,
        dry_run: false,
    };
    Request { open, container: Some(Container { name: "app".to_owned(), id: None }) }
}

fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

fn file(bytes: &[u8]) -> Entry {
    Entry::File { digest: Digest::of(bytes), size: bytes.len() as u64, executable: false }
}

/// Puts files there, as edits of an empty tree.
fn filled(top: &Path, names: &[&str]) -> Vec<Edit> {
    let mut edits = vec![(path("0"), Some(Node::directory()))];
    for name in names {
        std::fs::write(top.join(name), name).unwrap();
        let found = TargetRoot::open_directory(top, false).unwrap().stat(&path(name));
        let stamp = found.unwrap().map_or_else(Stamp::default, |found| found.stamp);
        let node = Node::from_entry(&file(name.as_bytes()), stamp);
        edits.push((path(&format!("0/{name}")), Some(node)));
    }
    edits
}

#[test]
fn i4_what_is_forgotten_is_not_removed_again() {
    let home = tempfile::tempdir().unwrap();
    let [top, store] = ["top", "store"].map(|name| home.path().join(name));
    [&top, &store].into_iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let mut here = site(&top, &store, &filled(&top, &["ignored", "kept", "removed"]));
    let op = |name: &str, how: How| {
        let old = Some(file(name.as_bytes()));
        let change = Change { path: path(&format!("0/{name}")), old, new: None };
        Op { change, how, meta: Meta::default() }
    };
    let ops = vec![op("ignored", How::Forget), op("removed", How::None)];
    let changes: Vec<Change> = ops.iter().map(|op| op.change.clone()).collect();
    let target = here.receiver.held().apply_changes(&changes).unwrap().id();
    here.take_ops(Brought { generation: 2, base: None, ops, last: true }).unwrap();
    here.commit(2, target).unwrap();
    assert!(top.join("ignored").exists() && !top.join("removed").exists());
    let gone: Vec<String> = here.inside.unwrap().gone.iter().map(ToString::to_string).collect();
    assert_eq!(gone, ["0/removed"]);
}

#[test]
fn i9_what_was_not_written_again_whole_is_not_complete_at_the_next_opening_either() {
    let home = tempfile::tempdir().unwrap();
    let [top, store] = ["top", "store"].map(|name| home.path().join(name));
    std::fs::create_dir(&top).unwrap();
    let open = request(1, &["/srv"]);
    let opened = |lost: Option<Snapshot>| {
        let (record, _) = Store::open(&store).unwrap();
        let held = if lost.is_none() { filled(&top, &["there"]) } else { Vec::new() };
        let mut here = site(&top, &store, &held);
        here.store = Some(record);
        here.stand(&open, lost).unwrap();
        here
    };
    let mut first = opened(None);
    first.complete();
    assert!(first.is_complete());
    first.close();
    assert!(opened(None).is_complete(), "as it was");
    // The container lost a file whose content is not kept.
    let edits = filled(&top, &["there", "unkept"]);
    std::fs::remove_file(top.join("unkept")).unwrap();
    let lost = Snapshot::empty().apply(&edits).unwrap();
    assert!(!opened(Some(lost)).is_complete());
    let mut again = opened(None);
    assert!(!again.is_complete(), "nobody brought it");
    again.complete();
    drop(again);
    assert!(opened(None).is_complete());
}
