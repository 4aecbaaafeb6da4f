//! Owns the question which processes descend from us, and how they are signalled.
//!
//! We are a subreaper, so whoever loses its parent below us becomes our child: the tree below us
//! is complete, also for those that called `setsid`. Whether *nothing* is left is not asked here
//! but of `waitpid` (ECHILD), which cannot miss anything.

use std::collections::HashMap;
use std::fs;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, kill_process_group, pidfd_open, pidfd_send_signal};

use crate::restart::Signal;

/// One line of `/proc/<pid>/stat`, as far as we need it.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: Pid,
    parent: Option<Pid>,
    /// Its process group.
    group: Option<Pid>,
    /// At most 15 bytes; not for a terminal as it is.
    pub(super) name: String,
    /// Clock ticks after boot; with the pid it names one process.
    pub(super) start: u64,
    dead: bool,
}

impl Process {
    /// None when there is no such process (any more).
    pub(super) fn read(pid: Pid) -> Option<Self> {
        let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        Self::parse(pid, &String::from_utf8_lossy(&stat))
    }

    /// proc_pid_stat(5); the name in parentheses may hold anything, parentheses too.
    fn parse(pid: Pid, stat: &str) -> Option<Self> {
        let (head, tail) = stat.rsplit_once(") ")?;
        let name = head.split_once(" (")?.1.to_owned();
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<i32>().ok();
        Some(Self {
            pid,
            parent: number(1).and_then(Pid::from_raw),
            group: number(2).and_then(Pid::from_raw),
            name,
            start: fields.get(19)?.parse().ok()?,
            dead: matches!(fields.first(), Some(&("Z" | "X"))),
        })
    }

    /// None for the first process of the namespace.
    pub(super) fn parent(&self) -> Option<Pid> {
        self.parent
    }

    /// Whether it only waits to be reaped.
    pub(super) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Signals exactly this process, or nobody when it is gone and its number taken by another.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        let pidfd = pidfd_open(self.pid, PidfdFlags::empty())?;
        match Self::read(self.pid) {
            Some(now) if now.start == self.start => pidfd_send_signal(&pidfd, raw(signal)),
            _ => Err(Errno::SRCH),
        }
    }
}

/// All numeric entries of /proc.
pub(super) fn every_pid() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

/// The living descendants of this process, without `except` and what is below it.
pub(super) fn descendants(except: Option<Pid>) -> Vec<Process> {
    let scan = (children_file(getpid()).is_none()).then(scan);
    let mut found = Vec::new();
    let mut parents = vec![getpid()];
    while let Some(parent) = parents.pop() {
        let children = match &scan {
            Some(scan) => scan.get(&parent).cloned().unwrap_or_default(),
            None => children_file(parent).unwrap_or_default(),
        };
        for child in children {
            if Some(child.pid) != except && !child.dead {
                parents.push(child.pid);
                found.push(child);
            }
        }
    }
    found
}

/// The fast way (CONFIG_PROC_CHILDREN); None where the kernel has no such file. It may miss a
/// child while another one exits, so that callers look again when they are told of an exit.
fn children_file(parent: Pid) -> Option<Vec<Process>> {
    let tasks = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero())).ok()?;
    let mut children = Vec::new();
    for task in tasks.flatten() {
        let text = fs::read_to_string(task.path().join("children")).ok()?;
        let pids = text.split_ascii_whitespace();
        let pids = pids.filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        children.extend(pids.filter_map(Process::read));
    }
    Some(children)
}

/// Every process by its parent.
fn scan() -> HashMap<Pid, Vec<Process>> {
    let mut by_parent: HashMap<Pid, Vec<Process>> = HashMap::new();
    for process in every_pid().filter_map(Process::read) {
        if let Some(parent) = process.parent {
            by_parent.entry(parent).or_default().push(process);
        }
    }
    by_parent
}

/// Signals `group` (when somebody of ours is in it, so that a reused number is never hit) and every
/// descendant outside of it. `leader` says that the group's leader is not reaped yet.
///
/// Returns those that may not be signalled (another user's).
pub(super) fn signal_all(
    group: Option<Pid>,
    leader: bool,
    signal: Signal,
    except: Option<Pid>,
) -> Vec<Process> {
    // The group first and at once: looking for the others takes time.
    let sent = leader && group.is_some_and(|group| signal_group(group, signal));
    let mut refused = Vec::new();
    for process in descendants(except) {
        if sent && process.group == group {
            continue;
        }
        match process.signal(signal) {
            Err(Errno::PERM) => refused.push(process),
            Err(Errno::SRCH) => {}
            Err(error) => {
                let pid = process.pid.as_raw_nonzero();
                tracing::warn!(%pid, %error, "cannot signal");
            }
            // A stopped process sees nothing but SIGKILL until it goes on.
            Ok(()) if signal != Signal::KILL => drop(process.signal(Signal::CONT)),
            Ok(()) => {}
        }
    }
    refused
}

/// False when nobody in it could be signalled.
fn signal_group(group: Pid, signal: Signal) -> bool {
    let sent = kill_process_group(group, raw(signal)).is_ok();
    if sent && signal != Signal::KILL {
        let _ = kill_process_group(group, raw(Signal::CONT));
    }
    sent
}

/// The same signal in rustix's words.
pub(in crate::server) fn raw(signal: Signal) -> rustix::process::Signal {
    rustix::process::Signal::from_named_raw(signal.number()).expect("1..=31 are all named on Linux")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_parentheses_and_spaces() {
        let stat = "7 (a) b (c)) S 3 5 5 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        let process = Process::parse(Pid::from_raw(7).unwrap(), stat).unwrap();
        assert_eq!(process.name, "a) b (c)");
        assert_eq!(process.parent, Pid::from_raw(3));
        assert_eq!(process.group, Pid::from_raw(5));
        assert_eq!(process.start, 12345);
        assert!(!process.dead);
    }

    #[test]
    fn every_signal_has_a_word_in_rustix() {
        for number in 1..=31 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(raw(signal).as_raw(), number);
        }
    }
}
