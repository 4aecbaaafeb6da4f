//! Measures saves in trees of several sizes: what a save costs must not depend on the size.
//!
//! All of them are followed at once and take turns in blocks, so that what else the machine does
//! hits all.

use std::fs;

use crate::figures::{millis, ms, ratio};
use crate::save::followed;
use crate::session::Link;
use crate::subject::WARM_UP;
use crate::table::Row;
use crate::tree::Dice;
use crate::{Result, Settings, progress};

/// The median of a larger tree by that of the first.
const REACH: f64 = 1.2;

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place.join("scale");
    fs::create_dir(&place)?;
    let subject =
        |&files: &usize| followed(settings, &place.join(files.to_string()), files, Link::Local);
    let mut subjects = settings.sizes.iter().map(subject).collect::<Result<Vec<_>>>()?;
    let (blocks, edits) = if settings.short { (3, 20) } else { (6, 50) };
    let mut dice = Dice(7);
    let mut number = 0;
    for block in 0..=blocks {
        progress(format_args!("scale: block {block} of {blocks}"));
        for subject in &mut subjects {
            subject.block(if block == 0 { WARM_UP } else { edits }, &mut dice, &mut number)?;
            if block == 0 {
                (subject.applied, subject.acked) = Default::default();
            }
        }
    }
    let first = subjects.first().and_then(|subject| subject.applied.median());
    for (index, (subject, files)) in subjects.into_iter().zip(&settings.sizes).enumerate() {
        let (p50, p99) = (subject.applied.median(), subject.applied.percentile(99));
        let row = Row::new(format!("save -> applied, p50 (p99), by size: {files} files"));
        let row = row.ours(format!("{} ({})", ms(p50), ms(p99))).ratio(ratio(p50, first));
        let met = p50.zip(first).map(|(p50, first)| millis(p50) <= REACH * millis(first));
        let reach = format!("<= {REACH}x that at {} files", settings.sizes[0]);
        rows.push(if index == 0 { row } else { row.reach(reach, met) });
        subject.stop()?;
    }
    Ok(())
}
