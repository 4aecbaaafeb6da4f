//! Owns the layer of what was typed: parsed into types by `cli`, resolved against nothing.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use e2ek_sidecar::restart::Signal;

use super::cluster::Forward;
use super::quantity::DeleteBudget;
use super::settings::{ColorChoice, Mode, Output, WriteMode};

/// What was typed; `None` and empty mean that it was not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// The command is one that syncs, so sources and targets are resolved and checked.
    pub wants_targets: bool,
    /// SRC.
    pub source: Option<PathBuf>,
    /// TARGET.
    pub target: Option<OsString>,
    /// `--path`, each `SRC:DST`.
    pub paths: Vec<OsString>,
    /// `--transport-cmd`, split into words.
    pub transport: Option<Vec<String>>,
    /// What stands after `--`.
    pub command: Vec<OsString>,

    /// `--kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `--context`.
    pub context: Option<String>,
    /// `--namespace`.
    pub namespace: Option<String>,
    /// `--selector`.
    pub selector: Option<String>,
    /// `--pod`.
    pub pod: Option<String>,
    /// `--container`.
    pub container: Option<String>,
    /// `--forward`.
    pub forwards: Vec<Forward>,

    /// `-C`.
    pub directory: Option<PathBuf>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--target`.
    pub targets: Vec<String>,
    /// `-v`, counted.
    pub verbose: u8,
    /// `-q`, counted.
    pub quiet: u8,
    /// `--color`.
    pub color: Option<ColorChoice>,
    /// `--output`.
    pub output: Option<Output>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--log`.
    pub log: Option<String>,

    /// `--exclude`.
    pub exclude: Vec<String>,
    /// `--include`.
    pub include: Vec<String>,
    /// `--mode`.
    pub mode: Option<Mode>,
    /// `--delete-budget`.
    pub delete_budget: Option<DeleteBudget>,
    /// `--write`.
    pub write: Option<WriteMode>,
    /// `--poll`.
    pub poll: Option<Duration>,
    /// `--take-over`.
    pub take_over: bool,

    /// `--signal`.
    pub signal: Option<Signal>,
    /// `--kill-after`.
    pub kill_after: Option<Duration>,
    /// `--debounce`.
    pub debounce: Option<Duration>,
    /// `--patterns`.
    pub patterns: Option<Vec<String>>,
    /// `--ignore-patterns`.
    pub ignore_patterns: Option<Vec<String>>,
}
