//! Owns what `status` answers: its JSON shape (cli.md), its honesty (I12), its words for people.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::human::Paint;
use super::text::{Text, count};

/// The version of [`Status`]; keys are only ever added to it.
pub const STATUS_VERSION: u32 = 1;

/// How a daemon is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`STATUS_VERSION`].
    pub v: u32,
    /// The daemon's process.
    pub pid: u32,
    /// The worst of what is going on.
    pub state: State,
    /// What works less well than it could: `polling: 812 directories`.
    #[serde(default)]
    pub degraded: Vec<Text>,
    /// The folder on this side.
    pub source: Text,
    /// How far it has come.
    #[serde(rename = "gen")]
    pub generations: Generations,
    /// In the order of the configuration.
    pub targets: Vec<TargetStatus>,
    /// Of the watcher.
    pub watch: WatchCounts,
    /// From seen to acknowledged.
    pub latency_ms: Latency,
    /// Workloads whose pods are targets; their pods that are served stand in `targets`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupStatus>,
}

/// How a workload's pods stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// As it was written.
    pub name: Text,
    /// Pods that hold the source's newest state.
    pub current: u64,
    /// All its pods, without those on their way out.
    pub pods: u64,
    /// Pods that are not served.
    pub waiting: Vec<WaitingPod>,
}

/// A pod that is not served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingPod {
    /// Which.
    pub pod: Text,
    /// Why.
    pub reason: Text,
}

/// The one word about a daemon or a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not yet looked around.
    #[default]
    Starting,
    /// Reading the source, or repairing what an overflow left unsure.
    Scanning,
    /// Something is on its way.
    Syncing,
    /// Every target that there is holds the source's newest state. See [`Status::honest`].
    Synced,
    /// Waiting for a person: a guard, a conflict, a refused path, a dead container, a pause.
    Held,
    /// A target cannot be reached.
    Disconnected,
    /// On the way out.
    Stopped,
}

impl State {
    /// The word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Scanning => "scanning",
            Self::Syncing => "syncing",
            Self::Synced => "synced",
            Self::Held => "held",
            Self::Disconnected => "disconnected",
            Self::Stopped => "stopped",
        }
    }
}

/// How far the daemon has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generations {
    /// The newest one of this side.
    pub local: u64,
    /// The newest one that every target has acknowledged.
    pub acked: u64,
}

/// How one target is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// As it was written.
    pub name: Text,
    /// Its own word.
    pub state: State,
    /// The newest generation that it has acknowledged.
    pub gen_acked: u64,
    /// The hash of its managed paths, in hexadecimal; `None` before the first answer.
    pub tree: Option<Text>,
    /// Restarts since the daemon began.
    pub restarts: u64,
    /// The process that restarts; `None` without one.
    pub child: Option<ChildStatus>,
    /// Paths that do not take part, at most [`MAX_PROBLEMS`] of them.
    pub problems: Vec<ProblemStatus>,
    /// How many there are in all.
    #[serde(default)]
    pub problem_count: u64,
}

/// Problems listed per target; all of them are counted.
pub const MAX_PROBLEMS: usize = 100;

/// The process that restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildStatus {
    /// What it is doing.
    pub state: ChildState,
    /// Its process number, in the name space of its target; `None` while there is none.
    pub pid: Option<u32>,
    /// The code or 128 + signal of its last end; `None` before that.
    pub exit: Option<i32>,
}

/// What a child is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChildState {
    /// Started, not yet ready.
    Starting,
    /// Up.
    Running,
    /// Being stopped for a restart.
    Stopping,
    /// It ended; waiting for the next change.
    Held,
    /// It ended for good.
    Exited,
    /// Its container is gone.
    Gone,
}

impl ChildState {
    /// The same word as in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Held => "held",
            Self::Exited => "exited",
            Self::Gone => "gone",
        }
    }
}

/// A path that does not take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemStatus {
    /// Which.
    pub path: Text,
    /// Why.
    pub reason: Text,
}

/// Of the watcher, since the daemon began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchCounts {
    /// Directories watched now.
    pub directories: u64,
    /// Times that the kernel dropped events.
    pub overflows: u64,
    /// Scans after the first.
    pub rescans: u64,
    /// Directories polled now.
    pub polled: u64,
}

/// Of the newest saves; see [`Latencies`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Half of them were as fast as this, in milliseconds; `None` before the first.
    pub p50: Option<f64>,
    /// 95 of 100 were as fast as this, in milliseconds.
    pub p95: Option<f64>,
    /// How many saves there were since the daemon began.
    pub count: u64,
}

/// What [`Status`] cannot show but must not be silent about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outstanding {
    /// An overflow or a lost watch whose rescan has not ended.
    pub overflow: bool,
    /// Conflicts without an answer.
    pub conflicts: u64,
    /// Changes seen that have no generation yet.
    pub unsettled: bool,
}

impl Status {
    /// The same status with `synced` taken back wherever something is outstanding (I12): a
    /// generation behind, an overflow, a conflict, a refused path, a dead container, a target that
    /// is not synced. Other words are left alone. Problems beyond [`MAX_PROBLEMS`] are only
    /// counted.
    #[must_use]
    pub fn honest(mut self, outstanding: Outstanding) -> Self {
        for target in &mut self.targets {
            target.problem_count = target.problem_count.max(target.problems.len() as u64);
            target.problems.truncate(MAX_PROBLEMS);
            if target.state == State::Synced {
                target.state = target.honest_state(self.generations.local);
            }
        }
        if self.state != State::Synced {
            return self;
        }
        let of_targets = |state| self.targets.iter().any(|t| t.state == state);
        self.state = if of_targets(State::Disconnected) {
            State::Disconnected
        } else if outstanding.conflicts > 0 || of_targets(State::Held) {
            State::Held
        } else if outstanding.overflow {
            State::Scanning
        } else if outstanding.unsettled
            || self.generations.acked < self.generations.local
            || self.targets.iter().any(|t| t.state != State::Synced)
        {
            State::Syncing
        } else {
            State::Synced
        };
        self
    }
}

impl TargetStatus {
    fn honest_state(&self, local: u64) -> State {
        let dead = self.child.is_some_and(|child| child.state == ChildState::Gone);
        if dead || !self.problems.is_empty() || self.problem_count > 0 {
            State::Held
        } else if self.gen_acked < local {
            State::Syncing
        } else {
            State::Synced
        }
    }
}

/// The latencies of the newest saves, at most 1,000 of them.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// Oldest first; never more than [`Self::KEPT`].
    newest: VecDeque<Duration>,
    /// All there ever were.
    count: u64,
}

impl Latencies {
    const KEPT: usize = 1000;

    /// Takes in one save: the time from seen to acknowledged.
    pub fn add(&mut self, took: Duration) {
        if self.newest.len() == Self::KEPT {
            self.newest.pop_front();
        }
        self.newest.push_back(took);
        self.count += 1;
    }

    /// The figures, by the nearest-rank method. Sorts what is kept.
    #[must_use]
    pub fn summary(&self) -> Latency {
        let mut sorted: Vec<_> = self.newest.iter().copied().collect();
        sorted.sort_unstable();
        let rank = |percent: usize| {
            let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(at).map(|took| took.as_secs_f64() * 1000.0)
        };
        Latency { p50: rank(50), p95: rank(95), count: self.count }
    }
}

/// The status for people, several lines, each ended.
pub(super) fn human(status: &Status, paint: Paint) -> String {
    let Status { pid, state, degraded, source, generations, targets, watch, latency_ms, .. } =
        status;
    let mut text = format!("{}  {source}  (pid {pid})\n", colored(*state, paint));
    let Generations { local, acked } = generations;
    text.push_str(&format!("  generation {local}, acknowledged {acked}\n"));
    for target in targets {
        text.push_str(&of_target(target, paint));
    }
    for group in &status.groups {
        text.push_str(&of_group(group, paint));
    }
    text.push_str(&format!("  watching {}", directories(watch.directories)));
    for (n, what) in
        [(watch.polled, "polled"), (watch.overflows, "overflows"), (watch.rescans, "rescans")]
    {
        if n > 0 {
            text.push_str(&format!(", {n} {what}"));
        }
    }
    text.push('\n');
    if let (Some(p50), Some(p95)) = (latency_ms.p50, latency_ms.p95) {
        let saves = count(latency_ms.count, "save");
        text.push_str(&format!("  {saves}: p50 {p50:.1} ms, p95 {p95:.1} ms\n"));
    }
    for what in degraded {
        text.push_str(&format!("  {}\n", paint.yellow(&format!("degraded: {what}"))));
    }
    text
}

fn directories(n: u64) -> String {
    if n == 1 { "1 directory".into() } else { format!("{} directories", super::text::grouped(n)) }
}

fn of_group(group: &GroupStatus, paint: Paint) -> String {
    let GroupStatus { name, current, pods, waiting } = group;
    let line = format!("{name}: {current} of {} current", count(*pods, "pod"));
    let line = if current < pods || *pods == 0 { paint.yellow(&line) } else { line };
    let mut text = format!("  {line}\n");
    for WaitingPod { pod, reason } in waiting {
        text.push_str(&format!("    {}\n", paint.yellow(&format!("{pod}: {reason}"))));
    }
    text
}

fn of_target(target: &TargetStatus, paint: Paint) -> String {
    let TargetStatus { name, state, gen_acked, restarts, child, problems, problem_count, .. } =
        target;
    let mut text = format!("  {name}: {}, generation {gen_acked}", colored(*state, paint));
    if let Some(child) = child {
        text.push_str(&format!(", {}", of_child(child)));
        text.push_str(&format!(", {}", count(*restarts, "restart")));
    }
    text.push('\n');
    for ProblemStatus { path, reason } in problems {
        text.push_str(&format!("    {}\n", paint.yellow(&format!("{path}: {reason}"))));
    }
    let more = problem_count.saturating_sub(problems.len() as u64);
    if more > 0 {
        text.push_str(&format!("    and {more} more\n"));
    }
    text
}

fn of_child(child: &ChildStatus) -> String {
    let pid = child.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    let exit = child.exit.map(|code| format!(", exit {code}")).unwrap_or_default();
    match child.state {
        ChildState::Starting => format!("child starting{pid}"),
        ChildState::Running => format!("child running{pid}"),
        ChildState::Stopping => format!("child stopping{pid}"),
        ChildState::Held => format!("child ended, waiting for a change{exit}"),
        ChildState::Exited => format!("child ended{exit}"),
        ChildState::Gone => "container gone".into(),
    }
}

fn colored(state: State, paint: Paint) -> String {
    match state {
        State::Held | State::Disconnected => paint.yellow(state.word()),
        _ => state.word().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything at rest and equal.
    fn synced() -> Status {
        let target = TargetStatus {
            name: "api".into(),
            state: State::Synced,
            gen_acked: 42,
            tree: Some("00ff".into()),
            restarts: 3,
            child: Some(ChildStatus { state: ChildState::Running, pid: Some(70), exit: Some(1) }),
            ..TargetStatus::default()
        };
        Status {
            v: STATUS_VERSION,
            pid: 7,
            state: State::Synced,
            degraded: vec![],
            source: "/home/me/app".into(),
            generations: Generations { local: 42, acked: 42 },
            targets: vec![target.clone(), TargetStatus { name: "web".into(), ..target }],
            watch: WatchCounts { directories: 1234, ..WatchCounts::default() },
            latency_ms: Latency { p50: Some(1.25), p95: Some(9.0), count: 1500 },
            groups: vec![],
        }
    }

    #[test]
    fn i12_synced_is_never_said_while_something_is_outstanding() {
        type Spoil = fn(&mut Status, &mut Outstanding);
        let problem = || ProblemStatus { path: "p".into(), reason: "r".into() };
        assert_eq!(synced().honest(Outstanding::default()).state, State::Synced);
        let table: [(&str, State, Spoil); 10] = [
            ("overflow", State::Scanning, |_, o| o.overflow = true),
            ("conflict", State::Held, |_, o| o.conflicts = 1),
            ("unsettled", State::Syncing, |_, o| o.unsettled = true),
            ("behind", State::Syncing, |s, _| s.generations.acked = 41),
            ("one target behind", State::Syncing, |s, _| s.targets[1].gen_acked = 41),
            ("held target", State::Held, |s, _| s.targets[1].state = State::Held),
            ("no link", State::Disconnected, |s, _| s.targets[0].state = State::Disconnected),
            ("starting target", State::Syncing, |s, _| s.targets[0].state = State::Starting),
            ("refused path, not listed", State::Held, |s, _| s.targets[0].problem_count = 1),
            ("dead container", State::Held, |s, _| {
                s.targets[1].child =
                    Some(ChildStatus { state: ChildState::Gone, pid: None, exit: None });
            }),
        ];
        for (what, state, spoil) in table {
            let (mut status, mut outstanding) = (synced(), Outstanding::default());
            spoil(&mut status, &mut outstanding);
            assert_eq!(status.honest(outstanding).state, state, "{what}");
        }
        let mut refused = synced();
        refused.targets[0].problems.push(problem());
        let refused = refused.honest(Outstanding::default());
        assert_eq!((refused.state, refused.targets[0].state), (State::Held, State::Held));
        let stopped = Status { state: State::Stopped, ..synced() };
        assert_eq!(stopped.honest(Outstanding::default()).state, State::Stopped);
    }

    #[test]
    fn the_json_is_that_of_the_contract() {
        // cli.md, "status --json"; keys added since stand last in their object.
        let mut status = synced();
        status.targets.truncate(1);
        status.targets[0].problems =
            vec![ProblemStatus { path: Text::name(b"\x1b"), reason: "is a FIFO".into() }];
        status.targets[0].problem_count = 1;
        let json = super::super::json_line(&status);
        assert_eq!(
            json,
            "{\"v\":1,\"pid\":7,\"state\":\"synced\",\"degraded\":[],\"source\":\"/home/me/app\",\
             \"gen\":{\"local\":42,\"acked\":42},\"targets\":[{\"name\":\"api\",\
             \"state\":\"synced\",\"gen_acked\":42,\"tree\":\"00ff\",\"restarts\":3,\
             \"child\":{\"state\":\"running\",\"pid\":70,\"exit\":1},\
             \"problems\":[{\"path\":\"\\\\x1b\",\"reason\":\"is a FIFO\"}],\"problem_count\":1}],\
             \"watch\":{\"directories\":1234,\"overflows\":0,\"rescans\":0,\"polled\":0},\
             \"latency_ms\":{\"p50\":1.25,\"p95\":9.0,\"count\":1500}}"
        );
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }

    #[test]
    fn people_see_what_is_outstanding() {
        let mut status = synced();
        status.degraded.push("polling: 812 directories".into());
        status.watch.polled = 812;
        status.targets[0].problems =
            vec![ProblemStatus { path: Text::name(b"\x1b]0;x\x07"), reason: "is a FIFO".into() }];
        status.targets[0].problem_count = 3;
        status.targets[1].state = State::Disconnected;
        status.targets[1].child = None;
        let status = status.honest(Outstanding::default());
        let (people, lines) =
            (human(&status, Paint::default()), super::super::lines::status(&status));
        insta::assert_snapshot!(format!("{people}---\n{lines}"));
    }

    #[test]
    fn latencies_are_ranked_and_bounded() {
        assert_eq!(Latencies::default().summary(), Latency::default());
        let mut latencies = Latencies::default();
        latencies.add(Duration::from_millis(7));
        let one = Latency { p50: Some(7.0), p95: Some(7.0), count: 1 };
        assert_eq!(latencies.summary(), one);
        for ms in (1..=3000).rev() {
            latencies.add(Duration::from_millis(ms));
        }
        let newest = Latency { p50: Some(500.0), p95: Some(950.0), count: 3001 };
        assert_eq!(latencies.summary(), newest, "i10: of the newest 1,000");
    }
}
