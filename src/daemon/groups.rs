//! The workloads of a `watch`: what was asked for, what their pods are by now, which targets they
//! became. What is done about it stands in `pods`.
//!
//! A workload is there like a target: the daemon's own for as long as it lives, others for as long as
//! somebody who asked for them takes part.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::forward::{self, Forwarded};
use super::{Kind, settings};
use crate::cluster::{
    Access, Cluster, ClusterError, Following, LookAgain, Place, Pods, Proxies, Sought,
};
use crate::config::{Config, Forward};
use crate::control::{Call, PodPlace, TargetPlace, Wanted, WantedWorkload, Word};
use crate::engine::session::TargetId;
use crate::error::Error;
use crate::report::Text;

/// Lists that wait for the loop: each is whole.
const CHANGES: usize = 4;

/// Names a workload; not used twice.
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
    /// The workloads of somebody who asks to join were looked for.
    Opened(Call, Result<Opened, Error>),
}

/// What somebody who joins brings.
#[derive(Default)]
pub(super) struct Opened {
    pub(super) groups: Vec<Group>,
    pub(super) forwarded: Vec<Forwarded>,
}

/// All workloads.
pub(super) struct Groups {
    pub(super) all: BTreeMap<GroupId, Group>,
    next: GroupId,
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
    /// Asked for by this process itself, so that it stays as long as that.
    pub(super) own: bool,
    sought: Sought,
    /// What each of its pods is asked for.
    pub(super) wanted: Wanted,
    pub(super) cluster: Cluster,
    /// Taken when it is followed.
    pub(super) following: Option<Following>,
    /// Ends that.
    pub(super) task: Option<AbortHandle>,
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
        let own = config.targets.iter().filter(|target| target.cluster.is_some());
        let own = own.map(|target| settings::wanted(kind, config, target));
        let own = own.collect::<Result<Vec<_>, Error>>()?;
        let Opened { groups, forwarded } = Opened::open(own, &config.forwards).await?;
        let (out, changes) = mpsc::channel(CHANGES);
        let mut this =
            Self { all: BTreeMap::new(), next: 0, changes, out, forwarded, not_forwarded: false };
        for group in groups {
            this.add(Group { own: true, ..group });
        }
        Ok(this)
    }

    /// One more.
    pub(super) fn add(&mut self, group: Group) -> GroupId {
        let id = self.next;
        self.next += 1;
        self.all.insert(id, group);
        id
    }

    /// The one of that name.
    pub(super) fn named(&self, name: &Text) -> Option<(GroupId, &Group)> {
        self.all.iter().map(|(id, group)| (*id, group)).find(|(_, group)| group.name == *name)
    }

    /// One that is the same workload, at the same place in its pods.
    pub(super) fn same(&self, other: &Group) -> Option<(GroupId, &Group)> {
        let mut all = self.all.iter().map(|(id, group)| (*id, group));
        all.find(|(_, group)| {
            group.sought == other.sought
                && group.cluster.server() == other.cluster.server()
                && group.cluster.namespace() == other.cluster.namespace()
                && group.wanted.place == other.wanted.place
        })
    }

    /// For people.
    pub(super) fn names(&self) -> impl Iterator<Item = Text> + '_ {
        self.all.values().map(|group| group.name.clone())
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
        self.all.values().any(|group| group.targets.is_empty())
    }
}

impl Opened {
    /// Finds workloads and their pods, and takes ports that lead to the first of them.
    ///
    /// # Errors
    /// When one cannot be had.
    pub(super) async fn open(wanted: Vec<Wanted>, forwards: &[Forward]) -> Result<Self, Error> {
        let (mut groups, mut forwarded) = (Vec::new(), Vec::new());
        for wanted in wanted {
            if let Some(workload) = wanted.workload.clone() {
                groups.push(Group::open(wanted, workload).await?);
            }
        }
        if !forwards.is_empty() && groups.is_empty() {
            return Err(Error::nothing_to_forward_to());
        }
        for forward in forwards {
            forwarded.push(forward::listen(*forward).await?);
        }
        Ok(Self { groups, forwarded })
    }
}

impl Group {
    async fn open(wanted: Wanted, workload: WantedWorkload) -> Result<Self, Error> {
        let WantedWorkload { kind, name, pod, selector, container, .. } = workload;
        let sought = Sought { kind, name, pod, selector, container };
        if let Some(command) = &wanted.command {
            let argv = command.argv.iter().map(Word::as_bytes).collect::<Vec<_>>();
            return Err(Error::command_in_pod(&sought.shown(), &argv));
        }
        let [https, http, no] = workload.proxies;
        let access = Access {
            kubeconfig: workload.kubeconfig.iter().map(|word| word.as_path().into()).collect(),
            context: workload.context,
            namespace: workload.namespace,
            proxies: Proxies { https, http, no },
        };
        let cluster = Cluster::open(access).await?;
        let selection = cluster.select(&sought).await?;
        let (following, pods) = Following::begin(&cluster, selection).await?;
        let group = Self {
            name: Text::name(wanted.name.as_bytes()),
            own: false,
            sought,
            wanted,
            cluster,
            following: Some(following),
            task: None,
            again: LookAgain::default(),
            pods,
            targets: BTreeMap::new(),
            ever_opened: false,
            names: watch::Sender::new(Vec::new()),
        };
        group.hopeless().map_or(Ok(()), Err)?;
        Ok(group)
    }

    /// As kubectl takes it.
    pub(super) fn workload(&self) -> String {
        self.sought.shown()
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
            workload: None,
            ..self.wanted.clone()
        }
    }
}
