//! `e2ek-sidecar run`: what was typed, and the wrapper's loop around it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use e2ek_sidecar::restart::{OnExit, Policy, Signal};
use e2ek_sidecar::server::target::ourselves;
use e2ek_sidecar::server::{Settings, listen, said, wrap};

use super::{Arguments, Failure, block_on, level, settings, socket, text, wrappers as wrappers_of};

/// How long the start waits for the first sync.
const HOLD: Duration = Duration::from_secs(60);

/// Runs a container's command.
pub(super) fn run(words: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    said::say_up_to(level());
    let (options, hub) = parse(words)?;
    let ran = match hub {
        None => block_on(wrap::run(options)),
        Some(hub) => block_on(beside(options, own_hub(&hub)?, socket(&hub))),
    };
    match ran {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::Code(code)),
        Err(error) => Err(Failure::Other(error.to_string())),
    }
}

/// A hub for our own container, which the wrapper finds where it looks for any.
fn own_hub(arguments: &Arguments) -> Result<Settings, Failure> {
    let outside = || Failure::Other("run --serve: this is no container of a pod".to_owned());
    let name = ourselves().ok_or_else(outside)?.identity.name;
    let state = arguments.state.clone().map_or_else(
        || settings(arguments),
        |state| settings(&Arguments { state: Some(state), ..Arguments::default() }),
    );
    Ok(Settings { container: Some(name), own: true, ..state? })
}

/// Runs hub and wrapper as one process; the hub ends after the wrapper. Its failure is no reason to
/// end the app.
async fn beside(options: wrap::Options, hub: Settings, at: PathBuf) -> std::io::Result<u8> {
    let hub = Settings { wrappers: Some(options.socket.clone()), ..hub };
    let (over, ended) = tokio::sync::oneshot::channel::<()>();
    let serving = async {
        let ended = async { drop(ended.await) };
        if let Err(error) = listen::serve_socket(hub, &at, ended).await {
            tracing::error!(socket = %at.display(), %error, "no hub is served");
        }
    };
    let running = async {
        let code = wrap::run(options).await;
        drop(over);
        code
    };
    let ((), code) = tokio::join!(serving, running);
    code
}

/// What was typed; with arguments for the hub, if it is to be one.
fn parse(
    mut words: impl Iterator<Item = OsString>,
) -> Result<(wrap::Options, Option<Arguments>), Failure> {
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
    let (mut wrappers, mut exit, mut command) = (None, false, Vec::new());
    let (mut serve, mut hub) = (false, Arguments::default());
    let (mut signal_stays, mut grace_stays) = (false, false);
    while let Some(word) = words.next() {
        let name = word.to_str().unwrap_or_default().to_owned();
        let mut value = || {
            let missing = || Failure::Usage(format!("{name} needs a value"));
            words.next().ok_or_else(missing)
        };
        match &*name {
            "--wrappers" => wrappers = Some(value()?.into()),
            "--serve" => serve = true,
            "--socket" => hub.socket = Some(value()?.into()),
            "--state" => hub.state = Some(value()?.into()),
            "--hold" => hold = patience(&text(&value()?, &name)?, &name)?,
            "--kill-after" => {
                let wrong = || Failure::Usage("--kill-after: seconds".to_owned());
                policy.kill_after = patience(&text(&value()?, &name)?, &name)?.ok_or_else(wrong)?;
                grace_stays = true;
            }
            "--stop-signal" => {
                let signal = text(&value()?, &name)?.parse();
                let signal = signal.map_err(|error| Failure::Usage(format!("{name}: {error}")));
                policy.stop_signal = signal?;
                signal_stays = true;
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
    let shared = || PathBuf::from(super::SHARED).join("run.sock");
    // A hub of our own needs no shared directory: beside its own socket.
    let own = || serve.then(|| socket(&hub).with_file_name("run.sock"));
    let socket = wrappers.or_else(own).or_else(|| wrappers_of(None)).unwrap_or_else(shared);
    let options = wrap::Options { command, socket, hold, policy, signal_stays, grace_stays, exit };
    Ok((options, serve.then_some(hub)))
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
