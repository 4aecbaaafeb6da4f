//! Measures `sync --once`: into an empty directory, and when nothing has changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::inotify::WatchFlags;

use crate::events::Events;
use crate::figures::{Samples, megabytes, millis, ratio};
use crate::product::time;
use crate::session::{Carried, Link, carried};
use crate::table::{Peer, Row};
use crate::tree::Tree;
use crate::{Result, Settings, clock, machine, progress};

/// Bytes that may cross the link when nothing has changed.
const NOTHING_BYTES: u64 = 1024;
/// So long without an event, and all were seen.
const QUIET: Duration = Duration::from_millis(300);

/// One way to copy a tree.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Ours(Link),
    Rsync,
    Cp,
}

/// Into an empty directory, each way in turn, all files' writes flushed before each.
pub(crate) fn initial(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place.join("initial");
    fs::create_dir(&place)?;
    initial_of(settings, &place, settings.source()?, rows)?;
    if settings.large != settings.files {
        initial_of(settings, &place, settings.large_source()?, rows)?;
    }
    Ok(())
}

fn initial_of(settings: &Settings, place: &Path, source: &Tree, rows: &mut Vec<Row>) -> Result<()> {
    let files = source.files.len();
    let rounds = if settings.short { 2 } else { 3 };
    let mut took: [Samples; 4] = Default::default();
    let ways = [
        (Way::Ours(Link::Local), true),
        (Way::Ours(Link::Transport), settings.product.sidecar.is_some()),
        (Way::Rsync, machine::has("rsync")),
        (Way::Cp, true),
    ];
    for round in 0..rounds {
        progress(format_args!("initial, {files} files: round {} of {rounds}", round + 1));
        for turn in 0..ways.len() {
            // Another one is first in each round.
            let index = (round + turn) % ways.len();
            let (way, present) = ways[index];
            if present {
                took[index].push(copy(settings, place, source, way)?);
            }
        }
    }
    let [ours, transport, rsync, cp] = took;
    let (best, peer) = (ours.min(), rsync.min());
    let reach = if files < 100_000 { 0.6 } else { 0.5 };
    let met = best.zip(peer).map(|(best, peer)| millis(best) <= reach * millis(peer));
    let size = format!("{files} files, {:.1} MB", megabytes(source.bytes));
    let row = Row::new(format!("initial sync, {size} (best / median / max of {rounds})"));
    let row = row.ours(ours.range()).peer(Peer::Rsync, or_absent(&rsync));
    rows.push(row.ratio(ratio(best, peer)).reach(format!("<= {reach}x rsync"), met));
    let far = transport.min();
    let met = best.zip(far).map(|(best, far)| millis(far) <= 1.5 * millis(best));
    let row = Row::new(format!("initial sync, {files} files, --transport-cmd"));
    let row = row.ours(transport.range()).ratio(ratio(far, best));
    rows.push(row.reach("<= 1.5x the local target", met));
    rows.push(Row::new(format!("cp -a of the {files} files, for information")).floor(cp.range()));
    Ok(())
}

fn copy(settings: &Settings, place: &Path, source: &Tree, way: Way) -> Result<i64> {
    let target = place.join("target");
    fs::create_dir(&target)?;
    let world = place.join("world");
    let mut command = match way {
        Way::Ours(link) => {
            let mut command = once(settings, &world, &source.root, &target)?;
            link.add(settings, &world, &mut command)?.ok_or("no e2ek-sidecar")?;
            command
        }
        Way::Rsync => rsync(&source.root, &target),
        Way::Cp => {
            let mut command = Command::new("cp");
            command.arg("-a").arg(source.root.join(".")).arg(&target);
            command
        }
    };
    rustix::fs::sync();
    let took = time(&mut command)?;
    if matches!(way, Way::Ours(_))
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
    unchanged(settings, &settings.place.join("nothing"), settings.source()?, rows)
}

/// The same with a large tree: nothing is in memory but what the start reads.
pub(crate) fn cold(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    unchanged(settings, &settings.place.join("cold"), settings.large_source()?, rows)
}

fn unchanged(settings: &Settings, place: &Path, source: &Tree, rows: &mut Vec<Row>) -> Result<()> {
    fs::create_dir(place)?;
    let files = source.files.len();
    progress(format_args!("nothing changed, {files} files: first syncs"));
    let SecondRun { opened, bytes } = second_run(settings, place, source)?;
    if let Some(carried) = bytes {
        let row = Row::new(format!("nothing changed, {files} files: bytes on the wire"));
        let row = row.ours(carried.to_string());
        let met = carried.sum() <= NOTHING_BYTES;
        rows.push(row.reach(format!("<= {NOTHING_BYTES}"), Some(met)));
    }
    let [source_opened, target_opened] = opened;
    let row = Row::new(format!("nothing changed, {files} files: files opened"))
        .ours(format!("{source_opened} (source), {target_opened} (target)"));
    rows.push(row.reach("0", Some(source_opened + target_opened == 0)));
    let (ours, rsync) = unchanged_times(settings, place, source)?;
    let row = Row::new(format!("nothing changed, {files} files: wall time (best / median / max)"));
    let row = row.ours(ours.range()).peer(Peer::Rsync, or_absent(&rsync));
    let row = row.ratio(ratio(ours.min(), rsync.min()));
    let both = ours.min().zip(rsync.min());
    let met = both.map(|(ours, rsync)| millis(ours) <= 0.4 * millis(rsync));
    // A start costs what it costs: below this size, that is most of it.
    rows.push(if files < 100_000 { row } else { row.reach("<= 0.4x rsync", met) });
    Ok(())
}

struct SecondRun {
    /// Opens of regular files, at the source and at the target.
    opened: [usize; 2],
    /// `None` where they cannot be counted.
    bytes: Option<Carried>,
}

fn second_run(settings: &Settings, place: &Path, source: &Tree) -> Result<SecondRun> {
    let world = place.join("counted");
    let target = world.join("target");
    fs::create_dir_all(&target)?;
    let can_count = settings.product.sidecar.is_some();
    let link = if can_count { Link::Counted } else { Link::Local };
    let run = || -> Result<i64> {
        let mut command = once(settings, &world, &source.root, &target)?;
        link.add(settings, &world, &mut command)?.ok_or("no e2ek-sidecar")?;
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
    let bytes = can_count.then(|| carried(&world)).transpose()?;
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

pub(crate) fn rsync(source: &Path, target: &Path) -> Command {
    let contents: [PathBuf; 2] = [source.join(""), target.join("")];
    let mut command = Command::new("rsync");
    command.arg("-a").args(contents);
    command
}

pub(crate) fn or_absent(samples: &Samples) -> String {
    if samples.count() == 0 { "absent".to_owned() } else { samples.range() }
}
