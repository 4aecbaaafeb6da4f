//! Measures the product in pods of a real cluster: `benches/pod/run --help`.
//!
//! Prints one table and judges nothing: the exit code is 0 unless a job could not run. What does not
//! know of clusters is the other benchmark's, in `benches/sync`. The program is also the bare
//! processes of the local floor: it starts itself again with a hidden first word.

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
#[path = "../sync/jobs.rs"]
mod jobs;
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

use jobs::{Arguments, Job, complain, progress, say};
use product::Product;
use rig::Rig;
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
    /// A new directory that a job may fill.
    fn place_of(&self, job: &str) -> Result<PathBuf> {
        let place = self.place.join(job);
        std::fs::create_dir(&place)?;
        Ok(place)
    }

    /// The source of all jobs that change nothing in it, made when first asked for.
    fn source(&self) -> Result<&Tree> {
        if self.source.get().is_none() {
            progress(format_args!("source tree, {} files", self.files));
            let _ = self.source.set(Tree::make(&self.place.join("source"), self.files)?);
        }
        self.source.get().ok_or_else(|| "it was just set".into())
    }
}

const JOBS: [(&str, Job<Settings>); 8] = [
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
    jobs::main(role, bench)
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
    let Some(Arguments { short, only, dir, .. }) = Arguments::parse(words, &JOBS, HELP)? else {
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(&dir)?;
    let place = tempfile::Builder::new().prefix("bench-pod-").tempdir_in(&dir)?;
    let path = place.path().canonicalize()?;
    let settings = Settings {
        short,
        rig: Rig::new(path.clone())?,
        place: path,
        files: 10_000,
        large: if short { 10_000 } else { 100_000 },
        product: Product::alone(),
        source: OnceLock::new(),
    };
    let mut versions =
        vec![format!("ours: {}", machine::version(&settings.product.binary, "version"))];
    versions.extend(settings.rig.describe()?);
    versions.extend(peers::describe(&settings)?);
    say(&machine::describe(&settings.place, versions)?);
    let wanted = |name: &str| only.is_empty() || only.iter().any(|only| only == name);
    let code = jobs::run(&settings, &settings.place, &JOBS, wanted)?;
    drop(settings);
    place.close()?;
    Ok(code)
}
