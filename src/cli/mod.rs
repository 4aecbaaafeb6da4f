//! Owns the command line: what was typed, as types, with nothing looked up.
//!
//! clap stays in this room. [`parse`] answers with a [`Cli`], with a text to show (`--help`), or with
//! an [`Error`] of kind usage; [`Cli::flags`] is what `config` resolves.

mod command;
mod supervise;
mod sync;
mod value;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser};

use crate::config::{ColorChoice, Flags, Output};
use crate::error::Error;

pub use command::{
    AttachArgs, CheckIgnoreArgs, Command, ControlArgs, FlushArgs, HubArgs, ResumeArgs, StatusArgs,
    VersionArgs, WaitArgs,
};
pub use supervise::SuperviseArgs;
pub use sync::{OnceArgs, PlanArgs, SyncArgs, WatchArgs};

/// Words that the contract keeps for later versions, so that they are not mistaken for typing errors.
const LATER: [&str; 21] = [
    "up",
    "list",
    "stats",
    "exec",
    "run",
    "logs",
    "forward",
    "inject",
    "eject",
    "filter",
    "pair",
    "pull",
    "verify",
    "rollback",
    "build",
    "doctor",
    "trust",
    "init",
    "completion",
    "man",
    "down",
];

const EXAMPLES: &str = "\
Examples:
  e2ek-sync watch . /tmp/copy                 keep a copy up to date
  e2ek-sync watch . /tmp/copy -- python3 app.py
                                              and run it there, restarted after each save
  e2ek-sync watch . pid/1234:/srv/app         into the root of a running process
  e2ek-sync watch                             what e2ek.toml says
  e2ek-sync plan . /tmp/copy                  what would be done; changes nothing
  e2ek-sync supervise -R -p '*.py' -- python3 app.py
                                              only restart, as watchmedo auto-restart does

Exit codes: 0 ok, 1 failure, 2 usage, 3 target not found, 4 forbidden, 5 conflict or held,
6 not in sync, 7 no daemon, 130 after Ctrl-C, 143 after TERM.";

/// Bring each save into the place where the app runs, and restart the app when a rule says so.
#[derive(Debug, Parser)]
#[command(name = "e2ek-sync", version, arg_required_else_help = true, max_term_width = 100)]
#[command(subcommand_required = true, disable_help_subcommand = true, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    directory: Directory,
    #[command(flatten)]
    globals: Globals,
}

/// `-C`, at every level but `supervise`, whose `--directory` is watchmedo's.
#[derive(Debug, Default, Args)]
struct Directory {
    /// Run as if started in DIR
    #[arg(short = 'C', long, value_name = "DIR", help_heading = GLOBAL, display_order = 0)]
    directory: Option<PathBuf>,
}

const GLOBAL: &str = "Global options";

#[derive(Debug, Args)]
struct Globals {
    /// Read the settings from FILE, not from the nearest e2ek.toml upwards
    #[arg(long, value_name = "FILE", global = true, help_heading = GLOBAL)]
    config: Option<PathBuf>,
    /// Only the target of that name in e2ek.toml [repeatable]
    #[arg(long = "target", value_name = "NAME", global = true, help_heading = GLOBAL)]
    targets: Vec<String>,
    /// Say more: settings with their sources, then each path, then the log
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = GLOBAL)]
    verbose: u8,
    /// Say less: errors only
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = GLOBAL)]
    quiet: u8,
    /// auto, always or never; auto heeds NO_COLOR
    #[arg(long, value_name = "WHEN", global = true, help_heading = GLOBAL)]
    #[arg(value_parser = value::color(), hide_possible_values = true)]
    color: Option<ColorChoice>,
    /// human, lines or json [default: human on a terminal, else lines]
    #[arg(long, value_name = "FORM", global = true, help_heading = GLOBAL)]
    #[arg(value_parser = value::output(), hide_possible_values = true)]
    output: Option<Output>,
    /// Keep state in DIR (also E2EK_STATE_DIR) [default: ~/.local/state/e2ek-sync]
    #[arg(long, value_name = "DIR", global = true, help_heading = GLOBAL)]
    state_dir: Option<PathBuf>,
    /// What goes to the log, as in `info,e2ek_sync::watch=trace` (also E2EK_LOG)
    #[arg(long, value_name = "FILTER", global = true, help_heading = GLOBAL)]
    log: Option<String>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// A command.
    Run(Box<Cli>),
    /// A text for stdout, and then a good end: `--help`, `--version`.
    Show(String),
}

/// Reads the words of the command line, the program's own name first.
///
/// # Errors
/// Of kind usage, with the parser's tips as hints.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Parsed, Error> {
    let parsed = Cli::command().try_get_matches_from(words);
    match parsed.and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches)) {
        Ok(cli) => Ok(Parsed::Run(Box::new(cli))),
        Err(error)
            if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) =>
        {
            Ok(Parsed::Show(error.render().to_string()))
        }
        Err(error) => Err(refusal(&error)),
    }
}

/// Whether words, which may make no sense otherwise, name `check-ignore`: its exit codes are git's.
#[must_use]
pub fn is_check_ignore(words: impl IntoIterator<Item = OsString>) -> bool {
    let parsed = Cli::command().ignore_errors(true).try_get_matches_from(words);
    parsed.is_ok_and(|matches| matches.subcommand_name() == Some("check-ignore"))
}

/// Turns clap's text into a message and hints: its first paragraph says what is wrong, the others
/// are tips and the usage.
fn refusal(error: &clap::Error) -> Error {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Error::usage("no command is given", vec!["e2ek-sync --help".to_owned()]);
    }
    if let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand)
        && LATER.contains(&word.as_str())
    {
        return Error::not_built(word);
    }
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(|paragraph| {
        paragraph.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>()
    });
    let message = paragraphs.next().unwrap_or_default().join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message).to_owned();
    let hints = paragraphs
        .flatten()
        .map(|line| line.strip_prefix("tip: ").unwrap_or(line))
        .map(|line| line.replacen("Usage: ", "usage: ", 1))
        .filter(|line| !line.starts_with("For more information"))
        .collect();
    Error::usage(message, hints)
}

impl Cli {
    /// The layer of what was typed.
    #[must_use]
    pub fn flags(&self) -> Flags {
        let globals = &self.globals;
        let inner = self.command.directory();
        let mut flags = Flags {
            directory: inner.or(self.directory.directory.as_ref()).cloned(),
            config: globals.config.clone(),
            targets: globals.targets.clone(),
            verbose: globals.verbose,
            quiet: globals.quiet,
            color: globals.color,
            output: globals.output,
            state_dir: globals.state_dir.clone(),
            log: globals.log.clone(),
            ..Flags::default()
        };
        self.command.add_to(&mut flags);
        flags
    }
}

#[cfg(test)]
mod tests;
