//! Owns what the node sees of a container: the kubelet runs on this machine, so that its processes and
//! files are looked at without anything inside it.
//!
//! A container is found by the runtime's id in its processes' control groups, and its main process held
//! by a pidfd: a number that went to another process is never followed.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::Result;
use crate::process::stat;

/// One start of a container.
pub(crate) struct Container {
    id: String,
    pub(crate) main: u32,
    pidfd: OwnedFd,
}

/// A directory in a container, held.
pub(crate) struct Directory {
    handle: OwnedFd,
}

impl Container {
    pub(crate) fn find(id: &str) -> Result<Self> {
        let main = *processes(id)?.first().ok_or_else(|| format!("no process in {id}"))?;
        let pid = Pid::from_raw(main.cast_signed()).ok_or("not a process's number")?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        // Had the number gone to another one before it was held, that would not be in there.
        if processes(id)?.first() != Some(&main) {
            return Err(format!("the main process of {id} is gone").into());
        }
        Ok(Self { id: id.to_owned(), main, pidfd })
    }

    /// Its processes now, the oldest first.
    pub(crate) fn processes(&self) -> Result<Vec<u32>> {
        processes(&self.id)
    }

    /// A directory as its main process sees it; links in the path lead where they lead there.
    pub(crate) fn directory(&self, path: &str) -> Result<Directory> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = format!("/proc/{}/root", self.main);
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
        if self.has_ended()? {
            return Err("the container's main process has ended".into());
        }
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = path.trim_start_matches('/');
        Ok(Directory { handle: openat2(&root, path, flags, Mode::empty(), inside)? })
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(pidfd_send_signal(&self.pidfd, signal)?)
    }

    /// Kills its main process; returns when that is dead.
    pub(crate) fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], None)?;
        Ok(())
    }

    fn has_ended(&self) -> Result<bool> {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut ended = [PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN)];
        Ok(poll(&mut ended, Some(&at_once))? > 0)
    }
}

impl Directory {
    /// Leads there as long as this is held, whatever becomes of the process.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.handle.as_raw_fd()))
    }
}

/// All processes in a container's control group, by their start.
fn processes(id: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // It may have ended meanwhile.
        let Ok(groups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else { continue };
        if groups.contains(id)
            && let Ok(ticks) = started(pid)
        {
            found.push((ticks, pid));
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, pid)| pid).collect())
}

/// Field 22 of proc_pid_stat(5): clock ticks since the machine's start.
fn started(pid: u32) -> Result<u64> {
    Ok(stat(pid)?.get(22 - 3).ok_or("a short stat")?.parse()?)
}

/// When a process was started, on the clock that files have their times from, in nanoseconds since
/// 1970; as exact as a tick of 10 ms, and never later than it was.
pub(crate) fn started_at(pid: u32) -> Result<i64> {
    let ticks = i64::try_from(started(pid)?)?;
    let per_second = i64::try_from(rustix::param::clock_ticks_per_second())?;
    let since_boot = ticks * (1_000_000_000 / per_second);
    Ok(boot() + since_boot)
}

/// When the machine was started, in nanoseconds since 1970.
fn boot() -> i64 {
    use rustix::time::{ClockId, clock_gettime};
    let nanos = |id| {
        let time = clock_gettime(id);
        time.tv_sec * 1_000_000_000 + time.tv_nsec
    };
    nanos(ClockId::Realtime) - nanos(ClockId::Boottime)
}

/// When something about a file was changed last, and so when it was renamed to where it is: in
/// nanoseconds since 1970, as exact as the kernel's tick of some 4 ms.
pub(crate) fn changed_at(path: &Path) -> Result<i64> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::symlink_metadata(path)?;
    Ok(meta.ctime() * 1_000_000_000 + meta.ctime_nsec())
}
