//! Links that end, and when the next one is made.

use super::*;

/// How long each of so many links in a row is waited for.
fn waits(bench: &mut Bench, links: usize, mut meanwhile: impl FnMut(&mut Bench)) -> Vec<u128> {
    let each = (0..links).map(|_| {
        bench.input(Input::LinkDown(0));
        let wait = bench.wait().unwrap();
        assert!(matches!(bench.after(wait as u64)[..], [Effect::Connect(0)]));
        meanwhile(bench);
        wait
    });
    each.collect()
}

#[test]
fn links_that_were_open_are_made_again_at_once() {
    let mut bench = Bench::synced(&[]);
    let began = bench.now;
    let opens_and_lasts = |bench: &mut Bench| {
        bench.opened(&tree(&[]), 7);
        bench.now += Duration::from_millis(60);
    };
    bench.now += Duration::from_millis(60);
    assert_eq!(waits(&mut bench, 1000, opens_and_lasts), [0; 1000]);
    let most = Duration::from_secs(61);
    assert!(bench.now - began < most, "all the time was that of the links");
    // Those that end as they open take turns with the rest of the machine.
    let opens = |bench: &mut Bench| drop(bench.opened(&tree(&[]), 7));
    assert_eq!(waits(&mut bench, 4, opens), [0, 50, 50, 50]);
}

#[test]
fn links_that_never_open_are_made_again_ever_later() {
    let mut bench = Bench::synced(&[]);
    let waited = waits(&mut bench, 8, |_| {});
    assert_eq!(waited, [0, 100, 200, 400, 800, 1600, 3200, 5000]);
    bench.opened(&tree(&[]), 7);
    assert_eq!(waits(&mut bench, 3, |_| {}), [50, 100, 200], "one that opened begins anew");
}

#[test]
fn a_hub_that_dies_of_what_it_is_sent_is_asked_ever_later() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", 1)]);
    let opens = |bench: &mut Bench| {
        assert!(ops(&bench.opened(&tree(&[]), 7)).is_some());
        bench.now += Duration::from_secs(1);
    };
    let waited = waits(&mut bench, 13, opens);
    assert_eq!(waited[..10], [0; 10]);
    assert_eq!(waited[10..], [100, 200, 400]);
    // One answer, and the next cut is one like any other.
    bench.applied(8, &tree(&[("a", 1)]), &[]);
    assert_eq!(waits(&mut bench, 1, |_| {}), [0]);
}

#[test]
fn another_way_to_the_hub_is_tried_at_once() {
    let mut bench = Bench::synced(&[]);
    assert!(bench.input(Input::Reconnect).is_empty(), "a link that is there stays");
    waits(&mut bench, 6, |_| {});
    assert!(bench.input(Input::Reconnect).is_empty(), "it is being tried");
    bench.input(Input::LinkDown(0));
    assert_eq!(bench.wait(), Some(0), "and again when that fails");
    bench.after(0);
    bench.input(Input::LinkDown(0));
    assert_eq!(bench.wait(), Some(100));
    assert!(matches!(bench.input(Input::Reconnect)[..], [Effect::Connect(0)]));
    assert_eq!(bench.wait(), None);
}

#[test]
fn i11_nothing_is_said_on_a_link_that_is_being_closed() {
    let mut bench = Bench::synced(&[]);
    let need = FromHub::Need { indices: vec![1], adopted: 0, last: true };
    let effects = bench.input(Input::Message(0, need));
    assert!(matches!(effects[..], [Effect::Close(0, Closing::Protocol(_))]));
    assert!(bench.scan(&[("a", 1)]).is_empty());
    assert_eq!(bench.state(), TargetState::Disconnected);
}

#[test]
fn i14_a_link_that_one_given_up_before_cuts_off_is_made_again() {
    let superseded = || Input::Message(0, FromHub::Refused(Refusal::Superseded));
    let closed = |effects: &[Effect]| {
        assert_eq!(effects.len(), 1, "{effects:?}");
        matches!(effects[0], Effect::Close(0, Closing::Superseded))
    };
    let mut bench = Bench::synced(&[]);
    bench.now += Duration::from_secs(60);
    assert!(closed(&bench.input(superseded())));
    assert!(bench.scan(&[("a", 1)]).is_empty(), "nothing more is said on it");
    bench.input(Input::LinkDown(0));
    assert!(matches!(bench.after(0)[..], [Effect::Connect(0)]));
    assert!(ops(&bench.opened(&tree(&[]), 7)).is_some());
    // Another daemon that was started twice: the older one gives up.
    let mut waits = Vec::new();
    for _ in 1..5 {
        assert!(closed(&bench.input(superseded())));
        bench.input(Input::LinkDown(0));
        let wait = bench.wait().unwrap();
        waits.push(wait);
        bench.after(wait as u64);
        bench.opened(&tree(&[]), 7);
    }
    assert_eq!(waits, [100, 200, 400, 800]);
    let effects = bench.input(superseded());
    assert!(matches!(&effects[..], [Effect::Say(Notice::Refused { target: 0, .. })]));
    assert_eq!((bench.state(), bench.wait()), (TargetState::Refused, None));
}

#[test]
fn a_hub_has_something_to_do_until_it_has_answered() {
    let mut bench = Bench::synced(&[]);
    let quiet = |bench: &Bench| bench.session.is_quiet(0);
    assert!(quiet(&bench));
    bench.scan(&[("a", 1)]);
    assert!(quiet(&bench), "a save is done as soon as it is there");
    bench.applied(8, &tree(&[("a", 1)]), &[]);
    let names: Vec<String> = (0..100).map(|n| format!("f{n:03}")).collect();
    let many: Vec<(&str, u8)> =
        [("a", 1)].into_iter().chain(names.iter().map(|n| (&**n, 2))).collect();
    bench.scan(&many);
    assert!(!quiet(&bench));
    bench.applied(9, &tree(&many), &[]);
    assert!(quiet(&bench));
    bench.input(Input::LinkDown(0));
    bench.after(0);
    assert!(!quiet(&bench), "it may have much to read before it opens");
    bench.opened(&tree(&many), 9);
    assert!(quiet(&bench));
}
