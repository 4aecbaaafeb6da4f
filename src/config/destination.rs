//! Owns what the words of targets and path pairs become: absolute roots, canonical sources, places
//! below the root that do not overlap.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use e2ek_sidecar::path::{Escaped, SyncPath};

use super::cluster::ClusterChoice;
use super::error::ConfigError;
use super::file::{ClusterLayer, TargetLayer};
use super::flags::Flags;
use super::resolve::source_directory;
use super::target::{PairSpec, TargetSpec};
use super::value::{Source, Value};
use super::{PathPair, Target};

/// What words of targets and paths are relative to.
pub(super) struct Scene<'a> {
    pub(super) flags: &'a Flags,
    pub(super) base: &'a Path,
    pub(super) folder: &'a Path,
    pub(super) source: Option<&'a Path>,
    pub(super) home: Option<&'a Path>,
    pub(super) kubeconfig: Option<&'a OsStr>,
}

impl Scene<'_> {
    /// The target that was typed, else those of the file that `--target` selects.
    pub(super) fn targets(&self, mut file: Vec<TargetLayer>) -> Result<Vec<Target>, ConfigError> {
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
                cluster: ClusterLayer::default(),
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
        let in_cluster = transport.is_none() && matches!(spec.value, TargetSpec::Kube { .. });
        let cluster = match in_cluster {
            true => Some(ClusterChoice::resolve(self, layer.cluster)?),
            false => None,
        };
        Ok(Target { name, spec, root, pairs, transport, command, ready, cluster })
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
            TargetSpec::Kube { path, .. } => path.clone(),
            TargetSpec::Ssh { path, .. } if far => Some(path.clone()),
            TargetSpec::Ssh { .. } => {
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
    target.extend(pair.to.components().map(OsStr::from_bytes));
    let source = pair.from.clone();
    if target.starts_with(&source) {
        return Err(ConfigError::TargetInsideSource { target, source_root: source });
    }
    if source.starts_with(&target) {
        return Err(ConfigError::SourceInsideTarget { source_root: source, target });
    }
    Ok(())
}
