//! One pod as its tests want it, and what the node sees of it: the kubelet runs on this machine, so a
//! container's files are read, and its processes killed, without anything inside it.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Pid as RawPid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};

use crate::rig::{Rig, until};

/// The image of the hub under test.
pub(crate) fn image() -> String {
    std::env::var("E2EK_SIDECAR_IMAGE").unwrap_or("e2ek.test/e2ek-sidecar:dev".to_owned())
}

/// A pod `pod` with an app and a hub; changed by its fields before it is applied.
pub(crate) struct Manifest {
    pub(crate) app: Value,
    pub(crate) sidecar: Value,
    pub(crate) more: Value,
}

impl Manifest {
    /// Sleeps in busybox; `/srv/app` is in the image of most tests, `/tmp` in all.
    pub(crate) fn new() -> Self {
        let app = json!({
            "name": "app", "image": "e2ek.test/busybox:1", "imagePullPolicy": "Never",
            "command": ["sleep", "1000000"],
            "volumeMounts": [{"name": "run", "mountPath": "/run/e2ek"}],
        });
        let sidecar = json!({
            "name": "e2ek-sync", "image": image(), "imagePullPolicy": "Never", "args": ["serve"],
            "volumeMounts": [
                {"name": "store", "mountPath": "/var/lib/e2ek"},
                {"name": "run", "mountPath": "/run/e2ek"},
            ],
        });
        Self { app, sidecar, more: json!({}) }
    }

    /// The app's command under the wrapper.
    pub(crate) fn wrapped(command: &[&str]) -> Self {
        let mut this = Self::new();
        this.app["command"] = json!(["/e2ek/e2ek-sidecar", "run", "--"]);
        this.app["args"] = json!(command);
        let bin = json!({"name": "bin", "mountPath": "/e2ek", "readOnly": true});
        this.app["volumeMounts"].as_array_mut().unwrap().push(bin);
        this.more["initContainers"] = json!([{
            "name": "install", "image": image(), "imagePullPolicy": "Never",
            "args": ["install", "/e2ek"],
            "volumeMounts": [{"name": "bin", "mountPath": "/e2ek"}],
        }]);
        this
    }

    /// The app's container is all there is: its wrapper is the hub.
    pub(crate) fn in_container(command: &[&str]) -> Self {
        let mut this = Self::wrapped(command);
        this.sidecar = Value::Null;
        this.app["command"] = json!(["/e2ek/e2ek-sidecar", "run", "--serve", "--"]);
        let store = json!({"name": "store", "mountPath": "/var/lib/e2ek"});
        this.app["volumeMounts"].as_array_mut().unwrap().push(store);
        this.more["shareProcessNamespace"] = json!(false);
        this
    }

    /// All containers fit the Pod Security level `restricted`, as this user.
    pub(crate) fn restricted(mut self, user: u32) -> Self {
        let least = json!({
            "runAsNonRoot": true, "runAsUser": user, "runAsGroup": user,
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        self.app["securityContext"] = least.clone();
        if !self.sidecar.is_null() {
            self.sidecar["securityContext"] = least.clone();
        }
        if let Some(inits) = self.more["initContainers"].as_array_mut() {
            inits.iter_mut().for_each(|init| init["securityContext"] = least.clone());
        }
        self
    }

    pub(crate) fn app_user(mut self, user: u32, group: u32) -> Self {
        self.app["securityContext"] = json!({"runAsUser": user, "runAsGroup": group});
        self
    }

    fn containers(&self) -> Vec<&Value> {
        [&self.app, &self.sidecar].into_iter().filter(|one| !one.is_null()).collect()
    }

    pub(crate) fn build(&self, name: &str) -> Value {
        let mut spec = json!({
            "shareProcessNamespace": true,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "containers": self.containers(),
            "volumes": [
                {"name": "store", "emptyDir": {}},
                {"name": "run", "emptyDir": {}},
                {"name": "bin", "emptyDir": {}},
            ],
        });
        for (key, value) in self.more.as_object().unwrap() {
            match (&mut spec[key], value) {
                (Value::Array(list), Value::Array(more)) => list.extend(more.iter().cloned()),
                (place, value) => *place = value.clone(),
            }
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    }
}

/// A pod that runs.
pub(crate) struct Pod<'r> {
    pub(crate) rig: &'r Rig,
    pub(crate) name: String,
}

/// One start of a container: its main process, as the node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Main(pub(crate) i32);

impl Rig {
    /// A namespace where a Pod Security level is enforced.
    pub(crate) fn at_level(name: &str, level: &str) -> Option<Self> {
        let rig = Self::new(name)?;
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        rig.kubectl(&["label", "namespace", &rig.namespace, &label]).ends_with(0);
        Some(rig)
    }

    pub(crate) fn pod(&self, manifest: &Manifest) -> Pod<'_> {
        self.named_pod("pod", manifest)
    }

    pub(crate) fn named_pod(&self, name: &str, manifest: &Manifest) -> Pod<'_> {
        self.apply(&manifest.build(name).to_string());
        let pod = Pod { rig: self, name: name.to_owned() };
        until("the pod's containers run", || {
            let mut names = manifest.containers().into_iter().map(|one| one["name"].as_str());
            names.all(|name| pod.container_id(name.unwrap()).is_some())
        });
        pod
    }

    /// `sync --once` to a path in this pod's app.
    pub(crate) fn once_in(&self, pod: &Pod<'_>, path: &str) -> crate::rig::Said {
        let (source, target) = (self.source.to_str().unwrap(), pod.target(path));
        self.run(&["sync", "--once", source, &target, "-n", &self.namespace])
    }

    /// `sync --once` to a path in the app of the pod `pod`.
    pub(crate) fn once(&self, path: &str, more: &[&str]) -> crate::rig::Said {
        let target = format!("pod/pod:{path}");
        let source = self.source.to_str().unwrap();
        let words = [&["sync", "--once", source, &target, "-n", &self.namespace], more].concat();
        self.run(&words)
    }
}

impl Pod<'_> {
    fn status(&self) -> Value {
        let said = self.rig.k(&["get", "pod", &self.name, "-o", "json"]).ends_with(0);
        serde_json::from_str(&said.out).unwrap()
    }

    pub(crate) fn container(&self, name: &str) -> Value {
        let status = self.status();
        let all = status["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|one| one["name"] == name).unwrap_or_default()
    }

    /// The runtime's id, while the container runs.
    pub(crate) fn container_id(&self, name: &str) -> Option<String> {
        let one = self.container(name);
        one["state"]["running"].as_object()?;
        Some(one["containerID"].as_str()?.rsplit('/').next()?.to_owned())
    }

    pub(crate) fn restarts(&self, name: &str) -> u64 {
        self.container(name)["restartCount"].as_u64().unwrap_or(0)
    }

    /// Its main process on the node; waits for it.
    pub(crate) fn main(&self, name: &str) -> Main {
        self.next_main(name, None)
    }

    /// The main process of a later start than `before`.
    pub(crate) fn next_main(&self, name: &str, before: Option<Main>) -> Main {
        let socket = self.rig.cluster.join("run/containerd.sock");
        let mut found = None;
        until("the container's process", || {
            let Some(id) = self.container_id(name) else { return false };
            let mut ctr = Command::new("ctr");
            ctr.arg("-a").arg(&socket).args(["-n", "k8s.io", "tasks", "ls"]);
            let listed = String::from_utf8(ctr.output().unwrap().stdout).unwrap();
            let line = listed.lines().find(|line| line.starts_with(&id));
            let mut words = line.unwrap_or_default().split_ascii_whitespace().skip(1);
            let pid = words.next().and_then(|pid| pid.parse().ok()).map(Main);
            let running = words.next() == Some("RUNNING");
            found = pid.filter(|pid| running && Some(*pid) != before);
            found.is_some()
        });
        found.unwrap()
    }

    /// Kills a container's main process as the kernel's out-of-memory killer does; returns when it
    /// is dead.
    pub(crate) fn kill(&self, main: Main) {
        let Some(pid) = RawPid::from_raw(main.0) else { return };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        let mut ended = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut ended, None).unwrap();
    }

    /// What a command in the app's container says.
    pub(crate) fn exec(&self, words: &[&str]) -> crate::rig::Said {
        self.rig.k(&[&["exec", &self.name, "-c", "app", "--"], words].concat())
    }

    pub(crate) fn log(&self, container: &str) -> String {
        self.rig.k(&["logs", &self.name, "-c", container]).out
    }

    pub(crate) fn target(&self, path: &str) -> String {
        format!("pod/{}:{path}", self.name)
    }
}

impl Main {
    pub(crate) fn path(self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.0)).join(path.trim_start_matches('/'))
    }

    /// A file as this start of the container has it.
    pub(crate) fn file(self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok()
    }

    pub(crate) fn metadata(self, path: &str) -> std::fs::Metadata {
        std::fs::symlink_metadata(self.path(path)).unwrap()
    }

    pub(crate) fn exists(self, path: &str) -> bool {
        std::fs::symlink_metadata(self.path(path)).is_ok()
    }

    /// What is mounted there, by the container's own table.
    pub(crate) fn mounts(self) -> String {
        std::fs::read_to_string(format!("/proc/{}/mountinfo", self.0)).unwrap_or_default()
    }
}
