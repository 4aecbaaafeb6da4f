//! Owns the parts of Kubernetes objects that are looked at: no more is read, so no more can fail.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::ClusterError;

/// A list with the point from which to watch.
#[derive(Debug, Deserialize)]
pub(super) struct List<T> {
    #[serde(default)]
    pub(super) metadata: ListMeta,
    pub(super) items: Vec<T>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMeta {
    #[serde(default)]
    pub(super) resource_version: String,
}

/// Only its name.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub(super) metadata: Meta,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) uid: String,
    #[serde(default)]
    pub(super) resource_version: String,
    pub(super) deletion_timestamp: Option<String>,
    #[serde(default)]
    pub(super) annotations: BTreeMap<String, String>,
}

/// A Deployment, StatefulSet, DaemonSet, ReplicaSet or Job.
#[derive(Debug, Deserialize)]
pub(super) struct Workload {
    pub(super) spec: WorkloadSpec,
}

#[derive(Debug, Deserialize)]
pub(super) struct WorkloadSpec {
    #[serde(default)]
    pub(super) selector: Selector,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Selector {
    #[serde(default)]
    pub(super) match_labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) match_expressions: Vec<Expression>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Expression {
    pub(super) key: String,
    pub(super) operator: String,
    #[serde(default)]
    pub(super) values: Vec<String>,
}

impl Selector {
    /// As the query takes it.
    pub(super) fn text(&self) -> String {
        let labels = self.match_labels.iter().map(|(key, value)| format!("{key}={value}"));
        let expressions = self.match_expressions.iter().map(|expression| {
            let (key, values) = (&expression.key, expression.values.join(","));
            match expression.operator.as_str() {
                "In" => format!("{key} in ({values})"),
                "NotIn" => format!("{key} notin ({values})"),
                "DoesNotExist" => format!("!{key}"),
                _ => key.clone(),
            }
        });
        labels.chain(expressions).collect::<Vec<_>>().join(",")
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Pod {
    pub(super) metadata: Meta,
    #[serde(default)]
    pub(super) spec: PodSpec,
    #[serde(default)]
    pub(super) status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    #[serde(default)]
    pub(super) containers: Vec<Container>,
    #[serde(default)]
    pub(super) init_containers: Vec<Container>,
    #[serde(default)]
    pub(super) share_process_namespace: bool,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Container {
    pub(super) name: String,
    #[serde(default)]
    pub(super) command: Vec<String>,
    #[serde(default)]
    pub(super) args: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatus {
    #[serde(default)]
    pub(super) phase: String,
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) conditions: Vec<Condition>,
    #[serde(default)]
    pub(super) container_statuses: Vec<ContainerStatus>,
    #[serde(default)]
    pub(super) init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) message: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerStatus {
    pub(super) name: String,
    #[serde(rename = "containerID", default)]
    pub(super) container_id: String,
    #[serde(default)]
    pub(super) state: ContainerState,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct ContainerState {
    pub(super) running: Option<serde::de::IgnoredAny>,
    pub(super) waiting: Option<Why>,
    pub(super) terminated: Option<Why>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Why {
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) message: String,
}

/// A DNS-1123 subdomain: what names of objects are, and all that goes into a path.
pub(super) fn check_name(what: &'static str, name: &str) -> Result<(), ClusterError> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let ok = (1..=253).contains(&bytes.len()) && bytes.iter().all(|b| fits(*b));
    match ok && edge(bytes.first()) && edge(bytes.last()) {
        true => Ok(()),
        false => Err(ClusterError::Name { what, name: name.to_owned() }),
    }
}

/// A value of a query, escaped.
pub(super) fn query(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    let escape = |b: u8| match plain(b) {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    };
    value.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i6_no_name_leaves_its_place_in_a_path() {
        for name in ["", "a/b", "..", "a?b", "A", "-a", "a-", ".a", "a\n", "a%2fb", "a b"] {
            assert!(check_name("pod", name).is_err(), "{name:?}");
        }
        for name in ["a", "api-7d78f-x2x4z", "a.b", "0"] {
            check_name("pod", name).unwrap();
        }
        assert_eq!(query("a in (b,c),!d=1&x"), "a%20in%20%28b%2Cc%29%2C%21d%3D1%26x");
    }

    #[test]
    fn a_selector_is_written_as_the_query_takes_it() {
        let selector: Selector = serde_json::from_str(
            r#"{"matchLabels":{"app":"api"},"matchExpressions":[
                {"key":"tier","operator":"In","values":["a","b"]},
                {"key":"x","operator":"Exists"},{"key":"y","operator":"DoesNotExist"}]}"#,
        )
        .unwrap();
        assert_eq!(selector.text(), "app=api,tier in (a,b),x,!y");
    }
}
