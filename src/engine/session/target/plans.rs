//! What is planned, once for all targets that hold the same.

use std::sync::Arc;

use e2ek_sidecar::tree::{Snapshot, TreeId};
use e2ek_sidecar::wire::Op;

/// What is to be sent as a generation.
#[derive(Clone, Default)]
pub(super) struct Planned {
    /// One for all targets that are sent the same.
    pub(super) ops: Arc<[Op]>,
    /// Of a first sync in several generations: what this one leads to.
    pub(super) part: Option<Snapshot>,
    /// Files that are only ignored now.
    pub(super) forgotten: u64,
    /// Large files are left out: it leads elsewhere than to the source.
    pub(super) less: bool,
    /// Puts large contents in place that came ahead.
    pub(super) put: bool,
}

/// What was planned lately for one tree of the source, as long as that is the newest one.
#[derive(Default)]
pub(in crate::engine::session) struct Plans {
    /// What a target holds, and what leads on from there; nothing where each goes its own way.
    last: Option<(TreeId, Option<Planned>)>,
}

impl Plans {
    /// What is planned for a target that holds `held`: as for the one before, if that held the same.
    pub(super) fn of(
        &mut self,
        held: TreeId,
        plan: impl FnOnce() -> Option<Planned>,
    ) -> Option<Planned> {
        match &self.last {
            Some((known, planned)) if *known == held => planned.clone(),
            _ => {
                let planned = plan();
                self.last = Some((held, planned.clone()));
                planned
            }
        }
    }
}
