//! Owns the daemon's local socket, both ends: who may ask, how it is asked, how it is answered.
//!
//! A Unix socket of mode 0600 in a directory of mode 0700, and the other side's user must be ours
//! as well. One JSON object a line each way. Promises that nothing that comes in can crash,
//! block or swell the daemon; what a request means is the daemon's business.
//!
//! ```text
//! > {"v":1,"do":"flush","restarted":true,"timeout_ms":10000}
//! < {"v":1,"reply":"done","gen":42}
//! ```

mod client;
mod joining;
mod line;
mod lock;
mod server;

use serde::{Deserialize, Serialize};

use crate::report::{Failure, Status};

pub use client::{ClientError, ControlClient, Events, Followed, Membership};
pub use joining::{Joining, PodPlace, TargetPlace, Wanted, WantedCommand, WantedWorkload, Word};
pub use lock::{Lock, LockError};
pub use server::{BindError, Call, ControlServer, LastWord, Member};

/// The version of requests and replies. Within one version fields and requests are only added; a
/// request that the daemon does not know gets a typed answer.
pub const CONTROL_VERSION: u32 = 1;

/// Longest request or reply, in bytes with its newline.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// What a daemon can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// How it is doing. Answered by [`Reply::Status`].
    Status {},
    /// To bring every save made before this request to all targets.
    Flush {
        /// And to restart.
        #[serde(default)]
        restarted: bool,
        /// In milliseconds; without one, as long as it takes.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// To answer when something has come true.
    Wait {
        /// What.
        until: Until,
        /// In milliseconds; without one, as long as it takes.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// To restart now.
    Restart {
        /// Which target; all without one.
        #[serde(default)]
        target: Option<String>,
    },
    /// To send nothing until resumed.
    Pause {},
    /// To go on, after a pause or a hold.
    Resume {
        /// And to make the deletes that are held.
        #[serde(default)]
        accept: bool,
    },
    /// To forget what is known and look everywhere.
    Reset {},
    /// To end. Answered before the end; [`ControlClient::closed`] waits for it.
    Stop {
        /// Only to let go of this target, which a second watch brought; answered when that is done.
        #[serde(default)]
        target: Option<String>,
    },
    /// To be told everything that happens from now on. The server answers this one itself:
    /// [`Reply::Attached`], then one [`crate::report::Record`] a line.
    Attach {},
    /// To take part as a second `watch`: the targets are there for as long as the connection is.
    /// Answered by [`Reply::Joined`], then one [`crate::report::Record`] a line. Whoever joined
    /// leaves by shutting its writing half and is answered [`Reply::Done`] once its targets are
    /// let go of; that, or [`Reply::Failed`] at any time, is the last line. The end of the stream
    /// without one is the daemon's end.
    Join(Box<Joining>),
}

/// What [`Request::Wait`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// Every target has acknowledged this generation.
    Gen(u64),
    /// Nothing is outstanding.
    Synced,
    /// The app is ready after the newest generation's restart.
    Ready,
}

/// What a daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// It is so.
    Done {
        /// The generation that made it so, where that means something.
        #[serde(rename = "gen", default)]
        generation: Option<u64>,
    },
    /// How it is doing.
    Status {
        /// The object of `status --json`.
        status: Box<Status>,
    },
    /// Events follow.
    Attached {},
    /// The targets are there, or on their way; events follow.
    Joined {
        /// The daemon's process.
        pid: u32,
    },
    /// It is not so; `kind` is that of the exit-code table.
    Failed(Failure),
    /// An answer that a newer daemon knows. Never said, only read.
    #[serde(other)]
    Unknown,
}

/// A request or a reply with its version: what stands on the line.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    v: u32,
    #[serde(flatten)]
    body: T,
}

impl<T> Versioned<T> {
    fn new(body: T) -> Self {
        Self { v: CONTROL_VERSION, body }
    }
}

/// Reads a request's line.
///
/// # Errors
/// The failure to answer with: not JSON, another version, a request that is not known.
fn parse_request(line: &[u8]) -> Result<Request, Failure> {
    #[derive(Deserialize)]
    struct Head {
        v: u32,
        #[serde(rename = "do")]
        what: String,
    }
    let head: Head = serde_json::from_slice(line)
        .map_err(|error| Failure::new("usage", format!("not a request: {error}")))?;
    if head.v != CONTROL_VERSION {
        let message = format!(
            "the daemon speaks control version {CONTROL_VERSION}, the request is version {}",
            head.v
        );
        return Err(Failure::new("no-daemon", message));
    }
    serde_json::from_slice::<Versioned<Request>>(line).map(|request| request.body).map_err(
        |error| Failure::new("no-daemon", format!("request `{}` is not known: {error}", head.what)),
    )
}

#[cfg(test)]
mod tests;
