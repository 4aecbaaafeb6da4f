//! Owns why a cluster does not give what was asked for. The advice that goes with each stands in
//! `crate::error`.

use std::path::PathBuf;

use super::Cluster;

/// Why there is no answer, or no pod, or no stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// No file says where the cluster is.
    #[error("there is no kubeconfig at {}", path.display())]
    NoKubeconfig {
        /// Where it was looked for first.
        path: PathBuf,
    },
    /// The files do not read, or do not lead to a cluster.
    #[error("the kubeconfig {paths} cannot be used: {why}")]
    Kubeconfig {
        /// All of them.
        paths: String,
        /// The reader's words.
        why: String,
    },
    /// The context is not in them, or none is current.
    #[error("no such context")]
    NoContext {
        /// Which was wanted; `None` when none is current.
        wanted: Option<String>,
        /// Those that there are.
        known: Vec<String>,
    },
    /// A name that no object has.
    #[error("`{name}` is not the name of a {what}")]
    Name {
        /// Of what.
        what: &'static str,
        /// As given.
        name: String,
    },
    /// The program that signs in did not.
    #[error("signing in failed: {why}")]
    SignIn {
        /// Its words.
        why: String,
    },
    /// The API server does not answer.
    #[error("{server} cannot be reached: {why}")]
    Unreachable {
        /// Its address.
        server: String,
        /// The network's words.
        why: String,
    },
    /// It does not know who we are.
    #[error("{server} does not accept who we are")]
    Unauthorized {
        /// Its address.
        server: String,
    },
    /// It knows and says no.
    #[error("not allowed to {verb} {resource}: {message}")]
    Forbidden {
        /// What it was about to do: `get`, `list`, `watch`, `create`.
        verb: String,
        /// To what, as in a Role: `pods/exec`.
        resource: String,
        /// In which namespace.
        namespace: String,
        /// Who we are there, if it said so.
        user: Option<String>,
        /// Its own words.
        message: String,
    },
    /// There is no such workload.
    #[error("no {kind}/{name} in namespace {namespace}")]
    NoWorkload {
        /// The short kind.
        kind: &'static str,
        /// The name.
        name: String,
        /// Where.
        namespace: String,
        /// The namespace is not there either.
        no_namespace: bool,
        /// What is there of that kind.
        known: Vec<String>,
    },
    /// The workload has pods, and none of those that were asked for.
    #[error("none of the pods of {of} fits")]
    NoSuchPod {
        /// The workload.
        of: String,
        /// What was asked for.
        wanted: String,
        /// The pods that there are.
        known: Vec<String>,
    },
    /// A pod stands in the way of its own use.
    #[error("pod {pod}: {obstacle:?}")]
    Pod {
        /// Its name.
        pod: String,
        /// Its namespace.
        namespace: String,
        /// Why.
        obstacle: Obstacle,
    },
    /// The stream into the container could not be opened.
    #[error("exec in {container} of pod {pod}: {message}")]
    Exec {
        /// The pod.
        pod: String,
        /// The container.
        container: String,
        /// The cluster's words.
        message: String,
    },
    /// There is no such object.
    #[error("{what}: {why}")]
    Missing {
        /// The resource that was asked for.
        what: &'static str,
        /// The server's words.
        why: String,
    },
    /// An answer that was not expected.
    #[error("{what}: {why}")]
    Answer {
        /// To which question.
        what: &'static str,
        /// What was wrong with it.
        why: String,
    },
}

/// Why a pod cannot be used, now or as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// It is on its way: scheduled, pulled, started.
    Starting {
        /// The cluster's word, such as `ContainerCreating`.
        reason: String,
    },
    /// It waits for something that does not come by itself.
    Stuck {
        /// The container; `None` for the pod as a whole.
        container: Option<String>,
        /// The cluster's word, such as `ImagePullBackOff`.
        reason: String,
        /// The cluster's sentence.
        message: String,
    },
    /// It has ended: evicted, completed.
    Ended {
        /// The cluster's word.
        reason: String,
    },
    /// It has no hub, neither in a container of its own nor in the app's.
    NoHub,
    /// It has hubs in containers of apps, and none for the one that is wanted.
    HubElsewhere {
        /// The container that was wanted.
        wanted: String,
        /// Those that are served.
        containers: Vec<String>,
    },
    /// The hub could not see the app's process.
    NotShared,
    /// Several containers could be meant.
    Ambiguous {
        /// Their names.
        containers: Vec<String>,
    },
    /// It has no such container.
    NoContainer {
        /// The one that was wanted.
        wanted: String,
        /// Those that it has.
        containers: Vec<String>,
    },
}

impl Obstacle {
    /// Whether it goes away by itself.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::Starting { .. })
    }
}

/// What the API server says of a request or of a process that ended.
pub type Status = kube::core::Status;

/// An error of the client as one of ours.
pub(super) fn of_kube(
    error: kube::Error,
    verb: &str,
    resource: &'static str,
    cluster: &Cluster,
) -> ClusterError {
    match error {
        kube::Error::Api(status) => of_status(&status, verb, resource, cluster),
        kube::Error::Auth(why) => ClusterError::SignIn { why: why.to_string() },
        kube::Error::Service(why) if why.is::<kube::client::AuthError>() => {
            ClusterError::SignIn { why: why.to_string() }
        }
        kube::Error::SerdeError(why) => {
            ClusterError::Answer { what: resource, why: why.to_string() }
        }
        error => cluster.unreachable(deepest(&error)),
    }
}

fn of_status(
    status: &Status,
    verb: &str,
    resource: &'static str,
    cluster: &Cluster,
) -> ClusterError {
    match status.code {
        401 => ClusterError::Unauthorized { server: cluster.server().to_owned() },
        403 => forbidden(&status.message, verb, resource, cluster.namespace()),
        404 => ClusterError::Missing { what: resource, why: status.message.clone() },
        _ => ClusterError::Answer { what: resource, why: status.message.clone() },
    }
}

/// `pods "x" is forbidden: User "dev" cannot create resource "pods/exec" in API group "" in the
/// namespace "ns"`: the verb there is the one that is missing, for an upgrade is checked for two.
fn forbidden(message: &str, verb: &str, resource: &str, namespace: &str) -> ClusterError {
    let between = |start: &str, end: &str| {
        let (_, after) = message.split_once(start)?;
        after.split_once(end).map(|(found, _)| found.to_owned())
    };
    let word = |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase());
    ClusterError::Forbidden {
        verb: between(" cannot ", " ").filter(word).unwrap_or_else(|| verb.to_owned()),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        user: between("User \"", "\""),
        message: message.to_owned(),
    }
}

/// The cause that started it; what stands above it only repeats "client error".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_verb_is_the_one_that_the_server_names() {
        let message = "pods \"api-1\" is forbidden: User \"dev\" cannot create resource \
                       \"pods/exec\" in API group \"\" in the namespace \"web\"";
        let ClusterError::Forbidden { verb, resource, user, .. } =
            forbidden(message, "get", "pods/exec", "web")
        else {
            panic!()
        };
        assert_eq!((verb.as_str(), resource.as_str()), ("create", "pods/exec"));
        assert_eq!(user.as_deref(), Some("dev"));
        let ClusterError::Forbidden { verb, user, .. } =
            forbidden("a webhook says no", "get", "pods", "web")
        else {
            panic!()
        };
        assert_eq!((verb.as_str(), user), ("get", None));
    }
}
