//! Owns how one process is started: what it inherits, and above all what it does not.

use std::ffi::OsString;
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{
    Pid, Signal, getpid, getppid, set_parent_process_death_signal, setpgid, setsid,
};
use rustix::stdio::stdin;
use rustix::termios::tcsetpgrp;

use super::sentinel;

/// Where a new process stands among sessions and groups. It always leads its own group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Its own session, away from any terminal.
    Session,
    /// A group in the background of our terminal.
    Background,
    /// A group in the foreground of our terminal (standard input), with a [`sentinel`] that speaks
    /// on this descriptor, if any.
    Foreground(Option<RawFd>),
}

/// Standard streams for a new process; None: ours.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// What to start.
pub(super) struct Start<'a> {
    /// Not empty. The program is looked up in PATH.
    pub(super) argv: &'a [OsString],
    /// None: ours.
    pub(super) cwd: Option<&'a Path>,
    /// On top of ours.
    pub(super) env: &'a [(OsString, OsString)],
    pub(super) place: Place,
    pub(super) streams: Streams,
}

/// Starts a process and returns when its program runs. Nobody but the reaper waits for it.
///
/// It inherits: environment, working directory, standard streams. It does not inherit: other
/// descriptors, blocked or ignored signals. It is killed when the thread that calls this ends.
///
/// # Errors
/// When the process or its program could not be started; then there is no process.
pub(super) fn start(start: Start<'_>) -> io::Result<Pid> {
    let (program, arguments) = start.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments);
    command.envs(start.env.iter().map(|(name, value)| (name, value)));
    if let Some(cwd) = start.cwd {
        command.current_dir(cwd);
    }
    let stream = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::inherit, Stdio::from);
    command.stdin(stream(start.streams.stdin));
    command.stdout(stream(start.streams.stdout));
    command.stderr(stream(start.streams.stderr));
    let (parent, place) = (getpid(), start.place);
    // SAFETY: the closure runs between fork and exec; it makes system calls only, allocates
    // nothing and takes no lock.
    unsafe { command.pre_exec(move || prepare(parent, place)) };
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok(pid.expect("pids are positive and fit"))
}

/// In the child, before exec. Only async-signal-safe calls.
fn prepare(parent: Pid, place: Place) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before the line above.
    if getppid() != Some(parent) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    match place {
        Place::Session => drop(setsid()?),
        Place::Background => setpgid(None, None)?,
        Place::Foreground(line) => {
            setpgid(None, None)?;
            // Before the terminal can send anything to this group.
            if let Some(line) = line {
                sentinel::fork(line);
            }
            // SAFETY: SIG_IGN is a valid disposition; undone below. A background group that takes
            // the terminal would be stopped otherwise.
            unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
            // A terminal that is gone by now is no reason not to start.
            let _ = tcsetpgrp(stdin(), getpid());
        }
    }
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition; those that do not exist or may not be changed
        // give EINVAL. std has emptied the mask before this closure.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    close_on_exec()
}

/// Marks everything beyond the standard streams, whoever opened it. Our own descriptors are marked
/// from birth; this is for those that were handed to us.
fn close_on_exec() -> io::Result<()> {
    // SAFETY: takes three integers and touches no memory. Absent before Linux 5.11 (EINVAL, or
    // ENOSYS before 5.9): then only our own descriptors are marked.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Ok(())
}
