//! Owns which cluster a workload is in, and which of its pods are meant.

use std::path::PathBuf;

use super::destination::Scene;
use super::error::ConfigError;
use super::file::ClusterLayer;
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
