//! Owns the question whether a name is synced, asked directory by directory.

use std::sync::Arc;

use e2ek_sidecar::path::SyncPath;

use super::Judge;
use crate::filter::{DirRules, Filter, RuleFiles, Verdict};

/// Who decides.
#[derive(Clone)]
pub(super) enum Rules {
    /// The filter, with what applies in one directory.
    Filter(Arc<Filter>, DirRules),
    /// A function of the whole path; and the directory.
    Judge(Judge, SyncPath),
}

/// What is decided about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Kept,
    Ignored,
    Protected,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Filter(..) => "Filter",
            Self::Judge(..) => "Judge",
        })
    }
}

impl Rules {
    /// The same rules as for all of one scan, inside the root.
    pub(super) fn of_root(&self) -> Self {
        match self {
            Self::Filter(filter, _) => Self::Filter(filter.clone(), filter.root_rules()),
            Self::Judge(..) => self.clone(),
        }
    }

    /// Whether the name is synced.
    pub(super) fn standing(&self, name: &[u8], is_dir: bool) -> Standing {
        match self {
            Self::Filter(filter, rules) => match filter.verdict(rules, name, is_dir) {
                Verdict::Kept => Standing::Kept,
                Verdict::Ignored(_) => Standing::Ignored,
                Verdict::Protected(_) => Standing::Protected,
            },
            Self::Judge(judge, directory) => match directory.join(name) {
                Ok(path) if judge(&path, is_dir) => Standing::Kept,
                _ => Standing::Ignored,
            },
        }
    }

    /// The rules inside the directory `name`, which may hold `files` of rules.
    pub(super) fn child(&self, name: &[u8], files: RuleFiles) -> Self {
        match self {
            Self::Filter(filter, rules) => {
                Self::Filter(filter.clone(), filter.child_rules(rules, name, files))
            }
            Self::Judge(judge, directory) => {
                let directory = directory.join(name).unwrap_or_default();
                Self::Judge(judge.clone(), directory)
            }
        }
    }

    /// The rules inside the directory `path` below; `None` when it, or one on the way, is not kept.
    pub(super) fn below(&self, path: &SyncPath) -> Option<Self> {
        path.components().try_fold(self.clone(), |rules, name| {
            (rules.standing(name, true) == Standing::Kept)
                .then(|| rules.child(name, RuleFiles::ANY))
        })
    }
}
