//! What the README shows: the demo in a pod that was prepared by hand.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::rig::{Rig, until};

const TARGET: &str = "deploy/pyramid:/srv/app";

/// The body of what the pod answers; `None` while it does not.
fn ask(address: &str, path: &str) -> Option<String> {
    ask_stream(TcpStream::connect((address, 8080)).ok()?, path)
}

fn ask_stream(mut stream: TcpStream, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: app\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some(body.trim().to_owned())
}

fn ask_at(port: u16, path: &str) -> Option<String> {
    ask_stream(TcpStream::connect(("127.0.0.1", port)).ok()?, path)
}

fn address(rig: &Rig) -> String {
    let path = "jsonpath={.items[0].status.podIP}";
    rig.k(&["get", "pods", "-l", "app=pyramid", "-o", path]).ends_with(0).out
}

/// The example's sources, to be changed.
fn copy_sources(rig: &Rig) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/pyramid");
    let copied = Command::new("cp").arg("-rT").arg(from).arg(&rig.source).status().unwrap();
    assert!(copied.success());
}

#[test]
fn the_demo_in_a_restricted_namespace_answers_with_what_was_saved_last() {
    let Some(rig) = Rig::at_level("example", "restricted") else { return };
    answers_with_what_was_saved_last(&rig, "pyramid.yaml");
}

#[test]
fn the_demo_that_is_its_own_hub_answers_with_what_was_saved_last() {
    let Some(rig) = Rig::at_level("example-inside", "restricted") else { return };
    answers_with_what_was_saved_last(&rig, "pyramid-in-container.yaml");
}

fn answers_with_what_was_saved_last(rig: &Rig, manifest: &str) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/kubernetes");
    let manifest = fs::read_to_string(examples.join(manifest)).unwrap();
    rig.apply(&manifest.replace("e2ek.test/e2ek-sidecar:dev", &crate::pod::image()));
    copy_sources(rig);
    // The pod is only on its way: it is waited for.
    let local = crate::rights::free_port();
    let mut watch = rig.watch(TARGET, &["--forward", &format!("{local}:8080")]);
    watch.line(&["sync end", "status=ok", "targets=1/1"]);
    rig.k(&["rollout", "status", "deploy/pyramid", "--timeout=120s"]).ends_with(0);
    let pod = address(rig);
    assert_eq!(ask(&pod, "/add/2/3").as_deref(), Some("5"));

    let view = rig.source.join("e2e_k8s/demo.py");
    let text = fs::read_to_string(&view).unwrap();
    fs::write(&view, text.replace("x + y", "x * y")).unwrap();
    watch.line(&["restart end", "status=ok"]);
    until("the new answer", || ask(&pod, "/add/2/3").as_deref() == Some("6"));
    assert_eq!(ask_at(local, "/add/2/4").as_deref(), Some("8"), "by the port that is forwarded");

    // The app's container is started anew: its file system is, too, and the hub fills it.
    let kill = "import os,signal; os.kill(int([p for p in os.listdir('/proc') if p.isdigit() and \
                open('/proc/'+p+'/cmdline').read().startswith('/e2ek/e2ek-sidecar\\0run')][0]), \
                signal.SIGTERM)";
    let name = rig.pods().remove(0);
    rig.k(&["exec", &name, "-c", "app", "--", "python3", "-c", kill]).ends_with(0);
    until("the container is another one", || {
        let restarts = "jsonpath={.items[0].status.containerStatuses[*].restartCount}";
        let said = rig.k(&["get", "pods", "-l", "app=pyramid", "-o", restarts]);
        said.out.split_whitespace().any(|count| count == "1")
    });
    // Asked while the app starts: the connection is kept until it answers.
    assert_eq!(ask_at(local, "/add/2/3").as_deref(), Some("6"));
    until("the answer is still the new one", || ask(&pod, "/add/2/3").as_deref() == Some("6"));
    watch.flush();
    assert_eq!(rig.pods(), [name], "in the same pod");
    watch.stop();
}
