//! Measures the product against the floor and its peers: `cargo bench --bench sync -- --help`.
//!
//! Prints one table and judges nothing: the exit code is 0 unless a job could not run. The program
//! is also every bare process that the measurements need (see [`role`]): it starts itself again
//! with a hidden first word.

use std::fmt::Display;
use std::io::Write;
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

use product::Product;
use table::Row;
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

/// What was typed.
struct Arguments {
    short: bool,
    only: Vec<String>,
    dir: PathBuf,
    files: Vec<usize>,
    typed_files: bool,
}

/// Adds its rows as they are known: those before a failure are shown all the same.
type Job = fn(&Settings, &mut Vec<Row>) -> Result<()>;

const JOBS: [(&str, Job); 13] = [
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
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match role(&words) {
        Some(result) => result.map(|()| ExitCode::SUCCESS),
        None => bench(words),
    };
    done.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::FAILURE
    })
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
    let Some(arguments) = parse(words)? else {
        say(HELP);
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(&arguments.dir)?;
    let place = tempfile::Builder::new().prefix("bench-sync-").tempdir_in(&arguments.dir)?;
    let product = Product::find()?;
    let ours = format!("ours: {}", machine::version(&product.binary, "version"));
    let rsync = format!("rsync: {}", machine::version(Path::new("rsync"), "--version"));
    let versions = [ours, rsync].into_iter().chain(peers::describe()).collect();
    say(&machine::describe(place.path(), versions)?);
    let place_path = place.path().canonicalize()?;
    let settings = Settings {
        short: arguments.short,
        place: place_path,
        files: *arguments.files.first().ok_or("--files is never empty")?,
        large: *arguments.large().ok_or("--files is never empty")?,
        sizes: arguments.sizes(),
        product,
        source: OnceLock::new(),
        large_source: OnceLock::new(),
    };
    let mut rows = Vec::new();
    let mut failed = false;
    for (name, job) in JOBS {
        if !arguments.wants(name) {
            continue;
        }
        progress(name);
        if let Err(error) = job(&settings, &mut rows) {
            failed = true;
            complain(format_args!("{name}: {error}"));
            rows.push(Row::new(name).ours("could not run"));
        }
        // What is gone need not be written back while the next job is measured.
        let left = settings.place.join(name);
        if left.exists() {
            std::fs::remove_dir_all(left)?;
        }
    }
    say(&table::render(&rows));
    say(&format!("\nload at the end: {}\n", machine::load()));
    place.close()?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Arguments {
    fn wants(&self, job: &str) -> bool {
        if self.only.is_empty() {
            return !(self.short && LONG.contains(&job));
        }
        self.only.iter().any(|only| only == job)
    }

    /// One size for all where that was asked for, or `--short`.
    fn large(&self) -> Option<&usize> {
        if self.short || self.typed_files { self.files.last() } else { Some(&100_000) }
    }

    fn sizes(&self) -> Vec<usize> {
        match (self.typed_files, self.short) {
            (true, _) => self.files.clone(),
            (false, true) => vec![10_000, 100_000],
            (false, false) => vec![10_000, 100_000, 1_000_000],
        }
    }
}

/// `None`: help is wanted.
fn parse(words: Vec<String>) -> Result<Option<Arguments>> {
    let mut arguments = Arguments {
        short: false,
        only: Vec::new(),
        dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        files: vec![10_000],
        typed_files: false,
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            // Cargo adds it.
            "--bench" => {}
            "--short" => arguments.short = true,
            "--only" => arguments.only.push(job_name(value()?)?),
            "--dir" => arguments.dir = value()?.into(),
            "--files" => {
                let sizes = value()?;
                let sizes: std::result::Result<_, _> = sizes.split(',').map(str::parse).collect();
                arguments.files = sizes.map_err(|_| "--files: numbers, with commas between")?;
                arguments.typed_files = true;
            }
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("unknown option {word}\n{HELP}").into()),
        }
    }
    if arguments.files.iter().any(|&files| files < 100) {
        return Err("--files: at least 100".into());
    }
    Ok(Some(arguments))
}

fn job_name(name: String) -> Result<String> {
    if JOBS.iter().any(|(known, _)| *known == name) {
        return Ok(name);
    }
    let known: Vec<&str> = JOBS.iter().map(|(known, _)| *known).collect();
    Err(format!("--only {name}: one of {}", known.join(", ")).into())
}

/// A closed stdout is no failure: whoever closed it has read enough.
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// What is under way, beside the table.
fn progress(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "... {what}");
}

fn complain(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "sync bench: {what}");
}
