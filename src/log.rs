//! Owns where diagnostics go: `tracing` to one rotating file per workspace, and to standard error
//! with `-v`.
//!
//! Promises that the file stays below a bound, that writing it never makes the daemon wait, and
//! that nothing in it drives a terminal. Logs are for whoever mends the program; what people and
//! scripts rely on is `report`.
//!
//! # Conventions
//! - A save is followed by its generation: whoever works on one does so in [`generation`]'s span,
//!   `info_span!("gen", n = 42)`, on every task it passes through (`Instrument`). `grep 'gen{n=42}'`
//!   then tells its whole way.
//! - One target's work is in `info_span!("target", name = %target)`.
//! - Levels: `error` for what a person was told as an error, `warn` for what was repaired or
//!   degraded, `info` for one line per generation, restart and connection, `debug` for decisions,
//!   `trace` for each path.
//! - Paths and other text from outside by `%` of their escaping `Display` (`SyncPath`, `Text`), as
//!   fields, never spliced into the message. Content, environments and arguments of commands are
//!   never logged.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::Subscriber;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::report::{LogWriter, Text};

/// When the file is put aside, in bytes. With its predecessor it holds twice as much at most.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// Lines that may wait for the disk; more are left out.
const MAX_WAITING_LINES: usize = 8192;
/// What is logged where nothing was asked for.
const DEFAULT_FILTER: &str = "info";

/// What was decided about the log.
#[derive(Default)]
pub struct Options<'a> {
    /// The workspace's state directory; the file is `log/e2ek.log` in it, the one before it
    /// `log/e2ek.log.1`. `None` for commands that have no workspace: no file.
    pub state: Option<&'a Path>,
    /// `--log` or `E2EK_LOG`, in tracing's filter grammar; for both outputs.
    pub filter: Option<&'a str>,
    /// How often `-v` was given: standard error has `info` and up with 1, `debug` with 2, `trace`
    /// with 3, unless `filter` says otherwise.
    pub verbose: u8,
    /// Standard error, from [`crate::report::Reporter::log_writer`]; `None` for never.
    pub stderr: Option<LogWriter>,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("log filter `{filter}`: {reason}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file cannot be made.
    #[error("{}", path.display())]
    Io {
        /// The file or its directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The process already logs.
    #[error("logging was already set up")]
    Twice,
}

/// Writes what still waits for the disk when it is dropped. Hold it until the end of `main`.
#[derive(Debug)]
#[must_use = "dropping the guard ends the log"]
pub struct Guard {
    _worker: Option<WorkerGuard>,
}

/// Sets up the process's log, once.
///
/// # Errors
/// When the filter makes no sense or the file cannot be made. Nothing is set up then; whoever can
/// do without a log goes on.
pub fn start(options: Options<'_>) -> Result<Guard, LogError> {
    let (subscriber, guard) = subscriber(options)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    Ok(guard)
}

/// The span of one generation's work.
#[must_use]
pub fn generation(n: u64) -> tracing::Span {
    tracing::info_span!("gen", n)
}

/// The subscriber that [`start`] makes the process's own.
///
/// # Errors
/// Those of [`start`].
pub fn subscriber(
    options: Options<'_>,
) -> Result<(impl Subscriber + Send + Sync + use<>, Guard), LogError> {
    let (file, worker) = match options.state {
        Some(state) => {
            let (writer, worker) = file(&state.join("log"))?;
            let filter = filter(options.filter, DEFAULT_FILTER)?;
            (Some(lines(writer).with_filter(filter)), Some(worker))
        }
        None => (None, None),
    };
    let stderr = match options.stderr {
        Some(writer) if options.verbose > 0 => {
            let level = match options.verbose {
                1 => LevelFilter::INFO,
                2 => LevelFilter::DEBUG,
                _ => LevelFilter::TRACE,
            };
            let filter = filter(options.filter, &level.to_string())?;
            Some(lines(writer).with_filter(filter))
        }
        _ => None,
    };
    let subscriber = tracing_subscriber::registry().with(file).with(stderr);
    Ok((subscriber, Guard { _worker: worker }))
}

/// One line an event, uncoloured.
fn lines<S, W>(writer: W) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: Write + Clone + Send + Sync + 'static,
{
    fmt::layer().with_ansi(false).with_writer(move || Harmless(writer.clone()))
}

/// Escapes what could drive a terminal or forge a line. `fmt` does so for messages (CVE-2025-58160)
/// but not for fields shown by `%`; it hands over each event's line in one piece.
struct Harmless<W>(W);

impl<W: Write> Write for Harmless<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let (text, end) = match line.strip_suffix(b"\n") {
            Some(text) => (text, "\n"),
            None => (line, ""),
        };
        let harmless = Text::from(String::from_utf8_lossy(text).as_ref());
        self.0.write_all(format!("{harmless}{end}").as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn filter(asked: Option<&str>, otherwise: &str) -> Result<EnvFilter, LogError> {
    let filter = asked.unwrap_or(otherwise);
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), reason: error.to_string() })
}

fn file(directory: &Path) -> Result<(NonBlocking, WorkerGuard), LogError> {
    let path = directory.join("e2ek.log");
    let rotating = Rotating::open(path.clone(), MAX_FILE_BYTES)
        .map_err(|source| LogError::Io { path, source })?;
    Ok(NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_WAITING_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(rotating))
}

/// A file that is put aside as `NAME.1` (over the one before) before it grows past its bound.
#[derive(Debug)]
struct Rotating {
    path: PathBuf,
    file: File,
    /// What `file` holds, in bytes.
    len: u64,
    max: u64,
}

impl Rotating {
    /// Opens for appending; makes the directory (0700) and the file (0600) where they are not.
    fn open(path: PathBuf, max: u64) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let file = append(&path)?;
        let len = file.metadata()?.len();
        Ok(Self { path, file, len, max })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        fs::rename(&self.path, aside)?;
        self.file = append(&self.path)?;
        self.len = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Write for Rotating {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let grown = self.len + line.len() as u64;
        if self.len > 0 && grown > self.max {
            // Gone with its directory, or not ours any more: then this line goes to the old file,
            // and the next one tries again.
            let _ = self.rotate();
        }
        let written = self.file.write(line)?;
        self.len += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use tracing::subscriber::with_default;

    fn logged(filter: Option<&str>, say: impl FnOnce()) -> String {
        let state = tempfile::tempdir().unwrap();
        let options = Options { state: Some(state.path()), filter, ..Options::default() };
        let (subscriber, guard) = subscriber(options).unwrap();
        with_default(subscriber, say);
        drop(guard);
        let path = state.path().join("log/e2ek.log");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_save_is_followed_by_its_generation() {
        let text = logged(None, || {
            generation(42).in_scope(|| tracing::info!(files = 3, "sent"));
            tracing::debug!("not asked for");
        });
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("INFO gen{n=42}: e2ek_sync::log::tests: sent files=3"), "{text}");
    }

    #[test]
    fn the_filter_is_tracings_own() {
        let text = logged(Some("warn,e2ek_sync::log=trace"), || tracing::trace!("path"));
        assert!(text.contains("TRACE"), "{text}");
        let (filter, state) = (Some("a=nonsense=b"), tempfile::tempdir().unwrap());
        let wrong = subscriber(Options { state: Some(state.path()), filter, ..Default::default() });
        assert!(matches!(wrong, Err(LogError::Filter { .. })));
    }

    #[test]
    fn names_in_the_log_cannot_drive_a_terminal() {
        let text = logged(None, || {
            let name = "\x1b]0;x\x07";
            tracing::info!(field = %format!("{name}\nforged"), debug = ?name, "message {name}");
        });
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }

    #[test]
    fn i10_the_file_is_put_aside_before_it_grows_too_large() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log/x.log");
        let mut log = Rotating::open(path.clone(), 100).unwrap();
        for n in 0..50 {
            log.write_all(format!("line {n:>4}\n").as_bytes()).unwrap();
        }
        drop(log);
        let mut log = Rotating::open(path.clone(), 100).unwrap();
        log.write_all(b"after a restart\n").unwrap();
        let now = fs::read_to_string(&path).unwrap();
        let before = fs::read_to_string(directory.path().join("log/x.log.1")).unwrap();
        assert!(now.len() <= 100 && before.len() <= 100, "{} {}", now.len(), before.len());
        assert_eq!(fs::read_dir(directory.path().join("log")).unwrap().count(), 2);
        assert!(now.ends_with("after a restart\n"));
        let all = before + &now;
        assert!(all.contains("line   49\n") && !all.contains("line    0\n"), "{all}");
    }
}
