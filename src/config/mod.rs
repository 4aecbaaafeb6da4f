//! Owns the way from layers (built in, e2ek.toml, environment, what was typed) to one [`Config`].
//!
//! Promises that every value knows its source, that every path in a [`Config`] is absolute, and that
//! a fault names the file's line or the flag. Below this room nobody reads the environment, the home
//! directory, flags or files of configuration (architecture.md, rule 3). Leaves the words for people
//! to `error`, consent for commands that a repository brings to whoever runs them
//! ([`Config::commands_from_file`]), and making directories to whoever uses them.

mod cluster;
mod destination;
mod error;
mod explain;
mod file;
mod flags;
mod places;
mod quantity;
mod resolve;
mod settings;
mod table;
mod target;
#[cfg(test)]
mod tests;
mod value;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::restart::{Action, Signal};

pub use cluster::{ClusterChoice, Forward};
pub use error::ConfigError;
pub use explain::{FileCommand, Setting};
pub use flags::Flags;
pub use places::{Environment, GitVariables, Places, ProxyVariables, WorkspaceId, make_private};
pub use quantity::{
    DeleteBudget, QuantityError, parse_command, parse_duration, parse_seconds, show_duration,
};
pub use settings::{ColorChoice, Mode, Output, Ready, Rule, WriteMode};
pub use target::{PairSpec, TargetError, TargetSpec};
pub use value::{Location, Source, Value};

/// Everything that is settled before anything starts.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whose daemon it is.
    pub workspace: Workspace,
    /// Where files go; empty for commands that talk to a running daemon.
    pub targets: Vec<Target>,
    /// How files are chosen and written.
    pub sync: SyncSettings,
    /// When and how CMD is restarted.
    pub restart: RestartSettings,
    /// How things are said.
    pub say: Say,
    /// The directories on this machine.
    pub places: Places,
    /// `user@host`.
    pub writer: String,
    /// Ports of this machine that lead into the pods of the first workload.
    pub forwards: Vec<Forward>,
}

/// The folder that one daemon serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Canonical: the folder of e2ek.toml, else SRC, else the directory the command runs in.
    pub folder: PathBuf,
    /// Made of the folder.
    pub id: WorkspaceId,
    /// The e2ek.toml that was read.
    pub file: Option<PathBuf>,
}

/// One place that files go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name in e2ek.toml, else the target as typed.
    pub name: Value<String>,
    /// What kind of place it is. A local directory is absolute, its links resolved as far as it
    /// exists; with a transport command it is as written, since it is the far end's.
    pub spec: Value<TargetSpec>,
    /// The path at the target that the pairs' `to` is below.
    pub root: PathBuf,
    /// What goes where; never empty. No two `to` are one inside the other.
    pub pairs: Vec<PathPair>,
    /// The program that is spoken to over stdin and stdout, with its arguments. Never empty.
    pub transport: Option<Value<Vec<OsString>>>,
    /// The command to run at the target, with its arguments. Never empty.
    pub command: Option<Value<Vec<OsString>>>,
    /// How it is known that the command is ready.
    pub ready: Option<Value<Ready>>,
    /// Which cluster, and which of its pods; only of a workload.
    pub cluster: Option<ClusterChoice>,
}

/// A source directory and its place below a target's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPair {
    /// A canonical directory on this machine.
    pub from: PathBuf,
    /// Relative to [`Target::root`]; the root itself when it is the whole target.
    pub to: SyncPath,
    /// Who said so.
    pub source: Source,
}

/// How files are chosen and written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncSettings {
    /// gitignore lines, the file's before those typed: a later one wins.
    pub excludes: Vec<Value<String>>,
    /// gitignore lines of what goes whatever else says not.
    pub includes: Vec<Value<String>>,
    /// What happens to paths that the source does not have.
    pub mode: Value<Mode>,
    /// How much one change may delete.
    pub delete_budget: Value<DeleteBudget>,
    /// How content is put in place.
    pub write: Value<WriteMode>,
    /// Look for changes at this interval, beside what the kernel tells.
    pub poll: Value<Option<Duration>>,
    /// Take the right to write from whoever holds it. Only ever typed.
    pub take_over: bool,
}

/// When and how CMD is restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartSettings {
    /// What asks it to stop.
    pub signal: Value<Signal>,
    /// How long it may take before SIGKILL.
    pub kill_after: Value<Duration>,
    /// How long it must be quiet before a restart.
    pub debounce: Value<Duration>,
    /// For paths that no rule matches; never [`Action::Run`].
    pub default: Value<Action>,
    /// In the file's order.
    pub rules: Vec<Rule>,
    /// When not empty, only paths that match one of these restart.
    pub patterns: Value<Vec<String>>,
    /// Paths that match one of these never restart.
    pub ignore_patterns: Value<Vec<String>>,
}

/// How things are said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Say {
    /// For people, for scripts by line, or JSON.
    pub output: Value<Output>,
    /// Whether stdout gets colours: already decided.
    pub color: Value<bool>,
    /// `-v` counted, less `-q`.
    pub verbosity: i8,
    /// The log's filter, in tracing's notation.
    pub log: Option<Value<String>>,
}

impl Config {
    /// The directory of the workspace's own state; may not exist.
    #[must_use]
    pub fn workspace_state(&self) -> PathBuf {
        self.places.state.value.join(self.workspace.id.as_str())
    }

    /// Where the workspace's daemon listens; fits a socket's address.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.places.runtime.value.join(format!("{}.sock", self.workspace.id.as_str()))
    }
}
