//! What the supervisor itself says, for editors and scripts.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::run::{command, save};

/// The supervisor's own lines, as they come, without those of the command.
fn own_lines(mut command: Command) -> (Child, impl Iterator<Item = String>) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    (child, lines.filter(|line| line.starts_with("[e2ek] ")))
}

#[test]
fn each_restart_is_told_with_its_generation() {
    let directory = tempfile::tempdir().unwrap();
    let (mut child, mut lines) = own_lines(command(&directory, &[], "exec sleep 1000"));
    let folder = directory.path().display();
    let started = format!("[e2ek] started source={folder} targets=sh workspace={folder}");
    assert_eq!(lines.next().unwrap(), started);
    for generation in 1..3 {
        save(&directory.path().join("a.py"), directory.path());
        let begin = format!("[e2ek] restart begin gen={generation} target=sh");
        assert_eq!(lines.next().unwrap(), begin);
        let end = lines.next().unwrap();
        let begins = format!("[e2ek] restart end gen={generation} status=ok ms=");
        assert!(end.starts_with(&begins) && end.ends_with(" target=sh"), "{end}");
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let rest: Vec<_> = lines.collect();
    assert_eq!(rest, ["[e2ek] stopping reason=SIGTERM", "[e2ek] stopped exit=143"]);
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn an_exit_is_told_and_that_it_waits() {
    let directory = tempfile::tempdir().unwrap();
    let flags = ["--no-restart-on-command-exit"];
    let (child, mut lines) = own_lines(command(&directory, &flags, "exit 3"));
    lines.next().unwrap();
    assert_eq!(lines.next().unwrap(), "[e2ek] exited target=sh exit=3 held=true");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(lines.last().unwrap(), "[e2ek] stopped exit=3");
}

#[test]
fn what_cannot_begin_is_an_error_with_its_way_out() {
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_e2ek-sync"));
        let output = command.arg("supervise").args(words).stdin(Stdio::null()).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    let (code, said) = run(&["--", "python3-of-nowhere", "app.py"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("[e2ek] error kind=failure message=\"`python3-of-nowhere` cannot"));
    assert!(said.contains("hint=\"python3-of-nowhere not found: install Python 3.9+ "), "{said}");
    let (code, said) = run(&["-d", "/no/such/place", "--", "true"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("cannot watch /no/such/place: there is no such directory"), "{said}");
}
