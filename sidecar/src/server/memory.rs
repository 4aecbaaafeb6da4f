//! Gives memory back to the system after what took much of it for a moment.
//!
//! The allocator keeps what was freed, in small pieces of many threads' heaps: after a first sync of
//! 100,000 files that was three times what is in use.

/// Ops in a generation, or files in a scan, after which it is worth its time (a millisecond or two).
pub const WORTH_FROM: usize = 5_000;

/// Returns unused pages to the system, where the allocator can.
pub fn give_back() {
    // SAFETY: takes a number, and locks what it works on.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
