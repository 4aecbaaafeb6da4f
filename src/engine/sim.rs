//! Paired machines under a fake clock: the real [`Session`], [`Receiver`](e2ek_sidecar::receive) and
//! [`Leases`](e2ek_sidecar::lease) over models of the files, the links and the two processes.
//!
//! One integer seeds a run; every run is made twice and must leave the same trace. A failing seed is
//! printed with the end of its trace. `E2EK_SIM_SEEDS` sets how many seeds there are,
//! `E2EK_SIM_SEED` runs one and prints all of it. Seeds are shared out to threads; a thousand, twice,
//! take 9 s of processor time as cargo tests by default: an optimised build would save less than it
//! takes, and would not check for overflow.
//!
//! Checked here, by functions and messages that begin with the number of the invariant:
//!
//! | | here | elsewhere |
//! |---|---|---|
//! | I1 | no step leaves a replaced file missing or with other content (`hub::steps`) | the bytes: `tests/kill.rs`, `server::root` |
//! | I2 | nothing counts as acknowledged that the hub did not say (`checks`) | a live target: `server::target`, `sidecar/tests/hub.rs` |
//! | I3 | both sides equal, nothing left over, silence (`checks`) | `tests/` end to end |
//! | I4 | the record never claims what is not there (`hub`); unmanaged paths stay unless mirrored | the trash: `sidecar/tests` |
//! | I5 | a look that uses a damaged or old index sees what is there (`checks`) | stamps, events: `scan`, `watch` |
//! | I6 | | `sidecar/tests/containment.rs`, `filter` |
//! | I7 | deletes beyond the budget, or of everything, only after an answer (`checks`) | `plan`, `session` |
//! | I8 | crashes anywhere, damaged state: converges without help (`faults`) | `tests/kill.rs` |
//! | I9 | starts and restarts (`checks`) | processes: `supervise`, `server::run` |
//! | I10 | generations in flight, messages in a second (`checks`) | queues: `watch`, `daemon` |
//! | I11 | damaged frames, messages out of order (`link`, `serve`) | `sidecar/tests/wire` |
//! | I12 | what is called synced is (`checks`) | `tests/` |
//! | I13 | | `wire::hello` |
//! | I14 | only the newest link writes (`serve`) | `lease` |

mod calm;
mod checks;
mod clock;
mod daemon;
mod disk;
mod faults;
mod hub;
mod link;
mod seed;
mod serve;
mod source;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2ek_sidecar::restart::Action;

use self::checks::Checks;
use self::clock::{Clock, Due, Event};
use self::disk::{Disk, is_dir};
use self::hub::Hub;
use self::link::Wires;
use self::seed::{Rng, Telling, Trace};
use self::source::Source;
use super::plan::{DeleteBudget, Mode};
use super::session::{Input, Session, Settings};

/// Seeds of a plain `cargo test`; `.ci/run` asks for more.
const SEEDS: u64 = 1000;
/// Failing seeds after which no more are tried.
const ENOUGH: usize = 10;
const SETTLE: Duration = Duration::from_millis(50);

/// What does not change in a run.
#[derive(Clone, Copy)]
struct Options {
    targets: usize,
    mirror: bool,
    count_budget: Option<u64>,
    /// Holds are answered late in the end: time alone must answer nothing.
    patient: bool,
    /// Large files go ahead of their generations.
    ahead: bool,
    /// Longest time between two faults, in microseconds.
    pace: u64,
    /// Which faults of the script may happen, by bit: with fewer kinds each of them gets further,
    /// for a lost link heals much (Groce et al.: Swarm testing, 2012).
    faults: u64,
}

struct World {
    options: Options,
    rng: Rng,
    clock: Clock,
    trace: Trace,
    session: Session,
    source: Source,
    hubs: Vec<Hub>,
    wires: Wires,
    checks: Checks,
    /// A look at the source is under way.
    looking: bool,
    /// The source's root is gone.
    unmounted: bool,
    /// The daemon of this life has kept its index.
    kept: bool,
    /// No more faults and edits.
    calm: bool,
}

impl World {
    fn new(seed: u64, base: Instant, telling: Telling) -> Self {
        let mut rng = Rng(seed);
        let options = Options {
            targets: if rng.one_in(4) { 2 } else { 1 },
            mirror: rng.one_in(5),
            count_budget: rng.one_in(3).then(|| rng.below(4)),
            patient: rng.one_in(6),
            ahead: !rng.one_in(4),
            pace: if rng.one_in(8) { 1_000_000 } else { 60_000 },
            faults: match rng.below(3) {
                0 => u64::MAX,
                1 => rng.next(),
                _ => rng.next() & rng.next(),
            },
        };
        let latency = [200, 1000, 20_000, 100_000][rng.below(4) as usize];
        let mut source = Source::new();
        for _ in 0..rng.below(12) {
            source.edit(&mut rng);
        }
        let hubs = (0..options.targets).map(|_| new_hub(&mut source, &mut rng)).collect();
        Self {
            options,
            clock: Clock::new(base),
            trace: Trace::new(telling),
            session: options.session(&source),
            source,
            hubs,
            wires: Wires::new(options.targets, latency),
            checks: Checks::new(options.targets),
            looking: false,
            unmounted: false,
            kept: false,
            calm: false,
            rng,
        }
    }

    fn step(&mut self) {
        match self.clock.next(self.session.deadline()) {
            Due::Nothing => {}
            Due::Deadline => {
                self.checks.i10_no_ping_pong(self.clock.now);
                let git_busy = !self.calm && self.rng.one_in(3);
                self.input(Input::Tick { git_busy });
            }
            Due::Event(event) => self.event(event),
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Look { seen } => self.look_ends(seen),
            Event::ToHub { target, serial } => self.hub_hears(target, serial),
            Event::ToDaemon { target, serial } => self.daemon_hears(target, serial),
            Event::Lost { target, serial } => {
                if self.wires.current[target] == Some(serial) {
                    self.wires.current[target] = None;
                    self.input(Input::LinkDown(target));
                }
            }
            Event::Unlink { target, serial } => {
                self.wires.get(target, serial).down.clear();
                if self.hubs[target].peer == Some(serial) {
                    self.hubs[target].unlink();
                    self.note(format_args!("! hub {target} abandons"));
                }
            }
            Event::Restarted { target, generation, pid } => {
                if let Some(answer) = self.hubs[target].restarted(generation, pid) {
                    self.answer(target, answer);
                }
            }
            Event::Mend { target } => {
                self.hubs[target].broken.clear();
                self.hubs[target].record.full = false;
            }
            Event::Mounted => self.mounted(),
            Event::Fault => self.fault(),
        }
    }

    fn note(&mut self, line: std::fmt::Arguments<'_>) {
        self.trace.line(self.clock.now, line);
    }
}

impl Options {
    fn session(self, source: &Source) -> Session {
        let Self { mirror, count_budget, ahead, .. } = self;
        let ignoring = source.ignoring.clone();
        let settings = Settings {
            dry: false,
            mode: if mirror { Mode::Mirror } else { Mode::Keep },
            budget: count_budget.map_or_else(DeleteBudget::default, DeleteBudget::Count),
            ahead_from: if ahead { source::LARGE_BYTES } else { u64::MAX },
            settle: SETTLE,
            settle_at_most: Duration::from_secs(2),
            git_at_most: Duration::from_secs(10),
            rules: Box::new(|_| vec![Action::Restart]),
            ignored: Box::new(move |path, _| {
                ignoring.load(Ordering::Relaxed) && source::is_ignored(path)
            }),
        };
        Session::new(settings)
    }
}

/// A target: empty, or with some of the source there already, some of it different.
fn new_hub(source: &mut Source, rng: &mut Rng) -> Hub {
    let mut disk: Disk = disk::empty();
    if rng.one_in(2) {
        for (path, entry) in source.disk.clone() {
            let parent = path.parent().unwrap_or_default();
            if (parent.is_root() || is_dir(disk.get(&parent))) && rng.one_in(2) {
                let other = rng.one_in(3) && !is_dir(Some(&entry));
                disk.insert(path, if other { source.file(rng) } else { entry });
            }
        }
    }
    Hub::new(disk, rng.one_in(2))
}

/// What is left of a run: its trace's hash, and what was met in it.
type Left = (u64, BTreeMap<&'static str, u64>);

fn run(seed: u64, base: Instant, telling: Telling) -> Left {
    let mut world = World::new(seed, base, telling);
    world.start();
    world.touched();
    world.clock.after(0, Event::Fault);
    let until = 200_000 + world.rng.below(64 * world.options.pace);
    while world.clock.now < until {
        world.step();
    }
    world.calm_down();
    (world.trace.hash(), std::mem::take(&mut world.trace.tally))
}

/// Runs a seed twice; says what is wrong with it.
fn twice(seed: u64, base: Instant) -> Result<Left, String> {
    let attempt = |telling| catch_unwind(AssertUnwindSafe(|| run(seed, base, telling)));
    match (attempt(Telling::Hash), attempt(Telling::Hash)) {
        (Ok(first), Ok(second)) if first == second => Ok(first),
        (Ok(_), Ok(_)) => Err("is not repeatable".to_owned()),
        _ => {
            let _ = attempt(Telling::Tail);
            Err("fails".to_owned())
        }
    }
}

#[test]
fn i1_to_i14_hold_and_both_ends_converge_after_any_history() {
    let base = Instant::now();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("E2EK_SIM_SEED") {
        run(seed, base, Telling::Aloud);
        return;
    }
    let seeds = number("E2EK_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let tally = Mutex::new(BTreeMap::<&str, u64>::new());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || failed.lock().unwrap().len() >= ENOUGH {
                        return;
                    }
                    match twice(seed, base) {
                        Ok((_, met)) => {
                            let mut tally = tally.lock().unwrap();
                            met.into_iter().for_each(|(k, n)| *tally.entry(k).or_default() += n);
                        }
                        Err(what) => {
                            failed.lock().unwrap().push(format!("E2EK_SIM_SEED={seed} {what}"));
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "of {}: {}", next.into_inner(), failed.join(", "));
    let tally = tally.into_inner().unwrap();
    println!("{tally:#?}");
    if seeds >= SEEDS {
        let missing: Vec<_> =
            faults::ALL.iter().filter(|name| !tally.contains_key(*name)).collect();
        assert!(missing.is_empty(), "faults that never happened: {missing:?}");
        assert!(tally.contains_key("directories that move as one"));
        assert!(tally.contains_key("ops that several targets share"));
    }
}
