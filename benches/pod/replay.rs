//! Measures how files come back: into a container that is started anew, and into a new pod.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::figures::{Samples, between, millis};
use crate::node::{changed_at, started_at};
use crate::product::Line;
use crate::rig::{Pod, until};
use crate::table::Row;
use crate::tree::Tree;
use crate::visible::same_content;
use crate::watching::{Way, quiet};
use crate::{Result, Settings, clock, progress};

const NAME: &str = "replay";
const LOST: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_secs(1);
const REACH_FIRST: i64 = 2_000_000_000;
const REACH_POD: i64 = 5_000_000_000;

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place_of(NAME)?;
    let pod = settings.rig.deploy(NAME)?;
    let source = settings.source()?;
    let way = Way::new(settings, &place, &source.root, NAME);
    progress("replay: first sync");
    let daemon = way.watch(source.files.len())?;
    quiet(&daemon, CALM);
    daemon.stop()?;
    let rounds = if settings.short { 2 } else { 5 };
    let (mut first, mut all) = (Samples::default(), Samples::default());
    for round in 0..rounds {
        progress(format_args!("replay: {} of {rounds}", round + 1));
        let (one, last) = restarted(settings, &pod, source)?;
        first.push(one);
        all.push(last);
    }
    let files = source.files.len();
    let row = Row::new(format!(
        "replay: new process -> first file of {files} (min / median / max of {rounds})"
    ));
    let met = first.percentile(100).map(|worst| worst <= REACH_FIRST);
    rows.push(row.ours(first.range()).reach(format!("<= {} ms", millis(REACH_FIRST)), met));
    let row = Row::new(format!("replay: new process -> all {files} files, nobody connected"));
    rows.push(row.ours(all.range()));
    replaced(settings, &way, source, rows)?;
    settings.rig.remove(NAME)
}

/// Kills the app, and tells how long after the start of its next process the first file was there, and
/// the last. Looks at the files' own times, so that nothing is disturbed meanwhile.
fn restarted(settings: &Settings, pod: &Pod, source: &Tree) -> Result<(i64, i64)> {
    let rig = &settings.rig;
    let before = rig.container_id(pod, "app")?;
    rig.container(pod, "app")?.kill()?;
    until("the app's next start", || {
        let id = rig.container_id(pod, "app")?;
        Ok(id.is_some() && id != before)
    })?;
    let app = rig.container(pod, "app")?;
    let began = started_at(app.main)?;
    let mut root = None;
    until("the directory", || {
        root = app.directory("/srv/app").ok();
        Ok(root.is_some())
    })?;
    let root = root.ok_or("it was just there")?;
    let mut known = 0;
    until("all files again", || Ok(source.present(&root.path(), &mut known)))?;
    let (mut first, mut last) = (i64::MAX, i64::MIN);
    for path in &source.files {
        let there = root.path().join(path);
        if !same_content(&source.root.join(path), &there) {
            return Err(format!("{} is another one after the restart", path.display()).into());
        }
        let at = changed_at(&there)? - began;
        (first, last) = (first.min(at), last.max(at));
    }
    Ok((first, last))
}

/// Deletes the pod while a daemon runs: from the moment that the next one is ready.
fn replaced(settings: &Settings, way: &Way<'_>, source: &Tree, rows: &mut Vec<Row>) -> Result<()> {
    let rig = &settings.rig;
    let mut daemon = way.launch(&rig.kubeconfig())?;
    daemon.wait_for("a link", LOST, crate::watching::is_connected)?;
    quiet(&daemon, CALM);
    let mut took = Samples::default();
    let rounds = if settings.short { 1 } else { 3 };
    for round in 0..rounds {
        progress(format_args!("replay: a new pod, {} of {rounds}", round + 1));
        let old = rig.pods(NAME)?.pop().ok_or("no pod")?;
        let mut ready = Ready::follow(settings)?;
        rig.k(&["delete", "pod", &old.name, "--wait=false"])?;
        let found = |line: &Line| line.text.starts_with("[e2ek] pod found ");
        daemon.wait_for("the new pod", LOST, found)?;
        let began = ready.next(&old.name)?;
        let done = wait_all(&mut daemon, source.files.len())?;
        took.push(between(began, done));
        let pod = rig.rolled_out(NAME, 1)?.pop().ok_or("no pod")?;
        let root = rig.container(&pod, "app")?.directory("/srv/app")?;
        if let Some(path) = source.differs(&root.path()) {
            return Err(format!("{} differs in the new pod", path.display()).into());
        }
    }
    let row = Row::new(format!(
        "a new pod: ready -> all {} files acknowledged (min / median / max of {rounds})",
        source.files.len()
    ));
    let met = took.percentile(100).map(|worst| worst <= REACH_POD);
    rows.push(row.ours(took.range()).reach(format!("<= {} ms", millis(REACH_POD)), met));
    daemon.stop()
}

/// When so many files were acknowledged.
fn wait_all(daemon: &mut crate::product::Daemon, files: usize) -> Result<u64> {
    let mut brought = 0;
    loop {
        let ok = |line: &Line| line.value("sync end", "status") == Some("ok");
        let line = daemon.wait_for("the new pod's files", LOST, ok)?;
        brought += line.value("sync end", "files").unwrap_or("0").parse::<usize>()?;
        if brought >= files {
            return Ok(line.at);
        }
    }
}

/// Tells when a pod becomes ready, by the API server's own watch.
struct Ready {
    kubectl: Child,
    lines: std::sync::mpsc::Receiver<(u64, String)>,
}

impl Ready {
    fn follow(settings: &Settings) -> Result<Self> {
        let mut command = settings.rig.kubectl_command();
        let columns =
            "jsonpath={.metadata.name} {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}";
        command.args(["get", "pods", "-w", "-l", &format!("app={NAME}"), "-o", columns]);
        let mut kubectl = command.stdout(Stdio::piped()).spawn()?;
        let output = kubectl.stdout.take().ok_or("no stdout")?;
        let (sender, lines) = std::sync::mpsc::channel();
        // Ends with kubectl.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                if sender.send((clock::now(), line)).is_err() {
                    return;
                }
            }
        });
        let this = Self { kubectl, lines };
        // It watches once it has listed.
        this.lines.recv_timeout(LOST)?;
        Ok(this)
    }

    /// When a pod other than this one was ready.
    fn next(&mut self, old: &str) -> Result<u64> {
        loop {
            let (at, line) = self.lines.recv_timeout(LOST)?;
            if line.ends_with(" True") && !line.starts_with(old) {
                return Ok(at);
            }
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}
