//! Owns a namespace of the cluster, and what is asked there by kubectl and ctr.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::node::Container;
use crate::{Result, clock};

const NAMESPACE: &str = "e2ek-bench";
/// Nothing takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The cluster and our namespace in it, which is removed at the end.
pub(crate) struct Rig {
    /// The cluster's own folder.
    pub(crate) cluster: PathBuf,
    /// Where files may be put.
    pub(crate) home: PathBuf,
}

/// A pod of ours that runs.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Rig {
    /// An empty namespace of the cluster that `tests/cluster/rig/up` started.
    pub(crate) fn new(home: PathBuf) -> Result<Self> {
        let cluster = std::env::var_os("E2EK_CLUSTER").unwrap_or("/var/tmp/e2ek-cluster".into());
        let this = Self { cluster: PathBuf::from(cluster), home };
        if !this.kubeconfig().exists() {
            return Err(format!(
                "no cluster in {}: benches/pod/run starts one",
                this.cluster.display()
            )
            .into());
        }
        this.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found"])?;
        this.kubectl(&["create", "namespace", NAMESPACE])?;
        until("the namespace's service account", || {
            Ok(this.k(&["get", "serviceaccount", "default"]).is_ok())
        })?;
        Ok(this)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.cluster.join("kubeconfig")
    }

    pub(crate) fn namespace(&self) -> &'static str {
        NAMESPACE
    }

    /// kubectl in our namespace.
    pub(crate) fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.cluster.join("bin/kubectl"));
        command.env("KUBECONFIG", self.kubeconfig()).args(["-n", NAMESPACE]);
        command.stdin(Stdio::null());
        command
    }

    fn kubectl(&self, words: &[&str]) -> Result<String> {
        said(&self.kubectl_command().args(words).output()?, words)
    }

    /// What kubectl says to this in our namespace.
    pub(crate) fn k(&self, words: &[&str]) -> Result<String> {
        self.kubectl(words)
    }

    pub(crate) fn json(&self, words: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.k(&[words, &["-o", "json"]].concat())?)?)
    }

    pub(crate) fn apply(&self, manifest: &Value) -> Result<()> {
        let mut command = self.kubectl_command();
        command.args(["apply", "-f", "-"]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().ok_or("no stdin")?;
        stdin.write_all(manifest.to_string().as_bytes())?;
        drop(stdin);
        said(&child.wait_with_output()?, &["apply"])?;
        Ok(())
    }

    /// A Deployment of an app with a hub beside it; its pod, once it runs.
    pub(crate) fn deploy(&self, name: &str) -> Result<Pod> {
        self.apply(&deployment(name))?;
        self.rolled_out(name, 1)?.pop().ok_or_else(|| "no pod".into())
    }

    /// The pods of a Deployment, once there are so many and all of them run.
    pub(crate) fn rolled_out(&self, name: &str, replicas: usize) -> Result<Vec<Pod>> {
        let deployment = format!("deploy/{name}");
        let patience = format!("--timeout={}s", PATIENCE.as_secs());
        self.k(&["rollout", "status", &deployment, &patience])?;
        let mut pods = Vec::new();
        until("all pods are there", || {
            pods = self.pods(name)?;
            Ok(pods.len() == replicas)
        })?;
        Ok(pods)
    }

    /// The pods that are not on their way out.
    pub(crate) fn pods(&self, name: &str) -> Result<Vec<Pod>> {
        let list = self.json(&["get", "pods", "-l", &format!("app={name}")])?;
        let items = list["items"].as_array().ok_or("no items")?.iter();
        let staying = items.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pod = |pod: &Value| Pod {
            name: text(&pod["metadata"]["name"]),
            uid: text(&pod["metadata"]["uid"]),
        };
        Ok(staying.map(pod).collect())
    }

    /// Ends a Deployment, and waits until its pods are gone: nothing of it is left for the next job.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let patience = format!("--timeout={}s", PATIENCE.as_secs());
        self.k(&["delete", "deploy", name, "--cascade=foreground", &patience])?;
        until("the pods are gone", || {
            let list = self.json(&["get", "pods", "-l", &format!("app={name}")])?;
            Ok(list["items"].as_array().is_none_or(Vec::is_empty))
        })
    }

    /// Makes directories in the app's container.
    pub(crate) fn make_directory(&self, pod: &Pod, path: &str) -> Result<()> {
        self.k(&["exec", &pod.name, "-c", "app", "--", "mkdir", "-p", path])?;
        Ok(())
    }

    /// The container as the node has it, once it runs.
    pub(crate) fn container(&self, pod: &Pod, name: &str) -> Result<Container> {
        let mut id = None;
        until("the container runs", || {
            id = self.container_id(pod, name)?;
            Ok(id.is_some())
        })?;
        Container::find(&id.ok_or("it was just there")?)
    }

    /// The runtime's id of a container that runs.
    pub(crate) fn container_id(&self, pod: &Pod, name: &str) -> Result<Option<String>> {
        let pod = self.json(&["get", "pod", &pod.name])?;
        let all = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let one = all.iter().find(|one| one["name"] == name);
        let running = one.filter(|one| one["state"]["running"].is_object());
        let id = running.and_then(|one| one["containerID"].as_str());
        Ok(id.and_then(|id| id.rsplit('/').next()).map(str::to_owned))
    }

    /// What containerd answers.
    pub(crate) fn ctr(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.cluster.join("run/containerd.sock")).args(["-n", "k8s.io"]);
        said(&command.args(words).output()?, words)
    }

    /// What the cluster is, a line each.
    pub(crate) fn describe(&self) -> Result<Vec<String>> {
        let nodes = self.json(&["get", "nodes"])?;
        let node = &nodes["items"][0]["status"];
        let text = |key: &str| node["nodeInfo"][key].as_str().unwrap_or("unknown").to_owned();
        Ok(vec![
            format!(
                "cluster: one node, Kubernetes {}, {}, at most {} pods",
                text("kubeletVersion"),
                text("containerRuntimeVersion"),
                node["allocatable"]["pods"].as_str().unwrap_or("?")
            ),
            format!("image of the hub: {}", image()),
        ])
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]);
    }
}

/// The hub's image.
pub(crate) fn image() -> String {
    std::env::var("E2EK_SIDECAR_IMAGE").unwrap_or("e2ek.test/e2ek-sidecar:dev".to_owned())
}

/// An app that sleeps, with an empty `/srv/app`, and the hub beside it (the mode *baseline*).
fn deployment(name: &str) -> Value {
    let app = json!({
        "name": "app", "image": "e2ek.test/busybox:1", "imagePullPolicy": "Never",
        "command": ["sh", "-c", "mkdir -p /srv/app; exec sleep 1000000"],
    });
    let hub = json!({
        "name": "e2ek-sync", "image": image(), "imagePullPolicy": "Never", "args": ["serve"],
        "volumeMounts": [{"name": "store", "mountPath": "/var/lib/e2ek"}],
    });
    let spec = json!({
        "shareProcessNamespace": true,
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 1,
        "containers": [app, hub],
        "volumes": [{"name": "store", "emptyDir": {}}],
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    })
}

fn said(output: &Output, words: &[&str]) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("{}: {}: {}", words.join(" "), output.status, error.trim()).into())
}

/// Waits for something that no event tells of.
pub(crate) fn until(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = clock::now() + u64::try_from(PATIENCE.as_nanos())?;
    while !is()? {
        if clock::now() > deadline {
            return Err(format!("{what}: not within {PATIENCE:?}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
