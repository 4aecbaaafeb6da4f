//! Measures a save until it is visible in the container.
//!
//! What it is made of is measured in the same run, in turns: an echo through the same channel, and the
//! local floor. The peers bring each save by a command that is started for it.

use std::path::Path;
use std::time::Duration;

use crate::channel::Far;
use crate::figures::{Samples, millis, ms, ratio};
use crate::rig::{Pod, Rig};
use crate::subject::{GAP, Subject, WARM_UP};
use crate::table::{Peer, Row};
use crate::tree::{Dice, Tree};
use crate::visible::Pair;
use crate::watching::Way;
use crate::{Result, Settings, peers, progress};

const NAME: &str = "save";
const LOST: Duration = Duration::from_secs(30);
/// The median by the sum of those of echo and floor, the 99th of 100 by the sum of theirs.
const REACH: [i64; 2] = [2, 3];
/// How far ahead of tar over exec.
const AHEAD: f64 = 50.0;

/// The peers' samples.
#[derive(Default)]
struct Beside {
    tar: Samples,
    cp: Samples,
}

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place_of(NAME)?;
    progress("save: the pod, and trees for the floor");
    let rig = &settings.rig;
    let pod = rig.deploy(NAME)?;
    let far = Far::start(rig)?;
    let mut floor = Subject::floor(&place.join("floor"), settings.files)?;
    progress("save: first sync");
    let source = Tree::make(&place.join("source"), settings.files)?;
    let root = source.root.clone();
    let way = Way::new(settings, &place, &root, NAME);
    let daemon = way.watch(settings.files)?;
    let app = rig.container(&pod, "app")?;
    let eye = app.directory("/srv/app")?;
    let mut ours = Subject::product(source, &eye.path(), daemon)?;
    progress("save: trees for the peers");
    let other = Tree::make(&place.join("peers"), settings.files)?;
    let (tar, cp) = (pair(rig, &pod, &other, "/srv/tar")?, pair(rig, &pod, &other, "/srv/cp")?);
    let (mut tar, mut cp) = (tar, cp);
    let mut echo = far.echo()?;
    let mut echoes = Samples::default();
    let mut beside = Beside::default();
    let (blocks, edits, others) = if settings.short { (3, 50, 3) } else { (6, 100, 8) };
    let (mut dice, mut number) = (Dice(7), 0);
    for block in 0..=blocks {
        progress(format_args!("save: block {block} of {blocks}"));
        // Block 0 is for warming up.
        let (count, others) = if block == 0 { (WARM_UP, 1) } else { (edits, others) };
        floor.block(count, &mut dice, &mut number)?;
        echo.block(count, GAP, &mut echoes)?;
        ours.block(count, &mut dice, &mut number)?;
        for _ in 0..others {
            beside.tar.push(
                tar.pair
                    .save_by(LOST, |path| peers::tar(rig, &pod, &other.root, path, tar.target))?,
            );
            beside.cp.push(cp.pair.save_by(LOST, |path| {
                peers::cp(rig, &pod, &other.root.join(path), &Path::new(cp.target).join(path))
            })?);
        }
        if block == 0 {
            for subject in [&mut floor, &mut ours] {
                (subject.applied, subject.acked) = Default::default();
            }
            echoes = Samples::default();
            beside = Beside::default();
        }
    }
    rows.extend(rows_of(settings, (&echoes, &floor), &ours, &beside));
    drop(echo);
    ours.stop()?;
    far.remove(rig)?;
    rig.remove(NAME)
}

/// A target that a peer was to fill.
struct Filled {
    target: &'static str,
    pair: Pair,
    _eye: crate::node::Directory,
}

fn pair(rig: &Rig, pod: &Pod, source: &Tree, target: &'static str) -> Result<Filled> {
    rig.make_directory(pod, target)?;
    peers::tar(rig, pod, &source.root, Path::new("."), target)?;
    let eye = rig.container(pod, "app")?.directory(target)?;
    Ok(Filled { target, pair: Pair::new(source, &eye.path())?, _eye: eye })
}

fn rows_of(
    settings: &Settings,
    (echoes, floor): (&Samples, &Subject),
    ours: &Subject,
    beside: &Beside,
) -> Vec<Row> {
    let (files, count) = (settings.files, ours.applied.count());
    let at = |percent: usize, name: &str, from: fn(&Subject) -> &Samples| {
        let parts = echoes.percentile(percent).zip(from(floor).percentile(percent));
        let least = parts.map(|(echo, floor)| echo + floor);
        let got = from(ours).percentile(percent);
        let row = Row::new(format!("save -> {name}, {files} files, {count} saves"));
        let parts = parts.map(|(echo, floor)| {
            format!("{} (echo {} + floor {})", ms(least), ms(Some(echo)), ms(Some(floor)))
        });
        let row = row.floor(parts.unwrap_or_default()).ours(ms(got)).ratio(ratio(got, least));
        (row, least.zip(got))
    };
    let judged = |percent, name: &str, times: i64| {
        let (row, both) = at(percent, name, |subject| &subject.applied);
        let met = both.map(|(least, got)| got <= times * least);
        let row = row.peer(Peer::Tar, ms(beside.tar.percentile(percent)));
        let row = row.peer(Peer::Cp, ms(beside.cp.percentile(percent)));
        let row = row.peer(Peer::DevSpace, "absent");
        row.reach(format!("<= {times}x (echo + floor)"), met)
    };
    let p50 = judged(50, "visible, p50", REACH[0]);
    let p99 = judged(99, "visible, p99", REACH[1]);
    let (max, _) = at(100, "visible, max", |subject| &subject.applied);
    let (acked, _) = at(50, "acknowledged, p50", |subject| &subject.acked);
    let (acked_late, _) = at(99, "acknowledged, p99", |subject| &subject.acked);
    let (tar, got) = (beside.tar.median(), ours.applied.median());
    let met = tar.zip(got).map(|(tar, got)| millis(tar) >= AHEAD * millis(got));
    let ahead = Row::new(format!("tar over exec by ours, p50, {} saves", beside.tar.count()))
        .ratio(ratio(tar, got))
        .reach(format!(">= {AHEAD}x"), met);
    vec![p50, p99, max, acked, acked_late, ahead]
}
