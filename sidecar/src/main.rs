//! The `e2ek-sidecar` binary: the hub as a program of its own, the bridge to it, and the wrapper of an
//! app's command.

mod wrapper;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use e2ek_sidecar::server::{CONTENTS_BYTES, Settings, bridge, listen, said};
use e2ek_sidecar::wire::PROTOCOL;
use tokio::signal::unix::{SignalKind, signal};

const HELP: &str = "\
The hub of e2ek-sync: writes what the daemon sends, and runs the app.

Usage: e2ek-sidecar serve [--socket PATH] [--state DIR] [--idle SECONDS]
                          [--container NAME] [--contents MIB]
       e2ek-sidecar connect [--socket PATH] [--carry]
       e2ek-sidecar run [--hold SECONDS] [--stop-signal NAME] [--kill-after SECONDS] [--exit]
                        [--wrappers PATH] [--serve [--socket PATH] [--state DIR]] -- COMMAND...
       e2ek-sidecar stdio [--state DIR]
       e2ek-sidecar install DIR
       e2ek-sidecar version

Commands:
  serve    Serve every link that comes to a unix socket, until SIGTERM or, with --idle,
           until nobody was there for so long
  connect  Lend standard input and output to the hub at that socket, for one link
  run      Run a container's command: start it when its files are there, restart it as the
           hub says, hold it when it ends by itself
  stdio    Serve one link over standard input and output, and end with it
  install  Copy this program into a directory (for an init container)
  version  Print the version and the protocol spoken

Options:
  --socket PATH     The unix socket (made with mode 0600)
                    [default: $E2EK_SOCKET, /var/lib/e2ek/hub.sock]
  --state DIR       Where the records of targets are kept
                    [default: $E2EK_STATE_DIR, /var/lib/e2ek if it is there,
                    $XDG_STATE_HOME/e2ek-sync, ~/.local/state/e2ek-sync]
  --carry           Copy the bytes instead: the socket is another program's, which leads to a hub
  --idle SECONDS    End after so long without a link
  --container NAME  The container of this pod that sessions are for which name none
  --wrappers PATH   The unix socket where the wrappers of this pod's containers call
                    [default: /run/e2ek/run.sock if that directory is there]
  --contents MIB    Contents kept for each target in a container, to write them again when it
                    is started anew [default: 512]
  --hold SECONDS    How long the start waits for the first sync; forever: until it comes
                    [default: $E2EK_HOLD, 60]
  --stop-signal N   What asks the command to end before a restart [default: TERM]
  --kill-after S    From that to SIGKILL [default: 10]
  --exit            End with the command when it ends by itself
  --serve           Be the hub of the own container, too: no sidecar, no rights, no shared processes

Environment: E2EK_LOG=debug (or warn, error) says how much serve tells on standard error [info]

Exit codes: 0 ok, 1 failure, 2 usage, 7 nobody listens at the socket; of run: the command's
";

/// The store's volume in a pod, which only the sidecar has: nobody else can put a socket there.
const VOLUME: &str = "/var/lib/e2ek";

/// The volume that the sidecar and the app's container both have.
const SHARED: &str = "/run/e2ek";

enum Failure {
    /// The exit code of something that ran.
    Code(u8),
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
        Err(Failure::Code(code)) => return ExitCode::from(code),
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
    container: Option<String>,
    contents_bytes: Option<u64>,
    wrappers: Option<PathBuf>,
    carry: bool,
    /// What is no option.
    words: Vec<OsString>,
}

fn run() -> Result<(), Failure> {
    let mut words = std::env::args_os().skip(1);
    let command = words.next().unwrap_or_else(|| OsString::from("--help"));
    if command == "run" {
        return wrapper::run(words);
    }
    let arguments = parse(words)?;
    let settings = || settings(&arguments);
    match command.to_str() {
        Some("serve") => {
            said::say_up_to(level());
            let socket = socket(&arguments);
            let settings = settings()?;
            block_on(async { listen::serve_socket(settings, &socket, ended()?).await })
                .map_err(|error| Failure::Other(format!("{}: {error}", socket.display())))
        }
        Some("connect") => {
            let socket = socket(&arguments);
            connect(&socket, arguments.carry)
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
        Some("install") => match &*arguments.words {
            [directory] => install(Path::new(directory)),
            _ => Err(Failure::Usage("install: a directory is needed".to_owned())),
        },
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

fn connect(socket: &Path, carry: bool) -> Result<(), Failure> {
    let hub = listen::connect(socket).map_err(|error| {
        let shown = socket.display();
        let hint = format!(
            "hint: start one: e2ek-sidecar serve --socket {shown}; of one under `run --serve` the \
             container's log says why it is not there"
        );
        Failure::NoHub(format!("no hub at {shown}: {error}\n{hint}"))
    })?;
    let bridged = if carry { block_on(bridge::carry(hub)) } else { bridge::lend(&hub) };
    bridged.map_err(|error| Failure::Other(error.to_string()))
}

/// Copies this program, to be started from a volume of another container.
fn install(directory: &Path) -> Result<(), Failure> {
    let name = directory.join("e2ek-sidecar");
    let part = directory.join(".e2ek-sidecar.part");
    let copy = || {
        use std::os::unix::fs::PermissionsExt;
        // The program itself may be closed to reading (Dockerfile.sidecar).
        let program = std::fs::File::open("/proc/self/exe");
        let mut program = program.or_else(|_| std::fs::File::open("/e2ek-sidecar.copy"))?;
        std::io::copy(&mut program, &mut std::fs::File::create(&part)?)?;
        std::fs::set_permissions(&part, std::fs::Permissions::from_mode(0o111))?;
        std::fs::rename(&part, &name)
    };
    copy().map_err(|error: std::io::Error| Failure::Other(format!("{}: {error}", name.display())))
}

/// How much the hub says of itself.
fn level() -> tracing::Level {
    let wanted = std::env::var("E2EK_LOG").ok();
    wanted.and_then(|wanted| wanted.parse().ok()).unwrap_or(tracing::Level::INFO)
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
            Some("--carry") => arguments.carry = true,
            Some("--wrappers") => arguments.wrappers = Some(value()?.into()),
            Some("--container") => arguments.container = Some(text(&value()?, "--container")?),
            Some("--contents") => {
                let mib: Option<u64> = text(&value()?, "--contents")?.parse().ok();
                let bytes = mib.and_then(|mib| mib.checked_mul(1 << 20));
                let wrong = || Failure::Usage("--contents: mebibytes".to_owned());
                arguments.contents_bytes = Some(bytes.ok_or_else(wrong)?);
            }
            _ if word.as_encoded_bytes().starts_with(b"-") => {
                return Err(Failure::Usage(format!("unknown option {}", word.display())));
            }
            _ => arguments.words.push(word),
        }
    }
    Ok(arguments)
}

fn text(value: &OsString, option: &str) -> Result<String, Failure> {
    let wrong = || Failure::Usage(format!("{option}: text"));
    value.to_str().map(str::to_owned).ok_or_else(wrong)
}

fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn socket(arguments: &Arguments) -> PathBuf {
    let named = arguments.socket.clone().or_else(|| set("E2EK_SOCKET"));
    named.unwrap_or_else(|| Path::new(VOLUME).join("hub.sock"))
}

/// Where wrappers call.
fn wrappers(named: Option<PathBuf>) -> Option<PathBuf> {
    named.or_else(|| Path::new(SHARED).is_dir().then(|| Path::new(SHARED).join("run.sock")))
}

fn settings(arguments: &Arguments) -> Result<Settings, Failure> {
    let volume = || Path::new(VOLUME).is_dir().then(|| PathBuf::from(VOLUME));
    let state = arguments
        .state
        .clone()
        .or_else(|| set("E2EK_STATE_DIR"))
        .or_else(volume)
        .or_else(|| set("XDG_STATE_HOME").map(|dir| dir.join("e2ek-sync")))
        .or_else(|| set("HOME").map(|home| home.join(".local/state/e2ek-sync")));
    let state = state.ok_or_else(|| {
        Failure::Usage(
            "no place for records: give --state, or set E2EK_STATE_DIR or HOME".to_owned(),
        )
    })?;
    Ok(Settings {
        state,
        once: false,
        idle: arguments.idle,
        container: arguments.container.clone(),
        own: false,
        wrappers: wrappers(arguments.wrappers.clone()),
        contents_bytes: arguments.contents_bytes.unwrap_or(CONTENTS_BYTES),
    })
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
