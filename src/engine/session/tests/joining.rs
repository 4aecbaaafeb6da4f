//! Targets that come and go while others stay.

use super::*;

/// The ops that a target is sent.
fn ops_to(effects: &[Effect], target: TargetId) -> Option<(u64, usize)> {
    effects.iter().find_map(|effect| match effect {
        Effect::SendOps { target: id, generation, ops, .. } if *id == target => {
            Some((*generation, ops.len()))
        }
        _ => None,
    })
}

fn opened_by(target: TargetId, tree: &Snapshot, generation: u64) -> Input {
    let tree = tree.id();
    Input::Message(target, FromHub::Opened { tree, generation, epoch: 1, populated: false })
}

#[test]
fn a_target_that_joins_gets_what_it_lacks_and_then_what_all_get() {
    let mut bench = Bench::synced(&[("a", 1)]);
    bench.now += Duration::from_secs(3600);
    let effects = bench.input(Input::Join { target: 5, command: None });
    assert!(matches!(effects[..], [Effect::Connect(5)]), "{effects:?}");
    let joined = bench.now;
    bench.now += Duration::from_millis(3);
    // Its hub was further than the others.
    let effects = bench.input(opened_by(5, &Snapshot::empty(), 20));
    assert_eq!((ops_to(&effects, 5), ops_to(&effects, 0)), (Some((21, 2)), None));
    let applied = |generation, files| FromHub::Applied {
        generation,
        tree: tree(files).id(),
        skipped: Vec::new(),
        overwritten: Vec::new(),
        micros: 1,
    };
    let effects = bench.input(Input::Message(5, applied(21, &[("a", 1)])));
    let seen = effects.iter().find_map(|effect| match effect {
        Effect::Say(Notice::Applied { target: 5, report }) => Some(report.seen),
        _ => None,
    });
    assert_eq!(seen, Some(joined), "late since it joined, not since the last save");
    assert!(!ran(&effects), "it brought no command");
    let states = |bench: &Bench| -> Vec<(TargetId, TargetState, u64)> {
        let status = bench.session.status().into_iter();
        status.map(|target| (target.id, target.state, target.generation)).collect()
    };
    assert_eq!(states(&bench), [(0, TargetState::Synced, 21), (5, TargetState::Synced, 21)]);
    let effects = bench.scan(&[("a", 2)]);
    assert_eq!((ops_to(&effects, 0), ops_to(&effects, 5)), (Some((22, 1)), Some((22, 1))));
}

#[test]
fn a_target_that_leaves_is_waited_for_no_more() {
    let mut bench = Bench::synced(&[("a", 1)]);
    bench.input(Input::Join { target: 1, command: None });
    bench.input(opened_by(1, &tree(&[("a", 1)]), 7));
    bench.scan(&[("a", 2)]);
    bench.applied(8, &tree(&[("a", 2)]), &[]);
    bench.after(50);
    assert_eq!(bench.session.status()[1].state, TargetState::Syncing);
    assert!(bench.input(Input::Leave(1)).is_empty());
    assert_eq!(bench.session.status().len(), 1);
    assert_eq!(bench.state(), TargetState::Synced);
    // What it was still saying, and what the daemon was still doing.
    let tree = tree(&[("a", 2)]);
    let applied = FromHub::Applied {
        generation: 8,
        tree: tree.id(),
        skipped: Vec::new(),
        overwritten: Vec::new(),
        micros: 1,
    };
    for late in [
        Input::Message(1, applied),
        Input::Message(1, FromHub::Child(ChildEvent::Interrupted)),
        opened_by(1, &tree, 9),
        Input::Foreign(1, Vec::new()),
        Input::LinkDown(1),
        Input::Leave(1),
    ] {
        assert!(bench.input(late).is_empty());
    }
    assert_eq!((bench.session.plan(1), bench.wait()), (None, None));
    assert_eq!(ops(&bench.scan(&[("a", 3)])), Some((9, 1)), "the others go on");
}

#[test]
fn a_target_brings_its_own_command() {
    let mut bench = Bench::synced(&[]);
    let argv = vec![Blob(b"other".to_vec())];
    let command = CommandSpec { argv, policy: Policy::default(), inherit: false };
    bench.input(Input::Join { target: 1, command: Some(command.clone()) });
    bench.input(Input::Join { target: 2, command: None });
    let runs = |effects: &[Effect]| -> Vec<(TargetId, CommandSpec)> {
        let runs = effects.iter().filter_map(|effect| match effect {
            Effect::Send(id, ToHub::Run(command)) => Some((*id, command.clone())),
            _ => None,
        });
        runs.collect()
    };
    let mut effects = bench.input(opened_by(1, &tree(&[]), 7));
    effects.extend(bench.input(opened_by(2, &tree(&[]), 7)));
    assert_eq!(runs(&effects), [(1, command)]);
    // Each is restarted where it runs.
    bench.scan(&[("a", 1)]);
    let acts = bench.after(50);
    let acts = acts.iter().filter_map(|effect| match effect {
        Effect::Send(id, ToHub::Act { .. }) => Some(*id),
        _ => None,
    });
    assert_eq!(acts.collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn i7_who_joins_while_the_source_is_gone_waits_with_the_others() {
    let mut bench = Bench::synced(&[("a", 1)]);
    bench.input(Input::RootGone);
    let effects = bench.input(Input::Join { target: 1, command: None });
    let held = |effect: &Effect| {
        matches!(effect, Effect::Say(Notice::Held { target: 1, hold: Hold::RootGone }))
    };
    assert!(effects.iter().any(held));
    assert_eq!(ops_to(&bench.input(opened_by(1, &Snapshot::empty(), 0)), 1), None);
    assert_eq!(bench.session.status()[1].hold, Some(Hold::RootGone));
    assert!(ops_to(&bench.scan(&[("a", 1)]), 1).is_some());
}
