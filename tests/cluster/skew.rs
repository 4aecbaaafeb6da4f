//! Hubs of other versions: what speaks in the place of one says a Hello of protocols that nobody here
//! knows.

use e2ek_sidecar::wire::{Hello, PROTOCOL};
use serde_json::{Value, json};

use crate::pods::{app, deployment};
use crate::rig::{Rig, until};

/// A container `e2ek-sync` whose bridge says this Hello, and notes that it was asked.
fn hub(versions: (u16, u16), build: &str) -> Value {
    let mut hello = Vec::new();
    Hello { versions, features: 0, build: build.to_owned() }.encode(&mut hello);
    let octal: String = hello.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let script = format!("#!/bin/sh\necho >>/asked\nprintf '{octal}'\nexec cat >/dev/null\n");
    let command = "printf %s \"$1\" >/e2ek-sidecar; chmod 755 /e2ek-sidecar; touch /asked; \
                   exec sleep 1000000";
    json!({
        "name": "e2ek-sync", "image": "e2ek.test/busybox:1", "imagePullPolicy": "Never",
        "command": ["sh", "-c", command, "sh", script],
        "readinessProbe": {"exec": {"command": ["test", "-e", "/asked"]}, "periodSeconds": 1},
    })
}

/// A pod with such a hub, which the selector of Deployment `app` fits.
fn odd_pod(rig: &Rig, name: &str, hub: &Value) {
    let manifest = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "app"}},
        "spec": {
            "shareProcessNamespace": true,
            "terminationGracePeriodSeconds": 1,
            "containers": [app("app"), hub],
        },
    });
    rig.apply(&manifest.to_string());
    let ready = format!("pod/{name}");
    rig.k(&["wait", "--for=condition=Ready", &ready, "--timeout=120s"]).ends_with(0);
}

fn ours() -> String {
    let ((low, high), build) = (PROTOCOL, env!("CARGO_PKG_VERSION"));
    format!("protocol {low}..={high} ({build})")
}

#[test]
fn i13_a_hub_of_another_version_is_named_with_both_and_what_to_do() {
    let Some(rig) = Rig::new("skew") else { return };
    rig.write("view.py", "one\n");
    let namespace = &rig.namespace;
    for (name, versions, build, remedy) in [
        (
            "newer",
            (PROTOCOL.1 + 1, PROTOCOL.1 + 3),
            "9.9.9",
            "install version 9.9.9 here".to_owned(),
        ),
        (
            "older",
            (0, PROTOCOL.0 - 1),
            "0.0.1",
            format!("kubectl -n {namespace} set image pod/older e2ek-sync=IMAGE"),
        ),
    ] {
        odd_pod(&rig, name, &hub(versions, build));
        let theirs = format!("protocol {}..={} ({build})", versions.0, versions.1);
        let target = format!("pod/{name}:/srv/app");
        let source = rig.source.to_str().unwrap();
        for command in [&["sync", "--once"][..], &["watch"]] {
            let words = [command, &[source, &target, "-n", namespace]].concat();
            let said = rig.run(&words).ends_with(7);
            said.says_all(&[&ours(), &theirs, &remedy]);
        }
    }
}

#[test]
fn i13_the_other_pods_of_the_workload_go_on() {
    let Some(rig) = Rig::new("skew-one") else { return };
    rig.write("view.py", "one\n");
    odd_pod(&rig, "odd", &hub((PROTOCOL.1 + 1, PROTOCOL.1 + 1), "9.9.9"));
    rig.apply(&deployment(1).to_string());
    rig.k(&["rollout", "status", "deploy/app", "--timeout=120s"]).ends_with(0);
    let pod = rig.pods().into_iter().find(|name| name != "odd").unwrap();

    let mut watch = rig.watch("deploy/app:/srv/app", &[]);
    until("the one is served", || rig.seen(&pod, "/srv/app/view.py").as_deref() == Some("one\n"));
    let asked = || {
        let said = rig.k(&["exec", "odd", "-c", "e2ek-sync", "--", "cat", "/asked"]).ends_with(0);
        said.out.lines().count()
    };
    until("the other one is asked again", || asked() >= 3);
    rig.write("view.py", "two\n");
    until("a save is there", || rig.seen(&pod, "/srv/app/view.py").as_deref() == Some("two\n"));
    let group = &watch.status()["groups"][0];
    assert_eq!((&group["current"], &group["pods"]), (&json!(1), &json!(2)));
    assert_ne!(watch.status()["state"], "synced", "one of them has nothing");
    rig.control(&["flush", "--timeout", "1s"]).ends_with(6);
    let said = watch.said();
    let told = said.lines().filter(|line| line.contains("9.9.9")).collect::<Vec<_>>();
    assert_eq!(told.len(), 1, "once: {said}");
    assert!(told[0].contains("odd/app") && told[0].contains(&ours()), "{said}");

    rig.k(&["delete", "pod", "odd", "--wait=false"]).ends_with(0);
    watch.line(&["pod gone", "odd"]);
    watch.flush();
    assert_eq!(watch.status()["state"], "synced");
    watch.stop();
}
