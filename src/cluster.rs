//! Owns the talk with a Kubernetes API server: who we are there, what runs, and the stream into a
//! container.
//!
//! Promises that each failure is a [`ClusterError`] that names the object and the right that is
//! missing, and that nothing that the cluster says becomes part of a path or a command unchecked. The
//! kube crate is not seen outside. What becomes of pods that come and go is the daemon's; the words for
//! people are `error`'s.

mod access;
mod error;
mod exec;
mod find;
mod follow;
mod forward;
mod log;
mod object;
mod pod;

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use kube::Client;
use serde::de::DeserializeOwned;

pub use access::Access;
pub use error::{ClusterError, Obstacle, Status};
pub use exec::{Exec, Finish, Receiver, Sender};
pub use find::{Selection, Sought};
pub use follow::{Following, LookAgain, Pods};
pub use pod::Place;

/// The container that the hub runs in.
pub const SIDECAR: &str = "e2ek-sync";
/// The bridge to the hub, in that container.
const BRIDGE: [&str; 2] = ["/e2ek-sidecar", "connect"];
/// How long one question may take. A watch and a stream take as long as they take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// A cluster, and the namespace in it. Cloned, it is the same one.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    access: Access,
    namespace: String,
    server: String,
    client: Mutex<Client>,
}

/// A question to the API server, with the words for an answer of "no".
struct Ask {
    path: String,
    verb: &'static str,
    /// As in a Role: `pods/exec`, `deployments.apps`.
    resource: &'static str,
}

impl Cluster {
    /// Reads the kubeconfig and makes a client; programs that it names for signing in run now, and may
    /// use the terminal. The API server is not asked yet.
    ///
    /// # Errors
    /// When the kubeconfig does not lead to a cluster.
    pub async fn open(access: Access) -> Result<Self, ClusterError> {
        let (client, server, namespace) = access.client().await?;
        object::check_name("namespace", &namespace)?;
        let client = Mutex::new(client);
        Ok(Self { shared: Arc::new(Shared { access, namespace, server, client }) })
    }

    /// The namespace that is meant.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.shared.namespace
    }

    /// The API server's address.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.shared.server
    }

    fn client(&self) -> Client {
        let held = self.shared.client.lock();
        held.map_or_else(|poisoned| poisoned.into_inner().clone(), |client| client.clone())
    }

    /// Reads the kubeconfig again: tokens and certificates there are replaced while we run.
    async fn renew(&self) -> Result<Client, ClusterError> {
        let (client, ..) = self.shared.access.client().await?;
        if let Ok(mut held) = self.shared.client.lock() {
            *held = client.clone();
        }
        Ok(client)
    }

    async fn get<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T, ClusterError> {
        let answer = match self.ask(&self.client(), ask).await {
            Err(ClusterError::Unauthorized { .. }) => self.ask(&self.renew().await?, ask).await,
            answer => answer,
        }?;
        serde_json::from_str(&answer)
            .map_err(|error| ClusterError::Answer { what: ask.resource, why: error.to_string() })
    }

    async fn ask(&self, client: &Client, ask: &Ask) -> Result<String, ClusterError> {
        let asked = client.request_text(ask.request()?);
        match tokio::time::timeout(ANSWERED_WITHIN, asked).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(error)) => Err(self.failed(ask, error)),
            Err(_) => Err(self.unreachable(format!("no answer within {ANSWERED_WITHIN:?}"))),
        }
    }

    fn failed(&self, ask: &Ask, error: kube::Error) -> ClusterError {
        error::of_kube(error, ask.verb, ask.resource, self)
    }

    fn unreachable(&self, why: String) -> ClusterError {
        ClusterError::Unreachable { server: self.shared.server.clone(), why }
    }
}

impl Ask {
    fn request(&self) -> Result<http::Request<Vec<u8>>, ClusterError> {
        let request = http::Request::get(&self.path).body(Vec::new());
        // Only checked names and escaped values go into a path.
        request
            .map_err(|error| ClusterError::Answer { what: self.resource, why: error.to_string() })
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} namespace {}", self.shared.server, self.shared.namespace)
    }
}
