//! Owns the three pipes of a command without a terminal, and the one of a command that runs first.
//!
//! The three live as long as the runner, not as long as one child: what the old child did not read
//! from its standard input is there for the next one, as if the input were inherited.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::{Receiver, Sender};

use super::Stream;
use super::child::Streams;

/// One read, and so one event, holds at most this much.
const CHUNK_BYTES: usize = 16 * 1024;
/// What is read at most when a child has exited and another process may go on writing.
const DRAIN_BYTES: usize = 1024 * 1024;

/// Something happened on a pipe.
#[derive(Debug)]
pub(super) enum Ready {
    /// These bytes came; never empty.
    Output(Stream, Vec<u8>),
    /// So many bytes went into standard input.
    Taken(usize),
    /// The writers are gone (of a command's pipe only).
    Closed,
}

/// The command's standard streams.
#[derive(Debug)]
pub(super) struct Pipes {
    /// What children get. Ours, so that no end ever closes.
    ends: [OwnedFd; 3],
    /// None once closed.
    input: Option<Sender>,
    /// Not yet written.
    backlog: VecDeque<u8>,
    /// Close the input once the backlog is written.
    closing: bool,
    output: Receiver,
    error: Receiver,
}

impl Pipes {
    /// Needs a tokio runtime.
    pub(super) fn new() -> io::Result<Self> {
        let (child_in, input) = pipe_with(PipeFlags::CLOEXEC)?;
        let (output, child_out) = pipe_with(PipeFlags::CLOEXEC)?;
        let (error, child_err) = pipe_with(PipeFlags::CLOEXEC)?;
        Ok(Self {
            ends: [child_in, child_out, child_err],
            input: Some(Sender::from_owned_fd(input)?),
            backlog: VecDeque::new(),
            closing: false,
            output: Receiver::from_owned_fd(output)?,
            error: Receiver::from_owned_fd(error)?,
        })
    }

    /// For one child.
    pub(super) fn streams(&self) -> io::Result<Streams> {
        let [stdin, stdout, stderr] = &self.ends;
        Ok(Streams {
            stdin: Some(stdin.try_clone()?),
            stdout: Some(stdout.try_clone()?),
            stderr: Some(stderr.try_clone()?),
        })
    }

    /// Adds input; dropped when it was closed before.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.input.is_some() && !self.closing {
            self.backlog.extend(bytes);
        }
    }

    /// End of file after what was added so far.
    pub(super) fn close_input(&mut self) {
        self.closing = true;
        self.close_if_written();
    }

    /// Not yet written bytes of input.
    pub(super) fn backlog(&self) -> usize {
        self.backlog.len()
    }

    fn close_if_written(&mut self) {
        if self.closing && self.backlog.is_empty() {
            self.input = None;
        }
    }

    /// # Cancel safety
    /// Nothing is read or written before it returns.
    pub(super) async fn ready(&mut self) -> Ready {
        loop {
            tokio::select! {
                result = self.output.readable() => {
                    if let Some(Ok(bytes)) = result.ok().map(|()| read(&self.output)) {
                        return Ready::Output(Stream::Stdout, bytes);
                    }
                }
                result = self.error.readable() => {
                    if let Some(Ok(bytes)) = result.ok().map(|()| read(&self.error)) {
                        return Ready::Output(Stream::Stderr, bytes);
                    }
                }
                () = writable(self.input.as_ref(), !self.backlog.is_empty()) => {
                    if let Some(bytes) = self.write_some() {
                        return Ready::Taken(bytes);
                    }
                }
            }
        }
    }

    fn write_some(&mut self) -> Option<usize> {
        let input = self.input.as_ref()?;
        let bytes = input.try_write(self.backlog.as_slices().0).ok()?;
        self.backlog.drain(..bytes);
        self.close_if_written();
        Some(bytes)
    }

    /// What lies in the pipes now: said before the exit of its writer is.
    pub(super) fn drain(&mut self) -> Vec<Ready> {
        let mut ready = Vec::new();
        for (stream, pipe) in [(Stream::Stdout, &self.output), (Stream::Stderr, &self.error)] {
            let mut left = DRAIN_BYTES;
            while left > 0
                && let Ok(bytes) = read_now(pipe)
            {
                left = left.saturating_sub(bytes.len());
                ready.push(Ready::Output(stream, bytes));
            }
        }
        ready
    }
}

async fn writable(input: Option<&Sender>, wanted: bool) {
    match input {
        // An error shows when writing.
        Some(input) if wanted => drop(input.writable().await),
        _ => std::future::pending().await,
    }
}

/// `WouldBlock` when nothing is there, `UnexpectedEof` at the end.
fn read(pipe: &Receiver) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; CHUNK_BYTES];
    let length = pipe.try_read(&mut bytes)?;
    finish(bytes, length)
}

/// The same without asking tokio, which may not have heard yet that there is something.
fn read_now(pipe: &Receiver) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; CHUNK_BYTES];
    let length = rustix::io::read(pipe, &mut bytes)?;
    finish(bytes, length)
}

fn finish(mut bytes: Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(length);
    bytes.shrink_to_fit();
    Ok(bytes)
}

/// Both output streams of one command that runs first, as one.
#[derive(Debug)]
pub(super) struct CommandPipe {
    /// None at the end of file.
    pipe: Option<Receiver>,
}

impl CommandPipe {
    /// The pipe, and the streams for the child: nothing to read, one place to write to.
    pub(super) fn new() -> io::Result<(Self, Streams)> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        let null = std::fs::File::open("/dev/null")?;
        let streams = Streams {
            stdin: Some(null.into()),
            stderr: Some(theirs.try_clone()?),
            stdout: Some(theirs),
        };
        let pipe = Some(Receiver::from_owned_fd(ours)?);
        Ok((Self { pipe }, streams))
    }

    /// # Cancel safety
    /// Nothing is read before it returns.
    pub(super) async fn ready(&mut self) -> Ready {
        loop {
            let Some(pipe) = &self.pipe else {
                return std::future::pending().await;
            };
            if pipe.readable().await.is_err() {
                self.pipe = None;
                return Ready::Closed;
            }
            match read(pipe) {
                Ok(bytes) => return Ready::Output(Stream::Command, bytes),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    self.pipe = None;
                    return Ready::Closed;
                }
            }
        }
    }

    /// What lies in the pipe now.
    pub(super) fn drain(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(pipe) = &self.pipe
            && all.len() < DRAIN_BYTES
            && let Ok(bytes) = read_now(pipe)
        {
            all.extend(bytes);
        }
        all
    }
}
