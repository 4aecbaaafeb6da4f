//! The session by tables: one hub, spoken for by the test.

use e2ek_sidecar::restart::Policy;
use e2ek_sidecar::tree::{Digest, Edit, Entry, Node, Stamp};
use e2ek_sidecar::wire::{Blob, Skipped};

use super::*;

mod large;

fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

/// Contents from here on are of large files.
const LARGE: u8 = 200;

/// A tree of one-byte files, and of large ones: each a name and its content.
fn tree(files: &[(&str, u8)]) -> Snapshot {
    let mut edits: Vec<Edit> = vec![(path("0"), Some(Node::directory()))];
    edits.extend(files.iter().map(|(name, content)| {
        let size = if *content < LARGE { 1 } else { 5000 };
        let entry = Entry::File { digest: Digest::of(&[*content]), size, executable: false };
        (path("0").append(&path(name)).unwrap(), Some(Node::from_entry(&entry, Stamp::default())))
    }));
    Snapshot::empty().apply(&edits).unwrap()
}

struct Bench {
    session: Session,
    now: Instant,
}

impl Bench {
    fn new(mode: Mode, budget: DeleteBudget) -> Self {
        let settings = Settings {
            dry: false,
            ignored: Box::new(|path, _| path.name() == Some(b"ignored")),
            mode,
            budget,
            ahead_from: 1000,
            settle: Duration::from_millis(50),
            settle_at_most: Duration::from_secs(2),
            git_at_most: Duration::from_secs(10),
            rules: Box::new(|path| match path.name() {
                Some(b"image") => vec![Action::NeedsBuild],
                Some(b"quiet") => vec![],
                _ => vec![Action::Restart],
            }),
        };
        #[allow(clippy::disallowed_methods)]
        let now = Instant::now();
        Self { session: Session::new(settings), now }
    }

    /// Its one target comes, with a command.
    fn start(&mut self) {
        let policy = Policy::default();
        let command = Some(CommandSpec { argv: Vec::new(), policy, inherit: false });
        self.input(Input::Join { target: 0, command });
    }

    /// Current on `files`, and started.
    fn synced(files: &[(&str, u8)]) -> Self {
        let mut bench = Self::new(Mode::Keep, DeleteBudget::default());
        bench.start();
        bench.scan(files);
        bench.opened(&tree(files), 7);
        assert_eq!(bench.state(), TargetState::Synced);
        bench
    }

    fn input(&mut self, input: Input) -> Vec<Effect> {
        self.session.handle(self.now, input)
    }

    fn after(&mut self, ms: u64) -> Vec<Effect> {
        self.now += Duration::from_millis(ms);
        self.input(Input::Tick { git_busy: false })
    }

    fn scan(&mut self, files: &[(&str, u8)]) -> Vec<Effect> {
        let seen = self.now;
        self.input(Input::Scanned { tree: tree(files), seen })
    }

    fn opened(&mut self, tree: &Snapshot, generation: u64) -> Vec<Effect> {
        let tree = tree.id();
        self.input(Input::Message(
            0,
            FromHub::Opened { tree, generation, epoch: 1, populated: false },
        ))
    }

    fn applied(&mut self, generation: u64, tree: &Snapshot, refused: &[u32]) -> Vec<Effect> {
        let skipped = refused.iter();
        let skipped = skipped.map(|&index| Skipped { index, reason: Some(Reason::Denied) });
        let (skipped, tree, overwritten) = (skipped.collect(), tree.id(), Vec::new());
        let applied = FromHub::Applied { generation, tree, skipped, overwritten, micros: 1 };
        self.input(Input::Message(0, applied))
    }

    fn status(&self) -> TargetStatus {
        self.session.status().remove(0)
    }

    fn state(&self) -> TargetState {
        self.status().state
    }

    fn wait(&self) -> Option<u128> {
        self.session.deadline().map(|at| at.saturating_duration_since(self.now).as_millis())
    }
}

fn ops(effects: &[Effect]) -> Option<(u64, usize)> {
    effects.iter().find_map(|effect| match effect {
        Effect::SendOps { generation, ops, .. } => Some((*generation, ops.len())),
        _ => None,
    })
}

fn acted(effects: &[Effect]) -> Option<(u64, bool)> {
    effects.iter().find_map(|effect| match effect {
        Effect::Send(_, ToHub::Act { generation, actions }) => Some((*generation, actions.restart)),
        _ => None,
    })
}

fn ran(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Send(_, ToHub::Run(_))))
}

#[test]
fn equal_trees_exchange_nothing_and_numbers_go_on_from_the_hubs() {
    let mut bench = Bench::new(Mode::Keep, DeleteBudget::default());
    bench.start();
    bench.scan(&[("a", 1)]);
    let effects = bench.opened(&tree(&[("a", 1)]), 7);
    assert!(ran(&effects) && ops(&effects).is_none());
    assert_eq!(effects.len(), 2, "{effects:?}");
    assert_eq!(ops(&bench.scan(&[("a", 2)])), Some((8, 1)));
    assert_eq!(bench.state(), TargetState::Syncing);
    bench.applied(8, &tree(&[("a", 2)]), &[]);
    assert_eq!((bench.state(), bench.status().generation), (TargetState::Synced, 8));
}

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
fn i12_refused_paths_are_told_tried_again_and_forgotten_with_their_path() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("quiet", 1)]);
    bench.applied(8, &tree(&[]), &[0]);
    assert_eq!((bench.state(), bench.status().problems.len()), (TargetState::Syncing, 1));
    let mut waits = Vec::new();
    for _ in 0..4 {
        let wait = bench.wait().unwrap();
        waits.push(wait);
        let (generation, _) = ops(&bench.after(wait as u64)).expect("tried again");
        bench.applied(generation, &tree(&[]), &[0]);
    }
    assert_eq!(waits, [100, 200, 400, 800]);
    assert!(ops(&bench.input(Input::Retry)).is_some(), "at once when asked");
    let generation = bench.session.generation();
    bench.applied(generation, &tree(&[]), &[0]);
    bench.scan(&[]);
    assert_eq!((bench.state(), bench.status().problems.len()), (TargetState::Synced, 0));
    assert_eq!(bench.wait(), None);
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
fn i7_a_hold_waits_for_its_own_answer() {
    let mut bench = Bench::synced(&[("a", 1), ("b", 1)]);
    assert_eq!(ops(&bench.scan(&[])), None);
    assert_eq!(bench.state(), TargetState::Held);
    bench.scan(&[("a", 1), ("b", 1)]);
    assert_eq!(bench.state(), TargetState::Synced, "it came back");
    bench.scan(&[]);
    bench.input(Input::Pause);
    bench.input(Input::Resume { accept: false });
    assert_eq!(bench.state(), TargetState::Held);
    let effects = bench.input(Input::Resume { accept: true });
    let (generation, _) = ops(&effects).expect("the answer");
    bench.applied(generation, &tree(&[]), &[]);
    assert_eq!(bench.state(), TargetState::Synced);
    let (generation, _) = ops(&bench.scan(&[("a", 1)])).unwrap();
    bench.applied(generation, &tree(&[("a", 1)]), &[]);
    assert_eq!(ops(&bench.scan(&[])), None, "an answer serves once");
}

#[test]
fn i7_mirror_asks_once_when_there_is_too_much_to_remove() {
    let foreign = || vec![(path("0/x"), Listed::Symlink(Default::default()))];
    let mut bench = Bench::new(Mode::Mirror, DeleteBudget::Count(0));
    bench.start();
    bench.scan(&[("a", 1)]);
    bench.opened(&tree(&[("a", 1)]), 7);
    bench.input(Input::Foreign(0, foreign()));
    assert_eq!(bench.state(), TargetState::Held);
    assert!(bench.after(1000).is_empty(), "and waits in silence");
    let effects = bench.input(Input::Resume { accept: true });
    assert!(matches!(effects[..], [Effect::Send(0, ToHub::ListForeign)]), "{effects:?}");
    bench.input(Input::Foreign(0, foreign()));
    assert_ne!(bench.state(), TargetState::Synced, "not before it is done");
    let removed = FromHub::ForeignRemoved { removed: 1, problems: Vec::new() };
    assert!(ran(&bench.input(Input::Message(0, removed))));
    assert_eq!(bench.state(), TargetState::Synced);
}

#[test]
fn comparing_asks_only_along_the_paths_that_differ() {
    let mut bench = Bench::new(Mode::Keep, DeleteBudget::default());
    bench.start();
    bench.scan(&[("a", 1)]);
    let theirs = tree(&[("a", 2)]);
    let describe = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Send(_, ToHub::Describe { paths }) => Some(paths.clone()),
            _ => None,
        })
    };
    assert_eq!(describe(&bench.opened(&theirs, 3)), Some(vec![]));
    let listing = |at: Option<&str>, name: &str, listed| {
        let (path, children) = (at.map(path), vec![(Blob(name.as_bytes().to_vec()), listed)]);
        Input::Message(0, FromHub::Listing { path, children, last: true })
    };
    let below = theirs.dir(&path("0")).unwrap().id();
    let effects = bench.input(listing(None, "0", Listed::Directory(below)));
    assert_eq!(describe(&effects), Some(vec![path("0")]));
    let file = Listed::File { digest: Digest::of(&[2]), size: 1, executable: false };
    assert_eq!(ops(&bench.input(listing(Some("0"), "a", file))), Some((4, 1)));
}

#[test]
fn what_changed_before_it_was_sent_waits_for_the_next_look() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("quiet", 1)]);
    let (generation, tree) = (8, tree(&[]).id());
    let skipped = vec![Skipped { index: 0, reason: None }];
    let applied =
        FromHub::Applied { generation, tree, skipped, overwritten: Vec::new(), micros: 1 };
    assert_eq!(ops(&bench.input(Input::Message(0, applied))), None, "no ping-pong");
    assert_eq!(bench.state(), TargetState::Syncing);
    assert!(bench.status().generation < 8 && bench.status().problems.is_empty());
    assert!(ops(&bench.scan(&[("quiet", 2)])).is_some());
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
fn much_at_once_waits_for_company_and_a_save_does_not() {
    let mut bench = Bench::synced(&[]);
    let names: Vec<String> = (100..600).map(|number| format!("f{number}")).collect();
    let all = |content: u8| names.iter().map(|name| (name.as_str(), content)).collect::<Vec<_>>();
    assert_eq!(ops(&bench.scan(&all(1))), Some((8, 500)));
    bench.applied(8, &tree(&all(1)), &[]);
    assert_eq!(bench.state(), TargetState::Synced, "told at once");
    assert_eq!(ops(&bench.scan(&all(2))), None);
    assert_eq!(ops(&bench.scan(&all(3))), None);
    let wait = bench.wait().unwrap();
    assert!((1..50).contains(&wait), "{wait}");
    assert_eq!(ops(&bench.after(50)), Some((10, 500)), "both as one");
    bench.applied(10, &tree(&all(3)), &[]);
    assert!(
        ops(&{
            bench.after(300);
            bench.scan(&all(4))
        })
        .is_some()
    );
}

#[test]
fn nothing_is_made_from_what_a_skip_put_in_doubt() {
    let mut bench = Bench::synced(&[]);
    assert_eq!(ops(&bench.scan(&[("a", 1)])), Some((8, 1)));
    assert_eq!(ops(&bench.scan(&[("a", 1), ("b", 1)])), Some((9, 1)));
    bench.applied(8, &tree(&[]), &[0]);
    assert_eq!(ops(&bench.scan(&[("a", 1), ("b", 1), ("c", 1)])), None, "9 leads elsewhere");
    let conflict = vec![Skipped { index: 0, reason: Some(Reason::Conflict) }];
    let (tree, overwritten) = (tree(&[]).id(), Vec::new());
    let applied =
        FromHub::Applied { generation: 9, tree, skipped: conflict, overwritten, micros: 1 };
    assert_eq!(ops(&bench.input(Input::Message(0, applied))), Some((10, 2)), "b and c");
}

#[test]
fn restart_now_covers_what_waits() {
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", 1)]);
    bench.input(Input::Restart(0));
    assert_eq!(acted(&bench.after(0)), Some((8, true)));
    assert_eq!(acted(&bench.after(5000)), None);
}

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

#[test]
fn much_that_is_new_comes_in_generations_of_bounded_size() {
    let names: Vec<String> = (0..70_000).map(|n| format!("d{:02}-{n}", n % 40)).collect();
    let mut files: Vec<(&str, u8)> = names.iter().map(|name| (&**name, 1)).collect();
    files.sort_unstable();
    let mut bench = Bench::new(Mode::Keep, DeleteBudget::default());
    bench.start();
    bench.scan(&files);
    let nothing = Snapshot::empty();
    let mut effects = bench.opened(&nothing, 0);
    // What the hub would hold.
    let mut held = nothing;
    let mut on_the_way = std::collections::VecDeque::new();
    let mut sent = 0;
    let (mut begins, mut ends) = (Vec::new(), Vec::new());
    loop {
        assert!(!ran(&effects), "the command waits for the last");
        for effect in &effects {
            match effect {
                Effect::Say(Notice::Begin { first, all, .. }) => begins.push((*first, *all)),
                Effect::Say(Notice::Applied { report, .. }) => ends.push(report.more),
                Effect::Say(Notice::Level { .. }) => panic!("every end was told"),
                _ => {}
            }
        }
        assert_eq!(bench.status().generation, 0, "nobody who waits is told that it has all");
        for effect in &effects {
            if let Effect::SendData { generation, ops, commit, .. } = effect {
                let changes: Vec<_> = ops.iter().map(|op| op.change.clone()).collect();
                held = held.apply_changes(&changes).unwrap();
                assert_eq!(held.id(), *commit);
                assert!(ops.len() <= crate::engine::plan::GENERATION_OPS + 1, "{}", ops.len());
                sent += ops.len();
                on_the_way.push_back((*generation, held.clone()));
            }
        }
        assert!(on_the_way.len() <= 2, "both ends hold them");
        let Some((generation, tree)) = on_the_way.pop_front() else { break };
        effects = bench.applied(generation, &tree, &[]);
        if generation == 4 {
            assert!(ran(&effects));
            assert!(matches!(&effects[0], Effect::Say(Notice::Applied { report, .. })
                if !report.more));
            break;
        }
    }
    assert_eq!((sent, bench.state()), (70_001, TargetState::Synced));
    assert_eq!(held, tree(&files));
    let all = Amount { files: 70_000, bytes: 70_000 };
    assert_eq!(begins, [(true, Some(all)), (true, None), (true, None), (true, None)]);
    assert_eq!(ends, [true; 3]);
    // From then on a generation is the whole way.
    assert_eq!(ops(&bench.scan(&files[..40_000])), Some((5, 30_000)));
}

#[test]
fn a_sync_whose_answer_was_lost_is_over_when_the_target_is_level() {
    let level = |effects: &[Effect]| {
        effects.iter().any(|effect| matches!(effect, Effect::Say(Notice::Level { target: 0 })))
    };
    let mut bench = Bench::synced(&[]);
    bench.scan(&[("a", 1)]);
    bench.input(Input::LinkDown(0));
    bench.after(0);
    let effects = bench.opened(&tree(&[("a", 1)]), 8);
    assert!(level(&effects), "{effects:?}");
    bench.scan(&[("a", 2)]);
    assert!(!level(&bench.applied(9, &tree(&[("a", 2)]), &[])), "that end was told");
}

#[test]
fn a_target_that_lost_its_files_has_not_the_generation_it_had() {
    let mut bench = Bench::synced(&[("a", 1)]);
    assert_eq!(bench.status().generation, 7);
    bench.input(Input::LinkDown(0));
    bench.after(0);
    let (generation, _) = ops(&bench.opened(&Snapshot::empty(), 0)).expect("sent anew");
    assert_eq!((generation, bench.status().generation), (7, 6), "flush waits");
    bench.applied(7, &tree(&[("a", 1)]), &[]);
    assert_eq!(bench.status().generation, 7);
}

#[test]
fn nothing_new_is_begun_once_the_end_has_begun() {
    let names: Vec<String> = (0..50_000).map(|n| format!("{n:05}")).collect();
    let files: Vec<(&str, u8)> = names.iter().map(|name| (&**name, 1)).collect();
    let mut bench = Bench::new(Mode::Keep, DeleteBudget::default());
    bench.start();
    bench.scan(&files);
    let effects = bench.opened(&Snapshot::empty(), 0);
    let first = effects.iter().find_map(|effect| match effect {
        Effect::SendData { ops, .. } => Some(ops.clone()),
        _ => None,
    });
    let changes: Vec<_> = first.unwrap().iter().map(|op| op.change.clone()).collect();
    let reached = Snapshot::empty().apply_changes(&changes).unwrap();
    assert!(bench.input(Input::End).is_empty());
    let effects = bench.applied(1, &reached, &[]);
    assert!(matches!(effects[..], [Effect::Say(Notice::Applied { .. })]), "{}", effects.len());
    assert!(bench.scan(&files[1..]).is_empty() && bench.after(60_000).is_empty());
    assert_eq!(bench.wait(), None);
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
