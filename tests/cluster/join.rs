//! A second `watch` of one workspace, with workloads.

use serde_json::{Value, json};

use crate::pods::deployment;
use crate::rig::{Rig, until};
use crate::watch::Watch;

const TARGET: &str = "deploy/app:/srv/app";

/// A Deployment of another name.
fn another(name: &str) -> Value {
    let mut deployment = deployment(1);
    deployment["metadata"]["name"] = json!(name);
    deployment["spec"]["selector"]["matchLabels"]["app"] = json!(name);
    deployment["spec"]["template"]["metadata"]["labels"]["app"] = json!(name);
    deployment
}

fn apply(rig: &Rig, name: &str) -> String {
    rig.apply(&another(name).to_string());
    rig.k(&["rollout", "status", &format!("deploy/{name}"), "--timeout=120s"]).ends_with(0);
    let of = |pod: &String| pod.starts_with(&format!("{name}-"));
    rig.pods().into_iter().find(of).unwrap()
}

/// `watch` as the second one.
fn join<'r>(rig: &'r Rig, target: &str, more: &[&str]) -> Watch<'r> {
    let mut watch = rig.watch(target, more);
    watch.line(&["joined"]);
    watch
}

fn targets(watch: &Watch<'_>) -> usize {
    watch.status()["targets"].as_array().unwrap().len()
}

#[test]
fn a_workload_joins_and_goes_with_whoever_brought_it() {
    let Some(rig) = Rig::new("join") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    let other = apply(&rig, "other");
    let side = rig.home.join("side");
    let mut first = rig.watch(side.to_str().unwrap(), &[]);
    first.line(&["sync end"]);
    let mut second = join(&rig, TARGET, &[]);
    second.line(&["pod found", &pod]);
    first.line(&["target added", TARGET]);
    let mut third = join(&rig, "deploy/other:/srv/app", &[]);
    third.line(&["connected", &other]);
    // The same workload once more: served once, and kept for as long as anybody wants it.
    let mut fourth = join(&rig, TARGET, &[]);
    rig.write("view.py", "two\n");
    first.flush();
    for pod in [&pod, &other] {
        assert_eq!(rig.seen(pod, "/srv/app/view.py").as_deref(), Some("two\n"));
    }
    assert_eq!(std::fs::read_to_string(side.join("view.py")).unwrap(), "two\n");
    assert_eq!(targets(&first), 3);
    second.interrupt();
    assert_eq!(second.wait(), Some(130));
    assert_eq!(targets(&first), 3);
    // Pods come and go here, too.
    rig.k(&["delete", "pod", &pod, "--wait=false"]).ends_with(0);
    fourth.line(&["pod gone", &pod]);
    fourth.line(&["pod found"]);
    fourth.line(&["connected"]);
    first.flush();
    fourth.interrupt();
    assert_eq!(fourth.wait(), Some(130));
    assert_eq!(targets(&first), 2, "its hub has let go");
    rig.write("view.py", "three\n");
    first.flush();
    assert_eq!(rig.seen(&other, "/srv/app/view.py").as_deref(), Some("three\n"));
    let app = rig.pods().into_iter().find(|pod| pod.starts_with("app-")).unwrap();
    assert_eq!(rig.seen(&app, "/srv/app/view.py").as_deref(), Some("two\n"), "not any more");
    // By its name; and a pod is not taken out of its workload.
    let name = format!("{other}/app");
    rig.control(&["stop", "--target", &name])
        .ends_with(5)
        .says(&["is there because deploy/other:/srv/app is"]);
    rig.control(&["stop", "--target", "deploy/other:/srv/app"]).ends_with(0);
    assert_eq!(third.wait(), Some(0));
    until("it is let go of", || targets(&first) == 1);
    first.stop();
}

#[test]
fn what_cannot_join_says_why_and_disturbs_nobody() {
    let Some(rig) = Rig::new("joinno") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    let mut first = rig.watch(TARGET, &[]);
    first.line(&["sync end"]);
    for (target, more, code, words) in [
        ("deploy/nope:/srv/app", vec![], 3, "there is no deploy/nope"),
        (TARGET, vec!["--kubeconfig", "/nope"], 2, "there is no kubeconfig at /nope"),
        (TARGET, vec!["--write", "in-place"], 5, "another write"),
        (TARGET, vec!["-e", "*.log"], 5, "another exclude"),
        (TARGET, vec!["--", "sh"], 2, "a command for deploy/app"),
        ("deploy/app:/srv", vec![], 5, "/srv"),
    ] {
        let command = rig.syncing(&["watch"], target, &more);
        let mut second = rig.start(command);
        second.fails(code, words);
    }
    // The same pod by another name is no second target.
    let by_name = format!("pod/{pod}:/srv/app");
    let mut second = rig.start(rig.syncing(&["watch"], &by_name, &[]));
    second.fails(5, "is being watched already, as one of deploy/app:/srv/app");
    rig.write("view.py", "two\n");
    first.flush();
    assert_eq!(rig.seen(&pod, "/srv/app/view.py").as_deref(), Some("two\n"));
    assert!(!first.said().contains("disconnected"));
    assert_eq!(targets(&first), 1);
    first.stop();
}

#[test]
fn ports_of_a_second_watch_lead_to_its_own_workload() {
    let Some(rig) = Rig::new("joinport") else { return };
    rig.write("index.html", "hello\n");
    let mut served = another("web");
    let serve = "mkdir -p /srv/app; exec busybox httpd -f -p 80 -h /srv/app";
    crate::pods::spec(&mut served)["containers"][0]["command"] = json!(["sh", "-c", serve]);
    rig.apply(&served.to_string());
    rig.k(&["rollout", "status", "deploy/web", "--timeout=120s"]).ends_with(0);
    let side = rig.home.join("side");
    let mut first = rig.watch(side.to_str().unwrap(), &[]);
    first.line(&["sync end"]);
    let port = crate::rights::free_port();
    let ports = format!("{port}:80");
    let mut second = join(&rig, "deploy/web:/srv/app", &["--forward", &ports]);
    second.line(&["forwarding"]);
    second.line(&["connected"]);
    first.flush();
    let ask = || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    assert!(ask().unwrap().ends_with("hello\n"));
    // A port that is taken is told to whoever asked for it.
    let mut third =
        rig.start(rig.syncing(&["watch"], "deploy/web:/srv/app", &["--forward", &ports]));
    third.fails(1, "cannot be had");
    second.interrupt();
    assert_eq!(second.wait(), Some(130));
    assert!(ask().is_none(), "nobody listens there any more");
    first.stop();
}
