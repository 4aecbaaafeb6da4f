//! The files of rules that lie in no pair's root (`.gitignore` above it, `info/exclude`, git's
//! `core.excludesFile`): their folders are watched, those alone and nothing below.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use e2ek_sidecar::path::SyncPath;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Told;
use crate::engine::debounce::Seen;
use crate::watch::{Observed, Watch};

/// Names in folders. What is not there yet is waited for where the way to it ends.
pub(super) type Names = BTreeMap<PathBuf, BTreeSet<Vec<u8>>>;

/// The watches of those folders. Dropped, they end.
#[derive(Default)]
pub(super) struct Outside {
    followed: Names,
    tasks: JoinSet<()>,
}

impl Outside {
    /// Follows these files from now on; each change of one is told, and some that are none.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn follow(
        &mut self,
        files: impl Iterator<Item = PathBuf>,
        cookies: &Path,
        told: &mpsc::Sender<Told>,
    ) -> io::Result<()> {
        let names = names_of(files);
        if names == self.followed {
            return Ok(());
        }
        self.tasks = JoinSet::new();
        self.followed.clear();
        for (folder, names) in &names {
            let watch = Watch::start(folder.clone(), cookies.to_owned(), nothing_below())?;
            self.tasks.spawn(tell_of(watch, names.clone(), told.clone(), rules));
        }
        self.followed = names;
        Ok(())
    }
}

/// Where to look for a change of these files: the folder of each, or the last on the way to it that
/// is there.
fn names_of(files: impl Iterator<Item = PathBuf>) -> Names {
    let mut names = Names::new();
    for file in files {
        let mut missing: &Path = &file;
        while let Some((folder, name)) = missing.parent().zip(missing.file_name()) {
            if let Ok(folder) = folder.canonicalize() {
                names.entry(folder).or_default().insert(name.as_encoded_bytes().to_vec());
                break;
            }
            missing = folder;
        }
    }
    names
}

/// For a watch of one folder.
pub(super) fn nothing_below() -> crate::watch::Wanted {
    Arc::new(|_: &SyncPath| false)
}

/// A file that went took its rules along.
fn rules(seen: Seen) -> Option<Told> {
    (!matches!(seen, Seen::Modified)).then_some(Told::Rules)
}

/// Tells of names in a watched folder what `what` makes of it, also when events may have been lost.
pub(super) async fn tell_of(
    watch: Watch,
    names: BTreeSet<Vec<u8>>,
    told: mpsc::Sender<Told>,
    what: fn(Seen) -> Option<Told>,
) {
    while let Some(observed) = watch.next().await {
        let news = observed.iter().find_map(|observed| match observed {
            Observed::Path { path, seen, .. } => {
                names.contains(path.as_bytes()).then(|| what(*seen)).flatten()
            }
            _ => what(Seen::Closed),
        });
        if let Some(news) = news
            && told.send(news).await.is_err()
        {
            return;
        }
    }
}
