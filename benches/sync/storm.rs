//! Measures many saves at once: one process rewrites them as fast as it can.

use std::fs;
use std::time::Duration;

use crate::figures::{Samples, millis, ratio};
use crate::floor::{self, Floor};
use crate::session::{Link, Session};
use crate::table::Row;
use crate::tree::Tree;
use crate::visible::Pair;
use crate::{Result, Settings, progress};

/// Files saved at once.
pub(crate) const SAVES: usize = 1000;
/// From the first write to the last file at the target.
pub(crate) const REACH: i64 = 150_000_000;
/// Between two storms.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);
const LOST: Duration = Duration::from_secs(60);

/// What keeps a target equal; ended when dropped.
enum Keeper {
    Floor(Floor),
    Ours(Session),
}

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place.join("storm");
    fs::create_dir(&place)?;
    let mut subjects = vec![floor_pair(settings)?, ours(settings, Link::Local)?];
    if settings.product.sidecar.is_some() {
        subjects.push(ours(settings, Link::Transport)?);
    }
    let mut took = vec![Samples::default(); subjects.len()];
    let mut wrote = Samples::default();
    let rounds = if settings.short { 3 } else { 10 };
    // The first is for warming up.
    for round in 0..=rounds {
        progress(format_args!("storm: {round} of {rounds}"));
        for ((_, pair), took) in subjects.iter_mut().zip(&mut took) {
            std::thread::sleep(PAUSE);
            let (until_there, writing) = pair.storm(SAVES, LOST)?;
            if round > 0 {
                took.push(until_there);
                wrote.push(writing);
            }
        }
    }
    let count = SAVES.min(settings.files);
    for ((name, ours), floor) in
        ["", ", --transport-cmd"].into_iter().zip(&took[1..]).zip(std::iter::repeat(&took[0]))
    {
        let what = format!("{count} saves at once, {} files{name}", settings.files);
        let row = Row::new(format!("{what} (min / median / max of {rounds})"));
        let row = row.floor(floor.range()).ours(ours.range());
        let row = row.ratio(ratio(ours.median(), floor.median()));
        let met = ours.median().map(|median| median <= REACH);
        rows.push(row.reach(format!("<= {} ms", millis(REACH)), met));
    }
    rows.push(Row::new("of that, the writing itself").floor(wrote.range()));
    for (keeper, _) in subjects {
        match keeper {
            Keeper::Ours(session) => session.stop()?,
            Keeper::Floor(floor) => drop(floor),
        }
    }
    crate::overflow::run(settings, &place.join("overflow"), rows)
}

fn floor_pair(settings: &Settings) -> Result<(Keeper, Pair)> {
    let place = settings.place.join("storm/floor");
    fs::create_dir(&place)?;
    let source = Tree::make(&place.join("source"), settings.files)?;
    let target = Tree::make(&place.join("target"), settings.files)?;
    let (floor, said) = floor::start(&source, &target.root, &place.join("stage"))?;
    // Ends with the reader, which is killed when the pair is dropped.
    std::thread::spawn(move || floor::acknowledged(said, |_| {}));
    Ok((Keeper::Floor(floor), Pair::new(&source, &target.root)?))
}

fn ours(settings: &Settings, link: Link) -> Result<(Keeper, Pair)> {
    progress(format_args!("storm: tree and first sync, {link:?}"));
    let place = settings.place.join(format!("storm/{link:?}"));
    fs::create_dir(&place)?;
    let source = Tree::make(&place.join("source"), settings.files)?;
    let target = place.join("target");
    let session = Session::start(settings, &place, &source.root, &target, link, settings.files)?;
    if let Some(path) = source.differs(&target) {
        return Err(format!("{} differs after the first sync", path.display()).into());
    }
    Ok((Keeper::Ours(session), Pair::new(&source, &target)?))
}
