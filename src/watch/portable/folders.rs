//! Owns the following of single names in folders, where there is no inotify: a watch for each folder.

use std::collections::BTreeSet;
use std::sync::Arc;

use e2ek_sidecar::path::SyncPath;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Names, Observed, POLL_EVERY, Watch};

/// Follows names in folders until dropped.
pub struct Folders {
    names: Names,
    begun: bool,
    /// A folder is followed by nobody.
    missing: bool,
    changed: Arc<Notify>,
    watches: JoinSet<()>,
}

impl Folders {
    /// For these names.
    #[must_use]
    pub fn new(names: Names) -> Self {
        let (changed, watches) = (Arc::default(), JoinSet::new());
        Self { names, begun: false, missing: false, changed, watches }
    }

    /// Waits until one of the names may have come, changed or gone, or its folder have become another
    /// one. Told, too, when the watches stand: what was read before counts as changed. To be called
    /// within a runtime with its driver of time.
    ///
    /// # Cancel safety
    /// Nothing is lost when dropped early.
    pub async fn next(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            for (folder, names) in std::mem::take(&mut self.names) {
                // No sync point is asked for: the place of its cookies makes no difference.
                let nothing_below = Arc::new(|_: &SyncPath| false);
                match Watch::start(folder.clone(), folder, nothing_below) {
                    Ok(watch) => drop(self.watches.spawn(tell(watch, names, self.changed.clone()))),
                    Err(_) => self.missing = true,
                }
            }
        }
        tokio::select! {
            () = self.changed.notified() => {}
            () = sleep(POLL_EVERY), if self.missing => {}
        }
    }
}

/// Tells of names in a watched folder, also when events may have been lost.
async fn tell(watch: Watch, names: BTreeSet<Vec<u8>>, changed: Arc<Notify>) {
    while let Some(observed) = watch.next().await {
        let is_one = |observed: &Observed| match observed {
            Observed::Path { path, .. } => names.contains(path.as_bytes()),
            _ => true,
        };
        if observed.iter().any(is_one) {
            changed.notify_one();
        }
    }
}
