//! A real hub, driven over its wire by a small client.
#![cfg(all(target_os = "linux", feature = "server"))]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod ahead;
mod applying;
mod client;
mod faults;
mod leases;
mod patches;
mod socket;
mod torn;
