//! The runner with pipes, rules and hold, as the hub uses it, with real processes.
//!
//! A runner owns all children of its process, so that these run one after another.
#![cfg(all(target_os = "linux", feature = "server"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use e2ek_sidecar::restart::{Action, ActionSet, OnExit, Policy, Signal, State, Status};
use e2ek_sidecar::server::run::{COMMANDS_WITHIN, Request, RunEvent, Runner, Spec, Stdio, Stream};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Nothing here takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

fn spec(script: &str) -> Spec {
    Spec {
        argv: ["sh", "-c", script].map(Into::into).to_vec(),
        cwd: None,
        env: vec![("NAME".into(), "value".into())],
        policy: Policy::default(),
        stdio: Stdio::Piped,
        commands_within: COMMANDS_WITHIN,
        marker: "test".to_owned(),
    }
}

/// A runner, and what it printed and has not been asked for yet.
struct Running {
    runner: Runner,
    printed: String,
}

/// Runs `test` with a started runner, and stops that.
fn with_spec(spec: Spec, test: impl AsyncFnOnce(&mut Running)) {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let runner = Runner::new(spec).unwrap();
        let mut running = Running { runner, printed: String::new() };
        running.ask(Request::Start { generation: 1 });
        test(&mut running).await;
        running.ask(Request::StopNow);
        running.until(|event| matches!(event, RunEvent::Stopped { .. })).await;
    });
}

fn with(script: &str, test: impl AsyncFnOnce(&mut Running)) {
    with_spec(spec(script), test);
}

fn run(script: &str) -> Action {
    Action::Run(["sh", "-c", script].map(String::from).to_vec())
}

impl Running {
    fn ask(&mut self, request: Request) {
        self.runner.request(request);
    }

    fn apply<const N: usize>(&mut self, generation: u64, actions: [Action; N]) {
        let actions = ActionSet::from_iter(actions);
        self.ask(Request::Apply { generation, actions });
    }

    /// The next event that is no output.
    async fn event(&mut self) -> RunEvent {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.runner.next()).await;
            match next.expect("something happens") {
                RunEvent::Output { stream, bytes } => self.keep(stream, &bytes),
                event => return event,
            }
        }
    }

    async fn until(&mut self, wanted: impl Fn(&RunEvent) -> bool) -> RunEvent {
        loop {
            let event = self.event().await;
            if wanted(&event) {
                return event;
            }
        }
    }

    fn keep(&mut self, stream: Stream, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        match stream {
            Stream::Stdout => self.printed.push_str(&text),
            Stream::Stderr => self.printed.push_str(&format!("err:{text}")),
            Stream::Command => self.printed.push_str(&format!("command:{text}")),
        }
    }

    /// Waits until the text is printed, and forgets everything up to there. Events go by.
    async fn printed(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        let at = loop {
            if let Some(at) = self.printed.find(text) {
                break at;
            }
            let left = until.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.runner.next()).await {
                Ok(RunEvent::Output { stream, bytes }) => self.keep(stream, &bytes),
                Ok(_) => {}
                Err(_) => panic!("{text:?} was not printed, but {:?}", self.printed),
            }
        };
        self.printed.drain(..at + text.len());
    }

    /// Nothing happens but output.
    async fn quiet(&mut self) {
        let quiet = tokio::time::timeout(Duration::from_millis(200), self.event()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }
}

const SLEEP: &str = "echo start; exec sleep 1000";

#[test]
fn started_restarted_stopped() {
    with(SLEEP, async |app| {
        let RunEvent::Started { generation: 1, pid } = app.event().await else { panic!() };
        assert_eq!(app.runner.state().state, State::Running { generation: 1 });
        assert_eq!(app.runner.state().pid, Some(pid));
        app.apply(7, [Action::Restart]);
        let event = app.event().await;
        let RunEvent::Restarted { generation: 7, pid: new, took, starting } = event else {
            panic!("{event:?}")
        };
        assert!(new != pid && starting <= took && took < PATIENCE);
        assert_eq!(app.runner.state().restarts, 1);
        app.ask(Request::Restart);
        assert!(matches!(app.event().await, RunEvent::Restarted { generation: 7, .. }));
        app.ask(Request::Stop);
        let event = app.event().await;
        let status = Some(Status::Signal(Signal::INT));
        assert!(matches!(event, RunEvent::Stopped { status: s } if s == status), "{event:?}");
        app.apply(8, [Action::Restart]);
        app.ask(Request::Start { generation: 9 });
        app.ask(Request::Restart);
        app.quiet().await;
        assert_eq!(app.runner.state().state, State::Stopped);
        // So that the end finds something to stop.
        *app = Running { runner: Runner::new(spec(SLEEP)).unwrap(), printed: String::new() };
    });
}

#[test]
fn i9_restarts_asked_for_while_the_old_run_ends_become_one_start() {
    let script =
        "trap 'echo stopping; read word; exit 0' INT; echo start; while :; do sleep 0.01; done";
    with(script, async |app| {
        app.printed("start").await;
        app.apply(2, [Action::Restart]);
        app.printed("stopping").await;
        for generation in 3..=6 {
            app.apply(generation, [Action::Restart]);
        }
        app.ask(Request::Stdin(b"go\n".to_vec()));
        let restarted = |event: &RunEvent| matches!(event, RunEvent::Restarted { .. });
        let event = app.until(restarted).await;
        assert!(matches!(event, RunEvent::Restarted { generation: 6, .. }), "{event:?}");
        app.printed("start").await;
        app.quiet().await;
        assert_eq!(app.runner.state().restarts, 1);
    });
}

#[test]
fn output_comes_before_the_exit_and_a_crash_is_held_until_any_change() {
    with("printf %s \"$NAME\"; printf oops >&2; exit 3", async |app| {
        app.until(|event| matches!(event, RunEvent::Started { .. })).await;
        let event = app.event().await;
        let status = Status::Code(3);
        let (held, interrupted) = (true, false);
        let expected = RunEvent::Exited { status, held, interrupted };
        assert_eq!(format!("{event:?}"), format!("{expected:?}"));
        assert!(app.printed.contains("value") && app.printed.contains("err:oops"));
        app.quiet().await;
        assert_eq!(app.runner.state().state, State::Held);
        assert_eq!(app.runner.state().last, Some(status));
        // The rules ask for nothing, but it may be what mends it.
        app.apply(2, []);
        assert!(matches!(app.event().await, RunEvent::Restarted { generation: 2, .. }));
    });
}

#[test]
fn what_the_dead_wrote_is_told_before_their_end() {
    with("echo last words; exit 3", async |app| {
        let RunEvent::Started { pid, .. } = app.event().await else { panic!() };
        // Not asking, so that both are ready when we do.
        let stat = format!("/proc/{pid}/stat");
        let until = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(&stat).unwrap().contains(") Z ") {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
        let exited = |event: &RunEvent| matches!(event, RunEvent::Exited { .. });
        app.until(exited).await;
        assert_eq!(app.printed, "last words\n");
    });
}

#[test]
fn while_it_runs_an_empty_set_does_nothing() {
    with(SLEEP, async |app| {
        app.event().await;
        app.apply(2, []);
        app.apply(3, [Action::Nothing]);
        app.quiet().await;
    });
}

#[test]
fn input_that_one_run_did_not_read_is_there_for_the_next() {
    with("read line; echo got-$line; exec sleep 1000", async |app| {
        app.ask(Request::Stdin(b"one\ntwo\n".to_vec()));
        app.printed("got-one").await;
        app.ask(Request::Restart);
        app.printed("got-two").await;
        assert_eq!(app.runner.stdin_backlog(), 0);
    });
}

#[test]
fn input_ends_after_what_was_sent() {
    with("cat; echo end", async |app| {
        // More than a pipe holds, so that the end must wait.
        app.ask(Request::Stdin(vec![b'x'; 300_000]));
        app.ask(Request::Stdin(b"last".to_vec()));
        app.ask(Request::StdinClosed);
        app.ask(Request::Stdin(b"too late".to_vec()));
        let mut taken = 0;
        while taken < 300_004 {
            if let RunEvent::StdinTaken { bytes } = app.event().await {
                taken += bytes;
            }
        }
        let exited = |event: &RunEvent| matches!(event, RunEvent::Exited { .. });
        app.until(exited).await;
        assert_eq!(app.printed.len(), 300_000 + "lastend\n".len());
        assert!(app.printed.ends_with("xlastend\n"));
    });
}

#[test]
fn i9_commands_run_first_in_their_order() {
    with(SLEEP, async |app| {
        app.event().await;
        app.apply(2, [run("echo first"), run("echo second"), Action::Restart, run("echo first")]);
        let mut seen = Vec::new();
        loop {
            match app.event().await {
                RunEvent::CommandStarted { argv } => seen.push(argv[2].clone()),
                RunEvent::CommandDone { .. } => seen.push("done".to_owned()),
                RunEvent::Restarted { generation, .. } => break assert_eq!(generation, 2),
                event => panic!("{event:?}"),
            }
        }
        assert_eq!(seen, ["echo first", "done", "echo second", "done"]);
        let printed = app.printed.replace("start\n", "");
        assert_eq!(printed, "command:first\ncommand:second\n");
    });
}

#[test]
fn i9_what_is_applied_while_it_stops_is_covered_by_the_start_that_follows() {
    // `up` says that the trap is set, so that the next signal finds it.
    let script = "
        trap 'rm up; echo stopping; read line; exit 0' INT
        echo start | tee up
        while :; do sleep 0.01; done";
    let directory = tempfile::tempdir().unwrap();
    let cwd = Some(directory.path().to_owned());
    with_spec(Spec { cwd, ..spec(script) }, async |app| {
        app.printed("start").await;
        app.apply(2, [Action::Restart]);
        app.printed("stopping").await;
        for generation in 3..10 {
            app.apply(generation, [Action::Restart]);
            app.apply(generation, [Action::Signal(Signal::HUP)]);
        }
        app.ask(Request::Restart);
        app.ask(Request::Stdin(b"go\n".to_vec()));
        let restarted = |event: &RunEvent| matches!(event, RunEvent::Restarted { .. });
        let event = app.until(restarted).await;
        assert!(matches!(event, RunEvent::Restarted { generation: 9, .. }), "{event:?}");
        app.printed("start").await;
        app.quiet().await;
        // A command waits for that start, and then has its own restart.
        app.apply(10, [Action::Restart]);
        app.printed("stopping").await;
        let build = run("until test -s up; do sleep 0.01; done; echo build");
        app.apply(11, [build, Action::Restart]);
        app.quiet().await;
        app.ask(Request::Stdin(b"go\n".to_vec()));
        app.until(restarted).await;
        app.printed("command:build").await;
        app.printed("stopping").await;
        app.ask(Request::Stdin(b"go\n".to_vec()));
        let event = app.until(restarted).await;
        assert!(matches!(event, RunEvent::Restarted { generation: 11, .. }), "{event:?}");
    });
}

#[test]
fn before_the_start_nothing_is_done() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let runner = Runner::new(spec(SLEEP)).unwrap();
        let mut app = Running { runner, printed: String::new() };
        app.apply(5, [run("true"), Action::Restart]);
        app.quiet().await;
        app.ask(Request::Start { generation: 1 });
        assert!(matches!(app.event().await, RunEvent::Started { generation: 5, .. }));
        app.ask(Request::StopNow);
        app.until(|event| matches!(event, RunEvent::Stopped { .. })).await;
    });
}

#[test]
fn a_failing_command_leaves_the_old_process_running() {
    with(SLEEP, async |app| {
        let RunEvent::Started { pid, .. } = app.event().await else { panic!() };
        app.apply(2, [run("echo broken >&2; exit 2"), run("echo never"), Action::Restart]);
        let failed = |event: &RunEvent| matches!(event, RunEvent::CommandFailed { .. });
        let event = app.until(failed).await;
        let RunEvent::CommandFailed { status, output, .. } = event else { panic!() };
        assert_eq!((status, output.as_slice()), (Some(Status::Code(2)), &b"broken\n"[..]));
        app.quiet().await;
        assert_eq!(app.runner.state().pid, Some(pid));
        // The restart is still owed: a later success does it.
        app.apply(3, [run("true")]);
        let restarted = |event: &RunEvent| matches!(event, RunEvent::Restarted { .. });
        app.until(restarted).await;
    });
}

#[test]
fn a_command_that_cannot_be_started_has_failed() {
    with(SLEEP, async |app| {
        app.event().await;
        app.apply(2, [Action::Run(vec!["/no/such/program".to_owned()]), Action::Restart]);
        let event = app.event().await;
        assert!(matches!(event, RunEvent::CommandFailed { status: None, .. }), "{event:?}");
        app.apply(3, [Action::Run(Vec::new())]);
        let event = app.event().await;
        assert!(matches!(event, RunEvent::CommandFailed { status: None, .. }), "{event:?}");
        app.quiet().await;
    });
}

#[test]
fn a_command_that_hangs_is_killed_and_has_failed() {
    let commands_within = Duration::from_millis(100);
    with_spec(Spec { commands_within, ..spec(SLEEP) }, async |app| {
        let RunEvent::Started { pid, .. } = app.event().await else { panic!() };
        app.printed("start\n").await;
        app.apply(2, [run("setsid sleep 1000; :"), run("echo never"), Action::Restart]);
        let failed = |event: &RunEvent| matches!(event, RunEvent::CommandFailed { .. });
        let RunEvent::CommandFailed { status, output, .. } = app.until(failed).await else {
            panic!()
        };
        assert_eq!(status, Some(Status::Signal(Signal::KILL)));
        let said = "sh -c setsid sleep 1000; : did not end within 100ms: killed\n";
        assert_eq!(String::from_utf8(output).unwrap(), said);
        app.quiet().await;
        assert_eq!(app.runner.state().pid, Some(pid));
        assert_eq!(app.printed, format!("command:{said}"));
    });
}

#[test]
fn a_stop_ends_the_command_that_runs_first_too() {
    with(SLEEP, async |app| {
        app.event().await;
        app.apply(2, [run("setsid sleep 1000 & echo $!; wait"), Action::Restart]);
        app.printed("command:").await;
        assert!(app.runner.state().command.is_some());
        app.ask(Request::Stop);
        let stopped = |event: &RunEvent| matches!(event, RunEvent::Stopped { .. });
        app.until(stopped).await;
        *app = Running { runner: Runner::new(spec(SLEEP)).unwrap(), printed: String::new() };
    });
}

#[test]
fn a_signal_goes_to_the_main_process_alone() {
    let script = "
        trap 'echo main' USR1
        sh -c 'trap \"echo child\" USR1; echo ready; while :; do sleep 0.01; done' &
        while :; do sleep 0.01; done";
    with(script, async |app| {
        app.printed("ready").await;
        app.apply(2, [Action::Signal("USR1".parse().unwrap())]);
        app.printed("main").await;
        app.quiet().await;
        assert!(!app.printed.contains("child"), "{:?}", app.printed);
        assert_eq!(app.runner.state().restarts, 0);
    });
}

#[test]
fn a_crash_loop_is_shown() {
    let on_exit = OnExit::Restart { pause: Duration::ZERO };
    let policy = Policy { on_exit, ..Policy::default() };
    with_spec(Spec { policy, ..spec("exit 1") }, async |app| {
        let backoff = |event: &RunEvent| matches!(event, RunEvent::Backoff { failures: 3, .. });
        app.until(backoff).await;
        assert!(matches!(app.runner.state().state, State::Backoff { .. }));
    });
}

#[test]
fn a_command_that_cannot_be_started_is_held_and_tried_again() {
    let argv = vec!["/no/such/program".into()];
    with_spec(Spec { argv, ..spec("") }, async |app| {
        assert!(matches!(app.event().await, RunEvent::StartFailed { .. }));
        assert_eq!(app.runner.state().state, State::Held);
        app.apply(2, []);
        assert!(matches!(app.event().await, RunEvent::StartFailed { .. }));
    });
}

#[test]
fn a_writer_that_nobody_reads_waits_and_loses_nothing() {
    with("seq 1 100000; echo end", async |app| {
        let exited = |event: &RunEvent| matches!(event, RunEvent::Exited { .. });
        app.until(exited).await;
        let lines = app.printed.lines().filter(|line| !line.is_empty());
        assert_eq!(lines.count(), 100_001);
        assert!(app.printed.ends_with("\n100000\nend\n"));
    });
}
