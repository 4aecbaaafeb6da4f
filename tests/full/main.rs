//! Faults at every step, from outside: the built binaries are killed, lied to and cut off.
//!
//! `cargo test` runs a part, spread evenly; with `E2EK_FULL=1` every stop is tried and each sweep
//! leaves its table in `target/tmp/full-*.md` (`docs/kill-sweep.md` holds the last full run).
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]
#![allow(clippy::zombie_processes, reason = "a wait that is not reached is a test that failed")]

mod cuts;
mod injection;
mod once;
mod relay;
mod resume;
mod scenario;
mod short;
mod table;
mod watch;

// The world of the end-to-end tests.
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../e2e/daemon.rs"]
mod daemon;
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../e2e/place.rs"]
mod place;
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../e2e/processes.rs"]
mod processes;
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../e2e/said.rs"]
mod said;
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../e2e/tree.rs"]
mod tree;

/// Whether every stop is wanted.
fn is_full() -> bool {
    std::env::var_os("E2EK_FULL").is_some_and(|value| value != "0")
}
