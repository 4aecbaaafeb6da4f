//! The `e2ek-sync` binary: what was typed, what is settled, and who does it.

use std::io::Write;
use std::process::ExitCode;

use e2ek_sync::cli::{self, Cli, Command, Parsed};
use e2ek_sync::config::{Config, Environment};
use e2ek_sync::error::Error;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            ExitCode::from(error.kind.exit_code())
        }
    }
}

fn run() -> Result<(), Error> {
    match cli::parse(std::env::args_os())? {
        Parsed::Show(text) => show(&text),
        Parsed::Run(cli) => start(&cli)?,
    }
    Ok(())
}

/// A closed stdout is no failure of ours: whoever closed it has read enough.
fn show(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Takes the place of `report` until the command's own reporter stands.
fn tell(error: &Error) {
    let hints = error.hints.iter().map(|hint| format!("  hint: {hint}\n")).collect::<String>();
    let _ = write!(std::io::stderr(), "e2ek-sync: {error}\n{hints}");
}

fn start(cli: &Cli) -> Result<(), Error> {
    if let Command::Hub(_) = &cli.command {
        // The hub takes no settings: all it knows comes over the link.
        return Err(Error::not_built("hub"));
    }
    let environment = Environment::from_process().map_err(|error| Error::no_directory(&error))?;
    let flags = cli.flags();
    let config = Config::resolve(&flags, &environment)?;
    let name = cli.command.name();
    if flags.wants_targets && config.targets.is_empty() {
        return Err(Error::nothing_to_sync(name, config.workspace.file.as_deref()));
    }
    if config.say.verbosity > 0 {
        for setting in config.explain() {
            let line = format!("{} = {} ({})\n", setting.name, setting.value, setting.source);
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
    Err(Error::not_built(name))
}
