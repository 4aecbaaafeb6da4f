//! Owns what git keeps about ignoring outside of `.gitignore`: where a repository begins, its
//! `info/exclude`, and `core.excludesFile` with `core.ignoreCase` from its configuration.
//!
//! Reads files only; git itself is not needed. Of git's configuration, `include.path` and
//! `includeIf "gitdir:"` are followed; `onbranch:` and `hasconfig:` conditions, and settings from
//! `git -c`, are not.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::as_path;
use super::gitconfig::{self, Values};

/// Where git looks for what belongs to the user, taken from the environment once, at start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitPlaces {
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`; without it, `.config` in the home directory.
    pub xdg_config_home: Option<PathBuf>,
    /// `GIT_CONFIG_GLOBAL`: in place of the user's two files.
    pub global: Option<PathBuf>,
    /// `GIT_CONFIG_SYSTEM`, else `/etc/gitconfig`; `None` with `GIT_CONFIG_NOSYSTEM`.
    pub system: Option<PathBuf>,
}

impl GitPlaces {
    /// Takes the places from variables, as `lookup` knows them (`std::env::var_os`).
    pub fn from_vars(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name| lookup(name).map(PathBuf::from);
        let filled = |name| path(name).filter(|p| !p.as_os_str().is_empty());
        let no_system = lookup("GIT_CONFIG_NOSYSTEM")
            .is_some_and(|v| !matches!(v.to_str(), Some("" | "0" | "false" | "no" | "off")));
        let system = path("GIT_CONFIG_SYSTEM").unwrap_or_else(|| "/etc/gitconfig".into());
        Self {
            home: filled("HOME"),
            xdg_config_home: filled("XDG_CONFIG_HOME"),
            global: path("GIT_CONFIG_GLOBAL"),
            system: (!no_system).then_some(system),
        }
    }

    fn xdg(&self) -> Option<PathBuf> {
        let home = || Some(self.home.as_ref()?.join(".config"));
        Some(self.xdg_config_home.clone().or_else(home)?.join("git"))
    }
}

/// What one repository (or the lack of one) says about ignoring.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repository {
    /// Whether one begins in the directory.
    pub(super) begins: bool,
    /// `info/exclude`; may not exist.
    pub(super) info_exclude: Option<PathBuf>,
    /// `core.excludesFile` as configured (a relative one counts from the top), or its default; may
    /// not exist.
    pub(super) excludes_file: Option<PathBuf>,
    /// `core.ignoreCase`.
    pub(super) ignore_case: bool,
    /// Where all this stands, whether it is there or not, but for the two files above and `.git` itself.
    pub(super) asked: BTreeSet<PathBuf>,
}

/// The nearest directory, from `start` (absolute) upwards, where a repository begins.
pub(super) fn top_of(start: &Path) -> Option<&Path> {
    start.ancestors().find(|directory| git_directory(directory).is_some())
}

/// Whether a repository, a worktree or a submodule begins in `directory`: gives its git directory.
pub(super) fn git_directory(directory: &Path) -> Option<PathBuf> {
    let dot_git = directory.join(".git");
    let meta = dot_git.symlink_metadata().ok()?;
    if meta.is_file() {
        let text = read_small(&dot_git)?;
        let target = text.strip_prefix(b"gitdir:")?.trim_ascii();
        return Some(directory.join(as_path(target)));
    }
    let whole = WHOLE.iter().all(|name| dot_git.join(name).exists());
    whole.then_some(dot_git)
}

/// What `.git` holds if it is a repository: git's own test (`is_git_directory`).
const WHOLE: [&str; 3] = ["HEAD", "objects", "refs"];

/// Whether something is called `.git` in a directory, which may become a repository yet.
pub(super) fn is_marked(directory: &Path) -> bool {
    directory.join(".git").symlink_metadata().is_ok()
}

impl Repository {
    /// Reads what counts for the working tree at `top`; without a repository there, the user's own
    /// settings count alone.
    pub(super) fn read(top: &Path, places: &GitPlaces) -> Self {
        let git = git_directory(top);
        let common = git.as_ref().map(|git| common_directory(git));
        let mut values = Values::default();
        let mut read = |path: &Path| {
            gitconfig::read_into(&mut values, path, places.home.as_deref(), git.as_deref(), 0);
        };
        places.system.iter().for_each(|p| read(p));
        match &places.global {
            Some(global) => read(global),
            None => {
                places.xdg().iter().for_each(|p| read(&p.join("config")));
                places.home.iter().for_each(|p| read(&p.join(".gitconfig")));
            }
        }
        common.iter().for_each(|p| read(&p.join("config")));
        if values.worktree_config {
            let mut read = |path: &Path| {
                gitconfig::read_into(&mut values, path, places.home.as_deref(), git.as_deref(), 0);
            };
            git.iter().for_each(|p| read(&p.join("config.worktree")));
        }
        let excludes_file = match values.excludes_file {
            Some(path) if path.as_os_str().is_empty() => None,
            Some(path) => Some(path),
            None => places.xdg().map(|p| p.join("ignore")),
        };
        let mut asked = values.asked;
        if git.is_none() && is_marked(top) {
            asked.extend(WHOLE.map(|name| top.join(".git").join(name)));
        }
        Self {
            begins: git.is_some(),
            info_exclude: common.map(|p| p.join("info/exclude")),
            excludes_file,
            ignore_case: values.ignore_case,
            asked,
        }
    }
}

/// The directory that a worktree shares with its repository.
fn common_directory(git: &Path) -> PathBuf {
    let shared = read_small(&git.join("commondir"))
        .and_then(|text| git.join(as_path(text.trim_ascii_end())).canonicalize().ok());
    shared.unwrap_or_else(|| git.to_path_buf())
}

/// Reads a small file of git's; `None` when that cannot be.
fn read_small(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(1 << 16).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
