//! Forms of `/proc` from runtimes and drivers that the test cluster does not have. The v1 form is
//! recorded there (containerd 1.6, cgroupfs driver); the others are written after it and the names
//! that the runtimes give (containerd `pkg/cri`, CRI-O `internal/config/cgmgr`, cgroup_namespaces(7)).

use std::fs;

use super::*;

const ID: &str = "4e1c20bd6d3b7a50d6e8c9f0a1b2c3d4e5f60718293a4b5c6d7e8f9001122334";
const POD: &str = "0f3a9bb2-6c43-4a35-9b39-0e7f0a8e1c55";

#[test]
fn the_runtimes_id_is_found_in_each_form() {
    let forms = [
        // v1, containerd, cgroupfs driver.
        format!("12:memory:/kubepods/besteffort/pod{POD}/{ID}\n"),
        // The same with the kubelet's cgroupsPerQOS off, and a hybrid v2 line before it.
        format!("0::/\n9:cpu,cpuacct:/k8s.io/{ID}\n"),
        // v1 and v2, containerd, systemd driver.
        format!(
            "1:name=systemd:/kubepods.slice/kubepods-pod{POD}.slice/cri-containerd-{ID}.scope\n"
        ),
        // v2 with a control group namespace of its own, seen from a sibling.
        format!("0::/../cri-containerd-{ID}.scope\n"),
        format!("0::/../../pod{POD}/{ID}\n"),
        // containerd where the cgroup's path is left to it.
        format!(
            "11:pids:/system.slice/containerd.service/kubepods-besteffort-pod{POD}.slice:cri-containerd:{ID}\n"
        ),
        // CRI-O, systemd and cgroupfs drivers; its v2 containers have a group below.
        format!("0::/kubepods.slice/kubepods-pod{POD}.slice/crio-{ID}.scope\n"),
        format!("0::/../crio-{ID}.scope/container\n"),
        format!("4:devices:/kubepods/burstable/pod{POD}/crio-{ID}\n"),
        // cri-dockerd.
        format!("0::/../docker-{ID}.scope\n"),
        // systemd in the container.
        format!("0::/../cri-containerd-{ID}.scope/init.scope\n"),
        // A controller's list may be empty, and a path may hold colons.
        format!("0::/a:b/{ID}\n"),
    ];
    for form in forms {
        assert_eq!(container_id(form.as_bytes()).as_deref(), Some(ID), "{form}");
    }
}

#[test]
fn what_is_no_id_is_none() {
    let short = &ID[1..];
    let forms = [
        "0::/\n".to_owned(),
        "0::/../..\n".to_owned(),
        String::new(),
        "nonsense\n".to_owned(),
        format!("0::/{short}\n"),
        format!("0::/a{ID}\n"),
        format!("0::/{}\n", ID.to_uppercase()),
        format!("0::/crio-{ID}.service\n"),
        format!("0::/pod{POD}/é{short}\n"),
    ];
    for form in forms {
        assert_eq!(container_id(form.as_bytes()), None, "{form}");
    }
    assert_eq!(container_id(&[b'0', b':', b':', 0xff]), None);
}

/// A container's mounts as the kubelet and the runtime make them.
fn mounts(pod: &str, name: &str, start: &str, message: &str) -> String {
    format!(
        "812 700 0:58 / / rw,relatime master:300 - overlay overlay rw,lowerdir=/l\n\
         813 812 0:61 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n\
         820 812 8:1 /var/lib/kubelet/pods/{pod}/volumes/kubernetes.io~empty-dir/run /run/e2ek rw - ext4 /dev/sda1 rw\n\
         821 812 8:1 /var/lib/kubelet/pods/{pod}/etc-hosts /etc/hosts rw - ext4 /dev/sda1 rw\n\
         822 815 8:1 /var/lib/kubelet/pods/{pod}/containers/{name}/{start} {message} rw,relatime - ext4 /dev/sda1 rw\n"
    )
}

fn is_named(mountinfo: &str) -> Option<(String, String)> {
    named(mountinfo.as_bytes()).map(|named| (named.name, named.start))
}

#[test]
fn the_kubelets_mount_names_the_container() {
    let api = Some(("api".to_owned(), "1a2b3c4d".to_owned()));
    assert_eq!(is_named(&mounts(POD, "api", "1a2b3c4d", "/dev/termination-log")), api);
    assert_eq!(is_named(&mounts(POD, "api", "1a2b3c4d", "/tmp/said\\040last")), api);
    // A kubelet's root of its own, and one that is a file system of its own.
    let elsewhere = mounts(POD, "api", "1a2b3c4d", "/dev/termination-log");
    assert_eq!(is_named(&elsewhere.replace("/var/lib/kubelet/", "/")), api);
    assert_eq!(is_named(&elsewhere.replace("/var/lib/kubelet/", "/data/k0s/kubelet/")), api);
    assert_eq!(is_named(&elsewhere.replace("1a2b3c4d /dev", "1a2b3c4d//deleted /dev")), api);
    assert_eq!(is_named("812 700 0:58 / / rw - overlay overlay rw\n"), None, "no pod");
    assert_eq!(is_named("garbage\n\n 1 2\n"), None);
}

#[test]
fn i6_a_volume_that_looks_like_it_does_not_name_a_container() {
    let volume = format!(
        "820 812 8:1 /var/lib/kubelet/pods/{POD}/volumes/kubernetes.io~empty-dir/v/pods/x/containers/api/1a2b3c4d /v rw - ext4 /dev/sda1 rw\n"
    );
    assert_eq!(is_named(&volume), None);
}

#[test]
fn i6_a_container_whose_root_is_not_entered_yet_is_nobodys() {
    // As the runtime's first process sees them: still in the node's root.
    let early = mounts(POD, "api", "1a2b3c4d", "/run/containerd/x/rootfs/dev/termination-log")
        .replace("etc-hosts /etc/hosts", "etc-hosts /run/containerd/x/rootfs/etc/hosts");
    assert_eq!(is_named(&early), None);
}

/// A process in a recorded `/proc`.
struct Process {
    pid: i32,
    stat: String,
    mountinfo: String,
    cgroup: String,
}

fn process(pid: i32, parent: i32, start: u64, name: &str, hash: &str, id: &str) -> Process {
    Process {
        pid,
        stat: stat(pid, "python3", 'S', parent, start),
        mountinfo: mounts(POD, name, hash, "/dev/termination-log"),
        cgroup: format!("0::/../cri-containerd-{id}.scope\n"),
    }
}

fn stat(pid: i32, name: &str, state: char, parent: i32, start: u64) -> String {
    format!(
        "{pid} ({name}) {state} {parent} 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {start} 9 9\n"
    )
}

fn proc_of(processes: &[Process]) -> tempfile::TempDir {
    let proc = tempfile::tempdir().unwrap();
    fs::write(proc.path().join("cpuinfo"), "").unwrap();
    for one in processes {
        let dir = proc.path().join(one.pid.to_string());
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("stat"), &one.stat).unwrap();
        fs::write(dir.join("mountinfo"), &one.mountinfo).unwrap();
        fs::write(dir.join("cgroup"), &one.cgroup).unwrap();
    }
    proc
}

const OTHER: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

fn a_pod() -> Vec<Process> {
    let mut pause = process(1, 0, 10, "none", "0", OTHER);
    pause.mountinfo = "1 0 0:1 / / rw - overlay overlay rw\n".to_owned();
    vec![
        pause,
        process(7, 0, 500, "api", "aaaa0001", ID),
        // The app's own children, and an orphan of it.
        process(8, 7, 501, "api", "aaaa0001", ID),
        process(9, 1, 502, "api", "aaaa0001", ID),
        // kubectl exec: also without a parent here, but younger, whatever its number.
        process(5, 0, 900, "api", "aaaa0001", ID),
        process(20, 0, 400, "e2ek-sync", "bbbb0001", OTHER),
    ]
}

fn us() -> Named {
    named(mounts(POD, "e2ek-sync", "bbbb0001", "/dev/termination-log").as_bytes()).unwrap()
}

#[test]
fn the_oldest_process_without_a_parent_is_the_main_one() {
    let proc = proc_of(&a_pod());
    for name in [Some("api"), None] {
        let main = find_in(proc.path(), Some(&us()), name, None).unwrap();
        assert_eq!((main.pid, main.identity.id.as_deref()), (7, Some(ID)));
        assert_eq!((&*main.identity.name, &*main.identity.pod), ("api", POD));
    }
}

#[test]
fn a_container_that_is_starting_ended_or_ours_is_not_found() {
    let mut pod = a_pod();
    pod[1].stat = stat(7, "runc:[2:INIT]", 'S', 0, 500);
    pod.remove(4);
    let missing = |wanted: &str, seen: &[&str]| FindError::Missing {
        wanted: wanted.to_owned(),
        seen: seen.iter().map(|&name| name.to_owned()).collect(),
    };
    let found = find_in(proc_of(&pod).path(), Some(&us()), Some("api"), None);
    assert_eq!(found, Err(missing("api", &[])));
    pod[1].stat = stat(7, "a) Z 0 (", 'Z', 0, 500);
    let found = find_in(proc_of(&pod).path(), Some(&us()), Some("api"), None);
    assert_eq!(found, Err(missing("api", &[])));
    let found = find_in(proc_of(&a_pod()).path(), Some(&us()), Some("e2ek-sync"), None);
    assert_eq!(found, Err(missing("e2ek-sync", &["api"])));
}

#[test]
fn several_containers_want_a_name_and_the_runtimes_id_decides() {
    let mut pod = a_pod();
    pod.push(process(30, 0, 450, "web", "cccc0001", OTHER));
    let found = find_in(proc_of(&pod).path(), Some(&us()), None, None);
    let seen = vec!["api".to_owned(), "web".to_owned()];
    assert_eq!(found, Err(FindError::Ambiguous { seen }));
    // One that calls itself api, and is older: what the cluster says tells them apart.
    pod.push(process(40, 0, 100, "api", "dddd0001", OTHER));
    let proc = proc_of(&pod);
    assert_eq!(find_in(proc.path(), Some(&us()), Some("api"), Some(ID)).unwrap().pid, 7);
    assert_eq!(find_in(proc.path(), Some(&us()), Some("api"), None).unwrap().pid, 40);
}

#[test]
fn i6_a_container_of_another_id_than_the_cluster_says_is_not_taken() {
    let next = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    // containerd and CRI-O, v1 and v2.
    let forms = [
        |id: &str| format!("12:memory:/kubepods/besteffort/pod{POD}/{id}\n"),
        |id: &str| format!("0::/../cri-containerd-{id}.scope\n"),
        |id: &str| format!("4:devices:/kubepods/burstable/pod{POD}/crio-{id}\n"),
        |id: &str| format!("0::/../crio-{id}.scope/container\n"),
    ];
    for form in forms {
        let mut pod = a_pod();
        pod.iter_mut().filter(|one| one.cgroup.contains(ID)).for_each(|one| one.cgroup = form(ID));
        let proc = proc_of(&pod);
        let find = |told| find_in(proc.path(), Some(&us()), Some("api"), told);
        let another = FindError::Another {
            wanted: "api".to_owned(),
            found: ID.to_owned(),
            told: next.to_owned(),
        };
        assert_eq!(find(Some(next)), Err(another), "{}", form(ID));
        assert_eq!(find(Some(ID)).unwrap().pid, 7);
        assert_eq!(find(None).unwrap().pid, 7, "nobody says which it is to be");
    }
    // Where the control group does not tell, it is as if nothing was said.
    let mut pod = a_pod();
    pod.iter_mut().for_each(|one| one.cgroup = "0::/\n".to_owned());
    let found = find_in(proc_of(&pod).path(), Some(&us()), Some("api"), Some(next)).unwrap();
    assert_eq!((found.pid, found.identity.id), (7, None));
    // One that does not tell may be it, however old another one is.
    pod.push(process(40, 0, 100, "api", "dddd0001", OTHER));
    let found = find_in(proc_of(&pod).path(), Some(&us()), Some("api"), Some(next)).unwrap();
    assert_eq!(found.pid, 7);
}

#[test]
fn another_pods_processes_are_not_ours() {
    let mut pod = a_pod();
    pod[1].mountinfo = pod[1].mountinfo.replace(POD, "another");
    pod.truncate(2);
    let found = find_in(proc_of(&pod).path(), Some(&us()), Some("api"), None);
    assert!(matches!(found, Err(FindError::Missing { seen, .. }) if seen.is_empty()));
}
