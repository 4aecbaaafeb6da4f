//! The session by tables: one hub, spoken for by the test.

use e2ek_sidecar::restart::Policy;
use e2ek_sidecar::tree::{Digest, Edit, Entry, Node, Stamp};
use e2ek_sidecar::wire::{Blob, Skipped};

use super::*;

mod joining;
mod large;
mod links;
mod restarts;

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
