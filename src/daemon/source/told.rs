//! What the tasks that watch tell the source.

use std::path::Path;
use std::sync::Arc;

use e2ek_sidecar::path::SyncPath;
use tokio::sync::mpsc;

use crate::engine::debounce::Seen;
use crate::watch::{Observed, Watch};

/// What the watching tasks tell.
#[derive(Debug)]
pub(in crate::daemon) enum Told {
    /// A pair's watch saw something.
    Observed(usize, Vec<Observed>),
    /// Everything that happened in a pair before a flush was observed.
    Point,
    /// The file of settings, which lies in no pair's root, may have changed.
    Settings,
    /// A file of rules, or of git's configuration, that no pair's watch sees may have changed.
    Rules,
}

/// Tells what a watch observes, and the points that it has reached. One task does both, and takes
/// nothing that it does not tell at once: what was taken before a point is told before it.
pub(super) async fn tell(
    index: usize,
    watch: Arc<Watch>,
    mut reaches: mpsc::Receiver<()>,
    told: mpsc::Sender<Told>,
) {
    loop {
        let (observed, point) = tokio::select! {
            biased;
            observed = watch.next() => match observed {
                Some(observed) => (observed, false),
                None => return,
            },
            Some(()) = reaches.recv() => (watch.take_now(), true),
        };
        if !observed.is_empty() && told.send(Told::Observed(index, observed)).await.is_err() {
            return;
        }
        if point && told.send(Told::Point).await.is_err() {
            return;
        }
    }
}

/// For a watch of one folder.
pub(super) fn nothing_below() -> crate::watch::Wanted {
    Arc::new(|_: &SyncPath| false)
}

/// Tells of a file of settings in a watched folder, also when events may have been lost.
pub(super) async fn tell_settings(watch: Watch, name: Vec<u8>, told: mpsc::Sender<Told>) {
    while let Some(observed) = watch.next().await {
        let is_it = |observed: &Observed| match observed {
            Observed::Path { path, seen, .. } => path.as_bytes() == name && is_complete(*seen),
            _ => true,
        };
        if observed.iter().any(is_it) && told.send(Told::Settings).await.is_err() {
            return;
        }
    }
}

/// Whether a file may be there as a whole now. One that went away may be on its way back: that is how
/// editors save.
pub(super) fn is_complete(seen: Seen) -> bool {
    !matches!(seen, Seen::Modified | Seen::Created { open: true } | Seen::Removed | Seen::MovedOut)
}

/// Whether a path in `root` is that very file of its first level.
pub(super) fn is_in(file: &Path, root: &Path, path: &SyncPath) -> bool {
    file.file_name().is_some_and(|name| name.as_encoded_bytes() == path.as_bytes())
        && file.parent() == Some(root)
}
