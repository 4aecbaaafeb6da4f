//! Owns the question whether a name is synced, asked directory by directory.

use e2ek_sidecar::path::SyncPath;

use super::Judge;

/// The rules inside one directory.
#[derive(Clone)]
pub(super) struct Rules {
    judge: Judge,
    directory: SyncPath,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Rules").field(&self.directory).finish()
    }
}

impl Rules {
    /// The rules inside the root.
    pub(super) fn of_root(judge: &Judge) -> Self {
        Self { judge: judge.clone(), directory: SyncPath::root() }
    }

    /// Whether the name is synced.
    pub(super) fn keeps(&self, name: &[u8], is_dir: bool) -> bool {
        self.directory.join(name).is_ok_and(|path| (self.judge)(&path, is_dir))
    }

    /// The rules inside the directory `name`.
    pub(super) fn child(&self, name: &[u8]) -> Self {
        let directory = self.directory.join(name).unwrap_or_default();
        Self { judge: self.judge.clone(), directory }
    }

    /// The rules inside the directory `path` below; `None` when it, or one on the way, is not kept.
    pub(super) fn below(&self, path: &SyncPath) -> Option<Self> {
        path.components().try_fold(self.clone(), |rules, name| {
            rules.keeps(name, true).then(|| rules.child(name))
        })
    }
}
