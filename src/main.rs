//! The `e2ek-sync` binary.

fn main() {}
