//! Owns what a process has used: time on a processor, wake-ups.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use crate::Result;
use crate::process::stat;

/// From a sync to the first look: what follows a sync is not idleness. Longer than tokio
/// keeps the threads of its blocking pool without work (10 s).
pub(crate) const CALM: Duration = Duration::from_secs(12);

/// What a process has used since its start.
pub(crate) struct Used {
    /// utime + stime of proc_pid_stat(5), in clock ticks.
    pub(crate) ticks: u64,
    threads: HashMap<OsString, Thread>,
}

#[derive(Clone, Copy, Default)]
struct Thread {
    /// From schedstat; 0 without CONFIG_SCHED_INFO.
    cpu_nanos: u64,
    /// Voluntary context switches: each is one wake-up.
    switches: u64,
}

impl Used {
    /// What was used since `before` by the threads that live now: nanoseconds, wake-ups.
    pub(crate) fn since(&self, before: &Self) -> (u64, u64) {
        let parts = self.threads.iter().map(|(id, now)| {
            let then = before.threads.get(id).copied().unwrap_or_default();
            (now.cpu_nanos - then.cpu_nanos, now.switches - then.switches)
        });
        parts.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    }
}

pub(crate) fn used(pid: u32) -> Result<Used> {
    let mut threads = HashMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        let schedule = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let nanos = schedule.split(' ').next().and_then(|nanos| nanos.parse().ok());
        let status = fs::read_to_string(task.path().join("status"))?;
        let switches =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let switches = switches.ok_or("no voluntary_ctxt_switches")?.trim().parse()?;
        let thread = Thread { cpu_nanos: nanos.unwrap_or(0), switches };
        threads.insert(task.file_name(), thread);
    }
    Ok(Used { ticks: ticks(pid)?, threads })
}

fn ticks(pid: u32) -> Result<u64> {
    let fields = stat(pid)?;
    // Fields 14 and 15 of proc_pid_stat(5); the first here is field 3.
    let field = |number: usize| fields.get(number - 3).ok_or("a short stat");
    Ok(field(14)?.parse::<u64>()? + field(15)?.parse::<u64>()?)
}
