//! What the configuration means to the session, the hubs and the links.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::restart::{Action, OnExit, Policy};
use e2ek_sidecar::wire::{self, Blob, CommandSpec, Open};

use crate::config::{self, Config, Target, TargetSpec};
use crate::engine::plan;
use crate::engine::session::{Ignored, Rules, Settings};
use crate::error::Error;
use crate::filter::{FilterOptions, GitPlaces, Patterns};
use crate::transport::process::Transport;

/// The longest a restart waits for quiet (architecture.md, One edit, one way).
const SETTLE_AT_MOST: Duration = Duration::from_secs(2);
/// The longest a restart waits for git to let go of its index.
const GIT_AT_MOST: Duration = Duration::from_secs(30);

/// Which command is being carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `watch`.
    Watch,
    /// `sync --once`.
    Once,
    /// `plan`.
    Plan,
}

/// The source directories, which all targets share.
pub(super) fn sources(config: &Config) -> Result<Vec<PathBuf>, Error> {
    let of = |target: &Target| -> Vec<PathBuf> {
        target.pairs.iter().map(|pair| pair.from.clone()).collect()
    };
    let first = config.targets.first().map(of).unwrap_or_default();
    match config.targets.iter().find(|target| of(target) != first) {
        Some(_) => {
            Err(Error::not_built("targets with different source directories in one session"))
        }
        None => Ok(first),
    }
}

pub(super) fn filter_options(config: &Config) -> FilterOptions {
    let texts = |values: &[config::Value<String>]| -> Vec<String> {
        values.iter().map(|value| value.value.clone()).collect()
    };
    FilterOptions {
        excludes: texts(&config.sync.excludes),
        includes: texts(&config.sync.includes),
        git: Some(GitPlaces::from_vars(|name| config.places.git.get(name))),
    }
}

pub(super) fn session(kind: Kind, config: &Config, terminal: bool, ignored: Ignored) -> Settings {
    let command = config.targets.first().and_then(|target| target.command.as_ref());
    let command = command.filter(|_| kind == Kind::Watch).map(|argv| CommandSpec {
        argv: argv.value.iter().map(|word| Blob(word.as_bytes().to_vec())).collect(),
        policy: Policy {
            stop_signal: config.restart.signal.value,
            kill_after: config.restart.kill_after.value,
            debounce: Duration::ZERO,
            on_exit: OnExit::Hold,
        },
        inherit: terminal,
    });
    Settings {
        dry: kind == Kind::Plan,
        mode: match config.sync.mode.value {
            config::Mode::Keep => plan::Mode::Keep,
            config::Mode::Mirror => plan::Mode::Mirror,
        },
        budget: match config.sync.delete_budget.value {
            config::DeleteBudget::Count(count) => plan::DeleteBudget::Count(count),
            config::DeleteBudget::Percent(share) => plan::DeleteBudget::Percent(share),
        },
        settle: config.restart.debounce.value,
        settle_at_most: SETTLE_AT_MOST,
        git_at_most: GIT_AT_MOST,
        command,
        rules: rules(config),
        ignored,
    }
}

/// The restart rules as one question: what does this path ask for? The first rule that matches
/// decides.
fn rules(config: &Config) -> Rules {
    let restart = &config.restart;
    let list: Vec<(Patterns, Option<Vec<String>>, Action)> = (restart.rules.iter())
        .map(|rule| {
            let run = rule.run.as_ref().map(|run| run.value.clone());
            (Patterns::new(&rule.paths), run, rule.action.value.clone())
        })
        .collect();
    let some = (!restart.patterns.value.is_empty()).then(|| Patterns::new(&restart.patterns.value));
    let never = Patterns::new(&restart.ignore_patterns.value);
    let default = restart.default.value.clone();
    Box::new(move |path: &SyncPath| {
        let Some((_, below)) = e2ek_sidecar::receive::root_index(path) else { return Vec::new() };
        let left_out = some.as_ref().is_some_and(|some| !some.matches(&below));
        if below.is_root() || left_out || never.matches(&below) {
            return Vec::new();
        }
        match list.iter().find(|(patterns, ..)| patterns.matches(&below)) {
            Some((_, run, action)) => {
                let run = run.iter().map(|argv| Action::Run(argv.clone()));
                run.chain([action.clone()]).collect()
            }
            None => vec![default.clone()],
        }
    })
}

/// The first message to a target's hub.
pub(super) fn open(kind: Kind, config: &Config, target: &Target) -> Result<Open, Error> {
    let process = match &target.spec.value {
        TargetSpec::Directory(_) => None,
        TargetSpec::Process { pid, .. } => Some(i32::try_from(*pid).unwrap_or(i32::MAX)),
        TargetSpec::Kube { .. } => return Err(Error::not_built("a target in a cluster")),
        TargetSpec::Ssh { .. } => return Err(Error::not_built("a target on an SSH host")),
    };
    let folder = &config.workspace.folder;
    let hash = blake3::hash(folder.as_os_str().as_bytes());
    let mut workspace = [0; 16];
    workspace.copy_from_slice(&hash.as_bytes()[..16]);
    let roots = (target.pairs.iter())
        .map(|pair| Blob(below(&target.root, &pair.to).as_os_str().as_bytes().to_vec()))
        .collect();
    Ok(Open {
        workspace,
        writer: format!("{}:{}", config.writer, folder.display()),
        roots,
        process,
        write: match config.sync.write.value {
            config::WriteMode::Auto => wire::WriteMode::Auto,
            config::WriteMode::Rename => wire::WriteMode::Rename,
            config::WriteMode::InPlace => wire::WriteMode::InPlace,
        },
        take_over: config.sync.take_over,
        check: kind != Kind::Watch,
        dry_run: kind == Kind::Plan,
    })
}

fn below(root: &Path, to: &SyncPath) -> PathBuf {
    if to.is_root() {
        return root.to_owned();
    }
    root.join(std::ffi::OsStr::from_bytes(to.as_bytes()))
}

/// How a target's hub is reached.
pub(super) fn transport(
    config: &Config,
    target: &Target,
    terminal: bool,
) -> Result<Transport, Error> {
    if let Some(argv) = &target.transport {
        return Ok(Transport::Program(argv.value.clone()));
    }
    let program = std::env::current_exe()
        .map_err(|error| Error::io("find", Path::new("the running program"), &error))?;
    let state = config.places.state.value.clone();
    Ok(Transport::Embedded { program, state, terminal })
}
