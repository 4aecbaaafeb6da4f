//! A network that changes under a link: in a namespace of the daemon's own.

use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::Daemon;
use crate::place::{Link, Place, until};
use crate::processes;

/// A `watch` whose network is its own; `None` where that is not allowed.
fn watch(place: &Place) -> Option<Daemon<'_>> {
    let (command, is_apart) = place.apart(place.syncing(&["watch"], &[]));
    if !is_apart {
        println!("left out, it needs root");
        return None;
    }
    Some(Daemon::start(place, command))
}

impl Place {
    /// The same command with a network of its own, which nobody else changes; where that is not allowed
    /// as it was, and false.
    pub(crate) fn apart(&self, inner: Command) -> (Command, bool) {
        let allowed = Command::new("unshare").args(["-n", "true"]).output();
        if !allowed.is_ok_and(|output| output.status.success()) {
            return (inner, false);
        }
        let mut command = self.environment("unshare".as_ref());
        command.arg("-n").arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        (command, true)
    }
}

/// Changes the daemon's network.
fn ip(daemon: &Daemon<'_>, words: &str) {
    let target = daemon.pid().to_string();
    let mut command = Command::new("nsenter");
    command.args(["-n", "-t", &target, "ip"]).args(words.split(' '));
    assert!(command.status().unwrap().success(), "{words}");
}

#[test]
fn a_link_that_looks_alive_must_prove_it_when_the_network_changed() {
    let place = Place::new(Link::Stdio);
    place.write("file", "0");
    let Some(mut daemon) = watch(&place) else { return };
    daemon.event("sync end gen=1");
    let hub = daemon.hub();
    // Nothing is heard of it any more, and nothing says why.
    kill_process(Pid::from_raw(hub as i32).unwrap(), Signal::STOP).unwrap();
    ip(&daemon, "link set lo up");
    daemon.line(&["[e2ek] disconnected", "nothing was heard since the network changed"]);
    daemon.event("connected");
    place.write("file", "1");
    daemon.flush();
    assert_eq!(place.read("file").unwrap(), "1");
}

/// How often a process read, and how often it wrote.
fn calls(pid: u32) -> [u64; 2] {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    ["syscr: ", "syscw: "].map(|name| {
        let count = io.lines().find_map(|line| line.strip_prefix(name));
        count.map_or(0, |count| count.parse().unwrap())
    })
}

#[test]
fn a_link_that_proves_it_stays() {
    let place = Place::new(Link::Stdio);
    place.write("file", "0");
    let Some(mut daemon) = watch(&place) else { return };
    daemon.event("sync end gen=1");
    let hub = daemon.hub();
    let before = calls(hub);
    ip(&daemon, "link set lo up");
    ip(&daemon, "address add 10.9.8.7/32 dev lo");
    // We ask at once, for nothing else would be said so soon; the hub says something by itself.
    until("both ends said something", || {
        calls(hub).iter().zip(before).all(|(now, before)| *now > before)
    });
    assert_eq!(processes::children(daemon.pid()), [hub], "the same link");
    place.write("file", "1");
    daemon.flush();
    assert_eq!(place.read("file").unwrap(), "1");
}
