//! Owns the flow of one workspace to its targets: what the source is, what each target has, what is
//! on its way, what waits, and when the command is restarted.
//!
//! Pure: inputs and `now` in, effects out. One diff serves every occasion: a save, a first contact
//! and a reconnect differ only in what is known of the other side. What a target refused, held or
//! could not show stays visible in [`Session::status`]: nothing is called synced that is not.

#![deny(clippy::disallowed_methods)]

mod command;
mod compare;
mod mirror;
mod target;
mod words;

use std::collections::BTreeMap;
use std::time::Instant;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Reason, Snapshot};
use e2ek_sidecar::wire::{CommandSpec, FromHub, Listed, Op, Refusal};

use super::plan::Hold;
pub use target::{TargetState, TargetStatus};
pub use words::{
    Amount, Applied, Closing, Effect, Ignored, Input, Notice, Rules, Settings, TargetId,
};

/// The machine. See the module.
pub struct Session {
    settings: Settings,
    /// The source as last seen; `None` before the first look.
    local: Option<Local>,
    /// Counts the trees the source went through; never goes back.
    generation: u64,
    source_gone: bool,
    paused: bool,
    ending: bool,
    targets: BTreeMap<TargetId, target::Target>,
}

/// The source, with when it was seen.
struct Local {
    tree: Snapshot,
    seen: Instant,
    hashed: Instant,
}

impl Session {
    /// A session that knows nothing yet; its targets come by [`Input::Join`].
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            local: None,
            generation: 0,
            source_gone: false,
            paused: false,
            ending: false,
            targets: BTreeMap::new(),
        }
    }

    /// Goes on with other settings: what is planned and restarted from now on follows them.
    pub fn follow(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Takes one input. Called with the same inputs it has the same effects.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        let concerned = concerned(&input);
        let generation = self.generation;
        match input {
            Input::Scanned { tree, seen } => self.scanned(now, tree, seen),
            Input::RootGone => self.root_gone(&mut effects),
            Input::Join { target, command } => self.join(now, target, command, &mut effects),
            Input::Leave(id) => drop(self.targets.remove(&id)),
            Input::Message(id, message) => self.message(now, id, message, &mut effects),
            Input::Foreign(id, paths) => self.foreign(id, paths, &mut effects),
            Input::LinkDown(id) => self.link_down(now, id),
            Input::End => self.ending = true,
            Input::Pause => self.paused = true,
            Input::Resume { accept } => self.resume(accept),
            Input::Retry => self.targets.values_mut().for_each(|t| t.retry(&mut effects)),
            Input::Reconnect if self.ending => {}
            Input::Reconnect => {
                self.targets.values_mut().for_each(|t| t.reconnect(&mut effects));
            }
            Input::Restart(id) => {
                let target = self.targets.get_mut(&id).into_iter();
                target.for_each(|target| target.restart_now(now, &self.settings));
            }
            Input::Tick { .. } if self.ending => {}
            Input::Tick { git_busy } => self.tick(now, git_busy, &mut effects),
        }
        // A hub that is ahead moves the number on, which all hear of.
        let concerned = concerned.filter(|_| self.generation == generation);
        self.pump(now, concerned, &mut effects);
        effects
    }

    /// When [`Input::Tick`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.ending {
            return None;
        }
        self.targets.values().filter_map(target::Target::deadline).min()
    }

    /// Whether nothing that this hub has to work at is on its way to it: what it is asked then it can
    /// answer at once.
    #[must_use]
    pub fn is_quiet(&self, id: TargetId) -> bool {
        self.targets.get(&id).is_some_and(target::Target::is_quiet)
    }

    /// Whether a restart waits: only then does [`Input::Tick`] need to know about git.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        self.targets.values().any(target::Target::is_settling)
    }

    /// The number of the newest tree of the source.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The source as last seen.
    #[must_use]
    pub fn local(&self) -> Option<&Snapshot> {
        self.local.as_ref().map(|local| &local.tree)
    }

    /// What a target would be sent now; `None` as long as it is not known what it holds.
    #[must_use]
    pub fn plan(&self, target: TargetId) -> Option<Vec<Op>> {
        self.targets.get(&target)?.plan(self.local()?, &self.settings)
    }

    /// Whether the user paused it.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// How each target stands, in the order of their names.
    #[must_use]
    pub fn status(&self) -> Vec<TargetStatus> {
        let (local, gone) = (self.local(), self.source_gone);
        self.targets.values().map(|target| target.status(local, gone, &self.settings)).collect()
    }

    fn join(
        &mut self,
        now: Instant,
        id: TargetId,
        command: Option<CommandSpec>,
        effects: &mut Vec<Effect>,
    ) {
        let mut target = target::Target::new(id, command);
        if self.local.is_some() {
            // What it lacks is late from now on, not since the last save.
            target.source_changed(now, now, &self.settings);
        }
        if self.source_gone {
            effects.push(Effect::Say(Notice::Held { target: id, hold: Hold::RootGone }));
        }
        target.connect(effects);
        self.targets.insert(id, target);
    }

    fn link_down(&mut self, now: Instant, id: TargetId) {
        if let Some(target) = self.targets.get_mut(&id) {
            target.link_down(now, &self.settings);
        }
    }

    fn foreign(&mut self, id: TargetId, paths: Vec<(SyncPath, Listed)>, effects: &mut Vec<Effect>) {
        if let Some(target) = self.targets.get_mut(&id) {
            target.foreign(paths, &self.settings, effects);
        }
    }

    fn scanned(&mut self, now: Instant, tree: Snapshot, seen: Instant) {
        self.source_gone = false;
        let same = self.local.as_ref().is_some_and(|local| local.tree.id() == tree.id());
        if !same {
            self.generation += 1;
        }
        match &mut self.local {
            // Stamps may be newer: keep them.
            Some(local) if same => local.tree = tree,
            local => *local = Some(Local { tree, seen, hashed: now }),
        }
        if !same {
            let settings = &self.settings;
            self.targets.values_mut().for_each(|t| t.source_changed(now, seen, settings));
        }
    }

    fn root_gone(&mut self, effects: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.source_gone, true) {
            for &target in self.targets.keys() {
                effects.push(Effect::Say(Notice::Held { target, hold: Hold::RootGone }));
            }
        }
    }

    fn resume(&mut self, accept: bool) {
        self.paused = false;
        if accept && let Some(local) = &self.local {
            self.targets.values_mut().for_each(|t| t.accept(local.tree.id()));
        }
    }

    fn tick(&mut self, now: Instant, git_busy: bool, effects: &mut Vec<Effect>) {
        for target in self.targets.values_mut() {
            target.tick(now, git_busy, &self.settings, effects);
        }
    }

    fn message(&mut self, now: Instant, id: TargetId, message: FromHub, effects: &mut Vec<Effect>) {
        // One that has left may still have been speaking.
        let Some(target) = self.targets.get_mut(&id) else { return };
        let result = match message {
            FromHub::Opened { tree, generation, epoch: _, populated } => {
                self.generation = self.generation.max(generation);
                target.opened(now, tree, generation, populated)
            }
            FromHub::Refused(Refusal::Superseded) if target.superseded(now) => {
                Err(Closing::Superseded)
            }
            FromHub::Refused(Refusal::Unusable(why)) if target.was_open() => {
                Err(Closing::Unusable(why))
            }
            FromHub::Refused(refusal) => {
                effects.push(Effect::Say(Notice::Refused { target: id, refusal }));
                target.refused();
                Ok(())
            }
            FromHub::Listing { path, children, last } => {
                target.listing(path.as_ref(), children, last, effects)
            }
            FromHub::Need { indices, adopted: _, last } => {
                target.needs(indices, last, &self.settings, effects)
            }
            FromHub::AppliedPart { skipped, overwritten } => {
                target.applied_part(skipped, overwritten)
            }
            FromHub::Applied { generation, tree, skipped, overwritten, micros } => {
                let report = target::Report { generation, tree, skipped, overwritten, micros };
                target.applied(now, report, &self.settings, effects)
            }
            FromHub::Drifted { paths } => {
                effects.push(Effect::Say(Notice::Drifted { target: id, paths }));
                Ok(())
            }
            FromHub::ForeignRemoved { removed, problems } => {
                target.mirrored(now, removed, problems, effects);
                Ok(())
            }
            FromHub::Child(event) => {
                target.child(&event);
                effects.push(Effect::Say(Notice::Child { target: id, event }));
                Ok(())
            }
            FromHub::Held { number } => {
                target.held_ahead(number);
                Ok(())
            }
            FromHub::NotHeld { number, why } => {
                target.not_held(now, number, why, effects);
                Ok(())
            }
            // The edge's: collected, forwarded or counted there.
            FromHub::Foreign { .. }
            | FromHub::Output { .. }
            | FromHub::Credit { .. }
            | FromHub::StdinTaken { .. }
            | FromHub::NotReplayable { .. }
            | FromHub::AheadTaken { .. }
            | FromHub::Ping
            | FromHub::Bye { .. } => Ok(()),
        };
        if let Err(error) = result {
            target.close(error, effects);
        }
    }

    /// Gives every target what it lacks and may have now, or that one alone which it is all about.
    fn pump(&mut self, now: Instant, alone: Option<TargetId>, effects: &mut Vec<Effect>) {
        let Some(local) = &self.local else { return };
        if self.paused || self.source_gone || self.ending {
            return;
        }
        let (settings, mut plans, mut alone) = (&self.settings, target::Plans::default(), alone);
        // A target whose hub is ahead moves the number on: those before it hear of it, too.
        loop {
            let before = self.generation;
            let of = |id: &TargetId| alone.is_none_or(|alone| alone == *id);
            for (_, target) in self.targets.iter_mut().filter(|(id, _)| of(id)) {
                target.pump(now, local, &mut self.generation, settings, &mut plans, effects);
            }
            if self.generation == before {
                return;
            }
            alone = None;
        }
    }
}

/// The one target that an input is all about: for the others nothing can come of it.
fn concerned(input: &Input) -> Option<TargetId> {
    match input {
        Input::Message(target, _) | Input::Foreign(target, _) => Some(*target),
        _ => None,
    }
}

/// The reason of a skipped op that stands for a lost race: the next look decides, nobody is told.
fn is_race(reason: &Reason) -> bool {
    matches!(reason, Reason::Conflict)
}

#[cfg(test)]
mod tests;
