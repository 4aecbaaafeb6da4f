//! A hub behind a program: this one, started again as the embedded hub, or any that the user names.
//!
//! The embedded hub speaks over pipes of its own, so that its standard streams can be the
//! terminal's and go on to the command. A named program speaks over its standard streams, as `rsync
//! -e` does; what it says on standard error goes to ours.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use e2ek_sidecar::server::listen::{reader_of, writer_of};
use tokio::process::{Child, Command};

use super::{Carrier, Link};

/// What a pipe to a hub holds: as much as the kernel gives to anybody (`fs.pipe-max-size`).
const PIPE_BYTES: usize = 1 << 20;

/// How a hub is reached.
#[derive(Clone, Debug)]
pub enum Transport {
    /// This program as the hub.
    Embedded {
        /// This program.
        program: PathBuf,
        /// Where the hub keeps its records.
        state: PathBuf,
        /// Its standard streams are ours, for the command.
        terminal: bool,
    },
    /// A program that the user names.
    Program {
        /// It and its arguments.
        argv: Vec<OsString>,
        /// Where it is started; here without one.
        directory: Option<PathBuf>,
    },
}

/// The program behind a link. Killed when dropped, unless it ended by itself before.
pub struct Program {
    child: Child,
}

impl Program {
    /// Waits for its end, at most so long; then it is killed. Its code, if it ended by itself.
    pub async fn end(mut self, patience: Duration) -> Option<i32> {
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(Ok(status)) => status.code(),
            _ => {
                let _ = self.child.kill().await;
                None
            }
        }
    }
}

impl Transport {
    /// The program that is started, for people.
    #[must_use]
    pub fn program(&self) -> OsString {
        match self {
            Self::Embedded { program, .. } => program.clone().into_os_string(),
            Self::Program { argv, .. } => argv.first().cloned().unwrap_or_default(),
        }
    }

    /// Starts the program. The Hello is not exchanged yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn connect(&self) -> io::Result<Link> {
        match self {
            Self::Embedded { program, state, terminal } => embedded(program, state, *terminal),
            Self::Program { argv, directory } => named(argv, directory.as_deref()),
        }
    }
}

fn embedded(program: &PathBuf, state: &PathBuf, terminal: bool) -> io::Result<Link> {
    // Pipes rather than a socket: the reader's draining of a socket wakes its writer for nothing.
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let ((their_input, our_output), (our_input, their_output)) = (pipe()?, pipe()?);
    widen(&our_output);
    let mut command = Command::new(program);
    command.arg("hub").arg("--link").arg(their_input.as_raw_fd().to_string());
    command.arg("--link-out").arg(their_output.as_raw_fd().to_string());
    command.arg("--state").arg(state);
    if !terminal {
        command.stdin(Stdio::null()).stdout(Stdio::null());
    }
    command.kill_on_drop(true);
    // The two descriptors that the hub inherits. Nothing else is started at this moment.
    for fd in [&their_input, &their_output] {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
    }
    let child = command.spawn();
    drop((their_input, their_output));
    let (reader, writer) = (reader_of(our_input)?, writer_of(our_output)?);
    Ok(Link { reader, writer, carrier: Carrier::Program(Program { child: child? }) })
}

fn named(argv: &[OsString], directory: Option<&Path>) -> io::Result<Link> {
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    // A Ctrl-C on our terminal is for us to pass on, not for the carrier to die of.
    command.process_group(0);
    let mut child = command.spawn()?;
    let missing = || io::Error::other("no pipe");
    let output: OwnedFd = child.stdout.take().ok_or_else(missing)?.into_owned_fd()?;
    let input: OwnedFd = child.stdin.take().ok_or_else(missing)?.into_owned_fd()?;
    widen(&input);
    let (reader, writer) = (reader_of(output)?, writer_of(input)?);
    Ok(Link { reader, writer, carrier: Carrier::Program(Program { child }) })
}

/// Lets a pipe hold some frames of content, so that the next ones are read from the source while
/// those before are written at the target: with the usual 64 KiB, less than one frame, the two ends
/// take turns. Where the kernel refuses, it works all the same.
fn widen(pipe: &OwnedFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES);
}
