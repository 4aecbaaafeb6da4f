//! Snapshots against a model: a plain sorted map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

fn file(content: &str) -> Node {
    let entry = Entry::File {
        digest: Digest::of(content.as_bytes()),
        size: content.len() as u64,
        executable: false,
    };
    Node::from_entry(&entry, Stamp::default())
}

/// A model: a plain sorted map in which parents are made as needed.
type Model = BTreeMap<SyncPath, Entry>;

fn put(model: &mut Model, at: &SyncPath, content: &str) {
    let mut parent = at.parent();
    while let Some(p) = parent.filter(|p| !p.is_root()) {
        if !matches!(model.get(&p), Some(Entry::Directory)) {
            model.insert(p.clone(), Entry::Directory);
        }
        parent = p.parent();
    }
    model.retain(|p, _| p == at || !p.starts_with(at));
    model.insert(at.clone(), file(content).entry());
}

fn snapshot(model: &Model) -> Snapshot {
    let edits: Vec<Edit> = model
        .iter()
        .map(|(p, e)| (p.clone(), Some(Node::from_entry(e, Stamp::default()))))
        .collect();
    Snapshot::empty().apply(&edits).unwrap()
}

fn flatten(snapshot: &Snapshot) -> Model {
    let mut model = Model::new();
    snapshot.walk(&mut |path, node| {
        model.insert(path.clone(), node.entry());
    });
    model
}

fn models() -> impl Strategy<Value = Model> {
    proptest::collection::vec(("[ab](/[ab.]x?){0,3}", "[01]"), 0..12).prop_map(|puts| {
        let mut model = Model::new();
        for (at, content) in puts {
            if let Ok(at) = SyncPath::new(at.as_bytes()) {
                put(&mut model, &at, &content);
            }
        }
        model
    })
}

#[test]
fn stamps_are_no_content() {
    let stamped = |n| Snapshot::empty().apply(&[(path("a"), Some(n))]).unwrap();
    let mut other = file("x");
    if let Node::File { stamp, .. } = &mut other {
        stamp.inode = 7;
    }
    assert_eq!(stamped(file("x")), stamped(other));
    assert_ne!(stamped(file("x")), stamped(file("y")));
}

#[test]
fn names_and_contents_cannot_be_confused() {
    let one = Snapshot::empty().apply(&[(path("ab"), Some(file("")))]).unwrap();
    let two = Snapshot::empty().apply(&[(path("a"), Some(file("")))]).unwrap();
    assert_ne!(one.id(), two.id());
    let link = Node::Symlink(b"ab"[..].into());
    let three = Snapshot::empty().apply(&[(path("a"), Some(link))]).unwrap();
    assert_ne!(two.id(), three.id());
}

#[test]
fn edits_that_do_not_fit_are_errors() {
    let base = Snapshot::empty().apply(&[(path("a"), Some(file("")))]).unwrap();
    let apply = |edits: &[Edit]| base.apply(edits).map(|_| ());
    let inside = path("a/b");
    assert_eq!(apply(&[(inside.clone(), Some(file("")))]), Err(TreeError::NoParent(inside)));
    assert_eq!(apply(&[(path("x/y"), None)]), Ok(()), "removing nothing is no error");
    assert_eq!(apply(&[(path("b"), None), (path("a"), None)]), Err(TreeError::Order(path("a"))));
    assert_eq!(apply(&[(SyncPath::root(), None)]), Err(TreeError::Order(SyncPath::root())));
}

proptest! {
    #[test]
    fn a_snapshot_is_its_sorted_map(model in models()) {
        let snapshot = snapshot(&model);
        prop_assert_eq!(&flatten(&snapshot), &model);
        prop_assert_eq!(snapshot.count(), model.len() as u64);
        for (p, e) in &model {
            prop_assert_eq!(snapshot.entry(p), Some(e.clone()));
        }
    }

    #[test]
    fn i3_applying_the_diff_gives_the_target(a in models(), b in models()) {
        let (from, to) = (snapshot(&a), snapshot(&b));
        let changes = from.diff(&to);
        for change in &changes {
            prop_assert_eq!(change.old.as_ref(), a.get(&change.path));
            prop_assert_eq!(change.new.as_ref(), b.get(&change.path));
        }
        let applied = from.apply_changes(&changes).unwrap();
        prop_assert_eq!(flatten(&applied), flatten(&to));
        prop_assert_eq!(applied.id(), to.id());
        prop_assert_eq!(a == b, changes.is_empty());
    }

    #[test]
    fn order_of_pushing_does_not_matter(model in models()) {
        let tree = snapshot(&model);
        let mut builder = DirBuilder::default();
        let root = tree.root().clone();
        let mut children: Vec<_> = root.iter().collect();
        children.reverse();
        for (name, node) in children {
            builder.push(name, node.clone());
        }
        prop_assert_eq!(builder.finish().id(), tree.id());
    }
}
