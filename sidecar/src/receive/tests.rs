//! The receiver against a model disk: random trees, every step performed in the order given.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::tree::{Change, Digest, Entry};
use crate::wire::Meta;

/// A disk that holds whole entries; content is stood for by its digest.
type Disk = BTreeMap<SyncPath, Entry>;

fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

fn file(content: u8) -> Entry {
    Entry::File { digest: Digest::of(&[content]), size: 1, executable: false }
}

fn snapshot(disk: &Disk) -> Snapshot {
    let edits: Vec<Edit> = disk
        .iter()
        .map(|(p, e)| (p.clone(), Some(Node::from_entry(e, Stamp::default()))))
        .collect();
    Snapshot::empty().apply(&edits).unwrap()
}

/// Trees of one pair: "0" and below, with a few contents so that copies are frequent.
fn disks() -> impl Strategy<Value = Disk> {
    proptest::collection::vec(("[ab](/[ab]){0,2}", 0u8..3), 0..8).prop_map(|puts| {
        let mut disk = Disk::from([(path("0"), Entry::Directory)]);
        for (at, content) in puts {
            let at = path("0").append(&path(&at)).unwrap();
            let mut parent = at.parent();
            while let Some(p) = parent.filter(|p| !p.is_root()) {
                disk.insert(p.clone(), Entry::Directory);
                parent = p.parent();
            }
            disk.retain(|p, _| p == &at || !p.starts_with(&at));
            disk.insert(at, file(content));
        }
        disk
    })
}

/// Ops with a copy wherever the old tree has the content.
fn plan(from: &Snapshot, to: &Snapshot) -> Vec<Op> {
    let mut known = BTreeMap::new();
    from.walk(&mut |path, node| {
        if let Node::File { digest, .. } = node {
            known.insert(*digest, path.clone());
        }
    });
    from.diff(to)
        .into_iter()
        .map(|change| {
            let how = match &change.new {
                Some(Entry::File { digest, .. }) => match known.get(digest) {
                    Some(from) => How::Copy { from: from.clone() },
                    None if matches!(change.old, Some(Entry::File { .. })) => How::Patch,
                    None if digest.0[0] & 1 == 0 => How::Held,
                    None => How::Data,
                },
                _ => How::None,
            };
            Op { change, how, meta: Meta::default() }
        })
        .collect()
}

struct Player {
    receiver: Receiver,
    disk: Disk,
    staged: BTreeMap<u32, Entry>,
    /// Directories that may move whole are moved so.
    whole: bool,
    /// How many were.
    moved: u32,
}

impl Player {
    fn perform(&mut self, steps: Vec<Step>) {
        for step in steps {
            self.perform_one(step);
        }
    }

    fn perform_one(&mut self, step: Step) {
        match step {
            Step::Stage { index } => {
                let How::Copy { from } = self.receiver.op(index).how.clone() else { panic!() };
                self.staged.insert(index, self.disk[&from].clone());
            }
            Step::Place { index } => {
                let entry = self.staged.remove(&index).unwrap();
                self.put(index, &entry);
            }
            Step::Copy { index } => {
                let How::Copy { from } = self.receiver.op(index).how.clone() else { panic!() };
                let entry = self.disk[&from].clone();
                self.put(index, &entry);
            }
            Step::MoveTree { index, removal } if self.whole => {
                let to = self.receiver.op(index).change.path.clone();
                let from = self.receiver.op(removal).change.path.clone();
                assert!(self.disk.keys().all(|p| !p.starts_with(&to)), "{to} is free");
                assert_eq!(self.disk.get(&to.parent().unwrap()), Some(&Entry::Directory));
                let moves = self.disk.keys().filter(|p| p.starts_with(&from));
                for path in moves.cloned().collect::<Vec<_>>() {
                    let entry = self.disk.remove(&path).unwrap();
                    let below = path.strip_prefix(&from).unwrap();
                    self.disk.insert(to.append(&below).unwrap(), entry);
                }
                self.receiver.moved(index);
                self.moved += 1;
            }
            Step::MoveTree { index, .. } => {
                let steps = self.receiver.scattered(index);
                self.perform(steps);
            }
            Step::Move { index, removal } => {
                let from = self.receiver.op(removal).change.path.clone();
                let entry = self.disk.remove(&from).unwrap();
                self.put(index, &entry);
                self.receiver.done(removal, Stamp::default());
            }
            Step::Ask { index } => self.receiver.need(index),
            Step::MakeDirectory { index } => self.put(index, &Entry::Directory),
            Step::Write { index, complete, .. } => {
                assert!(complete, "contents are one byte");
                let entry = self.receiver.op(index).change.new.clone().unwrap();
                self.put(index, &entry);
            }
            Step::PutHeld { index } | Step::Patch { index, .. } => {
                let entry = self.receiver.op(index).change.new.clone().unwrap();
                self.put(index, &entry);
            }
            Step::Make { .. } => unreachable!("no links here"),
            Step::Remove { index } => {
                let at = self.receiver.op(index).change.path.clone();
                assert!(self.disk.keys().all(|p| p == &at || !p.starts_with(&at)), "{at} holds");
                // Where it made room for something else it may have moved before.
                assert!(self.disk.remove(&at).is_some() || self.moved > 0, "{at} is there");
                self.receiver.done(index, Stamp::default());
            }
        }
    }

    fn put(&mut self, index: u32, entry: &Entry) {
        let change = &self.receiver.op(index).change;
        assert_eq!(change.new.as_ref(), Some(entry), "wrong content for {}", change.path);
        let parent = change.path.parent().unwrap();
        assert!(parent.is_root() || self.disk.get(&parent) == Some(&Entry::Directory));
        assert!(self.disk.keys().all(|p| p == &change.path || !p.starts_with(&change.path)));
        self.disk.insert(change.path.clone(), entry.clone());
        self.receiver.done(index, Stamp::default());
    }
}

/// Brings one disk to another, and the record with it.
fn becomes(a: &Disk, b: &Disk, whole: bool) -> u32 {
    let (from, to) = (snapshot(a), snapshot(b));
    let ops = plan(&from, &to);
    let (disk, staged) = (a.clone(), BTreeMap::new());
    let receiver = Receiver::new(from.clone(), 4, 1);
    let mut player = Player { receiver, disk, staged, whole, moved: 0 };
    let steps = player.receiver.take_ops(5, folded(&from, &ops), true).unwrap();
    let mut unfolded = player.receiver.changes();
    unfolded.sort_by(|a, b| a.path.cmp(&b.path));
    let all: Vec<Change> = ops.iter().map(|op| op.change.clone()).collect();
    assert_eq!(unfolded, all, "the same ops at both ends");
    let open = player.receiver.open.as_ref().unwrap();
    assert!(open.numbered().all(|(index, op, _)| op.change == ops[index as usize].change));
    player.perform(steps);
    let mut wanted: Vec<u32> = player.receiver.needed().unwrap_or_default();
    let sent = |op: &Op| matches!(op.how, How::Data | How::Patch);
    wanted.extend((0u32..).zip(&ops).filter(|(_, op)| sent(op)).map(|(i, _)| i));
    let data = wanted.into_iter().map(|i| (i, 0..1)).collect();
    let steps = player.receiver.take_data(data).unwrap();
    player.perform(steps);
    let steps = player.receiver.commit(5, to.id()).unwrap();
    player.perform(steps);
    let finished = player.receiver.finish().unwrap();
    assert!(finished.skipped.is_empty(), "{:?}", finished.skipped);
    assert_eq!(&player.disk, b);
    assert_eq!(player.receiver.held().id(), to.id());
    player.moved
}

/// The ops as they cross the wire.
fn folded(base: &Snapshot, ops: &[Op]) -> Vec<Op> {
    fold(base, ops).into_iter().map(|(_, op)| op).collect()
}

/// A directory of three entries, and the same elsewhere.
fn moved_once() -> (Disk, Disk) {
    let inside = |top: &str| {
        let at = |name: &str| path(&format!("{top}{name}"));
        let mut disk = Disk::from([(path("0"), Entry::Directory), (at(""), Entry::Directory)]);
        disk.extend([(at("/x"), file(1)), (at("/y"), Entry::Directory), (at("/y/z"), file(2))]);
        disk
    };
    (inside("0/a"), inside("0/b"))
}

#[test]
fn a_directory_moves_as_one_op() {
    let (a, b) = moved_once();
    let (from, to) = (snapshot(&a), snapshot(&b));
    assert_eq!(folded(&from, &plan(&from, &to)).len(), 1);
    assert_eq!((becomes(&a, &b, false), becomes(&a, &b, true)), (0, 1));
}

/// A daemon that believes something else of the directory than the record says.
#[test]
fn i4_a_directory_of_which_the_record_says_something_else_stays() {
    let (a, b) = moved_once();
    let ops = plan(&snapshot(&a), &snapshot(&b));
    let believed = snapshot(&a);
    let mut held = a;
    held.insert(path("0/a/x"), file(2));
    let held = snapshot(&held);
    let mut receiver = Receiver::new(held.clone(), 0, 1);
    assert_eq!(receiver.take_ops(1, folded(&believed, &ops), true), Ok(vec![]));
    assert_eq!(receiver.needed(), Some(vec![]), "the question is answered");
    assert_eq!(receiver.commit(1, snapshot(&b).id()), Ok(vec![]));
    let finished = receiver.finish().unwrap();
    assert_eq!(finished.skipped.len(), ops.len(), "every op, as the daemon counts them");
    assert_eq!(receiver.held().id(), held.id());
}

#[test]
fn i11_moves_of_directories_are_bounded() {
    let (a, _) = moved_once();
    let held = snapshot(&a);
    let tree = held.dir(&path("0/a")).unwrap();
    let moves = |to: &str, count: u32| {
        let how = How::Tree { from: path("0/a"), tree: tree.id(), count };
        op(to, None, Some(Entry::Directory), how)
    };
    let inside = op("0/a/x", Some(file(1)), None, How::None);
    for ops in [
        vec![moves("0/b", 2)],
        vec![moves("0/b", u32::MAX)],
        vec![moves("0/b", 3), moves("0/c", 3)],
        vec![inside, moves("0/b", 3)],
        vec![moves("0/a/y/b", 3)],
    ] {
        let taken = Receiver::new(held.clone(), 0, 1).take_ops(1, ops.clone(), true);
        // Into itself: each goes its own way, and what cannot be is skipped.
        let into_itself = ops[0].change.path == path("0/a/y/b");
        assert!(into_itself || matches!(taken, Err(WireError::Order(_))), "{ops:?}");
    }
}

proptest! {
    #[test]
    fn i3_any_tree_becomes_any_other(a in disks(), b in disks()) {
        becomes(&a, &b, false);
        becomes(&a, &b, true);
    }

    #[test]
    fn i3_directories_move_whole_or_by_entry(a in disks(), b in disks(), place in 0..4usize) {
        // What `a` has in one directory, `b` has in another, beside what else differs.
        let to = ["0/c", "0/b/c", "0/a", "0/b"][place];
        let mut wanted: Disk = b.clone();
        wanted.retain(|p, _| !p.starts_with(&path("0/a")) && !p.starts_with(&path(to)));
        let mut above = path(to).parent();
        while let Some(directory) = above.filter(|p| !p.is_root()) {
            wanted.insert(directory.clone(), Entry::Directory);
            above = directory.parent();
        }
        for (path_there, entry) in a.iter().filter(|(p, _)| p.starts_with(&path("0/a"))) {
            let below = path_there.strip_prefix(&path("0/a")).unwrap();
            wanted.insert(path(to).append(&below).unwrap(), entry.clone());
        }
        becomes(&a, &wanted, false);
        becomes(&a, &wanted, true);
    }

    #[test]
    fn the_record_never_says_more_than_was_done(a in disks(), b in disks(), fail in 0u32..6) {
        let (from, to) = (snapshot(&a), snapshot(&b));
        let ops: Vec<Op> = plan(&from, &to)
            .into_iter()
            .map(|op| Op { how: if op.how == How::None { How::None } else { How::Data }, ..op })
            .collect();
        let mut receiver = Receiver::new(from.clone(), 0, 1);
        receiver.take_ops(1, ops.clone(), true).unwrap();
        for (index, _) in (0u32..).zip(&ops) {
            if index == fail {
                receiver.skip(index, Reason::NoSpace);
            } else {
                receiver.done(index, Stamp::default());
            }
        }
        receiver.commit(1, to.id()).unwrap();
        let finished = receiver.finish().unwrap();
        // Where something else stands in a directory's place, nothing can have stayed in it.
        let replaced = |failed: &Op| ops.iter().any(|op| {
            op.change.new.is_some() && op.change.path != failed.change.path
                && failed.change.path.starts_with(&op.change.path)
        });
        if let Some(failed) = ops.get(fail as usize) {
            prop_assume!(failed.change.new.is_some() || !replaced(failed));
        }
        // The other end works out the same tree from what it is told was skipped.
        let skipped = |index: &u32| finished.skipped.iter().any(|s| s.index == *index);
        let told: Vec<Change> = (0u32..)
            .zip(&ops)
            .filter(|(index, _)| !skipped(index))
            .map(|(_, op)| op.change.clone())
            .collect();
        prop_assert_eq!(from.apply_changes(&told).unwrap().id(), receiver.held().id());
        if let Some(failed) = ops.get(fail as usize) {
            prop_assert_eq!(receiver.held().entry(&failed.change.path), failed.change.old.clone());
            prop_assert!(finished.skipped.iter().any(|s| s.index == fail));
        } else {
            prop_assert_eq!(receiver.held().id(), to.id());
        }
    }
}

fn op(at: &str, old: Option<Entry>, new: Option<Entry>, how: How) -> Op {
    Op { change: Change { path: path(at), old, new }, how, meta: Meta::default() }
}

#[test]
fn i11_nonsense_is_refused() {
    let refused =
        |ops: Vec<Op>| Receiver::new(Snapshot::empty(), 0, 1).take_ops(1, ops, true).unwrap_err();
    for ops in [
        vec![op("1/a", None, Some(file(1)), How::Data)],
        vec![op("x", None, Some(file(1)), How::Data)],
        vec![op("00", None, Some(Entry::Directory), How::None)],
        vec![op("0/a", None, Some(Entry::Directory), How::Data)],
        vec![op("0/a", None, Some(file(1)), How::None)],
        vec![op("0/a", None, Some(file(1)), How::Copy { from: path("7/x") })],
        vec![op("0/a", None, Some(file(1)), How::Patch)],
        vec![op("0/a", Some(Entry::Directory), Some(file(1)), How::Patch)],
        vec![op("0/a", Some(file(1)), None, How::Patch)],
        vec![op("0/b", None, Some(file(1)), How::Data), op("0/a", None, Some(file(1)), How::Data)],
    ] {
        assert!(matches!(refused(ops.clone()), WireError::Order(_)), "{ops:?}");
    }
    let mut receiver = Receiver::new(Snapshot::empty(), 0, 1);
    assert!(receiver.take_ops(0, vec![], true).is_err(), "a generation of the past");
    receiver.abandon();
    assert!(receiver.take_data(vec![(0, 0..1)]).is_err(), "data without ops");
    assert!(receiver.commit(1, Snapshot::empty().id()).is_err(), "commit without ops");
}

#[test]
fn i11_data_must_fit() {
    let start = || {
        let mut receiver = Receiver::new(Snapshot::empty(), 0, 1);
        let ops = vec![
            op("0", None, Some(Entry::Directory), How::None),
            op("0/a", None, Some(file(1)), How::Data),
        ];
        receiver.take_ops(1, ops, true).unwrap();
        receiver
    };
    assert!(start().take_data(vec![(1, 0..2)]).is_err(), "too much");
    assert!(start().take_data(vec![(0, 0..1)]).is_err(), "for a directory");
    assert!(start().take_data(vec![(9, 0..1)]).is_err(), "for nothing");
    assert!(start().commit(1, Snapshot::empty().id()).is_err(), "too early");
}

#[test]
fn i4_an_op_that_expects_something_else_is_skipped() {
    let held = snapshot(&Disk::from([(path("0"), Entry::Directory), (path("0/a"), file(1))]));
    let mut receiver = Receiver::new(held, 0, 1);
    let steps = receiver.take_ops(1, vec![op("0/a", Some(file(2)), None, How::None)], true);
    assert_eq!(steps, Ok(vec![]));
    assert_eq!(receiver.commit(1, TreeId([0; 32])), Ok(vec![]));
    let finished = receiver.finish().unwrap();
    assert_eq!(finished.skipped, [Skipped { index: 0, reason: Some(Reason::Conflict) }]);
    assert_eq!(receiver.held().entry(&path("0/a")), Some(file(1)));
}

#[test]
fn i4_packed_ops_are_done_on_the_tree_they_were_made_for_or_not_at_all() {
    let held = snapshot(&Disk::from([(path("0"), Entry::Directory), (path("0/a"), file(1))]));
    let wanted = snapshot(&Disk::from([(path("0"), Entry::Directory), (path("0/a"), file(2))]));
    let ops = |how| vec![op("0/a", None, Some(file(2)), how)];
    let mut receiver = Receiver::new(held.clone(), 0, 1);
    receiver.take_packed(1, held.id(), ops(How::Data), true).unwrap();
    assert_eq!(receiver.op(0).change.old, Some(file(1)), "filled in");
    receiver.take_data(vec![(0, 0..1)]).unwrap();
    receiver.done(0, Stamp::default());
    receiver.commit(1, wanted.id()).unwrap();
    assert_eq!(receiver.finish().unwrap().skipped, []);
    assert_eq!(receiver.held().id(), wanted.id());
    for (how, asks) in [(How::Data, false), (How::Patch, false), (How::Ask, true)] {
        let mut receiver = Receiver::new(held.clone(), 0, 1);
        assert_eq!(receiver.take_packed(1, wanted.id(), ops(how), true), Ok(vec![]));
        assert_eq!(receiver.needed(), asks.then(Vec::new));
        assert_eq!(receiver.take_data(vec![(0, 0..1)]), Ok(vec![]), "on its way already");
        receiver.commit(1, wanted.id()).unwrap();
        let skipped = Skipped { index: 0, reason: Some(Reason::Conflict) };
        assert_eq!(receiver.finish().unwrap().skipped, [skipped]);
        assert_eq!(receiver.held().id(), held.id());
    }
}

#[test]
fn a_patch_of_another_path_needs_a_file_there() {
    let held = snapshot(&Disk::from([(path("0"), Entry::Directory), (path("0/a"), file(1))]));
    let like = |from: &str| {
        let how = How::Like { from: path(from) };
        vec![op("0/b", None, Some(file(2)), how)]
    };
    let mut receiver = Receiver::new(held.clone(), 0, 1);
    receiver.take_ops(1, like("0/a"), true).unwrap();
    assert_eq!(receiver.patched(0), Some((&path("0/a"), 1)));
    let step = Step::Patch { index: 0, range: 0..7 };
    assert_eq!(receiver.take_data(vec![(0, 0..7)]), Ok(vec![step]));
    let mut receiver = Receiver::new(held.clone(), 0, 1);
    receiver.take_ops(1, like("0/c"), true).unwrap();
    assert_eq!(receiver.take_data(vec![(0, 0..7)]), Ok(vec![]));
    let mut receiver = Receiver::new(held, 0, 1);
    assert!(receiver.take_ops(1, like("1/a"), true).is_err(), "outside the roots");
}

#[test]
fn a_patch_is_whole_when_it_was_applied() {
    let held = snapshot(&Disk::from([(path("0"), Entry::Directory), (path("0/a"), file(1))]));
    let wanted = snapshot(&Disk::from([(path("0"), Entry::Directory), (path("0/a"), file(2))]));
    let ops = vec![op("0/a", Some(file(1)), Some(file(2)), How::Patch)];
    let mut receiver = Receiver::new(held.clone(), 0, 1);
    receiver.take_ops(1, ops.clone(), true).unwrap();
    assert!(receiver.commit(1, wanted.id()).is_err(), "too early");
    let steps = receiver.take_data(vec![(0, 0..7), (0, 7..9)]);
    let step = |range| Step::Patch { index: 0, range };
    assert_eq!(steps, Ok(vec![step(0..7), step(7..9)]), "of any length");
    receiver.done(0, Stamp::default());
    assert!(receiver.take_data(vec![(0, 0..1)]).is_err(), "more than the patch");
    receiver.commit(1, wanted.id()).unwrap();
    receiver.finish().unwrap();
    assert_eq!(receiver.held().id(), wanted.id());
    // Of another base: the record forgets the path, so that all of it comes.
    let mut receiver = Receiver::new(held, 0, 1);
    receiver.take_ops(1, ops, true).unwrap();
    receiver.take_data(vec![(0, 0..7)]).unwrap();
    receiver.lost(0);
    assert_eq!(receiver.take_data(vec![(0, 7..9)]), Ok(vec![]), "the rest is on its way already");
    receiver.commit(1, wanted.id()).unwrap();
    let finished = receiver.finish().unwrap();
    assert_eq!(finished.skipped, [Skipped { index: 0, reason: Some(Reason::Conflict) }]);
    assert_eq!(receiver.held().entry(&path("0/a")), None);
}

/// One denied file used to end the link when a second save was on its way already.
#[test]
fn i3_a_generation_sent_before_a_skip_was_known_is_taken() {
    let root = Disk::from([(path("0"), Entry::Directory)]);
    let with = |extra: &[&str]| {
        let mut disk = root.clone();
        disk.extend(extra.iter().map(|p| (path(p), Entry::Directory)));
        snapshot(&disk)
    };
    let made = |at: &str| vec![op(at, None, Some(Entry::Directory), How::None)];
    let mut receiver = Receiver::new(with(&[]), 0, 1);
    receiver.take_ops(1, made("0/a"), true).unwrap();
    receiver.skip(0, Reason::Denied);
    receiver.commit(1, with(&["0/a"]).id()).unwrap();
    receiver.finish().unwrap();
    receiver.take_ops(2, made("0/b"), true).unwrap();
    receiver.done(0, Stamp::default());
    receiver.commit(2, with(&["0/a", "0/b"]).id()).unwrap();
    receiver.finish().unwrap();
    receiver.take_ops(3, made("0/a/x"), true).unwrap();
    receiver.skip(0, Reason::Denied);
    receiver.commit(3, with(&["0/a", "0/a/x", "0/b"]).id()).unwrap();
    receiver.finish().unwrap();
    assert_eq!(receiver.held().id(), with(&["0/b"]).id());
    receiver.take_ops(4, made("0/a"), true).unwrap();
    receiver.done(0, Stamp::default());
    receiver.commit(4, with(&["0/a", "0/b"]).id()).unwrap();
    receiver.finish().unwrap();
    receiver.take_ops(5, made("0/c"), true).unwrap();
    receiver.done(0, Stamp::default());
    assert!(receiver.commit(5, TreeId([7; 32])).is_err(), "both agree again");
}

/// When the hub's state was full the directory was skipped, though it stood at the target: files that
/// came after it were written and recorded by nobody.
#[test]
fn i7_nothing_is_put_where_the_record_has_no_directory() {
    let mut receiver = Receiver::new(Snapshot::empty(), 0, 1);
    receiver.take_ops(1, vec![op("0", None, Some(Entry::Directory), How::None)], true).unwrap();
    receiver.skip(0, Reason::NoSpace);
    receiver.abandon();
    let link = || Some(Entry::Symlink { target: b"x".as_slice().into() });
    let ops = vec![op("0/a", None, link(), How::None), op("0/b", None, link(), How::None)];
    assert_eq!(receiver.take_ops(2, ops, true), Ok(vec![]));
    receiver.commit(2, TreeId([2; 32])).unwrap();
    let skipped = |index| Skipped { index, reason: Some(Reason::Conflict) };
    assert_eq!(receiver.finish().unwrap().skipped, [skipped(0), skipped(1)]);
    let dir = op("0", None, Some(Entry::Directory), How::None);
    let steps = receiver.take_ops(3, vec![dir, op("0/a", None, link(), How::None)], true);
    assert_eq!(steps.unwrap().len(), 2, "together with its directory it fits");
}

#[test]
fn i7_what_is_forgotten_stays_where_it_is() {
    let held = snapshot(&Disk::from([(path("0"), Entry::Directory), (path("0/a"), file(1))]));
    let target = held.apply(&[(path("0/a"), None)]).unwrap();
    let mut receiver = Receiver::new(held, 0, 1);
    let steps = receiver.take_ops(1, vec![op("0/a", Some(file(1)), None, How::Forget)], true);
    assert_eq!(steps, Ok(vec![]));
    assert_eq!(receiver.commit(1, target.id()), Ok(vec![]), "nothing is removed");
    receiver.finish().unwrap();
    assert_eq!(receiver.held().entry(&path("0/a")), None, "and it is managed no more");
}

/// A file that took a directory's place was left out of the record, because of a path in it that the
/// record did not hold either: nobody would ever have removed it.
#[test]
fn i7_only_what_is_held_keeps_a_directory_in_the_record() {
    let held = Disk::from([(path("0"), Entry::Directory), (path("0/d"), Entry::Directory)]);
    let mut receiver = Receiver::new(snapshot(&held), 0, 1);
    let ops = vec![
        op("0/d", Some(Entry::Directory), Some(file(1)), How::Data),
        op("0/d/x", Some(file(2)), None, How::None),
    ];
    receiver.take_ops(1, ops, true).unwrap();
    receiver.take_data(vec![(0, 0..1)]).unwrap();
    receiver.done(0, Stamp::default());
    receiver.commit(1, TreeId([0; 32])).unwrap();
    receiver.finish().unwrap();
    assert_eq!(receiver.held().entry(&path("0/d")), Some(file(1)));
}

/// A directory that was removed before it was known that a file in it stays took that file out of the
/// record: nobody would ever have removed it.
#[test]
fn i7_a_removed_directory_takes_nothing_along_that_stayed() {
    let held = Disk::from([
        (path("0"), Entry::Directory),
        (path("0/d"), Entry::Directory),
        (path("0/d/e"), Entry::Directory),
        (path("0/d/stays"), file(1)),
    ]);
    let mut receiver = Receiver::new(snapshot(&held), 0, 1);
    let gone = |at| op(at, Some(Entry::Directory), None, How::None);
    receiver.take_ops(1, vec![gone("0/d"), gone("0/d/e")], true).unwrap();
    receiver.commit(1, TreeId([0; 32])).unwrap_err();
    receiver.done(0, Stamp::default());
    receiver.done(1, Stamp::default());
    receiver.abandon();
    assert_eq!(receiver.held().entry(&path("0/d/stays")), Some(file(1)));
    assert_eq!(receiver.held().entry(&path("0/d/e")), None);
}
