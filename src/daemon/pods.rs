//! Workloads in a cluster: their pods become targets as they come, and go as they go.
//!
//! A pod's hub is a target like any other. What is different is who brings and takes it: the cluster,
//! whose list of pods is followed from before the first link until the end. A workload without a pod
//! that could be served is waited for; only what time does not mend ends the daemon, and only as long
//! as no pod of that workload was ever served.

use std::time::{Duration, Instant};

use e2ek_sidecar::wire::{Container, Refusal, ToHub};
use tokio::task::AbortHandle;

use super::forward::Forwarded;
use super::groups::{Change, Group, GroupId, Member};
use super::link::LinkError;
use super::members::beside;
use super::target::{Reach, link_words};
use super::{Daemon, Kind, say, settings};
use crate::cluster::{ClusterError, Place, Pods};
use crate::engine::session::{Input, TargetId};
use crate::error::Error;
use crate::report::{Event, GroupStatus, Stream, Text, WaitingPod};
use crate::transport::kube::PodHub;
use crate::transport::network::Network;
use crate::transport::{NotStarted, Transport};

/// So many links in a row may lead to nothing before `sync --once` gives up: about half a minute.
const FAILURES_MAX: u32 = 10;
/// Between two questions to a hub that will not open.
const REFUSED_AGAIN: Duration = Duration::from_secs(2);

impl Daemon {
    /// Follows the workloads of our own, and opens the ports that lead to the first of them.
    pub(super) fn follow_own_pods(&mut self) {
        let own: Vec<GroupId> = self.groups.all.keys().copied().collect();
        for id in own {
            self.follow_pods(id);
        }
        let forwarded = std::mem::take(&mut self.groups.forwarded);
        if let Some((&first, _)) = self.groups.all.first_key_value() {
            self.forward(first, forwarded);
        }
    }

    /// Takes the pods that a workload has, and hears of those that come.
    pub(super) fn follow_pods(&mut self, id: GroupId) {
        self.network.get_or_insert_with(Network::listen);
        let Some(group) = self.groups.all.get_mut(&id) else { return };
        let pods = std::mem::take(&mut group.pods);
        if let Some(following) = group.following.take() {
            let out = self.groups.out.clone();
            let tell_as = move |pods| Change::Pods(id, pods);
            let following = following.run(pods.clone(), out, tell_as, group.again.clone());
            group.task = Some(self.tasks.spawn(following));
        }
        self.pods_changed(id, pods);
    }

    /// Lets ports of this machine lead to a workload's pods; what ends that.
    pub(super) fn forward(&mut self, id: GroupId, forwarded: Vec<Forwarded>) -> Vec<AbortHandle> {
        let mut tasks = Vec::new();
        for forwarded in forwarded {
            let Some(group) = self.groups.all.get(&id) else { return tasks };
            let (local, remote) = (forwarded.forward.local, forwarded.forward.remote);
            let (cluster, pods) = (group.cluster.clone(), group.names.subscribe());
            let target = group.name.clone();
            let carrying = forwarded.run(cluster, pods, self.groups.out.clone());
            tasks.push(self.tasks.spawn(carrying));
            self.say(Event::Forwarding { local, target, remote });
        }
        tasks
    }

    /// A workload's pods are these now.
    fn pods_changed(&mut self, id: GroupId, pods: Pods) {
        if self.ending.is_some() {
            return;
        }
        if let Some(error @ ClusterError::Forbidden { .. }) = &pods.unknown {
            // Pods that come could never be seen.
            return self.group_failed(id, error.clone().into());
        }
        self.say_of_pods(id, &pods);
        // One that nobody wants any more may still be heard of.
        let Some(group) = self.groups.all.get_mut(&id) else { return };
        group.pods = pods;
        let names = group.pods.serving.iter().map(|place| place.pod.clone()).collect();
        group.names.send_replace(names);
        if let Some(error) = group.hopeless() {
            return self.group_failed(id, error);
        }
        let serves = |uid: &String| group.pods.serving.iter().any(|place| place.uid == *uid);
        let gone: Vec<(String, Member)> =
            group.targets.extract_if(.., |uid, _| !serves(uid)).collect();
        let serving = group.pods.serving.clone();
        for (_, member) in gone {
            self.pod_is_gone(member);
        }
        for place in serving {
            self.pod_is_there(id, &place);
        }
    }

    /// A pod that was served is not any more.
    pub(super) fn pod_is_gone(&mut self, Member { target, log }: Member) {
        if let Some(log) = log {
            log.abort();
        }
        let name = self.teller.name(target);
        self.say(Event::PodGone { target: name });
        self.release(target);
    }

    /// Looks at all pods again: one that another target stood in the way of may be free now.
    pub(super) fn pods_again(&mut self) {
        if self.ending.is_some() {
            return;
        }
        let of = |(&id, group): (&GroupId, &Group)| {
            group.pods.serving.iter().map(|place| (id, place.clone())).collect::<Vec<_>>()
        };
        for (id, place) in self.groups.all.iter().flat_map(of).collect::<Vec<_>>() {
            self.pod_is_there(id, &place);
        }
    }

    fn pod_is_there(&mut self, id: GroupId, place: &Place) {
        let Some(group) = self.groups.all.get(&id) else { return };
        let mut wanted = group.wanted_of(place);
        let there = group.targets.get(&place.uid).map(|member| member.target);
        let there = there.and_then(|target| self.targets.get(&target));
        // Once: not from who came after us, nor in a pod that was not there.
        wanted.take_over &= there.map_or(!group.ever_opened, |target| target.wanted.take_over);
        let container = Container { name: place.container.clone(), id: place.container_id.clone() };
        let open = settings::open(self.kind, &self.config, self.identity, &wanted);
        let open = ToHub::OpenIn { open, container };
        if let Some(member) = group.targets.get(&place.uid) {
            let target = member.target;
            return self.pod_stays(target, open);
        }
        if self.targets.values().any(|target| beside(target, &wanted).is_some()) {
            // Another workload's, or on its way out: this is looked at again when that is gone.
            return tracing::info!(pod = place.pod, "this pod is a target already");
        }
        let (pod, bridge) = (place.pod.clone(), place.bridge.clone());
        let hub = PodHub { cluster: group.cluster.clone(), pod, bridge };
        let reach = Reach { open, transport: Transport::Pod(hub), group: Some(id) };
        let own = group.own;
        let target = self.add_target(wanted, own, false, reach);
        let log = (self.kind == Kind::Watch && !place.wrapped)
            .then(|| self.follow_log(id, target, place.clone()))
            .flatten();
        if let Some(target) = self.targets.get_mut(&target) {
            target.wrapped = place.wrapped;
        }
        if let Some(group) = self.groups.all.get_mut(&id) {
            group.targets.insert(place.uid.clone(), Member { target, log });
        }
        let name = self.teller.name(target);
        self.say(Event::PodFound { target: name });
        self.join_pod(target);
    }

    /// A pod that is served is still there. The next link names the container that it has by now, and
    /// that link is made at once where the hub waits for an earlier start of it, or is one that went and
    /// came with it.
    fn pod_stays(&mut self, id: TargetId, open: ToHub) {
        let Some(target) = self.targets.get_mut(&id) else { return };
        let before = std::mem::replace(&mut target.open, open);
        if target.leaving.is_some() || !is_of_another_start(&before, &target.open) {
            return;
        }
        if let Some((at, _)) = &mut target.refused {
            *at = Instant::now();
        } else if target.connection.is_none() || !target.opened {
            if target.connection.take().is_some() {
                self.input_to_session(Input::LinkDown(id));
            }
            self.input_to_session(Input::Reconnect);
        }
    }

    /// Has what a container says told, beside what happens.
    fn follow_log(&mut self, id: GroupId, target: TargetId, place: Place) -> Option<AbortHandle> {
        let cluster = self.groups.all.get(&id)?.cluster.clone();
        let out = self.groups.out.clone();
        Some(self.tasks.spawn(async move {
            let told = cluster.follow_log(&place.pod, &place.container, |bytes| {
                let out = out.clone();
                async move { out.send(Change::Output(target, bytes)).await.is_ok() }
            });
            if let Err(error) = told.await {
                let _ = out.send(Change::NoOutput(target, error)).await;
            }
        }))
    }

    /// What a container says comes over the link: its log would say it a second time.
    pub(super) fn wrapper_speaks(&mut self, id: TargetId) {
        let Some(target) = self.targets.get_mut(&id).filter(|target| !target.wrapped) else {
            return;
        };
        let Some(group) = target.group.and_then(|group| self.groups.all.get_mut(&group)) else {
            return;
        };
        target.wrapped = true;
        let member = group.targets.values_mut().find(|member| member.target == id);
        if let Some(log) = member.and_then(|member| member.log.take()) {
            log.abort();
        }
    }

    /// A task has something to tell.
    pub(super) fn cluster_change(&mut self, change: Change) {
        match change {
            Change::Pods(group, pods) => self.pods_changed(group, pods),
            Change::Opened(call, opened) => self.join_opened(call, opened),
            Change::Output(target, bytes) => {
                let (target, stream) = (self.teller.name(target), Stream::Stdout);
                self.say(Event::Output { target, stream, bytes });
            }
            Change::NotForwarded(error) => {
                if !std::mem::replace(&mut self.groups.not_forwarded, true) {
                    let error = Error::from(error);
                    let hint = error.hints.first().map(|hint| format!("; {hint}"));
                    let what = format!("no port is forwarded: {}", error.message);
                    let what = what + &hint.unwrap_or_default();
                    self.say(Event::Degraded { what: what.into() });
                }
            }
            Change::NoOutput(target, error) => {
                let (name, error) = (self.teller.name(target), Error::from(error));
                let hint = error.hints.first().map(|hint| format!("; {hint}")).unwrap_or_default();
                let what =
                    format!("{name}: what the app says is not shown: {}{hint}", error.message);
                self.say(Event::Degraded { what: what.into() });
            }
        }
    }

    /// What is new of pods that are not served.
    fn say_of_pods(&mut self, id: GroupId, pods: &Pods) {
        let Some(group) = self.groups.all.get(&id) else { return };
        let name = &group.name;
        let mut events = Vec::new();
        for (pod, obstacle) in &pods.waiting {
            let told = group.pods.waiting.iter().any(|(p, o)| p == pod && o == obstacle);
            if !told {
                let reason = crate::error::why_pod_waits(obstacle);
                let pod = Text::name(pod.as_bytes());
                events.push(Event::PodWaiting { target: name.clone(), pod, reason: reason.into() });
            }
        }
        if pods.serving.is_empty() && pods.waiting.is_empty() && pods.unknown.is_none() {
            events.push(Event::PodsAbsent { target: name.clone() });
        }
        match (&group.pods.unknown, &pods.unknown) {
            (None, Some(error)) => {
                let what = format!("{name}: pods that come and go are not seen: {error}");
                events.push(Event::Degraded { what: what.into() });
            }
            (Some(_), None) => {
                let message = format!("{name}: pods that come and go are seen again");
                events.push(Event::Warning { message: message.into() });
            }
            _ => {}
        }
        for event in events {
            self.say(event);
        }
    }

    /// A hub of the group opened.
    pub(super) fn pod_opened(&mut self, group: Option<GroupId>) {
        if let Some(group) = group.and_then(|group| self.groups.all.get_mut(&group)) {
            group.ever_opened = true;
        }
    }

    /// Whether a target may fail without ending the daemon: others of its workload were served.
    pub(super) fn may_fail_alone(&self, group: Option<GroupId>) -> bool {
        let group = group.and_then(|group| self.groups.all.get(&group));
        group.is_some_and(|group| group.ever_opened) && self.kind == Kind::Watch
    }

    /// Whether another pod of its workload has not answered yet: they need not be alike.
    fn others_may_open(&self, id: TargetId) -> bool {
        let group = self.targets.get(&id).and_then(|target| target.group);
        let mut others = self.targets.iter().filter(|(other, target)| {
            **other != id && target.group == group && target.leaving.is_none()
        });
        others.any(|(_, target)| target.refused.is_none())
    }

    /// The hub of a pod will not open. It is asked again, unless nothing was ever served there.
    pub(super) fn pod_refused(&mut self, id: TargetId, refusal: &Refusal) {
        let Some(target) = self.targets.get(&id) else { return };
        let error = match refusal {
            Refusal::NotFound(_) | Refusal::Forbidden(_) | Refusal::Unusable(_) => {
                Error::pod_refuses(target.name.as_str(), refusal)
            }
            refusal => say::refused(&target.name, &target.root(), refusal),
        };
        // Asked again, it would only go to and fro between the two.
        if matches!(refusal, Refusal::Owned { .. } | Refusal::Superseded) {
            return self.target_failed(id, error);
        }
        self.pod_fails(id, error, is_on_its_way(refusal));
    }

    /// The hub of a pod speaks no version that we do; `newer` is its build, if we are the older ones. The
    /// session goes on to take the link for one that is being made, until the hub is asked again.
    pub(super) fn pod_of_other_version(&mut self, id: TargetId, error: Error, newer: Option<&str>) {
        let target = self.targets.get(&id);
        let group = target.and_then(|target| self.groups.all.get(&target.group?));
        let bridge = target.and_then(|target| match &target.transport {
            Transport::Pod(hub) => Some(&hub.bridge),
            Transport::Process(_) => None,
        });
        let (Some(group), Some(bridge)) = (group, bridge) else { return };
        let error = match newer {
            Some(build) => error.with_older_program(build),
            None => error.with_older_hub(bridge, group.cluster.namespace(), &group.workload()),
        };
        self.pod_fails(id, error, false);
    }

    /// A pod cannot be served. It is asked again if that helps, or if others of its workload are served
    /// or may be.
    fn pod_fails(&mut self, id: TargetId, error: Error, passes: bool) {
        let comes = self.kind == Kind::Watch && (passes || self.others_may_open(id));
        let group = self.targets.get(&id).and_then(|target| target.group);
        if !(comes || self.may_fail_alone(group)) {
            return self.target_failed(id, error);
        }
        let Some(target) = self.targets.get_mut(&id) else { return };
        let again = Instant::now() + REFUSED_AGAIN;
        let before = target.refused.replace((again, error.message.clone()));
        if before.is_some_and(|(_, said)| said == error.message) {
            return;
        }
        let name = target.name.clone();
        self.say(Event::Error {
            target: Some(name),
            class: error.kind.name().into(),
            message: error.message.into(),
            hints: error.hints.into_iter().map(Into::into).collect(),
        });
    }

    /// Asks hubs again that would not open.
    pub(super) fn settle_pods(&mut self, now: Instant) {
        let is_due = |target: &super::Target| {
            target.refused.as_ref().is_some_and(|(at, _)| *at <= now) && target.leaving.is_none()
        };
        let due: Vec<TargetId> =
            self.targets.iter().filter(|(_, t)| is_due(t)).map(|(&id, _)| id).collect();
        for id in due {
            let Some(target) = self.targets.get_mut(&id) else { continue };
            target.connection = None;
            if let Some((at, _)) = &mut target.refused {
                *at = now + REFUSED_AGAIN;
            }
            self.input_to_session(Input::Leave(id));
            self.join_pod(id);
        }
    }

    /// When [`Self::settle_pods`] has something to do.
    pub(super) fn pods_deadline(&self) -> Option<Instant> {
        self.targets.values().filter_map(|target| target.refused.as_ref()).map(|(at, _)| *at).min()
    }

    fn join_pod(&mut self, target: TargetId) {
        let command = (self.kind != Kind::Plan).then(|| settings::wrapped(&self.config));
        self.input_to_session(Input::Join { target, command });
    }

    /// Why a link that never led anywhere ends the daemon; `None` when it is tried again.
    pub(super) fn why_pod_fails(&self, id: TargetId, error: &LinkError) -> Option<Error> {
        let target = self.targets.get(&id)?;
        let group = target.group;
        if self.may_fail_alone(group) {
            return None;
        }
        let name = group.and_then(|group| self.groups.all.get(&group)).map(|group| &group.name);
        let name = name.map_or("the pod", Text::as_str);
        match error {
            LinkError::NotStarted(NotStarted::Cluster(error)) if is_lasting(error) => {
                Some(error.clone().into())
            }
            LinkError::Wire(e2ek_sidecar::wire::WireError::NotOurs(said)) => {
                Some(Error::not_a_hub(said.as_bytes()))
            }
            // The program is not in that container.
            LinkError::Closed(ended)
                if ended.code.is_none() && is_missing(ended.said.as_deref()) =>
            {
                let Transport::Pod(hub) = &target.transport else { return None };
                Some(Error::no_bridge(name, &hub.bridge, ended.said.as_deref().unwrap_or_default()))
            }
            error if self.kind != Kind::Watch && target.failures >= FAILURES_MAX => {
                Some(Error::disconnected(name, &link_words(error)))
            }
            _ => None,
        }
    }

    /// A link of a pod is lost: perhaps its pod is, too.
    pub(super) fn look_again(&self, target: TargetId) {
        let group = self.targets.get(&target).and_then(|target| target.group);
        if let Some(group) = group.and_then(|group| self.groups.all.get(&group)) {
            group.again.ask();
        }
    }

    /// How the workloads stand.
    pub(super) fn group_status(&self) -> Vec<GroupStatus> {
        let states = self.session.status();
        let is_current = |target: &TargetId| {
            let status = states.iter().find(|status| status.id == *target);
            status.is_some_and(|s| s.state == crate::engine::session::TargetState::Synced)
        };
        let unserved = |group: &Group| {
            let served = |name: &String| group.pods.serving.iter().any(|place| place.pod == *name);
            group.pods.waiting.iter().filter(|(name, _)| !served(name)).count()
        };
        let status = |group: &Group| GroupStatus {
            name: group.name.clone(),
            current: group.targets.values().filter(|m| is_current(&m.target)).count() as u64,
            pods: (group.targets.len() + unserved(group)) as u64,
            waiting: (group.pods.waiting.iter())
                .map(|(pod, obstacle)| WaitingPod {
                    pod: Text::name(pod.as_bytes()),
                    reason: crate::error::why_pod_waits(obstacle).into(),
                })
                .collect(),
        };
        self.groups.all.values().map(status).collect()
    }
}

/// Whether a hub says that the container does not run: an image may be on its way, or what comes before
/// it in its pod may take its time. A path that is not there begins with a slash.
fn is_on_its_way(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::NotFound(what) if !what.starts_with('/'))
}

/// Whether two first messages name two starts of a container. One that names none fits each.
fn is_of_another_start(before: &ToHub, now: &ToHub) -> bool {
    let id = |open: &ToHub| match open {
        ToHub::OpenIn { container, .. } => container.id.clone(),
        _ => None,
    };
    id(before).is_some_and(|before| id(now).is_some_and(|now| now != before))
}

/// Whether asking again would not help.
fn is_lasting(error: &ClusterError) -> bool {
    matches!(
        error,
        ClusterError::Forbidden { .. }
            | ClusterError::Unauthorized { .. }
            | ClusterError::SignIn { .. }
            | ClusterError::NoKubeconfig { .. }
            | ClusterError::Kubeconfig { .. }
            | ClusterError::NoContext { .. }
            | ClusterError::Name { .. }
    )
}

/// Whether a runtime says that the program is not there: runc and crun, for a path or a name. That the
/// container is "not found" passes: it has just ended.
fn is_missing(said: Option<&str>) -> bool {
    let said = said.unwrap_or_default().to_ascii_lowercase();
    said.contains("no such file") || said.contains("executable file not found")
}
