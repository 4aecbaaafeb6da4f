//! `serve` and `connect`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use e2ek_sidecar::restart::Policy;
use e2ek_sidecar::wire::{self, Blob, ChildEvent, CommandSpec, FromHub, Hello, ToHub};
use rustix::process::{Pid, Signal, kill_process};

use super::client::{ANN, BOB, Client, Tree, content, open, plan, sidecar};

/// A hub that serves a socket.
pub(crate) struct Served {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    pub(crate) hub: Child,
}

impl Served {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("hub.sock");
        Self::at(folder, socket, &[])
    }

    fn at(folder: tempfile::TempDir, socket: PathBuf, more: &[&str]) -> Self {
        let hub = serve(&socket, folder.path(), more).spawn().unwrap();
        let served = Self { folder, socket, hub };
        // Polled: the hub says nothing until somebody connects.
        let give_up = Instant::now() + Duration::from_secs(60);
        while Client::reach(&served.socket).is_none() {
            assert!(Instant::now() < give_up, "nobody listens");
            std::thread::sleep(Duration::from_millis(5));
        }
        served
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket)
    }

    fn end(&mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.hub), Signal::TERM).unwrap();
        self.hub.wait().unwrap().code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.hub.kill();
        let _ = self.hub.wait();
    }
}

fn serve(socket: &Path, folder: &Path, more: &[&str]) -> std::process::Command {
    let mut command = sidecar(&["serve", "--socket"]);
    command.arg(socket).arg("--state").arg(folder.join("state")).args(more);
    command.stderr(Stdio::piped());
    command
}

#[test]
fn a_socket_is_private_replaces_a_dead_one_and_goes_with_its_hub() {
    let folder = tempfile::tempdir().unwrap();
    // Longer than the kernel takes at once.
    let deep = folder.path().join("d".repeat(120));
    fs::create_dir(&deep).unwrap();
    let socket = deep.join("hub.sock");
    // What a killed hub leaves: a socket nobody listens to.
    let short = folder.path().join("s");
    drop(UnixListener::bind(&short).unwrap());
    fs::rename(&short, &socket).unwrap();
    let mut served = Served::at(folder, socket.clone(), &[]);
    let there = fs::metadata(&socket).unwrap();
    assert!(there.file_type().is_socket());
    assert_eq!(there.permissions().mode() & 0o777, 0o600);
    let second = serve(&socket, served.folder.path(), &[]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another hub listens"));
    assert_eq!(served.end(), Some(0));
    assert_eq!(fs::read_dir(&deep).unwrap().count(), 0, "nothing is left");
}

#[test]
fn without_links_an_idle_hub_ends() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("hub.sock");
    // Nobody looks whether it listens: whoever comes too late would find none.
    let began = Instant::now();
    let ended = serve(&socket, folder.path(), &["--idle", "1"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(began.elapsed() >= Duration::from_secs(1) && !socket.exists());
}

#[test]
fn i11_a_broken_link_ends_alone() {
    let served = Served::new();
    let (mut good, mut bad) = (served.client(), served.client());
    good.enter(ANN, &served.folder.path().join("one"));
    bad.enter(BOB, &served.folder.path().join("two"));
    bad.send(&ToHub::Commit { generation: 1, target: Tree::default().id() });
    assert!(matches!(bad.next(), Some(FromHub::Bye { .. })));
    assert_eq!(bad.next(), None);
    let mut noise = served.client();
    noise.stream.write_all(&[0xff; 64]).unwrap();
    assert_eq!(noise.next(), None);
    let tree = Tree::new(&[("f", "1")]);
    assert_eq!(good.sync(&Tree::default(), &tree, false).tree, tree.id());
}

#[test]
fn a_good_bye_ends_the_link_at_once_and_the_command_before() {
    let served = Served::new();
    let mut client = served.client();
    client.enter(ANN, &served.folder.path().join("target"));
    let argv = ["sh", "-c", "trap 'exit 3' INT TERM; echo up; while :; do sleep 0.05; done"];
    client.send(&ToHub::Run(CommandSpec {
        argv: argv.map(|word| Blob(word.as_bytes().to_vec())).to_vec(),
        policy: Policy::default(),
        inherit: false,
    }));
    while !matches!(client.next(), Some(FromHub::Output { .. })) {}
    let began = Instant::now();
    client.send(&ToHub::Bye);
    let stopped = FromHub::Child(ChildEvent::Stopped { status: 3 });
    assert_eq!(client.next(), Some(stopped));
    assert_eq!(client.next(), Some(FromHub::Bye { reason: String::new() }));
    assert_eq!(client.next(), None);
    assert!(began.elapsed() < Duration::from_secs(15), "not by the heartbeat");
}

#[test]
fn sigterm_stops_the_command_first() {
    let mut served = Served::new();
    let root = served.folder.path().join("target");
    let (mut client, mut other) = (served.client(), served.client());
    client.enter(ANN, &root);
    other.enter(BOB, &served.folder.path().join("two"));
    let argv = ["sh", "-c", "trap 'exit 3' INT TERM; echo up; while :; do sleep 0.05; done"];
    let spec = CommandSpec {
        argv: argv.map(|word| Blob(word.as_bytes().to_vec())).to_vec(),
        policy: Policy::default(),
        inherit: false,
    };
    client.send(&ToHub::Run(spec.clone()));
    let mut output = Vec::new();
    while output != b"up\n" {
        match client.next() {
            Some(FromHub::Output { bytes, .. }) => output.extend(bytes.0),
            Some(FromHub::Child(ChildEvent::Started { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
    // There is one command a hub.
    other.send(&ToHub::Run(spec));
    assert!(matches!(other.next(), Some(FromHub::Child(ChildEvent::Failed { .. }))));
    kill_process(Pid::from_child(&served.hub), Signal::TERM).unwrap();
    let mut told = Vec::new();
    while let Some(message) = client.next() {
        told.push(message);
    }
    let stopped = FromHub::Child(ChildEvent::Stopped { status: 3 });
    assert!(told.contains(&stopped), "{told:?}");
    assert!(matches!(told.last(), Some(FromHub::Bye { .. })), "{told:?}");
    assert_eq!(served.hub.wait().unwrap().code(), Some(0));
}

#[test]
fn connect_without_a_hub_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none");
    let output = sidecar(&["connect", "--socket"]).arg(&socket).output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no hub at") && said.contains("hint: start one"), "{said}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A bridge with both of its streams in our hands.
fn bridge(socket: &Path, more: &[&str]) -> Child {
    let mut command = sidecar(&["connect", "--socket"]);
    command.arg(socket).args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Both ends say Hello.
fn greet(bridge: &mut Child) {
    let [mut hello, mut theirs] = [Vec::new(), Vec::new()];
    Hello::ours().encode(&mut hello);
    Hello::of_hub().encode(&mut theirs);
    bridge.stdin.as_mut().unwrap().write_all(&hello).unwrap();
    let mut said = vec![0; theirs.len()];
    bridge.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(said, theirs);
}

#[test]
fn connect_carries_a_link_and_ends_with_either_side() {
    for more in [&[][..], &["--carry"]] {
        let mut served = Served::new();
        let [mut first, mut second] = [(); 2].map(|()| bridge(&served.socket, more));
        greet(&mut first);
        greet(&mut second);
        drop(first.stdin.take());
        assert_eq!(first.wait().unwrap().code(), Some(0));
        assert_eq!(served.end(), Some(0));
        // Its input is still open.
        let input = second.stdin.take();
        assert_eq!(second.wait().unwrap().code(), Some(0));
        drop(input);
    }
}

#[test]
fn what_goes_over_a_link_goes_through_no_bridge() {
    let served = Served::new();
    let mut bridge = bridge(&served.socket, &[]);
    greet(&mut bridge);
    let mut bytes = Vec::new();
    wire::encode(&ToHub::Bye, &mut bytes);
    bridge.stdin.as_mut().unwrap().write_all(&bytes).unwrap();
    // The answer is there, so both ways were used; its end comes with that of the bridge.
    let mut answer = [0; 2];
    bridge.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
    let written = wait_with_io(&mut bridge);
    assert!(written.is_none_or(|written| written == 0), "the bridge has written {written:?} bytes");
}

/// What a process has written until its end, which is waited for; of one that hides itself only root is
/// told.
fn wait_with_io(child: &mut Child) -> Option<u64> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let pid = Pid::from_child(child);
    // Not reaped yet, so that the kernel still tells.
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
    let io = fs::read_to_string(format!("/proc/{}/io", pid.as_raw_pid()));
    child.wait().unwrap();
    let io = io.ok()?;
    let written = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    Some(written.parse().unwrap())
}

#[test]
fn i8_a_bridge_that_is_killed_takes_its_link_with_it() {
    let served = Served::new();
    let mut bridge = bridge(&served.socket, &[]);
    greet(&mut bridge);
    bridge.kill().unwrap();
    bridge.wait().unwrap();
    // Our end of its input is still open, and so is the link but for the hub's noticing.
    let mut rest = Vec::new();
    bridge.stdout.as_mut().unwrap().read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "{rest:?}");
}

#[test]
fn i11_streams_that_are_none_are_not_taken() {
    let served = Served::new();
    let home = tempfile::tempdir().unwrap();
    let file = fs::File::create_new(home.path().join("f")).unwrap();
    let mut connect = sidecar(&["connect", "--socket"]);
    connect.arg(&served.socket).stdin(Stdio::from(file)).stdout(Stdio::piped());
    let said = connect.output().unwrap();
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&said.stderr).contains("neither a pipe nor a socket"));
    // The hub goes on.
    greet(&mut bridge(&served.socket, &[]));
}

/// Nobody reads what a bridge brings, as when the laptop is gone and the API server has not noticed.
#[test]
fn a_bridge_whose_output_nobody_takes_ends_with_its_hub() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("hub.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut bridge = bridge(&socket, &["--carry"]);
    let (mut hub, _) = listener.accept().unwrap();
    // Until nothing more goes in: the pipe is full, and the socket.
    hub.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while hub.write(&[0; 65536]).is_ok() {}
    drop(hub);
    let give_up = Instant::now() + Duration::from_secs(60);
    while bridge.try_wait().unwrap().is_none() {
        if Instant::now() >= give_up {
            bridge.kill().unwrap();
            bridge.wait().unwrap();
            panic!("it stays");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The link's own task answers: in its turn, and whether or not a session is open.
#[test]
fn a_ping_is_answered_before_what_is_asked_after_it() {
    let served = Served::new();
    let mut client = served.client();
    client.send(&ToHub::Ping);
    client.send(&ToHub::Bye);
    assert_eq!(client.any(), Some(FromHub::Ping));
    assert!(matches!(client.any(), Some(FromHub::Bye { .. })));
}

/// The other end is gone before a first answer could be written. Which of the two is noticed first is
/// chance.
#[test]
fn i5_what_came_before_a_link_was_cut_is_done() {
    let served = Served::new();
    let hub = Pid::from_child(&served.hub);
    let tree = Tree::new(&[("a", "one"), ("b", "two")]);
    for round in 0..16 {
        let target = served.folder.path().join(format!("target-{round}"));
        let ops = plan(&Tree::default(), &tree, false);
        let data = content(&ops, &tree, &[]);
        let mut words = Vec::new();
        Hello::ours().encode(&mut words);
        wire::encode(&ToHub::Open(open(ANN, &target)), &mut words);
        wire::encode(&ToHub::Ops { generation: 1, ops, last: true }, &mut words);
        for message in &data {
            wire::encode(message, &mut words);
        }
        kill_process(hub, Signal::STOP).unwrap();
        let mut stream = Client::reach(&served.socket).unwrap();
        stream.write_all(&words).unwrap();
        stream.shutdown(std::net::Shutdown::Both).unwrap();
        kill_process(hub, Signal::CONT).unwrap();
        let give_up = Instant::now() + Duration::from_secs(60);
        while !target.join("b").exists() {
            assert!(Instant::now() < give_up, "round {round}: what came was not read");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(served.client().enter(ANN, &target).0, tree.id());
    }
}
