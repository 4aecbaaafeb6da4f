//! Owns `check-ignore`: its streams, and what the verdict is as an exit code.

use std::io::{self, Write};

use crate::cli::CheckIgnoreArgs;
use crate::config::{Config, Flags, Value};
use crate::error::Error;
use crate::filter::check::{CheckError, CheckOptions, Found, Paths, check_ignore};
use crate::filter::{Filter, FilterOptions, GitPlaces};
use crate::report::{Heard, Reporter};

/// git's exit code for whatever keeps it from an answer.
pub(super) const FATAL: u8 = 128;
/// git's exit code for options that it does not know.
pub(super) const USAGE: u8 = 129;

/// Judges the paths by the rules of the workspace's folder; 0 when one is left out, 1 when none is.
///
/// # Errors
/// Where git ends with [`FATAL`].
pub(super) fn run(
    args: &CheckIgnoreArgs,
    flags: &Flags,
    config: &Config,
    reporter: &mut Reporter,
) -> Result<u8, Error> {
    let lines = |lines: &[Value<String>]| lines.iter().map(|line| line.value.clone()).collect();
    let options = FilterOptions {
        excludes: lines(&config.sync.excludes),
        includes: lines(&config.sync.includes),
        git: Some(GitPlaces::from_vars(|name| config.places.git.get(name))),
    };
    let filter = Filter::new(&config.workspace.folder, &options)?;
    let cwd = std::env::current_dir().map_err(|error| Error::no_directory(&error))?;
    let mut input = io::stdin().lock();
    let paths = match (args.stdin, &*args.paths) {
        (true, []) => Paths::Read(&mut input),
        (true, _) => return Err(CheckError::PathsAndStdin.into()),
        (false, paths) => Paths::Given(paths),
    };
    let options = CheckOptions {
        verbose: flags.verbose > 0,
        quiet: flags.quiet > 0,
        non_matching: args.non_matching,
        nul: args.nul,
    };
    let mut out = Verbatim { reporter };
    match check_ignore(&filter, &cwd, paths, options, &mut out) {
        Ok(Found::Some) => Ok(0),
        Ok(Found::Nothing) => Ok(1),
        // Whoever closed the pipe has read enough, and something to read there was.
        Err(CheckError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Standard output as git's grammar has it.
struct Verbatim<'a> {
    reporter: &'a mut Reporter,
}

impl Write for Verbatim<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.reporter.verbatim(bytes) {
            Heard::Yes => Ok(bytes.len()),
            Heard::Gone => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
