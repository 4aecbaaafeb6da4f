use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn policy() -> Policy {
    Policy::default()
}

fn restarting() -> Policy {
    Policy { on_exit: OnExit::Restart { pause: Duration::ZERO }, ..policy() }
}

fn debounced() -> Policy {
    Policy { debounce: 500 * MS, ..policy() }
}

/// A machine, its clock, and a world in which processes obey, or do not.
struct World {
    machine: RestartMachine,
    now: Instant,
    child: bool,
    /// Descendants beside the child.
    strays: bool,
    /// Whether processes end at the stop signal.
    obedient: bool,
    /// Whether a spawn fails.
    broken: bool,
    spawns: Vec<u64>,
    kills: u32,
    signals: u32,
    notes: Vec<Note>,
}

impl World {
    fn new(policy: Policy) -> Self {
        Self {
            machine: RestartMachine::new(policy),
            now: Instant::now_for_tests(),
            child: false,
            strays: false,
            obedient: true,
            broken: false,
            spawns: Vec::new(),
            kills: 0,
            signals: 0,
            notes: Vec::new(),
        }
    }

    fn started(policy: Policy) -> Self {
        let mut world = Self::new(policy);
        world.input(Input::Start { generation: 1 });
        world
    }

    fn input(&mut self, input: Input) {
        for effect in self.machine.handle(self.now, input) {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Spawn { generation } => self.spawn(generation),
            Effect::Signal(_) => {
                self.signals += 1;
                if self.obedient {
                    self.all_end(Status::Signal(Signal::INT));
                }
            }
            Effect::Kill => {
                self.kills += 1;
                self.all_end(Status::Signal(Signal::KILL));
            }
            Effect::Note(note) => self.notes.push(note),
        }
    }

    fn spawn(&mut self, generation: u64) {
        assert!(!self.child && !self.strays, "two runs at once");
        self.spawns.push(generation);
        if self.broken {
            self.input(Input::SpawnFailed);
        } else {
            self.child = true;
        }
    }

    fn all_end(&mut self, status: Status) {
        let strays = std::mem::take(&mut self.strays);
        if self.child {
            self.child_ends(status);
        } else if strays || matches!(self.machine.state(), State::Stopping) {
            self.input(Input::AllGone);
        }
    }

    fn child_ends(&mut self, status: Status) {
        self.child = false;
        let hold = false;
        self.input(Input::Exited { status, hold });
        if !self.strays && !self.child {
            self.input(Input::AllGone);
        }
    }

    fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        let mut steps = 0;
        while let Some(at) = self.machine.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            steps += 1;
            assert!(steps < 10_000, "a deadline that no timer meets");
            self.input(Input::Timer);
        }
        self.now = end;
    }

    fn trigger(&mut self, generation: u64) {
        self.input(Input::Trigger { generation });
    }
}

trait NowForTests {
    fn now_for_tests() -> Instant;
}

impl NowForTests for Instant {
    #[expect(clippy::disallowed_methods, reason = "an origin; only differences count")]
    fn now_for_tests() -> Instant {
        Instant::now()
    }
}

#[test]
fn without_debounce_each_trigger_restarts() {
    let mut world = World::started(restarting());
    for generation in 2..=4 {
        world.trigger(generation);
        world.advance(MS);
    }
    assert_eq!(world.spawns, [1, 2, 3, 4]);
}

#[test]
fn debounce_a_burst_then_one_more_is_two_restarts() {
    let mut world = World::started(debounced());
    for generation in 2..=4 {
        world.trigger(generation);
        world.advance(400 * MS);
    }
    assert_eq!(world.spawns, [1], "every trigger resets the timer");
    world.advance(100 * MS);
    assert_eq!(world.spawns, [1, 4]);
    world.trigger(5);
    world.advance(500 * MS);
    assert_eq!(world.spawns, [1, 4, 5]);
}

#[test]
fn a_pending_restart_is_dropped_on_stop() {
    let mut world = World::started(debounced());
    world.trigger(2);
    world.input(Input::Stop);
    world.advance(10_000 * MS);
    assert_eq!(world.spawns, [1]);
    assert_eq!(world.machine.deadline(), None);
}

#[test]
fn i9_what_is_asked_while_stopping_becomes_one_start_of_the_newest() {
    let mut world = World::started(policy());
    world.obedient = false;
    for generation in 2..12 {
        world.trigger(generation);
        world.advance(MS);
    }
    world.input(Input::Restart);
    assert_eq!((world.signals, world.spawns.as_slice()), (1, &[1][..]));
    world.all_end(Status::Code(0));
    world.advance(60_000 * MS);
    assert_eq!(world.spawns, [1, 11]);
}

#[test]
fn sigkill_after_the_grace_and_again_until_gone() {
    let mut world = World::started(policy());
    world.obedient = false;
    world.trigger(2);
    world.advance(9_999 * MS);
    assert_eq!(world.kills, 0);
    world.advance(MS);
    assert_eq!((world.kills, world.spawns.len()), (1, 2));
    assert_eq!(world.notes, [Note::Killing]);
}

#[test]
fn stop_twice_is_harmless_and_keeps_the_status() {
    let mut world = World::started(policy());
    world.obedient = false;
    world.input(Input::Stop);
    world.input(Input::Stop);
    assert_eq!(world.signals, 1);
    world.child_ends(Status::Code(3));
    world.input(Input::Stop);
    assert_eq!(world.notes, [Note::Stopped(Some(Status::Code(3)))]);
    assert_eq!(world.machine.last(), Some(Status::Code(3)));
    assert_eq!(world.machine.state(), State::Stopped);
}

#[test]
fn stop_now_kills_at_once_also_while_stopping() {
    let mut world = World::started(policy());
    world.obedient = false;
    world.input(Input::Stop);
    world.input(Input::StopNow);
    assert_eq!((world.signals, world.kills), (1, 1));
    assert_eq!(world.machine.state(), State::Stopped);

    let mut world = World::started(policy());
    world.input(Input::StopNow);
    assert_eq!((world.signals, world.kills), (0, 1));
}

#[test]
fn hold_waits_for_the_next_request_and_ends_leftovers_first() {
    let mut world = World::started(policy());
    world.strays = true;
    world.child_ends(Status::Code(1));
    world.advance(60_000 * MS);
    assert_eq!(world.machine.state(), State::Held);
    assert_eq!(world.spawns, [1]);
    world.trigger(2);
    assert_eq!((world.signals, world.spawns.as_slice()), (1, &[1, 2][..]));
}

#[test]
fn restart_on_exit_backs_off_and_a_stable_run_clears_it() {
    let mut world = World::started(restarting());
    world.child_ends(Status::Code(1));
    assert_eq!(world.spawns.len(), 2, "the first is free");
    world.child_ends(Status::Code(1));
    assert!(matches!(world.machine.state(), State::Backoff { .. }));
    world.advance(99 * MS);
    assert_eq!(world.spawns.len(), 2);
    world.advance(MS);
    assert_eq!(world.spawns.len(), 3);
    for _ in 0..40 {
        world.child_ends(Status::Code(1));
        world.advance(BACKOFF_MAX);
    }
    assert_eq!(world.spawns.len(), 43);
    world.advance(STABLE);
    world.child_ends(Status::Code(0));
    assert_eq!(world.spawns.len(), 44, "at once after a long run");
}

#[test]
fn a_trigger_cuts_the_backoff_short() {
    let mut world = World::started(restarting());
    world.child_ends(Status::Code(1));
    world.child_ends(Status::Code(1));
    world.trigger(2);
    assert_eq!(world.spawns, [1, 1, 2]);
}

#[test]
fn the_users_interrupt_is_not_undone_by_a_restart() {
    let mut world = World::started(restarting());
    world.child = false;
    let status = Status::Signal(Signal::INT);
    world.input(Input::Exited { status, hold: true });
    world.input(Input::AllGone);
    world.advance(60_000 * MS);
    assert_eq!(world.spawns, [1]);
}

#[test]
fn an_end_soon_after_ctrl_c_is_its_answer_and_a_later_one_is_not() {
    for (wait, starts) in [(10_000 * MS, 1), (10_001 * MS, 2)] {
        let mut world = World::started(restarting());
        world.input(Input::Interrupted);
        assert_eq!(world.notes, [], "the command may have it for itself");
        world.advance(wait);
        assert_eq!(world.machine.is_interrupted(world.now), starts == 1);
        world.child_ends(Status::Code(0));
        world.advance(60_000 * MS);
        assert_eq!(world.spawns.len(), starts);
    }
}

#[test]
fn ctrl_c_twice_in_a_short_time_or_while_it_ends_is_ours() {
    let mut world = World::started(policy());
    world.obedient = false;
    world.input(Input::Interrupted);
    world.advance(2_001 * MS);
    world.input(Input::Interrupted);
    assert_eq!(world.notes, []);
    world.advance(2_000 * MS);
    world.input(Input::Interrupted);
    assert_eq!(world.notes, [Note::Interrupted]);

    let mut world = World::started(policy());
    world.obedient = false;
    world.trigger(2);
    world.input(Input::Interrupted);
    assert_eq!(world.notes, [Note::Interrupted]);
}

#[test]
fn ctrl_c_of_one_run_says_nothing_about_the_next() {
    let mut world = World::started(restarting());
    world.input(Input::Interrupted);
    world.trigger(2);
    world.input(Input::Interrupted);
    assert_eq!(world.notes, []);
    world.trigger(3);
    world.child_ends(Status::Code(1));
    assert_eq!(world.spawns, [1, 2, 3, 3]);
}

#[test]
fn a_failed_start_holds_or_backs_off() {
    let mut world = World::new(policy());
    world.broken = true;
    world.input(Input::Start { generation: 1 });
    assert_eq!(world.machine.state(), State::Held);
    world.broken = false;
    world.trigger(2);
    assert_eq!(world.spawns, [1, 2]);

    let mut world = World::new(restarting());
    world.broken = true;
    world.input(Input::Start { generation: 1 });
    assert!(matches!(world.machine.state(), State::Backoff { .. }));
}

#[test]
fn no_policy_from_the_wire_overflows_the_clock() {
    let forever = Duration::MAX;
    let mut world = World::started(Policy {
        kill_after: forever,
        debounce: forever,
        on_exit: OnExit::Restart { pause: forever },
        ..policy()
    });
    world.trigger(2);
    world.child_ends(Status::Code(1));
    world.input(Input::Restart);
    world.obedient = false;
    world.input(Input::Stop);
    assert_eq!(world.machine.state(), State::Stopping);
}

#[test]
fn shell_codes() {
    assert_eq!(Status::Code(7).shell_code(), 7);
    assert_eq!(Status::Signal(Signal::INT).shell_code(), 130);
}

#[derive(Clone, Debug)]
enum Op {
    Start,
    Trigger,
    Restart,
    Interrupted,
    ChildEnds(u8),
    Strays,
    StraysEnd,
    Obedient(bool),
    Broken(bool),
    Advance(u16),
    Stop,
    StopNow,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        1 => Just(Op::Start),
        6 => Just(Op::Trigger),
        1 => Just(Op::Restart),
        1 => Just(Op::Interrupted),
        3 => any::<u8>().prop_map(Op::ChildEnds),
        2 => Just(Op::Strays),
        2 => Just(Op::StraysEnd),
        2 => any::<bool>().prop_map(Op::Obedient),
        1 => any::<bool>().prop_map(Op::Broken),
        6 => any::<u16>().prop_map(Op::Advance),
    ]
}

fn some_policy() -> impl Strategy<Value = Policy> {
    (any::<bool>(), 0..3_u32, 0..3_u32, 0..2_u32).prop_map(|(hold, kill, debounce, pause)| Policy {
        stop_signal: Signal::INT,
        kill_after: 700 * MS * kill,
        debounce: 300 * MS * debounce,
        on_exit: if hold { OnExit::Hold } else { OnExit::Restart { pause: 500 * MS * pause } },
    })
}

fn apply(world: &mut World, generation: u64, op: &Op) {
    match *op {
        Op::Start => world.input(Input::Start { generation }),
        Op::Trigger => world.trigger(generation),
        Op::Restart => world.input(Input::Restart),
        Op::Interrupted => world.input(Input::Interrupted),
        Op::ChildEnds(code) if world.child => world.child_ends(Status::Code(code)),
        Op::Strays if world.child => world.strays = true,
        Op::StraysEnd if world.strays && !world.child => world.all_end(Status::Code(0)),
        Op::StraysEnd => world.strays = false,
        Op::Obedient(yes) => world.obedient = yes,
        Op::Broken(yes) => world.broken = yes,
        Op::Advance(ms) => world.advance(MS * u32::from(ms % 2_000)),
        Op::Stop => world.input(Input::Stop),
        Op::StopNow => world.input(Input::StopNow),
        Op::ChildEnds(_) | Op::Strays => {}
    }
}

proptest! {
    /// `World::spawn` asserts that nothing lives.
    #[test]
    fn never_two_at_once_and_a_trigger_leads_to_a_start(
        policy in some_policy(), ops in prop::collection::vec(op(), 0..60),
    ) {
        let mut world = World::new(policy);
        for (generation, op) in ops.iter().enumerate() {
            apply(&mut world, generation as u64, op);
        }
        let before = world.spawns.len();
        world.trigger(1_000);
        world.advance(60_000 * MS);
        prop_assert!(world.spawns.len() > before);
        prop_assert_eq!(world.spawns.last(), Some(&1_000));
    }

    #[test]
    fn after_stop_no_start_and_everything_ends(
        policy in some_policy(), now in any::<bool>(),
        before in prop::collection::vec(op(), 0..40),
        after in prop::collection::vec(op(), 0..40),
    ) {
        let mut world = World::new(policy);
        for (generation, op) in before.iter().enumerate() {
            apply(&mut world, generation as u64, op);
        }
        let starts = world.spawns.len();
        apply(&mut world, 0, if now { &Op::StopNow } else { &Op::Stop });
        for op in &after {
            apply(&mut world, 2_000, op);
            apply(&mut world, 0, &Op::Stop);
        }
        world.advance(60_000 * MS);
        prop_assert_eq!(world.spawns.len(), starts);
        prop_assert!(!world.child && !world.strays);
        prop_assert_eq!(world.machine.state(), State::Stopped);
        prop_assert_eq!(world.machine.deadline(), None);
    }
}
