//! Owns the flags of `supervise`: those of watchmedo's auto-restart, so that its command lines work
//! as they are.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use e2ek_sidecar::restart::Signal;

use super::value;
use crate::config::parse_seconds;

pub(super) const EXAMPLES: &str = "\
Examples:
  e2ek-sync supervise -R -p '*.py;*.html' -- python3 app.py
  e2ek-sync supervise -d src -d config -R --debounce 200ms -- ./server
  e2ek-sync supervise -R --no-restart-on-command-exit -- make test

Each event restarts, unless --debounce is given; a command that ends is started again. Times take
units; a bare number is in seconds, as in watchmedo.";

/// `supervise`.
#[derive(Debug, Args)]
pub struct SuperviseArgs {
    /// Run as if started in DIR
    #[arg(short = 'C', value_name = "DIR", help_heading = super::GLOBAL)]
    chdir: Option<PathBuf>,
    /// Watch DIRECTORY [repeatable] [default: .]
    #[arg(short = 'd', long = "directory", value_name = "DIRECTORY")]
    directories: Vec<PathBuf>,
    /// Restart for these only, divided by `;` [default: *]
    #[arg(short, long, visible_alias = "pattern", value_name = "PATTERNS")]
    patterns: Vec<String>,
    /// Never restart for these, divided by `;`
    #[arg(short, long, visible_alias = "ignore-pattern", value_name = "PATTERNS")]
    ignore_patterns: Vec<String>,
    /// Events of directories themselves do not count
    #[arg(short = 'D', long)]
    pub ignore_directories: bool,
    /// Watch what lies below, too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Asks the command to stop; a name or a number
    #[arg(long, default_value = "SIGINT", value_name = "SIGNAL")]
    pub signal: Signal,
    /// Then kill it
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_seconds)]
    #[arg(allow_negative_numbers = true)]
    pub kill_after: Duration,
    /// Restart once when it has been quiet for so long
    #[arg(long, visible_alias = "debounce-interval", default_value = "0", value_name = "TIME")]
    #[arg(value_parser = parse_seconds, allow_negative_numbers = true)]
    pub debounce: Duration,
    /// After the command exits, wait for the next event
    #[arg(long)]
    pub no_restart_on_command_exit: bool,
    /// Accepted for watchmedo's sake; events come at once
    #[arg(long, alias = "timeout", value_name = "TIME", value_parser = parse_seconds, hide = true)]
    interval: Option<Duration>,
    /// What to run
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    pub command: Vec<OsString>,
}

impl SuperviseArgs {
    pub(super) fn directory(&self) -> Option<&PathBuf> {
        self.chdir.as_ref()
    }

    /// The directories to watch, as typed; the current one when none was.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        match self.directories.as_slice() {
            [] => vec![PathBuf::from(".")],
            typed => typed.to_vec(),
        }
    }

    /// The patterns that restart; empty means all.
    #[must_use]
    pub fn patterns(&self) -> Vec<String> {
        value::patterns(&self.patterns)
    }

    /// The patterns that never restart.
    #[must_use]
    pub fn ignore_patterns(&self) -> Vec<String> {
        value::patterns(&self.ignore_patterns)
    }
}
