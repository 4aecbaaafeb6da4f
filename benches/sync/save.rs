//! Measures a save until it is applied at the target, and until it is acknowledged.
//!
//! The floor and the product have trees of their own and take turns in blocks, so that what else the
//! machine does hits all of them.

use std::path::Path;

use crate::figures::{Samples, millis, ms, ratio};
use crate::session::{Link, Session};
use crate::subject::{Subject, WARM_UP};
use crate::table::Row;
use crate::tree::{Dice, Tree};
use crate::{Result, Settings, progress};

/// What the median may take beyond the floor's.
const BEYOND: i64 = 250_000;

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    std::fs::create_dir(settings.place.join("save"))?;
    progress("save: trees for the floor");
    let mut subjects = vec![
        Ok(Subject::floor(&settings.place.join("save/floor"), settings.files)?),
        ours(settings, Link::Local),
    ];
    if settings.product.sidecar.is_some() {
        subjects.push(ours(settings, Link::Transport));
    }
    let (blocks, edits) = if settings.short { (3, 20) } else { (6, 50) };
    let mut dice = Dice(7);
    let mut number = 0;
    for block in 0..=blocks {
        progress(format_args!("save: block {block} of {blocks}"));
        for entry in &mut subjects {
            let Ok(subject) = entry else { continue };
            // Block 0 is for warming up.
            let count = if block == 0 { WARM_UP } else { edits };
            let done = subject.block(count, &mut dice, &mut number);
            if block == 0 {
                (subject.applied, subject.acked) = Default::default();
            }
            if let Err(error) = done {
                *entry = Err(error);
            }
        }
    }
    let mut subjects = subjects.into_iter();
    let floor = subjects.next().ok_or("the floor is the first")??;
    let mut failures = Vec::new();
    for (name, subject) in ["", ", --transport-cmd"].into_iter().zip(subjects) {
        match subject {
            Ok(subject) => {
                rows.extend(rows_of(settings, name, &floor, Some(&subject)));
                subject.stop()?;
            }
            Err(error) => {
                rows.extend(rows_of(settings, name, &floor, None));
                failures.push(error.to_string());
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ").into()) }
}

fn rows_of(settings: &Settings, name: &str, floor: &Subject, ours: Option<&Subject>) -> Vec<Row> {
    let files = settings.files;
    let count = floor.applied.count();
    let row = |what: &str, percent, from: fn(&Subject) -> &Samples| {
        let least = from(floor).percentile(percent);
        let got = ours.and_then(|ours| from(ours).percentile(percent));
        let row = Row::new(format!("save -> {what}, {files} files, {count} saves{name}"));
        let row = row.floor(ms(least)).ours(ms(got)).ratio(ratio(got, least));
        (row, least.zip(got))
    };
    let (p50, both) = row("applied, p50", 50, |subject| &subject.applied);
    let met = both.map(|(least, got)| got <= least + BEYOND);
    let p50 = p50.reach(format!("<= floor + {} ms", millis(BEYOND)), met);
    let (p99, both) = row("applied, p99", 99, |subject| &subject.applied);
    let p99 = p99.reach("<= 3x the floor", both.map(|(least, got)| got <= 3 * least));
    let (max, _) = row("applied, max", 100, |subject| &subject.applied);
    let (acked, _) = row("acknowledged, p50", 50, |subject| &subject.acked);
    let (acked_late, _) = row("acknowledged, p99", 99, |subject| &subject.acked);
    vec![p50, p99, max, acked, acked_late]
}

fn ours(settings: &Settings, link: Link) -> Result<Subject> {
    let place = settings.place.join(format!("save/{link:?}"));
    followed(settings, &place, settings.files, link)
}

/// A tree of its own and the product that follows it, with all that belongs to them in `place`.
pub(crate) fn followed(
    settings: &Settings,
    place: &Path,
    files: usize,
    link: Link,
) -> Result<Subject> {
    progress(format_args!("{files} files: tree and first sync, {link:?}"));
    std::fs::create_dir(place)?;
    let source = Tree::make(&place.join("source"), files)?;
    let target = place.join("target");
    let session = Session::start(settings, place, &source.root, &target, link, files)?;
    Subject::product(source, &target, session.daemon)
}
