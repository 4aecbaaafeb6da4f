//! Gives memory back to the system after what took much of it for a moment.
//!
//! The allocator keeps what was freed, in small pieces of many threads' heaps: after a first sync of
//! 100,000 files that was three times what is in use.

/// Ops in a generation, or files in a scan, after which it is worth its time (a millisecond or two).
pub const WORTH_FROM: usize = 5_000;

/// Larger pieces of memory get pages of their own, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 256 << 10;
/// So much may lie unused at a heap's end before it is given back at once, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const UNUSED: libc::c_int = 1 << 20;

/// Keeps what is large and short-lived off the heaps, for good. The allocator else learns from the
/// first large piece that is freed to put the next ones (up to 32 MiB) among the small: a hub of
/// 100,000 files took 22 MB for what fits into 11. To be called before threads are started.
pub fn keep_large_apart() {
    // SAFETY: takes numbers, and locks what it works on.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, UNUSED);
    }
}

/// Returns unused pages to the system, where the allocator can.
pub fn give_back() {
    // SAFETY: takes a number, and locks what it works on.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
