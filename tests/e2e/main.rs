//! The product from outside: the built binaries, real files, real processes.
//!
//! Every case runs over the local target and again through `--transport-cmd`; nothing here looks
//! into the product except by its commands, its lines and what it leaves on disk.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]
#![allow(clippy::zombie_processes, reason = "a wait that is not reached is a test that failed")]

/// Makes tests of functions that take a [`place::Place`]: one over each kind of link.
macro_rules! over_each_link {
    ($($name:ident),* $(,)?) => {
        mod local {
            $(#[test]
            fn $name() {
                super::$name(&crate::place::Place::new(crate::place::Link::Local));
            })*
        }
        mod stdio {
            $(#[test]
            fn $name() {
                super::$name(&crate::place::Place::new(crate::place::Link::Stdio));
            })*
        }
    };
}

mod bytes;
mod daemon;
mod drift;
mod faults;
mod git;
mod join;
mod kill;
mod large;
mod network;
mod once;
mod place;
mod processes;
mod refused;
mod restart;
mod rules;
mod shortage;
mod storm;
mod tree;
mod watch;
