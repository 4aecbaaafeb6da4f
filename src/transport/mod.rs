//! Carriers of one byte stream to a hub.

pub mod process;
