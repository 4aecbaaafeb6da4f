//! The commands that are not `watch`, `sync` or `plan`, through the built binary: what they say, and
//! which code they end with.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod control_commands {
    pub(crate) mod place;
    #[allow(dead_code, reason = "other tests use the rest")]
    #[path = "../e2e/said.rs"]
    pub(crate) mod said;

    mod answers;
    mod hub;
    mod ignore;
    mod joining;
    mod version;
}
