//! The help of every command, as people read it, and the exit codes of usage, by the binary.

use std::process::{Command, Output, Stdio};

/// Runs the binary with nothing in its environment, without a terminal.
fn e2ek(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_e2ek-sync"))
        .args(words)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the binary of this package starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("help is UTF-8")
}

#[test]
fn help_is_complete() {
    let commands = [
        "",
        "watch",
        "sync",
        "plan",
        "flush",
        "wait",
        "status",
        "restart",
        "pause",
        "resume",
        "reset",
        "stop",
        "attach",
        "supervise",
        "check-ignore",
        "version",
    ];
    for command in commands {
        let words = [command, "--help"];
        let shown = e2ek(&words[usize::from(command.is_empty())..]);
        assert_eq!(shown.status.code(), Some(0), "{command}");
        assert!(shown.stderr.is_empty(), "{command}");
        let name = if command.is_empty() { "e2ek-sync" } else { command };
        insta::assert_snapshot!(format!("help-{name}"), text(&shown.stdout));
    }
}

#[test]
fn usage_errors_end_with_2_and_go_to_stderr() {
    for words in [&[][..], &["nope"], &["up"], &["watch", "--nope"], &["watch", ".", "src"]] {
        let said = e2ek(words);
        assert_eq!(said.status.code(), Some(2), "{words:?}");
        assert!(said.stdout.is_empty() && !said.stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn a_closed_stdout_is_no_failure() {
    let (read, write) = std::io::pipe().expect("a pipe can be had");
    drop(read);
    let status = Command::new(env!("CARGO_BIN_EXE_e2ek-sync"))
        .arg("--help")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(write)
        .status()
        .expect("the binary of this package starts");
    assert_eq!(status.code(), Some(0));
}
