//! Measures a link that is cut and made again: once in a while in a large tree, and very often.
//!
//! The daemon's way to the API server leads through a relay of this process, which ends all of its
//! connections at once. What the new link carries is counted by the kernel at the bridge's standard
//! streams in the pod (`rchar` and `wchar` of proc_pid_io(5)): the session's bytes, without those of TLS,
//! HTTP and frames. A program reads a little of /proc about itself as it starts; what a bridge to which
//! nobody speaks has read is taken off.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use crate::figures::{Carried, Samples, between, millis, ms};
use crate::node::Container;
use crate::product::{Daemon, Line};
use crate::relay::Relay;
use crate::rig::{Pod, until};
use crate::table::Row;
use crate::tree::Tree;
use crate::watching::{Way, is_connected, is_equal, quiet};
use crate::{Result, Settings, clock, progress};

const LOST: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_secs(1);
const REACH: i64 = 300_000_000;
const REACH_BYTES: u64 = 2048;
/// What all the reconnects in a row may take.
const IN_A_ROW: u64 = 300_000_000_000;

/// A daemon behind a relay, and the hub at the other end.
struct Cut {
    relay: Relay,
    daemon: Daemon,
    hub: Container,
}

/// In a tree of 100,000 files of which none changes.
pub(crate) fn large(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let name = "reconnect";
    let place = settings.place_of(name)?;
    let pod = settings.rig.deploy(name)?;
    progress(format_args!("reconnect: {} files, first sync", settings.large));
    let source = Tree::make(&place.join("source"), settings.large)?;
    let way = Way::new(settings, &place, &source.root, name);
    let mut cut = Cut::start(&way, &pod, settings.large)?;
    let silent = silent_bridge(&cut, settings, &pod)?;
    let rounds = if settings.short { 3 } else { 7 };
    let mut took = Samples::default();
    let mut carried: Vec<Carried> = Vec::new();
    for round in 0..rounds {
        progress(format_args!("reconnect: {} of {rounds}", round + 1));
        std::thread::sleep(CALM);
        cut.daemon.said();
        let before = cut.bridges()?;
        let began = clock::now();
        cut.relay.cut();
        let line = cut.daemon.wait_for("a link again", LOST, is_connected)?;
        took.push(between(began, line.at));
        if !is_equal(&line) {
            return Err(format!("not taken for equal: {}", line.text).into());
        }
        std::thread::sleep(CALM);
        let all = cut.carried(&before)?;
        carried.push(Carried { out: all.out.saturating_sub(silent), ..all });
    }
    let files = settings.large;
    let row = Row::new(format!(
        "reconnect, {files} files: cut -> equal (min / median / max of {rounds})"
    ));
    let met = took.median().map(|median| median <= REACH);
    rows.push(row.ours(took.range()).reach(format!("<= {} ms", millis(REACH)), met));
    carried.sort_by_key(|carried| carried.sum());
    let middle = carried.get(carried.len() / 2).copied().unwrap_or_default();
    let row = Row::new(format!("reconnect, {files} files: bytes of the session"))
        .ours(middle.to_string());
    rows.push(row.reach(format!("<= {REACH_BYTES}"), Some(middle.sum() <= REACH_BYTES)));
    cut.daemon.stop()?;
    settings.rig.remove(name)
}

/// One after the other, as soon as the one before is made.
pub(crate) fn in_a_row(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let name = "in-a-row";
    let place = settings.place_of(name)?;
    let pod = settings.rig.deploy(name)?;
    let source = Tree::make(&place.join("source"), 100)?;
    let way = Way::new(settings, &place, &source.root, name);
    let mut cut = Cut::start(&way, &pod, 100)?;
    let before = cut.left()?;
    let wanted = if settings.short { 100 } else { 1000 };
    let end = clock::now() + IN_A_ROW;
    let (mut made, mut again) = (0, 0);
    let mut took = Samples::default();
    let mut failed = None;
    while made < wanted && clock::now() < end {
        if made % 100 == 0 {
            progress(format_args!("in-a-row: {made} of {wanted}"));
        }
        let began = clock::now();
        cut.relay.cut();
        match cut.again(&mut again) {
            Ok(line) => took.push(between(began, line.at)),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
        made += 1;
    }
    let mut after = cut.left()?;
    // What is on its way out may take as long as a silent link lives.
    let settled = until("nothing is left", || {
        after = cut.left()?;
        Ok(after.is_within(&before))
    });
    way.flush()?;
    let row =
        Row::new(format!("{made} reconnects in a row: failures after retry (tries that failed)"));
    let failures = u32::from(failed.is_some());
    let row = row.ours(format!("{failures} ({again}); {} each", ms(took.median())));
    let met = failed.is_none() && made == wanted;
    rows.push(row.reach(format!("0 of {wanted}"), Some(met)));
    let row = Row::new("in a row: processes, descriptors and sockets of the hub's container");
    let row = row.ours(format!("{after} (before: {before})"));
    rows.push(row.reach("no more than before", Some(settled.is_ok())));
    if let Some(error) = failed {
        return Err(error);
    }
    cut.daemon.stop()?;
    settings.rig.remove(name)
}

/// What is there in the hub's container.
struct Left {
    processes: usize,
    descriptors: usize,
    sockets: usize,
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} / {} / {}", self.processes, self.descriptors, self.sockets)
    }
}

impl Left {
    fn is_within(&self, other: &Self) -> bool {
        self.processes <= other.processes
            && self.descriptors <= other.descriptors
            && self.sockets <= other.sockets
    }
}

impl Cut {
    fn start(way: &Way<'_>, pod: &Pod, files: usize) -> Result<Self> {
        let rig = &way.settings.rig;
        let relay = Relay::start();
        let daemon = way.watch_by(relay.kubeconfig(rig).as_ref(), files)?;
        quiet(&daemon, CALM);
        Ok(Self { relay, daemon, hub: rig.container(pod, "e2ek-sync")? })
    }

    /// All in the hub's container but the hub.
    fn bridges(&self) -> Result<Vec<u32>> {
        Ok(self.hub.processes()?.into_iter().filter(|&pid| pid != self.hub.main).collect())
    }

    /// What the bridge that was not there before has carried.
    fn carried(&self, before: &[u32]) -> Result<Carried> {
        let bridges = self.bridges()?;
        let new = bridges.iter().rfind(|pid| !before.contains(pid)).ok_or("no new bridge")?;
        carried(*new)
    }

    /// The line of the link that is made again; `tries` counts those that were not.
    fn again(&mut self, tries: &mut u32) -> Result<Line> {
        let gone = |line: &Line| line.text.starts_with("[e2ek] disconnected ");
        self.daemon.wait_for("the cut", LOST, gone)?;
        loop {
            let either = |line: &Line| gone(line) || is_connected(line);
            let line = self.daemon.wait_for("a link again", LOST, either)?;
            if is_connected(&line) {
                return Ok(line);
            }
            *tries += 1;
        }
    }

    fn left(&self) -> Result<Left> {
        let processes = self.hub.processes()?.len();
        let (mut descriptors, mut sockets) = (0, 0);
        for entry in fs::read_dir(format!("/proc/{}/fd", self.hub.main))? {
            descriptors += 1;
            let leads_to = fs::read_link(entry?.path()).unwrap_or_default();
            sockets += usize::from(leads_to.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        }
        Ok(Left { processes, descriptors, sockets })
    }
}

/// What a bridge has read before anybody spoke to it.
fn silent_bridge(cut: &Cut, settings: &Settings, pod: &Pod) -> Result<u64> {
    let before = cut.bridges()?;
    let mut kubectl = settings.rig.kubectl_command();
    kubectl.args(["exec", "-i", &pod.name, "-c", "e2ek-sync", "--", "/e2ek-sidecar", "connect"]);
    let mut child = kubectl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    // The hub's Hello has come: it is up.
    let mut hello = [0];
    let greeted = child.stdout.as_mut().ok_or("no stdout")?.read_exact(&mut hello);
    let found = greeted.map_err(Into::into).and_then(|()| cut.carried(&before));
    let _ = child.kill();
    child.wait()?;
    until("that bridge is gone", || Ok(cut.bridges()?.len() == before.len()))?;
    Ok(found?.out)
}

/// Bytes that a bridge read from the daemon and wrote to it.
fn carried(bridge: u32) -> Result<Carried> {
    let text = fs::read_to_string(format!("/proc/{bridge}/io"))?;
    let field = |name: &str| -> Result<u64> {
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(found.ok_or_else(|| format!("no {name} of {bridge}"))?.trim().parse()?)
    };
    Ok(Carried { out: field("rchar")?, back: field("wchar")? })
}
