//! Measures the sidecar itself: its image, its start, its memory, and what it does when nothing happens.

use std::path::PathBuf;
use std::time::Duration;

use crate::figures::{Samples, megabytes, millis};
use crate::node::{changed_at, started_at};
use crate::process::{forget_peak, memory};
use crate::rig::{Pod, image, until};
use crate::table::Row;
use crate::usage::{CALM, used};
use crate::watching::Way;
use crate::{Result, Settings, progress};

const NAME: &str = "sidecar";
/// The volume that holds the socket, in the kubelet's folder.
const STORE: &str = "volumes/kubernetes.io~empty-dir/store";
const REACH_IMAGE: u64 = 8 << 20;
const REACH_START: i64 = 100_000_000;
const REACH_IDLE: u64 = 16 << 20;
const REACH_BUSY: u64 = 48 << 20;
/// Both ends say something every five seconds: each wakes the hub once or twice.
const WAKES_A_HEARTBEAT: u64 = 4;

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let rig = &settings.rig;
    let place = settings.place_of(NAME)?;
    size(settings, rows)?;
    let alone = rig.deploy(&format!("{NAME}-alone"))?;
    let pod = rig.deploy(NAME)?;
    start(settings, &pod, rows)?;
    let hub = rig.container(&pod, "e2ek-sync")?;
    let empty = memory(hub.main)?.now;
    forget_peak(hub.main)?;
    progress("sidecar: first sync");
    let source = settings.source()?;
    let way = Way::new(settings, &place, &source.root, NAME);
    let daemon = way.watch(source.files.len())?;
    let busy = memory(hub.main)?.peak;
    std::thread::sleep(CALM);
    let seconds = if settings.short { 10 } else { 60 };
    progress(format_args!("sidecar: idle, {seconds} s"));
    let idle = memory(hub.main)?.now;
    let lonely = rig.container(&alone, "e2ek-sync")?;
    let look = || -> Result<_> { Ok([used(hub.main)?, used(lonely.main)?]) };
    let before = look()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let after = look()?;
    let mib = |bytes| format!("{:.1} MB", megabytes(bytes));
    let files = source.files.len();
    let row = Row::new(format!("sidecar: RSS, idle, after {files} files (before any)"));
    let row = row.ours(format!("{} ({})", mib(idle), mib(empty)));
    rows.push(row.reach(format!("<= {} MiB", REACH_IDLE >> 20), Some(idle <= REACH_IDLE)));
    let row = Row::new(format!("sidecar: VmHWM, first sync of {files} files")).ours(mib(busy));
    rows.push(row.reach(format!("<= {} MiB", REACH_BUSY >> 20), Some(busy <= REACH_BUSY)));
    // One heartbeat more may fall into the window than are in it on average.
    let most = [WAKES_A_HEARTBEAT * (seconds / 5 + 1), 0];
    for ((name, most), (before, after)) in
        ["with a daemon", "with none"].into_iter().zip(most).zip(before.iter().zip(&after))
    {
        let (nanos, woken) = after.since(before);
        let row = Row::new(format!("sidecar: idle {seconds} s {name}: wake-ups"));
        let row = row.ours(format!("{woken} ({} us of CPU)", nanos / 1000));
        let reach = if most == 0 { "0".to_owned() } else { format!("<= {most} (heartbeats)") };
        rows.push(row.reach(reach, Some(woken <= most)));
    }
    daemon.stop()?;
    rig.remove(&format!("{NAME}-alone"))?;
    rig.remove(NAME)
}

fn size(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let name = image();
    let listed = settings.rig.ctr(&["images", "ls", &format!("name=={name}")])?;
    // REF TYPE DIGEST SIZE UNIT PLATFORMS LABELS
    let line = listed.lines().find(|line| line.starts_with(&name)).ok_or("no such image")?;
    let mut words = line.split_ascii_whitespace().skip(3);
    let (number, unit) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let scale: f64 = match unit {
        "MiB" => 1_048_576.0,
        "KiB" => 1024.0,
        _ => return Err(format!("a size in {unit}: {line}").into()),
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small, positive")]
    let bytes = (number.parse::<f64>()? * scale) as u64;
    let row = Row::new("sidecar: image, as containerd has it").ours(format!("{number} {unit}"));
    rows.push(row.reach(format!("<= {} MiB", REACH_IMAGE >> 20), Some(bytes <= REACH_IMAGE)));
    Ok(())
}

/// From the hub's exec until its socket is there, each time after it was killed.
fn start(settings: &Settings, pod: &Pod, rows: &mut Vec<Row>) -> Result<()> {
    let store: PathBuf = settings.rig.cluster.join("kubelet/pods").join(&pod.uid).join(STORE);
    let socket = store.join("hub.sock");
    let mut took = Samples::default();
    let rounds = if settings.short { 2 } else { 5 };
    for round in 0..rounds {
        progress(format_args!("sidecar: start, {} of {rounds}", round + 1));
        let before = settings.rig.container_id(pod, "e2ek-sync")?;
        settings.rig.container(pod, "e2ek-sync")?.kill()?;
        until("the hub's next start", || {
            let id = settings.rig.container_id(pod, "e2ek-sync")?;
            Ok(id.is_some() && id != before)
        })?;
        let hub = settings.rig.container(pod, "e2ek-sync")?;
        let began = started_at(hub.main)?;
        until("the socket", || Ok(changed_at(&socket).is_ok_and(|at| at >= began)))?;
        took.push(changed_at(&socket)? - began);
    }
    let row =
        Row::new(format!("sidecar: exec -> socket, to 10 ms (min / median / max of {rounds})"));
    let met = took.median().map(|median| median <= REACH_START);
    rows.push(row.ours(took.range()).reach(format!("<= {} ms", millis(REACH_START)), met));
    Ok(())
}
