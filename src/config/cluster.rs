//! Owns which cluster a workload is in, and which of its pods are meant.

use std::path::PathBuf;

use super::destination::Scene;
use super::error::ConfigError;
use super::file::ClusterLayer;
use super::quantity::QuantityError;
use super::value::{Source, Value};

/// Which cluster, and which pods. Names are as written: what they mean is the cluster's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterChoice {
    /// Files that are read as one: `--kubeconfig`, else those of `KUBECONFIG`, else
    /// `~/.kube/config`. Never empty.
    pub kubeconfig: Vec<PathBuf>,
    /// One of their contexts; the current one without.
    pub context: Option<Value<String>>,
    /// The context's own without.
    pub namespace: Option<Value<String>>,
    /// Labels that a pod must have beside the workload's own.
    pub selector: Option<Value<String>>,
    /// The only pod that is meant.
    pub pod: Option<Value<String>>,
    /// The app's container.
    pub container: Option<Value<String>>,
}

/// A port of this machine and the port in the pods that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Here, on 127.0.0.1; never 0.
    pub local: u16,
    /// There; never 0.
    pub remote: u16,
}

impl std::str::FromStr for Forward {
    type Err = QuantityError;

    /// `8080` or `8080:80`.
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        let (local, remote) = text.split_once(':').unwrap_or((text, text));
        match (port(local), port(remote)) {
            (Some(local), Some(remote)) => Ok(Self { local, remote }),
            _ => Err(QuantityError::Forward),
        }
    }
}

impl ClusterChoice {
    pub(super) fn resolve(scene: &Scene<'_>, file: ClusterLayer) -> Result<Self, ConfigError> {
        let flags = scene.flags;
        let typed = |word: &Option<String>, name, file| {
            let typed = word.clone().map(|word| Value::new(word, Source::Flag(name)));
            typed.or(file)
        };
        let kubeconfig = match (&flags.kubeconfig, scene.kubeconfig) {
            (Some(path), _) => vec![scene.base.join(path)],
            (None, Some(list)) => {
                let paths = std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty());
                paths.map(|path| scene.base.join(path)).collect()
            }
            (None, None) => vec![scene.home.ok_or(ConfigError::NoHome)?.join(".kube/config")],
        };
        Ok(Self {
            kubeconfig,
            context: typed(&flags.context, "--context", file.context),
            namespace: typed(&flags.namespace, "--namespace", file.namespace),
            selector: typed(&flags.selector, "--selector", file.selector),
            pod: typed(&flags.pod, "--pod", None),
            container: typed(&flags.container, "--container", file.container),
        })
    }
}
