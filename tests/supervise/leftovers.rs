//! I8: kill -9 of the supervisor leaves nothing after the next start.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::run::{Supervised, command, eventually, exists, runs, start, supervise};

/// Says its own number and that of a grandchild in its own session.
const APP: &str = "setsid sh -c 'echo $$; exec sleep 1000' & read x < /dev/null; echo $$; wait";

/// A shell lets what it starts with `&` ignore SIGINT (POSIX).
const FLAGS: &[&str] = &["--signal", "TERM"];

fn two_numbers(app: &Supervised) -> [i32; 2] {
    [app.number(), app.number()]
}

/// The same command in the same directory.
fn again(directory: TempDir) -> Supervised {
    let mut command = command(&directory, FLAGS, APP);
    start(directory, &mut command)
}

#[test]
fn i8_kill_9_of_the_supervisor_leaves_nothing_after_the_next_start() {
    let keep = tempfile::tempdir().unwrap();
    let mut first = {
        let mut command = command(&keep, FLAGS, APP);
        start(tempfile::tempdir().unwrap(), command.stderr(Stdio::null()))
    };
    let old = two_numbers(&first);
    first.signal(Signal::KILL);
    first.wait();

    let mut second = again(keep);
    let new = two_numbers(&second);
    assert!(!old.into_iter().any(runs), "left over: {old:?}");
    assert_eq!(first.rest(), [""; 0]);
    second.stop();
    assert!(!new.into_iter().any(exists));
}

#[test]
fn i8_the_command_itself_dies_with_its_supervisor() {
    let mut app = supervise(&[], "echo $$; exec sleep 1000");
    let pid = app.number();
    app.signal(Signal::KILL);
    app.wait();
    eventually(|| (!runs(pid)).then_some(()));
}

#[test]
fn two_supervisors_of_one_command_leave_each_other_alone() {
    let keep = tempfile::tempdir().unwrap();
    let mut command = command(&keep, FLAGS, APP);
    let mut first = start(tempfile::tempdir().unwrap(), &mut command);
    let old = two_numbers(&first);
    let mut second = again(keep);
    two_numbers(&second);
    second.stop();
    for pid in old {
        assert!(runs(pid));
        kill_process(Pid::from_raw(pid).unwrap(), Signal::CONT).unwrap();
    }
    first.stop();
}
