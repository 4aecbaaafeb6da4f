//! One supervisor under test.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Nothing here takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Supervised {
    pub(crate) directory: TempDir,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

/// `sh -c script` under `supervise` with these flags, watching a new directory for `*.py`.
pub(crate) fn supervise(flags: &[&str], script: &str) -> Supervised {
    let directory = tempfile::tempdir().unwrap();
    supervise_in(directory, flags, script)
}

pub(crate) fn supervise_in(directory: TempDir, flags: &[&str], script: &str) -> Supervised {
    let mut command = command(&directory, flags, script);
    start(directory, &mut command)
}

pub(crate) fn command(directory: &TempDir, flags: &[&str], script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_e2ek-sync"));
    command.arg("supervise").arg("-d").arg(directory.path());
    if !flags.contains(&"-p") {
        command.args(["-p", "*.py"]);
    }
    command.args(flags).args(["--", "sh", "-c", script]);
    command.current_dir(directory.path());
    // As a shell starts it, whatever started the tests: nohup(1) ignores SIGHUP.
    let usual = || {
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
            // SAFETY: SIG_DFL is a valid disposition.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: three system calls, no allocation, no lock.
    unsafe { command.pre_exec(usual) };
    command
}

pub(crate) fn start(directory: TempDir, command: &mut Command) -> Supervised {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // Out of the test's group, so that nothing can hit the test.
    let mut child = command.process_group(0).spawn().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = channel();
    thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        let own = lines.filter(|line| !line.starts_with("[e2ek]"));
        own.for_each(|line| drop(sender.send(line)));
    });
    Supervised { stdin: child.stdin.take(), directory, child, lines }
}

impl Supervised {
    /// The next line of the command.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("the command says something")
    }

    #[track_caller]
    pub(crate) fn expect(&self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// The next line, as a number.
    #[track_caller]
    pub(crate) fn number(&self) -> i32 {
        self.line().parse().expect("a number")
    }

    /// Nothing is said for this long.
    #[track_caller]
    pub(crate) fn silent_for(&self, time: Duration) {
        let said = self.lines.recv_timeout(time);
        assert_eq!(said, Err(RecvTimeoutError::Timeout));
    }

    /// How many lines come within this long.
    pub(crate) fn lines_for(&self, time: Duration) -> usize {
        let until = Instant::now() + time;
        let left = || until.saturating_duration_since(Instant::now());
        std::iter::from_fn(|| self.lines.recv_timeout(left()).ok()).count()
    }

    /// Saves a file in the watched directory, by one rename: that is one event, however slow we are.
    pub(crate) fn save(&self, name: &str) {
        save(&self.path(name), self.directory.path());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    pub(crate) fn type_line(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually(|| self.child.try_wait().unwrap())
    }

    /// What the command still says, until no process is left that could.
    #[track_caller]
    pub(crate) fn rest(&self) -> Vec<String> {
        let mut rest = Vec::new();
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => rest.push(line),
                Err(RecvTimeoutError::Disconnected) => return rest,
                Err(RecvTimeoutError::Timeout) => panic!("a process is left; so far {rest:?}"),
            }
        }
    }

    /// SIGTERM, and its end: the exit code and what the command still said.
    #[track_caller]
    pub(crate) fn stop(&mut self) -> (Option<i32>, Vec<String>) {
        self.signal(Signal::TERM);
        let code = self.wait().code();
        (code, self.rest())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Twice: at once. Then it leaves nothing, unlike SIGKILL.
            self.signal(Signal::TERM);
            self.signal(Signal::TERM);
            let _ = self.child.wait();
        }
    }
}

/// Makes a file anew in one step; what it is made of stands beside the directory.
pub(crate) fn save(path: &Path, directory: &Path) {
    let aside = directory.with_extension("aside-of-a-save");
    fs::write(&aside, path.as_os_str().as_encoded_bytes()).unwrap();
    fs::rename(aside, path).unwrap();
}

/// Waits for a condition that nobody announces.
#[track_caller]
pub(crate) fn eventually<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < until, "in vain");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process exists, zombies included.
pub(crate) fn exists(pid: i32) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

/// Whether a process runs: it exists and is no zombie.
pub(crate) fn runs(pid: i32) -> bool {
    field(pid, 0).is_some_and(|state| state != "Z" && state != "X")
}

/// A field of /proc/pid/stat, counted from the state.
pub(crate) fn field(pid: i32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, tail) = stat.rsplit_once(") ")?;
    tail.split_whitespace().nth(index).map(str::to_owned)
}
