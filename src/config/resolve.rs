//! Owns the merging: which file is read and which layer wins. What the words of targets become is
//! `destination`'s.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2ek_sidecar::restart::{Action, Signal};

use super::destination::Scene;
use super::error::ConfigError;
use super::file::{File, RestartLayer, WorkspaceLayer};
use super::flags::Flags;
use super::places::{Environment, Places, WorkspaceId};
use super::quantity::DeleteBudget;
use super::settings::{ColorChoice, Mode, Output, WriteMode};
use super::value::{Source, Value};
use super::{Config, RestartSettings, Say, SyncSettings, Workspace};

const FILE_NAME: &str = "e2ek.toml";

impl Config {
    /// Lays the layers over each other: what was typed beats the environment, which beats the file,
    /// which beats what is built in. Lists (excludes, includes) add up.
    ///
    /// Reads at most one file of configuration and looks at the directories that are named; writes
    /// nothing. Unless [`Flags::wants_targets`], targets and sources are not looked at, so that
    /// `status` and `stop` work when those are gone.
    ///
    /// # Errors
    /// When the file does not read, or what it and the flags name cannot be synced.
    pub fn resolve(flags: &Flags, environment: &Environment) -> Result<Self, ConfigError> {
        Self::lay(flags, environment, Err)
    }

    /// As [`Self::resolve`], for those who only ask a running daemon: what is wrong inside the file is
    /// given beside, and the settings are as if it said nothing.
    ///
    /// # Errors
    /// When it cannot be told which workspace is meant.
    pub fn of_workspace(
        flags: &Flags,
        environment: &Environment,
    ) -> Result<(Self, Option<ConfigError>), ConfigError> {
        let mut fault = None;
        let config = Self::lay(flags, environment, |error| {
            fault = Some(error);
            Ok(None)
        })?;
        Ok((config, fault))
    }

    /// Lays the layers over each other. `unread` decides about a file that does not read.
    fn lay(
        flags: &Flags,
        environment: &Environment,
        unread: impl FnOnce(ConfigError) -> Result<Option<File>, ConfigError>,
    ) -> Result<Self, ConfigError> {
        let base = match &flags.directory {
            Some(directory) => environment.current_dir.join(directory),
            None => environment.current_dir.clone(),
        };
        let base = directory("enter", &base)?;
        let source = flags.source.as_ref().map(|source| base.join(source));
        let source = source.map(|source| source_directory(&source, flags.wants_targets));
        let source = source.transpose()?;
        let start = source.as_deref().unwrap_or(&base);
        let path = find_file(flags, &base, start, environment)?;
        let folder = path.as_deref().map_or(start, parent).to_owned();
        let file = path.as_deref().map(read_file).transpose().or_else(unread)?;
        let places = Places::resolve(flags.state_dir.as_ref().map(|d| base.join(d)), environment)?;

        let (workspace, targets, restart) = match file {
            Some(file) => (file.workspace, file.targets, file.restart),
            None => (WorkspaceLayer::default(), Vec::new(), RestartLayer::default()),
        };
        let targets = if flags.wants_targets {
            let home = places.home.as_deref();
            let kubeconfig = environment.variable("KUBECONFIG");
            Scene {
                flags,
                base: &base,
                folder: &folder,
                source: source.as_deref(),
                home,
                kubeconfig,
            }
            .targets(targets)?
        } else {
            Vec::new()
        };
        Ok(Self {
            workspace: Workspace { id: WorkspaceId::of(&folder), folder, file: path },
            targets,
            sync: sync(flags, workspace),
            restart: restart_settings(flags, restart),
            say: Say::resolve(flags, environment),
            writer: environment.writer(),
            forwards: flags.forwards.clone(),
            places,
        })
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

/// The canonical form of a directory that must exist.
fn directory(doing: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    let fault = |error| ConfigError::Io { doing, path: path.to_owned(), error };
    let canonical = fs::canonicalize(path).map_err(fault)?;
    match canonical.is_dir() {
        true => Ok(canonical),
        false => Err(fault(io::ErrorKind::NotADirectory.into())),
    }
}

/// A source must exist when it is to be synced; for other commands it names a workspace only.
pub(super) fn source_directory(path: &Path, must_exist: bool) -> Result<PathBuf, ConfigError> {
    match fs::canonicalize(path) {
        Ok(canonical) if canonical.is_dir() => Ok(canonical),
        Ok(canonical) => Err(ConfigError::SourceNotADirectory(canonical)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => Ok(path.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(ConfigError::SourceMissing(path.to_owned()))
        }
        Err(error) => Err(ConfigError::Io { doing: "enter", path: path.to_owned(), error }),
    }
}

/// The file of `--config`, else the nearest e2ek.toml in `start` or above.
fn find_file(
    flags: &Flags,
    base: &Path,
    start: &Path,
    environment: &Environment,
) -> Result<Option<PathBuf>, ConfigError> {
    let found = match &flags.config {
        Some(path) => Some(base.join(path)),
        None => start.ancestors().map(|dir| dir.join(FILE_NAME)).find(|path| path.is_file()),
    };
    let Some(path) = found else { return Ok(None) };
    let path = fs::canonicalize(&path).map_err(|error| unreadable(&path, error))?;
    if flags.config.is_none() {
        belongs_here(&path, start, environment)?;
    }
    Ok(Some(path))
}

fn read_file(path: &Path) -> Result<File, ConfigError> {
    let text = fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
    File::parse(path, &text)
}

fn unreadable(path: &Path, error: io::Error) -> ConfigError {
    ConfigError::Io { doing: "read", path: path.into(), error }
}

/// A file found by walking up must belong to us, to root, or to the owner of the directory we came
/// from: in a directory above that others can write to (`/tmp`), anybody could leave one, and it
/// names commands to run (git's CVE-2022-24765).
fn belongs_here(path: &Path, start: &Path, environment: &Environment) -> Result<(), ConfigError> {
    let owner = |path: &Path| {
        let meta = fs::metadata(path);
        meta.map(|m| m.uid()).map_err(|error| ConfigError::Io {
            doing: "look at",
            path: path.to_owned(),
            error,
        })
    };
    let uid = owner(path)?;
    if uid == environment.uid || uid == 0 || uid == owner(start)? {
        return Ok(());
    }
    Err(ConfigError::ForeignFile { path: path.to_owned(), uid })
}

fn sync(flags: &Flags, file: WorkspaceLayer) -> SyncSettings {
    let typed = |lines: &[String], name| {
        let typed = lines.iter().map(move |line| Value::new(line.clone(), Source::Flag(name)));
        typed.collect::<Vec<_>>()
    };
    let budget = DeleteBudget::Percent(25);
    SyncSettings {
        excludes: [file.exclude, typed(&flags.exclude, "--exclude")].concat(),
        includes: [file.include, typed(&flags.include, "--include")].concat(),
        mode: Value::layered(Mode::Keep, file.mode, "--mode", flags.mode),
        delete_budget: Value::layered(
            budget,
            file.delete_budget,
            "--delete-budget",
            flags.delete_budget,
        ),
        write: Value::layered(WriteMode::Auto, file.write, "--write", flags.write),
        poll: Value::layered(None, file.poll, "--poll", flags.poll.map(Some)),
        take_over: flags.take_over,
    }
}

fn restart_settings(flags: &Flags, file: RestartLayer) -> RestartSettings {
    let grace = Duration::from_secs(10);
    let settle = Duration::from_millis(50);
    let patterns =
        |name, typed: &Option<Vec<String>>| Value::layered(Vec::new(), None, name, typed.clone());
    RestartSettings {
        signal: Value::layered(Signal::INT, file.signal, "--signal", flags.signal),
        kill_after: Value::layered(grace, file.kill_after, "--kill-after", flags.kill_after),
        debounce: Value::layered(settle, file.debounce, "--debounce", flags.debounce),
        default: file.default.unwrap_or(Value::new(Action::Restart, Source::Default)),
        rules: file.rules,
        patterns: patterns("--patterns", &flags.patterns),
        ignore_patterns: patterns("--ignore-patterns", &flags.ignore_patterns),
    }
}

impl Say {
    /// What was typed beats the environment; no file has a say.
    #[must_use]
    pub fn resolve(flags: &Flags, environment: &Environment) -> Self {
        let terminal = environment.stdout_is_terminal;
        let output = if terminal { Output::Human } else { Output::Lines };
        let output = Value::layered(output, None, "--output", flags.output);
        let no_color = environment.variable("NO_COLOR").is_some();
        let dumb = environment.variable("TERM").is_some_and(|term| term == "dumb");
        let color = match flags.color {
            Some(ColorChoice::Always) => Value::new(true, Source::Flag("--color")),
            Some(ColorChoice::Never) => Value::new(false, Source::Flag("--color")),
            _ if no_color => Value::new(false, Source::Env("NO_COLOR")),
            _ if dumb => Value::new(false, Source::Env("TERM")),
            _ => Value::new(terminal && output.value == Output::Human, Source::Default),
        };
        let count = |count: u8| i8::try_from(count).unwrap_or(i8::MAX);
        let log_variable = environment.variable("E2EK_LOG");
        let log_variable = log_variable
            .map(|log| Value::new(log.to_string_lossy().into_owned(), Source::Env("E2EK_LOG")));
        let typed = flags.log.clone().map(|log| Value::new(log, Source::Flag("--log")));
        Self {
            output,
            color,
            verbosity: count(flags.verbose).saturating_sub(count(flags.quiet)),
            log: typed.or(log_variable),
        }
    }
}
