//! Owns the pin on a process: never a bare pid.
//!
//! A [`Target`] is a pidfd, the start time, the mount namespace and the root directory of one
//! process, taken together and compared again by [`Target::check`]. A reused pid, a dead process
//! and one that entered another root are therefore refused. What is written below its root is
//! `server::root`'s business; which process is a container's is `container`'s question.

mod container;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Pid, PidfdFlags, Signal, Uid};

pub(super) use self::container::identify;
pub use self::container::{FindError, Identity, MainProcess, find, ourselves};

/// One process, pinned while it lives.
#[derive(Debug)]
pub struct Target {
    pid: Pid,
    pidfd: OwnedFd,
    /// `/proc/<pid>`: this descriptor belongs to the process, not to the number.
    proc: OwnedFd,
    /// Its root directory (`O_PATH`).
    root: OwnedFd,
    way: Way,
    seen: Seen,
    owner: (u32, u32),
}

/// How its root was come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Opened below `/proc`.
    Entered,
    /// Handed over by the process, which hides itself; it is where the kernel says that the
    /// process's mounts begin.
    Given,
}

/// What must stay as it was when the process was pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// In clock ticks since boot (field 22 of proc_pid_stat(5)).
    start_time: u64,
    /// Device and inode of the mount namespace; zeros for a root that was given, whose mount is of
    /// one namespace only.
    mount_namespace: (u64, u64),
    /// Device, inode and mount of the root directory.
    root: (u64, u64, u64),
}

/// Why a process is not, or no longer, the pinned one.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// No such process, or it ended (a zombie counts as ended).
    #[error("process {0} is gone")]
    Gone(i32),
    /// It lives, but in another mount namespace or root than when it was pinned.
    #[error("process {0} entered another root")]
    Moved(i32),
    /// The kernel does not let us see its root (transports.md 3.1 has the matrix).
    #[error("not permitted to enter the root of process {0}")]
    Denied(i32),
    /// Something else failed.
    #[error("cannot look at process {pid}")]
    Io {
        /// Which.
        pid: i32,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

impl Target {
    /// Pins the process `pid`. When its root is not ours to see, it is tried once more with its
    /// own user and group, in a thread of its own: the permission is asked at the opening only.
    ///
    /// # Errors
    /// [`TargetError::Gone`], [`TargetError::Denied`].
    pub fn pin(pid: i32) -> Result<Self, TargetError> {
        let number = Pid::from_raw(pid).filter(|_| pid > 0).ok_or(TargetError::Gone(pid))?;
        Self::take(number).map_err(|errno| explain(pid, errno))
    }

    /// Pins a container's main process, and looks again whose it is: the number may have become
    /// another's meanwhile.
    ///
    /// # Errors
    /// As [`Target::pin`]; [`TargetError::Gone`] also when it is not that container's any more.
    pub fn pin_main(main: &MainProcess) -> Result<Self, TargetError> {
        let target = Self::pin(main.pid)?;
        let gone = TargetError::Gone(main.pid);
        match target.identity() {
            Some(now) if now == main.identity => Ok(target),
            _ => Err(gone),
        }
    }

    /// As [`Target::pin_main`], with the root directory that the process itself handed over. Needs no
    /// right over the process; what it gave is believed as far as the kernel says the same.
    ///
    /// # Errors
    /// As there; [`TargetError::Moved`] when that is not the process's root.
    pub fn pin_given(main: &MainProcess, root: OwnedFd) -> Result<Self, TargetError> {
        let pid = Pid::from_raw(main.pid).ok_or(TargetError::Gone(main.pid))?;
        let take = || -> Result<Option<Self>, Errno> {
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            let proc = open_proc(pid)?;
            alive(pidfd.as_fd())?;
            let owner = owner(proc.as_fd())?;
            let Some(seen) = given(proc.as_fd(), root.as_fd())? else { return Ok(None) };
            alive(pidfd.as_fd())?;
            Ok(Some(Self { pid, pidfd, proc, root, way: Way::Given, seen, owner }))
        };
        let target = take().map_err(|errno| explain(main.pid, errno))?;
        let target = target.ok_or(TargetError::Moved(main.pid))?;
        match target.identity() {
            Some(now) if now == main.identity => Ok(target),
            _ => Err(TargetError::Gone(main.pid)),
        }
    }

    /// Which container it belongs to, if the kubelet started it.
    fn identity(&self) -> Option<Identity> {
        let cgroup = read(self.proc.as_fd(), c"cgroup").ok();
        container::identify(&self.mountinfo().ok()?, cgroup.as_deref())
    }

    fn take(pid: Pid) -> Result<Self, Errno> {
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let proc = open_proc(pid)?;
        // Alive after both were opened, so the number meant the same process each time.
        alive(pidfd.as_fd())?;
        let owner = owner(proc.as_fd())?;
        let (root, seen) = enter(proc.as_fd(), owner)?;
        alive(pidfd.as_fd())?;
        Ok(Self { pid, pidfd, proc, root, way: Way::Entered, seen, owner })
    }

    /// The number; for display only.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// Becomes readable when the process ends.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Effective user and group when it was pinned.
    #[must_use]
    pub fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// Whether it is still the same live process in the same mount namespace and root: what must
    /// hold before "applied" is said (I2). About five system calls; where its root is only visible
    /// to its own user, also a short-lived thread.
    ///
    /// # Errors
    /// [`TargetError::Gone`], [`TargetError::Moved`].
    pub fn check(&self) -> Result<(), TargetError> {
        let pid = self.pid();
        alive(self.pidfd.as_fd()).map_err(|errno| explain(pid, errno))?;
        let now = match self.way {
            Way::Entered => enter(self.proc.as_fd(), self.owner).map(|(_, seen)| Some(seen)),
            Way::Given => given(self.proc.as_fd(), self.root.as_fd()),
        };
        let now = now.map_err(|errno| explain(pid, errno))?;
        if now == Some(self.seen) { Ok(()) } else { Err(TargetError::Moved(pid)) }
    }

    /// Sends a signal to exactly this process.
    ///
    /// # Errors
    /// [`TargetError::Gone`], [`TargetError::Denied`].
    pub fn signal(&self, signal: Signal) -> Result<(), TargetError> {
        rustix::process::pidfd_send_signal(&self.pidfd, signal)
            .map_err(|errno| explain(self.pid(), errno))
    }

    /// Whether a signal would end it, as far as its own handlers say: what the kernel does to a
    /// process that neither catches nor ignores it (signal(7)), and what programs mean by TERM, INT
    /// and QUIT.
    #[must_use]
    pub fn would_end(&self, signal: Signal) -> bool {
        let number = signal.as_raw();
        let by_meaning = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::KILL, Signal::ABORT];
        let harmless = [Signal::CHILD, Signal::CONT, Signal::URG, Signal::WINCH];
        if by_meaning.contains(&signal) || harmless.contains(&signal) {
            return by_meaning.contains(&signal);
        }
        let Ok(status) = read(self.proc.as_fd(), c"status") else { return true };
        let status = String::from_utf8_lossy(&status);
        let has = |key: &str| {
            let mask = status.lines().find_map(|line| line.strip_prefix(key));
            let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
            mask.is_some_and(|mask| mask & (1 << (number - 1)) != 0)
        };
        !has("SigCgt:") && !has("SigIgn:")
    }

    /// When it was started, in nanoseconds since the epoch by the clock of now; not later than that, and
    /// up to a tick (10 ms) earlier.
    pub(super) fn started_ns(&self) -> Option<i64> {
        use rustix::time::{ClockId, clock_gettime};
        const SECOND: i64 = 1_000_000_000;
        let now = |clock| {
            let now = clock_gettime(clock);
            now.tv_sec * SECOND + now.tv_nsec
        };
        let ticks = i64::try_from(self.seen.start_time).ok()?;
        let tick = SECOND / i64::try_from(rustix::param::clock_ticks_per_second()).ok()?;
        Some(now(ClockId::Realtime) - now(ClockId::Boottime) + ticks.checked_mul(tick)?)
    }

    /// The mount that its root directory lies on.
    pub(super) fn root_mount(&self) -> u64 {
        self.seen.root.2
    }

    /// The device that its root directory lies on.
    pub(super) fn root_device(&self) -> u64 {
        self.seen.root.0
    }

    /// Its root directory, held.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Its `mountinfo`, readable without any privilege.
    pub(super) fn mountinfo(&self) -> std::io::Result<Vec<u8>> {
        Ok(read(self.proc.as_fd(), c"mountinfo")?)
    }
}

fn explain(pid: i32, errno: Errno) -> TargetError {
    match errno {
        Errno::SRCH | Errno::NOENT => TargetError::Gone(pid),
        Errno::ACCESS | Errno::PERM => TargetError::Denied(pid),
        errno => TargetError::Io { pid, source: errno.into() },
    }
}

/// Whether the process of a pidfd has not ended.
pub(super) fn is_alive(pidfd: &OwnedFd) -> bool {
    alive(pidfd.as_fd()).is_ok()
}

fn alive(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
    match poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? {
        0 => Ok(()),
        _ => Err(Errno::SRCH),
    }
}

/// Opens the root and reads what pins it, with our own rights, then with the process's.
fn enter(proc: BorrowedFd<'_>, owner: (u32, u32)) -> Result<(OwnedFd, Seen), Errno> {
    match enter_as_we_are(proc) {
        Err(Errno::ACCESS | Errno::PERM) if rustix::process::geteuid().is_root() => {
            std::thread::scope(|scope| {
                let entered = scope.spawn(|| {
                    // Of this thread only, which ends with the closure.
                    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
                    rustix::thread::set_thread_res_gid(None, Some(gid), None)?;
                    rustix::thread::set_thread_res_uid(None, Some(uid), None)?;
                    enter_as_we_are(proc)
                });
                entered.join().unwrap_or(Err(Errno::ACCESS))
            })
        }
        entered => entered,
    }
}

fn open_proc(pid: Pid) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(format!("/proc/{}", pid.as_raw_pid()), flags, Mode::empty())
}

/// What pins a root that was handed over; `None` when it is not where the process's mounts begin. A
/// mount has one place in one namespace, and `mountinfo` needs no right to be read.
fn given(proc: BorrowedFd<'_>, root: BorrowedFd<'_>) -> Result<Option<Seen>, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(root, c"", AtFlags::EMPTY_PATH, wanted)?;
    let is_top = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        && stat.stx_mask & StatxFlags::MNT_ID.bits() != 0
        && container::root_mount(&read(proc, c"mountinfo")?) == Some(stat.stx_mnt_id);
    if !is_top {
        return Ok(None);
    }
    let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    Ok(Some(Seen {
        start_time: start_time(&read(proc, c"stat")?).ok_or(Errno::SRCH)?,
        mount_namespace: (0, 0),
        root: (device, stat.stx_ino, stat.stx_mnt_id),
    }))
}

fn enter_as_we_are(proc: BorrowedFd<'_>) -> Result<(OwnedFd, Seen), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(proc, c"root", flags, Mode::empty())?;
    let namespace = rustix::fs::statat(proc, c"ns/mnt", AtFlags::empty())?;
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(&root, c"", AtFlags::EMPTY_PATH, wanted)?;
    let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    let told = stat.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    let seen = Seen {
        start_time: start_time(&read(proc, c"stat")?).ok_or(Errno::SRCH)?,
        mount_namespace: (namespace.st_dev, namespace.st_ino),
        root: (device, stat.stx_ino, if told { stat.stx_mnt_id } else { 0 }),
    };
    Ok((root, seen))
}

fn read(proc: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<Vec<u8>, Errno> {
    use std::io::Read;
    let fd = rustix::fs::openat(proc, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .read_to_end(&mut bytes)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(bytes)
}

/// Field 22 of `stat`. The command's name, in parentheses, may hold anything, so the last `)` ends
/// it.
fn start_time(stat: &[u8]) -> Option<u64> {
    let after = &stat[stat.iter().rposition(|&b| b == b')')? + 1..];
    std::str::from_utf8(after).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Effective user and group (`Uid:` and `Gid:` of `status`: real, effective, saved, file system).
fn owner(proc: BorrowedFd<'_>) -> Result<(u32, u32), Errno> {
    let status = read(proc, c"status")?;
    let status = String::from_utf8_lossy(&status);
    let effective = |key: &str| -> Option<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    Ok((effective("Uid:").ok_or(Errno::SRCH)?, effective("Gid:").ok_or(Errno::SRCH)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_named_to_confuse_does_not_shift_the_fields() {
        let stat = b"7 (a) 1 2 (x\n) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4242 9 9";
        assert_eq!(start_time(stat), Some(4242));
        assert_eq!(start_time(b""), None);
    }

    #[test]
    fn i6_a_root_that_is_handed_over_must_be_where_the_mounts_begin() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &str| rustix::fs::open(path, flags, Mode::empty()).unwrap();
        let us = open_proc(rustix::process::getpid()).unwrap();
        let top = given(us.as_fd(), open("/").as_fd()).unwrap().expect("our own root");
        assert_eq!(given(us.as_fd(), open("/").as_fd()).unwrap(), Some(top));
        // A directory of the same mount, another mount's top, and what is no place at all.
        let below = std::env::current_dir().unwrap();
        for other in [below.to_str().unwrap(), "/proc", "/proc/self/fd"] {
            assert_eq!(given(us.as_fd(), open(other).as_fd()).unwrap(), None, "{other}");
        }
    }

    #[test]
    fn a_signal_that_ends_is_told_from_one_that_is_heeded() {
        // Says what it catches by doing so before it answers.
        let script = "trap : USR1; trap '' USR2; echo; read x";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        let target = Target::pin(child.id().cast_signed()).unwrap();
        for (signal, ends) in [
            (Signal::USR1, false),
            (Signal::USR2, false),
            (Signal::ALARM, true),
            (Signal::TERM, true),
            (Signal::KILL, true),
            (Signal::WINCH, false),
        ] {
            assert_eq!(target.would_end(signal), ends, "{signal:?}");
        }
        drop(child.stdin.take());
        child.wait().unwrap();
    }

    #[test]
    fn we_can_pin_ourselves() {
        let us = Target::pin(std::process::id().cast_signed()).unwrap();
        us.check().unwrap();
        assert_eq!(us.owner().0, rustix::process::geteuid().as_raw());
    }

    #[test]
    fn i2_the_dead_are_refused() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = child.id().cast_signed();
        let target = Target::pin(pid).unwrap();
        target.check().unwrap();
        drop(child.stdin.take());
        let mut ended = [PollFd::new(&target.pidfd, PollFlags::IN)];
        poll(&mut ended, None).unwrap();
        assert!(matches!(target.check(), Err(TargetError::Gone(_))), "a zombie is gone");
        assert!(matches!(Target::pin(pid), Err(TargetError::Gone(_))), "nor is it pinned");
        child.wait().unwrap();
        assert!(matches!(target.check(), Err(TargetError::Gone(_))));
        assert!(matches!(target.signal(Signal::TERM), Err(TargetError::Gone(_))));
        assert!(matches!(Target::pin(0), Err(TargetError::Gone(_))));
    }
}
