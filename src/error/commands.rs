//! Owns the words for what commands meet: a daemon's answers, paths to judge, a command to supervise.

use std::io;
use std::path::Path;

use super::{Error, Kind, chain, reason, shown};
use crate::control::ClientError;
use crate::filter::FilterError;
use crate::filter::check::CheckError;
use crate::log::LogError;
use crate::report::Failure;

/// What a daemon answered. A kind that only a newer daemon knows is a plain failure.
impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self {
            kind: Kind::from_name(failure.kind.as_str()).unwrap_or(Kind::Failure),
            message: failure.message.as_str().to_owned(),
            hints: failure.hints.iter().map(|hint| hint.as_str().to_owned()).collect(),
        }
    }
}

impl Error {
    /// The daemon of a workspace gave no answer.
    #[must_use]
    pub fn unanswered(error: ClientError, workspace: &Path, socket: &Path) -> Self {
        match error {
            ClientError::NoDaemon => Self::no_daemon(workspace),
            ClientError::Forbidden => Self::directory_not_private(socket, "it is another user's"),
            ClientError::Silent => Self::daemon_silent(),
            ClientError::Ended => Self::daemon_ended(),
            ClientError::Garbled(answer) => Self::daemon_not_understood(&answer),
            ClientError::Version { theirs } => Self::version_skew(
                "the running e2ek-sync watch",
                &format!("control version {}", crate::control::CONTROL_VERSION),
                &format!("control version {theirs}"),
            ),
            error @ ClientError::Io(_) => Self::failure(&error),
        }
    }

    /// A directory that `supervise` was told to watch cannot be.
    #[must_use]
    pub fn directory_not_watched(path: &Path, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Kind::Usage,
            io::ErrorKind::PermissionDenied => Kind::Forbidden,
            _ => Kind::Failure,
        };
        // inotify_add_watch(2): ENOSPC is its own limit, not the disk's.
        let full = error.kind() == io::ErrorKind::StorageFull;
        let why = match error.kind() {
            io::ErrorKind::StorageFull => "too many directories are watched".to_owned(),
            // Some watchers tell the kind alone.
            io::ErrorKind::NotFound => "there is no such directory".to_owned(),
            _ => reason(error),
        };
        Self::new(kind, format!("cannot watch {}: {why}", shown(path)))
            .hint_if(full, "allow more: sysctl fs.inotify.max_user_watches=1048576")
    }
}

#[cfg(target_os = "linux")]
impl From<crate::supervise::Error> for Error {
    fn from(error: crate::supervise::Error) -> Self {
        use crate::supervise::Error as E;
        match error {
            E::Watch(path, error) => Self::directory_not_watched(&path, &error),
            E::Start(program, error) => Self::command_not_started(&program, &error),
            error @ E::Supervise(_) => Self::failure(&error),
        }
    }
}

impl From<CheckError> for Error {
    fn from(error: CheckError) -> Self {
        let outside = matches!(error, CheckError::Outside { .. });
        let kind = match error {
            CheckError::Io(_) => Kind::Failure,
            _ => Kind::Usage,
        };
        Self::new(kind, chain(&error)).hint_if(outside, "name the workspace with -C DIR")
    }
}

impl From<FilterError> for Error {
    fn from(error: FilterError) -> Self {
        Self::failure(&error)
    }
}

impl From<LogError> for Error {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Filter { .. } => Self::new(Kind::Usage, chain(&error))
                .hint("as in --log info,e2ek_sync::watch=trace; E2EK_LOG is read the same way"),
            LogError::Io { path, source } => Self::io("write the log", &path, &source),
            LogError::Twice => Self::failure(&error),
        }
    }
}
