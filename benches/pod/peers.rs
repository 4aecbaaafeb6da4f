//! Owns those whose place the product would take: commands that bring files into a container.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::rig::{Pod, Rig};
use crate::{Result, Settings};

/// `tar cf - WHAT | kubectl exec -i -- tar xf -`, WHAT being below `source`; returns when both ended.
pub(crate) fn tar(rig: &Rig, pod: &Pod, source: &Path, what: &Path, target: &str) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(source).arg("-cf").arg("-").arg(what).stdout(Stdio::piped());
    let mut tar = tar.stdin(Stdio::null()).spawn()?;
    let from_tar = tar.stdout.take().ok_or("no stdout")?;
    let mut kubectl = rig.kubectl_command();
    kubectl.args(["exec", "-i", &pod.name, "-c", "app", "--", "tar", "-C", target, "-xf", "-"]);
    let output = kubectl.stdin(from_tar).output()?;
    let read = tar.wait()?;
    if read.success() && output.status.success() {
        return Ok(());
    }
    Err(format!("tar: {read}, {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// `kubectl cp WHAT POD:TARGET`.
pub(crate) fn cp(rig: &Rig, pod: &Pod, what: &Path, target: &Path) -> Result<()> {
    let target = format!("{}:{}", pod.name, target.display());
    let mut kubectl = rig.kubectl_command();
    let output = kubectl.arg("cp").arg(what).arg(target).args(["-c", "app"]).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("kubectl cp: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// `kubectl exec -i -- cat >/dev/null` of a file; for those who would know the pipe without us. The shell
/// keeps standard output open (see `channel`).
pub(crate) fn pipe(rig: &Rig, pod: &Pod, container: &str, file: &Path) -> Result<()> {
    let mut kubectl = rig.kubectl_command();
    kubectl.args([
        "exec",
        "-i",
        &pod.name,
        "-c",
        container,
        "--",
        "sh",
        "-c",
        "cat >/dev/null; true",
    ]);
    let output = kubectl.stdin(std::fs::File::open(file)?).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("kubectl exec: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// A line each.
pub(crate) fn describe(settings: &Settings) -> Result<Vec<String>> {
    let version = settings.rig.k(&["version", "--client"])?;
    let kubectl = version.lines().next().unwrap_or("unknown").to_owned();
    let tar = crate::machine::version(Path::new("tar"), "--version");
    Ok(vec![
        format!("kubectl: {kubectl} (of the program that holds all of Kubernetes)"),
        format!("tar: {tar} here, busybox there"),
    ])
}
