//! The session's words: what it is told, what it asks for, and what it says to people.

use std::sync::Arc;
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::restart::{Action, ActionSet};
use e2ek_sidecar::tree::{Problem, Snapshot, TreeId};
use e2ek_sidecar::wire::{ChildEvent, CommandSpec, FromHub, Listed, Op, Refusal, ToHub, WireError};

use super::super::plan::{DeleteBudget, Hold, Mode};

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
