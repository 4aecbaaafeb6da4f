//! The `e2ek-sync` binary: what was typed, and who does it.

use std::process::ExitCode;

use e2ek_sync::cli::{self, Parsed};
use e2ek_sync::commands;

fn main() -> ExitCode {
    e2ek_sidecar::server::memory::keep_large_apart();
    let words: Vec<_> = std::env::args_os().collect();
    let code = match cli::parse(words.iter().cloned()) {
        Ok(Parsed::Run(cli)) => commands::run(&cli),
        Ok(Parsed::Show(text)) => commands::show(&text),
        Err(error) => commands::refuse(&error, cli::is_check_ignore(words)),
    };
    ExitCode::from(code)
}
