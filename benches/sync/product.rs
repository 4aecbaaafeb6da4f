//! Owns the binaries under measurement: where they are, and how one is started, heard and stopped.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Result, clock, complain};

/// What a first sync may take for each file, beyond what any may take.
const PER_FILE: Duration = Duration::from_millis(2);

/// The built binaries.
pub(crate) struct Product {
    pub(crate) binary: PathBuf,
    /// `None`: it was neither there nor could it be built.
    pub(crate) sidecar: Option<PathBuf>,
}

impl Product {
    /// Cargo built the binary for us; the other package's it builds on request.
    pub(crate) fn find() -> Result<Self> {
        let binary = Self::alone().binary;
        let directory = binary.parent().ok_or("the binary has no directory")?;
        if let Err(error) = build_sidecar(directory) {
            complain(format_args!("e2ek-sidecar was not built: {error}"));
        }
        let sidecar = directory.join("e2ek-sidecar");
        let sidecar = sidecar.is_file().then_some(sidecar);
        if sidecar.is_none() {
            complain(format_args!(
                "no e2ek-sidecar in {}: what needs it is left out \
                 (cargo build --release -p e2ek-sidecar)",
                directory.display()
            ));
        }
        Ok(Self { binary, sidecar })
    }

    /// Without a sidecar on this machine.
    pub(crate) fn alone() -> Self {
        Self { binary: PathBuf::from(env!("CARGO_BIN_EXE_e2ek-sync")), sidecar: None }
    }

    /// The binary in a world of its own: state, home and working directory are in `place`.
    pub(crate) fn command(&self, place: &Path) -> Result<Command> {
        std::fs::create_dir_all(place)?;
        let mut command = Command::new(&self.binary);
        command
            .args(["--output", "lines", "--state-dir"])
            .arg(place.join("state"))
            .current_dir(place)
            .env_clear()
            .env("HOME", place)
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null());
        Ok(command)
    }

    /// The words for `--transport-cmd`, when there is a sidecar; `before` runs it.
    pub(crate) fn transport(&self, place: &Path, before: &[&Path]) -> Option<OsString> {
        let sidecar = self.sidecar.as_deref()?;
        let state = place.join("hub-state");
        let stdio = [Path::new("stdio"), Path::new("--state"), state.as_path()];
        let words = before.iter().copied().chain([sidecar]).chain(stdio);
        let quoted: Vec<String> = words.map(|word| format!("'{}'", word.display())).collect();
        Some(quoted.join(" ").into())
    }
}

fn build_sidecar(directory: &Path) -> Result<()> {
    let (Some(cargo), Some(target)) = (std::env::var_os("CARGO"), directory.parent()) else {
        return Err("not started by cargo".into());
    };
    let built = Command::new(cargo)
        .args(["build", "--release", "--locked", "--quiet", "-p", "e2ek-sidecar"])
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .status()?;
    if built.success() { Ok(()) } else { Err(built.to_string().into()) }
}

/// A line with the moment it was read.
pub(crate) struct Line {
    pub(crate) at: u64,
    pub(crate) text: String,
}

impl Line {
    /// The value of `key=` in a line that begins with `[e2ek] WORDS`.
    pub(crate) fn value(&self, words: &str, key: &str) -> Option<&str> {
        let rest = self.text.strip_prefix("[e2ek] ")?.strip_prefix(words)?;
        rest.split_ascii_whitespace().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    }
}

/// A running `watch`; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    lines: Receiver<Line>,
    reader: Option<JoinHandle<()>>,
    errors: PathBuf,
}

impl Daemon {
    /// Starts it; what it says on stderr goes to a file in `place`.
    pub(crate) fn start(mut command: Command, place: &Path) -> Result<Self> {
        let errors = place.join("stderr");
        let mut child = command.stdout(Stdio::piped()).stderr(File::create(&errors)?).spawn()?;
        let output = child.stdout.take().ok_or("no stdout")?;
        let (sender, lines) = channel();
        let reader = std::thread::spawn(move || {
            for text in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                if sender.send(Line { at: clock::now(), text }).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines, reader: Some(reader), errors })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first line for which `wanted` is true.
    pub(crate) fn wait_for(
        &mut self,
        what: &str,
        timeout: Duration,
        wanted: impl Fn(&Line) -> bool,
    ) -> Result<Line> {
        let end = Instant::now() + timeout;
        let mut last = String::new();
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if wanted(&line) => return Ok(line),
                Ok(line) => last = line.text,
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.trouble(&format!("{what}: not in {timeout:?}"), &last));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.trouble(&format!("{what}: it ended before"), &last));
                }
            }
        }
    }

    /// Waits for the generations of a first sync: until they have brought so many files.
    pub(crate) fn wait_synced(&mut self, files: usize) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(120) + PER_FILE * u32::try_from(files)?;
        let ok = |line: &Line| line.value("sync end", "status") == Some("ok");
        let mut brought = 0;
        while brought < files {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.wait_for("initial sync", left, ok)?;
            let count = line.value("sync end", "files").ok_or("sync end without files")?;
            brought += count.parse::<usize>()?;
        }
        Ok(())
    }

    /// What was said until now.
    pub(crate) fn said(&self) -> Vec<Line> {
        self.lines.try_iter().collect()
    }

    /// Asks it to end, as Ctrl-C does, and waits.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT)?;
        let end = Instant::now() + Duration::from_secs(15);
        while Instant::now() < end {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(self.trouble("it does not stop", ""))
    }

    fn trouble(&self, what: &str, last: &str) -> Box<dyn std::error::Error + Send + Sync> {
        let errors = std::fs::read_to_string(&self.errors).unwrap_or_default();
        format!("watch: {what}; last line: {last:?}; stderr: {errors:?}").into()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Runs a command to its end, its output dropped: its wall time in nanoseconds.
pub(crate) fn time(command: &mut Command) -> Result<i64> {
    let began = clock::now();
    let output = command.stdin(Stdio::null()).output()?;
    let took = crate::figures::between(began, clock::now());
    succeeded(output.status, &output.stderr, &output.stdout)?;
    Ok(took)
}

fn succeeded(status: ExitStatus, stderr: &[u8], stdout: &[u8]) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(stderr);
    let out = String::from_utf8_lossy(stdout);
    Err(format!("{status}: {}; {}", text.trim(), out.trim()).into())
}
