//! What neither the app nor a sync may do to the other's things.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::pod::Manifest;
use crate::rig::Rig;

#[test]
fn i6_a_root_app_cannot_open_read_or_trace_the_hub() {
    let Some(rig) = Rig::at_level("pod-attack", "baseline") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.pod(&Manifest::wrapped(&["sleep", "1000000"]));
    let _watch = {
        let mut watch = rig.watch(&pod.target("/tmp"), &[]);
        watch.line(&["sync end", "status=ok"]);
        watch
    };
    // Three kinds of our processes are there: the hub, a bridge, the wrapper.
    let list = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline | grep -q '^/\\(e2ek/\\)\\?e2ek-sidecar' && echo ${p#/proc/}; done";
    let listed = pod.exec(&["sh", "-c", list]);
    let pids: Vec<&str> = listed.out.split_ascii_whitespace().collect();
    assert!(pids.len() >= 3, "{listed:?}");
    // `mem` asks for what ptrace(2) asks for.
    let script = "id -u; p=$1; \
        ls /proc/$p/root/ && echo OPENED; ls /proc/$p/cwd/ && echo OPENED; \
        ls -l /proc/$p/exe | grep -- '->' && echo OPENED; \
        cat /proc/$p/environ && echo READ; cat /proc/$p/maps | grep . && echo READ; \
        ls -l /proc/$p/fd/ | grep -- '->' && echo READ; cat /proc/$p/fd/* && echo READ; \
        head -c 1 /proc/$p/mem && echo TRACED; \
        ls -l /proc/$p/ns/mnt | grep -- '->' && echo OPENED; \
        cat /proc/$p/root/var/lib/e2ek/hubs/*/manifest && echo READ; \
        cat /proc/self/maps | grep -q . && echo control";
    for pid in pids {
        let said = pod.exec(&["sh", "-c", script, "sh", pid]);
        for word in ["OPENED", "READ", "TRACED"] {
            assert!(!said.out.contains(word), "{pid}: {said:#?}");
        }
        said.says(&["control", "0\n"]);
    }
    // The way is open where nobody hid: the sleeping app's own.
    let own = pod.exec(&["sh", "-c", "ls /proc/$(pidof sleep)/root/ >/dev/null && echo OPENED"]);
    own.says(&["OPENED"]);
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
    said.says(&["conf.ini"]);
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

#[test]
fn i6_a_flipper_in_the_app_moves_no_write_outside() {
    let Some(rig) = Rig::at_level("pod-flip", "baseline") else { return };
    let seconds = std::env::var("E2EK_ATTACK_SECONDS").ok().and_then(|s| s.parse().ok());
    let seconds = Duration::from_secs(seconds.unwrap_or(10));
    let pod = rig.pod(&Manifest::new());
    let main = pod.main("app");
    let make = "mkdir -p /tmp/t/d /tmp/outside && ln -s ../outside /tmp/t/link";
    pod.exec(&["sh", "-c", make]).ends_with(0);
    rig.write("d/f", "0");
    let mut watch = rig.watch(&pod.target("/tmp/t"), &[]);
    watch.line(&["connected"]);
    let stop = AtomicBool::new(false);
    let (mut count, mut control, mut flips) = (0, 0, 0_u64);
    std::thread::scope(|scope| {
        // The app's own doing, done from the node: the same directory, as fast as can be.
        let flip = scope.spawn(|| {
            let mut flips = 0_u64;
            let (d, link) = (main.path("/tmp/t/d"), main.path("/tmp/t/link"));
            while !stop.load(Ordering::Relaxed) {
                flips += u64::from(exchange(&d, &link).is_ok());
            }
            flips
        });
        let began = Instant::now();
        while began.elapsed() < seconds {
            count += 1;
            rig.write("d/f", &format!("{count}"));
            // What a careless writer would do.
            let naive = std::fs::write(main.path("/tmp/t/d/naive"), "x");
            control += u64::from(naive.is_ok() && main.exists("/tmp/outside/naive"));
            let _ = std::fs::remove_file(main.path("/tmp/outside/naive"));
            std::thread::sleep(Duration::from_millis(2));
        }
        stop.store(true, Ordering::Relaxed);
        flips = flip.join().unwrap();
    });
    println!("{flips} flips, {count} saves, {control} escapes of the careless writer");
    let outside = std::fs::read_dir(main.path("/tmp/outside")).unwrap();
    let outside: Vec<_> = outside.map(|entry| entry.unwrap().file_name()).collect();
    assert!(outside.is_empty(), "{outside:?} after {count} saves");
    assert!(control > 0, "the attack was none: {count} careless writes stayed inside");
    drop(watch);
}

fn exchange(a: &Path, b: &Path) -> rustix::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)
}
