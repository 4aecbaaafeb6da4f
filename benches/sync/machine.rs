//! Owns what is said of the machine: figures without it mean nothing.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Result;

/// Date, machine, file system of `place`, what else is to be said, load: one `key: value` a line, then
/// an empty one.
pub(crate) fn describe(place: &Path, more: Vec<String>) -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let model = cpu_info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = read("/proc/meminfo");
    let memory = memory.lines().next().and_then(|line| line.split_ascii_whitespace().nth(1));
    let gib = memory.and_then(|kib| kib.parse::<u64>().ok()).map_or(0, |kib| kib >> 20);
    let lines = [
        format!("date: {}", today()?),
        format!(
            "machine: {} cores ({}), {gib} GiB, Linux {}",
            std::thread::available_parallelism()?,
            model.map_or("unknown", |(_, name)| name),
            read("/proc/sys/kernel/osrelease").trim(),
        ),
        format!("file system: {}", file_system(place)?),
    ];
    let load = format!("load at the start: {}", load());
    let lines = lines.into_iter().chain(more).chain([load]);
    Ok(lines.collect::<Vec<_>>().join("\n") + "\n\n")
}

/// Whether a peer can be started at all.
pub(crate) fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Whether a program of that name is there, without starting it.
pub(crate) fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// The load averages of 1, 5 and 15 minutes: other people's work shows in every figure.
pub(crate) fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split_ascii_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The first line of what a program says of itself.
pub(crate) fn version(program: &Path, argument: &str) -> String {
    let Ok(output) = Command::new(program).arg(argument).output() else {
        return "absent".to_owned();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let first = text.lines().next().unwrap_or("unknown");
    first.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// Type and options of the mount that holds `place`, from /proc/self/mountinfo (proc(5)).
fn file_system(place: &Path) -> Result<String> {
    let place = place.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let holds = |line: &&str| {
        let mount = line.split(' ').nth(4);
        mount.is_some_and(|mount| place.starts_with(mount))
    };
    let depth = |line: &&str| line.split(' ').nth(4).map_or(0, str::len);
    // The last of the longest: a later mount hides an earlier one.
    let line = mounts.lines().filter(holds).max_by_key(depth).ok_or("no mount holds it")?;
    let (before, after) = line.split_once(" - ").ok_or("mountinfo is not as in proc(5)")?;
    let options = before.split(' ').nth(5).unwrap_or_default();
    let mut after = after.split(' ');
    let (kind, device) = (after.next().unwrap_or_default(), after.next().unwrap_or_default());
    Ok(format!("{kind} on {device} ({options}; {})", after.next().unwrap_or_default()))
}

/// The date of today, UTC, from the days since 1970 (Hinnant, `civil_from_days`).
fn today() -> Result<String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    Ok(format!("{year:04}-{month:02}-{day:02}"))
}
