//! `e2ek-sidecar run` alone, as in a container whose hub is not there: exit codes, signals, the hold.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use e2ek_sidecar::restart::{ActionSet, Policy};
use e2ek_sidecar::wire::{self, Blob, ChildEvent};
use rustix::process::{Pid, Signal, kill_process};

fn run(options: &[&str], script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_e2ek-sidecar"));
    command.arg("run").args(["--wrappers", "/nonexistent/run.sock"]).args(options);
    command.args(["--", "sh", "-c", script]).env_remove("E2EK_HOLD");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts it, and waits until the command says its first line.
fn started(options: &[&str], script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = run(options, script).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    (child, output)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn asked_to_it_ends_with_the_command_and_its_code() {
    for (script, code) in
        [("exit 3", 3), ("exit 0", 0), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
    {
        let ended = run(&["--hold", "0", "--exit"], script).output().unwrap();
        assert_eq!(ended.status.code(), Some(code), "{script}: {ended:?}");
    }
}

#[test]
fn asked_to_it_ends_where_the_command_cannot_be_started() {
    for (program, code) in [("/no/such/program", 127), ("/etc", 126)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_e2ek-sidecar"));
        command.args(["run", "--wrappers", "/nonexistent/run.sock", "--hold", "0", "--exit"]);
        command.args(["--", program]).stdin(Stdio::null());
        let ended = command.output().unwrap();
        assert_eq!(ended.status.code(), Some(code), "{program}: {ended:?}");
    }
}

#[test]
fn a_command_that_ended_is_held_and_its_code_is_kept_for_the_end() {
    let mut child = run(&["--hold", "0"], "echo up; exit 3").spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("it is held") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
    }
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn term_is_passed_on_whatever_restarts_use() {
    let script = "trap 'echo told; exit 7' TERM; echo up; while :; do sleep 0.02; done";
    let (mut child, mut output) = started(&["--hold", "0", "--stop-signal", "INT"], script);
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(7));
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "told\n");
}

#[test]
fn who_does_not_heed_it_is_killed() {
    let script = "trap '' TERM; echo up; while :; do sleep 0.02; done";
    let (mut child, _output) = started(&["--hold", "0", "--kill-after", "0.1"], script);
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

#[test]
fn other_signals_are_the_commands() {
    let script = "trap 'echo usr1' USR1; trap 'echo hup; exit 5' HUP; echo up; \
        while :; do sleep 0.02; done";
    let (mut child, mut output) = started(&["--hold", "0", "--exit"], script);
    let mut line = String::new();
    signal(&child, Signal::USR1);
    output.read_line(&mut line).unwrap();
    signal(&child, Signal::HUP);
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "usr1\nhup\n");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn the_start_waits_and_then_does_not() {
    let mut child = run(&["--hold", "forever"], "echo up").spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("waits for the first sync"), "{line}");
    signal(&child, Signal::TERM);
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), &*ended.stdout), (Some(143), &b""[..]), "nothing was started");
    let bound = run(&["--hold", "0.05", "--exit"], "echo up").output().unwrap();
    assert_eq!((bound.status.code(), &*bound.stdout), (Some(0), &b"up\n"[..]));
    assert!(String::from_utf8_lossy(&bound.stderr).contains("no sync came in time"));
    let free = run(&["--exit"], "echo up").env("E2EK_HOLD", "0").output().unwrap();
    assert_eq!(&*free.stdout, b"up\n");
}

/// The first message of a wrapper: its protocol, the command's process, whether it was started.
fn hello(hub: &std::os::unix::net::UnixListener) -> (Vec<u8>, std::os::unix::net::UnixStream) {
    let (mut stream, _) = hub.accept().unwrap();
    let mut frame = [0; 1];
    stream.read_exact(&mut frame).unwrap();
    let mut body = vec![0; frame[0].into()];
    stream.read_exact(&mut body).unwrap();
    (body, stream)
}

#[test]
fn i9_nothing_is_started_while_nobody_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("run.sock");
    let hub = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_e2ek-sidecar"));
    command.args(["run", "--hold", "forever", "--wrappers"]).arg(&socket);
    command.args(["--", "sleep", "1000000"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = Ended(command.spawn().unwrap());
    // It calls again and again, and each time it says that it waits.
    for _ in 0..3 {
        let (body, stream) = hello(&hub);
        assert_eq!(body, [0, 1, 0, 0], "Hello of protocol 1, no process, not started");
        drop(stream);
    }
    signal(&child.0, Signal::TERM);
    assert_eq!(child.0.wait().unwrap().code(), Some(143));
}

/// What a hub says; as the wrapper reads it.
#[derive(serde::Serialize)]
enum ToWrapper {
    Run { generation: u64, policy: Option<Policy> },
    Act { generation: u64, actions: ActionSet },
    ActIn { generation: u64, actions: ActionSet, directory: Blob },
}

fn say(stream: &mut std::os::unix::net::UnixStream, message: &ToWrapper) {
    let mut bytes = Vec::new();
    wire::encode(message, &mut bytes);
    stream.write_all(&bytes).unwrap();
}

fn restart() -> ToWrapper {
    let actions = ActionSet { restart: true, ..ActionSet::default() };
    ToWrapper::Act { generation: 2, actions }
}

/// A wrapper, and the hub that it calls.
struct Wrapped {
    child: Ended,
    output: BufReader<std::process::ChildStdout>,
    hub: std::os::unix::net::UnixListener,
    _folder: tempfile::TempDir,
}

impl Wrapped {
    fn new(options: &[&str], script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("run.sock");
        let hub = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_e2ek-sidecar"));
        command.args(["run", "--wrappers"]).arg(&socket).args(options);
        command.args(["--", "sh", "-c", script]).env_remove("E2EK_HOLD");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = Ended(command.spawn().unwrap());
        let output = BufReader::new(child.0.stdout.take().unwrap());
        Self { child, output, hub, _folder: folder }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// All that is said after this, when it ends.
    fn end(mut self) -> String {
        signal(&self.child.0, Signal::TERM);
        self.child.0.wait().unwrap();
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        rest
    }
}

#[test]
fn i9_started_before_its_files_it_is_started_anew_when_they_are_there() {
    let mut wrapped = Wrapped::new(&["--hold", "0"], "echo up; exec sleep 1000000");
    let stream = hello(&wrapped.hub).1;
    assert_eq!(wrapped.line(), "up");
    drop(stream);
    let (body, mut stream) = hello(&wrapped.hub);
    assert_eq!((body[2], body.last()), (1, Some(&0)), "it runs, and not with its files: {body:?}");
    say(&mut stream, &ToWrapper::Run { generation: 1, policy: None });
    assert_eq!(wrapped.line(), "up");
    drop(stream);
    let (body, mut stream) = hello(&wrapped.hub);
    assert_eq!(body.last(), Some(&1), "{body:?}");
    say(&mut stream, &ToWrapper::Run { generation: 1, policy: None });
    say(&mut stream, &restart());
    assert_eq!(wrapped.line(), "up");
    assert_eq!(wrapped.end(), "", "once");
}

#[test]
fn what_is_typed_stays_whatever_sessions_want() {
    let script = "trap 'echo usr1; exit' USR1; trap 'echo int; exit' INT; echo up; \
        while :; do sleep 0.02; done";
    for (options, told) in [(&["--stop-signal", "USR1"][..], "usr1"), (&[], "int")] {
        let mut wrapped = Wrapped::new(options, script);
        let mut stream = hello(&wrapped.hub).1;
        let policy = Some(Policy::default());
        say(&mut stream, &ToWrapper::Run { generation: 1, policy });
        assert_eq!(wrapped.line(), "up");
        say(&mut stream, &restart());
        assert_eq!((&*wrapped.line(), &*wrapped.line()), (told, "up"));
    }
}

#[test]
fn commands_run_in_the_directory_that_is_told_and_the_app_where_it_did() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().canonicalize().unwrap();
    let mut wrapped = Wrapped::new(&[], "pwd -P; exec sleep 1000000");
    let mut stream = hello(&wrapped.hub).1;
    say(&mut stream, &ToWrapper::Run { generation: 1, policy: None });
    let own = wrapped.line();
    let actions = ActionSet {
        restart: true,
        commands: vec![["sh", "-c", "pwd -P > here"].map(str::to_owned).to_vec()],
        ..ActionSet::default()
    };
    let directory = Blob(told.to_str().unwrap().into());
    say(&mut stream, &ToWrapper::ActIn { generation: 2, actions, directory });
    assert_eq!(wrapped.line(), own, "it was started again after that");
    let here = std::fs::read_to_string(told.join("here")).unwrap();
    assert_eq!(here.trim_end(), told.to_str().unwrap());
}

/// What a wrapper says; as the hub reads it.
#[derive(serde::Deserialize)]
enum FromWrapper {
    #[expect(dead_code, reason = "as it is on the wire")]
    Hello {
        protocol: u16,
        pid: Option<i32>,
        started: bool,
    },
    Child(ChildEvent),
    #[expect(dead_code, reason = "as it is on the wire")]
    Output {
        stream: u8,
        bytes: Blob,
    },
}

#[test]
fn who_waits_for_a_restart_hears_of_it_however_much_is_printed() {
    let script = "head -c 12000000 /dev/zero | tr '\\0' 'x'; echo; echo up; exec sleep 1000000";
    let mut wrapped = Wrapped::new(&[], script);
    let mut stream = hello(&wrapped.hub).1;
    // What is left of it: the checksum.
    stream.read_exact(&mut [0; 4]).unwrap();
    // The hub reads nothing of all that.
    say(&mut stream, &ToWrapper::Run { generation: 1, policy: None });
    assert_eq!((wrapped.line().len(), &*wrapped.line()), (12_000_000, "up"));
    say(&mut stream, &restart());
    assert_eq!((wrapped.line().len(), &*wrapped.line()), (12_000_000, "up"));
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let mut decoder = wire::Decoder::default();
    loop {
        match decoder.message::<FromWrapper>().unwrap() {
            Some((FromWrapper::Child(ChildEvent::Restarted { .. }), _)) => break,
            Some(_) => continue,
            None => {}
        }
        let mut bytes = [0; 65536];
        let len = stream.read(&mut bytes).expect("it is told");
        decoder.feed(&bytes[..len]);
    }
}

/// Whatever becomes of the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn its_input_is_at_its_end() {
    let ended = run(&["--hold", "0", "--exit"], "cat; echo up").output().unwrap();
    assert_eq!(&*ended.stdout, b"up\n");
}

#[test]
fn what_is_typed_wrong_is_said() {
    for (words, part) in [
        (&["run"][..], "a command is needed"),
        (&["run", "--hold", "x", "--", "true"], "--hold"),
        (&["run", "--kill-after", "forever", "--", "true"], "--kill-after"),
        (&["run", "--stop-signal", "NOPE", "--", "true"], "NOPE"),
        (&["run", "true"], "unknown option true"),
        (&["install"], "a directory is needed"),
        (&["serve", "--contents", "-1"], "--contents"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_e2ek-sidecar"));
        let said = command.args(words).output().unwrap();
        assert_eq!(said.status.code(), Some(2), "{words:?}");
        let error = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(error.contains(part), "{words:?}: {error}");
    }
}

#[test]
fn it_installs_itself() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_e2ek-sidecar"));
    assert!(command.arg("install").arg(directory.path()).status().unwrap().success());
    let copy = directory.path().join("e2ek-sidecar");
    let mode = std::os::unix::fs::PermissionsExt::mode(&copy.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o111, "it may be run, and not read");
    let said = Command::new(&copy).arg("version").output().unwrap();
    assert!(said.stdout.starts_with(b"e2ek-sidecar "));
}
