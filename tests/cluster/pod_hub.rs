//! The hub as a guest in the pod: how large it is, how quiet, and whose files it finds.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::pod::{Main, Manifest};
use crate::relay::Relay;
use crate::rig::{Rig, until};

/// Of resident memory without what is shared with files, in KiB: now, and at most so far.
fn memory(process: Main) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{}/status", process.0)).unwrap();
    let of = |key: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (of("VmRSS:"), of("VmHWM:"))
}

/// How often its threads went to sleep, which is as often as they woke.
fn wakes(process: Main) -> u64 {
    let threads = fs::read_dir(format!("/proc/{}/task", process.0)).unwrap();
    let of = |thread: PathBuf| -> u64 {
        let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
        line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    };
    threads.map(|thread| of(thread.unwrap().path())).sum()
}

/// How often these woke in so many seconds: in the first of three spans in which each stayed below its
/// limit, else in the last. A pod of another test that goes is a change of the network, and is asked about.
fn quietest(of: &[Main], seconds: u64, limits: &[u64]) -> Vec<u64> {
    let mut woke = Vec::new();
    for _ in 0..3 {
        let before: Vec<u64> = of.iter().copied().map(wakes).collect();
        std::thread::sleep(Duration::from_secs(seconds));
        woke = of.iter().zip(before).map(|(one, before)| wakes(*one) - before).collect();
        if woke.iter().zip(limits).all(|(woke, limit)| woke <= limit) {
            break;
        }
    }
    woke
}

/// The bridges of this pod on the node, by the hub's control group.
fn bridges(hub: Main) -> Vec<Main> {
    let group = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let ours = group(hub.0);
    let pids = fs::read_dir("/proc").unwrap();
    let pids = pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| pid != hub.0 && group(pid) == ours).map(Main).collect()
}

#[test]
fn the_image_is_small() {
    let Some(rig) = Rig::new("pod-image") else { return };
    let mut ctr = Command::new("ctr");
    ctr.arg("-a").arg(rig.cluster.join("run/containerd.sock"));
    let image = crate::pod::image();
    ctr.args(["-n", "k8s.io", "images", "ls", &format!("name=={image}")]);
    let listed = String::from_utf8(ctr.output().unwrap().stdout).unwrap();
    let line = listed.lines().find(|line| line.starts_with(&*image)).unwrap();
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let unit = words.iter().position(|word| *word == "MiB").expect("of some MiB");
    let size: f64 = words[unit - 1].parse().unwrap();
    assert!(size <= 8e6 / 1_048_576.0, "{size} MiB");
}

#[test]
fn i10_it_is_small_and_sleeps_while_nothing_happens() {
    let Some(rig) = Rig::at_level("pod-quiet", "baseline") else { return };
    for n in 0..10_000 {
        rig.write(&format!("d{:02}/f{n}", n % 100), &format!("{n}\n").repeat(200));
    }
    rig.write("big", &"large ".repeat(10 << 20));
    let pod = rig.pod(&Manifest::wrapped(&["sleep", "1000000"]).app_user(1000, 1000));
    let (hub, wrapper) = (pod.main("e2ek-sync"), pod.main("app"));
    until("the wrapper has called", || pod.log("e2ek-sync").contains("the wrapper is there"));
    assert!(memory(hub).0 <= 16 << 10, "before anything: {} KiB", memory(hub).0);
    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    watch.line(&["sync end", "status=ok"]);
    watch.flush();
    let mut bridge = Vec::new();
    until("one bridge is there", || {
        bridge = bridges(hub);
        bridge.len() == 1
    });
    let bridge = bridge[0];
    until("all is kept, and it is quiet", || {
        let quiet = wakes(hub);
        std::thread::sleep(Duration::from_secs(1));
        wakes(hub) <= quiet + 6
    });
    // A heartbeat is a message each way in five seconds. The hub answers what it hears, and has no timer of
    // its own that comes first: it wakes for that, for a look at its timers, and perhaps for a thread. The
    // bridge wakes for both.
    let heartbeats = 6;
    let [three, six] = [3 * heartbeats, 6 * heartbeats];
    let woke = quietest(&[hub, bridge, wrapper], 5 * heartbeats, &[three, six, 0]);
    println!("{woke:?} wake-ups of hub, bridge and wrapper in {heartbeats} heartbeats");
    assert!(woke[0] <= three, "the hub: {woke:?}");
    assert!(woke[1] <= six, "the bridge: {woke:?}");
    assert!(woke[2] == 0, "the wrapper: {woke:?}");
    let (idle, busy) = memory(hub);
    println!("hub: {idle} KiB idle, {busy} KiB at most; bridge {:?}", memory(bridge));
    assert!(idle <= 16 << 10, "idle: {idle} KiB");
    assert!(busy <= 48 << 10, "busy: {busy} KiB");
    assert!(memory(bridge).1 <= 16 << 10 && memory(wrapper).1 <= 16 << 10);
    watch.stop();
    // With nobody there nothing wakes it at all.
    until("the bridge is gone", || bridges(hub).is_empty());
    let alone = quietest(&[hub], 15, &[1]);
    assert!(alone[0] <= 1, "{alone:?} wake-ups alone");
}

/// What a process has open.
fn descriptors(process: Main) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.0)).unwrap().count()
}

#[test]
fn i10_links_that_are_made_again_leave_nothing_open_and_what_is_as_it_was_is_not_opened_anew() {
    let Some(rig) = Rig::at_level("pod-again", "baseline") else { return };
    let relay = Relay::start();
    for n in 0..100 {
        rig.write(&format!("d{}/f{n}", n % 10), &format!("{n}\n"));
    }
    let mut manifest = Manifest::new();
    manifest.sidecar["env"] = json!([{"name": "E2EK_LOG", "value": "debug"}]);
    let pod = rig.pod(&manifest);
    let (hub, app) = (pod.main("e2ek-sync"), pod.main("app"));
    let by_relay = relay.kubeconfig(&rig);
    let mut watch = rig.watch(&pod.target("/tmp"), &["--kubeconfig", &by_relay]);
    watch.line(&["sync end", "status=ok"]);
    watch.flush();
    let again = |watch: &mut crate::watch::Watch<'_>| {
        relay.cut();
        watch.line(&["disconnected"]);
        watch.line(&["connected"]);
        watch.flush();
    };
    again(&mut watch);
    let before = descriptors(hub);
    for _ in 0..50 {
        again(&mut watch);
    }
    // The end of the link before may come after the one that follows it.
    until("as much is open as before", || descriptors(hub) == before);
    assert!(pod.log("e2ek-sync").contains("goes on as it was left"), "{}", pod.log("e2ek-sync"));
    // What somebody changed is found as ever, and is sent anew.
    fs::write(app.path("/tmp/d1/f1"), "theirs").unwrap();
    again(&mut watch);
    assert_eq!(app.file("/tmp/d1/f1").as_deref(), Some("1\n"));
    watch.stop();
}

#[test]
fn i6_the_container_that_was_named_gets_it_and_no_other() {
    let Some(rig) = Rig::at_level("pod-named", "baseline") else { return };
    rig.write("view.py", "one");
    let mut manifest = Manifest::new();
    let mut other = manifest.app.clone();
    other["name"] = json!("app-2");
    // The kubelet's mount, by which containers are known, may be elsewhere.
    other["terminationMessagePath"] = json!("/tmp/last-words");
    manifest.more["containers"] = json!([other]);
    let pod = rig.pod(&manifest);
    let (app, other) = (pod.main("app"), pod.main("app-2"));
    rig.once("/tmp", &["-c", "app-2"]).ends_with(0);
    assert_eq!(other.file("/tmp/view.py").as_deref(), Some("one"));
    assert!(!app.exists("/tmp/view.py"));
    // Processes that were started later in the container are not its main one.
    let mut exec = rig.kubectl_command();
    exec.args(["-n", &rig.namespace, "exec", "pod", "-c", "app", "--", "sleep", "1000000"]);
    let mut exec = exec.spawn().unwrap();
    rig.write("view.py", "two");
    rig.once("/tmp", &["-c", "app"]).ends_with(0);
    exec.kill().unwrap();
    exec.wait().unwrap();
    assert_eq!(app.file("/tmp/view.py").as_deref(), Some("two"));
    assert_eq!(other.file("/tmp/view.py").as_deref(), Some("one"));
}
