//! Owns the list of a workload's pods over time: read once, then watched.
//!
//! A pod is served from the moment its hub runs until it is on its way out: a hub that is started
//! again is the same one, and its link is made again. What changes is told as a whole each time, so
//! that nothing depends on every step being seen.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::core::WatchEvent;
use tokio::sync::{Notify, mpsc};

use super::find::Selection;
use super::object::Pod;
use super::pod::{is_leaving, place, ready_place};
use super::{Ask, Cluster, ClusterError, Obstacle, Place};

/// The server ends a watch after so long; a new one goes on where it ended.
const WATCH_SECONDS: u64 = 240;
/// A watch that is silent for so long after that is dead.
const WATCH_OVERDUE: Duration = Duration::from_secs(WATCH_SECONDS + 15);
/// Before a question that failed is asked again; doubles.
const AGAIN_FIRST: Duration = Duration::from_millis(200);
const AGAIN_LAST: Duration = Duration::from_secs(5);

/// The pods of a workload at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pods {
    /// Those that are served, by name.
    pub serving: Vec<Place>,
    /// Those that are not, and why. Pods on their way out are not among them.
    pub waiting: Vec<(String, Obstacle)>,
    /// Why it is not known what they are doing now; the rest is as last seen.
    pub unknown: Option<ClusterError>,
}

/// The pods of a workload, being followed.
pub struct Following {
    cluster: Cluster,
    selection: Selection,
    pods: BTreeMap<String, Pod>,
    /// By uid.
    serving: BTreeSet<String>,
    version: String,
}

/// Asks that the pods be looked at again, because something else says that they changed.
#[derive(Clone, Default)]
pub struct LookAgain(Arc<Notify>);

impl LookAgain {
    /// Asks.
    pub fn ask(&self) {
        self.0.notify_one();
    }
}

/// How a watch ended.
enum Ended {
    /// As it should.
    Well,
    /// What it would go on from is not kept any more, or somebody asked.
    LookAgain,
    /// Nobody listens.
    Unheard,
}

impl Following {
    /// Reads the list for the first time.
    ///
    /// # Errors
    /// When it cannot be read, or what narrows the selection leaves no pod.
    pub async fn begin(
        cluster: &Cluster,
        selection: Selection,
    ) -> Result<(Self, Pods), ClusterError> {
        let mut this = Self {
            cluster: cluster.clone(),
            selection,
            pods: BTreeMap::new(),
            serving: BTreeSet::new(),
            version: String::new(),
        };
        this.list().await?;
        if this.pods.is_empty() {
            this.cluster.why_empty(&this.selection).await?;
        }
        let pods = this.now();
        Ok((this, pods))
    }

    /// Tells what changes, wrapped by `tell_as`, for as long as somebody listens.
    pub async fn run<T>(
        mut self,
        mut last: Pods,
        out: mpsc::Sender<T>,
        tell_as: impl Fn(Pods) -> T,
        again: LookAgain,
    ) {
        let out = Out { out, tell_as };
        let mut wait = AGAIN_FIRST;
        loop {
            let failed = match self.watch(&mut last, &out, &again).await {
                Ok(Ended::Unheard) => return,
                Ok(Ended::Well) => {
                    wait = AGAIN_FIRST;
                    continue;
                }
                Ok(Ended::LookAgain) => self.list().await.err(),
                // What was missed meanwhile is in the next list.
                Err(error) => Some(error),
            };
            let Some(error) = failed else {
                wait = AGAIN_FIRST;
                if !tell(self.now(), &mut last, &out).await {
                    return;
                }
                continue;
            };
            let unknown = Pods { unknown: Some(error), ..last.clone() };
            if !tell(unknown, &mut last, &out).await {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(AGAIN_LAST),
                () = again.0.notified() => wait = AGAIN_FIRST,
            }
            if self.list().await.is_ok() && !tell(self.now(), &mut last, &out).await {
                return;
            }
        }
    }

    async fn list(&mut self) -> Result<(), ClusterError> {
        let list = self.cluster.pods(&self.selection).await?;
        self.version = list.metadata.resource_version;
        self.pods = list.items.into_iter().map(|pod| (pod.metadata.uid.clone(), pod)).collect();
        Ok(())
    }

    async fn watch<T>(
        &mut self,
        last: &mut Pods,
        out: &Out<T, impl Fn(Pods) -> T>,
        again: &LookAgain,
    ) -> Result<Ended, ClusterError> {
        let (namespace, query, version) =
            (self.cluster.namespace(), &self.selection.query, &self.version);
        let path = format!(
            "/api/v1/namespaces/{namespace}/pods?{query}&watch=true&allowWatchBookmarks=true\
             &resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}"
        );
        let ask = Ask { path, verb: "watch", resource: "pods" };
        let ready = self.cluster.ready().await?;
        let failed = |cluster: &Cluster, error| match error {
            kube::Error::Api(status) if status.code == 410 => Ok(Ended::LookAgain),
            error => Err(cluster.failed(&ask, error)),
        };
        let begun = ready.client.request_events::<Pod>(ask.request()?);
        let stream = match self.cluster.in_time(begun).await? {
            Ok(stream) => stream,
            Err(error) => {
                let ended = failed(&self.cluster, error);
                if matches!(ended, Err(ClusterError::Unauthorized { .. })) {
                    self.cluster.renew(&ready).await?;
                }
                return ended;
            }
        };
        let mut stream = pin!(stream);
        loop {
            let next = tokio::select! {
                next = tokio::time::timeout(WATCH_OVERDUE, stream.next()) => next,
                () = again.0.notified() => return Ok(Ended::LookAgain),
                () = out.out.closed() => return Ok(Ended::Unheard),
            };
            match next {
                Err(_) => return Ok(Ended::LookAgain),
                Ok(None) => return Ok(Ended::Well),
                Ok(Some(Err(error))) => return failed(&self.cluster, error),
                Ok(Some(Ok(WatchEvent::Error(status)))) => {
                    return failed(&self.cluster, kube::Error::Api(status));
                }
                Ok(Some(Ok(event))) => self.take(event),
            }
            if !tell(self.now(), last, out).await {
                return Ok(Ended::Unheard);
            }
        }
    }

    fn take(&mut self, event: WatchEvent<Pod>) {
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                self.version.clone_from(&pod.metadata.resource_version);
                self.pods.insert(pod.metadata.uid.clone(), pod);
            }
            WatchEvent::Deleted(pod) => {
                self.version.clone_from(&pod.metadata.resource_version);
                self.pods.remove(&pod.metadata.uid);
            }
            WatchEvent::Bookmark(mark) => self.version = mark.metadata.resource_version,
            WatchEvent::Error(_) => {}
        }
    }

    /// The pods as they are by now.
    fn now(&mut self) -> Pods {
        let wanted = self.selection.container.as_deref();
        let mut pods = Pods::default();
        let pods_now: Vec<(&String, &Pod)> =
            self.pods.iter().filter(|(_, pod)| !is_leaving(pod)).collect();
        let mut serving = BTreeSet::new();
        for (uid, pod) in pods_now {
            // One that was served is, as long as its hub may come back.
            let found = match self.serving.contains(uid) {
                true => place(pod, wanted),
                false => ready_place(pod, wanted),
            };
            match found {
                Ok(place) => {
                    serving.insert(uid.clone());
                    pods.serving.push(place);
                }
                Err(obstacle) => pods.waiting.push((pod.metadata.name.clone(), obstacle)),
            }
        }
        self.serving = serving;
        pods.serving.sort_by(|a, b| a.pod.cmp(&b.pod));
        pods.waiting.sort_by(|(a, _), (b, _)| a.cmp(b));
        pods
    }
}

/// Whom to tell, and in which words.
struct Out<T, F> {
    out: mpsc::Sender<T>,
    tell_as: F,
}

/// Says so if it is news. False when nobody listens.
async fn tell<T>(pods: Pods, last: &mut Pods, out: &Out<T, impl Fn(Pods) -> T>) -> bool {
    if pods == *last {
        return true;
    }
    last.clone_from(&pods);
    out.out.send((out.tell_as)(pods)).await.is_ok()
}
