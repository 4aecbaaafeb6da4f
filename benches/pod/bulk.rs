//! Measures what comes at once: a tree of 10,000 files into an empty directory, and one large file.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::channel::Far;
use crate::figures::{Samples, between, megabytes, millis, ratio};
use crate::product::time;
use crate::rig::Pod;
use crate::table::{Peer, Row};
use crate::tree::{Dice, Tree, noise};
use crate::watching::Way;
use crate::{Result, Settings, clock, peers, progress};

const NAME: &str = "bulk";
const MIB: usize = 1 << 20;
const BIG_MIB: usize = 256;
const BIG: &str = "big.bin";
/// Ours by tar over exec.
const REACH_FILES: f64 = 0.7;
/// Our rate by the pipe's.
const REACH_PIPE: f64 = 0.8;

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Ours,
    Tar,
    Cp,
    /// The bare channel.
    Channel,
    /// `kubectl exec -i -- cat`.
    Pipe,
}

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place_of(NAME)?;
    let pod = settings.rig.deploy(NAME)?;
    let source = settings.source()?;
    let rounds = if settings.short { 2 } else { 3 };
    let mut took: [Samples; 3] = Default::default();
    for round in 0..rounds {
        progress(format_args!("bulk: {} files, {} of {rounds}", settings.files, round + 1));
        for turn in 0..took.len() {
            // Another one is first in each round.
            let index = (round + turn) % took.len();
            let by = [By::Ours, By::Tar, By::Cp][index];
            took[index].push(bring(settings, &pod, &place, source, by, round)?);
        }
    }
    let [ours, tar, cp] = took;
    let size = format!("{} files, {:.1} MB", settings.files, megabytes(source.bytes));
    let row = Row::new(format!("bulk: {size} into an empty directory (best / median / max)"));
    let row = row.ours(ours.range()).peer(Peer::Tar, tar.range()).peer(Peer::Cp, cp.range());
    let row = row.peer(Peer::DevSpace, "absent");
    let both = ours.min().zip(tar.min());
    let met = both.map(|(ours, tar)| millis(ours) <= REACH_FILES * millis(tar));
    let row = row.ratio(ratio(ours.min(), tar.min()));
    rows.push(row.reach(format!("<= {REACH_FILES}x tar over exec"), met));
    settings.rig.remove(NAME)
}

/// Brings the tree into a directory that was empty before: from the start of the program to its end.
fn bring(
    settings: &Settings,
    pod: &Pod,
    place: &Path,
    source: &Tree,
    by: By,
    round: usize,
) -> Result<i64> {
    let rig = &settings.rig;
    let target = format!("/srv/{by:?}{round}").to_lowercase();
    if by != By::Cp {
        rig.make_directory(pod, &target)?;
    }
    rustix::fs::sync();
    let began = clock::now();
    let took = match by {
        By::Ours => once(settings, &place.join(format!("world{round}")), &source.root, &target)?,
        By::Tar => {
            peers::tar(rig, pod, &source.root, Path::new("."), &target)?;
            between(began, clock::now())
        }
        _ => {
            // It makes the directory: into one that is there it would put another.
            peers::cp(rig, pod, &source.root, Path::new(&target))?;
            between(began, clock::now())
        }
    };
    let there = rig.container(pod, "app")?.directory(&target)?;
    let different = match by {
        By::Ours => source.differs(&there.path()),
        // The others keep whole seconds of the times.
        _ => (!source.present(&there.path(), &mut 0)).then(|| "something".into()),
    };
    match different {
        None => Ok(took),
        Some(path) => Err(format!("{by:?}: {} differs", path.display()).into()),
    }
}

fn once(settings: &Settings, world: &Path, source: &Path, target: &str) -> Result<i64> {
    let target = format!("deploy/{NAME}:{target}");
    let way = Way { settings, place: world, source, target };
    time(&mut way.once()?)
}

/// One file of random bytes, by each way in turn, and the bare channels.
pub(crate) fn large(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place_of("large")?;
    let pod = settings.rig.deploy(NAME)?;
    let far = Far::start(&settings.rig)?;
    let source = place.join("source");
    fs::create_dir(&source)?;
    fill(&source.join(BIG), BIG_MIB * MIB)?;
    let rounds = if settings.short { 1 } else { 3 };
    let all = [By::Channel, By::Ours, By::Tar, By::Cp, By::Pipe];
    let mut took: [Samples; 5] = Default::default();
    for round in 0..rounds {
        progress(format_args!("large: {BIG_MIB} MiB, {} of {rounds}", round + 1));
        for turn in 0..all.len() {
            let index = (round + turn) % all.len();
            let world = place.join(format!("world{round}"));
            took[index].push(bring_large(settings, (&pod, &far), &source, &world, all[index])?);
        }
    }
    let [channel, ours, tar, cp, pipe] = took;
    let row = Row::new(format!("one file of {BIG_MIB} MiB, best (floor: the bare channel)"));
    let row = row.floor(rate(channel.min())).ours(rate(ours.min()));
    let row = row.peer(Peer::Tar, rate(tar.min())).peer(Peer::Cp, rate(cp.min()));
    let row = row.peer(Peer::DevSpace, "absent");
    let both = ours.min().zip(channel.min());
    let met = both.map(|(ours, channel)| millis(channel) >= REACH_PIPE * millis(ours));
    let row = row.ratio(ratio(channel.min(), ours.min()));
    rows.push(row.reach(format!(">= {REACH_PIPE}x the bare channel's rate"), met));
    let row = Row::new("the same bytes by `kubectl exec -i -- cat`, for information");
    rows.push(row.floor(rate(pipe.min())));
    far.remove(&settings.rig)?;
    settings.rig.remove(NAME)
}

/// From the start of the program to its end; of the bare channel, from its first byte.
fn bring_large(
    settings: &Settings,
    (pod, far): (&Pod, &Far),
    source: &Path,
    world: &Path,
    by: By,
) -> Result<i64> {
    let rig = &settings.rig;
    let target = format!("/srv/large-{by:?}").to_lowercase();
    rig.make_directory(pod, &target)?;
    rustix::fs::sync();
    let file = source.join(BIG);
    let began = clock::now();
    let took = match by {
        By::Ours => Some(once(settings, world, source, &target)?),
        By::Channel => return far.pour(BIG_MIB * MIB),
        By::Tar => peers::tar(rig, pod, source, Path::new(BIG), &target).map(|()| None)?,
        By::Cp => peers::cp(rig, pod, &file, &Path::new(&target).join(BIG)).map(|()| None)?,
        By::Pipe => peers::pipe(rig, &Far::pod(), "e2ek-sync", &file).map(|()| None)?,
    };
    let took = took.unwrap_or_else(|| between(began, clock::now()));
    if by == By::Pipe {
        return Ok(took);
    }
    let directory = rig.container(pod, "app")?.directory(&target)?;
    let there = directory.path().join(BIG);
    let length = fs::metadata(&there).map(|meta| meta.len()).ok();
    if length != Some((BIG_MIB * MIB) as u64) {
        return Err(format!("{by:?}: the file is not there, {length:?}").into());
    }
    fs::remove_file(there)?;
    Ok(took)
}

fn rate(nanos: Option<i64>) -> String {
    let Some(nanos) = nanos.filter(|&nanos| nanos > 0) else { return "-".to_owned() };
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = BIG_MIB as f64 * 1000.0 / millis(nanos);
    format!("{rate:.0} MiB/s ({:.2} s)", millis(nanos) / 1000.0)
}

fn fill(path: &Path, bytes: usize) -> Result<()> {
    let mut file = File::create_new(path)?;
    let mut dice = Dice(17);
    for _ in 0..bytes / MIB {
        file.write_all(&noise(&mut dice, MIB))?;
    }
    Ok(())
}
