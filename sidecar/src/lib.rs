//! The contract between the daemon and the hub, and the hub itself.
//!
//! The portable half ([`path`], [`tree`], [`delta`], [`wire`], [`receive`], [`restart`], [`lease`]) is
//! pure: no clock, no files, no sockets; time and events are handed in, effects come out. The Linux
//! half ([`server`], feature `server`) performs those effects.

pub mod crew;
pub mod delta;
pub mod lease;
pub mod path;
pub mod receive;
pub mod restart;
#[cfg(feature = "server")]
pub mod server;
pub mod tree;
mod varint;
pub mod wire;
