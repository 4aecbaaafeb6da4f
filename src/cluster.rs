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
mod hub;
mod log;
mod object;
mod pass;
mod plugin;
mod pod;
mod proxy;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde::de::DeserializeOwned;

pub use access::Access;
pub use error::{ClusterError, Obstacle, Status};
pub use exec::{Exec, Finish, Receiver, Sender};
pub use find::{Selection, Sought};
pub use follow::{Following, LookAgain, Pods};
pub use hub::Bridge;
pub use pod::Place;
pub use proxy::Proxies;

use access::Entry;
use pass::{Due, Pass, Pause};

/// The container that a hub beside the app runs in.
pub const SIDECAR: &str = "e2ek-sync";
/// How long one question may take. A watch and a stream take as long as they take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// A cluster, and the namespace in it. Cloned, it is the same one.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    /// Names its context: what is current may be changed while we run, and we stay where we are.
    access: Access,
    namespace: String,
    server: String,
    /// Held while signing in, so that one does it for all.
    pass: tokio::sync::Mutex<Pass>,
}

/// A client that serves now.
struct Ready {
    client: Client,
    serial: u64,
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
    pub async fn open(mut access: Access) -> Result<Self, ClusterError> {
        let entry = access.enter().await?;
        let pass = tokio::sync::Mutex::new(Pass::new(0, &entry));
        let Entry { server, namespace, context, .. } = entry;
        object::check_name("namespace", &namespace)?;
        access.context = Some(context);
        Ok(Self { shared: Arc::new(Shared { access, namespace, server, pass }) })
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

    /// A client whose credentials are good by now; signs in anew where they are not. That takes as
    /// long as it takes: somebody may have to type.
    async fn ready(&self) -> Result<Ready, ClusterError> {
        let mut pass = self.shared.pass.lock().await;
        let due = pass.due();
        if due != Due::No {
            match self.enter_again(&mut pass).await {
                Err(error) if due == Due::Over => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "going on with the credentials that there are");
                }
                Ok(()) => {}
            }
        }
        Ok(Ready { client: pass.client.clone(), serial: pass.serial })
    }

    /// Who we are was refused: signs in anew, unless somebody did since, or what that gave was refused
    /// as well a moment ago.
    async fn renew(&self, refused: &Ready) -> Result<Ready, ClusterError> {
        let mut pass = self.shared.pass.lock().await;
        if pass.serial == refused.serial {
            let before = pass.instead_of;
            if before.is_some_and(Pause::holds) {
                return Err(ClusterError::Unauthorized { server: self.server().to_owned() });
            }
            self.enter_again(&mut pass).await?;
            pass.instead_of = Some(Pause::after(before));
        }
        Ok(Ready { client: pass.client.clone(), serial: pass.serial })
    }

    /// Signs in anew, unless that came to nothing a moment ago: a program may ask a person each time.
    async fn enter_again(&self, pass: &mut Pass) -> Result<(), ClusterError> {
        if let Some(error) = pass.why_not() {
            return Err(error);
        }
        match self.anew(pass.serial + 1).await {
            Ok(next) => *pass = next,
            Err(error) => {
                pass.failed(error.clone());
                return Err(error);
            }
        }
        Ok(())
    }

    async fn anew(&self, serial: u64) -> Result<Pass, ClusterError> {
        let access = &self.shared.access;
        let entry = access.enter().await?;
        if entry.server != self.shared.server {
            let (context, server) = (entry.context, entry.server);
            return Err(access.unusable(format!(
                "its context `{context}` leads to another server by now, {server}"
            )));
        }
        Ok(Pass::new(serial, &entry))
    }

    async fn get<T: DeserializeOwned>(&self, ask: &Ask) -> Result<T, ClusterError> {
        let ready = self.ready().await?;
        let answer = match self.ask(&ready.client, ask).await {
            Err(ClusterError::Unauthorized { .. }) => {
                self.ask(&self.renew(&ready).await?.client, ask).await
            }
            answer => answer,
        }?;
        serde_json::from_str(&answer)
            .map_err(|error| ClusterError::Answer { what: ask.resource, why: error.to_string() })
    }

    async fn ask(&self, client: &Client, ask: &Ask) -> Result<String, ClusterError> {
        let asked = client.request_text(ask.request()?);
        self.in_time(asked).await?.map_err(|error| self.failed(ask, error))
    }

    /// What is asked for, unless it takes too long.
    async fn in_time<T>(&self, asked: impl Future<Output = T>) -> Result<T, ClusterError> {
        let answered = tokio::time::timeout(ANSWERED_WITHIN, asked).await;
        answered.map_err(|_| self.unreachable(format!("no answer within {ANSWERED_WITHIN:?}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_does_not_sign_in_is_not_run_for_each_question() {
        let home = tempfile::tempdir().unwrap();
        let [program, asked, refuses] =
            ["program", "asked", "refuses"].map(|name| home.path().join(name));
        let script = format!(
            "#!/bin/sh\necho asked >> {}\n[ ! -e {} ] || exit 1\n\
             ends=$(date -u -d '+2 seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
             echo '{{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\
             \"ExecCredential\",\"status\":{{\"token\":\"t\",\"expirationTimestamp\":\"'$ends'\"}}}}'\n",
            asked.display(),
            refuses.display()
        );
        std::fs::write(&program, script).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, executable).unwrap();
        let config = serde_json::json!({"apiVersion": "v1", "kind": "Config",
            "current-context": "one",
            "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
            "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"exec": {"interactiveMode": "Never",
                "apiVersion": "client.authentication.k8s.io/v1", "command": program}}}]});
        let kubeconfig = home.path().join("config");
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let access = Access { kubeconfig: vec![kubeconfig.clone()], ..Access::default() };
        let cluster = Cluster::open(access).await.unwrap();
        std::fs::write(&refuses, "").unwrap();
        // Until the credential has ended; what was tried before that is not counted.
        while cluster.ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let runs = || std::fs::read_to_string(&asked).unwrap().lines().count();
        let before = runs();
        for _ in 0..30 {
            assert!(matches!(cluster.ready().await, Err(ClusterError::SignIn { .. })));
        }
        assert!(runs() <= before + 2, "{} times", runs() - before);
        // Another file may be the answer to it.
        std::fs::remove_file(&refuses).unwrap();
        std::fs::write(&kubeconfig, config.to_string() + "\n").unwrap();
        assert!(cluster.ready().await.is_ok());
    }
}
