//! The `e2ek-sidecar` binary: the hub as a program of its own, and the bridge to it.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use e2ek_sidecar::server::{Settings, listen};
use e2ek_sidecar::wire::PROTOCOL;
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
The hub of e2ek-sync: writes what the daemon sends, and runs the app.

Usage: e2ek-sidecar serve --socket PATH [--state DIR] [--idle SECONDS]
       e2ek-sidecar connect --socket PATH
       e2ek-sidecar stdio [--state DIR]
       e2ek-sidecar version

Commands:
  serve    Serve every link that comes to a unix socket, until SIGTERM or, with --idle,
           until nobody was there for so long
  connect  Carry one link from standard input and output to that socket
  stdio    Serve one link over standard input and output, and end with it
  version  Print the version and the protocol spoken

Options:
  --socket PATH   The unix socket (made with mode 0600)
  --state DIR     Where the records of targets are kept
                  [default: $E2EK_STATE_DIR, $XDG_STATE_HOME/e2ek-sync, ~/.local/state/e2ek-sync]
  --idle SECONDS  End after so long without a link

Exit codes: 0 ok, 1 failure, 2 usage, 7 nobody listens at the socket
";

enum Failure {
    Usage(String),
    NoHub(String),
    Other(String),
}

fn main() -> ExitCode {
    e2ek_sidecar::server::memory::keep_large_apart();
    // First of all: an app in the same process namespace shall not walk in here (invariants, trust).
    let hidden =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let result = hidden.map_err(|e| Failure::Other(e.to_string())).and_then(|()| run());
    let (code, message) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => (2, format!("error: {message}\nhint: e2ek-sidecar --help")),
        Err(Failure::NoHub(message)) => (7, format!("error: {message}")),
        Err(Failure::Other(message)) => (1, format!("error: {message}")),
    };
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::from(code)
}

#[derive(Default)]
struct Arguments {
    socket: Option<PathBuf>,
    state: Option<PathBuf>,
    idle: Option<Duration>,
}

fn run() -> Result<(), Failure> {
    let mut words = std::env::args_os().skip(1);
    let command = words.next().unwrap_or_else(|| OsString::from("--help"));
    let arguments = parse(words)?;
    let settings = || settings(&arguments);
    match command.to_str() {
        Some("serve") => {
            let socket = socket(&arguments)?;
            let settings = settings()?;
            block_on(async { listen::serve_socket(settings, &socket, ended()?).await })
                .map_err(|error| Failure::Other(format!("{}: {error}", socket.display())))
        }
        Some("connect") => {
            let socket = socket(&arguments)?;
            connect(&socket)
        }
        Some("stdio") => {
            let settings = settings()?;
            block_on(async {
                let input = rustix::io::dup(rustix::stdio::stdin())?;
                let output = rustix::io::dup(rustix::stdio::stdout())?;
                listen::serve_link(settings, input, output, ended()?).await
            })
            .map_err(|error| Failure::Other(error.to_string()))
        }
        Some("version" | "--version" | "-V") => {
            let (low, high) = PROTOCOL;
            say(&format!("e2ek-sidecar {} (protocol {low}..={high})\n", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        Some("help" | "--help" | "-h") => {
            say(HELP);
            Ok(())
        }
        _ => Err(Failure::Usage(format!("unknown command {}", command.display()))),
    }
}

fn connect(socket: &Path) -> Result<(), Failure> {
    let carried = block_on(async {
        match listen::connect(socket).await {
            Ok(hub) => listen::bridge(hub).await.map(Ok),
            Err(error) => Ok(Err(error)),
        }
    });
    match carried {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let shown = socket.display();
            let hint = format!("hint: start one: e2ek-sidecar serve --socket {shown}");
            Err(Failure::NoHub(format!("no hub at {shown}: {error}\n{hint}")))
        }
        Err(error) => Err(Failure::Other(error.to_string())),
    }
}

fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Arguments, Failure> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next() {
        let mut value = || {
            let missing = || Failure::Usage(format!("{} needs a value", word.display()));
            words.next().ok_or_else(missing)
        };
        match word.to_str() {
            Some("--socket") => arguments.socket = Some(value()?.into()),
            Some("--state") => arguments.state = Some(value()?.into()),
            Some("--idle") => {
                let seconds = value()?.to_str().and_then(|text| text.parse().ok());
                let seconds =
                    seconds.ok_or_else(|| Failure::Usage("--idle: seconds".to_owned()))?;
                arguments.idle = Some(Duration::from_secs(seconds));
            }
            _ => return Err(Failure::Usage(format!("unknown option {}", word.display()))),
        }
    }
    Ok(arguments)
}

fn socket(arguments: &Arguments) -> Result<PathBuf, Failure> {
    arguments.socket.clone().ok_or_else(|| Failure::Usage("--socket is needed".to_owned()))
}

fn settings(arguments: &Arguments) -> Result<Settings, Failure> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let state = arguments
        .state
        .clone()
        .or_else(|| set("E2EK_STATE_DIR").map(PathBuf::from))
        .or_else(|| set("XDG_STATE_HOME").map(|dir| PathBuf::from(dir).join("e2ek-sync")))
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".local/state/e2ek-sync")));
    let state = state.ok_or_else(|| {
        Failure::Usage(
            "no place for records: give --state, or set E2EK_STATE_DIR or HOME".to_owned(),
        )
    })?;
    Ok(Settings { state, once: false, idle: arguments.idle })
}

fn block_on<T>(work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Ready when somebody asks this process to end. A hang-up is no such wish: the link tells.
fn ended() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                _ = hang_up.recv() => {}
            }
        }
    })
}
