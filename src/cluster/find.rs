//! Owns the way from a workload's name to the pods that are meant.

use super::object::{List, Named, Pod, Workload, check_name, query};
use super::{Ask, Cluster, ClusterError};

/// What somebody asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sought {
    /// The short kind: `deploy`, `sts`, `ds`, `rs`, `job`, `pod`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Only this one of its pods.
    pub pod: Option<String>,
    /// Only those of its pods that have these labels.
    pub selector: Option<String>,
    /// The app's container.
    pub container: Option<String>,
}

/// The pods that are meant, as the API server is asked for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// For people: `deploy/api`.
    pub(super) of: String,
    /// `labelSelector=...&fieldSelector=...`, escaped.
    pub(super) query: String,
    /// Words for what narrows it, if anything does.
    pub(super) narrowed: Option<String>,
    pub(super) container: Option<String>,
    /// All pods of the workload, without what narrows it.
    whole: String,
}

/// Where a kind is found: group and version, plural, as in a Role.
const KINDS: [(&str, &str, &str, &str); 5] = [
    ("deploy", "/apis/apps/v1", "deployments", "deployments.apps"),
    ("sts", "/apis/apps/v1", "statefulsets", "statefulsets.apps"),
    ("ds", "/apis/apps/v1", "daemonsets", "daemonsets.apps"),
    ("rs", "/apis/apps/v1", "replicasets", "replicasets.apps"),
    ("job", "/apis/batch/v1", "jobs", "jobs.batch"),
];

impl Sought {
    /// For people.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }
}

impl Cluster {
    /// Finds the workload and how its pods are asked for.
    ///
    /// # Errors
    /// When it is not there, or must not be looked at.
    pub async fn select(&self, sought: &Sought) -> Result<Selection, ClusterError> {
        check_name("workload", &sought.name)?;
        let whole = match KINDS.iter().find(|(kind, ..)| *kind == sought.kind) {
            Some(&(kind, group, plural, resource)) => {
                let labels = self.labels_of(sought, kind, group, plural, resource).await?;
                format!("labelSelector={}", query(&labels))
            }
            None => format!("fieldSelector={}", query(&format!("metadata.name={}", sought.name))),
        };
        let mut asked = whole.clone();
        if let Some(selector) = &sought.selector {
            // The last one of two would win, so both are one.
            let (key, labels) = match asked.strip_prefix("labelSelector=") {
                Some(labels) => ("", format!("{labels}%2C{}", query(selector))),
                None => ("&", query(selector)),
            };
            asked = match key {
                "" => format!("labelSelector={labels}"),
                _ => format!("{asked}&labelSelector={labels}"),
            };
        }
        if let Some(pod) = &sought.pod {
            check_name("pod", pod)?;
            asked = match sought.kind.as_str() {
                "pod" if *pod == sought.name => asked,
                _ => format!("{asked}&fieldSelector={}", query(&format!("metadata.name={pod}"))),
            };
        }
        let narrowed = [
            sought.pod.as_ref().map(|pod| format!("--pod {pod}")),
            sought.selector.as_ref().map(|selector| format!("-l {selector}")),
        ];
        let narrowed = narrowed.into_iter().flatten().collect::<Vec<_>>().join(" ");
        Ok(Selection {
            of: sought.shown(),
            query: asked,
            narrowed: (!narrowed.is_empty()).then_some(narrowed),
            container: sought.container.clone(),
            whole,
        })
    }

    async fn labels_of(
        &self,
        sought: &Sought,
        kind: &'static str,
        group: &str,
        plural: &str,
        resource: &'static str,
    ) -> Result<String, ClusterError> {
        let namespace = self.namespace();
        let path = format!("{group}/namespaces/{namespace}/{plural}/{}", sought.name);
        match self.get::<Workload>(&Ask { path, verb: "get", resource }).await {
            Ok(workload) => Ok(workload.spec.selector.text()),
            Err(ClusterError::Missing { .. }) => {
                let path = format!("{group}/namespaces/{namespace}/{plural}?limit=20");
                let known = self.names(path, resource).await;
                Err(self.no_workload(kind, &sought.name, known).await)
            }
            Err(error) => Err(error),
        }
    }

    async fn names(&self, path: String, resource: &'static str) -> Vec<String> {
        let list = self.get::<List<Named>>(&Ask { path, verb: "list", resource }).await;
        // Only for a hint: who may not list gets none.
        let items = list.map(|list| list.items).unwrap_or_default();
        items.into_iter().map(|item| item.metadata.name).collect()
    }

    async fn no_workload(
        &self,
        kind: &'static str,
        name: &str,
        known: Vec<String>,
    ) -> ClusterError {
        let path = format!("/api/v1/namespaces/{}", self.namespace());
        let asked = self.get::<Named>(&Ask { path, verb: "get", resource: "namespaces" }).await;
        ClusterError::NoWorkload {
            kind,
            name: name.to_owned(),
            namespace: self.namespace().to_owned(),
            no_namespace: matches!(asked, Err(ClusterError::Missing { .. })),
            known,
        }
    }

    /// Why a selection is empty; `Ok` when its workload simply has no pods now.
    pub(super) async fn why_empty(&self, selection: &Selection) -> Result<(), ClusterError> {
        let pods = format!("/api/v1/namespaces/{}/pods", self.namespace());
        if selection.whole.starts_with("fieldSelector") {
            let name = selection.of.trim_start_matches("pod/");
            let known = self.names(format!("{pods}?limit=20"), "pods").await;
            return Err(self.no_workload("pod", name, known).await);
        }
        let Some(wanted) = &selection.narrowed else { return Ok(()) };
        let known = self.names(format!("{pods}?{}", selection.whole), "pods").await;
        match known.is_empty() {
            true => Ok(()),
            false => Err(ClusterError::NoSuchPod {
                of: selection.of.clone(),
                wanted: wanted.clone(),
                known,
            }),
        }
    }

    pub(super) async fn pods(&self, selection: &Selection) -> Result<List<Pod>, ClusterError> {
        let path = format!("/api/v1/namespaces/{}/pods?{}", self.namespace(), selection.query);
        self.get(&Ask { path, verb: "list", resource: "pods" }).await
    }
}
