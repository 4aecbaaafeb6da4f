//! Owns what is alike in both benchmarks: what may be typed, one job after the other, and what is said.

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::table::{self, Row};
use crate::{Result, machine};

/// Adds its rows as they are known: those before a failure are shown all the same.
pub(crate) type Job<S> = fn(&S, &mut Vec<Row>) -> Result<()>;

/// Runs one of the bare processes, where a hidden first word asks for it, or else the benchmark.
pub(crate) fn main(
    role: fn(&[String]) -> Option<Result<()>>,
    bench: fn(Vec<String>) -> Result<ExitCode>,
) -> ExitCode {
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

/// What was typed.
pub(crate) struct Arguments {
    pub(crate) short: bool,
    /// The jobs that were named; none means all.
    pub(crate) only: Vec<String>,
    pub(crate) dir: PathBuf,
    /// What `--files` says, where that is known.
    pub(crate) files: Option<String>,
}

impl Arguments {
    /// `None`: `help` is wanted, and was shown.
    pub(crate) fn parse<S>(
        words: Vec<String>,
        jobs: &[(&str, Job<S>)],
        help: &str,
    ) -> Result<Option<Self>> {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let mut arguments = Self { short: false, only: Vec::new(), dir, files: None };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                // Cargo adds it.
                "--bench" => {}
                "--short" => arguments.short = true,
                "--only" => arguments.only.push(job_name(value()?, jobs)?),
                "--dir" => arguments.dir = value()?.into(),
                "--files" if help.contains(" --files ") => arguments.files = Some(value()?),
                "--help" | "-h" => {
                    say(help);
                    return Ok(None);
                }
                _ => return Err(format!("unknown option {word}\n{help}").into()),
            }
        }
        Ok(Some(arguments))
    }
}

fn job_name<S>(name: String, jobs: &[(&str, Job<S>)]) -> Result<String> {
    if jobs.iter().any(|(known, _)| *known == name) {
        return Ok(name);
    }
    let known: Vec<&str> = jobs.iter().map(|(known, _)| *known).collect();
    Err(format!("--only {name}: one of {}", known.join(", ")).into())
}

/// Runs the jobs that are wanted, each in a directory of `place`, and prints the table.
pub(crate) fn run<S>(
    settings: &S,
    place: &Path,
    jobs: &[(&str, Job<S>)],
    wanted: impl Fn(&str) -> bool,
) -> Result<ExitCode> {
    let mut rows = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for (name, job) in jobs.iter().filter(|(name, _)| wanted(name)) {
        progress(name);
        if let Err(error) = job(settings, &mut rows) {
            code = ExitCode::FAILURE;
            complain(format_args!("{name}: {error}"));
            rows.push(Row::new(*name).ours("could not run"));
        }
        // What is gone need not be written back while the next job is measured.
        let left = place.join(name);
        if left.exists() {
            std::fs::remove_dir_all(left)?;
        }
    }
    say(&table::render(&rows));
    say(&format!("\nload at the end: {}\n", machine::load()));
    Ok(code)
}

/// A closed stdout is no failure: whoever closed it has read enough.
pub(crate) fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// What is under way, beside the table.
pub(crate) fn progress(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "... {what}");
}

pub(crate) fn complain(what: impl Display) {
    let _ = writeln!(std::io::stderr(), "bench: {what}");
}
