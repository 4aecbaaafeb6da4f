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

/// Some of 1,500 names: enough for directories that are in parts, and for those about to be.
fn wide() -> impl Strategy<Value = BTreeMap<u32, bool>> {
    (0.1..0.9f64).prop_flat_map(|share| {
        let chosen = proptest::bool::weighted(share);
        proptest::collection::vec((chosen, any::<bool>()), 1500).prop_map(|picks| {
            let picked = (0..).zip(picks).filter(|(_, (chosen, _))| *chosen);
            picked.map(|(number, (_, content))| (number, content)).collect()
        })
    })
}

fn name_of(number: u32) -> SyncPath {
    path(&format!("f{number}"))
}

fn built(children: &BTreeMap<u32, bool>) -> Snapshot {
    let mut builder = DirBuilder::default();
    for (&number, content) in children {
        builder.push(name_of(number).as_bytes(), file(if *content { "1" } else { "0" }));
    }
    Snapshot::from_root(builder.finish())
}

fn edits_between(a: &BTreeMap<u32, bool>, b: &BTreeMap<u32, bool>) -> Vec<Edit> {
    let mut edits: Vec<Edit> = (0..1500)
        .filter(|number| a.get(number) != b.get(number))
        .map(|number| {
            let node = b.get(&number).map(|content| file(if *content { "1" } else { "0" }));
            (name_of(number), node)
        })
        .collect();
    edits.sort_by(|a, b| a.0.cmp(&b.0));
    edits
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_wide_directory_is_the_same_however_it_came_about(a in wide(), b in wide(), few in 0..1500u32) {
        let (from, to) = (built(&a), built(&b));
        let edited = from.apply(&edits_between(&a, &b)).unwrap();
        prop_assert_eq!(edited.id(), to.id());
        prop_assert_eq!(flatten(&edited), flatten(&to));
        prop_assert_eq!((edited.count(), edited.root().len()), (b.len() as u64, b.len()));
        for number in 0..1500 {
            let name = name_of(number);
            prop_assert_eq!(edited.get(&name).is_some(), b.contains_key(&number));
        }
        prop_assert_eq!(from.apply_changes(&from.diff(&to)).unwrap().id(), to.id());
        // One name less or more: parts may join or split.
        let mut near = b.clone();
        if near.remove(&few).is_none() {
            near.insert(few, true);
        }
        let near_tree = built(&near);
        prop_assert_eq!(to.diff(&near_tree).len(), 1);
        prop_assert_eq!(to.apply(&edits_between(&b, &near)).unwrap().id(), near_tree.id());
    }
}

proptest! {
    #[test]
    fn a_tree_that_is_added_to_comes_in_slices(all in models(), keep in any::<[bool; 16]>(), slice in 1..6usize) {
        let target = snapshot(&all);
        // What is there already: some of the paths, with the directories they need.
        let there: Model = all
            .iter()
            .zip(keep.iter().cycle())
            .filter(|((path, entry), keep)| **keep && path.components().count() == 1
                && (**entry != Entry::Directory || path.as_bytes() == b"a"))
            .map(|((path, entry), _)| (path.clone(), entry.clone()))
            .collect();
        let mut at = snapshot(&there);
        let mut rounds = 0;
        loop {
            let changes = at.diff_up_to(&target, slice);
            prop_assert!(changes.iter().all(|change| change.old.is_none()));
            let Some(last) = changes.last() else { break };
            let next = at.advanced(&target, &last.path);
            prop_assert_eq!(&next, &at.apply_changes(&changes).unwrap());
            at = next;
            rounds += 1;
            prop_assert!(rounds <= all.len());
        }
        prop_assert_eq!(at, target);
    }
}

#[test]
fn a_change_in_a_wide_directory_leaves_the_rest_of_it_shared() {
    let all: BTreeMap<u32, bool> = (0..20_000).map(|number| (number, false)).collect();
    let tree = built(&all);
    let at = |tree: &Snapshot, number| std::ptr::from_ref(tree.get(&name_of(number)).unwrap());
    let edited = tree.apply(&[(name_of(7), Some(file("new")))]).unwrap();
    let moved = (0..20_000).filter(|&n| at(&tree, n) != at(&edited, n)).count();
    assert!((1..5_000).contains(&moved), "{moved} nodes were copied");
    assert_eq!(tree.diff(&edited).len(), 1);
}
