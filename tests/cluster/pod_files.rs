//! What a container's file system does that a plain one does not: layers of an image, running
//! programs, mounts inside what moves, a kernel without newer calls.

use std::process::Command;

use serde_json::json;

use crate::pod::Manifest;
use crate::rig::Rig;

/// An image of busybox and one directory.
fn image(rig: &Rig, name: &str, files: &[(&str, &str)]) -> String {
    let rootfs = tempfile::tempdir().unwrap();
    for folder in ["bin", "tmp"] {
        std::fs::create_dir(rootfs.path().join(folder)).unwrap();
    }
    std::fs::copy("/usr/bin/busybox", rootfs.path().join("bin/sleep")).unwrap();
    for (path, text) in files {
        let path = rootfs.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let image = format!("e2ek.test/{name}:1");
    let mut make = Command::new("tests/cluster/rig/image");
    make.arg(&image).arg(rootfs.path()).arg("{}");
    assert!(make.env("E2EK_CLUSTER", &rig.cluster).status().unwrap().success());
    image
}

#[test]
fn i3_a_directory_of_the_image_is_moved_although_the_kernel_refuses_to() {
    let Some(rig) = Rig::at_level("pod-layers", "baseline") else { return };
    let files = [("code/pkg/a", "one"), ("code/pkg/deep/b", "two"), ("code/pkg/theirs", "three")];
    let mut manifest = Manifest::new();
    manifest.app["image"] = json!(image(&rig, "layers", &files));
    manifest.app["command"] = json!(["/bin/sleep", "1000000"]);
    let pod = rig.pod(&manifest);
    let main = pod.main("app");
    // What is equal is taken over where it stands, in the layer.
    rig.write("pkg/a", "one");
    rig.write("pkg/deep/b", "two");
    rig.once("/code", &[]).ends_with(0);
    let moved = std::fs::rename(main.path("/code/pkg"), main.path("/code/moved"));
    let refused = moved.expect_err("the control");
    assert_eq!(refused.kind(), std::io::ErrorKind::CrossesDevices);
    std::fs::rename(rig.source.join("pkg"), rig.source.join("moved")).unwrap();
    rig.once("/code", &["--delete-budget", "100%"]).ends_with(0).says_all(&["status=ok"]);
    assert_eq!(main.file("/code/moved/a").as_deref(), Some("one"));
    assert_eq!(main.file("/code/moved/deep/b").as_deref(), Some("two"));
    assert!(!main.exists("/code/pkg/a") && !main.exists("/code/pkg/deep"));
    assert_eq!(main.file("/code/pkg/theirs").as_deref(), Some("three"), "not ours");
    rig.once("/code", &[]).ends_with(0).says_all(&["equal=true"]);
}

#[test]
fn i1_a_running_program_is_replaced_whatever_was_asked_for() {
    let Some(rig) = Rig::at_level("pod-running", "baseline") else { return };
    let mut manifest = Manifest::new();
    let command = "cp /bin/busybox /tmp/sleep; exec /tmp/sleep 1000000";
    manifest.app["command"] = json!(["sh", "-c", command]);
    let pod = rig.pod(&manifest);
    let main = pod.main("app");
    crate::rig::until("it runs", || {
        let exe = std::fs::read_link(format!("/proc/{}/exe", main.0));
        exe.is_ok_and(|exe| exe.ends_with("tmp/sleep"))
    });
    let opened = std::fs::OpenOptions::new().write(true).open(main.path("/tmp/sleep"));
    let refused = opened.expect_err("the control");
    assert_eq!(refused.kind(), std::io::ErrorKind::ExecutableFileBusy);
    for (round, write) in ["rename", "in-place", "auto"].into_iter().enumerate() {
        let text = format!("#!/bin/sh\necho {round}\n");
        rig.write("sleep", &text);
        let script = rig.source.join("sleep");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(script, mode).unwrap();
        rig.once("/tmp", &["--write", write]).ends_with(0);
        assert_eq!(main.file("/tmp/sleep"), Some(text), "{write}");
    }
    assert_eq!((pod.main("app"), pod.restarts("app")), (main, 0));
}

#[test]
fn i6_a_directory_with_a_volume_in_it_is_moved_around_the_volume() {
    let Some(rig) = Rig::at_level("pod-mount-move", "baseline") else { return };
    let mut manifest = Manifest::new();
    manifest.more["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    let mounts = manifest.app["volumeMounts"].as_array_mut().unwrap();
    mounts.push(json!({"name": "data", "mountPath": "/tmp/holder/data"}));
    let pod = rig.pod(&manifest);
    let main = pod.main("app");
    rig.write("holder/plain", "one");
    rig.write("holder/data/set", "two");
    rig.once("/tmp", &[]).ends_with(0);
    pod.exec(&["sh", "-c", "echo theirs >/tmp/holder/data/own"]).ends_with(0);
    std::fs::rename(rig.source.join("holder"), rig.source.join("moved")).unwrap();
    // What the app has there is in the way of the removal, and that may be told.
    rig.once("/tmp", &["--delete-budget", "100%"]);
    assert_eq!(main.file("/tmp/moved/plain").as_deref(), Some("one"));
    assert_eq!(main.file("/tmp/moved/data/set").as_deref(), Some("two"));
    assert!(main.mounts().contains(" /tmp/holder/data "), "{}", main.mounts());
    let own = pod.exec(&["cat", "/tmp/holder/data/own"]).ends_with(0);
    assert_eq!(own.out, "theirs\n");
    assert!(!main.exists("/tmp/holder/data/set") && !main.exists("/tmp/holder/plain"));
}

/// From outside of the app's mounts the kernel would let a rename replace a mounted file, and take the
/// volume away with it.
#[test]
fn i6_a_file_that_is_a_mount_is_renamed_over_and_away_and_stays_mounted() {
    let Some(rig) = Rig::at_level("pod-mount-rename", "baseline") else { return };
    rig.k(&["create", "configmap", "conf", "--from-literal=conf.ini=mounted"]).ends_with(0);
    let mut manifest = Manifest::new();
    manifest.more["volumes"] = json!([
        {"name": "conf", "configMap": {"name": "conf"}},
        {"name": "data", "emptyDir": {}},
    ]);
    manifest.more["initContainers"] = json!([{
        "name": "make", "image": "e2ek.test/busybox:1", "imagePullPolicy": "Never",
        "command": ["sh", "-c", "echo theirs >/data/own.ini"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }]);
    let mounts = manifest.app["volumeMounts"].as_array_mut().unwrap();
    mounts.push(json!({"name": "conf", "mountPath": "/tmp/conf.ini", "subPath": "conf.ini"}));
    mounts.push(json!({"name": "data", "mountPath": "/tmp/own.ini", "subPath": "own.ini"}));
    mounts.push(json!({"name": "data", "mountPath": "/tmp/data"}));
    let pod = rig.pod(&manifest);
    let main = pod.main("app");
    let table = main.mounts();
    // The first is equal, and ours from then on.
    for (name, text) in
        [("conf.ini", "mounted"), ("a", "onto the writable one"), ("b", "onto the other one")]
    {
        rig.write(name, text);
    }
    rig.once("/tmp", &[]).ends_with(0);
    let rename = |from: &str, to: &str| {
        std::fs::rename(rig.source.join(from), rig.source.join(to)).unwrap();
    };

    // Onto a mount: one can be written in place, and the read-only one is told by its name.
    rename("a", "own.ini");
    rename("b", "conf.ini");
    rig.write("beside", "one");
    rig.once("/tmp", &["--delete-budget", "100%"]).says_all(&["problem", "conf.ini"]);
    assert_eq!(main.file("/tmp/own.ini").as_deref(), Some("onto the writable one"));
    assert_eq!(main.file("/tmp/data/own.ini").as_deref(), Some("onto the writable one"));
    assert_eq!(main.file("/tmp/conf.ini").as_deref(), Some("mounted"));
    assert_eq!(main.file("/tmp/beside").as_deref(), Some("one"));
    assert!(!main.exists("/tmp/a") && !main.exists("/tmp/b"));
    assert_eq!(main.mounts(), table);

    // A mount away: its content goes, the mount stays and is told by its name.
    rename("own.ini", "moved.ini");
    rename("conf.ini", "conf.old");
    rig.write("beside", "two");
    let said = rig.once("/tmp", &["--delete-budget", "100%"]);
    said.says_all(&["problem", "own.ini"]);
    assert_eq!(main.file("/tmp/moved.ini").as_deref(), Some("onto the writable one"));
    assert_eq!(main.file("/tmp/conf.old").as_deref(), Some("onto the other one"));
    assert_eq!(main.file("/tmp/beside").as_deref(), Some("two"));
    assert!(main.exists("/tmp/own.ini") && main.exists("/tmp/data/own.ini"));
    assert_eq!(main.file("/tmp/conf.ini").as_deref(), Some("mounted"));
    assert_eq!(main.mounts(), table);
}

/// As under gVisor before 2026, or an old kernel: these calls are not there.
#[test]
fn i6_without_newer_system_calls_all_is_written_and_contained() {
    let Some(rig) = Rig::at_level("pod-nosys", "baseline") else { return };
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{
            "names": ["openat2", "renameat2", "copy_file_range", "close_range"],
            "action": "SCMP_ACT_ERRNO", "errnoRet": 38,
        }],
    });
    let folder = rig.cluster.join("kubelet/seccomp");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("e2ek-nosys.json"), profile.to_string()).unwrap();
    let mut manifest = Manifest::new().app_user(1000, 1000);
    manifest.sidecar["securityContext"] = json!({
        "seccompProfile": {"type": "Localhost", "localhostProfile": "e2ek-nosys.json"},
    });
    let pod = rig.pod(&manifest);
    let main = pod.main("app");
    // An absolute link leads to the app's own directory, and one in the way is not followed.
    let make = "mkdir -p /tmp/real/sub /tmp/outside && ln -s /tmp/real /tmp/code \
        && ln -s ../outside /tmp/real/way";
    pod.exec(&["sh", "-c", make]).ends_with(0);
    rig.write("view.py", "one");
    rig.write("deep/er/data", "two");
    rig.write("big", &"x".repeat(3 << 20));
    rig.write("way/f", "astray");
    let said = rig.once("/tmp/code", &[]);
    said.says_all(&["way"]);
    assert_eq!(main.file("/tmp/real/deep/er/data").as_deref(), Some("two"));
    assert_eq!(main.file("/tmp/real/big").map(|big| big.len()), Some(3 << 20));
    assert_eq!(std::fs::read_dir(main.path("/tmp/outside")).unwrap().count(), 0);
    // Copies, moves and removals.
    std::fs::remove_dir_all(rig.source.join("way")).unwrap();
    std::fs::rename(rig.source.join("deep"), rig.source.join("moved")).unwrap();
    std::fs::copy(rig.source.join("big"), rig.source.join("copy")).unwrap();
    std::fs::remove_file(rig.source.join("view.py")).unwrap();
    rig.once("/tmp/code", &["--delete-budget", "100%"]).ends_with(0);
    assert_eq!(main.file("/tmp/real/moved/er/data").as_deref(), Some("two"));
    assert_eq!(main.file("/tmp/real/copy").map(|big| big.len()), Some(3 << 20));
    assert!(!main.exists("/tmp/real/view.py") && !main.exists("/tmp/real/deep"));
    assert_eq!(main.metadata("/tmp/real/copy").len(), 3 << 20);
    // The container's next start, too.
    pod.kill(main);
    let next = pod.next_main("app", Some(main));
    pod.exec(&["sh", "-c", make]).ends_with(0);
    crate::rig::until("all is written again", || {
        next.file("/tmp/real/moved/er/data").as_deref() == Some("two")
    });
}
