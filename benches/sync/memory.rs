//! Measures the resident memory of the daemon and its hub after a first sync.

use std::fs;
use std::time::Duration;

use crate::figures::megabytes;
use crate::process::memory;
use crate::session::{Link, Session};
use crate::table::Row;
use crate::usage::CALM;
use crate::{Result, Settings, progress};

/// Millions of bytes: up to 100,000 files, and above.
const DAEMON: [u64; 2] = [40, 160];
const HUB: [u64; 2] = [25, 110];

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place.join("memory");
    fs::create_dir(&place)?;
    let source = settings.large_source()?;
    let files = source.files.len();
    progress(format_args!("memory: first sync of {files} files"));
    let target = place.join("target");
    let session = Session::start(settings, &place, &source.root, &target, Link::Local, files)?;
    session.quiet()?;
    std::thread::sleep(if settings.short { Duration::from_secs(2) } else { CALM });
    for (name, pid) in session.processes()? {
        let used = memory(pid)?;
        let reach = if name == "hub" { HUB } else { DAEMON };
        let reach = reach[usize::from(files > 100_000)];
        let (now, peak) = (megabytes(used.now), megabytes(used.peak));
        let row = Row::new(format!("memory after the first sync, {files} files, {name}"));
        let row = row.ours(format!("{now:.1} MB (VmHWM {peak:.1} MB)"));
        rows.push(row.reach(format!("<= {reach} MB"), Some(used.now <= reach * 1_000_000)));
    }
    session.stop()
}
