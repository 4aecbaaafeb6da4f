//! What the configuration means to the session, the hubs and the links.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::restart::{Action, OnExit, Policy, Signal};
use e2ek_sidecar::wire::{self, Blob, CommandSpec, Open};

use crate::config::{self, Config, Target, TargetSpec};
use crate::control::{Joining, TargetPlace, Wanted, WantedCommand, WantedWorkload, Word};
use crate::engine::plan;
use crate::engine::session::{Ignored, Rules, Settings};
use crate::error::Error;
use crate::filter::{FilterOptions, GitPlaces, Patterns};
use crate::transport::process;

/// The longest a restart waits for quiet (architecture.md, One edit, one way).
const SETTLE_AT_MOST: Duration = Duration::from_secs(2);
/// The longest a restart waits for git to let go of its index.
const GIT_AT_MOST: Duration = Duration::from_secs(30);
/// Content from this size on goes ahead of its generation. Smaller content was kept when the file was
/// looked at, and is over in a moment: on a link of 10 MB/s a save waits a tenth of a second for it.
const AHEAD_FROM_BYTES: u64 = 1 << 20;

/// Settings that are one for all targets of a session.
const SHARED: &[&str] = &[
    "workspace.exclude",
    "workspace.include",
    "workspace.mode",
    "workspace.delete-budget",
    "workspace.poll",
];
/// The same of its commands.
const OF_COMMANDS: &[&str] = &[
    "restart.debounce",
    "restart.default",
    "restart.rule",
    "restart.patterns",
    "restart.ignore-patterns",
];

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

pub(super) fn session(kind: Kind, config: &Config, ignored: Ignored) -> Settings {
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
        ahead_from: AHEAD_FROM_BYTES,
        settle: config.restart.debounce.value,
        settle_at_most: SETTLE_AT_MOST,
        git_at_most: GIT_AT_MOST,
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
    if list.is_empty() && some.is_none() && restart.ignore_patterns.value.is_empty() {
        // The same for every path but the pairs' own: many may be asked about at once.
        return Box::new(move |path: &SyncPath| match path.as_bytes().contains(&b'/') {
            true => vec![default.clone()],
            false => Vec::new(),
        });
    }
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

/// A target of the configuration as the daemon is asked for it, by this process or by another.
pub(super) fn wanted(kind: Kind, config: &Config, target: &Target) -> Result<Wanted, Error> {
    let process = match &target.spec.value {
        TargetSpec::Directory(_) => None,
        TargetSpec::Process { pid, .. } => Some(*pid),
        // Of its pods as they come.
        TargetSpec::Kube { .. } => None,
        TargetSpec::Ssh { .. } => return Err(Error::not_built("a target on an SSH host")),
    };
    let words =
        |argv: &Vec<OsString>| argv.iter().map(|word| Word::from(&**word)).collect::<Vec<_>>();
    let directory = std::env::current_dir().ok();
    let transport = target.transport.as_ref().map(|argv| {
        let mut argv = words(&argv.value);
        // What holds a slash is found from where it was typed, not in PATH.
        if let (Some(program), Some(directory)) = (argv.first_mut(), &directory)
            && program.as_bytes().contains(&b'/')
        {
            *program = Word::from(directory.join(program.as_path()));
        }
        argv
    });
    let command = target.command.as_ref().filter(|_| kind == Kind::Watch);
    Ok(Wanted {
        name: target.name.value.clone(),
        place: TargetPlace {
            roots: target.pairs.iter().map(|pair| below(&target.root, &pair.to).into()).collect(),
            process,
            transport,
            pod: None,
        },
        root: target.root.as_path().into(),
        directory: directory.filter(|_| target.transport.is_some()).map(Word::from),
        write: config.sync.write.value.to_string(),
        take_over: config.sync.take_over,
        command: command.map(|argv| WantedCommand {
            argv: words(&argv.value),
            signal: config.restart.signal.value.number(),
            kill_after_ms: u64::try_from(config.restart.kill_after.value.as_millis())
                .unwrap_or(u64::MAX),
        }),
        workload: workload(config, target),
    })
}

/// The workload that a target names.
fn workload(config: &Config, target: &Target) -> Option<WantedWorkload> {
    let TargetSpec::Kube { kind, name, .. } = &target.spec.value else { return None };
    let choice = target.cluster.as_ref()?;
    let word =
        |value: &Option<config::Value<String>>| value.as_ref().map(|value| value.value.clone());
    let proxies = &config.places.proxies;
    Some(WantedWorkload {
        kind: (*kind).to_owned(),
        name: name.clone(),
        kubeconfig: choice.kubeconfig.iter().map(|path| Word::from(path.as_path())).collect(),
        context: word(&choice.context),
        namespace: word(&choice.namespace),
        pod: word(&choice.pod),
        selector: word(&choice.selector),
        container: word(&choice.container),
        proxies: [&proxies.https, &proxies.http, &proxies.no].map(Clone::clone),
    })
}

/// What a second watch says of itself.
pub(super) fn joining(config: &Config) -> Result<Joining, Error> {
    let wanted = config.targets.iter().map(|target| wanted(Kind::Watch, config, target));
    let targets = wanted.collect::<Result<Vec<_>, Error>>()?;
    let sources = sources(config)?;
    Ok(Joining {
        sources: sources.into_iter().map(Word::from).collect(),
        settings: shared(config),
        targets,
        forwards: config.forwards.iter().map(|forward| (forward.local, forward.remote)).collect(),
    })
}

/// The settings that are one for all targets, as they would be typed. A setting of which there are
/// several stands once for each, in order.
pub(super) fn shared(config: &Config) -> Vec<(String, String)> {
    let account = config.explain().into_iter().map(|setting| (setting.name, setting.value));
    let restart = &config.restart;
    let patterns = [("patterns", &restart.patterns), ("ignore-patterns", &restart.ignore_patterns)];
    let patterns = patterns.into_iter().flat_map(|(name, list)| {
        list.value.iter().map(move |pattern| (format!("restart.{name}"), pattern.clone()))
    });
    let one_for_all =
        |(name, _): &(String, String)| [SHARED, OF_COMMANDS].concat().contains(&name.as_str());
    account.chain(patterns).filter(one_for_all).collect()
}

/// The first setting that two watches of one workspace cannot both have: its name, theirs, ours.
/// Without a command it does not matter when commands are restarted.
pub(super) fn difference(
    theirs: &[(String, String)],
    ours: &[(String, String)],
    command: bool,
) -> Option<(String, String, String)> {
    let value = |list: &[(String, String)], name: &str| {
        let of_name = list.iter().filter(|(other, _)| other == name).map(|(_, value)| &**value);
        of_name.collect::<Vec<_>>().join(" ")
    };
    let names = SHARED.iter().chain(OF_COMMANDS.iter().filter(|_| command));
    names
        .map(|name| (name, value(theirs, name), value(ours, name)))
        .find(|(name, theirs, ours)| {
            theirs != ours && !(**name == "workspace.poll" && ours == "never")
        })
        .map(|(name, theirs, ours)| {
            let name = name.rsplit('.').next().unwrap_or(name);
            (name.to_owned(), theirs, ours)
        })
}

/// The command of a target.
pub(super) fn command(wanted: &Wanted, terminal: bool) -> Option<CommandSpec> {
    let command = wanted.command.as_ref()?;
    Some(CommandSpec {
        argv: command.argv.iter().map(|word| Blob(word.as_bytes().to_vec())).collect(),
        policy: Policy {
            stop_signal: Signal::from_number(command.signal).unwrap_or(Signal::INT),
            kill_after: Duration::from_millis(command.kill_after_ms),
            debounce: Duration::ZERO,
            on_exit: OnExit::Hold,
        },
        inherit: terminal,
    })
}

/// A container's own command, which its wrapper runs: without words, for it is in the pod's manifest.
pub(super) fn wrapped(config: &Config) -> CommandSpec {
    let policy = Policy {
        stop_signal: config.restart.signal.value,
        kill_after: config.restart.kill_after.value,
        debounce: Duration::ZERO,
        on_exit: OnExit::Hold,
    };
    CommandSpec { argv: Vec::new(), policy, inherit: false }
}

/// The first message to a target's hub.
pub(super) fn open(
    kind: Kind,
    config: &Config,
    workspace: wire::WorkspaceId,
    wanted: &Wanted,
) -> Open {
    let folder = &config.workspace.folder;
    let roots = wanted.place.roots.iter().map(|root| Blob(root.as_bytes().to_vec()));
    Open {
        workspace,
        writer: format!("{}:{}", config.writer, folder.display()),
        roots: roots.collect(),
        process: wanted.place.process.map(|pid| i32::try_from(pid).unwrap_or(i32::MAX)),
        write: match config::WriteMode::from_name(&wanted.write) {
            Some(config::WriteMode::Rename) => wire::WriteMode::Rename,
            Some(config::WriteMode::InPlace) => wire::WriteMode::InPlace,
            Some(config::WriteMode::Auto) | None => wire::WriteMode::Auto,
        },
        take_over: wanted.take_over,
        check: kind != Kind::Watch,
        dry_run: kind == Kind::Plan,
    }
}

fn below(root: &Path, to: &SyncPath) -> PathBuf {
    if to.is_root() {
        return root.to_owned();
    }
    root.join(std::ffi::OsStr::from_bytes(to.as_bytes()))
}

/// How a target's hub is reached; `program` is this one.
pub(super) fn transport(
    program: &Path,
    config: &Config,
    wanted: &Wanted,
    terminal: bool,
) -> process::Transport {
    if let Some(argv) = &wanted.place.transport {
        let argv = argv.iter().map(|word| word.0.clone()).collect();
        let directory = wanted.directory.as_ref().map(|word| word.as_path().to_owned());
        return process::Transport::Program { argv, directory };
    }
    let state = config.places.state.value.clone();
    process::Transport::Embedded { program: program.to_owned(), state, terminal }
}
