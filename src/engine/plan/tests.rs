//! Plans as tables, and what must hold for any two trees.

use e2ek_sidecar::tree::{Edit, Stamp};
use proptest::prelude::*;

use super::*;

fn given(refused: &Refused, ask: bool) -> Given<'_> {
    Given { refused, ask, sent: &|_| false, moves: None }
}

fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

fn file(content: &str) -> Entry {
    Entry::File {
        digest: Digest::of(content.as_bytes()),
        size: content.len() as u64,
        executable: false,
    }
}

/// A tree of one pair: its files by path below "0", directories made as needed.
fn tree(files: &[(&str, &str)]) -> Snapshot {
    let mut all = BTreeMap::from([(path("0"), Entry::Directory)]);
    for (at, content) in files {
        let at = path("0").append(&path(at)).unwrap();
        for parent in std::iter::successors(at.parent(), SyncPath::parent) {
            if !parent.is_root() {
                all.insert(parent, Entry::Directory);
            }
        }
        all.insert(at, file(content));
    }
    let edits: Vec<Edit> =
        (all.into_iter()).map(|(p, e)| (p, Some(Node::from_entry(&e, Stamp::default())))).collect();
    Snapshot::empty().apply(&edits).unwrap()
}

fn hows(held: &Snapshot, wanted: &Snapshot) -> Vec<(String, How)> {
    plan(held, wanted, given(&Refused::new(), false))
        .into_iter()
        .map(|op| (op.change.path.to_string(), op.how))
        .collect()
}

#[test]
fn content_that_the_target_holds_is_not_sent() {
    let copy = |from: &str| How::Copy { from: path(from) };
    let big = "x".repeat(SEARCH_FROM_BYTES as usize);
    type Case<'a> = (&'a str, Snapshot, Snapshot, Vec<(&'a str, How)>);
    let cases: [Case; 6] = [
        (
            "renamed",
            tree(&[("a", "1")]),
            tree(&[("b", "1")]),
            vec![("0/a", How::None), ("0/b", copy("0/a"))],
        ),
        (
            "swapped",
            tree(&[("a", "1"), ("b", "2")]),
            tree(&[("a", "2"), ("b", "1")]),
            vec![("0/a", copy("0/b")), ("0/b", copy("0/a"))],
        ),
        ("new", tree(&[]), tree(&[("a", "1")]), vec![("0/a", How::Data)]),
        ("empty", tree(&[]), tree(&[("a", "")]), vec![("0/a", How::None)]),
        (
            "a small copy is cheaper sent than searched for",
            tree(&[("a", "1")]),
            tree(&[("a", "1"), ("b", "1")]),
            vec![("0/b", How::Data)],
        ),
        (
            "a large copy is searched for",
            tree(&[("a", &big)]),
            tree(&[("a", &big), ("b", &big)]),
            vec![("0/b", copy("0/a"))],
        ),
    ];
    for (name, held, wanted, expected) in cases {
        let expected: Vec<_> =
            expected.into_iter().map(|(path, how)| (path.to_owned(), how)).collect();
        assert_eq!(hows(&held, &wanted), expected, "{name}");
    }
}

#[test]
fn first_contact_asks() {
    let ops =
        plan(&Snapshot::empty(), &tree(&[("a", "1"), ("e", "")]), given(&Refused::new(), true));
    let hows: Vec<How> = ops.into_iter().map(|op| op.how).collect();
    assert_eq!(hows, [How::None, How::Ask, How::None]);
}

#[test]
fn i7_emptied_roots_and_large_deletes_are_held() {
    let many: Vec<(String, String)> =
        (0..100).map(|i| (format!("d/{i}"), format!("content {i}"))).collect();
    let of = |n: usize| {
        let some: Vec<(&str, &str)> =
            many[..n].iter().map(|(p, c)| (p.as_str(), c.as_str())).collect();
        tree(&some)
    };
    let held_by = |wanted: &Snapshot, budget| {
        let ops = plan(&of(100), wanted, given(&Refused::new(), false));
        guard(&of(100), wanted, &ops, budget, 0)
    };
    let default = DeleteBudget::default();
    assert_eq!(held_by(&of(50), default), None, "fifty are free");
    assert_eq!(held_by(&of(49), default), Some(Hold::Budget { deletes: 51, managed: 100 }));
    let ops = plan(&of(100), &of(99), given(&Refused::new(), false));
    let after_others = guard(&of(100), &of(99), &ops, default, 50);
    assert_eq!(after_others, Some(Hold::Budget { deletes: 51, managed: 150 }), "step by step");
    assert_eq!(held_by(&of(49), DeleteBudget::Count(51)), None);
    assert_eq!(held_by(&tree(&[]), default), Some(Hold::RootEmptied { deletes: 100 }));
    assert_eq!(held_by(&Snapshot::empty(), default), Some(Hold::RootEmptied { deletes: 100 }));
    assert_eq!(held_by(&tree(&[]), DeleteBudget::Percent(100)), None, "the user said so");
    let moved: Vec<(String, &str)> =
        many.iter().map(|(p, c)| (format!("e/{p}"), c.as_str())).collect();
    let moved: Vec<(&str, &str)> = moved.iter().map(|(p, c)| (p.as_str(), *c)).collect();
    assert_eq!(held_by(&tree(&moved), DeleteBudget::Count(0)), None, "moving deletes nothing");
}

#[test]
fn what_was_refused_is_left_out_with_all_that_hangs_on_it() {
    let held = tree(&[("d/x", "1"), ("keep", "k")]);
    let wanted = tree(&[("n/a", "2"), ("keep", "k")]);
    let refused =
        |p: &str, entry: Option<Entry>| Refused::from([(path(p), (entry, Reason::Denied))]);
    let paths = |refused: &Refused| -> Vec<String> {
        plan(&held, &wanted, given(refused, false))
            .iter()
            .map(|op| op.change.path.to_string())
            .collect()
    };
    assert_eq!(paths(&Refused::new()), ["0/d", "0/d/x", "0/n", "0/n/a"]);
    assert_eq!(paths(&refused("0/d/x", None)), ["0/n", "0/n/a"], "its directory stays too");
    assert_eq!(paths(&refused("0/n", Some(Entry::Directory))), ["0/d", "0/d/x"]);
    let other = refused("0/n/a", Some(file("another")));
    assert_eq!(paths(&other).len(), 4, "a new content is a new try");
}

proptest! {
    #[test]
    fn i7_nothing_outside_what_is_held_is_ever_deleted(
        a in proptest::collection::vec(("[ab](/[ab]){0,2}", "[012]"), 0..8),
        b in proptest::collection::vec(("[ab](/[ab]){0,2}", "[012]"), 0..8),
    ) {
        let clean = |files: &[(String, String)]| {
            let mut taken: Vec<(&str, &str)> = Vec::new();
            for (p, c) in files {
                let clash = |q: &str| path(q).starts_with(&path(p)) || path(p).starts_with(&path(q));
                if !taken.iter().any(|(q, _)| clash(q)) {
                    taken.push((p, c));
                }
            }
            tree(&taken)
        };
        let (held, wanted) = (clean(&a), clean(&b));
        let ops = plan(&held, &wanted, given(&Refused::new(), false));
        for op in &ops {
            prop_assert_eq!(&op.change.old, &held.entry(&op.change.path));
            if let How::Copy { from } = &op.how {
                prop_assert_eq!(held.entry(from), op.change.new.clone());
            }
        }
        let changes: Vec<Change> = ops.into_iter().map(|op| op.change).collect();
        let reached = held.apply_changes(&changes).unwrap();
        prop_assert_eq!(reached.id(), wanted.id());
        prop_assert!(plan(&reached, &wanted, given(&Refused::new(), false)).is_empty());
    }
}
