//! Row 8: the terminal is kept. The supervisor, or a shell, leads a session on a pseudo-terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, ioctl_tiocsctty, kill_process, setsid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr, tcgetpgrp};
use tempfile::TempDir;

use super::run::{PATIENCE, command, eventually, save};

pub(crate) struct Terminal {
    directory: TempDir,
    /// Where it is saved, below that.
    pub(crate) source: PathBuf,
    pub(crate) child: Child,
    /// The user's side.
    user: File,
    /// The program's side.
    terminal: OwnedFd,
    output: Receiver<Vec<u8>>,
    /// Not yet expected.
    seen: String,
}

/// Runs a command as the leader of a session on a new terminal.
pub(crate) fn on_terminal(directory: TempDir, mut command: Command) -> Terminal {
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&user).unwrap();
    unlockpt(&user).unwrap();
    let name = ptsname(&user, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = open(&name, flags, Mode::empty()).unwrap();
    let stream = || Stdio::from(terminal.try_clone().unwrap());
    command.stdin(stream()).stdout(stream()).stderr(stream());
    let controlling = || {
        setsid()?;
        Ok(ioctl_tiocsctty(rustix::stdio::stdin())?)
    };
    // SAFETY: two system calls, no allocation, no lock.
    unsafe { command.pre_exec(controlling) };
    let child = command.spawn().unwrap();
    let (sender, output) = channel();
    let mut reader = File::from(user.try_clone().unwrap());
    thread::spawn(move || {
        let mut bytes = vec![0; 4096];
        while let Ok(length) = reader.read(&mut bytes) {
            let _ = sender.send(bytes[..length].to_vec());
        }
    });
    let source = directory.path().to_owned();
    Terminal { directory, source, child, user: user.into(), terminal, output, seen: String::new() }
}

pub(crate) fn supervised(flags: &[&str], script: &str) -> Terminal {
    let directory = tempfile::tempdir().unwrap();
    let command = command(&directory, flags, script);
    on_terminal(directory, command)
}

impl Terminal {
    /// Waits until this is printed, and forgets everything up to there.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            let Ok(bytes) = self.output.recv_timeout(left) else {
                panic!("{text:?} was not printed, but {:?}", self.seen);
            };
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    /// Not since what was expected last. To be called when it has ended.
    #[track_caller]
    pub(crate) fn never_said(&mut self, text: &str) {
        while let Ok(bytes) = self.output.try_recv() {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        assert!(!self.seen.contains(text), "{:?}", self.seen);
    }

    pub(crate) fn keys(&mut self, keys: &str) {
        self.user.write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn save(&self, name: &str) {
        save(&self.source.join(name), self.directory.path());
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> Option<i32> {
        eventually(|| self.child.try_wait().unwrap()).code()
    }

    /// The group that has the terminal.
    pub(crate) fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(&self.user).ok()
    }

    fn has_mode(&self, mode: LocalModes) -> bool {
        tcgetattr(&self.terminal).unwrap().local_modes.contains(mode)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        while let Ok(None) = self.child.try_wait() {
            let _ = kill_process(pid, Signal::HUP);
            let _ = kill_process(pid, Signal::CONT);
            thread::yield_now();
        }
    }
}

pub(crate) const READER: &str = "
    test $(ps -o tpgid= -p $$) -eq $$ && echo foreground
    while read line; do echo got-$line-$PPID; done";

#[test]
fn the_command_reads_the_terminal_from_its_foreground_also_after_a_restart() {
    let mut terminal = supervised(&[], READER);
    let pid = terminal.child.id();
    terminal.expect("foreground");
    terminal.keys("one\n");
    terminal.expect(&format!("got-one-{pid}"));
    terminal.save("a.py");
    terminal.expect("foreground");
    terminal.keys("two\n");
    terminal.expect(&format!("got-two-{pid}"));
}

#[test]
fn the_modes_of_the_terminal_come_back_when_the_command_is_killed() {
    let script = "trap '' INT; stty -echo -icanon; echo raw-$((1 + 1)); while :; do sleep 9; done";
    let mut terminal = supervised(&["--kill-after", "0.1"], script);
    terminal.expect("raw-2");
    assert!(!terminal.has_mode(LocalModes::ECHO));
    let pid = Pid::from_raw(i32::try_from(terminal.child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(terminal.wait(), Some(143));
    assert!(terminal.has_mode(LocalModes::ECHO | LocalModes::ICANON));
}
