//! The wrapper in the app's container: when the app starts, restarts, is held, and ends.

use serde_json::json;

use crate::pod::{Manifest, Pod};
use crate::rig::{Rig, until};

/// Says what it was started with, and stays; leaves an orphan behind at each start.
const APP: &str = "echo started with $(cat /tmp/view.py); (sleep 0.01 &) ; exec sleep 1000000";

fn app(command: &str) -> Manifest {
    Manifest::wrapped(&["sh", "-c", command]).app_user(1000, 1000)
}

fn starts(pod: &Pod<'_>) -> Vec<String> {
    let log = pod.log("app");
    log.lines().filter(|line| line.starts_with("started with")).map(str::to_owned).collect()
}

#[test]
fn i9_the_start_waits_for_the_first_sync_and_a_save_restarts() {
    let Some(rig) = Rig::at_level("pod-start", "baseline") else { return };
    rig.write("view.py", "one");
    let pod = rig.pod(&app(APP));
    until("the wrapper has called", || pod.log("e2ek-sync").contains("the wrapper is there"));
    assert_eq!(starts(&pod), [""; 0], "nothing was synced");
    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    watch.line(&["sync end", "gen=1", "status=ok"]);
    // In its own time: it comes by way of the container's log.
    until("it is shown", || watch.said().contains("started with one"));
    until("it started", || starts(&pod) == ["started with one"]);
    let main = pod.main("app");
    rig.write("view.py", "two");
    watch.line(&["restart end", "status=ok"]);
    until("it is shown", || watch.said().contains("started with two"));
    until("it started again", || starts(&pod) == ["started with one", "started with two"]);
    // By hand: all of it, by the workload's name, and by the pod's.
    let pods_name = format!("{}/app", pod.name);
    for (count, more) in [&[][..], &["--target", &pod.target("/tmp")], &["--target", &pods_name]]
        .into_iter()
        .enumerate()
    {
        rig.control(&[&["restart"], more].concat()).ends_with(0);
        watch.line(&["restart end", "status=ok"]);
        until("it started again", || starts(&pod).len() == 3 + count);
    }
    assert_eq!((pod.main("app"), pod.restarts("app")), (main, 0), "the container is the same");
    // Orphans of both runs were reaped.
    until("no zombie is left", || {
        let listed = pod.exec(&["ps", "-o", "stat,comm"]).ends_with(0);
        !listed.out.lines().any(|line| line.starts_with('Z'))
    });
    watch.stop();
    until("one runs on with nobody there", || starts(&pod).len() == 5);
}

#[test]
fn an_app_that_heeds_no_term_is_killed_and_started_again() {
    let Some(rig) = Rig::at_level("pod-ladder", "baseline") else { return };
    rig.write("view.py", "one");
    // Nor does what it left behind, out of its process group.
    let deaf = "trap '' TERM; setsid sleep 1000001 & echo started with $(cat /tmp/view.py); \
        while :; do sleep 1000000; done";
    let mut manifest = app(deaf);
    manifest.app["command"] = json!(["/e2ek/e2ek-sidecar", "run", "--kill-after", "1", "--"]);
    let pod = rig.pod(&manifest);
    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    until("it started", || starts(&pod) == ["started with one"]);
    watch.flush();
    let main = pod.main("app");
    rig.write("view.py", "two");
    watch.line(&["restart end", "status=ok"]);
    until("it started again", || starts(&pod) == ["started with one", "started with two"]);
    let listed = pod.exec(&["ps", "-o", "args"]).ends_with(0);
    let left = listed.out.lines().filter(|line| line.trim_end() == "sleep 1000001").count();
    assert_eq!(left, 1, "of the second start: {}", listed.out);
    assert_eq!((pod.main("app"), pod.restarts("app")), (main, 0));
    watch.stop();
}

#[test]
fn i9_one_sync_is_enough_for_the_start() {
    let Some(rig) = Rig::at_level("pod-start-once", "baseline") else { return };
    rig.write("view.py", "one");
    let pod = rig.pod(&app(APP));
    rig.once("/tmp", &[]).ends_with(0);
    until("it started", || starts(&pod) == ["started with one"]);
}

#[test]
fn the_wait_has_a_bound_and_a_way_out() {
    let Some(rig) = Rig::at_level("pod-hold", "baseline") else { return };
    let mut manifest = app("echo started with nothing; exec sleep 1000000");
    manifest.app["command"] = json!(["/e2ek/e2ek-sidecar", "run", "--hold", "1", "--"]);
    let bound = rig.named_pod("bound", &manifest);
    let mut manifest = app("echo started with nothing; exec sleep 1000000");
    manifest.app["env"] = json!([{"name": "E2EK_HOLD", "value": "0"}]);
    let free = rig.named_pod("free", &manifest);
    for pod in [&bound, &free] {
        until("it started", || starts(pod) == ["started with nothing"]);
    }
    assert!(bound.log("app").contains("no sync came in time"), "{}", bound.log("app"));
    assert!(!free.log("app").contains("no sync came in time"));
}

#[test]
fn a_crash_is_held_and_the_next_save_mends_it() {
    let Some(rig) = Rig::at_level("pod-crash", "baseline") else { return };
    rig.write("view.py", "exit 3");
    // Nothing in the manifest says that it is the wrapper.
    let mut manifest = app("echo started with $(cat /tmp/view.py); . /tmp/view.py");
    let outer = json!(["sh", "-c", "exec \"$0\" run -- \"$@\"", "/e2ek/e2ek-sidecar"]);
    manifest.app["command"] = outer;
    let pod = rig.pod(&manifest);
    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    watch.line(&["exited", "exit=3", "held=true"]);
    until("it is held", || pod.log("app").contains("it is held"));
    rig.write("view.py", "exec sleep 1000000");
    until("it runs", || starts(&pod).len() == 2);
    assert_eq!(pod.restarts("app"), 0, "no back-off began");
    let main = pod.main("app");
    assert_eq!(main.file("/tmp/view.py").as_deref(), Some("exec sleep 1000000"));
    watch.line(&["started with exec"]);
    watch.flush();
    assert_eq!(watch.said().matches("started with exec").count(), 1, "by the link, not by the log");
    watch.stop();
}

#[test]
fn the_kubelets_term_reaches_the_app_and_its_code_is_kept() {
    let Some(rig) = Rig::at_level("pod-term", "baseline") else { return };
    rig.write("view.py", "x");
    let mut manifest =
        app("trap 'echo got term; exit 7' TERM; echo started with it; while :; do sleep 0.1; done");
    manifest.more["terminationGracePeriodSeconds"] = json!(30);
    manifest.more["restartPolicy"] = json!("Never");
    let pod = rig.pod(&manifest);
    rig.once("/tmp", &[]).ends_with(0);
    until("it started", || starts(&pod).len() == 1);
    // As the kubelet does at the pod's end.
    let mut log = rig.kubectl_command();
    log.args(["-n", &rig.namespace, "logs", "-f", "pod", "-c", "app"]);
    let log = log.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let events = ["get", "pod", "pod", "-o", "json", "--watch", "--output-watch-events"];
    let mut seen = rig.kubectl_command();
    seen.args(["-n", &rig.namespace]).args(events).stdout(std::process::Stdio::piped());
    let mut seen = seen.spawn().unwrap();
    rig.k(&["delete", "pod", "pod", "--wait=true"]).ends_with(0);
    let said = log.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains("got term"));
    seen.kill().unwrap();
    let seen = String::from_utf8(seen.wait_with_output().unwrap().stdout).unwrap();
    let codes = serde_json::Deserializer::from_str(&seen)
        .into_iter::<serde_json::Value>()
        .map_while(Result::ok)
        .flat_map(|event| event["object"]["status"]["containerStatuses"].as_array().cloned())
        .flatten()
        .filter(|one| one["name"] == "app")
        .filter_map(|one| one["state"]["terminated"]["exitCode"].as_i64())
        .collect::<Vec<_>>();
    assert_eq!(codes.first(), Some(&7), "{codes:?}");
}

#[test]
fn without_the_wrapper_nothing_is_restarted_and_that_is_said_once() {
    let Some(rig) = Rig::at_level("pod-bare", "baseline") else { return };
    rig.write("view.py", "one");
    let pod = rig.pod(&Manifest::new());
    let main = pod.main("app");
    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    watch.line(&["sync end", "gen=1"]);
    for text in ["two", "three"] {
        rig.write("view.py", text);
        watch.flush();
    }
    watch.line(&["has no wrapper", "e2ek-sidecar run"]);
    watch.flush();
    assert_eq!(watch.said().matches("has no wrapper").count(), 1);
    for more in [&[][..], &["--target", &pod.target("/tmp")]] {
        let said = rig.control(&[&["restart"], more].concat()).ends_with(2);
        said.says_all(&["its container has no wrapper", "e2ek-sidecar run --"]);
    }
    assert_eq!((pod.main("app"), pod.restarts("app")), (main, 0));
    watch.stop();
}

#[test]
fn a_signal_that_ends_is_sent_where_the_files_are_on_a_volume() {
    let Some(rig) = Rig::at_level("pod-signal-volume", "baseline") else { return };
    rig.write("view.py", "one");
    rig.write("e2ek.toml", "[restart]\ndefault = \"signal:TERM\"\n");
    let mut manifest = Manifest::new();
    let script = "echo found $(cat /code/view.py); trap 'exit 0' TERM; while :; do sleep 0.1; done";
    manifest.app["command"] = json!(["sh", "-c", script]);
    let code = json!({"name": "code", "mountPath": "/code"});
    manifest.app["volumeMounts"].as_array_mut().unwrap().push(code);
    manifest.more["volumes"] = json!([{"name": "code", "emptyDir": {}}]);
    let pod = rig.pod(&manifest);
    let main = pod.main("app");
    let mut watch = rig.watch(&pod.target("/code"), &[]);
    watch.line(&["sync end", "gen=1"]);
    rig.write("view.py", "two");
    // The kubelet starts it anew, and what it finds is on the volume.
    pod.next_main("app", Some(main));
    until("it found the new one", || pod.log("app").contains("found two"));
    watch.line(&["connected", "equal=true"]);
    watch.stop();
}

#[test]
fn i1_a_signal_that_would_take_the_files_along_is_refused() {
    let Some(rig) = Rig::at_level("pod-signal", "baseline") else { return };
    rig.write("view.py", "one");
    rig.write("e2ek.toml", "[restart]\ndefault = \"signal:HUP\"\n");
    // It says that it was told, and would end of any other signal.
    let mut manifest = Manifest::new();
    let script = "trap 'echo told' HUP; while :; do sleep 0.1; done";
    manifest.app["command"] = json!(["sh", "-c", script]);
    let pod = rig.pod(&manifest);
    let main = pod.main("app");
    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    watch.line(&["sync end", "gen=1"]);
    rig.write("view.py", "two");
    until("it was told", || pod.log("app").contains("told"));
    watch.stop();
    rig.write("e2ek.toml", "[restart]\ndefault = \"signal:USR1\"\n");
    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    watch.line(&["connected"]);
    rig.write("view.py", "three");
    watch.line(&["USR1 would end the main process", "not on a volume"]);
    assert_eq!((pod.main("app"), pod.restarts("app")), (main, 0));
    watch.stop();
}
