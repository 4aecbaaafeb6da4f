//! Measures what `watch` and its hub do when nothing happens.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use crate::process::{descendants, stat};
use crate::session::{Link, Session};
use crate::table::Row;
use crate::{Result, Settings, progress};

/// From the first sync to the first look: what follows a sync is not idleness. Longer than tokio
/// keeps the threads of its blocking pool without work (10 s).
pub(crate) const CALM: Duration = Duration::from_secs(12);

/// What a process has used since its start.
struct Used {
    /// utime + stime of proc_pid_stat(5), in clock ticks.
    ticks: u64,
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
    fn since(&self, before: &Self) -> (u64, u64) {
        let parts = self.threads.iter().map(|(id, now)| {
            let then = before.threads.get(id).copied().unwrap_or_default();
            (now.cpu_nanos - then.cpu_nanos, now.switches - then.switches)
        });
        parts.fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1))
    }
}

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place.join("idle");
    fs::create_dir(&place)?;
    progress("idle: first sync");
    let source = settings.large_source()?;
    let target = place.join("target");
    fs::create_dir(&target)?;
    let session =
        Session::start(settings, &place, &source.root, &target, Link::Local, source.files.len())?;
    std::thread::sleep(CALM);
    let seconds = if settings.short { 10 } else { 60 };
    progress(format_args!("idle: {seconds} s"));
    let daemon = session.daemon.pid();
    let mut processes = vec![("daemon", daemon)];
    processes.extend(descendants(daemon)?.into_iter().map(|pid| ("hub", pid)));
    let look = || processes.iter().map(|&(_, pid)| used(pid)).collect::<Result<Vec<_>>>();
    let before = look()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let after = look()?;
    session.stop()?;
    for ((name, _), (before, after)) in processes.iter().zip(before.iter().zip(&after)) {
        let ticks = after.ticks - before.ticks;
        let (nanos, woken) = after.since(before);
        let row = Row::new(format!("idle {seconds} s, {} files, {name}", settings.large))
            .ours(format!("{ticks} ticks ({} us of CPU, {woken} wake-ups)", nanos / 1000));
        rows.push(row.reach("0 ticks", Some(ticks == 0)));
    }
    Ok(())
}

fn used(pid: u32) -> Result<Used> {
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
