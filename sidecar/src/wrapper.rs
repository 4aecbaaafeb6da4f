//! `e2ek-sidecar run`: what was typed, and the wrapper's loop around it.

use std::ffi::OsString;
use std::time::Duration;

use e2ek_sidecar::restart::{OnExit, Policy, Signal};
use e2ek_sidecar::server::{said, wrap};

use super::{Failure, block_on, level, text, wrappers};

/// How long the start waits for the first sync.
const HOLD: Duration = Duration::from_secs(60);

/// Runs a container's command.
pub(super) fn run(words: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    said::say_up_to(level());
    let options = parse(words)?;
    match block_on(wrap::run(options)) {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::Code(code)),
        Err(error) => Err(Failure::Other(error.to_string())),
    }
}

fn parse(mut words: impl Iterator<Item = OsString>) -> Result<wrap::Options, Failure> {
    let mut policy = Policy {
        stop_signal: Signal::TERM,
        kill_after: Duration::from_secs(10),
        debounce: Duration::ZERO,
        on_exit: OnExit::Hold,
    };
    let mut hold = match std::env::var("E2EK_HOLD") {
        Ok(text) if !text.is_empty() => patience(&text, "E2EK_HOLD")?,
        _ => Some(HOLD),
    };
    let (mut socket, mut exit, mut command) = (None, false, Vec::new());
    while let Some(word) = words.next() {
        let name = word.to_str().unwrap_or_default().to_owned();
        let mut value = || {
            let missing = || Failure::Usage(format!("{name} needs a value"));
            words.next().ok_or_else(missing)
        };
        match &*name {
            "--wrappers" => socket = Some(value()?.into()),
            "--hold" => hold = patience(&text(&value()?, &name)?, &name)?,
            "--kill-after" => {
                let wrong = || Failure::Usage("--kill-after: seconds".to_owned());
                policy.kill_after = patience(&text(&value()?, &name)?, &name)?.ok_or_else(wrong)?;
            }
            "--stop-signal" => {
                let signal = text(&value()?, &name)?.parse();
                let signal = signal.map_err(|error| Failure::Usage(format!("{name}: {error}")));
                policy.stop_signal = signal?;
            }
            "--exit" => exit = true,
            "--" => {
                command.extend(words);
                break;
            }
            _ => return Err(Failure::Usage(format!("unknown option {}", word.display()))),
        }
    }
    if command.is_empty() {
        return Err(Failure::Usage("run: a command is needed after --".to_owned()));
    }
    let shared = || std::path::PathBuf::from(super::SHARED).join("run.sock");
    let socket = wrappers(socket).unwrap_or_else(shared);
    Ok(wrap::Options { command, socket, hold, policy, exit })
}

/// Seconds, with a fraction if need be; `None` for ever.
fn patience(typed: &str, name: &str) -> Result<Option<Duration>, Failure> {
    if typed == "forever" {
        return Ok(None);
    }
    let seconds: Option<f64> = typed.parse().ok();
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let wrong = || Failure::Usage(format!("{name}: seconds, or forever"));
    duration.map(Some).ok_or_else(wrong)
}
