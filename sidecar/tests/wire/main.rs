//! What crosses the link: its bytes, which are kept for good, and what a bad peer can do with it.

#![allow(clippy::unwrap_used)]

mod golden;
mod hostile;
mod samples;
