//! Measures a branch switch: from the end of `git checkout` until the target has the other branch.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::figures::{Samples, between, megabytes, ms, ratio};
use crate::product::time;
use crate::session::{Carried, Link, Session};
use crate::table::{Peer, Row};
use crate::tree::{Dice, Tree, change_lines};
use crate::visible::Pair;
use crate::{Result, Settings, clock, machine, once, progress};

/// Files in the tree with `--short`.
const SHORT: usize = 5000;
/// Of 100 files, so many differ between the branches.
const PERCENT: usize = 6;
const REACH: i64 = 500_000_000;
const REACH_BYTES: u64 = 1_200_000;
const LOST: Duration = Duration::from_secs(120);
const BRANCHES: [&str; 2] = ["main", "other"];

/// A repository with two branches; the first is checked out.
struct Repository {
    tree: Tree,
    /// Of the paths that differ, what the second branch holds.
    bytes: u64,
    changed: Vec<PathBuf>,
}

pub(crate) fn run(settings: &Settings, rows: &mut Vec<Row>) -> Result<()> {
    let place = settings.place.join("git");
    fs::create_dir(&place)?;
    if !machine::has("git") {
        rows.push(Row::new("git checkout").ours("absent: no git"));
        return Ok(());
    }
    let files = if settings.short { settings.large.min(SHORT) } else { settings.large };
    progress(format_args!("git: repository of {files} files"));
    let repository = Repository::make(&place.join("source"), files)?;
    let timed = switches(settings, &place, &repository, Link::Local)?;
    let (count, size) = (repository.changed.len(), megabytes(repository.bytes));
    let what = format!("git checkout of {count} of {files} files ({size:.1} MB)");
    let rounds = timed.git.count();
    rows.push(
        Row::new(format!("{what}: git itself (min / median / max of {rounds})"))
            .floor(timed.git.range()),
    );
    let row = Row::new(format!("{what}: from git's end until all is there"));
    let row = row.floor("0 ms").ours(timed.after.range());
    let row = row.peer(Peer::Rsync, once::or_absent(&timed.rsync));
    let row = row.ratio(ratio(timed.after.median(), timed.rsync.median()));
    let most = timed.git.median().map(|git| REACH.max(git / 2));
    let met = timed.after.median().zip(most).map(|(after, most)| after <= most);
    rows.push(row.reach(format!("<= {}", ms(most)), met));
    if settings.product.sidecar.is_none() {
        return Ok(());
    }
    let counted = switches(settings, &place, &repository, Link::Counted)?;
    let row = Row::new(format!("{what}: the same, --transport-cmd")).ours(counted.after.range());
    let (far, near) = (counted.after.median(), timed.after.median());
    rows.push(row.ratio(ratio(far, near)));
    let [first, second, ..] = counted.carried[..] else { return Err("two switches".into()) };
    let row = Row::new(format!("{what}: bytes on the wire")).ours(first.to_string());
    let row = row.reach(format!("<= {REACH_BYTES}"), Some(first.sum() <= REACH_BYTES));
    rows.push(row);
    rows.push(Row::new(format!("{what}: bytes of the switch back")).ours(second.to_string()));
    Ok(())
}

#[derive(Default)]
struct Switches {
    git: Samples,
    after: Samples,
    rsync: Samples,
    carried: Vec<Carried>,
}

fn switches(
    settings: &Settings,
    place: &Path,
    repository: &Repository,
    link: Link,
) -> Result<Switches> {
    let root = &repository.tree.root;
    progress(format_args!("git: first syncs, {link:?}"));
    let world = place.join(format!("{link:?}"));
    let (target, by_rsync) = (world.join("target"), world.join("rsync"));
    let count = repository.tree.files.len();
    let mut session = Session::start(settings, &world, root, &target, link, count)?;
    session.quiet()?;
    if let Some(path) = repository.tree.differs(&target) {
        return Err(format!("{} differs after the first sync", path.display()).into());
    }
    let rsync = link == Link::Local && machine::has("rsync");
    if rsync {
        fs::create_dir(&by_rsync)?;
        time(&mut copy(root, &by_rsync))?;
    }
    let pair = Pair::new(&repository.tree, &target)?;
    let mut found = Switches::default();
    // An even count: the first branch is checked out at the end.
    for round in 0..if settings.short || link == Link::Counted { 2 } else { 6 } {
        let branch = BRANCHES[(round + 1) % 2];
        progress(format_args!("git: checkout {branch}, {link:?}"));
        let before = session.carried()?;
        pair.forget();
        found.git.push(time(git(root).args(["checkout", "--quiet", branch]))?);
        let ended = clock::now();
        let there = pair.arrived(&repository.changed, LOST)?;
        found.after.push(between(ended, there).max(0));
        session.acknowledged(LOST)?;
        found.carried.push(session.carried()?.since(before));
        if rsync {
            found.rsync.push(time(&mut copy(root, &by_rsync))?);
        }
    }
    session.stop()?;
    Ok(found)
}

/// What leaves out what the product leaves out, and deletes what git deleted.
fn copy(source: &Path, target: &Path) -> Command {
    let mut command = once::rsync(source, target);
    command.args(["--delete", "--exclude=/.git"]);
    command
}

impl Repository {
    /// Of the files that differ, 8 of 10 have other lines (one to three), one is new, one is gone.
    fn make(root: &Path, files: usize) -> Result<Self> {
        let mut tree = Tree::make(root, files)?;
        let run = |words: &[&str]| time(git(root).args(words));
        run(&["init", "--quiet", "--initial-branch", BRANCHES[0]])?;
        run(&["add", "--all"])?;
        run(&["commit", "--quiet", "--message", "one"])?;
        run(&["checkout", "--quiet", "-b", BRANCHES[1]])?;
        let mut dice = Dice(11);
        let wanted = files * PERCENT / 100;
        let mut touched = BTreeSet::new();
        while touched.len() < wanted {
            touched.insert(dice.below(files));
        }
        let (mut changed, mut bytes) = (Vec::new(), 0);
        for (number, index) in touched.into_iter().enumerate() {
            let mut path = tree.files[index].clone();
            let mut content = fs::read(root.join(&path))?;
            change_lines(&mut content, &mut dice, 1 + number % 3);
            match number % 10 {
                0 => fs::remove_file(root.join(&path))?,
                // What belongs to one branch only is no file of the tree.
                1 => {
                    path.set_extension("new");
                    fs::write(root.join(&path), &content)?;
                }
                _ => fs::write(root.join(&path), &content)?,
            }
            bytes += if number % 10 == 0 { 0 } else { content.len() as u64 };
            changed.push(path);
        }
        run(&["add", "--all"])?;
        run(&["commit", "--quiet", "--message", "other"])?;
        run(&["checkout", "--quiet", BRANCHES[0]])?;
        tree.bytes = 0;
        Ok(Self { tree, bytes, changed })
    }
}

/// Git with no settings but ours.
fn git(root: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .args(["-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"])
        .current_dir(root)
        .env("HOME", root)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1");
    command
}
