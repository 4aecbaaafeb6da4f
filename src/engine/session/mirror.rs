//! `mirror`: unmanaged paths are listed, judged by the delete budget, and removed.

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::Problem;
use e2ek_sidecar::wire::{Listed, ToHub, batches};

use super::{Effect, TargetId};
use crate::engine::plan::{DeleteBudget, Hold};

/// Where it stands.
#[derive(Default)]
enum Stage {
    /// To be listed.
    #[default]
    Due,
    Listing,
    /// Too many to remove without an answer.
    Held(Hold),
    /// So many messages are unanswered.
    Removing(usize),
    Done,
}

/// One target's unmanaged paths.
#[derive(Default)]
pub(super) struct Mirror {
    stage: Stage,
    /// Look again when this look is over.
    again: bool,
    /// What could not be removed.
    pub(super) problems: Vec<Problem>,
}

impl Mirror {
    /// Goes on; `accepted`: the user said yes. Returns whether nothing is left to do, or why not.
    pub(super) fn advance(
        &mut self,
        id: TargetId,
        accepted: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<bool, Hold> {
        match &self.stage {
            Stage::Done => return Ok(true),
            Stage::Held(hold) if !accepted => return Err(hold.clone()),
            Stage::Listing | Stage::Removing(_) => return Ok(false),
            Stage::Due | Stage::Held(_) => {}
        }
        self.again = false;
        self.stage = Stage::Listing;
        effects.push(Effect::Send(id, ToHub::ListForeign));
        Ok(false)
    }

    /// Everything unmanaged, directories before what they hold. `managed` entries are the hub's.
    pub(super) fn listed(
        &mut self,
        id: TargetId,
        paths: Vec<(SyncPath, Listed)>,
        managed: u64,
        budget: DeleteBudget,
        accepted: bool,
        effects: &mut Vec<Effect>,
    ) {
        if !matches!(self.stage, Stage::Listing) {
            return;
        }
        let files = paths.iter().filter(|(_, l)| !matches!(l, Listed::Directory(_))).count() as u64;
        let managed = managed + files;
        if !accepted && !budget.is_unlimited() && !budget.allows(files, managed) {
            self.stage = Stage::Held(Hold::Budget { deletes: files, managed });
            return;
        }
        self.problems.clear();
        // The deepest first: a directory goes when what it holds is gone.
        let parts: Vec<_> = batches(paths).collect();
        self.stage = Stage::Removing(parts.len());
        effects.extend(
            (parts.into_iter().rev()).map(|paths| Effect::Send(id, ToHub::RemoveForeign { paths })),
        );
        self.end_of_part(0);
    }

    /// A message of removals is done. Returns whether one was expected.
    pub(super) fn removed(&mut self, problems: &[Problem]) -> bool {
        let expected = matches!(self.stage, Stage::Removing(1..));
        if expected {
            self.problems.extend_from_slice(problems);
            self.end_of_part(1);
        }
        expected
    }

    fn end_of_part(&mut self, parts: usize) {
        if let Stage::Removing(left) = &mut self.stage {
            *left -= parts;
            if *left == 0 {
                self.stage = if self.again { Stage::Due } else { Stage::Done };
            }
        }
    }

    /// Nothing is outstanding.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done) && self.problems.is_empty()
    }

    /// Looks again.
    pub(super) fn retry(&mut self) {
        match self.stage {
            Stage::Done | Stage::Due | Stage::Held(_) => self.stage = Stage::Due,
            Stage::Listing | Stage::Removing(_) => self.again = true,
        }
    }

    /// The next link begins anew.
    pub(super) fn link_down(&mut self) {
        self.stage = Stage::Due;
    }
}
