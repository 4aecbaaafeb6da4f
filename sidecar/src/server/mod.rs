//! The hub: the other loop.
//!
//! (being written)

mod apply;
pub mod listen;
pub mod root;
pub mod run;
mod site;
pub mod store;
pub mod target;
