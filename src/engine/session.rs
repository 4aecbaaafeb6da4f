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

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::restart::{Action, ActionSet};
use e2ek_sidecar::tree::{Problem, Reason, Snapshot, TreeId};
use e2ek_sidecar::wire::{ChildEvent, CommandSpec, FromHub, Listed, Op, Refusal, ToHub, WireError};

use super::plan::{DeleteBudget, Hold, Mode};
pub use target::{TargetState, TargetStatus};

/// What a changed path asks of the command, by the restart rules; set by the configuration.
pub type Rules = Box<dyn Fn(&SyncPath) -> Vec<Action> + Send>;

/// Whether ignore rules keep a path (of a directory: `true`) out; set by the filter.
pub type Ignored = Box<dyn Fn(&SyncPath, bool) -> bool + Send>;

/// What does not change while a session lives.
pub struct Settings {
    /// Send nothing: only find out what would be sent (`plan`).
    pub dry: bool,
    /// What becomes of files that others made.
    pub mode: Mode,
    /// How many deletes need no question.
    pub budget: DeleteBudget,
    /// Content from this size on, in bytes, goes to a target ahead of its generation: what is saved
    /// meanwhile does not wait for it.
    pub ahead_from: u64,
    /// Quiet time before a restart.
    pub settle: Duration,
    /// The longest a restart waits for quiet.
    pub settle_at_most: Duration,
    /// The longest a restart waits for git.
    pub git_at_most: Duration,
    /// What changed paths ask of the commands.
    pub rules: Rules,
    /// What a path that is gone from the source is asked: is it only ignored now?
    pub ignored: Ignored,
}

/// Names a target; whoever lets it join chooses. No name is used twice.
pub type TargetId = usize;

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// The source was looked at.
    Scanned {
        /// All of it.
        tree: Snapshot,
        /// When the first event that led to this look came; the time of the look if none did.
        seen: Instant,
    },
    /// A source root is gone, unmounted or replaced; a later `Scanned` says that it is back.
    RootGone,
    /// A target more: it is connected and brought up to date like the others.
    Join {
        /// Its name, never used before.
        target: TargetId,
        /// Run there from the moment it is current.
        command: Option<CommandSpec>,
    },
    /// A target less; nothing more is said of it, and what its link still brings is passed over.
    /// Ending the link in good order is the daemon's.
    Leave(TargetId),
    /// A message came.
    Message(TargetId, FromHub),
    /// Unmanaged paths at the target that no ignore rule protects (for `mirror`), all of them.
    Foreign(TargetId, Vec<(SyncPath, Listed)>),
    /// A link ended or could not be made.
    LinkDown(TargetId),
    /// The daemon ends: nothing new is begun from now on. What is on its way is left to its answer.
    End,
    /// Send nothing until [`Input::Resume`].
    Pause,
    /// Go on; with `accept`, make the deletes that are held.
    Resume {
        /// Answer a hold with yes.
        accept: bool,
    },
    /// Try again what was refused, and look for unmanaged paths again.
    Retry,
    /// The way to the targets may be another by now (a route changed, the machine woke up): lost links
    /// are made again at once.
    Reconnect,
    /// Restart the command of this target now, whatever changed.
    Restart(TargetId),
    /// Time passed. `git_busy`: a git command holds the index of the source.
    Tick {
        /// See above.
        git_busy: bool,
    },
}

/// Something to do, in this order for each target.
#[derive(Debug)]
pub enum Effect {
    /// Make a link.
    Connect(TargetId),
    /// End the link.
    Close(TargetId, Closing),
    /// Send a message.
    Send(TargetId, ToHub),
    /// Send the ops of a generation; `Data` follow when asked for.
    SendOps {
        /// To whom.
        target: TargetId,
        /// Which.
        generation: u64,
        /// What the target holds before it, unless something that is on its way fails.
        base: Snapshot,
        /// All of them.
        ops: Arc<[Op]>,
    },
    /// Send content and then Commit.
    SendData {
        /// To whom.
        target: TargetId,
        /// Which.
        generation: u64,
        /// All ops of the generation.
        ops: Arc<[Op]>,
        /// Those whose content is needed, in order.
        indices: Vec<u32>,
        /// The tree it leads to.
        commit: TreeId,
    },
    /// Send a content ahead of its generation, between whatever else is sent; not before what came
    /// earlier.
    Ahead {
        /// To whom.
        target: TargetId,
        /// Names it on this link.
        number: u64,
        /// What it is for; of a [`How::Copy`](e2ek_sidecar::wire::How::Copy) the hub has the content.
        op: Op,
        /// What the target holds by then.
        base: Snapshot,
        /// Not as a patch or copy.
        whole: bool,
    },
    /// End a content that is sent ahead or held.
    EndAhead(TargetId, u64),
    /// Tell people.
    Say(Notice),
}

/// Why a link is ended by us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closing {
    /// The other end broke the protocol.
    Protocol(WireError),
    /// The two records differ; the next link begins with a comparison.
    Desync,
    /// The hub listens to another link of ours by now: one that was given up, and came late.
    Superseded,
    /// The hub cannot serve us just now (its disk is full, say), but it could before.
    Unusable(String),
}

/// Something worth telling.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// A session with a hub is open.
    Opened {
        /// Where.
        target: TargetId,
        /// Both sides held the same tree.
        equal: bool,
    },
    /// The hub did not open.
    Refused {
        /// Where.
        target: TargetId,
        /// Why.
        refusal: Refusal,
    },
    /// A generation is on its way.
    Begin {
        /// Where.
        target: TargetId,
        /// Number.
        generation: u64,
        /// What it changes.
        amount: Amount,
        /// Part of a sync that may take several generations: the first one on a link, or large files.
        first: bool,
        /// With the first of several: all of it, as far as known.
        all: Option<Amount>,
    },
    /// A generation is visible at the target.
    Applied {
        /// Where.
        target: TargetId,
        /// What and when.
        report: Applied,
    },
    /// The target is level with the source although the end of something begun was not told: its
    /// acknowledgement was lost with a link, or the source went back before all of it was sent.
    Level {
        /// Where.
        target: TargetId,
    },
    /// A path could not be applied.
    Problem {
        /// Where.
        target: TargetId,
        /// Which and why.
        problem: Problem,
    },
    /// A path that had a problem has none any more.
    ProblemGone {
        /// Where.
        target: TargetId,
        /// Which.
        path: SyncPath,
    },
    /// Nothing is sent until somebody answers.
    Held {
        /// Where.
        target: TargetId,
        /// Why.
        hold: Hold,
    },
    /// A hold is over.
    Released {
        /// Where.
        target: TargetId,
    },
    /// Managed paths that somebody changed at the target; they are being put right.
    Drifted {
        /// Where.
        target: TargetId,
        /// Which.
        paths: Vec<SyncPath>,
    },
    /// Managed paths are ignored now: they stay at the target and are managed no more.
    Forgotten {
        /// Where.
        target: TargetId,
        /// Files and links.
        count: u64,
    },
    /// Unmanaged paths were removed (`mirror`).
    Mirrored {
        /// Where.
        target: TargetId,
        /// How many.
        removed: u64,
    },
    /// The restart rules were followed.
    Acted {
        /// Where.
        target: TargetId,
        /// For generations up to this.
        generation: u64,
        /// What.
        actions: ActionSet,
        /// Changed paths ask for the restart, not only a person.
        saves: bool,
        /// Some of the paths that need a new image.
        build: Vec<SyncPath>,
    },
    /// The command did something.
    Child {
        /// Where.
        target: TargetId,
        /// What.
        event: ChildEvent,
    },
}

/// How much there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Files and links.
    pub files: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
}

impl Amount {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { files: self.files + other.files, bytes: self.bytes + other.bytes }
    }

    /// What is left without `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        let files = self.files.saturating_sub(other.files);
        Self { files, bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

/// What a generation did and how long each stage took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Number.
    pub generation: u64,
    /// Part of a sync in several generations of which more is to come.
    pub more: bool,
    /// Files and links changed, made or removed.
    pub files: u64,
    /// Content that was not at the target before, in bytes.
    pub bytes: u64,
    /// Ops that were skipped.
    pub skipped: u64,
    /// Paths whose foreign content went to the hub's trash.
    pub overwritten: Vec<SyncPath>,
    /// When the first change was seen.
    pub seen: Instant,
    /// When its hash was known.
    pub hashed: Instant,
    /// When it was handed to the link.
    pub sent: Instant,
    /// How long the hub wrote.
    pub written: Duration,
    /// When the acknowledgement came.
    pub acked: Instant,
}

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
        self.pump(now, &mut effects);
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

    /// Gives every target what it lacks and may have now.
    fn pump(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(local) = &self.local else { return };
        if self.paused || self.source_gone || self.ending {
            return;
        }
        // A target whose hub is ahead moves the number on: those before it hear of it, too.
        loop {
            let before = self.generation;
            for target in self.targets.values_mut() {
                target.pump(now, local, &mut self.generation, &self.settings, effects);
            }
            if self.generation == before {
                return;
            }
        }
    }
}

/// The reason of a skipped op that stands for a lost race: the next look decides, nobody is told.
fn is_race(reason: &Reason) -> bool {
    matches!(reason, Reason::Conflict)
}

#[cfg(test)]
mod tests;
