//! Owns one target while it is served: its roots, its record, the right to write there.
//!
//! How it is opened is `opening`'s part, performing generations is `apply`'s, unmanaged paths are
//! `foreign`'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::info;

use super::ahead::Lane;
use super::apply::{Applying, Parts, Torn};
use super::replay::Inside;
use super::root::TargetRoot;
use super::store::{Claim, Owner, Store};
use super::target::Target;
use crate::path::SyncPath;
use crate::receive::{Receiver, root_index};
use crate::wire::{self, Open};

/// One target being served.
pub(super) struct Site {
    /// One a path pair; `None` where a mere look found no directory.
    pub(super) roots: Vec<Option<Arc<TargetRoot>>>,
    /// Whose root the paths are resolved in.
    pub(super) process: Option<Target>,
    /// The process is a container's, which starts anew without what was written.
    pub(super) inside: Option<Inside>,
    /// `None` in a session that only looks.
    pub(super) store: Option<Store>,
    pub(super) receiver: Receiver,
    pub(super) applying: Applying,
    /// Contents that come ahead of their generation.
    pub(super) ahead: Lane,
    /// Large files may be patched where they stand.
    pub(super) in_place: bool,
    /// Of large files that were written.
    pub(super) parts: Parts,
    /// Of those whose patch failed half-way.
    pub(super) torn: Torn,
    /// Where the command runs: the first root.
    pub(super) directory: PathBuf,
    pub(super) epoch: u64,
    /// Something lies there although nothing is managed.
    pub(super) populated: bool,
    /// Managed paths that somebody changed since they were written.
    pub(super) drifted: Vec<SyncPath>,
    pub(super) claims: Vec<Claim>,
}

impl Site {
    /// The root that a path of the session's tree lies in, and the path below it.
    pub(super) fn locate(&self, path: &SyncPath) -> Option<(&Arc<TargetRoot>, SyncPath)> {
        let (index, below) = root_index(path)?;
        Some((self.roots.get(index)?.as_ref()?, below))
    }

    /// Whether this session only looks: nothing is ever written.
    pub(super) fn is_dry(&self) -> bool {
        self.store.is_none()
    }

    /// The lease's epoch; 0 in a session that only looks.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Goes on as it is, under the next epoch.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub(super) fn next_epoch(&mut self, open: &Open, epoch: u64) -> std::io::Result<()> {
        let owner = Owner { workspace: open.workspace, writer: open.writer.clone(), epoch };
        self.epoch = epoch;
        self.store.as_mut().map_or(Ok(()), |store| store.set_owner(&owner))
    }

    /// Answers `Open`.
    pub(super) fn opened(&mut self) -> Vec<wire::FromHub> {
        let mut answers = Vec::new();
        if !self.drifted.is_empty() {
            let paths = std::mem::take(&mut self.drifted);
            answers.extend(wire::batches(paths).map(|paths| wire::FromHub::Drifted { paths }));
        }
        answers.push(wire::FromHub::Opened {
            tree: self.receiver.held().id(),
            generation: self.receiver.generation(),
            epoch: self.epoch,
            // At first only: what lies there is ours by now, if anything is.
            populated: self.populated && self.receiver.held().root().is_empty(),
        });
        answers
    }

    /// Whether what was written is where people look for it (I2).
    pub(super) fn is_visible(&self) -> bool {
        self.process.as_ref().is_none_or(|process| process.check().is_ok())
            && self.roots.iter().flatten().all(|root| root.check().is_ok())
    }

    /// Where the command runs.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Leaves nothing staged while nobody is there.
    pub(super) fn tidy(&self) {
        for root in self.roots.iter().flatten() {
            root.tidy();
        }
    }

    /// Ends cleanly: what is under way enters the record, and nothing staged is left.
    pub(super) fn close(mut self) {
        self.abandon();
        self.tidy();
        // Whoever gets the record next finds the roots free as well.
        self.claims.clear();
        if let Some(Err(error)) = self.store.map(Store::close) {
            info!(%error, "the record was not folded; its log serves as well");
        }
    }
}
