//! Owns the words for settings that do not resolve: e2ek.toml, targets, path pairs.

use std::io::ErrorKind;
use std::path::Path;

use super::{Error, Kind, shown, typed};
use crate::config::{ConfigError, Source, TargetError, TargetSpec};

/// What stands before a fault: its place, unless it has none worth naming.
fn place(from: &Source) -> String {
    match from {
        Source::Default => String::new(),
        from => format!("{from}: "),
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        use ConfigError as C;
        match error {
            C::Io { doing, path, error } => {
                let named_wrong =
                    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
                let error = Self::io(doing, &path, &error);
                if named_wrong { Self { kind: Kind::Usage, ..error } } else { error }
            }
            C::UnknownKey { at, key, table, nearest, known } => {
                Self::unknown_key(&at.to_string(), &key, &table, nearest, &known)
            }
            C::BadChoice { from, key, value, choices } => {
                let message = format!("{}`{key}` cannot be `{value}`", place(&from));
                Self::new(Kind::Usage, message).hint(format!("it is one of {}", choices.join(", ")))
            }
            C::Quantity { from, text, error } => {
                Self::new(Kind::Usage, format!("{}`{text}`: {error}", place(&from)))
            }
            C::Target { from, error } => Self::bad_target(&from, &error),
            C::PairOutside { from, to } => {
                let message = format!("{}`{to}` does not lie in the target", place(&from));
                Self::new(Kind::Usage, message)
                    .hint("write it relative to the target's path, without `..`")
            }
            C::PairsOverlap { from, to } => {
                let message = format!("{}`{to}` overlaps another pair", place(&from));
                Self::new(Kind::Usage, message)
                    .hint("give each pair a place of its own; exclude what should not go along")
            }
            C::TargetPathMissing { from } => {
                Self::new(Kind::Usage, format!("{}the target has no path", place(&from)))
                    .hint("add it after a colon, as in pid/1234:/srv/app")
                    .hint("or give pairs with an absolute DST: --path SRC:/srv/app")
            }
            C::TargetName { from, name } => {
                let message = format!("{}`{name}` cannot be a target's name", place(&from));
                Self::new(Kind::Usage, message)
                    .hint("use letters, digits, `-`, `_`, `.`, `/` and `@`, no `-` in front")
            }
            C::NoSuchTarget { name, known } => Self::no_such_target(&name, &known),
            C::TargetNotBuilt { target } => Self::target_not_built(&target),
            C::ForeignFile { path, uid } => Self::foreign_file(&path, uid),
            C::SourceMissing(path) => Self::source_missing(&path),
            C::SourceNotADirectory(path) => Self::source_not_a_directory(&path),
            C::TargetInsideSource { target, source_root } => {
                Self::target_inside_source(&target, &source_root)
            }
            C::SourceInsideTarget { source_root, target } => {
                Self::source_inside_target(&source_root, &target)
            }
            C::NoHome => Self::new(Kind::Usage, "HOME is not set, so there is no place for state")
                .hint("name one: --state-dir DIR"),
            error @ (C::Syntax { .. }
            | C::WrongType { .. }
            | C::MissingKey { .. }
            | C::ReadyChoice { .. }
            | C::DuplicateTarget { .. }) => Self::new(Kind::Usage, error.to_string()),
        }
    }
}

/// Settings.
impl Error {
    fn unknown_key(
        at: &str,
        key: &str,
        table: &str,
        nearest: Option<&str>,
        known: &[&str],
    ) -> Self {
        let error = Self::new(Kind::Usage, format!("{at}: unknown key `{key}` in {table}"));
        match nearest {
            Some(nearest) => error.hint(format!("did you mean `{nearest}`?")),
            None => error.hint(format!("it may have: {}", known.join(", "))),
        }
    }

    fn bad_target(from: &Source, error: &TargetError) -> Self {
        let message = format!("{}{error}", place(from));
        let this = Self::new(Kind::Usage, message);
        match error {
            TargetError::BareWord(word) => {
                let last = word.rsplit('/').next().unwrap_or(word);
                this.hint(format!("a directory on this machine: ./{word}"))
                    .hint(format!("a workload in a cluster: deploy/{last}:/path"))
            }
            TargetError::Dash(word) => this.hint(format!("a directory of that name: ./{word}")),
            TargetError::Relative(_) => this.hint("write it from the root, as in :/srv/app"),
            TargetError::Pair(_) => this.hint("as in --path ./src:/srv/app/src"),
            TargetError::Empty | TargetError::Name { .. } | TargetError::OtherHome(_) => this,
        }
    }

    fn target_not_built(target: &TargetSpec) -> Self {
        let what = "is an SSH host, which is not built in this version";
        Self::new(Kind::Usage, format!("`{target}` {what}"))
            .hint("a directory (./copy) on this machine and a workload (deploy/api:/srv/app) are")
            .hint("any other place can be reached by a program: --transport-cmd 'PROG ARGS'")
    }

    fn foreign_file(path: &Path, uid: u32) -> Self {
        let shown = shown(path);
        Self::new(Kind::Forbidden, format!("{shown} belongs to another user ({uid})"))
            .hint("it may name commands to run, so it is used only when asked for")
            .hint(format!("read it, then: --config {}", typed(path.as_os_str())))
    }
}
