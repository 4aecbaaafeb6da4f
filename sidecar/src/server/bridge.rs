//! The bridge from a process's standard streams to a hub's socket, both ends of it: the process lends
//! its streams to the hub, which speaks over them itself, and stays until the hub has done.
//!
//! Nothing is carried from one stream to another, so a bridge costs neither copies nor wake-ups, and a
//! save one process less on its way. Whoever calls without lending anything speaks over the socket:
//! that is for sockets which are not the hub's own, for no descriptor goes through another program.

use std::io::{self, Cursor};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream as Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, BufReader, Interest, ReadBuf};
use tokio::net::UnixStream;

use super::listen::{DEAD_AFTER, reader_of, writer_of};
use super::pass;

/// What comes with the streams. No Hello begins with it.
const LENT: &[u8] = b"L";
/// What a pipe to the hub shall hold, in bytes: whoever fills it need not wait for each read.
const PIPE_BYTES: usize = 256 << 10;
/// Carried at once, in bytes.
const CARRIED_BYTES: usize = 64 << 10;
/// Read of a caller that lends nothing before it is known.
const READ_BYTES: usize = 4096;

/// What a caller speaks over.
pub(super) struct Ends {
    pub(super) reader: Box<dyn AsyncRead + Send + Unpin>,
    pub(super) writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// Whose streams these are; closed, it knows that they are not needed any more.
    pub(super) lender: Option<UnixStream>,
}

/// Lends this process's standard streams to a hub, and waits until it has done with them. Sleeps all
/// the while. A hub that does not notice that the other end of the streams is gone is left after fifteen
/// seconds.
///
/// # Errors
/// When the standard streams are neither pipes nor sockets, or cannot be lent. An end is no failure.
pub fn lend(hub: &Stream) -> io::Result<()> {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout()];
    for stream in streams {
        can_be_lent(stream)?;
    }
    match pass::send(hub, LENT, &streams) {
        Ok(_) => {}
        // It went in this moment.
        Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let [input, output] = streams;
    let mut watched = [
        // It says nothing: that it can be read means that it was closed.
        PollFd::new(hub, PollFlags::IN),
        PollFd::from_borrowed_fd(input, PollFlags::RDHUP),
        PollFd::from_borrowed_fd(output, PollFlags::empty()),
    ];
    wait(&mut watched, None)?;
    if watched[0].revents().is_empty() {
        wait(&mut watched[..1], Some(DEAD_AFTER))?;
    }
    Ok(())
}

/// Carries bytes between this process's standard streams and a hub until either ends. Needs a running
/// tokio runtime with I/O.
///
/// # Errors
/// When the standard streams are neither pipes nor sockets, or fail. An end is no failure.
pub async fn carry(hub: Stream) -> io::Result<()> {
    hub.set_nonblocking(true)?;
    let (from_hub, mut to_hub) = UnixStream::from_std(hub)?.into_split();
    let own = |stream: BorrowedFd<'_>| stream.try_clone_to_owned();
    let input = reader_of(own(rustix::stdio::stdin())?)?;
    let mut output = writer_of(own(rustix::stdio::stdout())?)?;
    let mut input = BufReader::with_capacity(CARRIED_BYTES, input);
    let mut from_hub = BufReader::with_capacity(CARRIED_BYTES, from_hub);
    let carried = tokio::select! {
        result = tokio::io::copy_buf(&mut input, &mut to_hub) => result,
        result = tokio::io::copy_buf(&mut from_hub, &mut output) => result,
    };
    match carried.map_err(|error| (error.kind(), error)) {
        Ok(_) | Err((io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset, _)) => Ok(()),
        Err((_, error)) => Err(error),
    }
}

fn wait(watched: &mut [PollFd<'_>], patience: Option<Duration>) -> io::Result<()> {
    let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
    loop {
        match poll(watched, patience.as_ref()) {
            Err(Errno::INTR) => {}
            done => return Ok(done.map(drop)?),
        }
    }
}

fn can_be_lent(stream: BorrowedFd<'_>) -> io::Result<()> {
    let mode = rustix::fs::fstat(stream)?.st_mode;
    match FileType::from_raw_mode(mode) {
        FileType::Fifo | FileType::Socket => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a pipe nor a socket")),
    }
}

/// Learns what a caller speaks over: with its first byte come its streams, or it has begun.
///
/// # Errors
/// When the socket fails, was closed, or the streams are none.
pub(super) async fn take_in(stream: UnixStream) -> io::Result<Ends> {
    let mut first = vec![0; READ_BYTES];
    let (len, fds) = loop {
        stream.readable().await?;
        let received =
            stream.try_io(Interest::READABLE, || Ok(pass::receive(stream.as_fd(), &mut first)?));
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => break received?,
        }
    };
    first.truncate(len);
    match <[_; 2]>::try_from(fds) {
        Ok([input, output]) if first == LENT => {
            // Where the kernel refuses, it works all the same.
            let _ = rustix::pipe::fcntl_setpipe_size(&input, PIPE_BYTES);
            let (reader, writer) = (reader_of(input)?, writer_of(output)?);
            Ok(Ends { reader, writer, lender: Some(stream) })
        }
        _ if len == 0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => {
            let (reader, writer) = stream.into_split();
            let reader = Box::new(Cursor::new(first).chain(reader));
            Ok(Ends { reader, writer: Box::new(writer), lender: None })
        }
    }
}

/// Ready when whoever lent its streams has ended; never where nobody did.
pub(super) async fn left(lender: Option<&UnixStream>) {
    let Some(lender) = lender else { return std::future::pending().await };
    loop {
        // It says nothing more.
        match lender.readable().await.and_then(|()| lender.try_read(&mut [0; 8])) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// A stream of which is counted what goes through.
pub(super) struct Metered<S> {
    stream: S,
    bytes: Arc<AtomicU64>,
}

impl<S> Metered<S> {
    /// With its count.
    pub(super) fn new(stream: S) -> (Self, Arc<AtomicU64>) {
        let bytes = Arc::new(AtomicU64::new(0));
        (Self { stream, bytes: Arc::clone(&bytes) }, bytes)
    }

    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        self.count(into.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.count(len);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
