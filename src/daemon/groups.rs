//! The workloads of a `watch`: what was asked for, what their pods are by now, which targets they
//! became. What is done about it stands in `pods`.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::forward::{self, Forwarded};
use super::{Kind, settings};
use crate::cluster::{Access, Cluster, ClusterError, Following, LookAgain, Place, Pods, Sought};
use crate::config::{ClusterChoice, Config, Target, TargetSpec};
use crate::control::{PodPlace, TargetPlace, Wanted};
use crate::engine::session::TargetId;
use crate::error::Error;
use crate::report::Text;

/// Lists that wait for the loop: each is whole.
const CHANGES: usize = 4;

/// Names a workload of the configuration.
pub(super) type GroupId = usize;

/// What the tasks tell.
pub(super) enum Change {
    /// A workload's pods, as they are from now on.
    Pods(GroupId, Pods),
    /// What a container without the wrapper said.
    Output(TargetId, Vec<u8>),
    /// That cannot be known.
    NoOutput(TargetId, ClusterError),
    /// A connection must not be carried into a pod.
    NotForwarded(ClusterError),
}

/// All workloads.
pub(super) struct Groups {
    pub(super) all: Vec<Group>,
    pub(super) changes: mpsc::Receiver<Change>,
    /// For those that are followed.
    pub(super) out: mpsc::Sender<Change>,
    /// Ports that lead to the first of them.
    pub(super) forwarded: Vec<Forwarded>,
    /// That was told once.
    pub(super) not_forwarded: bool,
}

/// One workload.
pub(super) struct Group {
    /// As people know it.
    pub(super) name: Text,
    /// What each of its pods is asked for.
    pub(super) wanted: Wanted,
    pub(super) cluster: Cluster,
    /// Taken when it is followed.
    pub(super) following: Option<Following>,
    pub(super) again: LookAgain,
    /// As last heard.
    pub(super) pods: Pods,
    /// By uid.
    pub(super) targets: BTreeMap<String, Member>,
    /// A hub of it opened once in this run.
    pub(super) ever_opened: bool,
    /// The names of its pods that are served, for ports that lead there.
    pub(super) names: watch::Sender<Vec<String>>,
}

/// A pod that is served.
pub(super) struct Member {
    pub(super) target: TargetId,
    /// Ends the reading of its log.
    pub(super) log: Option<AbortHandle>,
}

impl Groups {
    /// Finds every workload of the configuration and its pods. Programs for signing in run now.
    ///
    /// # Errors
    /// When one cannot be found, or will never have a pod that could be served.
    pub(super) async fn open(kind: Kind, config: &Config) -> Result<Self, Error> {
        let mut all = Vec::new();
        for target in &config.targets {
            if let Some(choice) = &target.cluster {
                all.push(Group::open(kind, config, target, choice).await?);
            }
        }
        let mut forwarded = Vec::new();
        for forward in &config.forwards {
            if all.is_empty() {
                return Err(Error::nothing_to_forward_to());
            }
            forwarded.push(forward::listen(*forward).await?);
        }
        let (out, changes) = mpsc::channel(CHANGES);
        Ok(Self { all, changes, out, forwarded, not_forwarded: false })
    }

    /// For people.
    pub(super) fn names(&self) -> impl Iterator<Item = Text> + '_ {
        self.all.iter().map(|group| group.name.clone())
    }

    /// The next change of a workload's pods; never without a workload. Cancel safe.
    pub(super) async fn changed(&mut self) -> Change {
        match self.changes.recv().await {
            Some(change) => change,
            // We hold a sender ourselves.
            None => std::future::pending().await,
        }
    }

    /// Whether a workload has no pod that is served.
    pub(super) fn absent(&self) -> bool {
        self.all.iter().any(|group| group.targets.is_empty())
    }
}

impl Group {
    async fn open(
        kind: Kind,
        config: &Config,
        target: &Target,
        choice: &ClusterChoice,
    ) -> Result<Self, Error> {
        let TargetSpec::Kube { kind: of, name, .. } = &target.spec.value else {
            return Err(Error::not_built("a cluster without a workload"));
        };
        let word = |value: &Option<crate::config::Value<String>>| {
            value.as_ref().map(|value| value.value.clone())
        };
        let access = Access {
            kubeconfig: choice.kubeconfig.clone(),
            context: word(&choice.context),
            namespace: word(&choice.namespace),
        };
        let sought = Sought {
            kind: of,
            name: name.clone(),
            pod: word(&choice.pod),
            selector: word(&choice.selector),
            container: word(&choice.container),
        };
        if target.command.is_some() {
            return Err(Error::command_in_pod(&sought.shown()));
        }
        let cluster = Cluster::open(access).await?;
        let selection = cluster.select(&sought).await?;
        let (following, pods) = Following::begin(&cluster, selection).await?;
        let group = Self {
            name: Text::name(target.name.value.as_bytes()),
            wanted: settings::wanted(kind, config, target)?,
            cluster,
            following: Some(following),
            again: LookAgain::default(),
            pods,
            targets: BTreeMap::new(),
            ever_opened: false,
            names: watch::Sender::new(Vec::new()),
        };
        group.hopeless().map_or(Ok(()), Err)?;
        Ok(group)
    }

    /// Why no pod of it will be served unless somebody does something.
    pub(super) fn hopeless(&self) -> Option<Error> {
        if self.ever_opened || !self.pods.serving.is_empty() {
            return None;
        }
        let lasting = self.pods.waiting.iter().find(|(_, obstacle)| !obstacle.passes());
        lasting.map(|(pod, obstacle)| {
            let (pod, namespace) = (pod.clone(), self.cluster.namespace().to_owned());
            ClusterError::Pod { pod, namespace, obstacle: obstacle.clone() }.into()
        })
    }

    /// What a pod is asked for.
    pub(super) fn wanted_of(&self, place: &Place) -> Wanted {
        let pod = PodPlace {
            server: self.cluster.server().to_owned(),
            namespace: self.cluster.namespace().to_owned(),
            pod: place.pod.clone(),
            uid: place.uid.clone(),
            container: place.container.clone(),
        };
        Wanted {
            name: format!("{}/{}", place.pod, place.container),
            place: TargetPlace { pod: Some(pod), ..self.wanted.place.clone() },
            ..self.wanted.clone()
        }
    }
}
