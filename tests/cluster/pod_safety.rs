//! What neither the app nor a sync may do to the other's things.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::pod::Manifest;
use crate::rig::{Rig, until};

/// An app that is Python, which makes any system call.
fn python(mut manifest: Manifest) -> Manifest {
    manifest.app["image"] = json!("e2ek.test/pyramid:1");
    manifest
}

/// What the app may do to each of our processes, by the command of each: the serving hub, a bridge, the
/// wrapper. All of it is refused, but for a signal, which needs the same user or `KILL`.
fn i6_cannot_be_entered(rig: &Rig, manifest: Manifest) {
    rig.write("view.py", "one\n");
    let pod = rig.pod(&python(manifest));
    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    watch.line(&["sync end", "status=ok"]);
    let said = pod.exec(&["python3", "-c", include_str!("probe.py")]).ends_with(0);
    let found: Value = serde_json::from_str(&said.out).unwrap();
    let found = found.as_object().unwrap();
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["connect", "control", "run", "serve"], "{found:#?}");
    for (command, tried) in found.iter().filter(|(command, _)| *command != "control") {
        for (what, how) in tried.as_object().unwrap() {
            let refused = how == "EACCES" || how == "EPERM";
            assert_eq!(refused, what != "kill", "{command}: {what}: {how}");
        }
    }
    // The way is open where nobody hid.
    for (what, how) in found["control"].as_object().unwrap() {
        assert!(how == "done" || what == "setns", "{what}: {how}");
    }
    rig.write("view.py", "two\n");
    watch.flush();
    assert_eq!(pod.main("app").file("/tmp/view.py").as_deref(), Some("two\n"), "it goes on");
    watch.stop();
}

#[test]
fn i6_a_root_app_cannot_open_read_or_trace_the_hub() {
    let Some(rig) = Rig::at_level("pod-attack", "baseline") else { return };
    i6_cannot_be_entered(&rig, Manifest::wrapped(&["sleep", "1000000"]));
}

#[test]
fn i6_nor_can_an_app_of_the_hubs_own_user() {
    let Some(rig) = Rig::at_level("pod-attack-user", "baseline") else { return };
    // As in `restricted`, but without the profile that refuses such calls to anybody.
    let mut manifest = Manifest::wrapped(&["sleep", "1000000"]).restricted(1000);
    for container in [&mut manifest.app, &mut manifest.sidecar] {
        container["securityContext"].as_object_mut().unwrap().remove("seccompProfile");
    }
    i6_cannot_be_entered(&rig, manifest);
}

#[test]
fn i6_the_hubs_socket_and_store_are_not_in_the_apps_volumes() {
    let Some(rig) = Rig::at_level("pod-volumes", "baseline") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.pod(&Manifest::new());
    rig.once("/tmp", &[]).ends_with(0);
    let listed = pod.exec(&["sh", "-c", "ls -A /run/e2ek; ls -d /var/lib/e2ek"]);
    assert_eq!(listed.out, "run.sock\n", "{listed:?}");
    // Whatever lies there is the app's own affair.
    let spoil = "rm /run/e2ek/run.sock; mkdir /run/e2ek/run.sock; : >/run/e2ek/hub.sock";
    pod.exec(&["sh", "-c", spoil]).ends_with(0);
    let hub = pod.main("e2ek-sync");
    pod.kill(hub);
    pod.next_main("e2ek-sync", Some(hub));
    rig.write("view.py", "two\n");
    rig.once("/tmp", &[]).ends_with(0);
    assert_eq!(pod.main("app").file("/tmp/view.py").as_deref(), Some("two\n"));
}

#[test]
fn i6_mounts_in_the_app_survive_a_sync_over_them() {
    let Some(rig) = Rig::at_level("pod-mounts", "baseline") else { return };
    rig.k(&["create", "configmap", "conf", "--from-literal=conf.ini=mounted"]).ends_with(0);
    let mut manifest = Manifest::new();
    manifest.more["volumes"] = json!([
        {"name": "conf", "configMap": {"name": "conf"}},
        {"name": "data", "emptyDir": {}},
    ]);
    let mounts = manifest.app["volumeMounts"].as_array_mut().unwrap();
    mounts.push(json!({"name": "conf", "mountPath": "/tmp/conf.ini", "subPath": "conf.ini"}));
    mounts.push(json!({"name": "data", "mountPath": "/tmp/data"}));
    let pod = rig.pod(&manifest);
    let main = pod.main("app");
    rig.write("conf.ini", "from the source");
    rig.write("data/set", "from the source");
    rig.write("view.py", "one");
    // The mount is read-only, and that is told; all else is there.
    let said = rig.once("/tmp", &[]);
    said.says_all(&["conf.ini"]);
    assert_eq!(main.file("/tmp/conf.ini").as_deref(), Some("mounted"));
    assert_eq!(main.file("/tmp/data/set").as_deref(), Some("from the source"));
    assert_eq!(main.file("/tmp/view.py").as_deref(), Some("one"));
    std::fs::remove_file(rig.source.join("conf.ini")).unwrap();
    std::fs::remove_dir_all(rig.source.join("data")).unwrap();
    rig.once("/tmp", &["--delete-budget", "100%"]);
    assert_eq!(main.file("/tmp/conf.ini").as_deref(), Some("mounted"));
    let mounts = main.mounts();
    for place in [" /tmp/conf.ini ", " /tmp/data "] {
        assert!(mounts.contains(place), "{place} in\n{mounts}");
    }
    assert!(!main.exists("/tmp/data/set"));
}

/// Names outside that the attack is after, all of them unlike what is synced.
const CANARIES: [&str; 3] = ["f", "g", "gone"];

#[test]
fn i6_a_flipper_in_the_app_moves_no_write_outside() {
    let Some(rig) = Rig::at_level("pod-flip", "baseline") else { return };
    let seconds = std::env::var("E2EK_ATTACK_SECONDS").ok().and_then(|s| s.parse().ok());
    let seconds = Duration::from_secs(seconds.unwrap_or(60));
    let pod = rig.pod(&python(Manifest::new()));
    let (main, hub) = (pod.main("app"), pod.main("e2ek-sync"));
    let make = "mkdir -p /tmp/t/d /tmp/t/e /tmp/outside && cd /tmp/t && ln -s ../outside l && \
        ln -s /tmp/outside m && ln -s ../outside/g n && \
        for name in f g gone; do echo canary >/tmp/outside/$name; done";
    pod.exec(&["sh", "-c", make]).ends_with(0);
    for name in ["d/f", "e/f", "g"] {
        rig.write(name, "0");
    }
    let mut watch = rig.watch(&pod.target("/tmp/t"), &["--delete-budget", "100%"]);
    watch.line(&["sync end", "gen=1"]);
    let canaries = || CANARIES.map(|name| main.file(&format!("/tmp/outside/{name}")));
    let whole = || canaries().iter().all(|canary| canary.as_deref() == Some("canary\n"));
    assert!(whole());
    // Three kinds at a time: a relative link to a directory, an absolute one, one to a file.
    let mut flipper = rig.kubectl_command();
    flipper.args(["-n", &rig.namespace, "exec", "pod", "-c", "app", "--", "python3", "-c"]);
    flipper.arg(include_str!("flipper.py")).stdout(Stdio::piped());
    for name in ["d", "l", "e", "m", "g", "n"] {
        flipper.arg(format!("/tmp/t/{name}"));
    }
    let flipper = flipper.spawn().unwrap();
    let (mut count, mut control) = (0_u64, 0);
    let began = Instant::now();
    while began.elapsed() < seconds {
        count += 1;
        for name in ["d/f", "e/f", "g"] {
            rig.write(name, &format!("{count}"));
        }
        // Made and removed again: what it would remove outside is there.
        let gone = rig.source.join("d/gone");
        match count % 8 {
            1 => rig.write("d/gone", "x"),
            5 => std::fs::remove_file(gone).unwrap(),
            _ => {}
        }
        // What a careless writer does.
        let naive = std::fs::write(main.path("/tmp/t/d/naive"), "x");
        control += u64::from(naive.is_ok() && main.exists("/tmp/outside/naive"));
        let _ = std::fs::remove_file(main.path("/tmp/outside/naive"));
        assert!(whole(), "escaped after {count} saves: {:?}", canaries());
        std::thread::sleep(Duration::from_millis(2));
    }
    pod.exec(&["touch", "/stop"]).ends_with(0);
    let flips = flipper.wait_with_output().unwrap();
    let flips: u64 = String::from_utf8(flips.stdout).unwrap().trim().parse().unwrap();
    println!("{flips} flips, {count} saves, {control} escapes of the careless writer");
    let outside = std::fs::read_dir(main.path("/tmp/outside")).unwrap();
    let mut outside: Vec<_> = outside.map(|entry| entry.unwrap().file_name()).collect();
    outside.sort();
    assert_eq!(outside, CANARIES, "after {count} saves");
    assert!(whole() && flips > 10_000, "{flips}");
    assert!(control > 0, "the attack was none: {count} careless writes stayed inside");
    // It may have put an older file back last, as an app may; the next save is all there.
    let _ = std::fs::remove_file(main.path("/tmp/t/d/naive"));
    count += 1;
    for name in ["d/f", "e/f", "g"] {
        rig.write(name, &format!("{count}"));
    }
    watch.flush();
    for name in ["d/f", "e/f", "g"] {
        let text = main.file(&format!("/tmp/t/{name}"));
        assert_eq!(text, Some(format!("{count}")), "{name}");
    }
    assert_eq!((pod.main("app"), pod.main("e2ek-sync")), (main, hub));
    watch.stop();
}

/// The wrappers' socket lies where every app of the pod finds it: who calls is known by the kernel.
#[test]
fn i6_what_calls_at_the_wrappers_socket_speaks_for_its_own_container_only() {
    let Some(rig) = Rig::at_level("pod-caller", "baseline") else { return };
    rig.write("view.py", "one");
    let mut manifest =
        Manifest::wrapped(&["sh", "-c", "echo found $(cat /tmp/view.py); exec sleep 1000000"]);
    let mut other = python(Manifest::new()).app;
    other["name"] = json!("other");
    manifest.more["containers"] = json!([other]);
    let pod = rig.pod(&manifest);
    let calls = || pod.log("e2ek-sync").matches("the wrapper is there container=app ").count();
    until("the wrapper has called", || calls() == 1);
    let mut caller = rig.kubectl_command();
    caller.args(["-n", &rig.namespace, "exec", "-i", "pod", "-c", "other", "--"]);
    caller
        .args(["python3", "-c", include_str!("caller.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut caller = caller.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(caller.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "called\n");
    let other = "the wrapper is there container=other ";
    until("it is known", || pod.log("e2ek-sync").contains(other));
    // The app's own is the one that is started and told.
    rig.once("/tmp", &["-c", "app"]).ends_with(0);
    until("it started", || pod.log("app").contains("found one"));
    // Nor is what it handed over taken for its root: its real one is written to.
    rig.once("/srv", &["-c", "other"]).ends_with(0);
    assert_eq!(pod.main("other").file("/srv/view.py").as_deref(), Some("one"));
    assert!(!pod.main("other").exists("/tmp/srv"));
    assert_eq!((calls(), pod.restarts("e2ek-sync")), (1, 0), "it listened all the time");
    drop(caller.stdin.take());
    caller.wait().unwrap();
}
