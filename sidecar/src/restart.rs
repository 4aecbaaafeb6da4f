//! Owns the decision when the command is stopped, killed and started: a pure machine.
//!
//! Promises: never two runs of the command at once, leftovers of the old run included; whatever is
//! asked while the old run ends becomes one start; after a stop nothing is started; every request
//! leads to a start unless a stop comes first. Leaves processes, signals and clocks to
//! `server::run`, and the question *which* changes ask for a restart to the planner.

#![deny(clippy::disallowed_methods)]

mod action;
mod signal;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use action::{Action, ActionSet};
pub use signal::{Signal, UnknownSignal};

/// A run of at least this length clears the count of failures in a row.
const STABLE: Duration = Duration::from_secs(5);
/// The wait before the second restart in a row; the first is free, each next one doubles it.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest wait between two restarts.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// After SIGKILL, how soon to look again for processes that appeared meanwhile; doubles.
const KILL_AGAIN_FIRST: Duration = Duration::from_millis(50);
/// The longest wait between two looks.
const KILL_AGAIN_MAX: Duration = Duration::from_secs(2);
/// A second Ctrl-C within this is meant for us, whatever the command makes of it.
const INSIST: Duration = Duration::from_secs(2);
/// No wait is longer, whatever a policy from the wire says: the clock must not overflow.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How the command is to be treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Policy {
    /// Asks the command, its group and its strays to end.
    pub stop_signal: Signal,
    /// From the stop signal to SIGKILL.
    pub kill_after: Duration,
    /// Quiet time after the last [`Input::Trigger`] before it is acted on; zero: at once.
    pub debounce: Duration,
    /// What to do when the command ends by itself.
    pub on_exit: OnExit,
}

impl Default for Policy {
    /// SIGINT, 10 s, no debounce, hold.
    fn default() -> Self {
        Self {
            stop_signal: Signal::INT,
            kill_after: Duration::from_secs(10),
            debounce: Duration::ZERO,
            on_exit: OnExit::Hold,
        }
    }
}

/// What to do when the command ends by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum OnExit {
    /// Show the exit and wait for the next request. Processes that it left behind go on until then.
    Hold,
    /// End what it left behind and start again, at the earliest after `pause`; after short runs in
    /// a row later and later (100 ms, doubling, at most 10 s).
    Restart {
        /// The shortest wait. Zero is fine away from a terminal.
        pause: Duration,
    },
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Status {
    /// By itself, with this code (0..=255).
    Code(u8),
    /// By this signal.
    Signal(Signal),
}

impl Status {
    /// The code by the shell's convention: 128 + n for signal n.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + u8::try_from(signal.number()).unwrap_or(127),
        }
    }
}

/// What happened, or is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// The first start; later ones are ignored while the command lives, else they start it.
    Start {
        /// What the files hold now.
        generation: u64,
    },
    /// A change that asks for a restart; debounced.
    Trigger {
        /// What the files hold now.
        generation: u64,
    },
    /// The files hold this now; asks for nothing. A later start is told as of this generation.
    Visible {
        /// What the files hold now.
        generation: u64,
    },
    /// A restart asked for by a person: not debounced; of the newest generation known.
    Restart,
    /// The direct child was reaped. Always comes before the [`Input::AllGone`] of the same run.
    Exited {
        /// How it ended.
        status: Status,
        /// Do not start again by yourself, whatever the policy says (it died as of Ctrl-C).
        hold: bool,
    },
    /// The terminal's user pressed Ctrl-C: the command has had the signal from the kernel.
    Interrupted,
    /// No descendant of ours is left.
    AllGone,
    /// [`Effect::Spawn`] could not be done: there is no process.
    SpawnFailed,
    /// End the command; then nothing is ever started again.
    Stop,
    /// The same, by SIGKILL at once.
    StopNow,
    /// Time has passed; send it at or after [`RestartMachine::deadline`]. Never harmful.
    Timer,
}

/// What the owner is to do, in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Start the command.
    Spawn {
        /// What the files hold.
        generation: u64,
    },
    /// Send this to the command's group and to every descendant that left it.
    Signal(Signal),
    /// SIGKILL to the same, and to whatever appeared since.
    Kill,
    /// Worth telling.
    Note(Note),
}

/// What is worth telling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// The stop signal was not enough within `kill_after`.
    Killing,
    /// The command ended by itself (None: it could not be started) and is not started again.
    Held(Option<Status>),
    /// The command keeps ending: it is started again then.
    Backoff {
        /// When.
        until: Instant,
        /// Short runs in a row, from 1.
        failures: u32,
    },
    /// The user wants an end: Ctrl-C while the command is being ended, or twice in two seconds.
    Interrupted,
    /// Everything has ended as asked; None when the command never ran.
    Stopped(Option<Status>),
}

/// Where the command stands, for `status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Never started.
    Idle,
    /// Started and not yet reaped.
    Running {
        /// The files' generation at its start.
        generation: u64,
    },
    /// Asked to end; waiting until nothing of it is left.
    Stopping,
    /// Ended by itself; waiting for a request.
    Held,
    /// Ended by itself; waiting to start it again.
    Backoff {
        /// When.
        until: Instant,
    },
    /// Ended as asked, for good.
    Stopped,
}

/// Decides about one command. See the module's head for what it promises.
#[derive(Debug)]
pub struct RestartMachine {
    policy: Policy,
    phase: Phase,
    /// Something of the last run may still live: from Spawn to AllGone.
    lives: bool,
    /// The newest generation heard of.
    generation: u64,
    /// A debounced trigger is acted on then. None while stopping for good.
    due: Option<Instant>,
    /// Short runs that ended by themselves, in a row.
    failures: u32,
    /// How the last run ended.
    last: Option<Status>,
    /// The last Ctrl-C of this run.
    interrupted: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Idle,
    Running {
        since: Instant,
        generation: u64,
    },
    /// Invariant: `lives`.
    Ending {
        /// SIGKILL, and again, are due then.
        kill_at: Instant,
        /// Zero before the first SIGKILL; then the wait before the next.
        again: Duration,
        then: Then,
    },
    Held,
    /// Invariant: not `lives`.
    Backoff {
        until: Instant,
    },
    Stopped,
}

/// What follows when nothing is left.
#[derive(Clone, Copy, Debug)]
enum Then {
    Start,
    /// As Start, but not before this.
    StartAfter(Instant),
    Stop,
}

impl RestartMachine {
    /// A machine that waits for [`Input::Start`].
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            phase: Phase::Idle,
            lives: false,
            generation: 0,
            due: None,
            failures: 0,
            last: None,
            interrupted: None,
        }
    }

    /// Treats the command by another policy from now on; what was begun goes on as it was begun.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Takes one input and says what to do about it. `now` never goes back.
    #[must_use]
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        let out = &mut effects;
        match input {
            Input::Start { generation } => self.start(now, generation, out),
            Input::Trigger { generation } => self.trigger(now, generation, out),
            Input::Visible { generation } => self.generation = self.generation.max(generation),
            Input::Restart => self.restart(now, out),
            Input::Exited { status, hold } => self.exited(now, status, hold, out),
            Input::Interrupted => self.interrupted(now, out),
            Input::AllGone => self.all_gone(now, out),
            Input::SpawnFailed => self.spawn_failed(now, out),
            Input::Stop => self.stop(now, false, out),
            Input::StopNow => self.stop(now, true, out),
            Input::Timer => self.timer(now, out),
        }
        effects
    }

    /// When the next [`Input::Timer`] is needed; None: not before another input.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Ending { kill_at, .. } => Some(kill_at),
            Phase::Backoff { until } => Some(until),
            Phase::Idle | Phase::Running { .. } | Phase::Held | Phase::Stopped => None,
        };
        [phase, self.due].into_iter().flatten().min()
    }

    /// Where the command stands.
    #[must_use]
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Idle => State::Idle,
            Phase::Running { generation, .. } => State::Running { generation },
            Phase::Ending { .. } => State::Stopping,
            Phase::Held => State::Held,
            Phase::Backoff { until } => State::Backoff { until },
            Phase::Stopped => State::Stopped,
        }
    }

    /// How the last run ended; None before the first end, and after a start that failed.
    #[must_use]
    pub fn last(&self) -> Option<Status> {
        self.last
    }

    /// Whether an end of the command now is the answer to Ctrl-C, however it ends: it has as long for
    /// that as it would have after our own signal. What goes on for longer (a debugger, a shell)
    /// has taken Ctrl-C for itself.
    #[must_use]
    pub fn is_interrupted(&self, now: Instant) -> bool {
        let patience = self.policy.kill_after.max(INSIST);
        self.interrupted.is_some_and(|at| now.saturating_duration_since(at) <= patience)
    }

    /// The newest generation heard of.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn start(&mut self, now: Instant, generation: u64, out: &mut Vec<Effect>) {
        self.generation = self.generation.max(generation);
        if !matches!(self.phase, Phase::Running { .. }) {
            self.restart(now, out);
        }
    }

    fn trigger(&mut self, now: Instant, generation: u64, out: &mut Vec<Effect>) {
        self.generation = self.generation.max(generation);
        match self.phase {
            Phase::Stopped | Phase::Ending { then: Then::Stop, .. } => {}
            // The start that follows covers it.
            Phase::Ending { .. } => self.restart(now, out),
            _ if self.policy.debounce.is_zero() => self.restart(now, out),
            _ => self.due = Some(after(now, self.policy.debounce)),
        }
    }

    /// Starts the command as soon as nothing of the old run is left.
    fn restart(&mut self, now: Instant, out: &mut Vec<Effect>) {
        match &mut self.phase {
            Phase::Stopped | Phase::Ending { then: Then::Stop, .. } => return,
            Phase::Ending { then, .. } => *then = Then::Start,
            _ if self.lives => self.end(now, Then::Start, out),
            _ => self.spawn(now, out),
        }
        self.due = None;
        self.failures = 0;
    }

    fn end(&mut self, now: Instant, then: Then, out: &mut Vec<Effect>) {
        out.push(Effect::Signal(self.policy.stop_signal));
        let kill_at = after(now, self.policy.kill_after);
        let again = Duration::ZERO;
        self.phase = Phase::Ending { kill_at, again, then };
    }

    fn spawn(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let generation = self.generation;
        self.phase = Phase::Running { since: now, generation };
        self.lives = true;
        self.interrupted = None;
        self.due = None;
        out.push(Effect::Spawn { generation });
    }

    fn exited(&mut self, now: Instant, status: Status, hold: bool, out: &mut Vec<Effect>) {
        self.last = Some(status);
        let Phase::Running { since, .. } = self.phase else {
            return;
        };
        match self.policy.on_exit {
            OnExit::Restart { pause } if !hold && !self.is_interrupted(now) => {
                let short = now.saturating_duration_since(since) < STABLE;
                let wait = self.count_failure(short).max(pause);
                self.end(now, Then::StartAfter(after(now, wait)), out);
            }
            _ => self.hold(out),
        }
    }

    fn interrupted(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let before = self.interrupted.replace(now);
        let again = before.is_some_and(|at| now.saturating_duration_since(at) <= INSIST);
        match self.phase {
            Phase::Ending { .. } => out.push(Effect::Note(Note::Interrupted)),
            Phase::Running { .. } if again => out.push(Effect::Note(Note::Interrupted)),
            _ => {}
        }
    }

    fn hold(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Held;
        out.push(Effect::Note(Note::Held(self.last)));
    }

    /// How long to wait before the next start.
    fn count_failure(&mut self, short: bool) -> Duration {
        self.failures = if short { self.failures.saturating_add(1) } else { 0 };
        match self.failures {
            0 | 1 => Duration::ZERO,
            n => doubled(BACKOFF_FIRST, n - 2).min(BACKOFF_MAX),
        }
    }

    fn all_gone(&mut self, now: Instant, out: &mut Vec<Effect>) {
        // A run that is reaped says so first; anything else is about processes that are not ours.
        if matches!(self.phase, Phase::Running { .. }) {
            return;
        }
        self.lives = false;
        let Phase::Ending { then, .. } = self.phase else {
            return;
        };
        match then {
            Then::Start => self.spawn(now, out),
            Then::StartAfter(at) if at <= now => self.spawn(now, out),
            Then::StartAfter(until) => self.back_off(until, out),
            Then::Stop => self.stopped(out),
        }
    }

    fn back_off(&mut self, until: Instant, out: &mut Vec<Effect>) {
        let failures = self.failures.max(1);
        self.phase = Phase::Backoff { until };
        out.push(Effect::Note(Note::Backoff { until, failures }));
    }

    fn stopped(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Stopped;
        out.push(Effect::Note(Note::Stopped(self.last)));
    }

    fn spawn_failed(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Running { .. }) {
            return;
        }
        self.lives = false;
        self.last = None;
        match self.policy.on_exit {
            OnExit::Hold => self.hold(out),
            OnExit::Restart { pause } => {
                let wait = self.count_failure(true).max(pause).max(BACKOFF_FIRST);
                self.back_off(after(now, wait), out);
            }
        }
    }

    fn stop(&mut self, now: Instant, kill: bool, out: &mut Vec<Effect>) {
        self.due = None;
        match &mut self.phase {
            Phase::Stopped => return,
            Phase::Ending { then, .. } => *then = Then::Stop,
            _ if self.lives => self.end(now, Then::Stop, out),
            _ => return self.stopped(out),
        }
        if let (true, Phase::Ending { kill_at, again, .. }) = (kill, &mut self.phase)
            && again.is_zero()
        {
            *kill_at = now;
            // A signal that was to be sent just now makes no sense any more.
            out.retain(|effect| !matches!(effect, Effect::Signal(_)));
            self.timer(now, out);
        }
    }

    fn timer(&mut self, now: Instant, out: &mut Vec<Effect>) {
        match &mut self.phase {
            Phase::Ending { kill_at, again, .. } if *kill_at <= now => {
                if again.is_zero() {
                    out.push(Effect::Note(Note::Killing));
                }
                out.push(Effect::Kill);
                *again = (*again * 2).clamp(KILL_AGAIN_FIRST, KILL_AGAIN_MAX);
                *kill_at = now + *again;
            }
            Phase::Backoff { until } if *until <= now => self.spawn(now, out),
            _ => {}
        }
        if self.due.is_some_and(|due| due <= now) {
            self.restart(now, out);
        }
    }
}

fn after(now: Instant, wait: Duration) -> Instant {
    now + wait.min(FOREVER)
}

fn doubled(first: Duration, times: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times))
}
