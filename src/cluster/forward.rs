//! Carries one connection to a port of a pod (`pods/portforward`).
//!
//! Channel 0 is content, channel 1 what went wrong; each begins with a message that holds the port.
//! Where nobody listens yet (the app is being restarted, or its pod is another by now) the connection
//! is made again, and what was sent on it is sent again: nobody had it. What an app may have had is not
//! sent twice, whether it answered or not.

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
    /// Nobody listens there, and nobody had what was sent.
    Refused,
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
                    // There was no stream to send anything on.
                    Err(error) => tracing::debug!(pod, %error, "not forwarded"),
                    Ok(Tried::Refused) => {}
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
                            return Ok(guest.cut());
                        }
                    }
                    // There is no half-close: what it asked for may still come.
                    _ => guest.silent = true,
                },
                next = receiver.next() => {
                    let Some(Ok(Message::Binary(bytes))) = next else { return Ok(guest.cut()) };
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
                        TROUBLE if is_refusal(said) && !guest.answered => return Ok(Tried::Refused),
                        TROUBLE => return Ok(guest.cut()),
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
    /// The stream ended, nobody says why: the app may have had what was sent on it.
    fn cut(&self) -> Tried {
        if self.answered || !self.sent.is_empty() { Tried::Done } else { Tried::Refused }
    }
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
