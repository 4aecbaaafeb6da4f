//! What is asked of the command, when, and for which files.

use super::*;

#[test]
fn i9_one_restart_after_fifty_milliseconds_of_quiet_for_all_that_was_sent() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", 1)]);
    assert_eq!(acted(&bench.after(49)), None);
    bench.scan(&[("a", 1), ("quiet", 1)]);
    assert_eq!(acted(&bench.after(49)), None, "a change moves the window");
    assert_eq!(acted(&bench.after(1)), Some((9, true)), "and is covered");
    assert!(bench.status().restarted < 9, "asked for is not done");
    let event = ChildEvent::Restarted { generation: 9, micros: 1, pid: 2 };
    bench.input(Input::Message(0, FromHub::Child(event)));
    assert_eq!(bench.status().restarted, 9);
    assert_eq!(acted(&bench.after(5000)), None);
    bench.scan(&[("a", 1)]);
    assert_eq!(acted(&bench.after(5000)), None, "no rule asks for it");
}

/// `Started`, the answer to `Run`, was taken for that of a restart asked for later; with the link lost
/// in between, the command went on with the old files.
#[test]
fn i9_a_restart_is_not_answered_by_the_start_before_it() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", 1)]);
    bench.applied(8, &tree(&[("a", 1)]), &[]);
    assert_eq!(acted(&bench.after(50)), Some((8, true)));
    let started = || Input::Message(0, FromHub::Child(ChildEvent::Started { pid: 1 }));
    bench.input(started());
    assert_eq!(bench.status().restarted, 8, "a hub that has no process may tell of no other");
    bench.input(Input::LinkDown(0));
    bench.after(0);
    let effects = bench.opened(&tree(&[("a", 1)]), 8);
    assert!(!ran(&effects), "what was asked for comes first");
    let effects = bench.after(50);
    assert_eq!((acted(&effects), ran(&effects)), (Some((8, true)), true));
    bench.input(started());
    bench.input(Input::LinkDown(0));
    bench.after(100);
    let effects = bench.opened(&tree(&[("a", 1)]), 8);
    let asked = (acted(&effects), ran(&effects));
    assert_eq!(asked, (Some((8, false)), true), "it came before Run: both are answered");
}

#[test]
fn i9_the_window_has_an_end_and_git_another() {
    for (git_busy, expected) in [(false, 2000), (true, 10_000)] {
        let mut bench = Bench::synced(&[]);
        let began = bench.now;
        let restarted = (1..).find(|n| {
            bench.scan(&[("a", (n % 200) as u8)]);
            bench.now += Duration::from_millis(40);
            acted(&bench.input(Input::Tick { git_busy })).is_some()
        });
        assert!(restarted.is_some());
        let took = (bench.now - began).as_millis();
        assert!((expected - 40..=expected + 80).contains(&took), "{took}");
    }
}

#[test]
fn a_restart_waits_for_no_link_with_its_eyes_open() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", 1)]);
    bench.input(Input::LinkDown(0));
    assert_eq!(bench.wait(), Some(0), "the first try is made at once");
    assert!(matches!(bench.after(0)[..], [Effect::Connect(0)]));
    assert_eq!(bench.wait(), None, "nothing to do before the hub answers");
    let effects = bench.opened(&tree(&[]), 7);
    assert!(ops(&effects).is_some() && !ran(&effects));
    bench.applied(ops(&effects).unwrap().0, &tree(&[("a", 1)]), &[]);
    let effects = bench.after(50);
    assert!(acted(&effects).is_some() && ran(&effects), "a command that lives on is restarted");
}

#[test]
fn a_restart_lost_with_its_link_is_asked_for_again() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", 1)]);
    bench.applied(8, &tree(&[("a", 1)]), &[]);
    assert!(acted(&bench.after(50)).is_some());
    bench.input(Input::LinkDown(0));
    bench.after(0);
    bench.opened(&tree(&[("a", 1)]), 8);
    assert!(acted(&bench.after(2000)).is_some());
}

#[test]
fn a_refused_path_restarts_nothing_until_it_is_there() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", 1)]);
    bench.applied(8, &tree(&[]), &[0]);
    assert!(acted(&bench.after(50)).is_some(), "once for the change");
    let (generation, _) = ops(&bench.after(50)).expect("tried again");
    bench.applied(generation, &tree(&[]), &[0]);
    assert_eq!(acted(&bench.after(100)), None);
    let (generation, _) = ops(&bench.after(100)).expect("tried again");
    bench.applied(generation, &tree(&[("a", 1)]), &[]);
    assert_eq!(acted(&bench.after(50)), Some((generation, true)));
}

#[test]
fn paths_that_need_an_image_are_told() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("image", 1)]);
    let effects = bench.after(50);
    assert_eq!(acted(&effects), None);
    assert!(effects.iter().any(|e| matches!(e, Effect::Say(Notice::Acted { actions, .. })
        if actions.needs_build == 1)));
    assert_eq!(bench.status().needs_build, 1);
}

#[test]
fn restart_now_covers_what_waits() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", 1)]);
    bench.input(Input::Restart(0));
    assert_eq!(acted(&bench.after(0)), Some((8, true)));
    assert_eq!(acted(&bench.after(5000)), None);
}

/// The acknowledgement of a retry was lost with its link: what the command was owed for it, too, and
/// an empty `Act` told the hub that nothing is.
#[test]
fn i9_a_problem_that_ends_with_a_lost_answer_is_restarted_for() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", 1)]);
    bench.applied(8, &tree(&[]), &[0]);
    assert_eq!(acted(&bench.after(50)), Some((8, true)), "once for the change");
    let event = ChildEvent::Restarted { generation: 8, micros: 1, pid: 2 };
    bench.input(Input::Message(0, FromHub::Child(event)));
    let (generation, _) = ops(&bench.after(50)).expect("tried again");
    bench.input(Input::LinkDown(0));
    bench.after(0);
    let effects = bench.opened(&tree(&[("a", 1)]), generation);
    assert_eq!((acted(&effects), ran(&effects)), (None, false), "{effects:?}");
    assert_eq!(bench.state(), TargetState::Synced);
    assert!(bench.status().restarted < generation);
    let effects = bench.after(50);
    assert_eq!((acted(&effects), ran(&effects)), (Some((generation, true)), true));
}

#[test]
fn a_problem_whose_source_went_back_restarts_nothing() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", 1)]);
    bench.applied(8, &tree(&[]), &[0]);
    assert!(acted(&bench.after(50)).is_some(), "once for the change");
    bench.scan(&[]);
    assert!(bench.status().problems.is_empty());
    assert_eq!(acted(&bench.after(5000)), None);
}

/// Asked for again on the next link, a restart is one for what the hub holds by now.
#[test]
fn i9_a_restart_is_never_for_older_files_than_the_hubs() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", 1)]);
    bench.applied(8, &tree(&[("a", 1)]), &[]);
    assert_eq!(acted(&bench.after(50)), Some((8, true)));
    assert_eq!(ops(&bench.scan(&[("a", 1), ("quiet", 1)])), Some((9, 1)));
    bench.input(Input::LinkDown(0));
    bench.after(0);
    bench.opened(&tree(&[("a", 1), ("quiet", 1)]), 9);
    assert_eq!(acted(&bench.after(50)), Some((9, true)));
}
