//! Processes of a place, found in /proc.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, Signal};

/// All that have the place's directory in their command line or environment, but not we.
pub(crate) fn of_place(top: &Path) -> Vec<u32> {
    let needle = top.as_os_str().as_bytes();
    let holds = |pid: u32, file: &str| {
        let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        text.windows(needle.len()).any(|part| part == needle)
    };
    let all = all().filter(|pid| *pid != std::process::id());
    all.filter(|pid| holds(*pid, "cmdline") || holds(*pid, "environ")).collect()
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The living children of a process.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        fields.get(2).and_then(|ppid| ppid.parse().ok()) == Some(parent) && fields[1] != "Z"
    };
    all().filter(is_child).collect()
}

pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    // It may have ended by itself.
    let _ = rustix::process::kill_process(pid, signal);
}

pub(crate) fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}
