//! Owns what crosses the link: the Hello, the frames, and every message with its limits.
//!
//! One frame is `length (varint) | message (postcard) | crc32c (4 bytes, little endian)`. Enums only
//! grow at their end. Nothing is allocated before its length was checked, and whatever bytes come in
//! the outcome is messages or one [`WireError`]: never a panic, never more memory than the caps.
//!
//! A generation crosses as `Ops... Data... Commit`, or `PackedOps... Data... Commit` where there are
//! many, and only one is open at a time. Where an op says [`How::Copy`] or [`How::Ask`] the hub answers
//! the last of its ops with [`FromHub::Need`] and the daemon sends `Data` and `Commit` after that; else
//! everything goes out without a question asked. A patch is
//! sent on the belief that the hub holds its base; where it does not, the op is skipped, the record
//! forgets the path, and the next generation brings the whole.
//!
//! Large content goes ahead of its generation, as `Ahead, AheadData...`, each frame between whatever
//! else is sent, so that nothing waits behind it. [`FromHub::Held`] says that the hub holds all of it;
//! then an op says [`How::Held`] and needs nothing more. Everything sent ahead ends with the link.

#![deny(clippy::disallowed_methods)]

mod frame;
mod hello;
mod ops;
mod pack;

pub use frame::{Decoder, batches, encode};
pub use hello::{ANSWERS_PINGS, Hello, HelloReader, PROTOCOL, negotiate};
pub use ops::{OpsPacker, unpack_ops};
pub use pack::{Packer, Shrunk, plain, unpack};

use serde::{Deserialize, Serialize};

use crate::path::SyncPath;
use crate::restart::{ActionSet, Policy};
use crate::tree::{Change, Digest, Problem, Reason, TreeId};

/// Longest frame, in bytes, without its length and checksum.
pub const MAX_FRAME_BYTES: usize = 1 << 20;
/// What one [`Data`](ToHub::Data) frame may unpack to, in bytes.
pub const MAX_UNPACKED_BYTES: usize = 1 << 20;
/// File bytes put into one frame: small enough that an edit never waits long behind it.
pub const PIECE_BYTES: usize = 128 << 10;
/// Most ops put into one frame; long paths allow fewer, see [`batches`].
pub const OPS_PER_FRAME: usize = 1000;
/// Ops and Data bytes that may be on their way to the hub; the hub gives credit as it consumes.
pub const WINDOW_BYTES: u64 = 8 << 20;
/// Output bytes of the app that may be on their way to the daemon.
pub const OUTPUT_WINDOW_BYTES: u64 = 256 << 10;
/// Input bytes for the app that may be on their way to the hub.
pub const INPUT_WINDOW_BYTES: u64 = 64 << 10;
/// Most ops a generation may have.
pub const MAX_OPS: usize = 2_000_000;
/// `AheadData` bytes that may be on their way to the hub, which says as it takes them.
pub const AHEAD_WINDOW_BYTES: u64 = 8 << 20;
/// Contents that may come ahead or be held at a time.
pub const AHEAD_CONTENTS: usize = 64;
/// Their sizes together, in bytes, if they are more than one.
pub const AHEAD_BYTES: u64 = 4 << 30;

/// Why bytes from the other end are refused. After one, the link is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The first bytes are not a Hello; they are shown, for they are often somebody's error message.
    #[error("the other end is not e2ek-sync; it said \"{0}\"")]
    NotOurs(String),
    /// No protocol version in common.
    #[error("no protocol version in common: this end speaks {}..={} ({ours_build}), the other {}..={} ({theirs_build})", ours.0, ours.1, theirs.0, theirs.1)]
    Skew {
        /// Lowest and highest version of this end.
        ours: (u16, u16),
        /// Build of this end.
        ours_build: String,
        /// Lowest and highest version of the other end.
        theirs: (u16, u16),
        /// Build of the other end.
        theirs_build: String,
    },
    /// A frame longer than [`MAX_FRAME_BYTES`], or whose content unpacks to too much.
    #[error("frame is too long")]
    TooLong,
    /// The checksum does not fit.
    #[error("frame is damaged")]
    Damaged,
    /// Not a message of this protocol version.
    #[error("frame is not a message")]
    Malformed,
    /// A message that makes no sense now.
    #[error("message out of order: {0}")]
    Order(&'static str),
}

/// Bytes within a message, copied once.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob(pub Vec<u8>);

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Blob;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// Identity of a workspace: 16 bytes of a hash of its folder and of what its state directory alone has.
pub type WorkspaceId = [u8; 16];

/// How the hub writes a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum WriteMode {
    /// By rename, in place only where a rename cannot be.
    #[default]
    Auto,
    /// By rename or not at all.
    Rename,
    /// In place: the inode stays, a reader may see half.
    InPlace,
}

/// The first message: which roots, for whom. Sent together with the Hello, unanswered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Open {
    /// Who writes.
    pub workspace: WorkspaceId,
    /// The writer, for people: user, host and source.
    pub writer: String,
    /// Where each path pair leads, at the hub: one absolute or relative path a pair.
    pub roots: Vec<Blob>,
    /// The process whose root the paths are resolved in; `None` for the hub's own.
    pub process: Option<i32>,
    /// How files are written.
    pub write: WriteMode,
    /// Take the right to write from whoever holds it.
    pub take_over: bool,
    /// Stat every managed path and answer with [`FromHub::Drifted`] before [`FromHub::Opened`].
    pub check: bool,
    /// Do nothing but answer: make no directory, take no lease (for `plan`).
    pub dry_run: bool,
}

/// A container of the pod that the hub is a sidecar in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// What the cluster knows it by (64 hexadecimal digits): one that runs under another id is not
    /// opened. `None` when the daemon was not told. It changes with each restart of the container.
    pub id: Option<String>,
}

/// Permission bits and time of a file that is put.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Permission bits of the source (the lower 9 are used), for a file or directory that is new.
    pub mode: u16,
    /// Modification time in nanoseconds since the epoch.
    pub mtime_ns: i64,
}

/// Where the content of an op comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum How {
    /// It has none: a directory, a link, a delete, an empty file, or only the executable bit.
    None,
    /// It follows in `Data`.
    Data,
    /// The hub holds the same content at this path as it stands before this generation.
    Copy {
        /// A managed path.
        from: SyncPath,
    },
    /// The target may hold it already at the op's own path (first contact).
    Ask,
    /// What is there stays as it is and is managed no more (it is ignored from now on).
    Forget,
    /// A patch (see [`crate::delta`]) of the op's old content follows in `Data`.
    Patch,
    /// A directory with all it holds moves here. Stands for the removal of each entry there and for
    /// an op for each entry here, with [`How::Copy`] where it has content; all count as ops.
    Tree {
        /// A managed directory, for whose removal no op is sent.
        from: SyncPath,
        /// What it holds.
        tree: TreeId,
        /// How many entries that are, at any depth.
        count: u32,
    },
    /// A patch of the content at another path, as it stands before this generation, follows in
    /// `Data`: what is new here is much like that. No op of the generation but its removal may touch
    /// that path.
    Like {
        /// A managed file.
        from: SyncPath,
    },
    /// The hub holds it: it came ahead ([`ToHub::Ahead`]), and is held no more after this op.
    Held,
}

impl How {
    /// Whether the hub is to say first if it needs the content.
    #[must_use]
    pub fn asks(&self) -> bool {
        matches!(self, Self::Ask | Self::Copy { .. } | Self::Tree { .. })
    }
}

/// One change with what is needed to make it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Op {
    /// Path, what the hub holds there, what it shall hold.
    pub change: Change,
    /// Where the content comes from.
    pub how: How,
    /// Bits and time.
    pub meta: Meta,
}

/// The command that a hub runs beside the files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CommandSpec {
    /// Program and arguments; never a shell.
    pub argv: Vec<Blob>,
    /// When and how it is stopped and started.
    pub policy: Policy,
    /// Give it the hub's own standard streams (a terminal), rather than frames.
    pub inherit: bool,
}

/// From the daemon to the hub. Append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ToHub {
    /// Opens the session; the first message and only that.
    Open(Open),
    /// Some ops of a generation, in path order over all its frames.
    Ops {
        /// Number: greater than the last.
        generation: u64,
        /// At most [`OPS_PER_FRAME`].
        ops: Vec<Op>,
        /// No more ops follow.
        last: bool,
    },
    /// File content of the open generation: see [`Packer`].
    Data {
        /// 0: as it is, 1: one zstd frame.
        encoding: u8,
        /// Pieces.
        body: Blob,
    },
    /// An op of the open generation whose content cannot be sent any more (it changed meanwhile).
    Withdraw {
        /// Which op, counted over the generation.
        index: u32,
    },
    /// The generation is complete.
    Commit {
        /// Its number again.
        generation: u64,
        /// What the hub will hold when nothing goes wrong.
        target: TreeId,
    },
    /// Which entries do these directories hold, according to the hub's record?
    Describe {
        /// Directories; the root is asked for by an empty list.
        paths: Vec<SyncPath>,
    },
    /// What lies at the roots that is not managed? (for `mirror`)
    ListForeign,
    /// Runs this command from now on.
    Run(CommandSpec),
    /// Do what the rules say for what was applied up to a generation. Without any action: nothing is
    /// owed for it, also when an earlier link was lost before this was said.
    Act {
        /// The newest generation it is for.
        generation: u64,
        /// What to do.
        actions: ActionSet,
    },
    /// Bytes for the command's standard input.
    Stdin(Blob),
    /// No more input.
    StdinEnd,
    /// Stops the command.
    StopCommand,
    /// More [`FromHub::Output`] may come.
    Credit {
        /// Bytes.
        bytes: u64,
    },
    /// Still here.
    Ping,
    /// The clean end of the session; the command is stopped.
    Bye,
    /// Removes unmanaged paths (for `mirror`), each only if it still is what was listed.
    RemoveForeign {
        /// Directories before what they hold.
        paths: Vec<(SyncPath, Listed)>,
    },
    /// As `Ops`, in fewer bytes: what stands at each path so far is not told, but is what the tree
    /// `base` says. A hub that holds another tree does nothing of the generation, and says so.
    PackedOps {
        /// Number: greater than the last.
        generation: u64,
        /// What the hub holds before this generation; the same in all its frames.
        base: TreeId,
        /// 0: as it is, 1: one zstd frame.
        encoding: u8,
        /// The ops without their digests: see [`OpsPacker`].
        body: Blob,
        /// The digests of the files that are put, in the order of the ops.
        digests: Blob,
        /// No more ops follow.
        last: bool,
    },
    /// Opens the session in a container of the hub's pod; the first message, instead of
    /// [`ToHub::Open`]. Its `process` is `None`: which one it is, is for the hub to find.
    OpenIn {
        /// Which roots, for whom.
        open: Open,
        /// Where.
        container: Container,
    },
    /// Content comes ahead of its generation. Answered with `Held` or `NotHeld`.
    Ahead {
        /// Names it on this link: greater than the last.
        number: u64,
        /// What the content is for: [`How::Data`], or [`How::Patch`] or [`How::Like`] of what is
        /// there by now.
        op: Op,
    },
    /// Some of it, in order.
    AheadData {
        /// Which.
        number: u64,
        /// 0: as it is, 1: one zstd frame.
        encoding: u8,
        /// Bytes of the content, or of the patch.
        body: Blob,
    },
    /// It is not wanted any more, or cannot be sent any more: it changed.
    AheadEnd {
        /// Which; may be one that is not held any more.
        number: u64,
    },
}

/// Why a session is not opened. Append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Refusal {
    /// Another workspace writes there, or wrote there last.
    Owned {
        /// Its writer's name.
        by: String,
        /// It is writing now, not only the last one to have written.
        active: bool,
    },
    /// Another session's root is above or below this one.
    Nested {
        /// That root.
        root: String,
        /// Its writer's name.
        by: String,
    },
    /// There is no such path or process.
    NotFound(String),
    /// The system said no.
    Forbidden(String),
    /// Not a directory, or anything else that is wrong with the path.
    Unusable(String),
    /// Another link of the same workspace and writer writes now: a newer session of it, or a link
    /// that was given up and came late.
    Superseded,
}

/// What stands in a directory, as a hub tells it: a subdirectory by its hash only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Listed {
    /// A file.
    File {
        /// Of the content.
        digest: Digest,
        /// In bytes.
        size: u64,
        /// Executable bit.
        executable: bool,
    },
    /// A link.
    Symlink(Blob),
    /// A directory.
    Directory(TreeId),
}

/// An op that was not done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Skipped {
    /// Which op.
    pub index: u32,
    /// Why; `None` when the daemon withdrew it.
    pub reason: Option<Reason>,
}

/// What the supervisor says of the command. Append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ChildEvent {
    /// Started for the first time, or after a hold.
    Started {
        /// Process id at the hub, for people only.
        pid: i32,
    },
    /// Stopped and started again.
    Restarted {
        /// For this generation and those before.
        generation: u64,
        /// From the decision to the new process, in microseconds.
        micros: u64,
        /// Process id at the hub, for people only.
        pid: i32,
    },
    /// Ended by itself.
    Exited {
        /// Exit code, or 128 + the signal.
        status: i32,
        /// The signal that killed it, or 0.
        signal: i32,
        /// Waits for the next change.
        held: bool,
    },
    /// It could not be started.
    Failed {
        /// The system's words.
        error: String,
    },
    /// A command of the restart rules ended.
    Ran {
        /// The command.
        argv: Vec<String>,
        /// Exit code, or 128 + the signal.
        status: i32,
    },
    /// A signal was sent instead of a restart.
    Signalled {
        /// Which.
        signal: i32,
    },
    /// The hub stopped it, as asked.
    Stopped {
        /// Exit code, or 128 + the signal.
        status: i32,
    },
    /// The terminal's user pressed Ctrl-C: it ended, or he insists.
    Interrupted,
    /// Crashed at once several times; it is started again after this long.
    Backoff {
        /// In microseconds.
        micros: u64,
    },
    /// What was asked for is not done, and the process goes on as it is: nobody there may restart it,
    /// or the signal would end it and take the files along.
    NotDone {
        /// Why, and what to do about it.
        why: String,
    },
}

/// From the hub to the daemon. Append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FromHub {
    /// The session is open.
    Opened {
        /// What the hub holds for this workspace.
        tree: TreeId,
        /// The last generation applied; the next is greater.
        generation: u64,
        /// Of the lease.
        epoch: u64,
        /// Nothing is managed yet and something lies there.
        populated: bool,
    },
    /// The session is not opened; the hub closes.
    Refused(Refusal),
    /// Managed paths that somebody changed; they are no longer in the tree of `Opened`.
    Drifted {
        /// Which.
        paths: Vec<SyncPath>,
    },
    /// Answer to the last `Ops` where some op asked: these need `Data` after all.
    Need {
        /// Ops by index, in order over all parts.
        indices: Vec<u32>,
        /// Equal content that was found at the target and taken over.
        adopted: u64,
        /// No more parts follow.
        last: bool,
    },
    /// The generation is visible at the target, but for what was skipped.
    Applied {
        /// Its number.
        generation: u64,
        /// What the hub holds now.
        tree: TreeId,
        /// What was not done.
        skipped: Vec<Skipped>,
        /// Content that somebody else had put there, now in the hub's trash.
        overwritten: Vec<SyncPath>,
        /// From `Commit` or the first write to the last, in microseconds.
        micros: u64,
    },
    /// Answer to `Describe`: one directory.
    Listing {
        /// Which; `None` for the root.
        path: Option<SyncPath>,
        /// Some of its children, in order over all parts.
        children: Vec<(Blob, Listed)>,
        /// No more parts follow.
        last: bool,
    },
    /// Answer to `ListForeign`.
    Foreign {
        /// Files, links and directories that are not managed, directories before what they hold.
        paths: Vec<(SyncPath, Listed)>,
        /// No more follow.
        last: bool,
    },
    /// Answer to `RemoveForeign`.
    ForeignRemoved {
        /// How many are gone.
        removed: u64,
        /// What could not be removed.
        problems: Vec<Problem>,
    },
    /// Of the command.
    Child(ChildEvent),
    /// The command's output.
    Output {
        /// 1 or 2.
        stream: u8,
        /// As it came.
        bytes: Blob,
    },
    /// So many bytes of Ops and Data were consumed.
    Credit {
        /// Bytes.
        bytes: u64,
    },
    /// Still here.
    Ping,
    /// The hub ends the session.
    Bye {
        /// Why, for people.
        reason: String,
    },
    /// The command took so many bytes of `Stdin`.
    StdinTaken {
        /// Bytes.
        bytes: u64,
    },
    /// What is too long for one `Applied`; comes before it.
    AppliedPart {
        /// As in `Applied`.
        skipped: Vec<Skipped>,
        /// As in `Applied`.
        overwritten: Vec<SyncPath>,
    },
    /// Managed files whose content the hub does not keep: when the container starts anew, they are not
    /// there before a daemon is. Replaces what was told before.
    NotReplayable {
        /// Some of them.
        paths: Vec<SyncPath>,
        /// All of them.
        count: u64,
    },
    /// So many bytes of `AheadData` frames were taken.
    AheadTaken {
        /// Bytes.
        bytes: u64,
    },
    /// All of a content that came ahead is there, and is what it was said to be.
    Held {
        /// Which.
        number: u64,
    },
    /// A content that came ahead is not held; nothing of it is left.
    NotHeld {
        /// Which.
        number: u64,
        /// Why.
        why: NotHeld,
    },
}

/// Why a content that came ahead is not held. Append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum NotHeld {
    /// The daemon ended it.
    Ended,
    /// What lies at the path is not what the patch was made from: the whole is needed.
    Base,
    /// The system said no.
    Fault(Reason),
}
