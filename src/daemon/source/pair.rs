//! One path pair: its directory, and what watches, filters and scans it.

use std::path::Path;
use std::sync::Arc;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::Snapshot;
use tokio::sync::mpsc;

use crate::filter::{Filter, FilterError, FilterOptions};
use crate::scan::Scanner;
use crate::transfer::Contents;
use crate::watch::{Wanted, Wants, Watch};

/// See the module.
pub(super) struct Pair {
    pub(super) name: SyncPath,
    pub(super) filter: Arc<Filter>,
    pub(super) scanner: Arc<Scanner>,
    pub(super) watch: Option<Arc<Watch>>,
    /// Says that a point in time was reached.
    pub(super) reached: Option<mpsc::Sender<()>>,
    /// Names that only protection, and that ignore rules left out of the last look at everything.
    pub(super) left_out: (u64, u64),
    pub(super) tree: Snapshot,
    /// All of it was looked at. Before that nothing is left for later, as it would count as absent.
    pub(super) known: bool,
    pub(super) gone: bool,
    /// Events were lost, and the watch has not said yet that all is to be looked at.
    pub(super) lost: bool,
}

impl Pair {
    pub(super) fn open(
        index: usize,
        root: &Path,
        options: &FilterOptions,
        contents: &Arc<Contents>,
    ) -> Result<Self, FilterError> {
        let name = name_of(index);
        let filter = Arc::new(Filter::new(root, options)?);
        let contents = Arc::clone(contents);
        let known = Arc::new(move |digest| contents.blocks(digest));
        let scanner = Scanner::filtered(filter.clone()).knowing(known);
        Ok(Self {
            name,
            filter,
            scanner: Arc::new(scanner),
            watch: None,
            reached: None,
            left_out: (0, 0),
            tree: Snapshot::empty(),
            known: false,
            gone: false,
            lost: false,
        })
    }

    /// Starts to watch; the points are told that are asked for by `reached`.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(super) fn watch(
        &mut self,
        cookies: &Path,
    ) -> std::io::Result<(Arc<Watch>, mpsc::Receiver<()>)> {
        let (root, wanted) = (self.filter.root().to_owned(), wanted(&self.filter));
        let watch = Arc::new(Watch::start(root, cookies.to_owned(), wanted)?);
        let (reached, reaches) = mpsc::channel(1);
        (self.watch, self.reached) = (Some(watch.clone()), Some(reached));
        Ok((watch, reaches))
    }

    /// Has the watch go through all directories again, by the rules as they are now.
    pub(super) fn rewalk(&self) {
        if let Some(watch) = &self.watch {
            watch.rewalk(wanted(&self.filter));
        }
    }
}

/// The name of a pair's directory.
fn name_of(index: usize) -> SyncPath {
    SyncPath::try_from(index.to_string().as_str()).expect("digits are a name")
}

/// What a tree of all pairs says of one.
pub(super) fn tree_of(index: usize, all: &Snapshot) -> Snapshot {
    all.dir(&name_of(index)).cloned().map(Snapshot::from_root).unwrap_or_default()
}

/// What the filter keeps is watched.
struct Kept(Arc<Filter>);

impl Wants for Kept {
    fn wants(&self, directory: &SyncPath) -> bool {
        directory.is_root() || self.0.verdict_of(directory, true).is_kept()
    }

    fn forget(&self, subtree: &SyncPath) {
        self.0.forget(subtree);
    }
}

fn wanted(filter: &Arc<Filter>) -> Wanted {
    Arc::new(Kept(filter.clone()))
}
