//! Measures one source with many pods: what they cost the daemon, and what a slow one costs the others.

use std::time::Duration;

use rustix::fs::inotify::WatchFlags;
use rustix::process::Signal;

use crate::events::Events;
use crate::figures::{Samples, between, millis, ms, ratio};
use crate::node::Directory;
use crate::product::Daemon;
use crate::rig::Pod;
use crate::subject::GAP;
use crate::table::Row;
use crate::tree::{Dice, Edit, Tree};
use crate::usage::used;
use crate::watching::{Way, quiet};
use crate::{Result, Settings, clock, progress};

const NAME: &str = "replicas";
/// Small: each pod gets all of it.
const FILES: usize = 1000;
const CALM: Duration = Duration::from_secs(2);
const LOST: u64 = 20_000_000_000;
/// What one more pod adds is its own stream: all pods by one pod.
const REACH: f64 = 1.5;
/// The others' median with one that is stopped, by that without.
const REACH_SLOW: f64 = 1.25;
/// Pods whose files are watched: three tell as much as all, and take less of the machine.
const WATCHED: usize = 3;

/// What the daemon used, in nanoseconds.
struct Cost {
    save: i64,
    bulk: i64,
}

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place_of(NAME)?;
    let many = if settings.short { 5 } else { 25 };
    let source = Tree::make(&place.join("source"), FILES)?;
    let way = Way::new(settings, &place, &source.root, NAME);
    progress("replicas: 1 pod");
    settings.rig.deploy(NAME)?;
    let mut number = 0;
    let daemon = settled(&way)?;
    let one = cost(&way, &daemon, &source, &mut number)?;
    daemon.stop()?;
    progress(format_args!("replicas: {many} pods"));
    let replicas = format!("--replicas={many}");
    settings.rig.k(&["scale", &format!("deploy/{NAME}"), &replicas])?;
    let pods = settings.rig.rolled_out(NAME, many)?;
    let daemon = settled(&way)?;
    let all = cost(&way, &daemon, &source, &mut number)?;
    for (what, one, all) in
        [("a save", one.save, all.save), ("1,000 files rewritten", one.bulk, all.bulk)]
    {
        let row =
            Row::new(format!("replicas: CPU time of the daemon, {what}, {many} pods (1 pod)"));
        let row = row.ours(format!("{} ({})", ms(Some(all)), ms(Some(one))));
        let met = millis(all) <= REACH * millis(one);
        let row = row.ratio(ratio(Some(all), Some(one)));
        rows.push(row.reach(format!("that of one: <= {REACH}x"), Some(met)));
    }
    slow(settings, &pods, &source, &mut number, rows)?;
    way.flush()?;
    daemon.stop()?;
    settings.rig.remove(NAME)
}

/// A `watch` after the first syncs of all pods.
fn settled(way: &Way<'_>) -> Result<Daemon> {
    let daemon = way.launch(&way.settings.rig.kubeconfig())?;
    crate::rig::until("the daemon answers", || Ok(way.flush().is_ok()))?;
    quiet(&daemon, CALM);
    Ok(daemon)
}

fn cost(way: &Way<'_>, daemon: &Daemon, source: &Tree, number: &mut u64) -> Result<Cost> {
    let used_by = |what: &mut dyn FnMut() -> Result<()>| -> Result<i64> {
        let before = used(daemon.pid())?;
        what()?;
        way.flush()?;
        Ok(used(daemon.pid())?.since(&before).0.cast_signed())
    };
    // What the question itself costs, which ends each.
    let nothing = used_by(&mut || Ok(()))?;
    let mut dice = Dice(23);
    let saves = 50;
    let save = used_by(&mut || {
        for _ in 0..saves {
            let path = &source.files[dice.below(source.files.len())];
            *number += 1;
            Edit::prepare(&source.root.join(path), *number)?.save()?;
            clock::sleep_until(clock::now() + GAP);
        }
        Ok(())
    })?;
    quiet(daemon, CALM);
    let bulk = used_by(&mut || {
        *number += 1;
        for path in &source.files {
            Edit::prepare(&source.root.join(path), *number)?.save()?;
        }
        Ok(())
    })?;
    quiet(daemon, CALM);
    Ok(Cost { save: (save - nothing) / saves, bulk: bulk - nothing })
}

/// The others' saves, without and with a pod whose hub stands still.
fn slow(
    settings: &Settings,
    pods: &[Pod],
    source: &Tree,
    number: &mut u64,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let (stopped, others) = pods.split_last().ok_or("no pods")?;
    let mut watched: Vec<(Directory, Events)> = Vec::new();
    for pod in others.iter().step_by(others.len().div_ceil(WATCHED).max(1)) {
        let eye = settings.rig.container(pod, "app")?.directory("/srv/app")?;
        let what = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
        let events = Events::watch(&source.at(&eye.path()), what)?;
        watched.push((eye, events));
    }
    let hub = settings.rig.container(stopped, "e2ek-sync")?;
    let (mut with, mut without) = (Samples::default(), Samples::default());
    let (blocks, saves) = if settings.short { (2, 30) } else { (4, 50) };
    for block in 0..blocks {
        progress(format_args!("replicas: a slow one, {} of {blocks}", block + 1));
        without.extend(arrivals(&watched, source, saves, number)?);
        hub.signal(Signal::STOP)?;
        let took = arrivals(&watched, source, saves, number);
        hub.signal(Signal::CONT)?;
        with.extend(took?);
        std::thread::sleep(CALM);
    }
    let row = Row::new(format!(
        "replicas: save -> visible in {} of {} pods, p50 (p99), one stopped (none)",
        watched.len(),
        pods.len()
    ));
    let text =
        |samples: &Samples| format!("{} ({})", ms(samples.median()), ms(samples.percentile(99)));
    let both = with.median().zip(without.median());
    let met = both.map(|(with, without)| millis(with) <= REACH_SLOW * millis(without));
    let row = row.ours(text(&with)).floor(text(&without));
    let row = row.ratio(ratio(with.median(), without.median()));
    rows.push(row.reach(format!("held back by nobody: <= {REACH_SLOW}x"), met));
    Ok(())
}

/// How long each of so many saves took to each pod that is watched.
fn arrivals(
    watched: &[(Directory, Events)],
    source: &Tree,
    saves: usize,
    number: &mut u64,
) -> Result<Vec<i64>> {
    let mut dice = Dice(*number);
    let mut took = Vec::new();
    watched.iter().for_each(|(_, events)| events.forget());
    for _ in 0..saves {
        let path = &source.files[dice.below(source.files.len())];
        *number += 1;
        let edit = Edit::prepare(&source.root.join(path), *number)?;
        clock::sleep_until(clock::now() + GAP);
        let moment = edit.save()?;
        for (_, events) in watched {
            loop {
                let seen = events.next(moment + LOST).ok_or("a save did not arrive")?;
                if seen.path == *path {
                    took.push(between(moment, seen.at));
                    break;
                }
            }
        }
    }
    Ok(took)
}
