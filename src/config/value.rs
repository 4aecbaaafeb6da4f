//! Owns the pair of a setting's value and the place it came from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use e2ek_sidecar::path::Escaped;
use std::os::unix::ffi::OsStrExt;

/// A line of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file, as it was opened.
    pub path: Arc<PathBuf>,
    /// Counted from 1.
    pub line: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Escaped(self.path.as_os_str().as_bytes()), self.line)
    }
}

/// Which layer a value came from. A later variant beats an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// A configuration file.
    File(Location),
    /// The environment variable of that name.
    Env(&'static str),
    /// What was typed; the flag as it is spelt in the help, or the name of a positional.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(location) => location.fmt(f),
            Self::Env(name) => write!(f, "${name}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// A resolved setting that knows where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value<T> {
    /// What holds.
    pub value: T,
    /// Which layer said so.
    pub source: Source,
}

impl<T> Value<T> {
    /// A value of the layer `source`.
    pub fn new(value: T, source: Source) -> Self {
        Self { value, source }
    }

    /// The built-in value, unless a layer has one: `flag` beats `file`.
    pub(super) fn layered(
        default: T,
        file: Option<Value<T>>,
        name: &'static str,
        flag: Option<T>,
    ) -> Self {
        match flag {
            Some(value) => Self::new(value, Source::Flag(name)),
            None => file.unwrap_or_else(|| Self::new(default, Source::Default)),
        }
    }

    /// The same source with another value.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Value<U> {
        Value { value: change(self.value), source: self.source }
    }
}
