//! Owns the list of commands, and the flags of those that talk to a running daemon.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};

use super::Directory;
use super::supervise::{self, SuperviseArgs};
use super::sync::{self, OnceArgs, PlanArgs, WatchArgs};
use crate::config::{Flags, parse_duration};

/// One command of the contract (cli.md).
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring the target up to date, then follow the source until stopped
    #[command(after_help = sync::WATCH_EXAMPLES)]
    Watch(WatchArgs),
    /// Bring the target up to date once, then exit
    #[command(after_help = sync::SYNC_EXAMPLES)]
    Sync(OnceArgs),
    /// Show what sync would write, delete and restart, per path with the reason
    #[command(after_help = sync::PLAN_EXAMPLES)]
    Plan(PlanArgs),
    /// Wait until every save made before this call is applied at all targets
    #[command(after_help = FLUSH_EXAMPLES)]
    Flush(FlushArgs),
    /// Wait for a generation, for all to be in sync, or for the app to be ready
    #[command(after_help = WAIT_EXAMPLES)]
    Wait(WaitArgs),
    /// Show the state of the session; never starts one
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArgs),
    /// Restart the app now
    Restart(ControlArgs),
    /// Hold all writes until resume
    Pause(ControlArgs),
    /// Go on after pause, or after a hold
    Resume(ResumeArgs),
    /// Forget what was synced, and compare anew
    Reset(ControlArgs),
    /// End the session well
    Stop(ControlArgs),
    /// Follow a running session's events; leaving does not stop it
    Attach(AttachArgs),
    /// Restart a command when files change: no sync, watchmedo's flags and defaults
    #[command(after_help = supervise::EXAMPLES)]
    Supervise(SuperviseArgs),
    /// Tell which paths are left out, and with -v by which rule; grammar and exit codes are git's
    #[command(after_help = IGNORE_EXAMPLES)]
    CheckIgnore(CheckIgnoreArgs),
    /// Show this program's version and the protocol versions it speaks
    Version(VersionArgs),
    /// The far end of a link: speaks the protocol over stdin and stdout
    #[command(hide = true)]
    Hub(HubArgs),
}

const FLUSH_EXAMPLES: &str = "\
Examples:
  e2ek-sync flush && curl localhost:8080/add/1/2
  e2ek-sync flush --restarted --timeout 30s

Exit codes: 5 when held or paused, 6 after the timeout or when disconnected, 7 without a daemon.";

const WAIT_EXAMPLES: &str = "\
Examples:
  e2ek-sync wait --ready --timeout 1m
  e2ek-sync wait --gen 42

Exit codes: 5 when held or paused, 6 after the timeout or when disconnected, 7 without a daemon.";

const STATUS_EXAMPLES: &str = "\
Examples:
  e2ek-sync status
  e2ek-sync status --json | jq -r .state
  e2ek-sync status --watch";

const IGNORE_EXAMPLES: &str = "\
Examples:
  e2ek-sync check-ignore -v .env build/app.o
  git ls-files -z | e2ek-sync check-ignore -z --stdin

Exit codes: 0 when at least one path is left out, 1 when none is, 128 when it cannot be told.";

/// `flush`.
#[derive(Debug, Args)]
pub struct FlushArgs {
    #[command(flatten)]
    directory: Directory,
    /// Give up after this long, with exit code 6
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Wait for the restarts as well
    #[arg(long)]
    pub restarted: bool,
}

/// `wait`; exactly one of the three is given.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("until").required(true).args(["gen", "synced", "ready"]))]
pub struct WaitArgs {
    #[command(flatten)]
    directory: Directory,
    /// Until all targets have acknowledged generation N
    #[arg(long = "gen", id = "gen", value_name = "N")]
    pub generation: Option<u64>,
    /// Until all targets equal the source
    #[arg(long)]
    pub synced: bool,
    /// Until the app is ready after its last restart
    #[arg(long)]
    pub ready: bool,
    /// Give up after this long, with exit code 6 [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
}

/// `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    directory: Directory,
    /// One JSON object
    #[arg(long)]
    pub json: bool,
    /// Go on showing it as it changes
    #[arg(long)]
    pub watch: bool,
}

/// `restart`, `pause`, `reset`, `stop`.
#[derive(Debug, Args)]
pub struct ControlArgs {
    #[command(flatten)]
    directory: Directory,
}

/// `resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    #[command(flatten)]
    directory: Directory,
    /// Make the deletes that are held
    #[arg(long)]
    pub accept: bool,
}

/// `attach`.
#[derive(Debug, Args)]
pub struct AttachArgs {
    #[command(flatten)]
    directory: Directory,
}

/// `check-ignore`; its `-v` and `-q` are the global ones. What makes no sense together is found where
/// the question is asked, in the order in which git does.
#[derive(Debug, Args)]
pub struct CheckIgnoreArgs {
    #[command(flatten)]
    directory: Directory,
    /// Divide paths by NUL, in and out
    #[arg(short = 'z')]
    pub nul: bool,
    /// Read the paths from stdin
    #[arg(long)]
    pub stdin: bool,
    /// With -v: tell also of the paths that no rule matches
    #[arg(short, long)]
    pub non_matching: bool,
    /// Nothing new: whether git tracks a path never plays a part here
    #[arg(long)]
    pub no_index: bool,
    /// The paths to judge
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

/// `version`.
#[derive(Debug, Args)]
pub struct VersionArgs {
    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// `hub`.
#[derive(Debug, Args)]
pub struct HubArgs {
    /// The inherited pipe or socket to read the link from, by its number [default: stdin]
    #[arg(long, value_name = "FD")]
    pub link: Option<RawFd>,
    /// The inherited pipe to write the link to [default: that of --link, else stdout]
    #[arg(long, value_name = "FD", requires = "link")]
    pub link_out: Option<RawFd>,
    /// Where the records of targets are kept
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
}

impl Command {
    /// What was given with `-C` after the command's name.
    pub(super) fn directory(&self) -> Option<&PathBuf> {
        let directory = match self {
            Self::Supervise(args) => return args.directory(),
            Self::Version(_) | Self::Hub(_) => return None,
            Self::Watch(args) => &args.directory,
            Self::Sync(args) => &args.directory,
            Self::Plan(args) => &args.directory,
            Self::Flush(args) => &args.directory,
            Self::Wait(args) => &args.directory,
            Self::Status(args) => &args.directory,
            Self::Attach(args) => &args.directory,
            Self::Resume(args) => &args.directory,
            Self::CheckIgnore(args) => &args.directory,
            Self::Restart(args) | Self::Pause(args) | Self::Reset(args) | Self::Stop(args) => {
                &args.directory
            }
        };
        directory.directory.as_ref()
    }

    pub(super) fn add_to(&self, flags: &mut Flags) {
        match self {
            Self::Watch(args) => args.add_to(flags),
            Self::Sync(args) => args.add_to(flags),
            Self::Plan(args) => args.add_to(flags),
            _ => {}
        }
    }

    /// The command's name, as it is typed.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Watch(_) => "watch",
            Self::Sync(_) => "sync",
            Self::Plan(_) => "plan",
            Self::Flush(_) => "flush",
            Self::Wait(_) => "wait",
            Self::Status(_) => "status",
            Self::Restart(_) => "restart",
            Self::Pause(_) => "pause",
            Self::Resume(_) => "resume",
            Self::Reset(_) => "reset",
            Self::Stop(_) => "stop",
            Self::Attach(_) => "attach",
            Self::Supervise(_) => "supervise",
            Self::CheckIgnore(_) => "check-ignore",
            Self::Version(_) => "version",
            Self::Hub(_) => "hub",
        }
    }
}
