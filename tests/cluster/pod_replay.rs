//! A container that is started anew has its files again, from the pod alone.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::pod::{Main, Manifest, Pod};
use crate::rig::{Rig, until};

/// What a start of the app saw first.
const APP: &str =
    "echo started with $(cat /tmp/view.py) $(cat /tmp/deep/er/data); exec sleep 1000000";

fn fill(rig: &Rig) {
    rig.write("view.py", "one");
    rig.write("deep/er/data", "two");
    rig.write("big", &"x".repeat(3 << 20));
    rig.write("empty", "");
    // More than is kept before it is acknowledged.
    for n in 0..200 {
        rig.write(&format!("many/{n}"), &format!("{n}"));
    }
    std::os::unix::fs::symlink("view.py", rig.source.join("link")).unwrap();
}

fn i3_all_there(main: Main, view: &str) {
    assert_eq!(main.file("/tmp/view.py").as_deref(), Some(view));
    assert_eq!(main.file("/tmp/deep/er/data").as_deref(), Some("two"));
    assert_eq!(main.file("/tmp/big").map(|big| big.len()), Some(3 << 20));
    assert_eq!(main.file("/tmp/empty").as_deref(), Some(""));
    for n in 0..200 {
        assert_eq!(main.file(&format!("/tmp/many/{n}")), Some(format!("{n}")));
    }
    assert_eq!(std::fs::read_link(main.path("/tmp/link")).unwrap().to_str(), Some("view.py"));
}

/// Kills the app, and gives its next start.
fn i8_restarted(pod: &Pod<'_>) -> Main {
    let main = pod.main("app");
    pod.kill(main);
    pod.next_main("app", Some(main))
}

#[test]
fn i3_a_killed_app_has_its_files_again_with_nobody_there() {
    let Some(rig) = Rig::at_level("pod-replay", "baseline") else { return };
    fill(&rig);
    let pod = rig.pod(&Manifest::new().app_user(1000, 1000));
    rig.once("/tmp", &[]).ends_with(0);
    // Each time it is told once, at its end.
    let told = || pod.log("e2ek-sync").lines().filter(|line| is_whole(line)).count();
    for _ in 0..3 {
        let before = told();
        let main = i8_restarted(&pod);
        until("all is written again", || told() > before);
        i3_all_there(main, "one");
    }
    // Nothing is lost, so nothing is sent.
    rig.once("/tmp", &[]).ends_with(0).says_all(&["equal=true"]);
}

fn is_whole(line: &str) -> bool {
    line.contains("written again") && line.contains("missing=0 skipped=0")
}

#[test]
fn i9_the_wrapped_app_has_them_before_its_first_instruction() {
    let Some(rig) = Rig::at_level("pod-replay-run", "baseline") else { return };
    fill(&rig);
    let pod = rig.pod(&Manifest::wrapped(&["sh", "-c", APP]).app_user(1000, 1000));
    rig.once("/tmp", &[]).ends_with(0);
    until("it started", || pod.log("app").contains("started with one two"));
    for _ in 0..3 {
        let main = i8_restarted(&pod);
        until("it started", || pod.log("app").contains("started with"));
        assert!(pod.log("app").contains("started with one two"), "{}", pod.log("app"));
        i3_all_there(main, "one");
    }
}

#[test]
fn i8_app_and_hub_killed_together_lose_nothing() {
    let Some(rig) = Rig::at_level("pod-replay-both", "restricted") else { return };
    fill(&rig);
    let manifest = Manifest::wrapped(&["sh", "-c", APP]).restricted(1000);
    let pod = rig.pod(&manifest);
    rig.once("/tmp", &[]).ends_with(0);
    for _ in 0..3 {
        let (app, hub) = (pod.main("app"), pod.main("e2ek-sync"));
        pod.kill(hub);
        pod.kill(app);
        let main = pod.next_main("app", Some(app));
        until("it started", || pod.log("app").contains("started with one two"));
        i3_all_there(main, "one");
    }
}

#[test]
fn i8_a_killed_hub_goes_on_where_it_was() {
    let Some(rig) = Rig::at_level("pod-replay-hub", "baseline") else { return };
    fill(&rig);
    let pod = rig.pod(&Manifest::wrapped(&["sh", "-c", APP]));
    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    watch.line(&["sync end", "status=ok"]);
    until("it started", || pod.log("app").contains("started with one two"));
    let (main, hub) = (pod.main("app"), pod.main("e2ek-sync"));
    pod.kill(hub);
    watch.line(&["disconnected"]);
    watch.line(&["connected", "equal=true"]);
    rig.write("view.py", "three");
    until("it started again", || pod.log("app").contains("started with three two"));
    assert_eq!((pod.main("app"), pod.restarts("app")), (main, 0));
    watch.stop();
}

#[test]
fn i4_what_the_image_brings_back_goes_again() {
    let Some(rig) = Rig::at_level("pod-replay-gone", "baseline") else { return };
    // The image has the first two, the app makes the third at each start, and the source had them all.
    let text = std::fs::read_to_string("/etc/hostname").unwrap();
    ["passwd", "group", "made"].into_iter().for_each(|name| rig.write(name, &text));
    rig.write("view.py", "one");
    let mut manifest = Manifest::new();
    manifest.app["command"] = json!(["sh", "-c", "echo mine > /etc/made; exec sleep 1000000"]);
    let pod = rig.pod(&manifest);
    let image = pod.main("app").file("/etc/group").unwrap();
    rig.once("/etc", &[]).ends_with(0);
    // What is ignored from now on stays where it is, and is nobody's.
    rig.write(".e2ekignore", "group\n");
    for name in ["passwd", "made"] {
        std::fs::remove_file(rig.source.join(name)).unwrap();
    }
    rig.once("/etc", &["--delete-budget", "100%"]).ends_with(0);
    let before = pod.main("app");
    assert!(!before.exists("/etc/passwd") && !before.exists("/etc/made"));
    assert_eq!(before.file("/etc/group").as_deref(), Some(&*text));
    let main = i8_restarted(&pod);
    until("all is written again", || main.exists("/etc/view.py") && !main.exists("/etc/passwd"));
    // Whoever comes waits for the end of that.
    rig.once("/etc", &[]).ends_with(0).says("equal=true");
    assert_eq!(main.file("/etc/group").as_deref(), Some(&*image), "what is not ours stays");
    assert_eq!(main.file("/etc/made").as_deref(), Some("mine\n"), "nor does what the app makes go");
}

#[test]
fn i12_what_does_not_fit_the_store_is_listed() {
    let Some(rig) = Rig::at_level("pod-replay-full", "baseline") else { return };
    rig.write("view.py", "one");
    rig.write("big", &"x".repeat(3 << 20));
    let mut manifest = Manifest::new();
    manifest.sidecar["args"] = json!(["serve", "--contents", "2"]);
    let pod = rig.pod(&manifest);
    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    watch.line(&["sync end", "status=ok"]);
    let degraded = || watch.status()["degraded"].to_string();
    until("it is listed", || degraded().contains("not-replayable"));
    assert!(degraded().contains("1 files") && degraded().contains("big"), "{}", degraded());
    // What fits is there without anybody, the rest with the daemon.
    let main = i8_restarted(&pod);
    watch.line(&["disconnected"]);
    watch.line(&["sync end"]);
    assert_eq!(main.file("/tmp/big").map(|big| big.len()), Some(3 << 20));
    assert_eq!(main.file("/tmp/view.py").as_deref(), Some("one"));
    std::fs::remove_file(rig.source.join("big")).unwrap();
    watch.flush();
    until("nothing is listed", || !watch.status()["degraded"].to_string().contains("replayable"));
    watch.stop();
}

/// Kills the app around each acknowledgement: whatever was acknowledged is in the next start, from the
/// pod alone, for the daemon is stopped meanwhile.
#[test]
fn i2_acknowledged_is_visible_however_often_the_container_is_killed() {
    let Some(rig) = Rig::at_level("pod-kills", "baseline") else { return };
    let kills = std::env::var("E2EK_KILL_ROUNDS").ok().and_then(|n| n.parse().ok());
    let kills: usize = kills.unwrap_or(200);
    let manifest = Manifest::new().app_user(1000, 1000);
    let pods: Vec<Pod<'_>> = ["a", "b", "c", "d", "e", "f", "g", "h"]
        .iter()
        .map(|name| rig.named_pod(name, &manifest))
        .collect();
    let mut before: Vec<Main> = pods.iter().map(|pod| pod.main("app")).collect();
    let (mut acked, mut took) = (0, Duration::ZERO);
    for round in 0..kills.div_ceil(pods.len()) {
        let text = format!("{round}");
        rig.write("view.py", &text);
        std::thread::scope(|scope| {
            let sync = |pod: &Pod<'_>| {
                let state = rig.home.join(format!("state-{}", pod.name));
                let mut command = rig.syncing(&["sync", "--once"], &pod.target("/tmp"), &[]);
                command.env("E2EK_STATE_DIR", state).output().unwrap().status.code() == Some(0)
            };
            let began = Instant::now();
            let syncs: Vec<_> = pods.iter().map(|pod| scope.spawn(move || sync(pod))).collect();
            // The first ones show how long it takes here; the others are struck around that moment.
            let strikes = took * (5 + round as u32 % 6) / 8;
            while match round {
                0 => !syncs.iter().all(|sync| sync.is_finished()),
                _ => began.elapsed() < strikes,
            } {
                std::thread::sleep(Duration::from_millis(2));
            }
            took = if round == 0 { began.elapsed() } else { took };
            for (pod, main) in pods.iter().zip(&before) {
                pod.kill(*main);
            }
            let ended: Vec<bool> = syncs.into_iter().map(|sync| sync.join().unwrap()).collect();
            for ((pod, main), done) in pods.iter().zip(&mut before).zip(ended) {
                *main = pod.next_main("app", Some(*main));
                if done {
                    acked += 1;
                    let deadline = Instant::now() + crate::rig::PATIENCE;
                    while main.file("/tmp/view.py").as_deref() != Some(&*text) {
                        assert!(Instant::now() < deadline, "{}: {text} is lost", pod.name);
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
            }
        });
    }
    println!("{kills} kills, {acked} syncs acknowledged");
    assert!(acked > 0);
}
