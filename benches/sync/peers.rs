//! Measures the product and those whose place it would take at the same jobs, one after another.
//!
//! One at a time, for some of them poll: nothing else runs while one is measured. A save waits for
//! the one before, and then for a random time up to what that one took, so that whoever polls is met
//! at any moment of his round.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::figures::{Samples, between, millis, ms, ratio};
use crate::table::{Peer, Row};
use crate::tree::{Dice, Tree};
use crate::visible::Pair;
use crate::{Result, Settings, clock, complain, once, product, progress, storm};

mod start;

pub(crate) use start::{Way, describe};

const LOST: Duration = Duration::from_secs(60);
/// The least time between two saves.
const GAP: u64 = 20_000_000;
const WARM_UP: usize = 5;
/// Before a storm: longer than the whole seconds by which some tell a change.
const PAUSE: Duration = Duration::from_millis(2500);

/// What one of them took; empty where it is absent.
#[derive(Default)]
struct Found {
    initial: Option<i64>,
    saves: Samples,
    storms: Samples,
    failed: bool,
}

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    fs::create_dir(settings.place.join("peers"))?;
    let mut ways = vec![(None, Some(Way::Ours))];
    for peer in [Peer::Lsyncd, Peer::Unison, Peer::Mutagen] {
        ways.push((Some(peer), start::find(peer)));
    }
    let mut all = Vec::new();
    let mut failures = Vec::new();
    for (peer, way) in ways {
        let Some(way) = way else {
            all.push((peer, None));
            continue;
        };
        let mut found = Found::default();
        if let Err(error) = measure(settings, &way, &mut found) {
            let said = settings.place.join("peers").join(way.name()).join("said");
            let said = fs::read_to_string(said).unwrap_or_default();
            let last = said.trim_end().rsplit('\n').take(5).collect::<Vec<_>>().join(" <- ");
            let error = format!("{error}; said: {last}");
            complain(format_args!("peers: {way:?}: {error}"));
            found.failed = true;
            failures.push(format!("{way:?}: {error}"));
        }
        all.push((peer, Some(found)));
    }
    let rsync = rsync_initial(settings)?;
    rows.extend(rows_of(settings, &all, rsync));
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ").into()) }
}

fn rows_of(
    settings: &Settings,
    all: &[(Option<Peer>, Option<Found>)],
    rsync: Option<i64>,
) -> Vec<Row> {
    let files = settings.files;
    let row = |what: &str, cell: fn(&Found) -> (Option<i64>, String)| {
        let mut row = Row::new(format!("beside the peers: {what}, {files} files"));
        let mut ours = None;
        for (peer, found) in all {
            let (value, text) = match found {
                None => (None, "absent".to_owned()),
                Some(found) if found.failed => (None, "failed".to_owned()),
                Some(found) => cell(found),
            };
            row = match peer {
                Some(peer) => row.peer(*peer, text),
                None => row.ours(text),
            };
            ours = if peer.is_none() { value } else { ours };
        }
        (row, ours)
    };
    let (p50, _) = row("save -> visible, p50 (saves)", |found| {
        let p50 = found.saves.median();
        (p50, format!("{} ({})", ms(p50), found.saves.count()))
    });
    let (p99, _) = row("save -> visible, p99", |found| {
        let p99 = found.saves.percentile(99);
        (p99, ms(p99))
    });
    let count = storm::SAVES.min(files);
    let (storms, median) = row(&format!("{count} saves at once, median"), |found| {
        let median = found.storms.median();
        (median, ms(median))
    });
    let met = median.map(|median| median <= storm::REACH);
    let storms = storms.reach(format!("<= {} ms", millis(storm::REACH)), met);
    let (initial, ours) = row("start -> all there", |found| (found.initial, ms(found.initial)));
    let initial = initial.peer(Peer::Rsync, rsync.map_or("absent".into(), |took| ms(Some(took))));
    vec![p50, p99, storms, initial.ratio(ratio(ours, rsync))]
}

fn rsync_initial(settings: &Settings) -> Result<Option<i64>> {
    if !crate::machine::has("rsync") {
        return Ok(None);
    }
    let target = settings.place.join("peers/rsync");
    fs::create_dir(&target)?;
    let source = settings.source()?;
    rustix::fs::sync();
    product::time(&mut once::rsync(&source.root, &target)).map(Some)
}

fn measure(settings: &Settings, way: &Way, found: &mut Found) -> Result<()> {
    progress(format_args!("peers: {way:?}"));
    let place = settings.place.join(format!("peers/{}", way.name()));
    fs::create_dir(&place)?;
    let source = Tree::make(&place.join("source"), settings.files)?;
    let target = place.join("target");
    fs::create_dir(&target)?;
    rustix::fs::sync();
    let began = clock::now();
    let running = way.start(settings, &place, &source.root, &target)?;
    found.initial = Some(between(began, all_there(&source, &target)?));
    // Some see a tree before they watch it; what is saved meanwhile may wait for the next round.
    std::thread::sleep(Duration::from_secs(2));
    if let Some(path) = first_other(&source, &target) {
        return Err(format!("{} differs after the first sync", path.display()).into());
    }
    let mut pair = Pair::new(&source, &target)?;
    let mut dice = Dice(29);
    for _ in 0..WARM_UP {
        pair.save(LOST)?;
    }
    let (most, seconds) = if settings.short { (30, 5) } else { (200, 60) };
    let end = clock::now() + seconds * 1_000_000_000;
    while found.saves.count() < most && clock::now() < end {
        let took = pair.save(LOST)?;
        found.saves.push(took);
        let wait = dice.below(usize::try_from(took.max(1))?);
        clock::sleep_until(clock::now() + GAP + u64::try_from(wait)?);
    }
    for _ in 0..if settings.short { 2 } else { 5 } {
        std::thread::sleep(PAUSE);
        found.storms.push(pair.storm(storm::SAVES, LOST)?.0);
    }
    running.stop()
}

/// When the target had all files, as long as they are.
fn all_there(source: &Tree, target: &Path) -> Result<u64> {
    let limit = Duration::from_secs(120) + Duration::from_millis(2 * source.files.len() as u64);
    let end = clock::now() + u64::try_from(limit.as_nanos())?;
    let mut known = 0;
    while !source.present(target, &mut known) {
        if clock::now() > end {
            return Err(format!("{known} of {} files in {limit:?}", source.files.len()).into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(clock::now())
}

/// By content only: not all of them keep times.
fn first_other(source: &Tree, target: &Path) -> Option<PathBuf> {
    let same =
        |path: &&PathBuf| crate::visible::same_content(&source.root.join(path), &target.join(path));
    source.files.iter().find(|path| !same(path)).cloned()
}
