//! Decides whether a pod can be used, which of its containers is the app's, and if not, why. Pure.

use super::hub::{Bridge, Wrapper};
use super::object::{Container, ContainerStatus, Pod};
use super::{Obstacle, SIDECAR};

/// What kubectl takes when no container is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Words for waiting that time alone does not end.
const STUCK: [&str; 10] = [
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
    "StartError",
];

/// A pod whose hub can be spoken to, and the container whose files are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The pod.
    pub pod: String,
    /// Which of those that ever had that name.
    pub uid: String,
    /// The app's container.
    pub container: String,
    /// What the cluster knows that container by now: changes with each restart.
    pub container_id: Option<String>,
    /// The same of the hub's container.
    pub hub_id: Option<String>,
    /// How the hub is reached.
    pub bridge: Bridge,
    /// The container's command runs under a wrapper of that hub, which passes on what it says.
    pub wrapped: bool,
}

/// Whether it is on its way out.
pub(super) fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
        || matches!(pod.status.phase.as_str(), "Succeeded" | "Failed")
}

/// The place in a pod, whatever it is doing now.
pub(super) fn place(pod: &Pod, wanted: Option<&str>) -> Result<Place, Obstacle> {
    let mut containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    let (container, bridge, wrapped) = match containers.any(|one| one.name == SIDECAR) {
        true => beside(pod, wanted)?,
        false => inside(pod, wanted)?,
    };
    let id = |name: &str| {
        let id = &status(pod, name)?.container_id;
        // `containerd://<64 digits>`
        let (_, id) = id.split_once("://")?;
        Some(id.to_owned())
    };
    Ok(Place {
        pod: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        container_id: id(&container),
        hub_id: id(&bridge.container),
        bridge,
        wrapped,
        container,
    })
}

/// The place in a pod whose hub runs; else what it waits for.
pub(super) fn ready_place(pod: &Pod, wanted: Option<&str>) -> Result<Place, Obstacle> {
    if is_leaving(pod) {
        return Err(Obstacle::Ended { reason: ended(pod) });
    }
    let place = place(pod, wanted)?;
    match status(pod, &place.bridge.container) {
        Some(hub) if hub.state.running.is_some() => match stuck(pod, &place.container) {
            Some(obstacle) => Err(obstacle),
            None => Ok(place),
        },
        _ => Err(waits(pod)),
    }
}

/// The app's container, its hub in another one. Whether it has a wrapper that calls there.
fn beside(pod: &Pod, wanted: Option<&str>) -> Result<(String, Bridge, bool), Obstacle> {
    if !pod.spec.share_process_namespace {
        return Err(Obstacle::NotShared);
    }
    let container = choose(pod, wanted, names(pod, |container| container.name != SIDECAR))?;
    let of_name = |one: &&Container| one.name == container;
    let wrapper = pod.spec.containers.iter().find(of_name).and_then(Wrapper::of);
    // One that is a hub itself calls that.
    let wrapped = wrapper.is_some_and(|wrapper| !wrapper.serves);
    Ok((container, Bridge::beside(), wrapped))
}

/// The app's container that is its own hub.
fn inside(pod: &Pod, wanted: Option<&str>) -> Result<(String, Bridge, bool), Obstacle> {
    if wanted.is_some() {
        choose(pod, wanted, names(pod, |_| true))?;
    }
    let hub = |one: &Container| Wrapper::of(one).filter(|wrapper| wrapper.serves);
    let containers = names(pod, |one| hub(one).is_some());
    if containers.is_empty() {
        return Err(Obstacle::NoHub);
    }
    if let Some(wanted) = wanted.filter(|&wanted| containers.iter().all(|one| one != wanted)) {
        return Err(Obstacle::HubElsewhere { wanted: wanted.to_owned(), containers });
    }
    let container = choose(pod, wanted, containers)?;
    let mut of_name = pod.spec.containers.iter().filter(|one| one.name == container);
    let wrapper = of_name.find_map(hub).ok_or(Obstacle::NoHub)?;
    let bridge = Bridge::inside(&container, wrapper);
    Ok((container, bridge, true))
}

fn names(pod: &Pod, which: impl Fn(&Container) -> bool) -> Vec<String> {
    let those = pod.spec.containers.iter().filter(|container| which(container));
    those.map(|container| container.name.clone()).collect()
}

/// The one of these containers that is meant.
fn choose(pod: &Pod, wanted: Option<&str>, names: Vec<String>) -> Result<String, Obstacle> {
    if let Some(wanted) = wanted {
        return match names.iter().any(|name| name == wanted) {
            true => Ok(wanted.to_owned()),
            false => Err(Obstacle::NoContainer { wanted: wanted.to_owned(), containers: names }),
        };
    }
    let annotated = pod.metadata.annotations.get(DEFAULT_CONTAINER);
    if let Some(name) = annotated.filter(|name| names.contains(name)) {
        return Ok(name.clone());
    }
    match <[String; 1]>::try_from(names) {
        Ok([only]) => Ok(only),
        Err(containers) => Err(Obstacle::Ambiguous { containers }),
    }
}

fn status<'p>(pod: &'p Pod, name: &str) -> Option<&'p ContainerStatus> {
    let statuses = pod.status.container_statuses.iter().chain(&pod.status.init_container_statuses);
    statuses.into_iter().find(|status| status.name == name)
}

/// What a pod whose hub does not run waits for.
fn waits(pod: &Pod) -> Obstacle {
    let unscheduled = pod.status.conditions.iter().find(|condition| {
        condition.kind == "PodScheduled"
            && condition.status == "False"
            && condition.reason == "Unschedulable"
    });
    if let Some(condition) = unscheduled {
        return Obstacle::Stuck {
            container: None,
            reason: condition.reason.clone(),
            message: condition.message.clone(),
        };
    }
    let all = pod.status.init_container_statuses.iter().chain(&pod.status.container_statuses);
    let stuck = all.clone().find_map(|one| stuck(pod, &one.name));
    stuck.unwrap_or_else(|| {
        // An init container that has done its work is not what is waited for.
        let waiting = all.clone().filter_map(|one| one.state.waiting.as_ref());
        let ended = all.filter_map(|one| one.state.terminated.as_ref());
        let reason = waiting.chain(ended).map(|why| &why.reason).find(|reason| !reason.is_empty());
        Obstacle::Starting { reason: reason.unwrap_or(&pod.status.phase).clone() }
    })
}

/// Why the hub of a place will not run by itself.
pub(super) fn stuck_hub(pod: &Pod, place: &Place) -> Option<Obstacle> {
    stuck(pod, &place.bridge.container)
}

/// Why a container will not run by itself.
fn stuck(pod: &Pod, name: &str) -> Option<Obstacle> {
    let state = &status(pod, name)?.state;
    let why = state.waiting.as_ref().filter(|why| STUCK.contains(&why.reason.as_str()))?;
    Some(Obstacle::Stuck {
        container: Some(name.to_owned()),
        reason: why.reason.clone(),
        message: why.message.clone(),
    })
}

fn ended(pod: &Pod) -> String {
    let candidates = [&pod.status.reason, &pod.status.phase];
    let told = candidates.into_iter().find(|text| !text.is_empty());
    match pod.metadata.deletion_timestamp {
        Some(_) => "Terminating".to_owned(),
        None => told.cloned().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "api-1", "uid": "u1", "annotations": {}},
            "spec": {
                "shareProcessNamespace": true,
                "initContainers": [{"name": "deliver"}],
                "containers": [{"name": "app"}, {"name": "e2ek-sync"}],
            },
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "app", "containerID": "containerd://aa", "state": {"running": {}}},
                {"name": "e2ek-sync", "containerID": "containerd://bb", "state": {"running": {}}},
            ]},
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    fn waiting(reason: &str) -> Value {
        json!({"waiting": {"reason": reason, "message": "because"}})
    }

    #[test]
    fn a_pod_whose_hub_runs_is_a_place() {
        let place = ready_place(&pod(|_| ()), None).unwrap();
        assert_eq!((place.pod.as_str(), place.container.as_str()), ("api-1", "app"));
        assert_eq!(place.container_id.as_deref(), Some("aa"));
        assert_eq!(place.hub_id.as_deref(), Some("bb"));
        assert!(!place.wrapped);
        assert_eq!(place.bridge, Bridge::beside());
        for (options, wrapped) in [(&["--exit"][..], true), (&["--serve"], false)] {
            let run = [&["/e2ek/e2ek-sidecar", "run"], options, &["--", "app"]].concat();
            let pod = pod(|pod| pod["spec"]["containers"][0]["args"] = json!(run));
            let place = ready_place(&pod, None).unwrap();
            assert_eq!((place.wrapped, place.bridge), (wrapped, Bridge::beside()), "{options:?}");
        }
        // A native sidecar stands among the init containers.
        let native = pod(|pod| {
            pod["spec"]["containers"] = json!([{"name": "app"}]);
            pod["spec"]["initContainers"] = json!([{"name": "e2ek-sync"}]);
        });
        assert!(ready_place(&native, None).is_ok());
        // An app that waits for its first sync need not run for the hub to be spoken to.
        let held = pod(|pod| {
            pod["status"]["containerStatuses"][0]["state"] = waiting("PodInitializing");
        });
        assert!(ready_place(&held, None).is_ok());
    }

    #[test]
    fn which_container_is_meant_is_asked_and_not_guessed() {
        let several = |annotation: Option<&str>| {
            pod(|pod| {
                pod["spec"]["containers"] =
                    json!([{"name": "app"}, {"name": "proxy"}, {"name": "e2ek-sync"}]);
                if let Some(name) = annotation {
                    pod["metadata"]["annotations"][DEFAULT_CONTAINER] = json!(name);
                }
            })
        };
        let names = vec!["app".to_owned(), "proxy".to_owned()];
        let ambiguous = Obstacle::Ambiguous { containers: names.clone() };
        assert_eq!(ready_place(&several(None), None), Err(ambiguous.clone()));
        assert_eq!(ready_place(&several(Some("gone")), None), Err(ambiguous));
        assert_eq!(ready_place(&several(Some("proxy")), None).unwrap().container, "proxy");
        assert_eq!(ready_place(&several(Some("proxy")), Some("app")).unwrap().container, "app");
        for wrong in ["e2ek-sync", "ap"] {
            let obstacle =
                Obstacle::NoContainer { wanted: wrong.to_owned(), containers: names.clone() };
            assert_eq!(ready_place(&several(None), Some(wrong)), Err(obstacle));
        }
    }

    /// A pod without a container of the hub's, each of these served by itself or not.
    fn own(containers: &[(&str, bool)]) -> Pod {
        pod(|pod| {
            let command = |serves| match serves {
                true => json!(["/e2ek/e2ek-sidecar", "run", "--serve", "--", "app"]),
                false => json!(["/e2ek/e2ek-sidecar", "run", "--", "app"]),
            };
            let of =
                |&(name, serves): &(&str, _)| json!({"name": name, "command": command(serves)});
            pod["spec"]["containers"] = containers.iter().map(of).collect();
            pod["spec"]["shareProcessNamespace"] = json!(false);
        })
    }

    #[test]
    fn a_container_that_is_its_own_hub_is_a_place() {
        let place = ready_place(&own(&[("app", true), ("proxy", false)]), None).unwrap();
        assert_eq!((&*place.container, place.wrapped), ("app", true));
        assert_eq!((&place.container_id, place.hub_id.as_deref()), (&place.hub_id, Some("aa")));
        assert_eq!(place.bridge.container, "app");
        assert_eq!(place.bridge.command, ["/e2ek/e2ek-sidecar", "connect"]);

        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let two = own(&[("app", true), ("worker", true), ("proxy", false)]);
        let containers = names(&["app", "worker"]);
        let ambiguous = Obstacle::Ambiguous { containers: containers.clone() };
        assert_eq!(ready_place(&two, None), Err(ambiguous));
        assert_eq!(place_of(&two, "worker").unwrap().bridge.container, "worker");
        let wanted = "proxy".to_owned();
        assert_eq!(place_of(&two, "proxy"), Err(Obstacle::HubElsewhere { wanted, containers }));
        let (wanted, containers) = ("ap".to_owned(), names(&["app", "worker", "proxy"]));
        assert_eq!(place_of(&two, "ap"), Err(Obstacle::NoContainer { wanted, containers }));
        assert_eq!(ready_place(&own(&[("app", false)]), None), Err(Obstacle::NoHub));

        // Its hub comes and goes with it.
        let mut crashed = own(&[("app", true)]);
        crashed.status.container_statuses[0].state =
            serde_json::from_value(waiting("CrashLoopBackOff")).unwrap();
        let stuck = Obstacle::Stuck {
            container: Some("app".to_owned()),
            reason: "CrashLoopBackOff".to_owned(),
            message: "because".to_owned(),
        };
        assert_eq!(ready_place(&crashed, None), Err(stuck.clone()));
        let place = place_of(&crashed, "app").unwrap();
        assert_eq!(stuck_hub(&crashed, &place), Some(stuck));
    }

    fn place_of(pod: &Pod, container: &str) -> Result<Place, Obstacle> {
        place(pod, Some(container))
    }

    #[test]
    fn why_a_pod_cannot_be_used_is_told() {
        let obstacle = |change: &dyn Fn(&mut Value)| ready_place(&pod(change), None).unwrap_err();
        let stuck = |container: Option<&str>, reason: &str| Obstacle::Stuck {
            container: container.map(str::to_owned),
            reason: reason.to_owned(),
            message: "because".to_owned(),
        };
        let state = |index: usize, state: Value| {
            move |pod: &mut Value| {
                pod["status"]["containerStatuses"][index]["state"] = state.clone();
            }
        };
        assert_eq!(
            obstacle(&|pod| pod["spec"]["containers"] = json!([{"name": "app"}])),
            Obstacle::NoHub
        );
        assert_eq!(
            obstacle(&|pod| pod["spec"]["shareProcessNamespace"] = json!(false)),
            Obstacle::NotShared
        );
        assert_eq!(
            obstacle(&state(1, waiting("ImagePullBackOff"))),
            stuck(Some("e2ek-sync"), "ImagePullBackOff")
        );
        assert_eq!(
            obstacle(&state(0, waiting("CrashLoopBackOff"))),
            stuck(Some("app"), "CrashLoopBackOff")
        );
        let starting = obstacle(&state(1, waiting("ContainerCreating")));
        assert_eq!(starting, Obstacle::Starting { reason: "ContainerCreating".to_owned() });
        assert!(starting.passes());
        let delivered = obstacle(&|pod| {
            pod["status"]["initContainerStatuses"] = json!([{"name": "deliver",
                "state": {"terminated": {"reason": "Completed"}}}]);
            pod["status"]["containerStatuses"][1]["state"] = waiting("PodInitializing");
        });
        assert_eq!(delivered, Obstacle::Starting { reason: "PodInitializing".to_owned() });
        let unscheduled = obstacle(&|pod| {
            pod["status"] = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled",
                "status": "False", "reason": "Unschedulable", "message": "because"}]});
        });
        assert_eq!(unscheduled, stuck(None, "Unschedulable"));
        assert!(!unscheduled.passes());
        let leaving =
            obstacle(&|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        assert_eq!(leaving, Obstacle::Ended { reason: "Terminating".to_owned() });
        let evicted =
            obstacle(&|pod| pod["status"] = json!({"phase": "Failed", "reason": "Evicted"}));
        assert_eq!(evicted, Obstacle::Ended { reason: "Evicted".to_owned() });
    }
}
