//! The `e2ek-sidecar` binary.

fn main() {}
