//! Measures the renaming of a directory with many files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::WatchFlags;

use crate::events::Events;
use crate::figures::{Samples, between, millis};
use crate::session::{Link, Session};
use crate::table::Row;
use crate::tree::Tree;
use crate::{Result, Settings, clock, progress};

const FILES: usize = 5000;
const REACH: i64 = 20_000_000;
const REACH_BYTES: i64 = 1024;
const LOST: Duration = Duration::from_secs(60);

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    fs::create_dir(settings.place.join("rename"))?;
    let files = FILES.min(settings.files);
    for link in [Link::Local, Link::Counted] {
        if link == Link::Counted && settings.product.sidecar.is_none() {
            continue;
        }
        progress(format_args!("rename: tree and first sync, {link:?}"));
        let Rounds { took, bytes } = rounds(settings, link, files)?;
        let name = if link == Link::Local { "" } else { ", --transport-cmd" };
        let what = format!("directory of {files} files renamed{name}");
        let count = took.count();
        let row = Row::new(format!("{what} (min / median / max of {count})")).ours(took.range());
        let met = took.median().map(|median| median <= REACH);
        rows.push(row.reach(format!("<= {} ms", millis(REACH)), met));
        if link == Link::Counted {
            let row = Row::new(format!("{what}: bytes on the wire (median / max)"));
            let (median, max) = (bytes.median(), bytes.percentile(100));
            let text = |bytes: Option<i64>| bytes.unwrap_or_default().to_string();
            let row = row.ours(format!("{} / {}", text(median), text(max)));
            let met = median.map(|median| median <= REACH_BYTES);
            rows.push(row.reach(format!("<= {REACH_BYTES}"), met));
        }
    }
    Ok(())
}

#[derive(Default)]
struct Rounds {
    took: Samples,
    /// Out and back, where they are counted.
    bytes: Samples,
}

fn rounds(settings: &Settings, link: Link, files: usize) -> Result<Rounds> {
    let place = settings.place.join(format!("rename/{link:?}"));
    let (root, target) = (place.join("source"), place.join("target"));
    fs::create_dir_all(&root)?;
    let names = ["here", "there"];
    let tree = Tree::make(&root.join(names[0]), files)?;
    // What does not move.
    fs::write(root.join("beside"), "stays\n")?;
    let mut session = Session::start(settings, &place, &root, &target, link, files + 1)?;
    session.quiet()?;
    let mut rounds = Rounds::default();
    for round in 0..if settings.short { 4 } else { 10 } {
        let (from, to) = (names[round % 2], names[(round + 1) % 2]);
        let before = session.carried()?;
        let arrivals = Events::directories(&target, WatchFlags::CREATE | WatchFlags::MOVED_TO)?;
        let began = clock::now();
        fs::rename(root.join(from), root.join(to))?;
        let there = arrived(&arrivals, &tree.at(&root.join(to)), &target.join(to))?;
        rounds.took.push(between(began, there));
        session.acknowledged(LOST)?;
        if let Some(path) = tree.at(&root.join(to)).differs(&target.join(to)) {
            return Err(format!("{} differs after the renaming", path.display()).into());
        }
        if target.join(from).exists() {
            return Err(format!("{from} is still at the target").into());
        }
        rounds.bytes.push(session.carried()?.since(before).sum().cast_signed());
    }
    session.stop()?;
    Ok(rounds)
}

/// When all files are below `target`: the moment of the directory's own event if it came whole.
fn arrived(arrivals: &Events, tree: &Tree, target: &Path) -> Result<u64> {
    let deadline = clock::now() + u64::try_from(LOST.as_nanos())?;
    let name = PathBuf::from(target.file_name().ok_or("a directory has a name")?);
    let at = loop {
        let Some(seen) = arrivals.next(deadline) else {
            return Err("the renamed directory does not come".into());
        };
        if seen.path == name {
            break seen.at;
        }
    };
    let mut known = 0;
    if tree.present(target, &mut known) {
        return Ok(at);
    }
    while clock::now() < deadline {
        if tree.present(target, &mut known) {
            return Ok(clock::now());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Err(format!("{known} of {} files came", tree.files.len()).into())
}
