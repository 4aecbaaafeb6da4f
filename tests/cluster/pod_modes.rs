//! Who may write into whom: the rows of docs/how-it-works.md's table, each in a namespace where the
//! Pod Security level is enforced.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use serde_json::{Value, json};

use crate::pod::Manifest;
use crate::rig::Rig;

/// A source of all kinds.
fn fill(rig: &Rig) {
    rig.write("view.py", "one\n");
    rig.write("deep/er/run.sh", "#!/bin/sh\n");
    let run = rig.source.join("deep/er/run.sh");
    std::fs::set_permissions(run, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("view.py", rig.source.join("link")).unwrap();
}

/// Syncs, and looks at what came of it: all there, owned by the app's user.
fn i2_synced_to(rig: &Rig, manifest: &Manifest, path: &str, owner: (u32, u32)) {
    fill(rig);
    let pod = rig.pod(manifest);
    rig.once(path, &[]).ends_with(0).says_all(&["sync end", "status=ok"]);
    let main = pod.main("app");
    let at = |name: &str| format!("{path}/{name}");
    assert_eq!(main.file(&at("view.py")).as_deref(), Some("one\n"));
    for name in ["view.py", "deep", "deep/er", "deep/er/run.sh", "link"] {
        let found = main.metadata(&at(name));
        assert_eq!((found.uid(), found.gid()), owner, "{name}");
    }
    assert_eq!(main.metadata(&at("deep/er/run.sh")).mode() & 0o777, 0o755);
    assert!(main.metadata(&at("link")).is_symlink());
    assert!(!main.exists(&at(".e2ek-sync")), "nothing of ours stays in sight");
}

/// Is refused at once, and told why.
fn refused(rig: &Rig, manifest: &Manifest) {
    fill(rig);
    let pod = rig.pod(manifest);
    let said = rig.once("/tmp", &[]);
    assert_ne!(said.code, Some(0), "{said:?}");
    said.says_all(&["container app"]);
    assert!(!pod.main("app").exists("/tmp/view.py"));
}

#[test]
fn restricted_writes_as_the_apps_own_user() {
    let Some(rig) = Rig::at_level("pod-restricted", "restricted") else { return };
    i2_synced_to(&rig, &Manifest::new().restricted(1000), "/tmp", (1000, 1000));
}

#[test]
fn restricted_writes_through_the_wrapper_too() {
    let Some(rig) = Rig::at_level("pod-restricted-run", "restricted") else { return };
    let manifest = Manifest::wrapped(&["sleep", "1000000"]).restricted(1000);
    i2_synced_to(&rig, &manifest, "/tmp", (1000, 1000));
}

#[test]
fn i6_without_rights_an_app_of_root_is_refused_by_name() {
    let Some(rig) = Rig::at_level("pod-root", "baseline") else { return };
    let mut manifest = Manifest::new().restricted(1000);
    manifest.app["securityContext"] = json!({});
    refused(&rig, &manifest);
}

#[test]
fn i6_without_rights_another_group_is_refused_by_name() {
    let Some(rig) = Rig::at_level("pod-group", "baseline") else { return };
    let mut manifest = Manifest::new().restricted(1000);
    manifest.app["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 0});
    refused(&rig, &manifest);
}

#[test]
fn baseline_writes_into_an_app_of_root() {
    let Some(rig) = Rig::at_level("pod-base-root", "baseline") else { return };
    i2_synced_to(&rig, &Manifest::new(), "/tmp", (0, 0));
}

#[test]
fn baseline_writes_into_an_app_of_any_user() {
    let Some(rig) = Rig::at_level("pod-base-user", "baseline") else { return };
    i2_synced_to(&rig, &Manifest::new().app_user(1000, 1000), "/tmp", (1000, 1000));
}

#[test]
fn baseline_writes_through_the_wrapper_too() {
    let Some(rig) = Rig::at_level("pod-base-run", "baseline") else { return };
    let manifest = Manifest::wrapped(&["sleep", "1000000"]).app_user(4321, 77);
    i2_synced_to(&rig, &manifest, "/tmp", (4321, 77));
}

#[test]
fn an_image_without_a_shell_needs_none() {
    let Some(rig) = Rig::at_level("pod-distroless", "baseline") else { return };
    // One static program, and a directory.
    let rootfs = tempfile::tempdir().unwrap();
    let busybox = rootfs.path().join("sleep");
    std::fs::copy("/usr/bin/busybox", &busybox).unwrap();
    std::fs::create_dir(rootfs.path().join("code")).unwrap();
    let mut make = Command::new("tests/cluster/rig/image");
    make.arg("e2ek.test/distroless:1").arg(rootfs.path()).arg("{}");
    assert!(make.env("E2EK_CLUSTER", &rig.cluster).status().unwrap().success());
    let mut manifest = Manifest::new().app_user(65532, 65532);
    manifest.app["image"] = json!("e2ek.test/distroless:1");
    manifest.app["command"] = json!(["/sleep", "1000000"]);
    i2_synced_to(&rig, &manifest, "/code", (65532, 65532));
}

#[test]
fn a_read_only_root_has_its_volumes() {
    let Some(rig) = Rig::at_level("pod-readonly", "baseline") else { return };
    let mut manifest = Manifest::new().app_user(1000, 1000);
    manifest.app["securityContext"]["readOnlyRootFilesystem"] = json!(true);
    let code = json!({"name": "code", "mountPath": "/code"});
    manifest.app["volumeMounts"].as_array_mut().unwrap().push(code);
    manifest.more["volumes"] = json!([{"name": "code", "emptyDir": {}}]);
    i2_synced_to(&rig, &manifest, "/code", (1000, 1000));
    let said = rig.once("/tmp", &[]);
    assert_ne!(said.code, Some(0), "{said:?}");
    said.says_all(&["read-only"]);
}

#[test]
fn i6_more_rights_than_ours_are_refused_and_privileged_enters() {
    let Some(rig) = Rig::at_level("pod-privileged", "privileged") else { return };
    let mut manifest = Manifest::new();
    manifest.app["securityContext"] = json!({"capabilities": {"add": ["SYS_ADMIN"]}});
    refused(&rig, &manifest);
    rig.k(&["delete", "pod", "pod", "--grace-period=1"]).ends_with(0);
    manifest.sidecar["securityContext"] = json!({"capabilities": {"add": ["SYS_PTRACE"]}});
    rig.k(&["wait", "--for=delete", "pod/pod", "--timeout=120s"]);
    let _ = std::fs::remove_dir_all(&rig.source);
    std::fs::create_dir(&rig.source).unwrap();
    i2_synced_to(&rig, &manifest, "/tmp", (0, 0));
}

/// The rows of the table in docs/how-it-works.md, and with the wrapper all of them.
#[test]
fn i6_the_matrix_is_as_documented() {
    let Some(rig) = Rig::at_level("pod-matrix", "privileged") else { return };
    rig.write("view.py", "one\n");
    let user = |user: u32, group: u32| json!({"runAsUser": user, "runAsGroup": group});
    let apps = [
        ("root", user(0, 0)),
        ("user", user(1000, 1000)),
        ("group", user(1000, 0)),
        ("admin", json!({"capabilities": {"add": ["SYS_ADMIN"]}})),
    ];
    let least = json!({
        "runAsUser": 1000, "runAsGroup": 1000, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
    });
    let modes = [
        ("restricted", least, [false, true, false, false]),
        ("baseline", json!({}), [true, true, true, false]),
        ("privileged", json!({"capabilities": {"add": ["SYS_PTRACE"]}}), [true; 4]),
    ];
    let mut found = Vec::new();
    let mut expected = Vec::new();
    let mut look = |name: String, mut manifest: Manifest, security: &Value, entered: bool| {
        manifest.app["securityContext"] = security.clone();
        let pod = rig.named_pod(&name, &manifest);
        let said = rig.once_in(&pod, "/tmp");
        let there = pod.main("app").exists("/tmp/view.py");
        assert_eq!(said.code == Some(0), there, "{name}: {said:?}");
        found.push((name.clone(), there));
        expected.push((name.clone(), entered));
        rig.k(&["delete", "pod", &name, "--wait=false"]);
    };
    let sleep = ["sleep", "1000000"];
    for (mode, rights, row) in modes {
        for ((app, security), plain) in apps.iter().zip(row) {
            for (kind, entered) in [("plain", plain), ("wrapped", true)] {
                let mut manifest = match kind {
                    "plain" => Manifest::new(),
                    _ => Manifest::wrapped(&sleep),
                };
                manifest.sidecar["securityContext"] = rights.clone();
                look(format!("{mode}-{app}-{kind}"), manifest, security, entered);
            }
        }
    }
    for (app, security) in &apps {
        look(format!("inside-{app}"), Manifest::in_container(&sleep), security, true);
    }
    assert_eq!(found, expected);
}

#[test]
fn an_existing_files_owner_and_mode_stay() {
    let Some(rig) = Rig::at_level("pod-keep", "baseline") else { return };
    let pod = rig.pod(&Manifest::new());
    let make = "echo old >/tmp/f; chmod 0640 /tmp/f; chown 12:34 /tmp/f";
    pod.exec(&["sh", "-c", make]).ends_with(0);
    rig.write("f", "new\n");
    rig.once("/tmp", &[]).ends_with(0);
    let found = pod.main("app").metadata("/tmp/f");
    assert_eq!(pod.main("app").file("/tmp/f").as_deref(), Some("new\n"));
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (12, 34, 0o640));
}

#[test]
fn what_cannot_be_is_refused_and_said() {
    let Some(rig) = Rig::at_level("pod-refusals", "baseline") else { return };
    fill(&rig);
    let pod = rig.pod(&Manifest::new());
    rig.once("/nowhere", &[]).says_all(&["/nowhere"]);
    rig.once("/etc/passwd", &[]).says_all(&["/etc/passwd", "not a directory"]);
    assert_eq!(pod.restarts("app"), 0);
    rig.k(&["delete", "pod", "pod", "--grace-period=1"]).ends_with(0);
    rig.k(&["wait", "--for=delete", "pod/pod", "--timeout=120s"]);
    let mut alone = Manifest::new();
    alone.more["shareProcessNamespace"] = json!(false);
    rig.pod(&alone);
    let said = rig.once("/tmp", &[]);
    assert_ne!(said.code, Some(0));
    said.says_all(&["shareProcessNamespace"]);
}
