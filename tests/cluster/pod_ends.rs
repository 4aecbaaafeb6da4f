//! All the ways in which a container or a pod ends, and what is there after each.

use serde_json::{Value, json};

use crate::pod::{Main, Manifest, Pod};
use crate::pods::{deployment, spec};
use crate::rig::{Rig, until};

/// Heeds TERM as a good app does, and does what it is told by a file that is not synced.
const APP: &str = "echo started with $(cat /tmp/view.py); trap 'exit 0' TERM; \
    while [ ! -e /eat ]; do sleep 0.05; done; exec dd if=/dev/zero of=/dev/null bs=256M";

/// Not more than the app needs, and a probe that is told by a file.
fn mortal(mut manifest: Manifest) -> Manifest {
    manifest.app["resources"] = json!({"limits": {"memory": "64Mi"}});
    manifest.app["livenessProbe"] = json!({
        "exec": {"command": ["test", "!", "-e", "/sick"]},
        "periodSeconds": 1, "failureThreshold": 1, "terminationGracePeriodSeconds": 2,
        // A probe that is only slow says nothing.
        "timeoutSeconds": 60,
    });
    manifest
}

fn ended(pod: &Pod<'_>) -> Value {
    pod.container("app")["lastState"]["terminated"].clone()
}

/// Makes the container end, and waits for the next one to have its files.
fn i3_comes_back(pod: &Pod<'_>, file: &str) -> Main {
    let before = pod.main("app");
    // Root of the image, which begins anew: the next start does not find it.
    // Its end may come before the answer.
    pod.exec(&["touch", file]);
    let main = pod.next_main("app", Some(before));
    until("all is written again", || main.file("/tmp/view.py").as_deref() == Some("one"));
    until("to the last", || main.file("/tmp/deep/er/data").as_deref() == Some("two"));
    assert!(!main.exists(file));
    main
}

fn fill(rig: &Rig) {
    rig.write("view.py", "one");
    rig.write("deep/er/data", "two");
}

#[test]
fn i3_an_app_that_takes_too_much_memory_or_is_sick_has_its_files_again() {
    let Some(rig) = Rig::at_level("pod-mortal", "baseline") else { return };
    fill(&rig);
    let mut manifest = mortal(Manifest::new());
    manifest.app["command"] = json!(["sh", "-c", APP]);
    let pod = rig.pod(&manifest);
    rig.once("/tmp", &[]).ends_with(0);
    i3_comes_back(&pod, "/eat");
    assert_eq!(ended(&pod)["reason"], "OOMKilled", "{}", ended(&pod));
    i3_comes_back(&pod, "/sick");
    assert_eq!(ended(&pod)["reason"], "Completed", "TERM reached it: {}", ended(&pod));
    assert_eq!((pod.restarts("app"), pod.restarts("e2ek-sync")), (2, 0));
    rig.once("/tmp", &[]).ends_with(0).says_all(&["equal=true"]);
}

#[test]
fn i9_under_the_wrapper_it_has_them_before_its_first_instruction() {
    let Some(rig) = Rig::at_level("pod-mortal-run", "baseline") else { return };
    fill(&rig);
    let pod = rig.pod(&mortal(Manifest::wrapped(&["sh", "-c", APP])));
    rig.once("/tmp", &[]).ends_with(0);
    let starts = |pod: &Pod<'_>| pod.log("app").matches("started with").count();
    until("it started", || starts(&pod) == 1);
    i3_comes_back(&pod, "/sick");
    until("it started", || starts(&pod) == 1);
    assert!(pod.log("app").contains("started with one"), "{}", pod.log("app"));
    assert_eq!(ended(&pod)["exitCode"], 0, "the command's own: {}", ended(&pod));
    // The kernel takes the greedy one only: the wrapper holds, and the container goes on.
    let main = pod.main("app");
    pod.exec(&["touch", "/eat"]).ends_with(0);
    until("it is held", || pod.log("app").contains("it is held"));
    assert_eq!((pod.main("app"), pod.restarts("app")), (main, 1));
}

#[test]
fn i3_a_pod_that_is_evicted_is_followed_by_one_with_the_same_files() {
    let Some(rig) = Rig::new("pod-evicted") else { return };
    fill(&rig);
    let mut deployment = deployment(1);
    spec(&mut deployment)["containers"][0]["command"] = json!(["sh", "-c", "exec sleep 1000000"]);
    let pod = rig.deploy(&deployment).remove(0);
    let mut watch = rig.watch("deploy/app:/tmp", &[]);
    watch.line(&["sync end", "targets=1/1"]);
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": pod, "namespace": rig.namespace},
    });
    let file = rig.home.join("eviction.json");
    std::fs::write(&file, eviction.to_string()).unwrap();
    let at = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", rig.namespace);
    rig.kubectl(&["create", "--raw", &at, "-f", file.to_str().unwrap()]).ends_with(0);
    watch.line(&["pod gone", &pod]);
    watch.line(&["sync end", "targets=1/1"]);
    let next = rig.pods().remove(0);
    assert_ne!(next, pod);
    assert_eq!(rig.seen(&next, "/tmp/deep/er/data").as_deref(), Some("two"));
    watch.stop();
}
