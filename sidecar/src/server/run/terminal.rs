//! Owns the terminal while commands come and go: who is in the foreground, and its modes.
//!
//! The command is the foreground group, so that Ctrl-C, Ctrl-Z and reading work as if it had been
//! typed into the shell. Between two runs the terminal is ours again, with the modes that it had
//! at our start, also when the command was killed in raw mode.

use rustix::process::{Pid, getpgrp, kill_current_process_group, kill_process_group};
use rustix::stdio::stdin;
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr, tcsetpgrp,
};

/// Our standard input, when that is a terminal that controls us.
#[derive(Debug)]
pub(super) struct Terminal {
    /// The modes at our start.
    modes: Termios,
}

impl Terminal {
    /// None when standard input is no terminal, or not the one that controls us.
    pub(super) fn find() -> Option<Self> {
        if !isatty(stdin()) || tcgetpgrp(stdin()).is_err() {
            return None;
        }
        let modes = tcgetattr(stdin()).ok()?;
        // SAFETY: SIG_IGN is a valid disposition, no handler is involved. Without it taking the
        // terminal back from the background would stop us (tcsetpgrp(3)).
        unsafe { libc::signal(libc::SIGTTOU, libc::SIG_IGN) };
        Some(Self { modes })
    }

    /// Whether it is ours to give away: we are not a background job.
    pub(super) fn is_ours(&self) -> bool {
        tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp())
    }

    /// Takes it back from a group that has ended, or stopped; from nobody else.
    pub(super) fn take_back(&self, group: Pid) {
        if tcgetpgrp(stdin()).is_ok_and(|now| now == group) {
            let _ = tcsetpgrp(stdin(), getpgrp());
            let _ = tcsetattr(stdin(), OptionalActions::Now, &self.modes);
        }
    }

    /// Takes it back after a start that failed: whoever was to be started has it, and is dead.
    pub(super) fn take_back_from_the_dead(&self) {
        let _ = tcsetpgrp(stdin(), getpgrp());
    }

    /// The foreground command was stopped by Ctrl-Z: stops our own job too, so that the shell gets
    /// the terminal; returns when the shell lets us go on, after the command goes on too.
    pub(super) fn stop_with(&self, group: Pid) {
        let modes = tcgetattr(stdin()).ok();
        self.take_back(group);
        let _ = kill_current_process_group(rustix::process::Signal::TSTP);
        if self.is_ours() {
            let _ = tcsetpgrp(stdin(), group);
            if let Some(modes) = modes {
                let _ = tcsetattr(stdin(), OptionalActions::Now, &modes);
            }
        }
        let _ = kill_process_group(group, rustix::process::Signal::CONT);
    }
}
