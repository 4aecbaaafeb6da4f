//! Owns one question: did the user press Ctrl-C while the command had the terminal?
//!
//! The terminal's signals go to the foreground group, which is the command's and not ours. So that
//! we hear of them too, a process of our own stands in that group, from before the command's
//! program runs until the command is reaped. The kernel marks what the terminal sends (`SI_KERNEL`):
//! a signal that we, the command or anybody else sends with kill(2) is never taken for the user's.
//!
//! It is a fork of ours that executes nothing else: it blocks every signal, holds nothing open but
//! its line to us, sleeps in poll(2), and ends when that line does, so also when we are killed. It
//! cannot be stopped by Ctrl-Z. Without it (no more processes, or somebody killed it) everything
//! works but this answer.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::Interest;

/// What it writes for each Ctrl-C.
static INTERRUPTED: u8 = b'C';

/// Our end of the line.
#[derive(Debug)]
pub(super) struct Sentinel {
    pub(super) pid: Pid,
    line: tokio::net::UnixStream,
    /// Nothing more will come.
    ended: bool,
}

/// Both ends, before the fork.
pub(super) struct Line {
    ours: UnixStream,
    theirs: UnixStream,
}

impl Line {
    pub(super) fn new() -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok(Self { ours, theirs })
    }

    /// For [`fork`]; open as long as this line is.
    pub(super) fn number(&self) -> RawFd {
        self.theirs.as_raw_fd()
    }

    /// After a start that succeeded; None when there is no sentinel.
    pub(super) fn sentinel(self) -> io::Result<Option<Sentinel>> {
        drop(self.theirs);
        let mut pid = [0; size_of::<i32>()];
        // It is there: written before the program was executed.
        io::Read::read_exact(&mut &self.ours, &mut pid)?;
        let Some(pid) = Pid::from_raw(i32::from_ne_bytes(pid)) else { return Ok(None) };
        self.ours.set_nonblocking(true)?;
        let line = tokio::net::UnixStream::from_std(self.ours)?;
        Ok(Some(Sentinel { pid, line, ended: false }))
    }
}

impl Sentinel {
    /// How often Ctrl-C was pressed since the last call; pending while it was not.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn interrupted(&mut self) -> usize {
        loop {
            if self.ended || self.line.readable().await.is_err() {
                std::future::pending::<()>().await;
            }
            let read = self.line.try_io(Interest::READABLE, || self.read());
            let count = self.count(&read);
            if count > 0 {
                return count;
            }
        }
    }

    /// The same, without waiting: asked of the kernel, for what tokio knows may be older.
    pub(super) fn heard(&mut self) -> usize {
        let read = self.read();
        self.count(&read)
    }

    fn read(&self) -> io::Result<usize> {
        Ok(rustix::io::read(&self.line, &mut [0; 64])?)
    }

    fn count(&mut self, read: &io::Result<usize>) -> usize {
        match read {
            Ok(0) => self.ended = true,
            Ok(count) => return *count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.ended = true,
        }
        0
    }

    /// Lets it look a last time and end; what it saw is [`Self::heard`] when it is reaped.
    pub(super) fn dismiss(&self) {
        let _ = rustix::net::shutdown(&self.line, rustix::net::Shutdown::Write);
        // Somebody may have sent SIGSTOP to the group.
        let _ = kill_process(self.pid, Signal::CONT);
    }
}

/// Between fork and exec of the command, in the command's group and before it has the terminal:
/// forks the sentinel as a sibling of the command, a child of ours, and says its number on `line`.
/// Only async-signal-safe calls. That it cannot be made is no error.
pub(super) fn fork(line: RawFd) {
    // SAFETY: plain system calls with pointers to locals. clone with these flags is fork, except
    // that the new process is a child of the caller's parent (the command must not find a child
    // that it does not know); it returns twice, and the second time only `stand` runs, which never
    // returns. The mask is emptied again as std left it.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut mask);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
        let none: libc::c_long = 0;
        let made = libc::syscall(libc::SYS_clone, flags, none, none, none, none);
        if made == 0 {
            stand(line);
        }
        libc::sigemptyset(&raw mut mask);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut());
        let pid = i32::try_from(made).unwrap_or(0).max(0).to_ne_bytes();
        libc::write(line, pid.as_ptr().cast(), pid.len());
    }
}

/// The sentinel's whole life. Every signal is blocked.
///
/// # Safety
/// To be called in a fresh fork, whose descriptors it closes; makes system calls only.
unsafe fn stand(line: RawFd) -> ! {
    // SAFETY: as above; every pointer is to a local that outlives its call.
    unsafe {
        libc::dup2(line, 0);
        close_all_but_the_first();
        libc::prctl(libc::PR_SET_NAME, c"e2ek-sentinel".as_ptr());
        let mut interrupt: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut interrupt);
        libc::sigaddset(&raw mut interrupt, libc::SIGINT);
        let signals = libc::signalfd(-1, &raw const interrupt, libc::SFD_NONBLOCK);
        if signals < 0 {
            libc::_exit(1);
        }
        let ready = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        loop {
            let mut wanted = [ready(0), ready(signals)];
            libc::poll(wanted.as_mut_ptr(), 2, -1);
            // In this order: what came before the line ended is still said.
            let over = wanted[0].revents != 0;
            while let Some(code) = next_interrupt(signals) {
                if code == SI_KERNEL && libc::write(0, (&raw const INTERRUPTED).cast(), 1) != 1 {
                    libc::_exit(1);
                }
            }
            if over {
                libc::_exit(0);
            }
        }
    }
}

/// `ssi_code` of what the terminal sends (asm-generic/siginfo.h).
const SI_KERNEL: i32 = 0x80;

/// Where the next SIGINT came from, if there is one.
///
/// # Safety
/// `signals` is a signalfd that does not block.
unsafe fn next_interrupt(signals: RawFd) -> Option<i32> {
    // SAFETY: all zeros is a valid value of this plain structure, and at most its size is written.
    unsafe {
        let mut info: libc::signalfd_siginfo = std::mem::zeroed();
        let size = size_of_val(&info);
        let read = libc::read(signals, (&raw mut info).cast(), size);
        (read == size.cast_signed()).then_some(info.ssi_code)
    }
}

/// Closes all descriptors from 1 on: among them the one by which the starter learns that the
/// program runs, and what our own peers wait to be closed when we die.
///
/// # Safety
/// To be called where nothing uses them any more.
unsafe fn close_all_but_the_first() {
    // SAFETY: integers, and a local structure.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 1_u32, u32::MAX, 0_u32) == 0 {
            return;
        }
        // Before Linux 5.9.
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let most = i32::try_from(limit.rlim_cur).unwrap_or(i32::MAX).min(1 << 20);
        for fd in 1..most {
            libc::close(fd);
        }
    }
}
