//! With the kernel's own notices, in a network namespace that is this test's alone.

#![allow(clippy::print_stderr, reason = "tests")]

use std::process::Command;

use rustix::thread::{UnshareFlags, unshare_unsafe};
use tokio::runtime::{Builder, Runtime};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs on a thread with a network of its own; says so where that is not allowed.
fn in_a_network(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: a network namespace has nothing to do with memory or descriptors.
        match unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
            Ok(()) => test(),
            Err(error) => eprintln!("left out, it needs root: {error}"),
        }
    });
    thread.join().unwrap();
}

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(done.success(), "ip {words}");
}

/// Listens to the network alone: the clock is the whole machine's, and another test sets it.
fn listen() -> Network {
    Network { clock: None, ..Network::listen() }
}

async fn next(network: &mut Network) -> Changed {
    tokio::time::timeout(PATIENCE, network.changed()).await.expect("a change is told")
}

/// Nothing is told by what has come so far.
async fn quiet(network: &mut Network) -> bool {
    // Longer than a telling may be put off.
    tokio::time::timeout(APART * 2, network.changed()).await.is_err()
}

#[test]
fn addresses_routes_and_carriers_are_noticed() {
    in_a_network(|| {
        runtime().block_on(async {
            let mut network = listen();
            assert!(quiet(&mut network).await, "nothing has changed");
            ip("link set lo up");
            assert_eq!(next(&mut network).await, Changed::Routes);
            for words in [
                "address add 10.9.8.7/32 dev lo",
                "route add 10.1.0.0/16 dev lo",
                "-6 route add fd00:9::/64 dev lo",
                "address del 10.9.8.7/32 dev lo",
                "link set lo down",
            ] {
                ip(words);
                assert_eq!(next(&mut network).await, Changed::Routes, "{words}");
                assert!(quiet(&mut network).await, "{words}: told once");
            }
        });
    });
}

#[test]
fn a_storm_is_told_at_once_and_then_rarely() {
    in_a_network(|| {
        runtime().block_on(async {
            let mut network = listen();
            ip("link set lo up");
            assert_eq!(next(&mut network).await, Changed::Routes);
            let began = Instant::now();
            for n in 0..200 {
                ip(&format!("address add 10.9.8.{n}/32 dev lo"));
            }
            let mut told = 0;
            while !quiet(&mut network).await {
                told += 1;
            }
            let most = began.elapsed().as_secs() + 1;
            assert!((1..=most).contains(&told), "told {told} times in {most} s");
        });
    });
}

#[test]
fn what_does_not_change_a_carrier_is_passed_over() {
    // As rtnetlink(7) has it: header, `struct ifinfomsg`.
    let link = |kind: u16, index: u32, flags: u32| {
        let mut message = Vec::new();
        message.extend(32_u32.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10 + 4]);
        for word in [index, flags, 0] {
            message.extend(word.to_ne_bytes());
        }
        message
    };
    let mut carriers = BTreeMap::new();
    let mut told = |datagram: &[u8]| linux::any(datagram, &mut carriers);
    assert!(told(&link(16, 2, 0x1043)), "one that is new");
    assert!(!told(&link(16, 2, 0x1043)), "as a driver that scans says all the time");
    assert!(told(&link(16, 2, 0x1003)), "the cable is out");
    assert!(told(&[link(16, 2, 0x1003), link(16, 2, 0x1043)].concat()), "and in again");
    assert!(told(&link(17, 2, 0)), "one that carried is gone");
    assert!(!told(&link(99, 2, 0)), "something else");
    // What is cut off, or claims to be longer than it is.
    let whole = link(16, 3, 0x1043);
    for len in 0..whole.len() {
        assert!(!told(&whole[..len]), "{len}");
    }
    assert!(!told(&[0; 64]), "a message of no length ends it");
}

/// A microsecond on, in one step: nobody else minds, and nobody sees it go back.
fn set_the_clock() -> io::Result<()> {
    // SAFETY: `timex` is made of numbers.
    let mut step: libc::timex = unsafe { std::mem::zeroed() };
    step.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
    step.time.tv_usec = 1000;
    // SAFETY: it is given a `timex`, which it reads and fills.
    match unsafe { libc::clock_adjtime(libc::CLOCK_REALTIME, &raw mut step) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[test]
fn a_clock_that_is_set_is_noticed() {
    runtime().block_on(async {
        let mut network = Network::listen();
        network.routes = None;
        for _ in 0..2 {
            if let Err(error) = set_the_clock() {
                return eprintln!("left out, it needs root: {error}");
            }
            assert_eq!(next(&mut network).await, Changed::Clock);
            assert!(quiet(&mut network).await, "told once");
        }
    });
}
