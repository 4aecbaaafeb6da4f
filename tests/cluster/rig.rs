//! One test's own world: a namespace of the cluster, a source and a state directory.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) use crate::said::Said;

/// Nothing takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Rig {
    pub(crate) namespace: String,
    pub(crate) source: PathBuf,
    pub(crate) home: PathBuf,
    /// The cluster's own folder.
    pub(crate) cluster: PathBuf,
    _home: TempDir,
}

impl Rig {
    /// A namespace of this name, empty. `None` where there is no cluster.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let test = std::thread::current().name().unwrap_or(name).to_owned();
        if std::env::var_os("E2EK_CLUSTER_TESTS").is_none() {
            println!("{test}: left out, it needs a cluster: tests/cluster/run");
            return None;
        }
        let cluster = std::env::var_os("E2EK_CLUSTER").unwrap_or("/var/tmp/e2ek-cluster".into());
        let cluster = PathBuf::from(cluster);
        let kubeconfig = cluster.join("kubeconfig");
        assert!(kubeconfig.exists(), "{} is not there", kubeconfig.display());
        let home = tempfile::Builder::new().prefix("e2ek").tempdir().unwrap();
        let top = home.path().canonicalize().unwrap();
        fs::create_dir(top.join("src")).unwrap();
        let namespace = format!("kube-{name}");
        let this = Self { namespace, source: top.join("src"), home: top, cluster, _home: home };
        this.kubectl(&["delete", "namespace", &this.namespace, "--ignore-not-found"]).ends_with(0);
        this.kubectl(&["create", "namespace", &this.namespace]).ends_with(0);
        until("the namespace's service account", || {
            this.kubectl(&["-n", &this.namespace, "get", "serviceaccount", "default"]).code
                == Some(0)
        });
        Some(this)
    }

    /// A file below the source, saved at once: nobody ever sees half of it.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let (path, aside) = (self.source.join(name), self.home.join("aside-of-a-save"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&aside, text).unwrap();
        fs::rename(aside, path).unwrap();
    }

    pub(crate) fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.cluster.join("bin/kubectl"));
        command.env("KUBECONFIG", self.cluster.join("kubeconfig")).stdin(Stdio::null());
        command
    }

    /// kubectl as the cluster's administrator.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Said {
        Said::from(self.kubectl_command().args(words).output().unwrap())
    }

    /// The same in our namespace.
    pub(crate) fn k(&self, words: &[&str]) -> Said {
        self.kubectl(&[&["-n", self.namespace.as_str()], words].concat())
    }

    pub(crate) fn apply(&self, manifest: &str) {
        let mut command = self.kubectl_command();
        command.args(["-n", &self.namespace, "apply", "-f", "-"]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
        Said::from(child.wait_with_output().unwrap()).ends_with(0);
    }

    /// Our binary with an environment that is this test's alone.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_e2ek-sync"));
        command.current_dir(&self.home).env_clear().stdin(Stdio::null());
        command.env("HOME", &self.home).env("E2EK_STATE_DIR", self.home.join("state"));
        command.env("USER", "tester").env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("PATH", std::env::var_os("PATH").unwrap());
        command.env("KUBECONFIG", self.cluster.join("kubeconfig"));
        command.args(words);
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Said {
        Said::from(self.command(words).output().unwrap())
    }

    /// What all runs on this source have logged.
    pub(crate) fn logged(&self) -> String {
        let workspaces = fs::read_dir(self.home.join("state")).unwrap();
        let log = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("log/e2ek.log")).ok();
        workspaces.filter_map(|entry| log(entry.unwrap())).collect()
    }

    /// A command to the running daemon.
    pub(crate) fn control(&self, words: &[&str]) -> Said {
        self.run(&[&["-C", self.source.to_str().unwrap()], words].concat())
    }

    /// `watch` and its kin on this source, in this namespace.
    pub(crate) fn syncing(&self, words: &[&str], target: &str, more: &[&str]) -> Command {
        let source = self.source.to_str().unwrap();
        let all = [words, &[source, target, "-n", &self.namespace], more].concat();
        self.command(&all)
    }

    /// Kills one of the cluster's own programs, and starts it again.
    pub(crate) fn restart(&self, program: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/rig/restart");
        let mut command = Command::new(script);
        // It leaves a program behind that must not hold our pipes.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let done = command.env("E2EK_CLUSTER", &self.cluster).arg(program).status().unwrap();
        assert!(done.success(), "{program} is started anew");
    }

    /// The names of the pods that are not on their way out.
    pub(crate) fn pods(&self) -> Vec<String> {
        let said = self.k(&["get", "pods", "-o", "json"]).ends_with(0);
        let list: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        let items = list["items"].as_array().unwrap().iter();
        let staying = items.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        staying.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }

    /// A file as a container sees it; `None` when it is not there.
    pub(crate) fn seen(&self, pod: &str, path: &str) -> Option<String> {
        let said = self.k(&["exec", pod, "-c", "app", "--", "cat", path]);
        (said.code == Some(0)).then_some(said.out)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let words = ["delete", "namespace", &self.namespace, "--wait=false"];
            let _ = self.kubectl(&words);
        }
    }
}

/// Waits for something that no event tells of.
#[track_caller]
pub(crate) fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
