//! Owns the decision which files are synced: git's rules exactly, ours on top, secrets held back.
//!
//! What decides, the strongest first:
//!
//! 1. our staging directory `.e2ek-sync`: never synced;
//! 2. `--include`: beats every layer below, the built-in protection too;
//! 3. `--exclude` and the excludes of e2ek.toml, relative to the root;
//! 4. `.e2ekignore` files, the deepest first: ours, on top of everything of git's;
//! 5. `.gitignore` files, the deepest first, from the repository's top down;
//! 6. the repository's `info/exclude`, then `core.excludesFile`;
//! 7. the built-in protection of `.git` and of secrets, for what would be kept so far.
//!
//! Within a source the last line that matches decides, and a directory that is ignored is never
//! entered, so nothing below it can be kept by rules 3 to 6 (git's rule). An include that names
//! its directories (`dist/app.js`, `packages/*/dist/*.css`, up to the first `**`) opens the way:
//! those directories are kept and everything else in them stays ignored. An include of a bare name
//! (`*.css`) does not open ignored directories; an include of a directory judges what is inside as
//! if the directory were not ignored, so `dist/**` takes all of it.
//!
//! As git does: a repository inside (a submodule, a worktree, a clone) follows its own
//! `.gitignore`, `info/exclude` and configuration, not those around it; a `.gitignore` that is a
//! link is not followed. Other than git: whether a file is tracked plays no part (as for
//! `git check-ignore --no-index`), so a tracked file that is ignored is not synced; the root
//! itself is always wanted, also where the repository around it ignores it; and the rules hold
//! without any repository.
//!
//! This room reads ignore files and git's configuration, nothing else. Walking, watching, and
//! noticing that a rule file changed are left to others ([`is_rule_file`](Filter::is_rule_file),
//! [`Filter::forget`]).

pub mod check;
mod class;
mod dir;
mod gitconfig;
mod patterns;
mod protect;
mod repository;
mod rewrite;
mod rules;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use e2ek_sidecar::path::SyncPath;

use dir::Decision;
pub use dir::{DirRules, RuleFiles};
pub use patterns::Patterns;
pub use protect::STAGING;
pub use repository::GitPlaces;

/// Where git keeps what belongs to the working tree that holds a directory: `.git`, or what a file of
/// that name leads to (a worktree, a submodule). `None` outside of any.
#[must_use]
pub fn git_directory_of(directory: &Path) -> Option<PathBuf> {
    repository::top_of(directory).and_then(repository::git_directory)
}
pub use rules::Rule;

/// What the user asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterOptions {
    /// `--exclude` and its like in e2ek.toml, weakest first; gitignore syntax relative to the root.
    pub excludes: Vec<String>,
    /// `--include` and its like, weakest first; gitignore syntax relative to the root. `!` takes
    /// back what an earlier one includes.
    pub includes: Vec<String>,
    /// Whether git's files count, and where the user's are; `None` leaves `.e2ekignore` alone.
    pub git: Option<GitPlaces>,
}

impl Default for FilterOptions {
    fn default() -> Self {
        Self { excludes: Vec::new(), includes: Vec::new(), git: Some(GitPlaces::default()) }
    }
}

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The root cannot be resolved.
    #[error("cannot resolve {}", path.display())]
    Root {
        /// The root as given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A file of rules that is there and could not be read: its rules do not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// What is to be done with a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Synced (for a directory: entered).
    Kept,
    /// Not synced, and not entered.
    Ignored(Rule),
    /// Not synced and not entered, because it usually holds secrets; only `--include` lifts it.
    Protected(Rule),
}

impl Verdict {
    /// Whether the path is synced.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        matches!(self, Self::Kept)
    }

    /// The rule that keeps the path out.
    #[must_use]
    pub fn rule(&self) -> Option<&Rule> {
        match self {
            Self::Kept => None,
            Self::Ignored(rule) | Self::Protected(rule) => Some(rule),
        }
    }
}

/// The rules of one root. Shared by threads (`&self` everywhere, meant for an `Arc`).
pub struct Filter {
    root: PathBuf,
    options: Mutex<FilterOptions>,
    state: RwLock<Arc<State>>,
}

/// What was found out about the directory that a path lies in; see [`Filter::is_kept`].
#[derive(Default)]
pub struct Near(Option<(Vec<u8>, DirRules, Option<DirRules>)>);

/// Everything read so far; replaced as a whole by [`Filter::reload`].
struct State {
    root_rules: DirRules,
    cache: RwLock<Cache>,
}

/// What was read below the root.
#[derive(Default)]
struct Cache {
    /// The rules of directories, by their path below the top.
    rules: BTreeMap<Box<[u8]>, DirRules>,
    /// Counts what was forgotten: what was read before may be out of date.
    forgotten: u64,
}

impl Filter {
    /// Reads the rules of `root` and of the directories above it up to the repository's top.
    ///
    /// # Errors
    /// When the root is not there. Files of rules that cannot be read are in [`Filter::unread`].
    pub fn new(root: &Path, options: &FilterOptions) -> Result<Self, FilterError> {
        let root = root
            .canonicalize()
            .map_err(|source| FilterError::Root { path: root.to_path_buf(), source })?;
        let state = RwLock::new(State::read(&root, options));
        Ok(Self { root, options: Mutex::new(options.clone()), state })
    }

    /// The root, resolved.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The rules that apply in the root.
    #[must_use]
    pub fn root_rules(&self) -> DirRules {
        let state = self.state();
        let forgotten = state.cache.read().unwrap_or_else(PoisonError::into_inner).forgotten;
        state.root_rules.since(forgotten)
    }

    /// The rules that apply in the directory `name` of `parent`. Reads, the first time, those of its
    /// files of rules that may be there; blocks on the file system.
    #[must_use]
    pub fn child_rules(&self, parent: &DirRules, name: &[u8], files: RuleFiles) -> DirRules {
        let state = self.state();
        if !parent.is_of_one_reading(&state.root_rules) {
            return parent.enter(name, files);
        }
        let path = parent.path_of(name);
        // What was made from rules that have been forgotten since is no longer so.
        let known = |cache: &Cache| {
            let rules = cache.rules.get(&*path).filter(|known| known.comes_from(parent))?;
            Some(rules.as_seen_by(parent))
        };
        if let Some(known) = known(&state.cache.read().unwrap_or_else(PoisonError::into_inner)) {
            return known;
        }
        let rules = parent.enter(name, files);
        let mut cache = state.cache.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known(&cache) {
            return known;
        }
        // Else the caller may have listed the directory before it was changed and forgotten.
        if parent.is_as_of(cache.forgotten) {
            cache.rules.insert(path.into(), rules.clone());
        }
        rules
    }

    /// What is to be done with `name` in the directory of `rules`. A link is no directory, whatever
    /// it points to. Touches no file and takes no lock.
    #[must_use]
    pub fn verdict(&self, rules: &DirRules, name: &[u8], is_dir: bool) -> Verdict {
        rules.decide(name, is_dir).verdict
    }

    /// What is to be done with a whole path: the outermost directory that is not kept decides. The
    /// root is kept.
    #[must_use]
    pub fn verdict_of(&self, path: &SyncPath, is_dir: bool) -> Verdict {
        self.decision_of(path, is_dir).map_or(Verdict::Kept, |decision| decision.verdict)
    }

    /// Whether a path is kept, as [`Self::verdict_of`] says it. Of paths in order, most lie in the
    /// directory that the one before lay in: `near` knows what was found out about that.
    #[must_use]
    pub fn is_kept(&self, path: &SyncPath, is_dir: bool, near: &mut Near) -> bool {
        let Some(name) = path.name() else { return true };
        let bytes = path.as_bytes();
        let directory = &bytes[..bytes.len() - name.len()];
        let root = self.root_rules();
        let is_it = |(known, of, _): &(Vec<u8>, DirRules, _)| {
            *known == directory && of.is_of_one_reading(&root) && of.is_as_old_as(&root)
        };
        if !near.0.as_ref().is_some_and(is_it) {
            let rules = self.rules_in(path, &root);
            near.0 = Some((directory.to_vec(), root, rules));
        }
        let rules = near.0.as_ref().and_then(|(.., rules)| rules.as_ref());
        rules.is_some_and(|rules| self.verdict(rules, name, is_dir).is_kept())
    }

    /// The rules in the directory that holds a path; `None` where that is not kept.
    fn rules_in(&self, path: &SyncPath, root: &DirRules) -> Option<DirRules> {
        let mut above = path.components();
        above.next_back()?;
        above.try_fold(root.clone(), |rules, name| {
            let kept = rules.decide(name, true).verdict.is_kept();
            kept.then(|| self.child_rules(&rules, name, RuleFiles::ANY))
        })
    }

    /// The files that a watcher of the root does not see and that decide about what was met so far,
    /// whether they are there or not: the files of rules of the directories above it, up to the
    /// repository's top; `info/exclude`, `core.excludesFile` and the configuration files of git that name
    /// it, of the repository and of those inside.
    #[must_use]
    pub fn outside(&self) -> Vec<PathBuf> {
        self.root_rules().outside()
    }

    /// Whether [`outside`](Self::outside) has more to tell than when this was asked last.
    #[must_use]
    pub fn take_outside_grew(&self) -> bool {
        self.root_rules().take_outside_grew()
    }

    /// Whether one of [`outside`](Self::outside) says something else than when it was read; of git's
    /// configuration, whether that makes a difference here. Reads them.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.root_rules().is_outdated()
    }

    /// Whether something of this name holds rules, or says that a repository begins: when it changed,
    /// [`forget`](Self::forget) its directory and look at all of that again. Those that lie elsewhere:
    /// [`outside`](Self::outside).
    #[must_use]
    pub fn is_rule_file(name: &[u8]) -> bool {
        [dir::GITIGNORE.as_bytes(), dir::E2EKIGNORE.as_bytes(), b".git"].contains(&name)
    }

    /// Forgets what was read in the directory `subtree` and below: that may be another directory by now,
    /// or have other files. They are read anew when they are asked for; [`DirRules`] made before keep
    /// their old meaning.
    pub fn forget(&self, subtree: &SyncPath) {
        if subtree.is_root() {
            return self.reload();
        }
        let state = self.state();
        let mut path = state.root_rules.path_of(subtree.as_bytes());
        state.root_rules.forget_outside(&path);
        let mut cache = state.cache.write().unwrap_or_else(PoisonError::into_inner);
        cache.forgotten += 1;
        cache.rules.remove(&*path);
        path.push(b'/');
        let first = path.clone().into_boxed_slice();
        path.pop();
        path.push(b'/' + 1);
        let stale = cache.rules.range(first..path.into_boxed_slice());
        let stale: Vec<_> = stale.map(|(path, _)| path.clone()).collect();
        for path in stale {
            cache.rules.remove(&path);
        }
    }

    /// Forgets everything read, that above the root too: as [`forget`](Self::forget) of the root.
    pub fn reload(&self) {
        let options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        let state = State::read(&self.root, &options);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Decides by other options from now on, with everything read anew.
    pub fn follow(&self, options: &FilterOptions) {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = options.clone();
        self.reload();
    }

    /// The files of rules that were met since the last reload and could not be read.
    #[must_use]
    pub fn unread(&self) -> Vec<Unread> {
        self.root_rules().unread()
    }

    /// The decision about a path, `None` for the root.
    fn decision_of(&self, path: &SyncPath, is_dir: bool) -> Option<Decision> {
        let mut rules = self.root_rules();
        let mut components = path.components().peekable();
        while let Some(name) = components.next() {
            let last = components.peek().is_none();
            let decision = rules.decide(name, is_dir || !last);
            if last || !decision.verdict.is_kept() {
                return Some(decision);
            }
            rules = self.child_rules(&rules, name, RuleFiles::ANY);
        }
        None
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn read(root: &Path, options: &FilterOptions) -> Arc<Self> {
        let root_rules = DirRules::of_root(root, options);
        Arc::new(Self { root_rules, cache: RwLock::default() })
    }
}

/// Bytes from a rule or a tree as a path of this system.
#[cfg(unix)]
fn as_path(bytes: &[u8]) -> Cow<'_, Path> {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes)).into()
}

/// Bytes from a rule or a tree as a path of this system; what it cannot hold is replaced.
#[cfg(not(unix))]
fn as_path(bytes: &[u8]) -> Cow<'_, Path> {
    PathBuf::from(String::from_utf8_lossy(bytes).into_owned()).into()
}
