//! Measures the product against the floor and rsync: `cargo bench --bench sync -- --help`.
//!
//! Prints one table and judges nothing: the exit code is 0 unless a job could not run. The program
//! is also every bare process that the measurements need (see [`role`]): it starts itself again
//! with a hidden first word.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

mod clock;
mod events;
mod figures;
mod floor;
mod idle;
mod machine;
mod once;
mod product;
mod relay;
mod restart;
mod save;
mod table;
mod tree;

use product::Product;
use table::Row;
use tree::Tree;

/// What the jobs fail with; the text is shown as it is.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const HELP: &str = "\
Usage: cargo bench --bench sync -- [--short] [--only NAME] [--dir DIR] [--files N]

  --short      Fewer rounds, for CI: the figures are coarse
  --only NAME  One job: save, initial, nothing, idle or restart [repeatable]
  --dir DIR    Where the trees are made; its file system is what is measured
               [default: a directory below cargo's target directory]
  --files N    Files in the tree [default: 10000]
";

/// What every job is told.
struct Settings {
    short: bool,
    /// An existing directory that the jobs may fill; removed at the end.
    place: PathBuf,
    files: usize,
    product: Product,
    source: OnceLock<Tree>,
}

impl Settings {
    /// The source of all jobs that do not measure saves, made when first asked for.
    fn source(&self) -> Result<&Tree> {
        if self.source.get().is_none() {
            progress("source tree");
            let tree = Tree::make(&self.place.join("source"), self.files)?;
            let _ = self.source.set(tree);
        }
        self.source.get().ok_or_else(|| "it was just set".into())
    }
}

/// What was typed.
struct Arguments {
    short: bool,
    only: Vec<String>,
    dir: PathBuf,
    files: usize,
}

/// Adds its rows as they are known: those before a failure are shown all the same.
type Job = fn(&Settings, &mut Vec<Row>) -> Result<()>;

const JOBS: [(&str, Job); 5] = [
    ("save", save::run),
    ("initial", once::initial),
    ("nothing", once::nothing),
    ("idle", idle::run),
    ("restart", restart::run),
];

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
    say(&machine::describe(place.path(), &product)?);
    let place_path = place.path().canonicalize()?;
    let settings = Settings {
        short: arguments.short,
        place: place_path,
        files: arguments.files,
        product,
        source: OnceLock::new(),
    };
    let mut rows = Vec::new();
    let mut failed = false;
    for (name, job) in JOBS {
        if !arguments.only.is_empty() && !arguments.only.iter().any(|only| only == name) {
            continue;
        }
        progress(name);
        if let Err(error) = job(&settings, &mut rows) {
            failed = true;
            complain(format_args!("{name}: {error}"));
            rows.push(Row::new(name).ours("could not run"));
        }
        // What is gone need not be written back while the next job is measured.
        std::fs::remove_dir_all(settings.place.join(name))?;
    }
    say(&table::render(&rows));
    say(&format!("\nload at the end: {}\n", machine::load()));
    place.close()?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `None`: help is wanted.
fn parse(words: Vec<String>) -> Result<Option<Arguments>> {
    let mut arguments = Arguments {
        short: false,
        only: Vec::new(),
        dir: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        files: 10_000,
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
            "--files" => arguments.files = value()?.parse().map_err(|_| "--files: a number")?,
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("unknown option {word}\n{HELP}").into()),
        }
    }
    if arguments.files < 100 {
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
