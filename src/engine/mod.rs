//! Pure decisions: no clock, no files, no sockets, no async.

pub mod debounce;
pub mod plan;
pub mod session;
#[cfg(test)]
mod sim;
