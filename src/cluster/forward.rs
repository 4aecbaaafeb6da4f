//! Carries one connection to a port of a pod (`pods/portforward`).
//!
//! Channel 0 is content, channel 1 what went wrong; each begins with a message that holds the port.
//! Where nobody listens yet (the app is being restarted, or its pod is another by now) the connection
//! is made again, and what was sent on it is sent again: nobody had it. What an app may have had is not
//! sent twice, whether it answered or not.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
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
    /// Nobody listens there, and nobody had what was sent.
    Refused,
}

/// One connection of somebody here.
struct Guest {
    stream: TcpStream,
    sent: Mutex<Sent>,
}

/// What was sent before anything was answered, for whoever listens at last.
#[derive(Default)]
struct Sent {
    /// At most [`KEPT_BYTES`], and what was read at once.
    bytes: Vec<u8>,
    answered: bool,
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
        let mut guest = Guest { stream, sent: Mutex::default() };
        let until = Instant::now() + LISTENS_WITHIN;
        while Instant::now() < until {
            let now = pods.borrow_and_update().clone();
            for pod in now {
                match self.try_forward(&pod, port, &mut guest).await {
                    Ok(Tried::Done) => return Ok(()),
                    Err(error @ ClusterError::Forbidden { .. }) => return Err(error),
                    // There was no stream to send anything on.
                    Err(error) => tracing::debug!(pod, %error, "not forwarded"),
                    Ok(Tried::Refused) => {}
                }
                if !lock(&guest.sent).may_go_again() {
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
        let (sender, receiver) = connection.into_stream().split();
        let (from, to) = guest.stream.split();
        let mut answers = pin!(down(receiver, to, &guest.sent));
        // Neither way waits for the other: an app may answer before it has heard all.
        tokio::select! {
            biased;
            tried = &mut answers => return Ok(tried),
            said = up(from, sender, &guest.sent) => if said.is_err() {
                return Ok(lock(&guest.sent).cut());
            }
        }
        // There is no half-close: what was asked for may still come.
        Ok(tokio::time::timeout(LAST_ANSWER_WITHIN, answers).await.unwrap_or(Tried::Done))
    }
}

/// Sends what somebody here says, to the end; first what was sent in vain.
///
/// # Errors
/// When the stream to the pod is cut.
async fn up(
    mut from: ReadHalf<'_>,
    mut sender: impl Sink<Message> + Unpin,
    sent: &Mutex<Sent>,
) -> Result<(), ()> {
    let before = lock(sent).bytes.clone();
    if !before.is_empty() {
        sender.send(content(&before)).await.map_err(drop)?;
    }
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        lock(sent).add(&buffer[..len]);
        sender.send(content(&buffer[..len])).await.map_err(drop)?;
    }
    Ok(())
}

/// Passes on what the pod answers, until somebody hangs up.
async fn down<E>(
    mut receiver: impl Stream<Item = Result<Message, E>> + Unpin,
    mut to: WriteHalf<'_>,
    sent: &Mutex<Sent>,
) -> Tried {
    let mut headers = [false; 2];
    loop {
        let Some(Ok(Message::Binary(bytes))) = receiver.next().await else {
            return lock(sent).cut();
        };
        let Some((&channel, said)) = bytes.split_first() else { continue };
        let Some(header) = headers.get_mut(usize::from(channel)) else { continue };
        if !std::mem::replace(header, true) {
            continue;
        }
        match channel {
            CONTENT => {
                lock(sent).answered();
                if to.write_all(said).await.is_err() {
                    return Tried::Done;
                }
            }
            TROUBLE if is_refusal(said) && !lock(sent).answered => return Tried::Refused,
            _ => return lock(sent).cut(),
        }
    }
}

impl Sent {
    fn add(&mut self, bytes: &[u8]) {
        if self.may_go_again() {
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn answered(&mut self) {
        *self = Self { bytes: Vec::new(), answered: true };
    }

    /// Whether all that was sent is here, to be sent to somebody else.
    fn may_go_again(&self) -> bool {
        !self.answered && self.bytes.len() <= KEPT_BYTES
    }

    /// The stream ended, nobody says why: the app may have had what was sent on it.
    fn cut(&self) -> Tried {
        if self.answered || !self.bytes.is_empty() { Tried::Done } else { Tried::Refused }
    }
}

fn lock(sent: &Mutex<Sent>) -> MutexGuard<'_, Sent> {
    // It is whole whenever nobody holds it.
    sent.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a runtime says that it did not come as far as the app: containerd in Go's words, CRI-O in
/// socat's. What it says of a stream that was cut later begins in the same way.
fn is_refusal(said: &[u8]) -> bool {
    let said = String::from_utf8_lossy(said).to_ascii_lowercase();
    let words = ["connection refused", "failed to find sandbox", "is not running", "no such file"];
    words.iter().any(|words| said.contains(words))
}

fn content(bytes: &[u8]) -> Message {
    Message::Binary([&[CONTENT], bytes].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_had_is_sent_again() {
        let of = "error forwarding port 80 to pod 5d0a, uid : failed to execute portforward in \
                  network namespace \"/var/run/netns/cni-1\": ";
        let said = |why: &str| is_refusal(format!("{of}{why}").as_bytes());
        assert!(said(
            "failed to connect to localhost:80 inside namespace \"5d0a\", IPv4: dial tcp4 \
             127.0.0.1:80: connect: connection refused IPv6 dial tcp6: address localhost: no suitable \
             address found "
        ));
        assert!(said("socat[9] E connect(5, AF=2 127.0.0.1:80, 16): Connection refused"));
        assert!(!said("read tcp4 127.0.0.1:40620->127.0.0.1:80: read: connection reset by peer"));
        assert!(!said("write tcp4 127.0.0.1:40620->127.0.0.1:80: write: broken pipe"));
    }
}
