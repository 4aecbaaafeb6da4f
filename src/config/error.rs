//! Owns why settings cannot be resolved. The advice that goes with each stands in `crate::error`.

use std::io;
use std::path::PathBuf;

use super::quantity::QuantityError;
use super::target::{TargetError, TargetSpec};
use super::value::{Location, Source};

/// Why the layers do not make a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or directory that was named cannot be used.
    #[error("cannot {doing} {path:?}")]
    Io {
        /// A verb phrase.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// The file is not TOML.
    #[error("{at}: {message}")]
    Syntax {
        /// Where the parser stopped.
        at: Location,
        /// The parser's words.
        message: String,
    },
    /// A key that this version does not know.
    #[error("{at}: unknown key `{key}` in {table}")]
    UnknownKey {
        /// Where it stands.
        at: Location,
        /// As written.
        key: String,
        /// The table it stands in, as written in the file.
        table: String,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
        /// All that may stand there.
        known: Vec<&'static str>,
    },
    /// A value of another TOML type.
    #[error("{at}: `{key}` must be {expected}, not {found}")]
    WrongType {
        /// Where the value stands.
        at: Location,
        /// Its key.
        key: String,
        /// With its article.
        expected: &'static str,
        /// With its article.
        found: String,
    },
    /// A key that must be there.
    #[error("{at}: {table} has no `{key}`")]
    MissingKey {
        /// Where the table begins.
        at: Location,
        /// The key.
        key: &'static str,
        /// The table.
        table: String,
    },
    /// A word that is none of the choices.
    #[error("{from}: `{key}` is `{value}`")]
    BadChoice {
        /// Where it was given.
        from: Source,
        /// Its key.
        key: String,
        /// As written.
        value: String,
        /// What it may be.
        choices: &'static [&'static str],
    },
    /// A duration, budget, signal or command that does not read.
    #[error("{from}: `{text}`")]
    Quantity {
        /// Where it was given.
        from: Source,
        /// As written.
        text: String,
        /// Why it does not read.
        #[source]
        error: QuantityError,
    },
    /// A target or path pair that does not read.
    #[error("{from}")]
    Target {
        /// Where it was given.
        from: Source,
        /// Why it does not read.
        #[source]
        error: TargetError,
    },
    /// A `to` that leaves the target's path, or cannot be a path there.
    #[error("{from}: `{to}` does not lie in the target")]
    PairOutside {
        /// Where it was given.
        from: Source,
        /// As written, escaped.
        to: String,
    },
    /// Two pairs of one target write to the same place, or one into the other.
    #[error("{from}: `{to}` overlaps another pair")]
    PairsOverlap {
        /// Where the second was given.
        from: Source,
        /// The second one's destination, escaped.
        to: String,
    },
    /// Two targets of one file have the same name.
    #[error("{at}: a second target named `{name}`")]
    DuplicateTarget {
        /// Where the second stands.
        at: Location,
        /// Their name.
        name: String,
    },
    /// A name that could drive a terminal, break a line or pass for a flag.
    #[error("{from}: `{name}` cannot be a target's name")]
    TargetName {
        /// Where it was given.
        from: Source,
        /// As written, escaped.
        name: String,
    },
    /// `ready` with neither `tcp` nor `http`, or both.
    #[error("{at}: `ready` must have one of `tcp` and `http`")]
    ReadyChoice {
        /// Where it stands.
        at: Location,
    },
    /// `--target NAME` names none of the file's.
    #[error("no target is named `{name}`")]
    NoSuchTarget {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// SSH.
    #[error("`{target}` is not built")]
    TargetNotBuilt {
        /// What was recognised.
        target: TargetSpec,
    },
    /// Neither the target nor its pairs say where.
    #[error("{from}: the target has no path")]
    TargetPathMissing {
        /// Where the target was given.
        from: Source,
    },
    /// An e2ek.toml above the workspace that somebody else put there.
    #[error("{path:?} belongs to user {uid}")]
    ForeignFile {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The source is not there.
    #[error("the source {0:?} does not exist")]
    SourceMissing(PathBuf),
    /// The source is a file.
    #[error("the source {0:?} is not a directory")]
    SourceNotADirectory(PathBuf),
    /// The target is the source or inside it.
    #[error("the target {target:?} lies inside the source {source_root:?}")]
    TargetInsideSource {
        /// The target's root.
        target: PathBuf,
        /// The source's root.
        source_root: PathBuf,
    },
    /// The source is inside the target.
    #[error("the source {source_root:?} lies inside the target {target:?}")]
    SourceInsideTarget {
        /// The source's root.
        source_root: PathBuf,
        /// The target's root.
        target: PathBuf,
    },
    /// No home directory, and no other place was given for state.
    #[error("no place for state: neither HOME nor a state directory is set")]
    NoHome,
}
