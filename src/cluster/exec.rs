//! Opens a stream to a process in a container (`pods/exec`), by the WebSocket protocols that API servers
//! speak: `v5.channel.k8s.io`, else `v4`.
//!
//! Each message is one byte of channel and the rest content: 0, 1 and 2 are the standard streams, 3
//! is how it ended (a Status). v5 adds 255, which closes one channel; v4 has no half-close, so there the
//! connection goes with our last word. kube's own `AttachedProcess` is not used: it sends frames of at
//! most 4 KiB, and stops reading while it writes (measured; transports.md 1).

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Sink, Stream, StreamExt};
use kube::client::Connection;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

use super::error::Status;
use super::object::query;
use super::{Ask, Bridge, Cluster, ClusterError, Ready};

/// How long a stream may take to be there.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Read at once. All of it is written over with zeros before each look for more, so that kube's own
/// 128 KiB cost a daemon with many pods more than all else: what a hub says is short.
const READ_BYTES: usize = 4 << 10;

/// What comes of a connection.
pub type Receiver = Pin<Box<dyn Stream<Item = Result<Message, tungstenite::Error>> + Send>>;
/// Where what is said to it goes; holds back what the network does not take.
pub type Sender = Pin<Box<dyn Sink<Message, Error = tungstenite::Error> + Send>>;

/// A process in a container, its streams not yet looked at.
pub struct Exec {
    /// What it says, by channel.
    pub receiver: Receiver,
    /// What is said to it.
    pub sender: Sender,
    /// One channel can be closed by itself (v5).
    pub closes: bool,
}

/// How a process in a container ended, as the cluster tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// With this exit code.
    Code(i32),
    /// It could not be started, or was lost; the cluster's words.
    Failed(String),
}

impl Finish {
    /// Reads what channel 3 brought.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        let Ok(status) = serde_json::from_slice::<Status>(bytes) else {
            return Self::Failed(String::from_utf8_lossy(bytes).into_owned());
        };
        if status.is_success() {
            return Self::Code(0);
        }
        let causes = status.details.iter().flat_map(|details| &details.causes);
        let code = causes.filter(|cause| cause.reason == "ExitCode").find_map(|cause| {
            // A process that could not be started has no such cause.
            cause.message.parse().ok()
        });
        match code {
            Some(code) => Self::Code(code),
            None => Self::Failed(status.message),
        }
    }
}

impl Cluster {
    /// Starts the bridge to the hub of a pod.
    ///
    /// # Errors
    /// When the upgrade is refused. A program that cannot be started is told by the stream.
    pub async fn bridge(&self, pod: &str, bridge: &Bridge) -> Result<Exec, ClusterError> {
        super::object::check_name("pod", pod)?;
        let words = bridge.command.iter().map(|word| format!("&command={}", query(word)));
        let path = format!(
            "/api/v1/namespaces/{}/pods/{pod}/exec?container={}{}&stdin=true&stdout=true&stderr=true",
            self.namespace(),
            query(&bridge.container),
            words.collect::<String>()
        );
        let ask = Ask { path, verb: "get", resource: "pods/exec" };
        // Signing in takes as long as it takes.
        let ready = self.ready().await?;
        let connection = match self.connect(&ready, &ask).await? {
            Err(kube::Error::Api(status)) if status.code == 401 => {
                self.connect(&self.renew(&ready).await?, &ask).await?
            }
            connection => connection,
        };
        let connection = connection.map_err(|error| self.no_exec(pod, bridge, &ask, error))?;
        let closes = connection.supports_stream_close();
        // Nothing was read from it yet.
        let stream = connection.into_stream().into_inner();
        let config = WebSocketConfig::default().read_buffer_size(READ_BYTES);
        let stream = WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await;
        let (sender, receiver) = stream.split();
        Ok(Exec { receiver: Box::pin(receiver), sender: Box::pin(sender), closes })
    }

    async fn connect(
        &self,
        ready: &Ready,
        ask: &Ask,
    ) -> Result<kube::Result<Connection>, ClusterError> {
        let connecting = ready.client.connect(ask.request()?);
        let connected = tokio::time::timeout(CONNECT_WITHIN, connecting).await;
        connected.map_err(|_| self.unreachable(format!("no stream within {CONNECT_WITHIN:?}")))
    }

    fn no_exec(&self, pod: &str, bridge: &Bridge, ask: &Ask, error: kube::Error) -> ClusterError {
        let message = match &error {
            kube::Error::Api(status) if !matches!(status.code, 401 | 403) => status.message.clone(),
            kube::Error::UpgradeConnection(why) => why.to_string(),
            _ => return self.failed(ask, error),
        };
        let (pod, container) = (pod.to_owned(), bridge.container.clone());
        ClusterError::Exec { pod, container, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_end_is_read() {
        for (status, finish) in [
            (r#"{"metadata":{},"status":"Success"}"#, Finish::Code(0)),
            (
                r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero
                 exit code","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode",
                 "message":"7"}]}}"#,
                Finish::Code(7),
            ),
            (
                r#"{"metadata":{},"status":"Failure","message":"no such file","code":500,
                 "reason":"InternalError"}"#,
                Finish::Failed("no such file".to_owned()),
            ),
            ("gone", Finish::Failed("gone".to_owned())),
        ] {
            let status = status.replace('\n', " ");
            assert_eq!(Finish::read(status.as_bytes()), finish, "{status}");
        }
    }
}
