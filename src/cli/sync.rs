//! Owns the flags of the commands that sync: `watch`, `sync`, `plan`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use e2ek_sidecar::restart::Signal;

use super::{Directory, value};
use crate::config::{DeleteBudget, Flags, Forward, Mode, WriteMode, parse_command, parse_duration};

const SYNC: &str = "Sync options";
const RESTART: &str = "Restart options";
const CLUSTER: &str = "Cluster options";

pub(super) const WATCH_EXAMPLES: &str = "\
Targets:
  /path  ./path  ../path  ~/path     a directory on this machine
  pid/1234:/srv/app                  a path inside the root of a process on this machine
  deploy/api:/srv/app                a path in the app container of a workload's pods
                                     (also sts/, ds/, rs/, job/, pod/)
  any path with --transport-cmd      the path is the far end's

Examples:
  e2ek-sync watch                                   what e2ek.toml says
  e2ek-sync watch . /tmp/copy                       one directory into another
  e2ek-sync watch . /tmp/copy -- python3 app.py     and run the app there
  e2ek-sync watch . pid/1234:/srv/app               into a running process
  e2ek-sync watch . deploy/api:/srv/app -n web      into all pods of a Deployment
  e2ek-sync watch . /srv/app --transport-cmd 'ssh host e2ek-sync hub'

A second watch of the same workspace joins the first: it adds its target and takes it away when
it ends. When the first ends, so do the others.

The first Ctrl-C stops well, the second at once.";

pub(super) const SYNC_EXAMPLES: &str = "\
Examples:
  e2ek-sync sync --once . /tmp/copy
  e2ek-sync sync --once --mode mirror --delete-budget 100% dist /srv/www

Exit code 0: the target equals the source on managed paths.";

pub(super) const PLAN_EXAMPLES: &str = "\
Examples:
  e2ek-sync plan . /tmp/copy
  e2ek-sync plan --output json | jq .path";

/// Source, target and what all commands that sync understand.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// The directory to sync from; alone, it names the workspace
    #[arg(value_name = "SRC")]
    source: Option<PathBuf>,
    /// Where to; without it, the targets of e2ek.toml
    #[arg(value_name = "TARGET")]
    target: Option<OsString>,
    /// Sync only this part, to DST below the target [repeatable]
    #[arg(long = "path", value_name = "SRC:DST", help_heading = SYNC)]
    paths: Vec<OsString>,
    /// Reach the target by this program, spoken to over stdin and stdout (no shell)
    #[arg(long, value_name = "PROG ARGS", help_heading = SYNC)]
    #[arg(value_parser = |text: &str| parse_command(text).map(Words))]
    transport_cmd: Option<Words>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Leave out what matches, in gitignore syntax [repeatable]
    #[arg(short, long, visible_alias = "ignore", value_name = "PATTERN", help_heading = SYNC)]
    exclude: Vec<String>,
    /// Take along what matches, whatever leaves it out, secrets too [repeatable]
    #[arg(long, value_name = "PATTERN", help_heading = SYNC)]
    include: Vec<String>,
    /// keep: what only the target has stays; mirror: it goes [default: keep]
    #[arg(long, value_name = "MODE", help_heading = SYNC)]
    #[arg(value_parser = value::mode(), hide_possible_values = true)]
    mode: Option<Mode>,
    /// Hold when one change deletes more paths than this [default: 25%]
    #[arg(long, value_name = "N|P%", help_heading = SYNC)]
    delete_budget: Option<DeleteBudget>,
    /// auto, rename or in-place [default: auto]
    #[arg(long, value_name = "HOW", help_heading = SYNC)]
    #[arg(value_parser = value::write(), hide_possible_values = true)]
    write: Option<WriteMode>,
    /// Look at the whole source this often too [when given alone: 2s]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "2s", value_parser = parse_duration, help_heading = SYNC)]
    poll: Option<Duration>,
    /// Take the target from the session that writes to it now
    #[arg(long, help_heading = SYNC)]
    take_over: bool,
}

/// Which cluster and which pods, spelt as kubectl spells them.
#[derive(Debug, Args)]
struct ClusterArgs {
    /// The namespace of the workload [default: the context's]
    #[arg(short, long, value_name = "NAME", help_heading = CLUSTER)]
    namespace: Option<String>,
    /// The context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME", help_heading = CLUSTER)]
    context: Option<String>,
    /// The kubeconfig [default: $KUBECONFIG, ~/.kube/config]
    #[arg(long, value_name = "FILE", help_heading = CLUSTER)]
    kubeconfig: Option<PathBuf>,
    /// The app's container in the pod [default: the only one]
    #[arg(short, long, value_name = "NAME", help_heading = CLUSTER)]
    container: Option<String>,
    /// Only this pod of the workload
    #[arg(long, value_name = "NAME", help_heading = CLUSTER)]
    pod: Option<String>,
    /// Only the workload's pods that have these labels, as in app=api
    #[arg(short = 'l', long, value_name = "LABELS", help_heading = CLUSTER)]
    selector: Option<String>,
}

impl ClusterArgs {
    fn add_to(&self, flags: &mut Flags) {
        flags.namespace = self.namespace.clone();
        flags.context = self.context.clone();
        flags.kubeconfig = self.kubeconfig.clone();
        flags.container = self.container.clone();
        flags.pod = self.pod.clone();
        flags.selector = self.selector.clone();
    }
}

/// A command's words. A type of its own, for clap reads a bare `Vec` as a repeated flag.
#[derive(Debug, Clone)]
struct Words(Vec<String>);

/// `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    #[command(flatten)]
    sync: SyncArgs,
    /// Asks the app to stop [default: SIGINT]
    #[arg(long, value_name = "SIGNAL", help_heading = RESTART)]
    signal: Option<Signal>,
    /// Then kill it [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = RESTART)]
    kill_after: Option<Duration>,
    /// The quiet that a restart waits for; files do not wait [default: 50ms]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = RESTART)]
    #[arg(alias = "debounce-interval")]
    debounce: Option<Duration>,
    /// Restart for these only, as in '*.py;*.html' [repeatable]
    #[arg(long, value_name = "PATTERNS", help_heading = RESTART)]
    patterns: Vec<String>,
    /// Never restart for these [repeatable]
    #[arg(long, value_name = "PATTERNS", help_heading = RESTART)]
    ignore_patterns: Vec<String>,
    /// After the app exits, wait for the next change: what watch does anyway
    #[arg(long, help_heading = RESTART)]
    no_restart_on_command_exit: bool,
    /// Have PORT of this machine lead to PORT of the pods, over restarts and new pods [repeatable]
    #[arg(long = "forward", value_name = "PORT[:PORT]", help_heading = CLUSTER)]
    forwards: Vec<Forward>,
    /// The app: run at the target, restarted after changes
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
    #[command(flatten)]
    pub(super) directory: Directory,
}

/// `sync`.
#[derive(Debug, Args)]
pub struct OnceArgs {
    /// Bring the target up to date and exit; to go on following, use watch
    #[arg(long, required = true)]
    once: bool,
    #[command(flatten)]
    sync: SyncArgs,
    #[command(flatten)]
    pub(super) directory: Directory,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    sync: SyncArgs,
    #[command(flatten)]
    pub(super) directory: Directory,
}

impl SyncArgs {
    fn add_to(&self, flags: &mut Flags) {
        flags.wants_targets = true;
        flags.source = self.source.clone();
        flags.target = self.target.clone();
        flags.paths = self.paths.clone();
        flags.transport = self.transport_cmd.clone().map(|words| words.0);
        self.cluster.add_to(flags);
        flags.exclude = self.exclude.clone();
        flags.include = self.include.clone();
        flags.mode = self.mode;
        flags.delete_budget = self.delete_budget;
        flags.write = self.write;
        flags.poll = self.poll;
        flags.take_over = self.take_over;
    }
}

impl WatchArgs {
    pub(super) fn add_to(&self, flags: &mut Flags) {
        self.sync.add_to(flags);
        let patterns = |lists: &[String]| (!lists.is_empty()).then(|| value::patterns(lists));
        flags.command = self.command.clone();
        flags.forwards = self.forwards.clone();
        flags.signal = self.signal;
        flags.kill_after = self.kill_after;
        flags.debounce = self.debounce;
        flags.patterns = patterns(&self.patterns);
        flags.ignore_patterns = patterns(&self.ignore_patterns);
    }
}

impl OnceArgs {
    pub(super) fn add_to(&self, flags: &mut Flags) {
        self.sync.add_to(flags);
    }
}

impl PlanArgs {
    pub(super) fn add_to(&self, flags: &mut Flags) {
        self.sync.add_to(flags);
    }
}
