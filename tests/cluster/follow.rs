//! Pods that come and go, one and several.

use serde_json::json;

use crate::pods::{deployment, spec};
use crate::rig::{Rig, until};

const TARGET: &str = "deploy/app:/srv/app";

#[test]
fn i2_a_save_is_in_the_container_when_it_is_said_to_be() {
    let Some(rig) = Rig::new("save") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    let mut watch = rig.watch(TARGET, &[]);
    watch.line(&["sync end", "gen=1", "status=ok", "targets=1/1"]);
    assert_eq!(rig.seen(&pod, "/srv/app/view.py").as_deref(), Some("one\n"));
    rig.write("view.py", "two\n");
    rig.write("a name; with $(words) 'a' \"shell\" reads", "three\n");
    watch.flush();
    assert_eq!(rig.seen(&pod, "/srv/app/view.py").as_deref(), Some("two\n"));
    let odd = "/srv/app/a name; with $(words) 'a' \"shell\" reads";
    assert_eq!(rig.seen(&pod, odd).as_deref(), Some("three\n"));
    watch.stop();
    let again =
        rig.run(&["sync", "--once", rig.source.to_str().unwrap(), TARGET, "-n", &rig.namespace]);
    again.ends_with(0).says_all(&["equal=true"]);
}

#[test]
fn a_new_pod_is_followed_and_so_is_a_rollout() {
    let Some(rig) = Rig::new("follow") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    let mut watch = rig.watch(TARGET, &[]);
    watch.line(&["sync end", "targets=1/1"]);
    rig.k(&["delete", "pod", &pod, "--wait=false"]).ends_with(0);
    watch.line(&["pod gone", &pod]);
    watch.line(&["pod found"]);
    watch.line(&["sync end", "targets=1/1"]);
    let next = rig.pods().remove(0);
    assert_ne!(next, pod);
    assert_eq!(rig.seen(&next, "/srv/app/view.py").as_deref(), Some("one\n"));

    rig.k(&["rollout", "restart", "deploy/app"]).ends_with(0);
    watch.line(&["pod found"]);
    watch.line(&["pod gone", &next]);
    rig.k(&["rollout", "status", "deploy/app", "--timeout=120s"]).ends_with(0);
    rig.write("view.py", "two\n");
    watch.flush();
    let last = rig.pods().remove(0);
    assert_eq!(rig.seen(&last, "/srv/app/view.py").as_deref(), Some("two\n"));
    watch.stop();
}

#[test]
fn i12_a_workload_scaled_to_nothing_is_waited_for() {
    let Some(rig) = Rig::new("scale") else { return };
    rig.write("view.py", "one\n");
    rig.deploy(&deployment(1));
    let mut watch = rig.watch(TARGET, &[]);
    watch.line(&["sync end", "targets=1/1"]);
    rig.k(&["scale", "deploy/app", "--replicas=0"]).ends_with(0);
    watch.line(&["pods absent", TARGET]);
    until("nothing is served", || watch.status()["targets"].as_array().unwrap().is_empty());
    assert_eq!(watch.status()["state"], "disconnected", "not synced: nobody has anything");
    rig.write("view.py", "two\n");
    rig.control(&["flush", "--timeout", "300ms"]).ends_with(6);
    rig.k(&["scale", "deploy/app", "--replicas=1"]).ends_with(0);
    watch.line(&["sync end", "targets=1/1"]);
    watch.flush();
    let pod = rig.pods().remove(0);
    assert_eq!(rig.seen(&pod, "/srv/app/view.py").as_deref(), Some("two\n"));
    watch.stop();
}

#[test]
fn what_an_app_without_the_wrapper_says_stands_beside_the_sync() {
    let Some(rig) = Rig::new("output") else { return };
    let mut deployment = deployment(1);
    // Says what it finds, once.
    let command = "mkdir -p /srv/app; trap exit TERM; \
                   while :; do cat /srv/app/say 2>/dev/null && sleep 1000 & wait; sleep 1; done";
    spec(&mut deployment)["containers"][0]["command"] = json!(["sh", "-c", command]);
    rig.deploy(&deployment);
    let mut watch = rig.watch(TARGET, &[]);
    watch.line(&["connected"]);
    rig.write("say", "the first line\nthe second line\n");
    watch.line(&["the first line"]);
    assert_eq!(watch.line(&["the second line"]), "the second line", "as it came, without a time");
    watch.stop();
}

#[test]
fn a_pod_whose_place_is_not_there_at_first_is_asked_again() {
    let Some(rig) = Rig::new("late") else { return };
    rig.write("view.py", "one\n");
    let mut deployment = deployment(1);
    let command = "sleep 6; mkdir -p /opt/deep/app; trap exit TERM; while :; do sleep 1; done";
    spec(&mut deployment)["containers"][0]["command"] = json!(["sh", "-c", command]);
    let pod = rig.deploy(&deployment).remove(0);
    until("the place is there", || {
        rig.k(&["exec", &pod, "-c", "app", "--", "test", "-d", "/opt/deep/app"]).code == Some(0)
    });
    let mut watch = rig.watch("deploy/app:/opt/deep/app", &[]);
    watch.line(&["sync end", "targets=1/1"]);
    rig.k(&["delete", "pod", &pod, "--wait=false"]).ends_with(0);
    watch.line(&["error", "is not there in the container"]);
    watch.line(&["sync end", "targets=1/1"]);
    let next = rig.pods().remove(0);
    assert_eq!(rig.seen(&next, "/opt/deep/app/view.py").as_deref(), Some("one\n"));
    watch.stop();
}

#[test]
fn a_port_leads_to_the_pod_that_there_is_and_a_request_comes_once() {
    use std::io::{Read, Write};
    let Some(rig) = Rig::new("port") else { return };
    rig.write("view.py", "one\n");
    let mut deployment = deployment(1);
    // Notes each request, and has no answer where that is not synced.
    let serve = "mkdir -p /srv/app; while :; do nc -l -p 80 -e sh -c \
                 'read line; echo \"$line\" >> /srv/log; cat /srv/app/answer 2>/dev/null'; done";
    spec(&mut deployment)["containers"][0]["command"] = json!(["sh", "-c", serve]);
    let pod = rig.deploy(&deployment).remove(0);
    let port = crate::rights::free_port();
    let mut watch = rig.watch(TARGET, &["--forward", &format!("{port}:80")]);
    watch.line(&["sync end", "targets=1/1"]);
    let ask = |words: &str| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(words.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert_eq!(ask("an order\n"), "");
    assert_eq!(
        rig.seen(&pod, "/srv/log").as_deref(),
        Some("an order\n"),
        "once, and answered by none"
    );
    rig.write("answer", "hello\n");
    watch.flush();
    rig.k(&["delete", "pod", &pod, "--wait=false"]).ends_with(0);
    watch.line(&["pod gone", &pod]);
    watch.line(&["sync end", "targets=1/1"]);
    let next = rig.pods().remove(0);
    assert_eq!(ask("another\n"), "hello\n");
    assert_eq!(rig.seen(&next, "/srv/log").as_deref(), Some("another\n"));
    watch.stop();
}

/// Far more than what all buffers on the way hold: the app answers while it is still being told.
#[test]
fn a_port_carries_both_ways_at_once() {
    use std::io::{Read, Write};
    const BYTES: usize = 64 << 20;
    let Some(rig) = Rig::new("echo") else { return };
    rig.write("view.py", "one\n");
    let mut deployment = deployment(1);
    let serve = "mkdir -p /srv/app; while :; do nc -l -p 80 -e cat; done";
    spec(&mut deployment)["containers"][0]["command"] = json!(["sh", "-c", serve]);
    rig.deploy(&deployment);
    let port = crate::rights::free_port();
    let mut watch = rig.watch(TARGET, &["--forward", &format!("{port}:80")]);
    watch.line(&["sync end", "targets=1/1"]);
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let said = (0..BYTES).map(|at| (at / 251) as u8).collect::<Vec<_>>();
    let mut heard = vec![0; BYTES];
    std::thread::scope(|scope| {
        let mut to = stream.try_clone().unwrap();
        let said = &said;
        scope.spawn(move || to.write_all(said));
        // It must not wait for ever on the writer when this fails.
        let all = stream.read_exact(&mut heard);
        let _ = stream.shutdown(std::net::Shutdown::Both);
        all.expect("all of it comes back");
    });
    assert!(said == heard, "byte by byte");
    watch.stop();
}

/// What comes before the app in its pod takes longer than the hub waits for it.
#[test]
fn a_pod_whose_app_does_not_run_yet_is_asked_again() {
    let Some(rig) = Rig::new("early") else { return };
    rig.write("view.py", "one\n");
    let mut deployment = deployment(1);
    let spec = spec(&mut deployment);
    let mut hub = spec["containers"].as_array_mut().unwrap().pop().unwrap();
    hub["restartPolicy"] = json!("Always");
    let mut slow = crate::pods::app("slow");
    slow["command"] = json!(["sh", "-c", "until [ -e /go ]; do sleep 0.1; done"]);
    spec["initContainers"] = json!([hub, slow]);
    rig.apply(&deployment.to_string());
    let mut watch = rig.watch(TARGET, &[]);
    watch.line(&["error", "container app is not running"]);
    let pod = rig.pods().remove(0);
    rig.k(&["exec", &pod, "-c", "slow", "--", "touch", "/go"]).ends_with(0);
    watch.line(&["sync end", "targets=1/1"]);
    assert_eq!(rig.seen(&pod, "/srv/app/view.py").as_deref(), Some("one\n"));
    watch.stop();
}

#[test]
fn all_replicas_get_it_and_status_counts_them() {
    let Some(rig) = Rig::new("replicas") else { return };
    rig.write("view.py", "one\n");
    let pods = rig.deploy(&deployment(3));
    let mut watch = rig.watch(TARGET, &[]);
    for _ in &pods {
        // They need not be there at the same moment: then their first syncs are several.
        watch.line(&["connected"]);
    }
    watch.flush();
    rig.write("view.py", "two\n");
    watch.line(&["sync end", "targets=3/3"]);
    for pod in &pods {
        assert_eq!(rig.seen(pod, "/srv/app/view.py").as_deref(), Some("two\n"), "{pod}");
    }
    let group = &watch.status()["groups"][0];
    assert_eq!((&group["current"], &group["pods"]), (&json!(3), &json!(3)));
    let lines = rig.control(&["status"]).ends_with(0);
    assert!(lines.out.contains("current=3 pods=3"), "{lines:?}");
    // One of them does not hear of the next save.
    let signal = |signal: &str| {
        let hub = "$(ps -o pid,args | grep '[e]2ek-sidecar serve' | awk '{print $1}')";
        let kill = format!("kill -{signal} {hub}");
        rig.k(&["exec", &pods[2], "-c", "app", "--", "sh", "-c", &kill]).ends_with(0);
    };
    signal("STOP");
    rig.write("view.py", "late\n");
    until("two of them are current", || watch.status()["groups"][0]["current"] == 2);
    let lines = rig.control(&["status"]).ends_with(0);
    assert!(lines.out.contains("current=2 pods=3"), "{lines:?}");
    rig.control(&["status", "--output", "human"]).ends_with(0).says("2 of 3 pods current");
    signal("CONT");
    watch.flush();
    assert_eq!(rig.seen(&pods[2], "/srv/app/view.py").as_deref(), Some("late\n"));
    rig.write("view.py", "two\n");
    watch.flush();
    watch.stop();

    // Only one of them, by name and by label.
    let only = pods[1].as_str();
    let mut watch = rig.watch(TARGET, &["--pod", only]);
    watch.line(&["connected", only]);
    rig.write("view.py", "three\n");
    watch.flush();
    assert_eq!(rig.seen(only, "/srv/app/view.py").as_deref(), Some("three\n"));
    assert_eq!(rig.seen(&pods[0], "/srv/app/view.py").as_deref(), Some("two\n"));
    watch.stop();
    rig.k(&["label", "pod", &pods[2], "tier=edge"]).ends_with(0);
    let mut watch = rig.watch(TARGET, &["-l", "tier in (edge)"]);
    watch.line(&["connected", &pods[2]]);
    watch.flush();
    assert_eq!(rig.seen(&pods[2], "/srv/app/view.py").as_deref(), Some("three\n"));
    assert_eq!(rig.seen(&pods[0], "/srv/app/view.py").as_deref(), Some("two\n"));
    watch.stop();
}

#[test]
fn a_sync_that_is_done_waits_for_no_more_than_its_link() {
    let Some(rig) = Rig::new("done") else { return };
    rig.write("view.py", "one\n");
    rig.deploy(&deployment(1));
    let once = || {
        let source = rig.source.to_str().unwrap();
        rig.run(&["sync", "--once", source, TARGET, "-n", &rig.namespace]).ends_with(0);
        rig.logged().matches("links that do not end are left").count()
    };
    // A link may take its time where much else is done; what follows the pods would each time.
    let mut before = 0;
    let waited_for_none = (0..5).any(|_| {
        let now = once();
        std::mem::replace(&mut before, now) == now
    });
    assert!(waited_for_none, "each time something was waited for in vain");
}
