//! Rights that are missing, one after the other: each is told by its exact name.

use serde_json::json;

use crate::pods::deployment;
use crate::rig::{Rig, Said};

const TARGET: &str = "deploy/app:/srv/app";

/// Gives the user `dev` exactly these rights here.
fn allow(rig: &Rig, rules: &[(&str, &str, &str)]) {
    let rules: Vec<_> = rules
        .iter()
        .map(|(group, resource, verb)| {
            json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]})
        })
        .collect();
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "dev"}, "rules": rules});
    rig.apply(&role.to_string());
}

fn as_dev(rig: &Rig, words: &[&str]) -> Said {
    let dev = rig.cluster.join("kubeconfig-dev");
    let (source, dev) = (rig.source.to_str().unwrap(), dev.to_str().unwrap());
    let more = [source, TARGET, "-n", rig.namespace.as_str(), "--kubeconfig", dev];
    rig.run(&[words, &more].concat())
}

#[test]
fn i6_each_missing_right_is_told_by_its_name() {
    let Some(rig) = Rig::new("rights") else { return };
    rig.write("view.py", "one\n");
    rig.deploy(&deployment(1));
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "dev"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "dev"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "dev"}]});
    rig.apply(&binding.to_string());
    let steps = [
        ("apps", "deployments", "get"),
        ("", "pods", "list"),
        ("", "pods", "watch"),
        ("", "pods/exec", "get"),
    ];
    for (given, (group, resource, verb)) in steps.iter().enumerate() {
        allow(&rig, &steps[..given]);
        let shown =
            if group.is_empty() { resource.to_string() } else { format!("{resource}.{group}") };
        let missing = format!("user dev may not {verb} {shown} in namespace {}", rig.namespace);
        let group = if group.is_empty() { "''" } else { group };
        let rule = format!("{{apiGroups: [{group}], resources: [{resource}], verbs: [{verb}]}}");
        as_dev(&rig, &["watch"]).ends_with(4).says(&[&missing, &rule, "kind=forbidden"]);
    }
    allow(&rig, &steps);
    // Without the right to read logs it works, and says what is missing.
    let dev = rig.cluster.join("kubeconfig-dev");
    let mut watch = rig.watch(TARGET, &["--kubeconfig", dev.to_str().unwrap()]);
    watch.line(&["degraded", "user dev may not get pods/log", "resources: [pods/log]"]);
    watch.flush();
    watch.stop();
    as_dev(&rig, &["sync", "--once"]).ends_with(0);
}
