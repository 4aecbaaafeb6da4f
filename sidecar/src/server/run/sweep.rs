//! Owns what a supervisor that was killed with SIGKILL left behind: finds it by an environment
//! variable, and kills it before anything new is started.
//!
//! Every process that we start carries `E2EK_RUN=<marker>:<pid>:<start>` of its supervisor. A
//! process is a leftover when the marker is ours and that supervisor lives no more, so that two
//! supervisors of the same command never kill each other's. Not found: processes of another user,
//! those that made themselves non-dumpable, and those that cleared their environment.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, getuid, pidfd_open, pidfd_send_signal,
};

use super::descendants::{Process, every_pid};

/// The variable.
pub(super) const VARIABLE: &str = "E2EK_RUN";
/// How long to wait for the killed to be gone.
const PATIENCE: Duration = Duration::from_secs(2);
/// A leftover may fork while we look; that often we look again.
const ROUNDS: usize = 8;

/// A process of an earlier run that was killed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leftover {
    /// Its number, now free.
    pub pid: u32,
    /// At most 15 characters; escape it before showing it.
    pub name: String,
}

/// What our children are to carry in [`VARIABLE`].
pub(super) fn value(marker: &str) -> String {
    let start = Process::read(getpid()).map_or(0, |process| process.start);
    format!("{marker}:{}:{start}", getpid().as_raw_nonzero())
}

/// Kills, with SIGKILL, every process that a dead supervisor with this marker left behind, and
/// waits up to two seconds until they are gone. Costs a walk over `/proc`.
pub fn sweep(marker: &str) -> Vec<Leftover> {
    let spared = self_and_ancestors();
    let mut swept: Vec<Leftover> = Vec::new();
    for _ in 0..ROUNDS {
        let found = every_pid().filter(|pid| !spared.contains(pid));
        let found: Vec<_> = found.filter_map(|pid| kill_leftover(pid, marker)).collect();
        if found.is_empty() {
            break;
        }
        let until = Instant::now() + PATIENCE;
        for (leftover, pidfd) in found {
            wait_until_gone(&pidfd, until);
            if !swept.contains(&leftover) {
                swept.push(leftover);
            }
        }
    }
    swept
}

fn kill_leftover(pid: Pid, marker: &str) -> Option<(Leftover, OwnedFd)> {
    if !is_leftover(pid, marker) {
        return None;
    }
    let name = Process::read(pid)?.name;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Again, now that the number cannot be taken by another.
    if !is_leftover(pid, marker) {
        return None;
    }
    if let Err(error) = pidfd_send_signal(&pidfd, Signal::KILL) {
        tracing::warn!(pid = %pid.as_raw_nonzero(), %error, "cannot kill a leftover");
        return None;
    }
    let pid = pid.as_raw_nonzero().get().unsigned_abs();
    Some((Leftover { pid, name }, pidfd))
}

fn is_leftover(pid: Pid, marker: &str) -> bool {
    owner(pid, marker).is_some_and(|(owner, start)| {
        // A zombie supervises nothing any more.
        Process::read(owner).is_none_or(|process| process.start != start || process.is_dead())
    })
}

/// The supervisor that started this process, when it carries our marker.
fn owner(pid: Pid, marker: &str) -> Option<(Pid, u64)> {
    let directory = format!("/proc/{}", pid.as_raw_nonzero());
    if fs::metadata(&directory).ok()?.uid() != getuid().as_raw() {
        return None;
    }
    let environment = fs::read(format!("{directory}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let ours = variables
        .find_map(|variable| variable.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="))?;
    let mut parts = std::str::from_utf8(ours).ok()?.rsplitn(3, ':');
    let start = parts.next()?.parse().ok()?;
    let owner = Pid::from_raw(parts.next()?.parse().ok()?)?;
    (parts.next()? == marker).then_some((owner, start))
}

fn self_and_ancestors() -> Vec<Pid> {
    let mut found = vec![getpid()];
    let mut next = getppid();
    while let Some(pid) = next.filter(|pid| !found.contains(pid)) {
        found.push(pid);
        next = Process::read(pid).and_then(|process| process.parent());
    }
    found
}

fn wait_until_gone(pidfd: &OwnedFd, until: Instant) {
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).expect("two seconds fit");
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    if let Err(error) = poll(&mut fds, Some(&left)).map_err(io::Error::from) {
        tracing::warn!(%error, "cannot wait for a leftover to end");
    }
}
