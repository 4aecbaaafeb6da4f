//! Measures `sync --once`: into an empty directory, and when nothing has changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::inotify::WatchFlags;

use crate::events::Events;
use crate::figures::{Samples, millis, ratio};
use crate::product::time;
use crate::table::Row;
use crate::tree::Tree;
use crate::{Result, Settings, clock, machine, progress, relay};

/// Bytes that may cross the link when nothing has changed.
const NOTHING_BYTES: u64 = 1024;
/// So long without an event, and all were seen.
const QUIET: Duration = Duration::from_millis(300);

/// One way to copy a tree.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Ours,
    Rsync,
    Cp,
}

/// Into an empty directory, each way in turn, all files' writes flushed before each.
pub(crate) fn initial(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place.join("initial");
    fs::create_dir(&place)?;
    let source = settings.source()?;
    let rounds = if settings.short { 2 } else { 3 };
    let mut took = [Samples::default(), Samples::default(), Samples::default()];
    let ways = [(Way::Ours, true), (Way::Rsync, machine::has("rsync")), (Way::Cp, true)];
    for round in 0..rounds {
        progress(format_args!("initial: round {} of {rounds}", round + 1));
        for turn in 0..ways.len() {
            // Another one is first in each round.
            let index = (round + turn) % ways.len();
            let (way, present) = ways[index];
            if present {
                took[index].push(copy(settings, &place, source, way)?);
            }
        }
    }
    let [ours, rsync, cp] = took;
    let (best, peer) = (ours.min(), rsync.min());
    let met = best.zip(peer).map(|(best, peer)| millis(best) <= 0.8 * millis(peer));
    let size = format!("{} files, {:.1} MB", settings.files, megabytes(source.bytes));
    let row = Row::new(format!("initial sync, {size} (best / median / max of {rounds})"));
    let row = row.ours(ours.range()).peer(or_absent(&rsync)).ratio(ratio(best, peer));
    let also = Row::new("the same by cp -a, for information").peer(cp.range());
    rows.extend([row.reach("<= 0.8x rsync", met), also]);
    Ok(())
}

fn copy(settings: &Settings, place: &Path, source: &Tree, way: Way) -> Result<i64> {
    let target = place.join("target");
    fs::create_dir(&target)?;
    let world = place.join("world");
    let mut command = match way {
        Way::Ours => once(settings, &world, &source.root, &target)?,
        Way::Rsync => rsync(&source.root, &target),
        Way::Cp => {
            let mut command = Command::new("cp");
            command.arg("-a").arg(source.root.join(".")).arg(&target);
            command
        }
    };
    rustix::fs::sync();
    let took = time(&mut command)?;
    if way == Way::Ours
        && let Some(path) = source.differs(&target)
    {
        return Err(format!("{} differs after sync --once", path.display()).into());
    }
    fs::remove_dir_all(&target)?;
    if world.exists() {
        fs::remove_dir_all(&world)?;
    }
    Ok(took)
}

/// The second run over equal trees: bytes on the wire, files opened, wall time.
pub(crate) fn nothing(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place.join("nothing");
    fs::create_dir(&place)?;
    progress("nothing: first syncs");
    let source = settings.source()?;
    let SecondRun { opened, bytes } = second_run(settings, &place, source)?;
    let files = settings.files;
    if let Some((to_hub, from_hub)) = bytes {
        let row = Row::new(format!("nothing changed, {files} files: bytes on the wire"));
        let row = row.ours(format!("{} ({to_hub} out, {from_hub} back)", to_hub + from_hub));
        let met = to_hub + from_hub <= NOTHING_BYTES;
        rows.push(row.reach(format!("<= {NOTHING_BYTES}"), Some(met)));
    }
    let [source_opened, target_opened] = opened;
    let row = Row::new(format!("nothing changed, {files} files: files opened"))
        .ours(format!("{source_opened} (source), {target_opened} (target)"));
    rows.push(row.reach("0", Some(source_opened + target_opened == 0)));
    let (ours, rsync) = unchanged_times(settings, &place, source)?;
    let row = Row::new(format!("nothing changed, {files} files: wall time (best / median / max)"));
    let row = row.ours(ours.range()).peer(or_absent(&rsync)).ratio(ratio(ours.min(), rsync.min()));
    rows.push(row);
    Ok(())
}

struct SecondRun {
    /// Opens of regular files, at the source and at the target.
    opened: [usize; 2],
    /// To the hub and from it; `None` where they cannot be counted.
    bytes: Option<(u64, u64)>,
}

fn second_run(settings: &Settings, place: &Path, source: &Tree) -> Result<SecondRun> {
    let world = place.join("counted");
    let target = world.join("target");
    fs::create_dir_all(&target)?;
    let counts = world.join("counts");
    let program = std::env::current_exe()?;
    let relay = [program.as_path(), Path::new(relay::ROLE), counts.as_path()];
    let transport = settings.product.transport(&world, &relay);
    let run = || -> Result<i64> {
        let mut command = once(settings, &world, &source.root, &target)?;
        if let Some(transport) = &transport {
            command.arg("--transport-cmd").arg(transport);
        }
        time(&mut command)
    };
    run()?;
    if let Some(path) = source.differs(&target) {
        return Err(format!("{} differs after the first sync", path.display()).into());
    }
    let here = Events::watch(source, WatchFlags::OPEN)?;
    let there = Events::watch(&source.at(&target), WatchFlags::OPEN)?;
    run()?;
    let opened = [count(&here), count(&there)];
    let bytes = transport.is_some().then(|| relay::counted(&counts)).transpose()?;
    Ok(SecondRun { opened, bytes })
}

fn count(events: &Events) -> usize {
    let quiet = u64::try_from(QUIET.as_nanos()).expect("a short time");
    std::iter::from_fn(|| events.next(clock::now() + quiet)).count()
}

fn unchanged_times(settings: &Settings, place: &Path, source: &Tree) -> Result<(Samples, Samples)> {
    let world = place.join("timed");
    let (ours_target, rsync_target) = (world.join("ours"), world.join("rsync"));
    for target in [&ours_target, &rsync_target] {
        fs::create_dir_all(target)?;
    }
    let has_rsync = machine::has("rsync");
    let (mut ours, mut rsynced) = (Samples::default(), Samples::default());
    let rounds = if settings.short { 3 } else { 5 };
    // The first round fills the targets.
    for round in 0..=rounds {
        let time_ours = time(&mut once(settings, &world, &source.root, &ours_target)?)?;
        let time_rsync = has_rsync.then(|| time(&mut rsync(&source.root, &rsync_target)));
        if round > 0 {
            ours.push(time_ours);
            rsynced.extend(time_rsync.transpose()?);
        }
    }
    Ok((ours, rsynced))
}

fn once(settings: &Settings, world: &Path, source: &Path, target: &Path) -> Result<Command> {
    let mut command = settings.product.command(world)?;
    command.args(["sync", "--once"]).args([source, target]);
    Ok(command)
}

fn rsync(source: &Path, target: &Path) -> Command {
    let contents: [PathBuf; 2] = [source.join(""), target.join("")];
    let mut command = Command::new("rsync");
    command.arg("-a").args(contents);
    command
}

fn or_absent(samples: &Samples) -> String {
    if samples.count() == 0 { "absent".to_owned() } else { samples.range() }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
