//! Links that break, and hubs that die.

use crate::pods::deployment;
use crate::relay::Relay;
use crate::rig::{Rig, Said, until};

const TARGET: &str = "deploy/app:/srv/app";

/// Bridges that run in a pod.
fn bridges(rig: &Rig, pod: &str) -> usize {
    let said = rig.k(&["exec", pod, "-c", "app", "--", "ps", "-o", "args"]).ends_with(0);
    said.out.lines().filter(|line| line.contains("e2ek-sidecar connect")).count()
}

#[test]
fn i8_a_link_that_is_cut_is_made_again_and_leaves_nothing_in_the_pod() {
    let Some(rig) = Rig::new("cut") else { return };
    let relay = Relay::start();
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    let mut watch = rig.watch(TARGET, &["--kubeconfig", &relay.kubeconfig(&rig)]);
    watch.line(&["sync end", "gen=1"]);
    for round in 0..5 {
        relay.cut();
        let text = format!("round {round}\n");
        rig.write("view.py", &text);
        watch.line(&["disconnected"]);
        watch.line(&["connected"]);
        watch.flush();
        assert_eq!(rig.seen(&pod, "/srv/app/view.py"), Some(text));
    }
    until("one bridge is left", || bridges(&rig, &pod) == 1);
    watch.stop();
    until("no bridge is left", || bridges(&rig, &pod) == 0);
}

/// Hundreds in a row (thousands when asked for everything): each is a new stream into the pod.
#[test]
fn i8_reconnects_in_a_row_fail_not_once_and_leave_nothing() {
    let Some(rig) = Rig::new("reconnects") else { return };
    let count = if std::env::var_os("E2EK_FULL").is_some() { 1000 } else { 150 };
    let relay = Relay::start();
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    let mut watch = rig.watch(TARGET, &["--kubeconfig", &relay.kubeconfig(&rig)]);
    watch.line(&["sync end", "gen=1"]);
    for _ in 0..count {
        relay.cut();
        watch.line(&["disconnected"]);
        watch.line(&["connected", "equal=true"]);
    }
    rig.write("view.py", "two\n");
    watch.flush();
    assert_eq!(rig.seen(&pod, "/srv/app/view.py").as_deref(), Some("two\n"));
    until("one bridge is left", || bridges(&rig, &pod) == 1);
    watch.stop();
    until("no bridge is left", || bridges(&rig, &pod) == 0);
    assert_eq!(sockets(&rig, &pod), 0, "and no connection to the hub");
}

/// Connections to the hub's own socket in a pod, beside the one that listens.
fn sockets(rig: &Rig, pod: &str) -> usize {
    let said = rig.k(&["exec", pod, "-c", "app", "--", "cat", "/proc/net/unix"]).ends_with(0);
    // The sixth word: 03 is connected (linux/net/unix.h, `SS_CONNECTED`).
    let ours = said.out.lines().filter(|line| line.ends_with("hub.sock"));
    ours.filter(|line| line.split_whitespace().nth(5) == Some("03")).count()
}

#[test]
fn a_link_that_went_silent_is_noticed() {
    let Some(rig) = Rig::new("silent") else { return };
    let relay = Relay::start();
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    let mut watch = rig.watch(TARGET, &["--kubeconfig", &relay.kubeconfig(&rig)]);
    watch.line(&["sync end", "gen=1"]);
    relay.silent(true);
    rig.write("view.py", "two\n");
    // For fifteen seconds, or for less since a pod of another test changed the network.
    watch.line(&["disconnected", "nothing was heard"]);
    relay.silent(false);
    watch.line(&["connected"]);
    watch.flush();
    assert_eq!(rig.seen(&pod, "/srv/app/view.py").as_deref(), Some("two\n"));
    // The other end of the silent link has noticed, too, or does within its own fifteen seconds.
    until("one bridge is left", || bridges(&rig, &pod) == 1);
    watch.stop();
}

#[test]
fn i8_a_hub_that_is_killed_comes_back_with_what_it_knew() {
    let Some(rig) = Rig::new("hub") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    let mut watch = rig.watch(TARGET, &[]);
    watch.line(&["sync end", "gen=1"]);
    // Root in the app's container may send a signal to all that it sees, though not more than that.
    let kill = "kill -9 $(ps -o pid,args | grep '[e]2ek-sidecar serve' | awk '{print $1}')";
    rig.k(&["exec", &pod, "-c", "app", "--", "sh", "-c", kill]).ends_with(0);
    watch.line(&["disconnected"]);
    watch.line(&["connected", "equal=true"]);
    rig.write("view.py", "two\n");
    watch.flush();
    assert_eq!(rig.seen(&pod, "/srv/app/view.py").as_deref(), Some("two\n"));
    assert_eq!(rig.pods(), [pod]);
    assert!(!watch.said().contains("pod gone"), "the same hub, whose link was made again");
    watch.stop();
}

#[test]
fn an_api_server_and_a_kubelet_that_are_started_anew_lose_nothing() {
    let Some(rig) = Rig::new("restart") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    let mut watch = rig.watch(TARGET, &[]);
    watch.line(&["sync end", "gen=1"]);
    for (round, program) in ["kube-apiserver", "kubelet"].into_iter().enumerate() {
        // In the middle of a sync.
        for file in 0..2000 {
            rig.write(&format!("{round}/{file}"), &format!("{round} {file}\n"));
        }
        rig.restart(program);
        let text = format!("after {program}\n");
        rig.write("view.py", &text);
        watch.flush();
        for (name, text) in
            [("view.py", text), (&format!("{round}/1999"), format!("{round} 1999\n"))]
        {
            let mut seen = None;
            until("the cluster answers", || {
                seen = rig.seen(&pod, &format!("/srv/app/{name}"));
                seen.is_some()
            });
            assert_eq!(seen, Some(text), "{name}");
        }
    }
    // Pods are followed again, too.
    rig.k(&["delete", "pod", &pod, "--wait=false"]).ends_with(0);
    watch.line(&["pod gone", &pod]);
    watch.line(&["sync end", "targets=1/1"]);
    watch.stop();
}

#[test]
fn i4_i14_a_second_laptop_is_told_who_holds_the_pod() {
    let Some(rig) = Rig::new("second") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    let mut watch = rig.watch(TARGET, &[]);
    watch.line(&["sync end", "gen=1"]);
    let other = rig.home.join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("view.py"), "mine\n").unwrap();
    let other = other.to_str().unwrap().to_owned();
    let words = ["sync", "--once", other.as_str(), TARGET, "-n", rig.namespace.as_str()];
    let source = rig.source.to_str().unwrap();
    let told = ["is being written by", "tester@", source, "--take-over"];
    rig.run(&words).ends_with(5).says(&told);
    // A dev container: the folder is called the same there.
    let mut alike = rig.syncing(&["sync", "--once"], TARGET, &[]);
    alike.env("E2EK_STATE_DIR", rig.home.join("elsewhere"));
    Said::of(alike.output().unwrap()).ends_with(5).says(&told);
    rig.write("view.py", "two\n");
    watch.flush();

    // Overruled, the first one ends; it does not take it back.
    let more = ["watch", other.as_str(), TARGET, "-n", rig.namespace.as_str(), "--take-over"];
    let mut second = rig.start(rig.command(&more));
    second.line(&["sync end", "status=ok"]);
    watch.fails(5, &other);
    assert_eq!(rig.seen(&pod, "/srv/app/view.py").as_deref(), Some("mine\n"));
    // Its laptop dies: after a while the first one may come back.
    drop(second);
    let words = [words[0], words[1], source, words[3], words[4], words[5]];
    until("it is free", || {
        let said = rig.run(&words);
        assert!(matches!(said.code, Some(0 | 5)), "{said:?}");
        said.code == Some(0)
    });
    assert_eq!(rig.seen(&pod, "/srv/app/view.py").as_deref(), Some("two\n"));
}
