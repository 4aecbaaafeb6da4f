//! Owns the observations and answers of one batch of events, on their way out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use e2ek_sidecar::path::SyncPath;
use tokio::sync::oneshot;

use super::shared::Shared;
use super::{Observed, Wanted};
use crate::engine::debounce::Seen;

/// Observations gathered before they are posted in the middle of a batch.
const POST_AT: usize = 4096;

/// What a batch gave so far.
#[derive(Debug)]
pub(super) struct Out {
    /// When the events being worked off were read.
    pub(super) now: Instant,
    /// In the order of the events.
    pub(super) observed: Vec<Observed>,
    /// Sync points reached, to be answered once all observations are posted.
    pub(super) answers: Vec<oneshot::Sender<()>>,
    /// Places in `observed` of created files of which it is not known yet whether they are open.
    created: Vec<usize>,
    /// That events were lost was said, and "look everywhere" at the root was not since.
    lost: bool,
}

impl Out {
    pub(super) fn new() -> Self {
        let (observed, answers, created) = (Vec::new(), Vec::new(), Vec::new());
        Self { now: Instant::now(), observed, answers, created, lost: false }
    }

    pub(super) fn path(&mut self, path: SyncPath, seen: Seen) {
        if seen == (Seen::Created { open: true }) {
            self.created.push(self.observed.len());
        }
        self.observed.push(Observed::Path { path, seen, at: self.now });
    }

    pub(super) fn everywhere(&mut self, subtree: SyncPath) {
        self.lost &= !subtree.is_root();
        self.observed.push(Observed::Everywhere { subtree, at: self.now });
    }

    /// Says at once, with all that was gathered, that events were lost: what makes that good may take
    /// long. "Look everywhere" at the root is to follow.
    pub(super) fn lost(&mut self, root: &Path, shared: &Shared) {
        if !std::mem::replace(&mut self.lost, true) {
            self.observed.push(Observed::Lost { at: self.now });
            self.post(root, shared);
        }
    }

    /// Takes the sync point whose cookie has this file name. Whether there is one.
    pub(super) fn cookie_seen(&mut self, name: &[u8], shared: &Shared) -> bool {
        let answer = shared.state().cookies.remove(name);
        let found = answer.is_some();
        self.answers.extend(answer);
        found
    }

    /// Takes all sync points, for when a look everywhere stands for their cookies.
    pub(super) fn all_cookies_seen(&mut self, shared: &Shared) {
        let cookies = std::mem::take(&mut shared.state().cookies);
        self.answers.extend(cookies.into_values());
    }

    /// Takes what the owner of the watch asks for: a look everywhere is noted, rules to go through all
    /// directories by are given.
    pub(super) fn take_orders(&mut self, shared: &Shared) -> Option<Wanted> {
        let mut state = shared.state();
        if !state.everywhere.is_empty() {
            self.everywhere(SyncPath::root());
            self.answers.append(&mut state.everywhere);
        }
        state.rewalk.take()
    }

    /// Whether it is time to post, though the batch goes on.
    pub(super) fn is_full(&self) -> bool {
        self.observed.len() >= POST_AT
    }

    /// Posts what was gathered.
    pub(super) fn post(&mut self, root: &Path, shared: &Shared) {
        self.settle_created(root);
        shared.mailbox.post(&mut self.observed);
    }

    /// Posts what was gathered, then answers the sync points.
    pub(super) fn finish(&mut self, root: &Path, shared: &Shared) {
        self.post(root, shared);
        for answer in self.answers.drain(..) {
            // Who does not wait any more needs no answer.
            let _ = answer.send(());
        }
    }

    /// Finds out which created files have no close to wait for: links of either kind. Those whose
    /// close is in the same batch, nearly all, cost nothing.
    fn settle_created(&mut self, root: &Path) {
        for place in self.created.drain(..) {
            let (before, after) = self.observed.split_at_mut(place + 1);
            let Some(Observed::Path { path: created, seen, .. }) = before.last_mut() else {
                continue;
            };
            let next = after.iter().take(4).find_map(|observed| match observed {
                Observed::Path { path, seen, .. } if path == created => Some(*seen),
                _ => None,
            });
            if !matches!(next, Some(Seen::Closed | Seen::Modified)) {
                let file = root.join(OsStr::from_bytes(created.as_bytes()));
                *seen = Seen::Created { open: !is_complete(&file) };
            }
        }
    }
}

/// Whether a name just created has no close to come: it is not a regular file, or it is another
/// name of one. What has vanished has its removal to come.
fn is_complete(file: &Path) -> bool {
    file.symlink_metadata().is_ok_and(|metadata| !metadata.is_file() || metadata.nlink() > 1)
}
