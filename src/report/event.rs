//! Owns everything that can be said: one enum, and the record that dates it.
//!
//! An [`Event`] is plain data. It only grows: a field or variant that was once released keeps its
//! name and meaning; a reader that meets an unknown kind sees [`Event::Unknown`]. How it reads in
//! each format stands in `human.rs`, `lines.rs` and `json.rs`.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::text::{self, Text};

/// The version of the JSON records; a reader refuses none, it skips what it does not know.
pub const RECORD_VERSION: u32 = 1;

/// An event with the moment at which it was said. As JSON: `v`, `ts`, `kind`, `gen`, `target`
/// (`null` where they mean nothing), then the event's own fields.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Record {
    /// [`RECORD_VERSION`] of the writer.
    pub v: u32,
    /// RFC 3339, UTC, milliseconds.
    pub ts: Text,
    /// What was said.
    #[serde(flatten)]
    pub event: Event,
}

impl Record {
    /// Dates an event.
    #[must_use]
    pub fn at(now: SystemTime, event: Event) -> Self {
        Self { v: RECORD_VERSION, ts: text::timestamp(now).into(), event }
    }
}

/// Everything that can be said. Times are serialised as whole milliseconds (`ms`), stamps as
/// microseconds (`_us`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Event {
    /// A daemon, or a single `sync`, begins.
    Started {
        /// The folders on this side.
        source: Text,
        /// As they were written.
        targets: Vec<Text>,
        /// What the state belongs to.
        workspace: Text,
    },
    /// This `watch` is a second one: it takes part in the session of the first.
    Joined {
        /// The first one's process.
        pid: u32,
    },
    /// A second `watch` brought a target.
    TargetAdded {
        /// Which.
        target: Text,
    },
    /// Nobody wants a target any more, and its hub has let go of it.
    TargetRemoved {
        /// Which.
        target: Text,
    },
    /// A pod of a workload is served from now on.
    PodFound {
        /// The pod and its container.
        target: Text,
    },
    /// A pod that was served is on its way out, or gone.
    PodGone {
        /// The pod and its container.
        target: Text,
    },
    /// A pod of a workload is not served.
    PodWaiting {
        /// The workload.
        target: Text,
        /// The pod.
        pod: Text,
        /// Why.
        reason: Text,
    },
    /// A port of this machine leads to the pods of a workload.
    Forwarding {
        /// The port here, on 127.0.0.1.
        local: u16,
        /// The workload.
        target: Text,
        /// The port there.
        remote: u16,
    },
    /// A workload has no pods; those that come are served.
    PodsAbsent {
        /// The workload.
        target: Text,
    },
    /// A link is being made.
    Connecting {
        /// To whom.
        target: Text,
    },
    /// Both Hellos were read.
    Connected {
        /// With whom.
        target: Text,
        /// Whether one hash told that nothing need be sent.
        equal: bool,
    },
    /// A scan has ended.
    Scanned {
        /// Regular files that take part.
        files: u64,
        /// Their sizes together.
        bytes: u64,
        /// How long it took.
        #[serde(rename = "ms", with = "millis")]
        took: Duration,
        /// Names that only the built-in protection left out.
        protected: u64,
        /// Names that ignore rules left out; an ignored directory counts once.
        ignored: u64,
    },
    /// A generation is about to be sent. Many new files go out in several, which are one sync:
    /// said once, with the first.
    SyncBegin {
        /// Its number.
        #[serde(rename = "gen")]
        generation: u64,
        /// Paths that it changes, as far as known.
        files: u64,
    },
    /// How far something long has come. May be said as often as is handy: `report` decides what
    /// is shown.
    Progress {
        /// What it is part of, when it is a generation.
        #[serde(rename = "gen")]
        generation: Option<u64>,
        /// What is being done.
        phase: Phase,
        /// Files done.
        files: u64,
        /// Bytes done.
        bytes: u64,
        /// Files in all, once that is known.
        total_files: Option<u64>,
        /// Bytes in all, once that is known.
        total_bytes: Option<u64>,
    },
    /// A generation, or the last of several that are one sync, was answered by every target that
    /// it went to.
    SyncEnd {
        /// Its number.
        #[serde(rename = "gen")]
        generation: u64,
        /// How it went.
        status: Outcome,
        /// Paths that it changed.
        files: u64,
        /// Bytes of content in them, before compression.
        bytes: u64,
        /// From seen to acknowledged.
        #[serde(rename = "ms", with = "millis")]
        took: Duration,
        /// Targets that acknowledged.
        acked: u32,
        /// Targets there are.
        targets: u32,
        /// Whether a restart follows; `human` keeps the line open for it on a terminal.
        restarting: bool,
        /// Where the time went.
        stamps: Stamps,
    },
    /// A process is about to be stopped or started.
    RestartBegin {
        /// The newest generation that it will see.
        #[serde(rename = "gen")]
        generation: u64,
        /// Whose.
        target: Text,
    },
    /// The new process runs, or does not.
    RestartEnd {
        /// The newest generation that it sees.
        #[serde(rename = "gen")]
        generation: u64,
        /// Whose.
        target: Text,
        /// How it went.
        status: Outcome,
        /// From the decision to the new process.
        #[serde(rename = "ms", with = "millis")]
        took: Duration,
        /// Where the time of the newest save that it is for went; all `None` for one that no save
        /// asked for.
        #[serde(default)]
        stamps: Stamps,
    },
    /// A command that a rule asked for has ended.
    CommandRan {
        /// The generation that asked for it.
        #[serde(rename = "gen")]
        generation: u64,
        /// Where it ran.
        target: Text,
        /// What was run; each argument is a name.
        argv: Vec<Text>,
        /// How it ended.
        status: Exit,
        /// How long it took.
        #[serde(rename = "ms", with = "millis")]
        took: Duration,
    },
    /// The app ended by itself.
    ChildExited {
        /// Whose.
        target: Text,
        /// How.
        status: Exit,
        /// Whether it stays down until the next change.
        held: bool,
    },
    /// Paths changed that no sync can bring into effect.
    NeedsBuild {
        /// The generation that holds them.
        #[serde(rename = "gen")]
        generation: u64,
        /// Some of them.
        paths: Vec<Text>,
        /// How many there are.
        count: u64,
    },
    /// What the app itself wrote. Shown byte for byte, except in JSON.
    Output {
        /// Whose.
        target: Text,
        /// Which of its streams.
        stream: Stream,
        /// As they came; chunks may end anywhere.
        #[serde(rename = "text", with = "payload")]
        bytes: Vec<u8>,
    },
    /// One path does not take part, the rest goes on.
    Problem {
        /// Where; `None` for this side.
        target: Option<Text>,
        /// Which.
        path: Text,
        /// Why.
        reason: Text,
    },
    /// A path that had a problem has none now.
    ProblemGone {
        /// Where; `None` for this side.
        target: Option<Text>,
        /// Which.
        path: Text,
    },
    /// A guard stopped the flow until a person answers.
    Held {
        /// Where; `None` for all.
        target: Option<Text>,
        /// What the guard saw.
        reason: Text,
        /// What to type to go on.
        command: Text,
    },
    /// The flow goes on.
    Released {
        /// Where; `None` for all.
        target: Option<Text>,
    },
    /// The other side has content that was not overwritten.
    Conflict {
        /// Where.
        target: Text,
        /// Which.
        path: Text,
        /// What is there.
        reason: Text,
    },
    /// Somebody's content at the target was overwritten, and kept.
    Overwritten {
        /// Where.
        target: Text,
        /// Which.
        path: Text,
        /// Where the old content now lies, as the target's side names it; `None` when it could
        /// not be kept.
        kept: Option<Text>,
    },
    /// A link broke, or could not be made.
    Disconnected {
        /// To whom.
        target: Text,
        /// Why.
        error: Text,
        /// When the next attempt begins; `None` for never.
        #[serde(rename = "retry_ms", with = "millis_option")]
        retry: Option<Duration>,
    },
    /// It works, but less well than it could; also listed by `status`.
    Degraded {
        /// What, and how much: `polling: 812 directories`.
        what: Text,
    },
    /// Worth knowing.
    Warning {
        /// One sentence.
        message: Text,
    },
    /// Something failed.
    Error {
        /// Where; `None` for this side.
        target: Option<Text>,
        /// The kind of the exit-code table. Called `error` in JSON, `kind` in lines.
        #[serde(rename = "error")]
        class: Text,
        /// What happened, to which object.
        message: Text,
        /// What to do next; may be empty.
        hints: Vec<Text>,
    },
    /// The end was asked for.
    Stopping {
        /// By what: a signal's name, `stop`, the end of a command.
        reason: Text,
    },
    /// The last thing said.
    Stopped {
        /// What the process passes on.
        exit: u8,
    },
    /// Records that this reader was too slow for.
    LeftOut {
        /// How many.
        count: u64,
    },
    /// One line of a plan.
    PlanStep {
        /// Where.
        target: Text,
        /// `write`, `delete`, `restart`, `patch`...: what would be done.
        action: Text,
        /// To what.
        path: Text,
        /// Content to send.
        bytes: u64,
        /// Why.
        reason: Text,
    },
    /// The sum of a plan.
    PlanEnd {
        /// Where.
        target: Text,
        /// Paths to write.
        writes: u64,
        /// Paths to delete.
        deletes: u64,
        /// Content to send.
        bytes: u64,
    },
    /// One setting and where its value came from (`-v`).
    Setting {
        /// The key as the configuration file spells it.
        key: Text,
        /// The value as it would be typed.
        value: Text,
        /// `flag --mode`, `e2ek.toml:12`, `default`.
        origin: Text,
    },
    /// What a command asked of the daemon is so.
    Done {
        /// Its name, as typed.
        command: Text,
        /// The generation that made it so; `None` where that means nothing.
        #[serde(rename = "gen")]
        generation: Option<u64>,
    },
    /// Who we are.
    Version {
        /// Of this program.
        version: Text,
        /// Protocols spoken, lowest and highest.
        protocol: (u32, u32),
        /// Optional abilities, by name.
        #[serde(default)]
        features: Vec<Text>,
    },
    /// A kind that a newer writer knows. Never said, only read.
    #[serde(other)]
    Unknown,
}

/// What takes long enough to be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reading the source.
    Scan,
    /// Sending content.
    Send,
}

/// How a generation or a restart went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Wholly.
    Ok,
    /// With the exception of paths that have a problem.
    Partial,
    /// A guard stopped it.
    Held,
    /// The new process ended at once.
    Crashed,
    /// Not at all.
    Failed,
}

impl Outcome {
    /// The word that lines and JSON use.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Partial => "partial",
            Self::Held => "held",
            Self::Crashed => "crashed",
            Self::Failed => "failed",
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Which stream of the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Where the time of one save went, each counted in microseconds from the moment it was seen;
/// `None` where the stage was not reached or not needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamps {
    /// When the save was seen, in microseconds since the epoch by this machine's clock.
    pub seen_epoch_us: Option<u64>,
    /// Its content was hashed.
    pub hashed_us: Option<u64>,
    /// Its last byte was handed to the link.
    pub sent_us: Option<u64>,
    /// The hub had it in place, by the hub's own account.
    pub written_us: Option<u64>,
    /// The acknowledgement was read.
    pub acked_us: Option<u64>,
    /// The app had been restarted; told by the end of the restart, which comes after that of the
    /// sync.
    pub restarted_us: Option<u64>,
}

/// Why a command ended without doing its work: what `error.rs` decided, as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of the exit-code table.
    pub kind: Text,
    /// What happened, to which object.
    pub message: Text,
    /// What to do next; may be empty.
    #[serde(default)]
    pub hints: Vec<Text>,
}

impl Failure {
    /// A failure without hints.
    #[must_use]
    pub fn new(kind: &str, message: impl Into<Text>) -> Self {
        Self { kind: kind.into(), message: message.into(), hints: Vec::new() }
    }

    /// The same failure with one more hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Text>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl From<&crate::error::Error> for Failure {
    fn from(error: &crate::error::Error) -> Self {
        let hints = error.hints.iter().map(|hint| hint.as_str().into()).collect();
        Self { hints, ..Self::new(error.kind.name(), error.message.as_str()) }
    }
}

impl From<Failure> for Event {
    fn from(Failure { kind, message, hints }: Failure) -> Self {
        Self::Error { target: None, class: kind, message, hints }
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn whole(span: &Duration) -> u64 {
        u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn serialize<S: Serializer>(span: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u64(whole(span))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

mod millis_option {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::millis::whole;

    pub(super) fn serialize<S: Serializer>(
        span: &Option<Duration>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        span.as_ref().map(whole).serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Duration::from_millis))
    }
}

/// Bytes as a string where they are UTF-8, else as a list of numbers: readable nearly always,
/// exact always.
mod payload {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Payload {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => out.serialize_str(text),
            Err(_) => bytes.serialize(out),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        Ok(match Payload::deserialize(from)? {
            Payload::Text(text) => text.into_bytes(),
            Payload::Bytes(bytes) => bytes,
        })
    }
}
