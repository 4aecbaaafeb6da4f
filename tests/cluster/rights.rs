//! Rights that are missing, one after the other: each is told by its exact name.

use serde_json::json;

use crate::pods::deployment;
use crate::rig::{Rig, Said, until};
use crate::signin::word;

const TARGET: &str = "deploy/app:/srv/app";

/// Does what an error says that whoever may is to type.
fn give(rig: &Rig, said: &Said) {
    let all = format!("{}{}", said.out, said.err);
    let (_, line) = all.split_once("whoever may gives it: ").unwrap();
    let line = line.lines().next().unwrap().trim_end_matches(['"', '\'']);
    let path = format!("{}:/usr/bin:/bin", rig.cluster.join("bin").display());
    let mut shell = std::process::Command::new("sh");
    shell.args(["-ec", line]).env("PATH", path).env("KUBECONFIG", rig.cluster.join("kubeconfig"));
    Said::from(shell.output().unwrap()).ends_with(0);
}

#[test]
fn a_program_that_signs_in_is_asked_again_when_its_token_ends() {
    let Some(rig) = Rig::new("plugin") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    let [plugin, users, clusters, asked] =
        ["plugin", "users", "clusters", "asked"].map(|name| rig.home.join(name));
    // Its tokens end in ten seconds, and are not used in their last five.
    let script = format!(
        "#!/bin/sh\necho asked >> {}\n[ ! -e {} ] || {{ echo no >&2; exit 1; }}\n\
         ends=$(date -u -d '+10 seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
         echo '{{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\
         \"status\":{{\"token\":\"{}\",\"expirationTimestamp\":\"'$ends'\"}}}}'\n",
        asked.display(),
        rig.home.join("refuse").display(),
        word(&rig, "token"),
    );
    std::fs::write(&plugin, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&plugin, executable).unwrap();
    // Two files that make one, and a third that is not there.
    let user = json!({"apiVersion": "v1", "kind": "Config", "current-context": "two",
        "contexts": [{"name": "two", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never",
            "command": plugin.to_str().unwrap()}}}]});
    let cluster = json!({"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "c", "cluster": {
        "server": word(&rig, "server"),
        "certificate-authority": word(&rig, "certificate-authority")}}]});
    std::fs::write(&users, user.to_string()).unwrap();
    std::fs::write(&clusters, cluster.to_string()).unwrap();
    let list = format!("/not/there:{}:{}", users.display(), clusters.display());

    let mut command = rig.syncing(&["watch"], TARGET, &[]);
    command.env("KUBECONFIG", &list);
    let mut watch = rig.start(command);
    watch.line(&["sync end", "gen=1"]);
    let count = || std::fs::read_to_string(&asked).unwrap().lines().count();
    let before = count();
    // A new pod needs a new stream: by then the token has ended.
    until("the token is about to end", || {
        std::fs::metadata(&asked).unwrap().modified().unwrap().elapsed().unwrap().as_secs() > 5
    });
    rig.k(&["delete", "pod", &pod, "--wait=false"]).ends_with(0);
    watch.line(&["pod found"]);
    watch.line(&["sync end", "targets=1/1"]);
    assert!(count() > before, "it was asked again");
    watch.stop();

    std::fs::write(rig.home.join("refuse"), "").unwrap();
    let mut command = rig.syncing(&["sync", "--once"], TARGET, &[]);
    command.env("KUBECONFIG", &list);
    let mut refused = rig.start(command);
    refused.line(&["kind=forbidden", "signing in to the cluster failed", "kubectl get pods"]);
    assert_eq!(refused.wait(), Some(4));
}

fn as_dev(rig: &Rig, words: &[&str]) -> Said {
    let dev = rig.cluster.join("kubeconfig-dev");
    let (source, dev) = (rig.source.to_str().unwrap(), dev.to_str().unwrap());
    let more = [source, TARGET, "-n", rig.namespace.as_str(), "--kubeconfig", dev];
    rig.run(&[words, &more].concat())
}

/// A port that nobody has, below those that the kernel gives to connections (32768 and up).
pub(crate) fn free_port() -> u16 {
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (20_000..30_000).find(free).unwrap()
}

#[test]
fn i6_each_missing_right_is_told_by_its_name() {
    let Some(rig) = Rig::new("rights") else { return };
    rig.write("view.py", "one\n");
    rig.deploy(&deployment(1));
    let steps = [
        ("apps", "deployments", "get"),
        ("", "pods", "list"),
        ("", "pods", "watch"),
        ("", "pods/exec", "get"),
    ];
    for (group, resource, verb) in steps {
        let shown =
            if group.is_empty() { resource.to_string() } else { format!("{resource}.{group}") };
        let missing = format!("user dev may not {verb} {shown} in namespace {}", rig.namespace);
        let group = if group.is_empty() { "''" } else { group };
        let rule = format!("{{apiGroups: [{group}], resources: [{resource}], verbs: [{verb}]}}");
        let said = as_dev(&rig, &["watch"]).ends_with(4);
        give(&rig, &said.says_all(&[&missing, &rule, "kind=forbidden"]));
    }
    // Without the right to read logs it works, and says what is missing.
    let dev = rig.cluster.join("kubeconfig-dev");
    let mut watch = rig.watch(TARGET, &["--kubeconfig", dev.to_str().unwrap()]);
    watch.line(&["degraded", "user dev may not get pods/log", "resources: [pods/log]"]);
    watch.flush();
    watch.stop();
    as_dev(&rig, &["sync", "--once"]).ends_with(0);
    // Nor are ports forwarded without a right to that: it is said when one is asked for.
    let port = free_port();
    let more = ["--kubeconfig", dev.to_str().unwrap(), "--forward", &format!("{port}:80")];
    let mut watch = rig.watch(TARGET, &more);
    watch.line(&["connected"]);
    drop(std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
    watch.line(&[
        "degraded",
        "user dev may not get pods/portforward",
        "resources: [pods/portforward], verbs: [get]",
    ]);
    watch.stop();
}
