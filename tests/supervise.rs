//! The restart table (conformance.md section 2) through the built binary, with real processes.
//!
//! The command says what it does on its standard output, and the tests wait for those lines. The
//! end of that pipe proves that no process which inherited it is left.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod supervise {
    pub(crate) mod run;
    pub(crate) mod terminal;

    mod events;
    mod keys;
    mod leftovers;
    mod lines;
    mod processes;
    mod signals;
}
