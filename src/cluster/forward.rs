//! Carries one connection to a port of a pod (`pods/portforward`).
//!
//! Channel 0 is content, channel 1 what went wrong; each begins with a message that holds the port.
//! As long as the app has not answered, what was sent to it is kept: where nobody listens yet (it is
//! being restarted, or its pod is another by now) the connection is made again and it is sent again.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

use super::object::check_name;
use super::{Ask, Cluster, ClusterError};

const CONTENT: u8 = 0;
const TROUBLE: u8 = 1;
/// Read at once.
const READ_BYTES: usize = 64 << 10;
/// What is kept to be sent again; who sends more before the first answer is not tried again.
const KEPT_BYTES: usize = 1 << 20;
/// So long an app that does not listen is waited for.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(100);
/// How long an answer may take after our side has said all.
const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How a try ended.
enum Tried {
    /// It was carried to its end.
    Done,
    /// Nobody listens there, and nothing was answered.
    Unanswered,
}

/// One connection of somebody here.
struct Guest {
    stream: TcpStream,
    /// Sent before anything was answered.
    sent: Vec<u8>,
    answered: bool,
    /// Has said all it had to say.
    silent: bool,
}

impl Cluster {
    /// Carries `stream` to `port` of the first of `pods` that takes it; waits for one for a while.
    ///
    /// # Errors
    /// When it must not be done.
    pub async fn forward(
        &self,
        mut pods: watch::Receiver<Vec<String>>,
        port: u16,
        stream: TcpStream,
    ) -> Result<(), ClusterError> {
        let mut guest = Guest { stream, sent: Vec::new(), answered: false, silent: false };
        let until = Instant::now() + LISTENS_WITHIN;
        while Instant::now() < until && guest.sent.len() <= KEPT_BYTES {
            let now = pods.borrow_and_update().clone();
            for pod in now {
                match self.try_forward(&pod, port, &mut guest).await {
                    Ok(Tried::Done) => return Ok(()),
                    Err(error @ ClusterError::Forbidden { .. }) => return Err(error),
                    Err(error) => tracing::debug!(pod, %error, "not forwarded"),
                    Ok(Tried::Unanswered) => {}
                }
                if guest.answered {
                    return Ok(());
                }
            }
            let _ = tokio::time::timeout(AGAIN, pods.changed()).await;
        }
        Ok(())
    }

    async fn try_forward(
        &self,
        pod: &str,
        port: u16,
        guest: &mut Guest,
    ) -> Result<Tried, ClusterError> {
        check_name("pod", pod)?;
        let path =
            format!("/api/v1/namespaces/{}/pods/{pod}/portforward?ports={port}", self.namespace());
        let ask = Ask { path, verb: "get", resource: "pods/portforward" };
        let connection = self.ready().await?.client.connect(ask.request()?).await;
        let connection = connection.map_err(|error| self.failed(&ask, error))?;
        let (mut sender, mut receiver) = connection.into_stream().split();
        let mut headers = [false; 2];
        if !guest.sent.is_empty() {
            let _ = sender.send(content(&guest.sent)).await;
        }
        let mut buffer = vec![0; READ_BYTES];
        let mut ends_at = None;
        loop {
            let last = async {
                match ends_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                read = guest.stream.read(&mut buffer), if !guest.silent => match read {
                    Ok(len @ 1..) => {
                        if !guest.answered {
                            guest.sent.extend_from_slice(&buffer[..len]);
                        }
                        if sender.send(content(&buffer[..len])).await.is_err() {
                            return Ok(guest.outcome());
                        }
                    }
                    // There is no half-close: what it asked for may still come.
                    _ => guest.silent = true,
                },
                next = receiver.next() => {
                    let Some(Ok(Message::Binary(bytes))) = next else { return Ok(guest.outcome()) };
                    let Some((&channel, said)) = bytes.split_first() else { continue };
                    let Some(header) = headers.get_mut(usize::from(channel)) else { continue };
                    if !std::mem::replace(header, true) {
                        continue;
                    }
                    match channel {
                        CONTENT => {
                            guest.answered = true;
                            guest.sent = Vec::new();
                            if guest.stream.write_all(said).await.is_err() {
                                return Ok(Tried::Done);
                            }
                        }
                        TROUBLE => return Ok(guest.outcome()),
                        _ => {}
                    }
                }
                () = last => return Ok(Tried::Done),
            }
            if guest.silent && ends_at.is_none() {
                ends_at = Some(tokio::time::Instant::now() + LAST_ANSWER_WITHIN);
            }
        }
    }
}

impl Guest {
    fn outcome(&self) -> Tried {
        if self.answered { Tried::Done } else { Tried::Unanswered }
    }
}

fn content(bytes: &[u8]) -> Message {
    Message::Binary([&[CONTENT], bytes].concat().into())
}
