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

/// The ops with directories that moved as one, none of which `stays`.
fn moving(held: &Snapshot, wanted: &Snapshot, stays: &dyn Fn(&SyncPath) -> bool) -> Vec<Op> {
    let refused = Refused::new();
    plan(held, wanted, Given { moves: Some(stays), ..given(&refused, false) })
}

/// What the ops are, in short: where to, and from where it moved.
fn brief(ops: &[Op]) -> Vec<String> {
    let brief = |op: &Op| match (&op.how, &op.change.new) {
        (How::Tree { from, count, .. }, _) => format!("{} < {from} {count}", op.change.path),
        (How::Copy { from }, _) => format!("{} = {from}", op.change.path),
        (_, None) => format!("-{}", op.change.path),
        (How::Data, _) => format!("{} data", op.change.path),
        (_, Some(_)) => format!("{}", op.change.path),
    };
    ops.iter().map(brief).collect()
}

/// Two, however much it holds, and no question about anything in it.
#[test]
fn a_directory_that_moved_is_two_ops() {
    let files: Vec<(String, String)> =
        (0..5000).map(|i| (format!("{}/{i}", i % 250), format!("content {i}"))).collect();
    let below = |top: &str| {
        let files: Vec<(String, &str)> =
            files.iter().map(|(path, text)| (format!("{top}/{path}"), text.as_str())).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(p, c)| (p.as_str(), *c)).collect();
        tree(&[&[("beside", "stays")], &files[..]].concat())
    };
    let (held, wanted) = (below("here"), below("there"));
    let asked = std::cell::RefCell::new(Vec::new());
    let ops = moving(&held, &wanted, &|path| {
        asked.borrow_mut().push(path.to_string());
        false
    });
    assert_eq!(brief(&ops), ["-0/here", "0/there < 0/here 5250"]);
    assert_eq!(asked.into_inner(), ["0/here"]);
    assert_eq!((deletes(&ops), losses(&wanted, &ops, 0)), (0, 0));
    let folded = e2ek_sidecar::receive::fold(&held, &ops);
    assert_eq!(folded.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [5251]);
    assert_eq!(plan(&held, &wanted, given(&Refused::new(), false)).len(), 2 * 5251);
}

#[test]
fn what_did_not_move_as_it_was_is_told_by_its_entries() {
    let never = |_: &SyncPath| false;
    let of = |held: &[(&str, &str)], wanted: &[(&str, &str)]| {
        brief(&moving(&tree(held), &tree(wanted), &never))
    };
    // One file edited: what it is not in moves.
    assert_eq!(
        of(
            &[("a/x/1", "1"), ("a/x/2", "2"), ("a/y/3", "3"), ("a/y/4", "4")],
            &[("b/x/1", "1"), ("b/x/2", "2"), ("b/y/3", "3"), ("b/y/4", "new")],
        ),
        [
            "-0/a",
            "-0/a/x",
            "-0/a/y",
            "-0/a/y/3",
            "-0/a/y/4",
            "0/b",
            "0/b/x < 0/a/x 2",
            "0/b/y",
            "0/b/y/3 = 0/a/y/3",
            "0/b/y/4 data"
        ]
    );
    // Over one that is there: what differs in it is told.
    assert_eq!(
        of(&[("a/1", "1"), ("a/2", "2"), ("b/3", "3")], &[("b/1", "1"), ("b/2", "2")]),
        ["-0/a", "-0/a/1", "-0/a/2", "0/b/1 = 0/a/1", "0/b/2 = 0/a/2", "-0/b/3"]
    );
    // In place of a file, and a file in place of it.
    assert_eq!(
        of(&[("a/1", "1"), ("a/2", "2"), ("b", "3")], &[("b/1", "1"), ("b/2", "2")]),
        ["-0/a", "-0/a/1", "-0/a/2", "0/b", "0/b/1 = 0/a/1", "0/b/2 = 0/a/2"]
    );
    assert_eq!(
        of(&[("a/1", "1"), ("a/2", "2")], &[("a", "3"), ("b/1", "1"), ("b/2", "2")]),
        ["0/a data", "-0/a/1", "-0/a/2", "0/b", "0/b/1 = 0/a/1", "0/b/2 = 0/a/2"]
    );
    // Two equal ones become one, one becomes two; each moves once, and whole or in parts.
    assert_eq!(
        of(
            &[("a/1", "1"), ("a/2", "2"), ("b/1", "1"), ("b/2", "2")],
            &[("c/1", "1"), ("c/2", "2")]
        ),
        ["-0/a", "-0/b", "-0/b/1", "-0/b/2", "0/c < 0/a 2"]
    );
    assert_eq!(
        of(
            &[("a/d/1", "1"), ("a/d/2", "2")],
            &[("b/d/1", "1"), ("b/d/2", "2"), ("c/1", "1"), ("c/2", "2")]
        ),
        ["-0/a", "0/b < 0/a 3", "0/c", "0/c/1 = 0/a/d/1", "0/c/2 = 0/a/d/2"]
    );
    // What is copied beside is copied from where it was.
    assert_eq!(
        of(&[("a/1", "1"), ("a/2", "2")], &[("b/1", "1"), ("b/2", "2"), ("c", "1")]),
        ["-0/a", "0/b < 0/a 2", "0/c = 0/a/1"]
    );
    // It is ignored from now on, and a copy was made of it.
    let held = tree(&[("a/1", "1"), ("a/2", "2")]);
    let wanted = tree(&[("b/1", "1"), ("b/2", "2")]);
    let mut ops = moving(&held, &wanted, &|path| *path == self::path("0/a"));
    assert_eq!(ops.len(), 6);
    assert_eq!(forget(&mut ops, &|path, _| path.starts_with(&self::path("0/a"))), 2);
    // What was refused hangs on single entries.
    let refused = Refused::from([(path("0/z"), (None, Reason::Denied))]);
    let alone = Given { moves: Some(&never), ..given(&refused, false) };
    assert_eq!(plan(&held, &wanted, alone).len(), 6);
    let asks = Given { moves: Some(&never), ..given(&refused, true) };
    assert_eq!(plan(&held, &wanted, Given { refused: &Refused::new(), ..asks }).len(), 6);
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
    /// A directory that moves stands for what an op for each entry would do, and each index for the
    /// same op at both ends.
    #[test]
    fn a_move_stands_for_an_op_for_each_entry(
        files in proptest::collection::vec(("[abc]/[abc](/[ab])?", "[0123]"), 2..14),
        moves in proptest::collection::vec(("[abc](/[abc])?", "[defg](/[abc])?"), 1..4),
        edit in ("[abcdefg](/[abc]){1,2}", "[0123]"),
    ) {
        let held: BTreeMap<String, String> = files.into_iter().collect();
        let mut wanted = held.clone();
        for (from, to) in moves {
            let inside = |path: &String| path.starts_with(&format!("{from}/"));
            let moved: Vec<String> = wanted.keys().filter(|path| inside(path)).cloned().collect();
            for path in moved {
                let content = wanted.remove(&path).unwrap();
                wanted.insert(format!("{to}{}", &path[from.len()..]), content);
            }
        }
        wanted.insert(edit.0, edit.1);
        let clean = |files: &BTreeMap<String, String>| {
            let clash = |p: &str, q: &str| p != q && path(q).starts_with(&path(p));
            let all: Vec<(&str, &str)> = files.iter().map(|(p, c)| (&**p, &**c)).collect();
            let kept = all.iter().filter(|(p, _)| !all.iter().any(|(q, _)| clash(p, q)));
            tree(&kept.copied().collect::<Vec<_>>())
        };
        let (held, wanted) = (clean(&held), clean(&wanted));
        let ops = moving(&held, &wanted, &|_| false);
        let each = plan(&held, &wanted, given(&Refused::new(), false));
        let all = e2ek_sidecar::receive::expand(&held, &ops).unwrap_or_else(|| ops.clone());
        let changes = |ops: &[Op]| ops.iter().map(|op| op.change.clone()).collect::<Vec<_>>();
        prop_assert_eq!(changes(&all), changes(&each));
        for (index, op) in e2ek_sidecar::receive::fold(&held, &ops) {
            prop_assert_eq!(&all[index as usize].change, &op.change);
        }
        for op in &all {
            if let How::Copy { from } = &op.how {
                prop_assert_eq!(held.entry(from), op.change.new.clone());
            }
        }
    }

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
