//! Rows 5 to 7: groups, signals and exit codes.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::run::{command, field, start, supervise};

#[test]
fn the_command_leads_its_own_group_and_session() {
    let app = supervise(&[], "echo $$; exec sleep 1000");
    let pid = app.number();
    assert_eq!(field(pid, 2), Some(pid.to_string()), "group");
    assert_eq!(field(pid, 3), Some(pid.to_string()), "session, away from a terminal");
}

#[test]
fn the_signal_by_name_or_number_goes_to_the_whole_group() {
    for signal in ["SIGUSR1", "USR1", "usr1", "10"] {
        let mut app = supervise(
            &["--signal", signal],
            "
            trap 'wait; echo parent; exit 0' USR1
            sh -c 'trap \"echo child; exit\" USR1; echo ready; while :; do sleep 0.01; done' &
            wait; wait; sleep 1000",
        );
        app.expect("ready");
        app.save("a.py");
        app.expect("child");
        app.expect("parent");
        app.expect("ready");
        let (code, rest) = app.stop();
        assert_eq!((code, rest.len()), (Some(143), 2), "{rest:?}");
    }
}

#[test]
fn the_default_signal_is_sigint() {
    let mut app = supervise(
        &[],
        "
        trap 'echo int; exit 0' INT
        trap 'echo other; exit 0' TERM HUP QUIT
        echo start
        while :; do sleep 0.01; done",
    );
    app.expect("start");
    assert_eq!(app.stop().1, ["int"]);
}

#[test]
fn sigkill_to_the_group_after_kill_after() {
    let mut app = supervise(
        &["--kill-after", "0.3"],
        "
        trap '' INT TERM
        sh -c 'while :; do sleep 1000; done' &
        echo start
        while :; do sleep 1000; done",
    );
    app.expect("start");
    let begin = Instant::now();
    app.save("a.py");
    app.expect("start");
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(app.stop(), (Some(143), vec![]));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut app = supervise(
        &["--kill-after", "1000"],
        "
        trap 'echo asked' INT
        echo start
        while :; do sleep 0.01; done",
    );
    app.expect("start");
    app.signal(Signal::TERM);
    app.expect("asked");
    app.signal(Signal::INT);
    assert_eq!(app.wait().code(), Some(143));
    assert_eq!(app.rest(), [""; 0]);
}

#[test]
fn a_stopped_command_still_ends() {
    let mut app = supervise(&["--kill-after", "1000"], "echo start; kill -STOP $$; echo on");
    app.expect("start");
    app.stop();
}

#[test]
fn term_int_and_hup_stop_the_command_first() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut app = supervise(
            &[],
            "
            trap 'sleep 0.1; echo bye; exit 0' INT
            echo start
            while :; do sleep 0.01; done",
        );
        app.expect("start");
        app.signal(signal);
        app.expect("bye");
        assert_eq!(app.wait().code(), Some(code));
        assert_eq!(app.rest(), [""; 0]);
    }
}

#[test]
fn the_commands_own_exit_code_is_passed_on() {
    let mut app = supervise(
        &[],
        "
        trap 'exit 7' INT
        echo start
        while :; do sleep 0.01; done",
    );
    app.expect("start");
    assert_eq!(app.stop().0, Some(7));
}

#[test]
fn nohup_is_honoured() {
    let directory = tempfile::tempdir().unwrap();
    let inner = command(&directory, &[], "echo start; exec sleep 1000");
    let mut outer = std::process::Command::new("sh");
    outer.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    outer.arg(inner.get_program()).args(inner.get_args());
    let mut app = start(directory, &mut outer);
    app.expect("start");
    app.signal(Signal::HUP);
    app.save("a.py");
    app.expect("start");
    assert_eq!(app.stop().0, Some(143));
}

#[test]
fn times_are_checked() {
    for flags in [
        ["--kill-after", "-1"],
        ["--debounce", "-0.5"],
        ["--kill-after", "soon"],
        ["--signal", "SIGNOT"],
        ["--signal", "99"],
    ] {
        let mut app = supervise(&flags, "echo start");
        assert_eq!(app.wait().code(), Some(2), "{flags:?}");
        assert_eq!(app.rest(), [""; 0]);
    }
}

#[test]
fn a_command_that_cannot_be_started_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_e2ek-sync"));
    command.args(["supervise", "--", "/no/such/program"]);
    command.current_dir(directory.path());
    let mut app = start(directory, &mut command);
    let code = app.wait().code();
    assert!(!matches!(code, None | Some(0)), "{code:?}");
}
