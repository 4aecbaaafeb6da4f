//! Row 8: what a command inherits, what it may do to its children, and that nobody is left.
//!
//! A shell lets what it starts with `&` ignore SIGINT (POSIX), hence SIGTERM here and there.

use super::run::{Supervised, command, eventually, exists, field, runs, start, supervise};

#[test]
fn a_grandchild_in_its_own_session_ends_before_the_next_start() {
    let mut app = supervise(
        &["--signal", "TERM"],
        "
        setsid sh -c 'echo $$; exec sleep 1000' &
        wait",
    );
    let first = app.number();
    assert_ne!(field(first, 3), field(app.pid(), 3));
    app.save("a.py");
    let second = app.number();
    assert!(!exists(first));
    assert_eq!(app.stop().1, [""; 0]);
    assert!(!exists(second));
}

#[test]
fn an_orphan_in_its_own_session_that_ignores_signals_is_killed() {
    let mut app = supervise(
        &["--kill-after", "0.2"],
        "
        setsid sh -c 'trap \"\" INT TERM; (sleep 1000; :) & echo $$; wait' &
        sleep 0.1; exec sleep 1000",
    );
    let first = app.number();
    app.save("a.py");
    let second = app.number();
    assert!(!exists(first));
    app.stop();
    assert!(!exists(second));
}

#[test]
fn what_an_exited_command_left_behind_ends_before_the_next_start() {
    let app = supervise(
        &["--signal", "TERM"],
        "
        setsid sh -c 'echo $$; exec sleep 1000' &
        sleep 0.1; exit 1",
    );
    let first = app.number();
    app.number();
    assert!(!exists(first));
}

#[test]
fn no_zombie_is_left_while_it_runs() {
    let app = supervise(
        &[],
        "
        for i in 1 2 3; do (setsid sh -c 'sleep 0.05' &); done
        echo start
        exec sleep 1000",
    );
    app.expect("start");
    // The three are adopted by the supervisor; in the end it has one child, which runs.
    let children = || children_of(&app);
    let child = eventually(|| <[i32; 1]>::try_from(children()).ok());
    assert!(child.into_iter().all(runs));
}

fn children_of(app: &Supervised) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| field(pid, 1) == Some(app.pid().to_string())).collect()
}

#[test]
fn restarts_do_not_pile_up_descriptors_or_children() {
    let app = supervise(&[], "echo $$; exec sleep 1000");
    app.number();
    let open = || std::fs::read_dir(format!("/proc/{}/fd", app.pid())).unwrap().count();
    let before = open();
    for _ in 0..20 {
        app.save("a.py");
        app.number();
    }
    // The one through which a new program says that it runs may be there for a moment.
    eventually(|| (open() <= before).then_some(()));
    eventually(|| (children_of(&app).len() == 1).then_some(()));
}

#[test]
fn piped_input_is_kept_over_restarts() {
    let mut app = supervise(&[], "echo start; while read line; do echo got $line; done");
    app.expect("start");
    app.type_line("one");
    app.expect("got one");
    app.save("a.py");
    app.expect("start");
    app.type_line("two");
    app.expect("got two");
}

#[test]
fn only_the_standard_streams_are_inherited() {
    let directory = tempfile::tempdir().unwrap();
    let script = "for fd in /proc/$$/fd/*; do echo ${fd##*/}; done; echo end; exec sleep 1000";
    let inner = command(&directory, &[], script);
    let mut outer = std::process::Command::new("sh");
    outer.args(["-c", "exec 7</dev/null; exec \"$@\"", "sh"]);
    outer.arg(inner.get_program()).args(inner.get_args());
    let app = start(directory, &mut outer);
    // 3 is the directory that the shell reads.
    for line in ["0", "1", "2", "3", "end"] {
        app.expect(line);
    }
}

#[test]
fn no_signal_is_inherited_as_ignored_or_blocked() {
    let directory = tempfile::tempdir().unwrap();
    let script = "exec grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let flags = ["--no-restart-on-command-exit"];
    let inner = command(&directory, &flags, script);
    let mut outer = std::process::Command::new("sh");
    outer.args(["-c", "trap '' QUIT USR1 PIPE TTOU INT; exec \"$@\"", "sh"]);
    outer.arg(inner.get_program()).args(inner.get_args());
    let app = start(directory, &mut outer);
    for name in ["SigBlk:\t", "SigIgn:\t"] {
        let line = app.line();
        let mask = u64::from_str_radix(line.strip_prefix(name).unwrap(), 16).unwrap();
        // Beyond the named ones: libc's own, which it lets nobody change.
        assert_eq!(mask & 0x7fff_ffff, 0, "{line}");
    }
}
