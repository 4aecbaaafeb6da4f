//! The wrapper: the app's command under our supervision inside its own container, and the hub's end of
//! what the two say to each other.
//!
//! The hub listens at a socket in a volume that both mount. It believes the kernel only: which
//! container a caller is in, by its process. What a caller says is told to people and decides nothing
//! but when a command of its own container is started. One thing it hands over is used: an open
//! directory, and that only if the kernel says that it is the root of the caller's own mounts. The
//! wrapper hides itself like every process of ours, so that its root cannot be opened by its number, and
//! the app's own process is not there before the first sync.

mod app;
mod hub;

use serde::{Deserialize, Serialize};

pub use self::app::{Options, run};
#[cfg(test)]
pub(super) use self::hub::Wrapper;
pub(super) use self::hub::{FromWrappers, Wrappers, serve};
use crate::restart::{ActionSet, Policy};
use crate::wire::{Blob, ChildEvent};

/// Spoken by this build. Both ends are of one image; an older one that stayed in a volume is refused.
const PROTOCOL: u16 = 1;

/// From the wrapper. Append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum FromWrapper {
    /// The first message; the container's root directory comes with its first byte.
    Hello {
        /// [`PROTOCOL`].
        protocol: u16,
        /// The command's process, if it runs.
        pid: Option<i32>,
        /// It was started once all its files were there.
        started: bool,
    },
    /// Of the command.
    Child(ChildEvent),
    /// What it printed; all of it is in the container's log, whatever becomes of this.
    Output {
        /// 1 or 2.
        stream: u8,
        /// As it came.
        bytes: Blob,
    },
}

/// To the wrapper. Append only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum ToWrapper {
    /// The files are there: starts the command if it was not started yet, and anew if that was before
    /// they were.
    Run {
        /// What the files hold.
        generation: u64,
        /// How it is stopped from now on; `None`: as the wrapper was told.
        policy: Option<Policy>,
    },
    /// Does what the rules say for what was applied.
    Act {
        /// What the files hold.
        generation: u64,
        /// What to do.
        actions: ActionSet,
    },
    /// As [`ToWrapper::Act`], its commands in this directory.
    ActIn {
        /// What the files hold.
        generation: u64,
        /// What to do.
        actions: ActionSet,
        /// In the container.
        directory: Blob,
    },
}
