//! Owns the way from a parsed command line to an exit code: settle, start the log, hand over, and
//! tell the failure.
//!
//! One function a command. Promises that nothing is looked up that the command does not need
//! (`version` works beside a broken e2ek.toml, `supervise` without a home) and that every failure
//! is told once, in the output's own form. What a command does is its room's; words for failures
//! are `error`'s.

mod control;
#[cfg(target_os = "linux")]
mod hub;
mod ignore;
#[cfg(target_os = "linux")]
mod supervise;

use std::io::{self, IsTerminal};

use e2ek_sidecar::wire::PROTOCOL;

use crate::cli::{Cli, Command, VersionArgs};
use crate::config::{Config, ConfigError, Environment, Flags, Output, Say};
use crate::daemon;
use crate::error::{Error, Kind};
use crate::log::{self, LogError};
use crate::report::{self, Event, Failure, Format, Reporter, Verbosity};

/// Does what the command line asks for; the exit code. Must be called first in the process: `hub`
/// takes over a descriptor that it was given.
#[must_use]
pub fn run(cli: &Cli) -> u8 {
    let mut options = unsettled();
    start(cli, &mut options).unwrap_or_else(|error| {
        tell(&error, streams(&cli.command), options);
        exit_code(&error, matches!(cli.command, Command::CheckIgnore(_)))
    })
}

/// Of a failure; those of `check-ignore` are fatal errors of git's.
fn exit_code(error: &Error, as_git: bool) -> u8 {
    if as_git { ignore::FATAL } else { error.kind.exit_code() }
}

/// Shows a text that was asked for; the exit code. A closed stdout is no failure of ours: whoever
/// closed it has read enough.
#[must_use]
pub fn show(text: &str) -> u8 {
    Reporter::stdio(unsettled()).verbatim(text.as_bytes());
    0
}

/// Tells why a command line is none; the exit code. `as_git`: it was meant for `check-ignore`.
#[must_use]
pub fn refuse(error: &Error, as_git: bool) -> u8 {
    tell(error, false, unsettled());
    if as_git { ignore::USAGE } else { error.kind.exit_code() }
}

/// The commands whose standard output is a stream of events, failures among them.
fn streams(command: &Command) -> bool {
    use Command as C;
    matches!(command, C::Watch(_) | C::Sync(_) | C::Attach(_) | C::Supervise(_))
}

fn tell(error: &Error, as_event: bool, options: report::Options) {
    let mut reporter = Reporter::stdio(options);
    let failure = Failure::from(error);
    // A command line that makes no sense has begun no stream.
    if as_event && error.kind != Kind::Usage {
        reporter.say(&failure.into());
    } else {
        reporter.failure(&failure);
    }
}

/// How things are said until it is settled.
fn unsettled() -> report::Options {
    let format = if io::stdout().is_terminal() { Format::Human } else { Format::Lines };
    report::Options { format, ..report::Options::default() }
}

fn start(cli: &Cli, options: &mut report::Options) -> Result<u8, Error> {
    if let Command::Hub(args) = &cli.command {
        #[cfg(target_os = "linux")]
        return hub::run(args);
        #[cfg(not(target_os = "linux"))]
        return Err(Error::not_built("hub"));
    }
    let mut flags = cli.flags();
    if let Some(path) = flags.directory.take() {
        let enter = std::env::set_current_dir(&path);
        enter.map_err(|error| ConfigError::Io { doing: "enter", path, error })?;
    }
    let environment = Environment::from_process().map_err(|error| Error::no_directory(&error))?;
    let say = Say::resolve(&flags, &environment);
    *options = settled(&cli.command, &say);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::failure(&error))?;
    let done = match &cli.command {
        Command::Version(args) => version(args, *options),
        #[cfg(target_os = "linux")]
        Command::Supervise(args) => {
            let (reporter, _log) = reporter(*options, &say, None)?;
            runtime.block_on(supervise::run(args, reporter))
        }
        command if asks_daemon(command) => {
            let (config, fault) = Config::of_workspace(&flags, &environment)?;
            let (mut reporter, _log) = reporter(*options, &say, None)?;
            if let Some(fault) = fault {
                reporter.warning(Error::from(fault).message);
            }
            runtime.block_on(control::run(command, &flags.targets, &config, &mut reporter))
        }
        command => {
            let config = Config::resolve(&flags, &environment)?;
            let state = syncs(command).then_some(&config);
            let (reporter, _log) = reporter(*options, &say, state)?;
            let reread = reread(flags.clone(), environment);
            runtime.block_on(settled_command(command, &flags, config, reread, reporter))
        }
    };
    // A thread that still reads a file must not keep the process from its end.
    runtime.shutdown_background();
    done
}

/// The way to the same settings again, for whoever follows their file.
fn reread(flags: Flags, environment: Environment) -> daemon::Reread {
    Box::new(move || Config::resolve(&flags, &environment).map_err(Error::from))
}

/// Who does it, of those that need the settings.
async fn settled_command(
    command: &Command,
    flags: &Flags,
    config: Config,
    reread: daemon::Reread,
    mut reporter: Reporter,
) -> Result<u8, Error> {
    match command {
        Command::CheckIgnore(args) => ignore::run(args, flags, &config, &mut reporter),
        command => sync_command(command, config, reread, reporter).await,
    }
}

/// The commands that talk to a running daemon: they need to know whose, and no more.
fn asks_daemon(command: &Command) -> bool {
    use Command as C;
    !syncs(command)
        && !matches!(command, C::CheckIgnore(_) | C::Supervise(_) | C::Version(_) | C::Hub(_))
}

/// The commands that move files, and are logged in the workspace's state.
fn syncs(command: &Command) -> bool {
    matches!(command, Command::Watch(_) | Command::Sync(_) | Command::Plan(_))
}

/// `watch`, `sync`, `plan`.
async fn sync_command(
    command: &Command,
    config: Config,
    reread: daemon::Reread,
    mut reporter: Reporter,
) -> Result<u8, Error> {
    let name = command.name();
    if config.targets.is_empty() {
        return Err(Error::nothing_to_sync(name, config.workspace.file.as_deref()));
    }
    if config.say.verbosity > 0 {
        for setting in config.explain() {
            reporter.say(&Event::Setting {
                key: setting.name.into(),
                value: setting.value.into(),
                origin: setting.source.to_string().into(),
            });
        }
    }
    let kind = match command {
        Command::Watch(_) => daemon::Kind::Watch,
        Command::Plan(_) => daemon::Kind::Plan,
        _ => daemon::Kind::Once,
    };
    daemon::run(kind, config, reread, reporter).await
}

fn version(args: &VersionArgs, options: report::Options) -> Result<u8, Error> {
    let format = if args.json { Format::Json } else { options.format };
    Reporter::stdio(report::Options { format, ..options }).say(&Event::Version {
        version: env!("CARGO_PKG_VERSION").into(),
        protocol: (PROTOCOL.0.into(), PROTOCOL.1.into()),
        // None so far: `wire::Hello::features` is 0.
        features: Vec::new(),
    });
    Ok(0)
}

/// How things are said, now that it is known.
fn settled(command: &Command, say: &Say) -> report::Options {
    let json = match command {
        Command::Status(args) => args.json,
        Command::Version(args) => args.json,
        _ => false,
    };
    let format = match say.output.value {
        _ if json => Format::Json,
        Output::Human => Format::Human,
        Output::Lines => Format::Lines,
        Output::Json => Format::Json,
    };
    let verbosity = match say.verbosity {
        ..0 => Verbosity::Quiet,
        0 => Verbosity::Normal,
        1.. => Verbosity::Verbose,
    };
    let terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
    report::Options { format, color: say.color.value, verbosity, terminal }
}

/// The outputs, and the log of the workspace (none without one). A log that cannot be written is
/// told and done without.
fn reporter(
    options: report::Options,
    say: &Say,
    workspace: Option<&Config>,
) -> Result<(Reporter, Option<log::Guard>), Error> {
    let mut reporter = Reporter::stdio(options);
    let state = workspace.map(Config::workspace_state);
    let started = log::start(log::Options {
        state: state.as_deref(),
        filter: say.log.as_ref().map(|log| log.value.as_str()),
        // The first `-v` is for settings and paths.
        verbose: u8::try_from(say.verbosity.saturating_sub(1)).unwrap_or(0),
        stderr: Some(reporter.log_writer()),
    });
    match started {
        Ok(guard) => Ok((reporter, Some(guard))),
        Err(error @ LogError::Filter { .. }) => Err(error.into()),
        Err(error) => {
            reporter.say(&Event::Warning { message: Error::from(error).message.into() });
            Ok((reporter, None))
        }
    }
}
