//! The `e2ek-sync` binary.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use e2ek_sync::supervise::{self, Options, SuperviseEvent};

/// Live sync of a workspace into a running container.
#[derive(Parser)]
#[command(version)]
enum Cli {
    /// Restarts a command when files change; no sync.
    Supervise(Supervise),
}

#[derive(clap::Args)]
struct Supervise {
    #[arg(short, long = "directory")]
    directories: Vec<PathBuf>,
    #[arg(short, long, visible_alias = "pattern", value_delimiter = ';', default_value = "*")]
    patterns: Vec<String>,
    #[arg(short, long, visible_alias = "ignore-pattern", value_delimiter = ';')]
    ignore_patterns: Vec<String>,
    #[arg(short = 'D', long)]
    ignore_directories: bool,
    #[arg(short = 'R', long)]
    recursive: bool,
    #[arg(long, default_value = "SIGINT")]
    signal: e2ek_sidecar::restart::Signal,
    #[arg(long, default_value = "10", value_parser = supervise::duration, allow_hyphen_values = true)]
    kill_after: Duration,
    #[arg(long, visible_alias = "debounce-interval", default_value = "0",
          value_parser = supervise::duration, allow_hyphen_values = true)]
    debounce: Duration,
    #[arg(long)]
    no_restart_on_command_exit: bool,
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let Cli::Supervise(typed) = Cli::parse();
    let defaults = Options::default();
    let options = Options {
        command: typed.command,
        directories: if typed.directories.is_empty() {
            defaults.directories
        } else {
            typed.directories
        },
        recursive: typed.recursive,
        patterns: typed.patterns,
        ignore_patterns: typed.ignore_patterns,
        ignore_directories: typed.ignore_directories,
        signal: typed.signal,
        kill_after: typed.kill_after,
        debounce: typed.debounce,
        restart_on_command_exit: !typed.no_restart_on_command_exit,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime needs only descriptors");
    match runtime.block_on(supervise::run(options, tell)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            line(&format!("error {error:?}"));
            ExitCode::FAILURE
        }
    }
}

fn tell(event: SuperviseEvent) {
    line(&format!("{event:?}"));
}

fn line(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "[e2ek] {text}");
}
