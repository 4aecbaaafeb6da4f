//! Measures the product against the floor and its peers: `cargo bench --bench sync -- --help`.
//!
//! Prints one table and judges nothing: the exit code is 0 unless a job could not run. The program
//! is also every bare process that the measurements need (see [`role`]): it starts itself again
//! with a hidden first word.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

mod clock;
mod columns;
mod delta;
mod events;
mod figures;
mod floor;
mod git;
mod idle;
mod jobs;
mod machine;
mod memory;
mod once;
mod overflow;
mod peers;
mod process;
mod product;
mod relay;
mod rename;
mod restart;
mod save;
mod scale;
mod session;
mod storm;
mod subject;
mod table;
mod tree;
mod usage;
mod visible;

use jobs::{Arguments, Job, complain, progress, say};
use product::Product;
use tree::Tree;

/// What the jobs fail with; the text is shown as it is.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const HELP: &str = "\
Usage: cargo bench --bench sync -- [--short] [--only NAME] [--dir DIR] [--files N,...]

  --short      Fewer rounds and smaller trees, for CI: the figures are coarse
  --only NAME  One job [repeatable]: save, initial, nothing, idle, restart, storm, rename, delta,
               git, memory, peers, cold or scale; the last two are left out by --short unless named
  --dir DIR    Where the trees are made; its file system is what is measured
               [default: a directory below cargo's target directory]
  --files N,.. Files in the tree. The first is for most jobs, the last for those that ask for a
               large tree (git, memory, cold, idle; initial does both), all are for scale
               [default: 10000,100000, for scale 1000000 too; with --short 10000]

MUTAGEN=PROGRAM in the environment adds Mutagen to the job peers.
";

/// What every job is told.
struct Settings {
    short: bool,
    /// An existing directory that the jobs may fill; removed at the end.
    place: PathBuf,
    /// Files in the tree of most jobs.
    files: usize,
    /// Files in the tree of those that ask for a large one; the same where only one size was given.
    large: usize,
    /// Sizes to compare.
    sizes: Vec<usize>,
    product: Product,
    source: OnceLock<Tree>,
    large_source: OnceLock<Tree>,
}

impl Settings {
    /// The source of all jobs that do not measure saves, made when first asked for.
    fn source(&self) -> Result<&Tree> {
        made(&self.source, &self.place.join("source"), self.files)
    }

    /// The same with so many files as a large tree has.
    fn large_source(&self) -> Result<&Tree> {
        if self.large == self.files {
            return self.source();
        }
        made(&self.large_source, &self.place.join("large-source"), self.large)
    }
}

fn made<'a>(once: &'a OnceLock<Tree>, root: &Path, files: usize) -> Result<&'a Tree> {
    if once.get().is_none() {
        progress(format_args!("source tree, {files} files"));
        let _ = once.set(Tree::make(root, files)?);
    }
    once.get().ok_or_else(|| "it was just set".into())
}

const JOBS: [(&str, Job<Settings>); 13] = [
    ("save", save::run),
    ("initial", once::initial),
    ("nothing", once::nothing),
    ("idle", idle::run),
    ("restart", restart::run),
    ("storm", storm::run),
    ("rename", rename::run),
    ("delta", delta::run),
    ("git", git::run),
    ("memory", memory::run),
    ("peers", peers::run),
    ("cold", once::cold),
    ("scale", scale::run),
];

/// Those that `--short` leaves out unless they are named.
const LONG: [&str; 2] = ["cold", "scale"];

fn main() -> ExitCode {
    jobs::main(role, bench)
}

/// The bare processes: what a hidden first word makes of this program.
fn role(words: &[String]) -> Option<Result<()>> {
    let (first, rest) = words.split_first()?;
    Some(match first.as_str() {
        floor::READER => floor::reader(rest),
        floor::WRITER => floor::writer(rest),
        relay::ROLE => relay::carry(rest),
        restart::ROLE => restart::child(rest),
        _ => return None,
    })
}

fn bench(words: Vec<String>) -> Result<ExitCode> {
    let Some(Arguments { short, only, dir, files }) = Arguments::parse(words, &JOBS, HELP)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let typed = files.map(|text| sizes(&text)).transpose()?;
    std::fs::create_dir_all(&dir)?;
    let place = tempfile::Builder::new().prefix("bench-sync-").tempdir_in(&dir)?;
    let product = Product::find()?;
    let ours = format!("ours: {}", machine::version(&product.binary, "version"));
    let rsync = format!("rsync: {}", machine::version(Path::new("rsync"), "--version"));
    let versions = [ours, rsync].into_iter().chain(peers::describe()).collect();
    say(&machine::describe(place.path(), versions)?);
    let place_path = place.path().canonicalize()?;
    let settings = Settings {
        short,
        place: place_path,
        files: typed.as_ref().map_or(10_000, |sizes| sizes[0]),
        // One size for all where that was asked for, or `--short`.
        large: match &typed {
            Some(sizes) => sizes[sizes.len() - 1],
            None if short => 10_000,
            None => 100_000,
        },
        sizes: match typed {
            Some(sizes) => sizes,
            None if short => vec![10_000, 100_000],
            None => vec![10_000, 100_000, 1_000_000],
        },
        product,
        source: OnceLock::new(),
        large_source: OnceLock::new(),
    };
    let wanted = |name: &str| match only.is_empty() {
        true => !(short && LONG.contains(&name)),
        false => only.iter().any(|only| only == name),
    };
    let code = jobs::run(&settings, &settings.place, &JOBS, wanted)?;
    place.close()?;
    Ok(code)
}

/// What `--files` says: at least one number.
fn sizes(text: &str) -> Result<Vec<usize>> {
    let sizes: std::result::Result<Vec<usize>, _> = text.split(',').map(str::parse).collect();
    let sizes = sizes.map_err(|_| "--files: numbers, with commas between")?;
    if sizes.iter().any(|&files| files < 100) {
        return Err("--files: at least 100".into());
    }
    Ok(sizes)
}
