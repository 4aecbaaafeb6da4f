//! Large files go ahead of their generations.

use e2ek_sidecar::wire::{How, NotHeld};

use super::super::target::MOST_BEGUN;

use super::*;

const A: u8 = LARGE;
const B: u8 = LARGE + 1;

/// What goes ahead: number, path, and whether it must be whole.
fn ahead(effects: &[Effect]) -> Vec<(u64, String, bool)> {
    let of = |effect: &Effect| match effect {
        Effect::Ahead { number, op, whole, .. } => {
            Some((*number, op.change.path.to_string(), *whole))
        }
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

fn ended(effects: &[Effect]) -> Vec<u64> {
    let of = |effect: &Effect| match effect {
        Effect::EndAhead(_, number) => Some(*number),
        _ => None,
    };
    effects.iter().filter_map(of).collect()
}

/// Paths of a generation, and how their content comes.
fn sent(effects: &[Effect]) -> Vec<(String, How)> {
    let ops = effects.iter().filter_map(|effect| match effect {
        Effect::SendOps { ops, .. } => Some(ops.to_vec()),
        _ => None,
    });
    ops.flatten().map(|op| (op.change.path.to_string(), op.how)).collect()
}

impl Bench {
    fn held(&mut self, number: u64) -> Vec<Effect> {
        self.input(Input::Message(0, FromHub::Held { number }))
    }

    fn not_held(&mut self, number: u64, why: NotHeld) -> Vec<Effect> {
        self.input(Input::Message(0, FromHub::NotHeld { number, why }))
    }

    fn is_there(&mut self, files: &[(&str, u8)]) -> Vec<Effect> {
        let generation = self.session.generation();
        self.applied(generation, &tree(files), &[])
    }
}

#[test]
fn a_save_waits_for_no_large_file_and_nothing_is_called_synced_before_both() {
    let mut bench = Bench::synced(&[]);
    let effects = bench.scan(&[("big", A), ("small", 1)]);
    assert_eq!(ahead(&effects), [(1, "0/big".to_owned(), false)]);
    assert_eq!(sent(&effects), [("0/small".to_owned(), How::Data)]);
    let effects = bench.is_there(&[("small", 1)]);
    assert!(ended(&effects).is_empty() && sent(&effects).is_empty());
    assert_eq!(bench.state(), TargetState::Syncing);
    assert!(bench.status().generation < bench.session.generation(), "a flush waits for it");
    // A save meanwhile.
    let effects = bench.scan(&[("big", A), ("small", 2)]);
    assert_eq!(sent(&effects), [("0/small".to_owned(), How::Data)]);
    assert!(ahead(&effects).is_empty(), "it is on its way");
    bench.is_there(&[("small", 2)]);
    let effects = bench.held(1);
    assert_eq!(sent(&effects), [("0/big".to_owned(), How::Held)]);
    assert_eq!(bench.state(), TargetState::Syncing);
    bench.is_there(&[("big", A), ("small", 2)]);
    assert_eq!(bench.state(), TargetState::Synced);
    assert_eq!(bench.status().generation, bench.session.generation());
}

#[test]
fn a_save_waits_for_no_large_copy_and_a_move_is_none() {
    let before = [("big", A), ("small", 1)];
    let mut bench = Bench::synced(&before);
    let effects = bench.scan(&[("big", A), ("copy", A), ("small", 2)]);
    assert_eq!(ahead(&effects), [(1, "0/copy".to_owned(), false)]);
    assert_eq!(sent(&effects), [("0/small".to_owned(), How::Data)]);
    bench.is_there(&[("big", A), ("small", 2)]);
    assert_eq!(sent(&bench.held(1)), [("0/copy".to_owned(), How::Held)]);
    bench.is_there(&[("big", A), ("copy", A), ("small", 2)]);
    assert_eq!(bench.state(), TargetState::Synced);
    // What the hub cannot copy is sent.
    let mut bench = Bench::synced(&before);
    bench.scan(&[("big", A), ("copy", A), ("small", 1)]);
    assert_eq!(ahead(&bench.not_held(1, NotHeld::Base)), [(2, "0/copy".to_owned(), true)]);
    // A rename.
    let mut bench = Bench::synced(&before);
    let effects = bench.scan(&[("moved", A), ("small", 1)]);
    let copy = How::Copy { from: path("0/big") };
    let moved = [("0/big".to_owned(), How::None), ("0/moved".to_owned(), copy)];
    assert_eq!((ahead(&effects), sent(&effects)), (vec![], moved.to_vec()));
}

#[test]
fn i9_a_restart_waits_for_the_large_file_of_its_batch_within_bounds() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("big", A), ("small", 1)]);
    bench.is_there(&[("small", 1)]);
    assert_eq!(acted(&bench.after(5000)), None, "half of a batch");
    bench.held(1);
    bench.is_there(&[("big", A), ("small", 1)]);
    let generation = bench.session.generation();
    assert_eq!(acted(&bench.after(50)), Some((generation, true)));

    // What the rules ask nothing for is not waited for, and nothing for ever.
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("quiet", A), ("small", 1)]);
    bench.is_there(&[("small", 1)]);
    assert!(acted(&bench.after(50)).is_some());
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("big", A), ("small", 1)]);
    bench.is_there(&[("small", 1)]);
    assert_eq!(bench.wait(), Some(10_000));
    assert!(acted(&bench.after(10_000)).is_some());
}

#[test]
fn large_files_that_come_together_are_one_sync() {
    let mut bench = Bench::synced(&[]);
    let effects = bench.scan(&[("a", A), ("b", B)]);
    assert_eq!(ahead(&effects).len(), 2);
    let begin = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Say(Notice::Begin { first, all, .. }) => Some((*first, all.map(|a| a.bytes))),
            _ => None,
        })
    };
    let more = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Say(Notice::Applied { report, .. }) => Some(report.more),
            _ => None,
        })
    };
    assert_eq!(begin(&bench.held(1)), Some((true, Some(10_000))));
    // A save is told on its own.
    assert_eq!(begin(&bench.scan(&[("a", A), ("b", B), ("c", 1)])), Some((false, None)));
    let generation = bench.session.generation();
    assert_eq!(more(&bench.applied(generation - 1, &tree(&[("a", A)]), &[])), Some(true));
    let there = tree(&[("a", A), ("c", 1)]);
    assert_eq!(more(&bench.applied(generation, &there, &[])), Some(false));
    assert_eq!(begin(&bench.held(2)), Some((true, None)));
    let effects = bench.is_there(&[("a", A), ("b", B), ("c", 1)]);
    assert_eq!(more(&effects), Some(false));
    let level = |effect: &Effect| matches!(effect, Effect::Say(Notice::Level { .. }));
    assert!(!effects.iter().any(level), "every end was told");
}

#[test]
fn what_the_rest_of_a_sync_loses_is_over_all_the_same() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", A), ("b", B)]);
    bench.held(1);
    bench.is_there(&[("a", A)]);
    // The second is not wanted any more; the first was told to be one of two.
    let effects = bench.scan(&[("a", A)]);
    assert_eq!(ended(&effects), [2]);
    let level = |effect: &Effect| matches!(effect, Effect::Say(Notice::Level { .. }));
    assert!(effects.iter().any(level));
    assert_eq!(bench.state(), TargetState::Synced);
    assert!(sent(&bench.held(2)).is_empty(), "it came late");
}

#[test]
fn a_file_that_changes_for_ever_arrives_version_after_version() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("log", A)]);
    let effects = bench.scan(&[("log", B)]);
    assert!(ended(&effects).is_empty() && ahead(&effects).is_empty(), "what was begun comes first");
    let effects = bench.held(1);
    assert_eq!(sent(&effects), [("0/log".to_owned(), How::Held)]);
    assert!(ahead(&effects).is_empty(), "not before it is known that it is there");
    let effects = bench.is_there(&[("log", A)]);
    assert_eq!(ahead(&effects), [(2, "0/log".to_owned(), false)]);
    assert_eq!(bench.state(), TargetState::Syncing);
    bench.held(2);
    bench.is_there(&[("log", B)]);
    assert_eq!(bench.state(), TargetState::Synced);
}

#[test]
fn one_that_shrinks_or_goes_is_ended_and_one_that_is_renamed_goes_on() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", A), ("b", B), ("c", B + 1)]);
    let effects = bench.scan(&[("a", 1), ("e", B + 1)]);
    assert_eq!((ended(&effects), ahead(&effects)), (vec![1, 2], vec![]));
    let effects = bench.held(3);
    assert_eq!(sent(&effects), [("0/e".to_owned(), How::Held)]);
}

#[test]
fn a_content_is_never_on_its_way_twice() {
    let mut bench = Bench::synced(&[]);
    let effects = bench.scan(&[("a", A), ("b", A)]);
    assert_eq!(ahead(&effects).len(), 1);
    bench.held(1);
    let effects = bench.is_there(&[("a", A)]);
    // These are too small for a search of all that the target has.
    assert_eq!(ahead(&effects), [(2, "0/b".to_owned(), false)]);
}

#[test]
fn i12_one_that_the_target_cannot_hold_is_told_and_holds_nothing_up() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("big", A), ("small", 1)]);
    bench.is_there(&[("small", 1)]);
    let effects = bench.not_held(1, NotHeld::Fault(Reason::NoSpace));
    assert_eq!(ended(&effects), [1], "the rest of it is not sent");
    assert_eq!((bench.state(), bench.status().problems.len()), (TargetState::Syncing, 1));
    assert_eq!(bench.status().generation, bench.session.generation(), "who waits is told so");
    assert!(sent(&bench.scan(&[("big", A), ("small", 2)])).len() == 1);
    bench.is_there(&[("small", 2)]);
    assert_eq!(ahead(&bench.after(100)), [(2, "0/big".to_owned(), false)], "and tried again");
    bench.held(2);
    bench.is_there(&[("big", A), ("small", 2)]);
    assert_eq!((bench.state(), bench.status().problems.len()), (TargetState::Synced, 0));
}

#[test]
fn a_patch_that_does_not_fit_is_sent_whole_at_once_and_once() {
    let mut bench = Bench::synced(&[("big", A)]);
    assert_eq!(ahead(&bench.scan(&[("big", B)])), [(1, "0/big".to_owned(), false)]);
    assert_eq!(ahead(&bench.not_held(1, NotHeld::Base)), [(2, "0/big".to_owned(), true)]);
    assert!(ahead(&bench.not_held(2, NotHeld::Base)).is_empty(), "no ping-pong");
    assert_eq!(bench.wait(), Some(100));
}

#[test]
fn a_directory_makes_room_when_the_large_file_is_there() {
    let mut bench = Bench::synced(&[]);
    let mut before = tree(&[]);
    let edit = |name: &str, node| (path("0").append(&path(name)).unwrap(), Some(node));
    let small = Entry::File { digest: Digest::of(b"x"), size: 1, executable: false };
    let small = Node::from_entry(&small, Stamp::default());
    before = before.apply(&[edit("a", Node::directory()), edit("a/b", small)]).unwrap();
    bench.input(Input::Scanned { tree: before.clone(), seen: bench.now });
    let generation = bench.session.generation();
    bench.applied(generation, &before, &[]);
    let effects = bench.scan(&[("a", A)]);
    assert!(sent(&effects).is_empty(), "nothing of it goes before");
    let effects = bench.held(1);
    assert_eq!(sent(&effects), [("0/a".to_owned(), How::Held), ("0/a/b".to_owned(), How::None)]);
    bench.is_there(&[("a", A)]);
    assert_eq!(bench.state(), TargetState::Synced);
}

#[test]
fn what_was_asked_for_in_vain_goes_ahead_of_the_next_generation() {
    let mut bench = Bench::new(Mode::Keep, DeleteBudget::default());
    bench.start();
    bench.scan(&[("big", A), ("small", 1)]);
    let nothing = Snapshot::empty();
    let opened = FromHub::Opened { tree: nothing.id(), generation: 0, epoch: 1, populated: true };
    let effects = bench.input(Input::Message(0, opened));
    assert!(sent(&effects).iter().skip(1).all(|(_, how)| *how == How::Ask), "{effects:?}");
    let need = FromHub::Need { indices: vec![1, 2], adopted: 0, last: true };
    let effects = bench.input(Input::Message(0, need));
    let data = effects.iter().find_map(|effect| match effect {
        Effect::SendData { indices, .. } => Some(indices.clone()),
        _ => None,
    });
    assert_eq!(data, Some(vec![2]));
    let withdraw = Effect::Send(0, ToHub::Withdraw { index: 1 });
    assert_eq!(format!("{:?}", effects[0]), format!("{withdraw:?}"));
    let (generation, tree) = (1, tree(&[("small", 1)]).id());
    let skipped = vec![Skipped { index: 1, reason: None }];
    let applied =
        FromHub::Applied { generation, tree, skipped, overwritten: Vec::new(), micros: 1 };
    let effects = bench.input(Input::Message(0, applied));
    assert_eq!(ahead(&effects), [(1, "0/big".to_owned(), false)]);
    assert_eq!(bench.status().problems, []);
}

#[test]
fn no_more_are_begun_than_the_hub_keeps_and_a_lost_link_begins_anew() {
    let names: Vec<String> = (0..100).map(|n| format!("f{n:03}")).collect();
    let files: Vec<_> = names.iter().zip(100..).map(|(name, _)| (&**name, 1)).collect();
    let entry = |n: u8| Entry::File { digest: Digest::of(&[n, n]), size: 5000, executable: false };
    let edits: Vec<Edit> = (files.iter().zip(0..))
        .map(|((name, _), n)| {
            (
                path("0").append(&path(name)).unwrap(),
                Some(Node::from_entry(&entry(n), Stamp::default())),
            )
        })
        .collect();
    let all = tree(&[]).apply(&edits).unwrap();
    let mut bench = Bench::synced(&[]);
    let effects = bench.input(Input::Scanned { tree: all.clone(), seen: bench.now });
    assert_eq!(ahead(&effects).len(), MOST_BEGUN);
    let effects = bench.held(1);
    assert_eq!((sent(&effects).len(), ahead(&effects).len()), (1, 0));
    let effects = bench.held(2);
    assert_eq!((sent(&effects).len(), ahead(&effects).len()), (1, 2), "what is given makes room");
    bench.input(Input::LinkDown(0));
    bench.after(0);
    let effects = bench.opened(&tree(&[]), 9);
    let again = ahead(&effects);
    assert_eq!(again.len(), MOST_BEGUN);
    assert!(again[0].0 > MOST_BEGUN as u64, "numbers are not used twice");
}
