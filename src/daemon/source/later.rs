//! Large files that a look left for later: hashed one after the other on a thread, while looks go on.
//!
//! What was hashed is entered into the tree as it is by then, unless a look has found something else at
//! the path meanwhile. A file that changed while it was hashed is hashed once more.

use std::collections::BTreeMap;
use std::time::Instant;

use e2ek_sidecar::path::SyncPath;
use tokio::task::JoinHandle;

use super::{Looked, Source, UNSTABLE_AGAIN};
use crate::engine::debounce::Hints;
use crate::scan::{ScanError, ScanReport};

/// A file: the number of its pair, and its path there.
type File = (usize, SyncPath);

/// One that is hashed, or will be.
struct Due {
    /// When the first event that led to it came.
    seen: Instant,
    /// In which order.
    ticket: u64,
}

/// All of them. See the module.
#[derive(Default)]
pub(super) struct Later {
    due: BTreeMap<File, Due>,
    /// The one that is being hashed, with its ticket.
    under_way: Option<(File, u64, JoinHandle<Hashed>)>,
    tickets: u64,
}

/// What became of one.
type Hashed = Result<ScanReport, ScanError>;

impl Later {
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty() && self.under_way.is_none()
    }

    /// Forgets all of them; what is under way ends for nothing.
    pub(super) fn clear(&mut self) {
        self.due.clear();
    }

    /// A look was made: it left these for later, and found out what all others are that it covered.
    pub(super) fn looked_at(
        &mut self,
        pair: usize,
        hints: &Hints,
        later: Vec<SyncPath>,
        seen: Instant,
    ) {
        let covered = |path: &SyncPath| {
            let mut at = hints.paths().keys().chain(hints.subtrees().keys());
            at.any(|at| path.starts_with(at))
        };
        self.due.retain(|(of, path), _| *of != pair || !covered(path) || later.contains(path));
        for path in later {
            self.tickets += 1;
            let ticket = self.tickets;
            let due = self.due.entry((pair, path)).or_insert(Due { seen, ticket });
            // It changed: what is being hashed may be an older content, and comes first.
            due.ticket = ticket;
        }
    }

    /// What became of the one that is being hashed. Cancel safe.
    pub(super) async fn next(&mut self) -> (File, u64, Option<Hashed>) {
        let result = match &mut self.under_way {
            Some((.., handle)) => handle.await.ok(),
            None => std::future::pending().await,
        };
        match self.under_way.take() {
            Some((file, ticket, _)) => (file, ticket, result),
            None => std::future::pending().await,
        }
    }
}

impl Source {
    /// Begins to hash the next file, if none is being hashed.
    pub(super) fn hash_next(&mut self) {
        if self.later.under_way.is_some() {
            return;
        }
        let first = self.later.due.iter().min_by_key(|(_, due)| due.ticket);
        let Some((file, ticket)) = first.map(|(file, due)| (file.clone(), due.ticket)) else {
            return;
        };
        let pair = &self.pairs[file.0];
        let (scanner, tree) = (pair.scanner.clone(), pair.tree.clone());
        let mut hints = Hints::default();
        hints.look(file.1.clone(), Instant::now());
        let hash = tokio::task::spawn_blocking(move || scanner.scan(&tree, &hints));
        self.later.under_way = Some((file, ticket, hash));
    }

    /// Enters a file that was hashed.
    pub(super) fn hashed(
        &mut self,
        ((index, path), ticket, result): (File, u64, Option<Hashed>),
    ) -> Looked {
        let file = (index, path);
        // Where a look has found something else meanwhile, that counts.
        let due = self.later.due.get(&file).map(|due| (due.seen, due.ticket));
        let seen = due.map_or_else(Instant::now, |(seen, _)| seen);
        if due.is_some_and(|(_, now)| now == ticket) {
            self.later.due.remove(&file);
        }
        match result {
            Some(Ok(report)) if due.is_some() => self.enter(file, report),
            Some(Ok(_)) => {}
            Some(Err(ScanError::Confused(_))) | None => {
                let name = self.pairs[file.0].name.clone();
                self.debounce.look_everywhere(Instant::now() + UNSTABLE_AGAIN, name);
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "the source cannot be looked at");
                return Looked::Gone;
            }
        }
        self.hash_next();
        if self.pairs.iter().any(|pair| pair.gone) {
            return Looked::Gone;
        }
        Looked::Tree { tree: self.tree(), seen }
    }

    fn enter(&mut self, (index, path): File, report: ScanReport) {
        let node = report.tree.get(&path).cloned();
        // Where its directory is gone by now, a look is on its way to say so.
        if let Ok(tree) = self.pairs[index].tree.apply(&[(path.clone(), node)]) {
            self.replace(index, tree);
        }
        let mut hints = Hints::default();
        hints.look(path, Instant::now());
        self.take_in(index, &hints, report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> SyncPath {
        SyncPath::try_from(text).unwrap()
    }

    #[test]
    fn i5_what_a_look_has_found_meanwhile_counts() {
        let mut later = Later::default();
        let now = Instant::now();
        let mut hints = Hints::default();
        hints.look_everywhere(path("d"), now);
        later.looked_at(0, &hints, vec![path("d/a"), path("d/b")], now);
        let ticket = |later: &Later, name: &str| {
            later.due.get(&(0, path(name))).map(|due| (due.ticket, due.seen))
        };
        let first = ticket(&later, "d/a").unwrap();
        // Another pair's path, and another path of this one.
        later.looked_at(1, &hints, Vec::new(), now);
        let mut elsewhere = Hints::default();
        elsewhere.look(path("e"), now);
        later.looked_at(0, &elsewhere, Vec::new(), now);
        assert_eq!(ticket(&later, "d/a"), Some(first));
        // It changed: what is hashed of it by now is not the last word, and it waits since the first.
        let after = now + std::time::Duration::from_secs(1);
        later.looked_at(0, &hints, vec![path("d/a")], after);
        let again = ticket(&later, "d/a").unwrap();
        assert!(again.0 > first.0 && again.1 == now);
        assert_eq!(ticket(&later, "d/b"), None, "it is gone, or small now");
        later.clear();
        assert!(later.is_empty());
    }
}
