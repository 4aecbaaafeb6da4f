//! Owns the words for what a cluster answers, and for pods that cannot be used.

use e2ek_sidecar::path::Escaped;
use e2ek_sidecar::wire::Refusal;

use super::{Error, Kind, shown};
use crate::cluster::{Bridge, ClusterError, Obstacle, SIDECAR};
use crate::config::Forward;

/// Where a pod with all that is needed can be copied from.
const EXAMPLE: &str = "examples/kubernetes/pyramid.yaml";
/// The same with the hub in the app's container.
const EXAMPLE_INSIDE: &str = "examples/kubernetes/pyramid-in-container.yaml";
/// How a container is its own hub.
const RUN_SERVE: &str = "e2ek-sidecar run --serve -- CMD";

fn escaped(text: &str) -> String {
    Escaped(text.as_bytes()).to_string()
}

/// A list of names, not too long.
fn listed(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(10).map(|name| escaped(name)).collect();
    let more = names.len().saturating_sub(shown.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &more
}

/// Why a pod is not served, in few words.
#[must_use]
pub fn why_pod_waits(obstacle: &Obstacle) -> String {
    match obstacle {
        Obstacle::Starting { reason } => escaped(reason),
        Obstacle::Stuck { container, reason, message } => {
            let container = container.as_ref().map(|name| format!("container {name}: "));
            let message = if message.is_empty() { String::new() } else { format!(": {message}") };
            escaped(&format!("{}{reason}{message}", container.unwrap_or_default()))
        }
        Obstacle::Ended { reason } => format!("it has ended: {}", escaped(reason)),
        Obstacle::NoHub => {
            format!("it has no container `{SIDECAR}`, and none whose command is `{RUN_SERVE}`")
        }
        Obstacle::HubElsewhere { wanted, containers } => {
            let (wanted, there) = (escaped(wanted), listed(containers));
            format!(
                "its container `{wanted}` has no hub: its command is not `{RUN_SERVE}`, as of {there}"
            )
        }
        Obstacle::NotShared => "its containers do not share their processes".to_owned(),
        Obstacle::Ambiguous { containers } => {
            format!("several containers could be meant: {}", listed(containers))
        }
        Obstacle::NoContainer { wanted, containers } => {
            format!("it has no container `{}`, but {}", escaped(wanted), listed(containers))
        }
    }
}

impl From<ClusterError> for Error {
    fn from(error: ClusterError) -> Self {
        use ClusterError as C;
        match error {
            C::NoKubeconfig { path } => {
                let message = format!("there is no kubeconfig at {}", shown(&path));
                Self::new(Kind::Usage, message)
                    .hint("name it: --kubeconfig FILE, or KUBECONFIG=FILE")
            }
            C::Kubeconfig { paths, why } => {
                let (paths, why) = (escaped(&paths), escaped(&why));
                Self::new(Kind::Usage, format!("the kubeconfig {paths} cannot be used: {why}"))
                    .hint("kubectl config view shows what kubectl makes of it")
            }
            C::NoContext { wanted, known } => Self::no_context(wanted.as_deref(), &known),
            C::Name { what, name } => {
                Self::new(Kind::Usage, format!("`{}` is not the name of a {what}", escaped(&name)))
            }
            C::SignIn { why } => {
                let message = format!("signing in to the cluster failed: {}", escaped(&why));
                Self::new(Kind::Forbidden, message)
                    .hint("the same program must work for: kubectl get pods")
            }
            C::Unreachable { server, why } => {
                // rustls's words for a certificate that is of another time.
                let untimely = ["not valid yet", "certificate expired"];
                let untimely = untimely.iter().any(|words| why.contains(words));
                let message = format!("{server} cannot be reached: {}", escaped(&why));
                Self::new(Kind::NotInSync, message)
                    .hint_if(untimely, "is this machine's clock right? date -u")
                    .hint("kubectl cluster-info")
            }
            C::Unauthorized { server } => {
                Self::new(Kind::Forbidden, format!("{server} does not accept who you are"))
                    .hint("sign in again: it must work for kubectl get pods")
            }
            C::Forbidden { verb, resource, namespace, user, message } => {
                Self::no_right(&verb, &resource, &namespace, user.as_deref(), &message)
            }
            C::NoWorkload { kind, name, namespace, no_namespace, known } => {
                Self::no_workload(kind, &name, &namespace, no_namespace, &known)
            }
            C::NoSuchPod { of, wanted, known } => {
                let (of, wanted) = (escaped(&of), escaped(&wanted));
                Self::new(Kind::NotFound, format!("no pod of {of} fits {wanted}"))
                    .hint(format!("it has: {}", listed(&known)))
            }
            C::Pod { pod, namespace, obstacle } => Self::pod_unusable(&pod, &namespace, &obstacle),
            C::Exec { pod, container, message } => {
                let (pod, message) = (escaped(&pod), escaped(&message));
                let what = format!("no stream into container {container} of pod {pod}: {message}");
                Self::new(Kind::NotInSync, what)
            }
            C::Missing { what, why } | C::Answer { what, why } => Self::new(
                Kind::Failure,
                format!("the cluster's answer on {what}: {}", escaped(&why)),
            ),
        }
    }
}

/// Who is given a right, as `kubectl create rolebinding` takes it.
fn subject(user: Option<&str>) -> String {
    let user = user.unwrap_or("NAME");
    let service = user.strip_prefix("system:serviceaccount:");
    let (flag, name) = service.map_or(("user", user), |name| ("serviceaccount", name));
    let name = escaped(name);
    format!("--{flag}={}", shlex::try_quote(&name).unwrap_or_default())
}

/// Clusters.
impl Error {
    fn no_context(wanted: Option<&str>, known: &[String]) -> Self {
        let error = match wanted {
            Some(name) => {
                Self::new(Kind::NotFound, format!("no context is named `{}`", escaped(name)))
            }
            None => Self::new(Kind::Usage, "the kubeconfig has no current context")
                .hint("choose one: --context NAME"),
        };
        match known {
            [] => error.hint("the kubeconfig has none"),
            known => error.hint(format!("the kubeconfig has: {}", listed(known))),
        }
    }

    fn no_right(
        verb: &str,
        resource: &str,
        namespace: &str,
        user: Option<&str>,
        message: &str,
    ) -> Self {
        let [verb, resource, namespace, message] =
            [verb, resource, namespace, message].map(escaped);
        let who = user.map_or("you".to_owned(), |user| format!("user {}", escaped(user)));
        let what = format!("{who} may not {verb} {resource} in namespace {namespace}");
        // A webhook or a policy has more to say than what right is missing.
        let plain = message.contains(" cannot ");
        let what = if plain { what } else { format!("{what}: {message}") };
        let (group, plain_resource) = match resource.split_once('.') {
            Some((resource, group)) => (group.to_owned(), resource.to_owned()),
            None => (String::new(), resource.clone()),
        };
        let group = if group.is_empty() { "''".to_owned() } else { group };
        let rule =
            format!("{{apiGroups: [{group}], resources: [{plain_resource}], verbs: [{verb}]}}");
        // One of each, or the second one would be said to exist already.
        let name = format!("e2ek-{verb}-{}", resource.replace(['/', '.'], "-"));
        let to = format!("kubectl -n {namespace} create");
        let role = format!("{to} role {name} --verb={verb} --resource={resource}");
        let binding = format!("{to} rolebinding {name} --role={name} {}", subject(user));
        Self::new(Kind::Forbidden, what)
            .hint(format!("the rule that is missing: {rule}"))
            .hint(format!("whoever may gives it: {role} && {binding}"))
    }

    fn no_workload(
        kind: &str,
        name: &str,
        namespace: &str,
        no_namespace: bool,
        known: &[String],
    ) -> Self {
        let [name, namespace] = [name, namespace].map(escaped);
        if no_namespace {
            return Self::new(Kind::NotFound, format!("there is no namespace {namespace}"))
                .hint("kubectl get namespaces lists them; choose one with -n NAME");
        }
        let what = format!("there is no {kind}/{name} in namespace {namespace}");
        let error = Self::new(Kind::NotFound, what);
        let error = match known {
            [] => error,
            known => error.hint(format!("there: {}", listed(known))),
        };
        error.hint("choose another namespace with -n NAME, another cluster with --context NAME")
    }

    fn pod_unusable(pod: &str, namespace: &str, obstacle: &Obstacle) -> Self {
        let [pod, namespace] = [pod, namespace].map(escaped);
        let kind = match obstacle {
            Obstacle::Ambiguous { .. }
            | Obstacle::NoContainer { .. }
            | Obstacle::HubElsewhere { .. } => Kind::NotFound,
            _ => Kind::Failure,
        };
        let error = Self::new(kind, format!("pod {pod}: {}", why_pod_waits(obstacle)));
        match obstacle {
            Obstacle::Starting { .. } | Obstacle::Ended { .. } => {
                error.hint(format!("kubectl -n {namespace} get pod {pod}"))
            }
            Obstacle::Stuck { container: Some(container), reason, .. }
                if reason == "CrashLoopBackOff" =>
            {
                let container = escaped(container);
                error
                    .hint(format!("kubectl -n {namespace} logs {pod} -c {container} --previous"))
                    .hint(format!("an app under `e2ek-sidecar run --` never gets there: {EXAMPLE}"))
            }
            Obstacle::Stuck { .. } => {
                error.hint(format!("kubectl -n {namespace} describe pod {pod}"))
            }
            Obstacle::NoHub => error
                .hint(format!("add the container `{SIDECAR}` to its template, as in {EXAMPLE}"))
                .hint(format!(
                    "or let the app's container be its own hub: command: [/e2ek/e2ek-sidecar, run, \
                     --serve, --, CMD...], as in {EXAMPLE_INSIDE}"
                )),
            Obstacle::NotShared => error
                .hint(format!("set shareProcessNamespace: true in its template, as in {EXAMPLE}")),
            Obstacle::Ambiguous { containers } => {
                let first = containers.first().map_or("NAME", String::as_str);
                error.hint(format!("choose one: -c {}", escaped(first)))
            }
            Obstacle::NoContainer { containers, .. }
            | Obstacle::HubElsewhere { containers, .. } => {
                let first = containers.first().map_or("NAME", String::as_str);
                error.hint(format!("choose one of them: -c {}", escaped(first)))
            }
        }
    }

    /// The hub of a pod says that the place there cannot be had.
    #[must_use]
    pub fn pod_refuses(target: &str, refusal: &Refusal) -> Self {
        let target = escaped(target);
        match refusal {
            Refusal::NotFound(path) if path.starts_with('/') => {
                let what = format!("{target}: {} is not there in the container", escaped(path));
                Self::new(Kind::NotFound, what)
                    .hint("make it in the image, or mount a volume there; or choose another path")
            }
            Refusal::NotFound(why) | Refusal::Unusable(why) => {
                Self::new(Kind::Failure, format!("{target}: {}", escaped(why)))
            }
            Refusal::Forbidden(what) => {
                let what = format!("{target}: not allowed into {}", escaped(what));
                Self::new(Kind::Forbidden, what).hint(format!(
                    "give the container `{SIDECAR}` the app's runAsUser and runAsGroup, as in {EXAMPLE}"
                ))
            }
            _ => Self::new(Kind::Failure, target),
        }
    }

    /// The bridge is not in the container that is called as if it were the hub's.
    #[must_use]
    pub fn no_bridge(target: &str, bridge: &Bridge, said: &str) -> Self {
        let [target, container, program, said] =
            [target, &bridge.container, bridge.program(), said].map(escaped);
        let what = format!("{target}: the container `{container}` has no {program}: {said}");
        let error = Self::new(Kind::Failure, what);
        match bridge.container == SIDECAR {
            true => error.hint(format!("its image must be the hub's, as in {EXAMPLE}")),
            false => error.hint(format!(
                "its command must name the program so that it is found without a shell, as in \
                 {EXAMPLE_INSIDE}"
            )),
        }
    }

    /// No version in common, and this program is the older end.
    #[must_use]
    pub fn with_older_program(self, theirs: &str) -> Self {
        self.hint(format!("this end is the older one: install version {} here", escaped(theirs)))
    }

    /// No version in common, and the hub of a pod is the older end.
    #[must_use]
    pub fn with_older_hub(self, bridge: &Bridge, namespace: &str, workload: &str) -> Self {
        let [container, program, namespace, workload] =
            [&bridge.container, bridge.program(), namespace, workload].map(escaped);
        let image = concat!("the hub's image of version ", env!("CARGO_PKG_VERSION"));
        self.hint(match container == SIDECAR {
            true => format!(
                "the hub is the older one: kubectl -n {namespace} set image {workload} \
                 {SIDECAR}=IMAGE, with {image}"
            ),
            false => format!(
                "the hub is the older one: what brings {program} into the pods of {workload} must \
                 have {image}"
            ),
        })
    }

    /// `--forward` without a workload.
    #[must_use]
    pub fn nothing_to_forward_to() -> Self {
        Self::new(Kind::Usage, "--forward needs a workload to lead to, and there is none")
            .hint("e2ek-sync watch . deploy/api:/srv/app --forward 8080:80")
    }

    /// The port of `--forward` cannot be listened to.
    #[must_use]
    pub fn port_taken(forward: Forward, error: &std::io::Error) -> Self {
        let (Forward { local, remote }, why) = (forward, super::reason(error));
        let taken = error.kind() == std::io::ErrorKind::AddrInUse;
        Self::new(Kind::Failure, format!("port {local} of this machine cannot be had: {why}"))
            .hint_if(
                taken,
                format!("another one: --forward {}:{remote}", local.wrapping_add(1).max(1024)),
            )
    }

    /// `restart` of a workload that has no pod now.
    #[must_use]
    pub fn no_pod(workload: &str) -> Self {
        let what = "has no pod that is served now; the next one starts with what was saved";
        Self::new(Kind::NotFound, format!("{} {what}", escaped(workload)))
    }

    /// `restart` of a container that has no wrapper.
    #[must_use]
    pub fn not_wrapped(target: &str) -> Self {
        let what = "its container has no wrapper, so there is nothing that could be restarted";
        Self::new(Kind::Usage, format!("{}: {what}", escaped(target))).hint(format!(
            "let the container start its command with e2ek-sidecar run --, as in {EXAMPLE}"
        ))
    }

    /// CMD for a target in a cluster.
    #[must_use]
    pub fn command_in_pod(target: &str, argv: &[&[u8]]) -> Self {
        let target = escaped(target);
        let words = argv.iter().map(|word| Escaped(word).to_string()).collect::<Vec<_>>();
        // As YAML takes it, and as lines show it unescaped.
        let quoted = words.iter().map(|word| format!(", '{}'", word.replace('\'', "''")));
        let quoted = quoted.collect::<String>();
        let what = "pods run the command that their manifest names, not one that is typed";
        Self::new(Kind::Usage, format!("a command for {target}: {what}"))
            .hint(format!(
                "leave out `-- {}`: under the wrapper the container's own command is restarted when \
                 its files change",
                words.join(" ")
            ))
            .hint(format!(
                "or let the container run it: command: ['/e2ek/e2ek-sidecar', 'run', '--'{quoted}], \
                 as in {EXAMPLE}"
            ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_for_a_pod_is_shown_where_it_belongs() {
        let error = Error::command_in_pod("deploy/api", &[b"sh", b"-c", b"echo 'a'"]);
        assert_eq!(error.kind.exit_code(), 2);
        assert!(error.hints[0].starts_with("leave out `-- sh -c echo 'a'`"), "{error:?}");
        let command = "['/e2ek/e2ek-sidecar', 'run', '--', 'sh', '-c', 'echo ''a''']";
        assert!(error.hints[1].contains(command), "{error:?}");
    }

    #[test]
    fn a_right_is_given_to_whoever_lacks_it() {
        assert_eq!(subject(Some("dev")), "--user=dev");
        assert_eq!(subject(Some("ann o'hara@x")), "--user=\"ann o'hara@x\"");
        assert_eq!(subject(Some("system:serviceaccount:web:ci")), "--serviceaccount=web:ci");
        assert_eq!(subject(None), "--user=NAME");
    }

    #[test]
    fn a_certificate_of_another_time_asks_for_the_clock() {
        let hints = |why: &str| {
            let server = "https://api".to_owned();
            let error = Error::from(ClusterError::Unreachable { server, why: why.to_owned() });
            error.hints.join("\n")
        };
        let early = "invalid peer certificate: certificate not valid yet: verification time 1";
        assert!(hints(early).contains("date -u"));
        assert!(!hints("connection refused").contains("date -u"));
    }
}
