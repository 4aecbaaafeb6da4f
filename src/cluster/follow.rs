//! Owns the list of a workload's pods over time: read once, then watched.
//!
//! A pod is served from the moment its hub runs until it is on its way out: a hub that is started
//! again is the same one, and its link is made again. What changes is told as a whole each time, so
//! that nothing depends on every step being seen.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use kube::core::WatchEvent;
use tokio::sync::{Notify, mpsc};

use super::find::Selection;
use super::object::Pod;
use super::pod::{is_leaving, place, ready_place, stuck_hub};
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
    /// Those that are not, and why; and those that are, whose hub does not run. Pods on their way out
    /// are not among them.
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
    /// What it would go on from is not kept any more.
    Expired,
    /// It is overdue, or somebody asked.
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
            let began = Instant::now();
            let ended = self.watch(&mut last, &out, &again).await;
            // Something on the way may end each at once: that is no reason to ask without a pause.
            let early = began.elapsed() < AGAIN_LAST && !matches!(ended, Ok(Ended::LookAgain));
            let failed = match ended {
                Ok(Ended::Unheard) => return,
                Ok(Ended::Well) => None,
                Ok(Ended::Expired | Ended::LookAgain) => self.list().await.err(),
                // What was missed meanwhile is in the next list.
                Err(error) => Some(error),
            };
            let Some(error) = failed else {
                if !tell(self.now(), &mut last, &out).await {
                    return;
                }
                match early {
                    true => pause(&mut wait, &again).await,
                    false => wait = AGAIN_FIRST,
                }
                continue;
            };
            let unknown = Pods { unknown: Some(error), ..last.clone() };
            if !tell(unknown, &mut last, &out).await {
                return;
            }
            pause(&mut wait, &again).await;
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
            kube::Error::Api(status) if status.code == 410 => Ok(Ended::Expired),
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
        let pods = look(self.pods.values(), &self.serving, wanted);
        self.serving = pods.serving.iter().map(|place| place.uid.clone()).collect();
        pods
    }
}

/// The pods of a workload, of which some were served until now.
fn look<'p>(
    all: impl Iterator<Item = &'p Pod>,
    served: &BTreeSet<String>,
    wanted: Option<&str>,
) -> Pods {
    let mut pods = Pods::default();
    for pod in all.filter(|pod| !is_leaving(pod)) {
        let name = &pod.metadata.name;
        // One that was served is, as long as its hub may come back; why it does not is told.
        let (found, obstacle) = match served.contains(&pod.metadata.uid) {
            true => {
                let found = place(pod, wanted);
                let stuck = found.as_ref().ok().and_then(|place| stuck_hub(pod, place));
                (found, stuck)
            }
            false => (ready_place(pod, wanted), None),
        };
        pods.waiting.extend(obstacle.map(|obstacle| (name.clone(), obstacle)));
        match found {
            Ok(place) => pods.serving.push(place),
            Err(obstacle) => pods.waiting.push((name.clone(), obstacle)),
        }
    }
    pods.serving.sort_by(|a, b| a.pod.cmp(&b.pod));
    pods.waiting.sort_by(|(a, _), (b, _)| a.cmp(b));
    pods
}

/// Waits, the next time for longer; not when somebody asks.
async fn pause(wait: &mut Duration, again: &LookAgain) {
    tokio::select! {
        () = tokio::time::sleep(*wait) => *wait = (*wait * 2).min(AGAIN_LAST),
        () = again.0.notified() => *wait = AGAIN_FIRST,
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_that_is_served_stays_and_says_why_its_hub_does_not_run() {
        let pod = |state: serde_json::Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "api-1", "uid": "u1"},
                "spec": {"shareProcessNamespace": true,
                    "containers": [{"name": "app"}, {"name": "e2ek-sync"}]},
                "status": {"phase": "Running", "containerStatuses": [
                    {"name": "e2ek-sync", "containerID": "containerd://bb", "state": state}]},
            }))
            .unwrap()
        };
        let crash = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "again in 10s"}});
        let served = BTreeSet::from(["u1".to_owned()]);
        let runs = look([pod(json!({"running": {}}))].iter(), &served, None);
        assert_eq!((runs.serving.len(), runs.waiting.len()), (1, 0));
        let crashes = look([pod(crash.clone())].iter(), &served, None);
        assert_eq!(crashes.serving.len(), 1, "its hub may come back");
        let (name, Obstacle::Stuck { container, reason, .. }) = &crashes.waiting[0] else {
            panic!()
        };
        assert_eq!((name.as_str(), container.as_deref()), ("api-1", Some("e2ek-sync")));
        assert_eq!(reason, "CrashLoopBackOff");
        let never = look([pod(crash)].iter(), &BTreeSet::new(), None);
        assert_eq!((never.serving.len(), never.waiting.len()), (0, 1));
    }

    /// Follows where a server answers a question so and ends the connection; until it has asked for four
    /// watches.
    async fn follow_four(answer: fn(&str) -> String) -> Duration {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let watches = Arc::new(AtomicUsize::new(0));
        let there = watches.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (mut question, mut buffer) = (Vec::new(), [0; 4096]);
                while !question.ends_with(b"\r\n\r\n") {
                    let Ok(len @ 1..) = stream.read(&mut buffer) else { break };
                    question.extend_from_slice(&buffer[..len]);
                }
                let question = String::from_utf8_lossy(&question);
                let path = question.split(' ').nth(1).unwrap_or_default();
                there.fetch_add(usize::from(path.contains("watch=true")), Ordering::SeqCst);
                let _ = stream.write_all(answer(path).as_bytes());
            }
        });
        let home = tempfile::tempdir().unwrap();
        let kubeconfig = home.path().join("config");
        let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "one",
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "contexts": [{"name": "one", "context": {"cluster": "c"}}]});
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let access = super::super::Access { kubeconfig: vec![kubeconfig], ..Default::default() };
        let following = Following {
            cluster: Cluster::open(access).await.unwrap(),
            selection: Selection::default(),
            pods: BTreeMap::new(),
            serving: BTreeSet::new(),
            version: "1".to_owned(),
        };
        let (out, mut heard) = mpsc::channel(1);
        let began = Instant::now();
        let followed = following.run(Pods::default(), out, |pods| pods, LookAgain::default());
        tokio::select! {
            () = followed => panic!("it ends while somebody listens"),
            () = async {
                while watches.load(Ordering::SeqCst) < 4 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            } => {}
        }
        assert!(heard.try_recv().is_err(), "nothing is new, and nothing failed");
        began.elapsed()
    }

    fn answer(status: &str, body: &str) -> String {
        let length = body.len();
        let head = format!("Content-Length: {length}\r\nConnection: close\r\n");
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{head}\r\n{body}")
    }

    #[tokio::test]
    async fn a_watch_that_ends_at_once_is_asked_for_ever_later() {
        let took = follow_four(|_| answer("200 OK", "")).await;
        // Three pauses at least, each twice as long.
        assert!(took >= 7 * AGAIN_FIRST, "{took:?}");
    }

    #[tokio::test]
    async fn a_watch_that_always_is_of_too_long_ago_is_asked_for_ever_later() {
        let took = follow_four(|path| match path.contains("watch=true") {
            true => {
                let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "message": "too old resource version", "reason": "Expired", "code": 410});
                answer("410 Gone", &gone.to_string())
            }
            false => {
                let list = json!({"kind": "PodList", "apiVersion": "v1",
                    "metadata": {"resourceVersion": "1"}, "items": []});
                answer("200 OK", &list.to_string())
            }
        });
        let took = took.await;
        assert!(took >= 7 * AGAIN_FIRST, "{took:?}");
    }
}
