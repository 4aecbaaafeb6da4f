//! A hub in a pod: bytes over the channels of one exec.
//!
//! Reading and writing are polled apart, so neither side waits for the other. Content goes out in
//! messages of 64 KiB (measured at a real API server: 62 MiB/s with 4 KiB, 109 with 64), written
//! as they are full; what is less waits for a flush. So however content is cut, the API server makes two
//! reads of 32 KiB of each message and never one of a few bytes, which would go as far as to the pod. The two ends say themselves when a session is over; a
//! closed channel means nothing but that the link is gone.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{self, Bytes, Message};

use super::{Carrier, Link};
use crate::cluster::{Bridge, Cluster, ClusterError, Exec, Finish, Receiver, Sender};

/// Content of one message, in bytes.
const MESSAGE_BYTES: usize = 64 << 10;
/// What is kept of standard error: its end is what tells.
const COMPLAINT_BYTES: usize = 1024;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
/// v5: the channel that follows is closed.
const CLOSE: u8 = 255;

/// A hub in a pod.
#[derive(Clone, Debug)]
pub struct PodHub {
    /// Where.
    pub cluster: Cluster,
    /// Which pod.
    pub pod: String,
    /// Where in it, and by which program.
    pub bridge: Bridge,
}

/// What became of the process at the other end.
#[derive(Default)]
struct Ending {
    finish: Option<Finish>,
    complaint: Vec<u8>,
}

/// The far end of a link to a pod, to be asked how it ended.
#[derive(Default, Clone)]
pub struct FarEnd(Arc<Mutex<Ending>>);

struct ExecReader {
    messages: Receiver,
    /// Content of channel 1 that was not taken yet.
    left: Bytes,
    far: FarEnd,
}

struct ExecWriter {
    messages: Sender,
    /// The message that is not full yet, its channel first; empty without one.
    gathered: Vec<u8>,
    closes: bool,
    closing: bool,
}

impl PodHub {
    /// Starts the bridge in the pod.
    ///
    /// # Errors
    /// When the cluster will not.
    pub async fn connect(&self) -> Result<Link, ClusterError> {
        let Exec { receiver, sender, closes } =
            self.cluster.bridge(&self.pod, &self.bridge).await?;
        let far = FarEnd::default();
        let reader = ExecReader { messages: receiver, left: Bytes::new(), far: far.clone() };
        let writer = ExecWriter::new(sender, closes);
        let carrier = Carrier::Pod(far);
        Ok(Link { reader: Box::new(reader), writer: Box::new(writer), carrier })
    }
}

impl FarEnd {
    fn with<T>(&self, look: impl FnOnce(&mut Ending) -> T) -> T {
        let mut held = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        look(&mut held)
    }

    /// The exit code, and what was said about the end, if anything.
    pub(super) fn told(&self) -> (Option<i32>, Option<String>) {
        self.with(|ending| {
            let said = String::from_utf8_lossy(&ending.complaint).trim().to_owned();
            let (code, words) = match &ending.finish {
                Some(Finish::Code(code)) => (Some(*code), None),
                Some(Finish::Failed(words)) => (None, Some(words.clone())),
                None => (None, None),
            };
            let said = Some(said).filter(|said| !said.is_empty());
            (code, said.or(words))
        })
    }
}

impl ExecReader {
    fn take(&mut self, message: Message) {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            _ => return,
        };
        let Some((&channel, content)) = bytes.split_first() else { return };
        match channel {
            STDOUT => self.left = bytes.slice(1..),
            STDERR => self.far.with(|ending| {
                ending.complaint.extend_from_slice(content);
                let over = ending.complaint.len().saturating_sub(COMPLAINT_BYTES);
                ending.complaint.drain(..over);
            }),
            STATUS => {
                let finish = Finish::read(content);
                self.far.with(|ending| ending.finish = Some(finish));
            }
            _ => {}
        }
    }
}

impl AsyncRead for ExecReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.left.is_empty() {
            match ready!(self.messages.as_mut().poll_next(context)) {
                // Nothing comes after a Close, although the connection may stand for a while.
                Some(Ok(Message::Close(_))) => return Poll::Ready(Ok(())),
                Some(Ok(message)) => self.take(message),
                // The last words may be on their way when the connection goes: that is no error.
                None | Some(Err(tungstenite::Error::ConnectionClosed)) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        let len = self.left.len().min(into.remaining());
        into.put_slice(&self.left.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl ExecWriter {
    fn new(messages: Sender, closes: bool) -> Self {
        Self { messages, gathered: Vec::new(), closes, closing: false }
    }

    /// Sends what was gathered, full or not.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gathered.is_empty() {
            ready!(self.messages.as_mut().poll_ready(context)).map_err(io::Error::other)?;
            let message = Message::Binary(std::mem::take(&mut self.gathered).into());
            self.messages.as_mut().start_send(message).map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ExecWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.gathered.len() > MESSAGE_BYTES {
            ready!(self.poll_send(context))?;
        }
        if self.gathered.is_empty() {
            self.gathered.reserve_exact(1 + bytes.len().min(MESSAGE_BYTES));
            self.gathered.push(STDIN);
        }
        let len = bytes.len().min(1 + MESSAGE_BYTES - self.gathered.len());
        self.gathered.extend_from_slice(&bytes[..len]);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        self.messages.as_mut().poll_flush(context).map_err(io::Error::other)
    }

    /// Closes standard input where that alone can be closed, else the connection.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            ready!(self.poll_send(context))?;
            ready!(self.messages.as_mut().poll_ready(context)).map_err(io::Error::other)?;
            let last = match self.closes {
                true => Message::Binary(Bytes::from_static(&[CLOSE, STDIN])),
                false => Message::Close(None),
            };
            self.messages.as_mut().start_send(last).map_err(io::Error::other)?;
            self.closing = true;
        }
        self.poll_flush(context)
    }
}

#[cfg(test)]
mod tests;
