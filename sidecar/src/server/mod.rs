//! The hub: the other loop.
//!
//! (being written)

pub mod listen;
pub mod root;
pub mod run;
pub mod store;
pub mod target;
