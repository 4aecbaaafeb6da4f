//! Measures the product in pods of a real cluster: `benches/pod/run --help`.
//!
//! Prints one table and judges nothing: the exit code is 0 unless a job could not run. What does not
//! know of clusters is the other benchmark's, in `benches/sync`. The program is also the bare
//! processes of the local floor: it starts itself again with a hidden first word.

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

#[path = "../sync/clock.rs"]
mod clock;
#[path = "../sync/events.rs"]
#[allow(dead_code, reason = "the other benchmark's")]
mod events;
#[path = "../sync/figures.rs"]
#[allow(dead_code, reason = "the other benchmark's")]
mod figures;
#[path = "../sync/floor.rs"]
mod floor;
#[path = "../sync/machine.rs"]
#[allow(dead_code, reason = "the other benchmark's")]
mod machine;
#[path = "../sync/process.rs"]
#[allow(dead_code, reason = "the other benchmark's")]
mod process;
#[path = "../sync/product.rs"]
#[allow(dead_code, reason = "the other benchmark's")]
mod product;
#[path = "../../tests/cluster/relay.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the tests'")]
mod relay;
#[path = "../sync/subject.rs"]
mod subject;
#[path = "../sync/table.rs"]
mod table;
#[path = "../sync/tree.rs"]
#[allow(dead_code, reason = "the other benchmark's")]
mod tree;
#[path = "../sync/usage.rs"]
#[allow(dead_code, reason = "the other benchmark's")]
mod usage;
#[path = "../sync/visible.rs"]
#[allow(dead_code, reason = "the other benchmark's")]
mod visible;

mod bulk;
mod channel;
mod columns;
mod node;
mod peers;
mod reconnect;
mod replay;
mod replicas;
mod rig;
mod save;
mod sidecar;
mod watching;

use product::Product;
use rig::Rig;
use table::Row;
use tree::Tree;

/// What the jobs fail with; the text is shown as it is.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const HELP: &str = "\
Usage: benches/pod/run [--short] [--only NAME] [--dir DIR]

  --short      Fewer rounds and smaller trees: the figures are coarse
  --only NAME  One job [repeatable]: save, bulk, large, reconnect, in-a-row, replicas, sidecar, replay
  --dir DIR    Where the sources are made [default: a directory below cargo's target directory]

It wants the cluster of tests/cluster/rig in $E2EK_CLUSTER [default: /var/tmp/e2ek-cluster], which
benches/pod/run starts, and the image $E2EK_SIDECAR_IMAGE there [default: e2ek.test/e2ek-sidecar:dev].
";

/// What every job is told.
struct Settings {
    short: bool,
    /// An existing directory that the jobs may fill; removed at the end.
    place: PathBuf,
    /// Files in the tree of most jobs.
    files: usize,
    /// Files in a large tree.
    large: usize,
    product: Product,
    rig: Rig,
    source: OnceLock<Tree>,
}

impl Settings {
    /// The source of all jobs that change nothing in it, made when first asked for.
    fn source(&self) -> Result<&Tree> {
        if self.source.get().is_none() {
            progress(format_args!("source tree, {} files", self.files));
            let _ = self.source.set(Tree::make(&self.place.join("source"), self.files)?);
        }
        self.source.get().ok_or_else(|| "it was just set".into())
    }
}

/// What was typed.
struct Arguments {
    short: bool,
    only: Vec<String>,
    dir: PathBuf,
}

/// Adds its rows as they are known: those before a failure are shown all the same.
type Job = fn(&Settings, &mut Vec<Row>) -> Result<()>;

const JOBS: [(&str, Job); 8] = [
    ("save", save::run),
    ("bulk", bulk::run),
    ("large", bulk::large),
    ("reconnect", reconnect::large),
    ("in-a-row", reconnect::in_a_row),
    ("replicas", replicas::run),
    ("sidecar", sidecar::run),
    ("replay", replay::run),
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
        _ => return None,
    })
}

fn bench(words: Vec<String>) -> Result<ExitCode> {
    let Some(arguments) = parse(words)? else {
        say(HELP);
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(&arguments.dir)?;
    let place = tempfile::Builder::new().prefix("bench-pod-").tempdir_in(&arguments.dir)?;
    let path = place.path().canonicalize()?;
    let settings = Settings {
        short: arguments.short,
        rig: Rig::new(path.clone())?,
        place: path,
        files: 10_000,
        large: if arguments.short { 10_000 } else { 100_000 },
        product: Product::alone(),
        source: OnceLock::new(),
    };
    let mut versions =
        vec![format!("ours: {}", machine::version(&settings.product.binary, "version"))];
    versions.extend(settings.rig.describe()?);
    versions.extend(peers::describe(&settings)?);
    say(&machine::describe(&settings.place, versions)?);
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
        let left = settings.place.join(name);
        if left.exists() {
            std::fs::remove_dir_all(left)?;
        }
    }
    say(&table::render(&rows));
    say(&format!("\nload at the end: {}\n", machine::load()));
    drop(settings);
    place.close()?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `None`: help is wanted.
fn parse(words: Vec<String>) -> Result<Option<Arguments>> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let mut arguments = Arguments { short: false, only: Vec::new(), dir };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            // Cargo adds it.
            "--bench" => {}
            "--short" => arguments.short = true,
            "--only" => arguments.only.push(job_name(value()?)?),
            "--dir" => arguments.dir = value()?.into(),
            "--help" | "-h" => return Ok(None),
            _ => return Err(format!("unknown option {word}\n{HELP}").into()),
        }
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
    let _ = writeln!(std::io::stderr(), "pod bench: {what}");
}
