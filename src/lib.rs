//! e2ek-sync: the daemon and every command.

pub mod cli;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod control;
pub mod daemon;
pub mod engine;
pub mod error;
pub mod filter;
pub mod log;
pub mod report;
pub mod scan;
#[cfg(target_os = "linux")]
pub mod supervise;
pub mod transfer;
pub mod transport;
pub mod watch;
