//! Measures what `watch` and its hub do when nothing happens.

use std::fs;
use std::time::Duration;

use crate::process::descendants;
use crate::session::{Link, Session};
use crate::table::Row;
use crate::usage::{CALM, used};
use crate::{Result, Settings, progress};

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place.join("idle");
    fs::create_dir(&place)?;
    progress("idle: first sync");
    let source = settings.large_source()?;
    let target = place.join("target");
    fs::create_dir(&target)?;
    let session =
        Session::start(settings, &place, &source.root, &target, Link::Local, source.files.len())?;
    std::thread::sleep(CALM);
    let seconds = if settings.short { 10 } else { 60 };
    progress(format_args!("idle: {seconds} s"));
    let daemon = session.daemon.pid();
    let mut processes = vec![("daemon", daemon)];
    processes.extend(descendants(daemon)?.into_iter().map(|pid| ("hub", pid)));
    let look = || processes.iter().map(|&(_, pid)| used(pid)).collect::<Result<Vec<_>>>();
    let before = look()?;
    std::thread::sleep(Duration::from_secs(seconds));
    let after = look()?;
    session.stop()?;
    for ((name, _), (before, after)) in processes.iter().zip(before.iter().zip(&after)) {
        let ticks = after.ticks - before.ticks;
        let (nanos, woken) = after.since(before);
        let row = Row::new(format!("idle {seconds} s, {} files, {name}", settings.large))
            .ours(format!("{ticks} ticks ({} us of CPU, {woken} wake-ups)", nanos / 1000));
        rows.push(row.reach("0 ticks", Some(ticks == 0)));
    }
    Ok(())
}
