//! `hub`: the far end of a link on this machine.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use e2ek_sidecar::wire::Hello;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};

use super::place::Place;

/// What a daemon says first.
fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    Hello::ours().encode(&mut bytes);
    bytes
}

/// What a hub says first.
fn answer() -> Vec<u8> {
    let mut bytes = Vec::new();
    Hello::of_hub().encode(&mut bytes);
    bytes
}

fn hub(place: &Place) -> (Child, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    // Open in whatever else is started now, too; nobody there reads it.
    fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
    let state = place.folder.join("state");
    let number = theirs.as_raw_fd().to_string();
    let mut command = place.command(&["hub", "--link", &number, "--state"]);
    let child = command.arg(state).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut ours = ours;
    let mut said = vec![0; answer().len()];
    ours.read_exact(&mut said).unwrap();
    assert_eq!(said, answer());
    (child.unwrap(), ours)
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn it_speaks_over_the_socket_it_is_given_and_ends_with_it() {
    let place = Place::new();
    let (child, mut link) = hub(&place);
    link.write_all(&hello()).unwrap();
    // A Ctrl-C or a hang-up on our terminal is not for the hub to die of.
    for what in [Signal::INT, Signal::HUP] {
        signal(&child, what);
    }
    drop(link);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!((output.stdout, output.stderr), (vec![], vec![]));
}

#[test]
fn it_ends_when_it_is_asked_to() {
    let place = Place::new();
    let (mut child, _link) = hub(&place);
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn without_a_socket_it_speaks_over_its_streams() {
    let place = Place::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = place.command(&["hub", "--state"]);
    let stream = || Stdio::from(OwnedFd::from(theirs.try_clone().unwrap()));
    let mut child =
        command.arg(place.folder.join("s")).stdin(stream()).stdout(stream()).spawn().unwrap();
    drop((command, theirs));
    let mut said = vec![0; answer().len()];
    ours.read_exact(&mut said).unwrap();
    assert_eq!(said, answer());
    drop(ours);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_is_no_socket_is_refused() {
    let place = Place::new();
    for number in ["0", "1", "99", "-1"] {
        let said = place.run(&["hub", &format!("--link={number}"), "--state", "s"]);
        assert_eq!((said.code, &*said.out), (Some(1), ""), "{number} {said:?}");
        assert!(said.err.contains("the link cannot be served"), "{said:?}");
    }
    assert_eq!(place.run(&["hub"]).code, Some(2));
}
