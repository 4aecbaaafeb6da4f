//! What cannot be, told with the next command to type.

use serde_json::{Value, json};

use crate::pods::{app, deployment, spec};
use crate::rig::{Rig, Said, until};

/// `sync --once` to a target.
fn once(rig: &Rig, target: &str, more: &[&str]) -> Said {
    let source = rig.source.to_str().unwrap();
    rig.run(&[&["sync", "--once", source, target], more].concat())
}

/// The same into this test's namespace.
fn once_here(rig: &Rig, target: &str, more: &[&str]) -> Said {
    once(rig, target, &[&["-n", rig.namespace.as_str()], more].concat())
}

#[test]
fn names_that_lead_nowhere_are_told_with_those_that_do() {
    let Some(rig) = Rig::new("names") else { return };
    rig.deploy(&deployment(1));
    once_here(&rig, "deploy/nope:/x", &[]).ends_with(3).says_all(&[
        "there is no deploy/nope",
        &rig.namespace,
        "there: app",
    ]);
    once_here(&rig, "pod/nope:/x", &[])
        .ends_with(3)
        .says_all(&["there is no pod/nope", "there: app-"]);
    once_here(&rig, "sts/app:/x", &[]).ends_with(3).says_all(&["there is no sts/app"]);
    once(&rig, "deploy/app:/x", &["-n", "not-there"])
        .ends_with(3)
        .says_all(&["there is no namespace not-there", "kubectl get namespaces"]);
    once_here(&rig, "deploy/app:/x", &["--context", "nope"])
        .ends_with(3)
        .says_all(&["no context is named `nope`", "the kubeconfig has: e2ek"]);
    once_here(&rig, "deploy/app:/x", &["--kubeconfig", "/nope"])
        .ends_with(2)
        .says_all(&["there is no kubeconfig at /nope", "KUBECONFIG=FILE"]);
    once(&rig, "deploy/app:/x", &["-n", "a/../b"])
        .ends_with(2)
        .says_all(&["not the name of a namespace"]);
    // Names that a shell would read, and that would lead elsewhere in a path.
    let made = rig.home.join("made");
    for name in [format!("$(touch {})", made.display()), "a;b".into(), "a%2f..%2fb".into()] {
        once_here(&rig, &format!("deploy/{name}:/x"), &[]).ends_with(2);
        once_here(&rig, "deploy/app:/x", &["--pod", &name])
            .ends_with(2)
            .says_all(&["not the name of"]);
        // A container's name goes into no path: it is only looked for.
        once_here(&rig, "deploy/app:/x", &["-c", &name])
            .ends_with(3)
            .says_all(&["has no container"]);
    }
    once_here(&rig, "deploy/app:/x", &["-l", "a=$(b);&fieldSelector=x"]).ends_with(1);
    assert!(!made.exists());
    once_here(&rig, "deploy/app:/x", &["--pod", "app-nope"])
        .ends_with(3)
        .says_all(&["no pod of deploy/app fits --pod app-nope", "it has: app-"]);
    once_here(&rig, "deploy/app:/x", &["-c", "nope"])
        .ends_with(3)
        .says_all(&["it has no container `nope`, but app", "-c app"]);
    let config = std::fs::read_to_string(rig.cluster.join("kubeconfig")).unwrap();
    let nobody = rig.home.join("nobody");
    std::fs::write(&nobody, config.replace("16443", "1")).unwrap();
    once_here(&rig, "deploy/app:/x", &["--kubeconfig", nobody.to_str().unwrap()])
        .ends_with(6)
        .says_all(&["https://127.0.0.1:1 cannot be reached", "kubectl cluster-info"]);
    let token = config.lines().find_map(|line| line.split_once("token: \"")).unwrap().1;
    let token = token.split('"').next().unwrap();
    let stranger = rig.home.join("stranger");
    std::fs::write(&stranger, config.replace(token, "wrong")).unwrap();
    once_here(&rig, "deploy/app:/x", &["--kubeconfig", stranger.to_str().unwrap()])
        .ends_with(4)
        .says_all(&["does not accept who you are", "kubectl get pods"]);
}

#[test]
fn pods_that_cannot_be_used_are_told_with_the_reason() {
    let Some(rig) = Rig::new("unusable") else { return };
    let applied = |change: &dyn Fn(&mut Value), pods: &str| {
        let mut deployment = deployment(1);
        change(&mut deployment);
        rig.k(&["delete", "deploy", "app", "--ignore-not-found"]).ends_with(0);
        rig.k(&["wait", "--for=delete", "pod", "-l", "app=app", "--timeout=120s"]);
        rig.apply(&deployment.to_string());
        crate::rig::until(pods, || {
            rig.k(&["get", "pods"]).out.lines().skip(1).any(|line| line.contains(pods))
        });
        once_here(&rig, "deploy/app:/srv/app", &[])
    };
    let containers = |containers: Value| {
        move |deployment: &mut Value| spec(deployment)["containers"] = containers.clone()
    };
    applied(&containers(json!([app("app")])), "Running").ends_with(1).says_all(&[
        "it has no container `e2ek-sync`",
        "examples/kubernetes/pyramid.yaml",
        "e2ek-sidecar run --serve -- CMD",
        "examples/kubernetes/pyramid-in-container.yaml",
    ]);
    applied(&containers(json!([app("app"), app("e2ek-sync")])), "Running").ends_with(1).says_all(
        &["the container `e2ek-sync` has no /e2ek-sidecar", "its image must be the hub's"],
    );
    applied(&|deployment| spec(deployment)["shareProcessNamespace"] = json!(false), "Running")
        .ends_with(1)
        .says_all(&["do not share their processes", "set shareProcessNamespace: true"]);
    applied(
        &|deployment| {
            spec(deployment)["containers"].as_array_mut().unwrap().push(app("proxy"));
        },
        "Running",
    )
    .ends_with(3)
    .says_all(&["several containers could be meant: app, proxy", "choose one: -c app"]);
    applied(
        &|deployment| {
            spec(deployment)["containers"].as_array_mut().unwrap().push(app("proxy"));
            let annotations = &mut deployment["spec"]["template"]["metadata"]["annotations"];
            annotations["kubectl.kubernetes.io/default-container"] = json!("proxy");
        },
        "Running",
    )
    .ends_with(0)
    .says_all(&["/proxy"]);
    applied(
        &|deployment| spec(deployment)["containers"][0]["image"] = json!("e2ek.test/nope:1"),
        "ErrImageNeverPull",
    )
    .ends_with(1)
    .says_all(&["container app: ErrImageNeverPull", "describe pod"]);
    let pulled = |deployment: &mut Value| {
        // A registry that is not there.
        spec(deployment)["containers"][0]["image"] = json!("127.0.0.1:1/nope:1");
        spec(deployment)["containers"][0]["imagePullPolicy"] = json!("Always");
    };
    applied(&pulled, "ImagePullBackOff").ends_with(1).says_all(&[
        "container app: ",
        "ImagePull",
        "127.0.0.1:1/nope:1",
        "describe pod",
    ]);
    applied(
        &|deployment| spec(deployment)["containers"][0]["command"] = json!(["false"]),
        "CrashLoopBackOff",
    );
    // The cluster tries again every second: between two tries it is another reason.
    let mut said = String::new();
    crate::rig::until("the crash loop is seen", || {
        said = format!("{:?}", once_here(&rig, "deploy/app:/srv/app", &[]));
        said.contains("container app: CrashLoopBackOff")
    });
    assert!(said.contains("--previous") && said.contains("code: Some(1)"), "{said}");
    applied(&|deployment| spec(deployment)["nodeSelector"] = json!({"disk": "none"}), "Pending")
        .ends_with(1)
        .says_all(&["Unschedulable", "describe pod"]);
}

#[test]
fn places_that_cannot_be_are_told_by_their_path() {
    let Some(rig) = Rig::new("places") else { return };
    rig.write("view.py", "one\n");
    rig.deploy(&deployment(1));
    once_here(&rig, "deploy/app:/opt/not/there", &[])
        .ends_with(3)
        .says_all(&["/opt/not/there is not there in the container", "mount a volume there"]);
    once_here(&rig, "deploy/app:/etc/passwd", &[])
        .ends_with(1)
        .says_all(&["/etc/passwd is not a directory"]);
    once_here(&rig, "deploy/app", &[]).ends_with(2).says_all(&["the target has no path"]);
    // One that a shell would read is only a name.
    let odd = "/srv/app/a b; $(touch made) 'c' \"d\" & *";
    let missing = once_here(&rig, &format!("deploy/app:{odd}"), &[]).ends_with(3);
    missing.says_all(&["is not there in the container"]);
    rig.k(&["exec", "deploy/app", "-c", "app", "--", "mkdir", odd]).ends_with(0);
    once_here(&rig, &format!("deploy/app:{odd}"), &[]).ends_with(0);
    let listed = rig.k(&["exec", "deploy/app", "-c", "app", "--", "ls", "/srv/app"]).ends_with(0);
    assert_eq!(listed.out.trim_end(), odd.rsplit_once("app/").unwrap().1);
    let pod = rig.pods().remove(0);
    assert_eq!(rig.seen(&pod, "/made"), None);
    assert_eq!(rig.seen(&pod, &format!("{odd}/view.py")).as_deref(), Some("one\n"));
}

#[test]
fn a_command_for_a_pod_is_refused_by_name() {
    let Some(rig) = Rig::new("command") else { return };
    rig.deploy(&deployment(1));
    let source = rig.source.to_str().unwrap();
    let words = ["watch", source, "deploy/app:/srv/app", "-n", &rig.namespace, "--", "sh"];
    rig.run(&words).ends_with(2).says_all(&[
        "a command for deploy/app: pods run the command that their manifest names",
        "leave out `-- sh`",
        "command: ['/e2ek/e2ek-sidecar', 'run', '--', 'sh']",
    ]);
}

#[test]
fn i12_a_target_that_is_full_is_told_and_filled_when_there_is_room() {
    let Some(rig) = Rig::new("full") else { return };
    let mut deployment = deployment(1);
    let spec = spec(&mut deployment);
    spec["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "small", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}));
    spec["containers"][0]["volumeMounts"] = json!([{"name": "small", "mountPath": "/srv/app"}]);
    let pod = rig.deploy(&deployment).remove(0);
    rig.write("view.py", "one\n");
    // Of a size that no compression helps.
    let large: String = (0..300_000_u32)
        .map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 13) as u8 % 26))
        .collect();
    for name in ["a", "b", "c", "d", "e"] {
        rig.write(name, &large);
    }
    once_here(&rig, "deploy/app:/srv/app", &[]).ends_with(1).says_all(&["no space left"]);
    assert_eq!(rig.seen(&pod, "/srv/app/view.py").as_deref(), Some("one\n"), "what fits is there");
    let mut watch = rig.watch("deploy/app:/srv/app", &[]);
    watch.line(&["problem", "no space left"]);
    assert_ne!(watch.status()["state"], "synced");
    rig.control(&["flush", "--timeout", "1s"]).ends_with(1).says_all(&["paths were left out"]);
    for name in ["a", "b", "c"] {
        std::fs::remove_file(rig.source.join(name)).unwrap();
    }
    // What was left out is tried again when there is room.
    until("all is there", || rig.control(&["flush", "--timeout", "5s"]).code == Some(0));
    assert_eq!(watch.status()["state"], "synced");
    for name in ["d", "e"] {
        assert_eq!(rig.seen(&pod, &format!("/srv/app/{name}")), Some(large.clone()));
    }
    watch.stop();
}
