//! Owns the merging: which file is read, which layer wins, and what the words become.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use e2ek_sidecar::path::{Escaped, SyncPath};
use e2ek_sidecar::restart::{Action, Signal};

use super::error::ConfigError;
use super::file::{File, RestartLayer, TargetLayer, WorkspaceLayer};
use super::flags::Flags;
use super::places::{Environment, Places, WorkspaceId};
use super::quantity::DeleteBudget;
use super::settings::{ColorChoice, Mode, Output, WriteMode};
use super::target::{PairSpec, TargetSpec};
use super::value::{Source, Value};
use super::{Config, PathPair, RestartSettings, Say, SyncSettings, Target, Workspace};

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
        let base = match &flags.directory {
            Some(directory) => environment.current_dir.join(directory),
            None => environment.current_dir.clone(),
        };
        let base = directory("enter", &base)?;
        let source = flags.source.as_ref().map(|source| base.join(source));
        let source = source.map(|source| source_directory(&source, flags.wants_targets));
        let source = source.transpose()?;
        let start = source.as_deref().unwrap_or(&base);
        let file = read_file(flags, &base, start, environment)?;
        let folder = file.as_ref().map_or(start, |file| parent(&file.path)).to_owned();
        let places = Places::resolve(flags.state_dir.as_ref().map(|d| base.join(d)), environment)?;

        let (path, workspace, targets, restart) = match file {
            Some(file) => (Some(file.path), file.workspace, file.targets, file.restart),
            None => (None, WorkspaceLayer::default(), Vec::new(), RestartLayer::default()),
        };
        let targets = if flags.wants_targets {
            let home = places.home.as_deref();
            Scene { flags, base: &base, folder: &folder, source: source.as_deref(), home }
                .targets(targets)?
        } else {
            Vec::new()
        };
        Ok(Self {
            workspace: Workspace { id: WorkspaceId::of(&folder), folder, file: path },
            targets,
            sync: sync(flags, workspace),
            restart: restart_settings(flags, restart),
            say: say(flags, environment),
            writer: environment.writer(),
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
fn source_directory(path: &Path, must_exist: bool) -> Result<PathBuf, ConfigError> {
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
fn read_file(
    flags: &Flags,
    base: &Path,
    start: &Path,
    environment: &Environment,
) -> Result<Option<File>, ConfigError> {
    let fault = |path: &Path, error| ConfigError::Io { doing: "read", path: path.into(), error };
    let found = match &flags.config {
        Some(path) => Some(base.join(path)),
        None => start.ancestors().map(|dir| dir.join(FILE_NAME)).find(|path| path.is_file()),
    };
    let Some(path) = found else { return Ok(None) };
    let path = fs::canonicalize(&path).map_err(|error| fault(&path, error))?;
    if flags.config.is_none() {
        belongs_here(&path, start, environment)?;
    }
    let text = fs::read_to_string(&path).map_err(|error| fault(&path, error))?;
    File::parse(&path, &text).map(Some)
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

fn say(flags: &Flags, environment: &Environment) -> Say {
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
    Say {
        output,
        color,
        verbosity: count(flags.verbose).saturating_sub(count(flags.quiet)),
        log: typed.or(log_variable),
    }
}

/// What words of targets and paths are relative to.
struct Scene<'a> {
    flags: &'a Flags,
    base: &'a Path,
    folder: &'a Path,
    source: Option<&'a Path>,
    home: Option<&'a Path>,
}

impl Scene<'_> {
    /// The target that was typed, else those of the file that `--target` selects.
    fn targets(&self, mut file: Vec<TargetLayer>) -> Result<Vec<Target>, ConfigError> {
        let Some(word) = &self.flags.target else {
            let known: Vec<_> = file.iter().map(|target| target.name.value.clone()).collect();
            let wanted = &self.flags.targets;
            if let Some(name) = wanted.iter().find(|name| !known.contains(name)) {
                return Err(ConfigError::NoSuchTarget { name: name.clone(), known });
            }
            file.retain(|target| wanted.is_empty() || wanted.contains(&target.name.value));
            return file.into_iter().map(|target| self.target(target, self.folder)).collect();
        };
        let from = Source::Flag("TARGET");
        let spec = TargetSpec::parse(word)
            .map_err(|error| ConfigError::Target { from: from.clone(), error })?;
        // The one the file describes, if it does: its command and readiness come along.
        let same = |target: &TargetLayer| {
            self.flags.targets.contains(&target.name.value) || target.to.value == spec
        };
        let known = file.iter().position(same).map(|index| file.swap_remove(index));
        if let (None, Some(name)) = (&known, self.flags.targets.first()) {
            let known = file.into_iter().map(|target| target.name.value).collect();
            return Err(ConfigError::NoSuchTarget { name: name.clone(), known });
        }
        let name = Value::new(spec.to_string(), from.clone());
        let to = Value::new(spec, from);
        let target = match known {
            Some(target) => TargetLayer { to, ..target },
            None => TargetLayer {
                name,
                to,
                pairs: Vec::new(),
                transport: None,
                command: None,
                ready: None,
            },
        };
        Ok(vec![self.target(target, self.base)?])
    }

    /// `beside`: what a relative directory is relative to.
    fn target(&self, layer: TargetLayer, beside: &Path) -> Result<Target, ConfigError> {
        let words = |typed: &[String]| typed.iter().map(Into::into).collect();
        let typed = self.flags.transport.as_deref();
        let typed = typed.map(|argv| Value::new(words(argv), Source::Flag("--transport-cmd")));
        let transport = typed.or(layer.transport.map(|argv| argv.map(|argv| words(&argv))));
        let cmd = &self.flags.command;
        let typed = (!cmd.is_empty()).then(|| Value::new(cmd.clone(), Source::Flag("-- CMD")));
        let command = typed.or(layer.command.map(|argv| argv.map(|argv| words(&argv))));

        let (spec, root) = self.root(layer.to, transport.is_some(), beside)?;
        let pairs = self.pair_specs(layer.pairs)?;
        let (root, pairs) = place_pairs(root, &spec.source, pairs)?;
        if transport.is_none() && matches!(spec.value, TargetSpec::Directory(_)) {
            pairs.iter().try_for_each(|pair| apart(pair, &root))?;
        }
        let (name, ready) = (layer.name, layer.ready);
        Ok(Target { name, spec, root, pairs, transport, command, ready })
    }

    /// The target with its path made absolute, and that path; `None` when the target has none.
    fn root(
        &self,
        to: Value<TargetSpec>,
        far: bool,
        beside: &Path,
    ) -> Result<(Value<TargetSpec>, Option<PathBuf>), ConfigError> {
        let root = match &to.value {
            TargetSpec::Directory(path) if far => Some(path.clone()),
            TargetSpec::Directory(path) => {
                let path = resolve_existing(&self.expand(path, beside)?)?;
                let spec = Value::new(TargetSpec::Directory(path.clone()), to.source);
                return Ok((spec, Some(path)));
            }
            TargetSpec::Process { path, .. } => path.clone(),
            TargetSpec::Kube { path, .. } if far => path.clone(),
            TargetSpec::Ssh { path, .. } if far => Some(path.clone()),
            TargetSpec::Kube { .. } | TargetSpec::Ssh { .. } => {
                return Err(ConfigError::TargetNotBuilt { target: to.value });
            }
        };
        Ok((to, root))
    }

    fn expand(&self, path: &Path, beside: &Path) -> Result<PathBuf, ConfigError> {
        match path.strip_prefix("~") {
            Ok(rest) => Ok(self.home.ok_or(ConfigError::NoHome)?.join(rest)),
            Err(_) => Ok(beside.join(path)),
        }
    }

    /// The pairs with canonical sources: `--path`, else SRC, else the file's, else the workspace.
    fn pair_specs(&self, file: Vec<Value<PairSpec>>) -> Result<Vec<Value<PairSpec>>, ConfigError> {
        let whole = |from: &Path, source| {
            vec![Value::new(PairSpec { from: from.into(), to: ".".into() }, source)]
        };
        let mut pairs = Vec::new();
        for word in &self.flags.paths {
            let source = Source::Flag("--path");
            let pair = PairSpec::parse(word)
                .map_err(|error| ConfigError::Target { from: source.clone(), error })?;
            let from = self.expand(&pair.from, self.base)?;
            pairs.push(Value::new(PairSpec { from, to: pair.to }, source));
        }
        if pairs.is_empty() {
            pairs = match (self.source, &self.flags.target) {
                (Some(source), Some(_)) => whole(source, Source::Flag("SRC")),
                _ if file.is_empty() => whole(self.folder, Source::Default),
                _ => file,
            };
        }
        for pair in &mut pairs {
            let from = self.expand(&pair.value.from, self.folder)?;
            pair.value.from = source_directory(&from, true)?;
        }
        Ok(pairs)
    }
}

/// Resolves links in the part of an absolute path that exists; the rest is taken as written.
fn resolve_existing(path: &Path) -> Result<PathBuf, ConfigError> {
    let fault = |error| ConfigError::Io { doing: "look at", path: path.to_owned(), error };
    for ancestor in path.ancestors() {
        let existing = match fs::canonicalize(ancestor) {
            Ok(existing) => existing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(fault(error)),
        };
        let rest = path.strip_prefix(ancestor).unwrap_or(Path::new(""));
        if rest.components().any(|part| part == Component::ParentDir) {
            return Err(fault(io::ErrorKind::NotFound.into()));
        }
        // Joining nothing would leave a slash at the end.
        return Ok(if rest.as_os_str().is_empty() { existing } else { existing.join(rest) });
    }
    Err(fault(io::ErrorKind::NotFound.into()))
}

/// Settles the root and what each pair is below it. A target without a path takes the deepest
/// directory that holds all its pairs, which must then be absolute.
fn place_pairs(
    root: Option<PathBuf>,
    target: &Source,
    pairs: Vec<Value<PairSpec>>,
) -> Result<(PathBuf, Vec<PathPair>), ConfigError> {
    let root = match root {
        Some(root) => root,
        None => {
            common(&pairs).ok_or_else(|| ConfigError::TargetPathMissing { from: target.clone() })?
        }
    };
    let mut placed: Vec<PathPair> = Vec::new();
    for Value { value: PairSpec { from, to }, source } in pairs {
        let shown = || Escaped(to.as_os_str().as_bytes()).to_string();
        let below = if to.is_absolute() { to.strip_prefix(&root).ok() } else { Some(&*to) };
        let below = below.and_then(sync_path);
        let below =
            below.ok_or_else(|| ConfigError::PairOutside { from: source.clone(), to: shown() })?;
        if placed.iter().any(|p| p.to.starts_with(&below) || below.starts_with(&p.to)) {
            return Err(ConfigError::PairsOverlap { from: source, to: shown() });
        }
        placed.push(PathPair { from, to: below, source });
    }
    Ok((root, placed))
}

fn common(pairs: &[Value<PairSpec>]) -> Option<PathBuf> {
    let mut ends = pairs.iter().map(|pair| pair.value.to.as_path());
    let first = ends.next().filter(|path| path.is_absolute())?;
    let mut shared = first.to_owned();
    for end in ends.map(|path| path.is_absolute().then_some(path)) {
        let end = end?;
        while !end.starts_with(&shared) {
            shared.pop();
        }
    }
    Some(shared)
}

/// A relative path without `.`, or nothing if it climbs with `..`.
fn sync_path(path: &Path) -> Option<SyncPath> {
    path.components().try_fold(SyncPath::root(), |below, part| match part {
        Component::CurDir => Some(below),
        Component::Normal(name) => below.join(name.as_bytes()).ok(),
        _ => None,
    })
}

/// Source and destination on one machine may not hold each other.
fn apart(pair: &PathPair, root: &Path) -> Result<(), ConfigError> {
    let mut target = root.to_owned();
    target.extend(pair.to.components().map(std::ffi::OsStr::from_bytes));
    let source = pair.from.clone();
    if target.starts_with(&source) {
        return Err(ConfigError::TargetInsideSource { target, source_root: source });
    }
    if source.starts_with(&target) {
        return Err(ConfigError::SourceInsideTarget { source_root: source, target });
    }
    Ok(())
}
