//! Manifests: an app and the hub beside it, and what can be wrong with them.

use serde_json::{Value, json};

use crate::rig::{Rig, until};

/// A Deployment `app`, to be changed before it is applied.
pub(crate) fn deployment(replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "app"}},
            "template": {
                "metadata": {"labels": {"app": "app"}, "annotations": {}},
                "spec": {
                    "shareProcessNamespace": true,
                    "terminationGracePeriodSeconds": 1,
                    "containers": [app("app"), sidecar()],
                    "volumes": [{"name": "store", "emptyDir": {}}],
                },
            },
        },
    })
}

/// Sleeps, with an empty `/srv/app`.
pub(crate) fn app(name: &str) -> Value {
    json!({
        "name": name, "image": "e2ek.test/busybox:1", "imagePullPolicy": "Never",
        "command": ["sh", "-c", "mkdir -p /srv/app; trap exit TERM; while :; do sleep 1; done"],
    })
}

pub(crate) fn sidecar() -> Value {
    json!({
        "name": "e2ek-sync", "image": crate::pod::image(), "imagePullPolicy": "Never",
        "args": ["serve"],
        "volumeMounts": [{"name": "store", "mountPath": "/var/lib/e2ek"}],
    })
}

/// The pod's specification in a Deployment.
pub(crate) fn spec(deployment: &mut Value) -> &mut Value {
    &mut deployment["spec"]["template"]["spec"]
}

impl Rig {
    /// Applies it and waits for all its pods to run. Their names.
    pub(crate) fn deploy(&self, deployment: &Value) -> Vec<String> {
        self.apply(&deployment.to_string());
        self.k(&["rollout", "status", "deploy/app", "--timeout=120s"]).ends_with(0);
        let replicas = deployment["spec"]["replicas"].as_u64().unwrap() as usize;
        until("all pods are there", || self.pods().len() == replicas);
        self.pods()
    }
}
