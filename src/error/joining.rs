//! Owns the words for what a second `watch` of a workspace meets.

use std::path::Path;

use e2ek_sidecar::path::Escaped;

use super::{Error, Kind, shown};

impl Error {
    /// Another daemon serves this workspace.
    #[must_use]
    pub fn already_watched(workspace: &Path, pid: Option<u32>) -> Self {
        let by = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
        Self::new(Kind::Conflict, format!("{} is being synced already{by}", shown(workspace)))
            .hint("`e2ek-sync attach` follows it, `e2ek-sync stop` ends it")
    }

    /// A second `watch` of the same workspace came with another value of a setting that all its
    /// targets share. Values as they would be typed.
    #[must_use]
    pub fn differing_settings(setting: &str, theirs: &str, ours: &str) -> Self {
        let [theirs, ours] = [theirs, ours].map(|text| match text {
            "" => "none".to_owned(),
            text => format!("`{}`", Escaped(text.as_bytes())),
        });
        Self::new(
            Kind::Conflict,
            format!(
                "this workspace is already being watched with another {setting}: {theirs}, not \
                 {ours}"
            ),
        )
        .hint("use the same flags, or end the other one: e2ek-sync stop")
    }

    /// A second `watch` wants another command at a target that has one, or has none.
    #[must_use]
    pub fn differing_command(target: &str, theirs: &str, ours: &str) -> Self {
        let [target, theirs, ours] =
            [target, theirs, ours].map(|text| Escaped(text.as_bytes()).to_string());
        let theirs = match theirs.as_str() {
            "" => "without a command".to_owned(),
            theirs => format!("with `{theirs}`"),
        };
        Self::new(
            Kind::Conflict,
            format!("{target} is already being watched {theirs}, not with `{ours}`"),
        )
        .hint("leave out the command to follow the other watch, or end that: e2ek-sync stop")
    }

    /// The first `watch`, which this one had joined, has ended.
    #[must_use]
    pub fn joined_ended(pid: u32) -> Self {
        Self::new(
            Kind::NoDaemon,
            format!("the e2ek-sync watch that was joined (process {pid}) has ended"),
        )
        .hint("start this one again: it is the first now")
    }

    /// The running session has no target of that name; it has those that are `known`.
    #[must_use]
    pub fn not_in_session(name: &str, known: &[String]) -> Self {
        let name = Escaped(name.as_bytes());
        Self::new(Kind::NotFound, format!("no target of this session is named `{name}`"))
            .hint(format!("it has: {}", known.join(", ")))
    }

    /// A second `watch` wants a pod that is a target as one of another workload.
    #[must_use]
    pub fn pod_of_another(pod: &str, workload: &str) -> Self {
        let [pod, workload] = [pod, workload].map(|text| Escaped(text.as_bytes()).to_string());
        Self::new(Kind::Conflict, format!("{pod} is being watched already, as one of {workload}"))
            .hint("name the same workload, or pods that it does not have")
    }

    /// `stop --target` named a pod.
    #[must_use]
    pub fn target_of_a_workload(name: &str, workload: &str) -> Self {
        let [name, workload] = [name, workload].map(|text| Escaped(text.as_bytes()).to_string());
        Self::new(Kind::Conflict, format!("{name} is there because {workload} is"))
            .hint(format!("e2ek-sync stop --target {workload}"))
    }

    /// `stop --target` named a target that the first `watch` brought.
    #[must_use]
    pub fn target_of_the_first(name: &str) -> Self {
        let name = Escaped(name.as_bytes());
        let what = "belongs to the first watch, which serves all";
        Self::new(Kind::Conflict, format!("{name} {what}"))
            .hint("e2ek-sync stop, without --target, ends that and all that joined it")
    }
}
