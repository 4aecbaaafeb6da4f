//! A repository of the real git, apart from the user's own configuration.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2ek_sync::filter::{Filter, FilterOptions, GitPlaces};

/// A place where only our own configuration of git counts.
pub(crate) struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        let ground = Self { dir };
        ground.git(ground.path(), &["init", "-q", "-b", "main", "tree"]);
        ground
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.path().join("tree")
    }

    fn vars(&self) -> Vec<(&'static str, PathBuf)> {
        let home = self.path().join("home");
        vec![("XDG_CONFIG_HOME", home.join("xdg")), ("HOME", home)]
    }

    pub(crate) fn git(&self, dir: &Path, args: &[&str]) -> Vec<u8> {
        let output = self.command(dir, args).output().expect("git is installed");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {args:?}: {error}");
        output.stdout
    }

    pub(crate) fn command(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.args(args).current_dir(dir).envs(self.vars()).env("GIT_CONFIG_NOSYSTEM", "1");
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_COUNT"] {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn filter(&self, root: &Path) -> Filter {
        let vars = self.vars();
        let git = GitPlaces::from_vars(|name| match name {
            "GIT_CONFIG_NOSYSTEM" => Some("1".into()),
            _ => vars.iter().find(|v| v.0 == name).map(|v| v.1.clone().into()),
        });
        Filter::new(root, &FilterOptions { git: Some(git), ..FilterOptions::default() }).unwrap()
    }

    /// What git would add below `dir`.
    pub(crate) fn listed(&self, dir: &Path) -> BTreeSet<Vec<u8>> {
        let out = self.git(dir, &["ls-files", "-o", "--exclude-standard", "-z"]);
        out.split(|&b| b == 0).filter(|p| !p.is_empty()).map(<[u8]>::to_vec).collect()
    }
}
