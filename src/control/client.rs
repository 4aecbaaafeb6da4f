//! Owns the asking end of the socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::line::{LineError, Lines};
use super::{CONTROL_VERSION, Joining, Reply, Request, Versioned};
use crate::report::{Failure, Record, json_line};

/// A connection to a running daemon. Requests are answered one after the other.
#[derive(Debug)]
pub struct ControlClient {
    lines: Lines<OwnedReadHalf>,
    to: OwnedWriteHalf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("no daemon listens")]
    NoDaemon,
    /// The socket, or the daemon behind it, is another user's.
    #[error("the daemon's socket belongs to another user")]
    Forbidden,
    /// The daemon did not answer in time.
    #[error("the daemon does not answer")]
    Silent,
    /// The daemon ended before it answered.
    #[error("the daemon ended before it answered")]
    Ended,
    /// The daemon answered what cannot be understood.
    #[error("the daemon's answer is not understood: {0}")]
    Garbled(String),
    /// The daemon speaks another version.
    #[error("the daemon speaks control version {theirs}, this program version {CONTROL_VERSION}")]
    Version {
        /// What it speaks.
        theirs: u32,
    },
    /// The connection failed.
    #[error("connection to the daemon")]
    Io(#[source] io::Error),
}

impl ControlClient {
    /// Connects to the daemon whose socket is at `path`. Never starts one.
    ///
    /// # Errors
    /// [`ClientError::NoDaemon`] when there is no socket or nobody behind it,
    /// [`ClientError::Ended`] when the daemon is just ending, [`ClientError::Forbidden`] when it is
    /// not ours.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon,
            io::ErrorKind::PermissionDenied => ClientError::Forbidden,
            // The queue of connections is full: the daemon is stopped, or nearly.
            io::ErrorKind::WouldBlock => ClientError::Silent,
            // Also when it ends while the connection stands in its queue.
            _ => lost(error),
        })?;
        let theirs = stream.peer_cred().map_err(ClientError::Io)?.uid();
        if theirs != rustix::process::geteuid().as_raw() {
            return Err(ClientError::Forbidden);
        }
        let (from, to) = stream.into_split();
        Ok(Self { lines: Lines::new(from), to })
    }

    /// Asks, and waits for the answer at most `patience`: give a request's own timeout and a
    /// little more, so that the daemon's answer wins.
    ///
    /// # Errors
    /// When there is no answer. An answer of "no" is [`Reply::Failed`].
    pub async fn request(
        &mut self,
        request: &Request,
        patience: Option<Duration>,
    ) -> Result<Reply, ClientError> {
        let asked = self.ask(request);
        match patience {
            Some(patience) => timeout(patience, asked).await.map_err(|_| ClientError::Silent)?,
            None => asked.await,
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let line = json_line(&Versioned::new(request)) + "\n";
        // A daemon that refuses us writes why and hangs up before it reads: look for that first.
        let written = self.to.write_all(line.as_bytes()).await;
        let line = match (next(&mut self.lines).await, written) {
            (Ok(Some(line)), _) => line,
            (Ok(None), Ok(())) => return Err(ClientError::Ended),
            (Ok(None), Err(error)) => return Err(lost(error)),
            (Err(error), _) => return Err(error),
        };
        let reply: Versioned<Reply> = serde_json::from_slice(&line).map_err(garbled)?;
        if reply.v != CONTROL_VERSION {
            return Err(ClientError::Version { theirs: reply.v });
        }
        Ok(reply.body)
    }

    /// Follows the daemon's events from now on.
    ///
    /// # Errors
    /// When the daemon does not agree within `patience`.
    pub async fn attach(mut self, patience: Duration) -> Result<Events, ClientError> {
        match self.request(&Request::Attach {}, Some(patience)).await? {
            Reply::Attached {} => Ok(Events { client: self }),
            other => Err(ClientError::Garbled(format!("{other:?}"))),
        }
    }

    /// Takes part in the daemon's session. It may wait until a target of the same place is let go
    /// of. The inner error is the daemon's "no".
    ///
    /// # Errors
    /// When there is no answer; [`ClientError::Ended`] when the daemon is just ending.
    pub async fn join(
        mut self,
        joining: Joining,
    ) -> Result<Result<Membership, Failure>, ClientError> {
        match self.request(&Request::Join(Box::new(joining)), None).await? {
            Reply::Joined { pid } => Ok(Ok(Membership { client: self, pid })),
            Reply::Failed(failure) => Ok(Err(failure)),
            other => Err(ClientError::Garbled(format!("{other:?}"))),
        }
    }

    /// Waits until the daemon hangs up: after [`Request::Stop`], its end.
    pub async fn closed(mut self) {
        while let Ok(Some(_)) = self.lines.next().await {}
    }
}

/// A daemon's events, as they come.
#[derive(Debug)]
pub struct Events {
    client: ControlClient,
}

impl Events {
    /// The next event; `None` when the daemon has ended. What this reader was too slow for is told
    /// by [`crate::report::Event::LeftOut`].
    ///
    /// # Errors
    /// When the connection fails or a line is not a record; the next call may well succeed after
    /// the latter.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn next(&mut self) -> Result<Option<Record>, ClientError> {
        match next(&mut self.client.lines).await? {
            Some(line) => serde_json::from_slice(&line).map(Some).map_err(garbled),
            None => Ok(None),
        }
    }
}

/// A part in another process's session; it ends with this value, or in good order by
/// [`Membership::leave`].
#[derive(Debug)]
pub struct Membership {
    client: ControlClient,
    /// The daemon's process.
    pub pid: u32,
}

/// What a [`Membership`] brings.
#[derive(Clone, Debug, PartialEq)]
pub enum Followed {
    /// Something was said.
    Record(Record),
    /// It is over; nothing follows. [`Reply::Done`] after [`Membership::leave`], or
    /// [`Reply::Failed`].
    Over(Reply),
    /// The daemon has ended; nothing follows.
    Ended,
}

impl Membership {
    /// What comes next. A line that is neither a record nor an answer is passed over.
    ///
    /// # Errors
    /// When the connection fails.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn next(&mut self) -> Result<Followed, ClientError> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Line {
            Reply(Versioned<Reply>),
            Record(Record),
        }
        loop {
            let line = match next(&mut self.client.lines).await {
                Ok(Some(line)) => line,
                Ok(None) | Err(ClientError::Ended) => return Ok(Followed::Ended),
                Err(error) => return Err(error),
            };
            match serde_json::from_slice(&line) {
                Ok(Line::Reply(reply)) => return Ok(Followed::Over(reply.body)),
                Ok(Line::Record(record)) => return Ok(Followed::Record(record)),
                Err(error) => tracing::warn!(%error, "not a record"),
            }
        }
    }

    /// Asks to leave; [`Followed::Over`] tells when it is done. What happens until then is
    /// told still.
    pub async fn leave(&mut self) {
        // A connection that is gone has left.
        let _ = self.client.to.shutdown().await;
    }
}

async fn next(lines: &mut Lines<OwnedReadHalf>) -> Result<Option<Vec<u8>>, ClientError> {
    match lines.next().await {
        Ok(line) => Ok(line),
        Err(LineError::TooLong) => Err(garbled(LineError::TooLong)),
        Err(LineError::Io(error)) => Err(lost(error)),
    }
}

fn lost(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => ClientError::Ended,
        _ => ClientError::Io(error),
    }
}

fn garbled(error: impl ToString) -> ClientError {
    ClientError::Garbled(error.to_string())
}
