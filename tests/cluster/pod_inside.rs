//! Pods whose app is its own hub (`e2ek-sidecar run --serve -- CMD`): no second container, no shared
//! processes, no right. Each fits the Pod Security level `restricted`.

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::pod::{Main, Manifest, Pod};
use crate::rig::{Rig, until};

/// Says what it was started with, and stays.
const APP: &str = "echo started with $(cat /tmp/view.py); exec sleep 1000000";
const TARGET: &str = "deploy/app:/tmp";

fn manifest() -> Manifest {
    Manifest::in_container(&["sh", "-c", APP]).restricted(1000)
}

/// A Deployment `app` of such pods.
fn deployment(replicas: u32) -> Value {
    let mut template = manifest().build("app");
    template["metadata"] = json!({"labels": {"app": "app"}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "app"}},
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
        },
    })
}

fn starts(pod: &Pod<'_>) -> Vec<String> {
    let log = pod.log("app");
    log.lines().filter(|line| line.starts_with("started with")).map(str::to_owned).collect()
}

/// All is there, and belongs to the app's user.
fn i2_there(main: Main, view: &str) {
    assert_eq!(main.file("/tmp/view.py").as_deref(), Some(view));
    assert_eq!(main.file("/tmp/deep/er/data").as_deref(), Some("data"));
    for name in ["view.py", "deep", "deep/er", "deep/er/data"] {
        let found = main.metadata(&format!("/tmp/{name}"));
        assert_eq!((found.uid(), found.gid()), (1000, 1000), "{name}");
    }
}

fn fill(rig: &Rig) {
    rig.write("view.py", "one");
    rig.write("deep/er/data", "data");
}

#[test]
fn i2_a_save_is_in_the_container_and_restarts_its_app() {
    let Some(rig) = Rig::at_level("inside", "restricted") else { return };
    fill(&rig);
    let pod = rig.pod(&manifest());
    assert_eq!(starts(&pod), [""; 0], "nothing was synced");
    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    watch.line(&["sync end", "gen=1", "status=ok", "targets=1/1"]);
    let main = pod.main("app");
    i2_there(main, "one");
    until("it is shown", || watch.said().contains("started with one"));
    rig.write("view.py", "two");
    watch.line(&["restart end", "status=ok"]);
    i2_there(main, "two");
    until("it is shown", || watch.said().contains("started with two"));
    until("it started again", || starts(&pod) == ["started with one", "started with two"]);
    rig.control(&["restart"]).ends_with(0);
    watch.line(&["restart end", "status=ok"]);
    until("it started by hand", || starts(&pod).len() == 3);
    assert_eq!((pod.main("app"), pod.restarts("app")), (main, 0), "the container is the same");
    watch.stop();
}

/// The hub goes with its container, and so does what was not on a volume.
#[test]
fn i3_a_container_that_was_killed_is_back_with_what_was_saved_last() {
    let Some(rig) = Rig::at_level("inside-kill", "restricted") else { return };
    fill(&rig);
    let pod = rig.pod(&manifest());
    rig.once("/tmp", &[]).ends_with(0).says_all(&["sync end", "status=ok"]);
    until("it started", || starts(&pod) == ["started with one"]);
    // With nobody there, from its store.
    let before = pod.main("app");
    pod.kill(before);
    let main = pod.next_main("app", Some(before));
    until("it started", || starts(&pod) == ["started with one"]);
    i2_there(main, "one");

    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    watch.line(&["connected", "equal=true"]);
    for text in ["two", "three"] {
        rig.write("view.py", text);
        watch.flush();
        let before = pod.main("app");
        pod.kill(before);
        watch.line(&["disconnected"]);
        watch.line(&["connected"]);
        let main = pod.next_main("app", Some(before));
        watch.flush();
        i2_there(main, text);
        let said = format!("started with {text}");
        until("its app saw it first", || starts(&pod).first() == Some(&said));
    }
    // What is saved while it is down is there afterwards.
    let before = pod.main("app");
    pod.kill(before);
    rig.write("view.py", "four");
    let main = pod.next_main("app", Some(before));
    watch.line(&["connected"]);
    watch.flush();
    i2_there(main, "four");
    watch.stop();
}

#[test]
fn a_name_in_the_path_another_socket_and_no_volume_do() {
    let Some(rig) = Rig::at_level("inside-path", "restricted") else { return };
    fill(&rig);
    let mut manifest = manifest();
    let run = "e2ek-sidecar run --serve --socket '/tmp/my hub.sock' --state /tmp/.state --";
    let command = format!("cd / && exec {run} sh -c '{APP}'");
    manifest.app["command"] = json!(["sh", "-c", command]);
    manifest.app["args"] = json!([]);
    manifest.app["env"] = json!([{"name": "PATH", "value": "/bin:/e2ek"}]);
    let mounts = manifest.app["volumeMounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["name"] == "bin");
    let pod = rig.pod(&manifest);
    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    watch.line(&["sync end", "status=ok"]);
    let before = pod.main("app");
    i2_there(before, "one");
    pod.kill(before);
    // Nothing is left in the pod: the session brings all of it again.
    let main = pod.next_main("app", Some(before));
    watch.line(&["sync end", "status=ok"]);
    i2_there(main, "one");
    until("its app saw it first", || starts(&pod).first().is_some_and(|s| s == "started with one"));
    watch.stop();
}

#[test]
fn all_replicas_get_it_and_a_rollout_is_followed() {
    let Some(rig) = Rig::at_level("inside-many", "restricted") else { return };
    fill(&rig);
    // Held until the first sync, and ready all the same: the wrapper runs.
    let pods = rig.deploy(&deployment(2));
    let mut watch = rig.watch(TARGET, &[]);
    for _ in &pods {
        watch.line(&["connected"]);
    }
    watch.flush();
    // What was said of the one before may still be on its way to us.
    let next = watch.status()["gen"]["local"].as_u64().unwrap() + 1;
    rig.write("view.py", "two");
    watch.line(&["sync end", &format!("gen={next} "), "targets=2/2"]);
    for pod in &pods {
        assert_eq!(rig.seen(pod, "/tmp/view.py").as_deref(), Some("two"), "{pod}");
    }
    let group = &watch.status()["groups"][0];
    assert_eq!((&group["current"], &group["pods"]), (&json!(2), &json!(2)));
    rig.k(&["rollout", "restart", "deploy/app"]).ends_with(0);
    for _ in 0..2 {
        watch.line(&["pod gone"]);
    }
    rig.k(&["rollout", "status", "deploy/app", "--timeout=120s"]).ends_with(0);
    rig.write("view.py", "three");
    until("both are served", || watch.status()["groups"][0]["pods"] == 2);
    watch.flush();
    let next = rig.pods();
    assert!(next.len() == 2 && next.iter().all(|pod| !pods.contains(pod)), "{pods:?} {next:?}");
    for pod in &next {
        assert_eq!(rig.seen(pod, "/tmp/view.py").as_deref(), Some("three"), "{pod}");
    }
    watch.stop();
}

#[test]
fn which_of_several_is_meant_is_asked_and_what_is_missing_named() {
    let Some(rig) = Rig::at_level("inside-which", "restricted") else { return };
    fill(&rig);
    // Both are their own hubs; a third one is not.
    let mut manifest = manifest();
    let mut worker = manifest.app.clone();
    worker["name"] = json!("worker");
    worker["volumeMounts"].as_array_mut().unwrap().retain(|mount| mount["name"] == "bin");
    worker["args"] = manifest.app["args"].clone();
    let place = ["run", "--serve", "--socket", "/tmp/hub.sock", "--state", "/tmp/.state", "--"];
    worker["command"] = json!([&["/e2ek/e2ek-sidecar"], &place[..]].concat());
    let mut proxy = manifest.app.clone();
    proxy["name"] = json!("proxy");
    (proxy["command"], proxy["args"]) = (json!(["sleep", "1000000"]), json!([]));
    manifest.more["containers"] = json!([worker, proxy]);
    let pod = rig.pod(&manifest);
    rig.once("/tmp", &[])
        .ends_with(3)
        .says_all(&["several containers could be meant: app, worker", "choose one: -c app"]);
    rig.once("/tmp", &["-c", "proxy"]).ends_with(3).says_all(&[
        "its container `proxy` has no hub",
        "run --serve",
        "app, worker",
        "-c app",
    ]);
    rig.once("/tmp", &["-c", "worker"]).ends_with(0).says_all(&["sync end", "pod/worker"]);
    i2_there(pod.main("worker"), "one");
    assert!(!pod.main("app").exists("/tmp/view.py"));
    rig.k(&["delete", "pod", "pod", "--grace-period=1"]).ends_with(0);

    // What the manifest says is not there.
    let mut manifest = self::manifest();
    manifest.app["command"] = json!(["sh", "-c", "exec sleep 1000000", "/nope/e2ek-sidecar"]);
    manifest.app["args"] = json!(["run", "--serve", "--", "app"]);
    let pod = rig.named_pod("nope", &manifest);
    rig.once_in(&pod, "/tmp").ends_with(1).says_all(&[
        "the container `app` has no /nope/e2ek-sidecar",
        "examples/kubernetes/pyramid-in-container.yaml",
    ]);
}
