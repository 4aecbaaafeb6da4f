//! Owns the types of the settings that are a choice among a few.

use std::fmt;

use e2ek_sidecar::restart::Action;

use super::quantity::QuantityError;
use super::value::Value;

/// What happens to paths at the target that the source does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The source wins on its own paths; what the target made stays.
    Keep,
    /// The target holds nothing but the source; extra paths go, under the delete budget.
    Mirror,
}

/// How a file's new content is put in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Rename, and in place only where it must be (mount points).
    Auto,
    /// Rename always; where that cannot be done, the path is a problem.
    Rename,
    /// Write into the existing file.
    InPlace,
}

/// How results are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// For a person at a terminal.
    Human,
    /// One stable line an event (cli.md "Lines").
    Lines,
    /// One JSON object a line.
    Json,
}

/// When colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

macro_rules! named {
    ($type:ident, $count:literal, $($variant:ident = $name:literal),+) => {
        impl $type {
            /// The names, in the order of [`Self::ALL`].
            pub const NAMES: &[&str] = &[$($name),+];
            /// Every choice.
            pub const ALL: [Self; $count] = [$(Self::$variant),+];
            /// The name in flags and files.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
            /// The choice of that name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|choice| choice.name() == name)
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named!(Mode, 2, Keep = "keep", Mirror = "mirror");
named!(WriteMode, 3, Auto = "auto", Rename = "rename", InPlace = "in-place");
named!(Output, 3, Human = "human", Lines = "lines", Json = "json");
named!(ColorChoice, 3, Auto = "auto", Always = "always", Never = "never");

/// What may stand as an action in e2ek.toml.
pub(super) const ACTIONS: &[&str] = &["nothing", "restart", "needs-build", "signal:NAME"];

/// Writes an action as it stands in e2ek.toml; a command to run first stands beside it there.
pub(super) fn show_action(action: &Action) -> String {
    match action {
        Action::Nothing => "nothing".to_owned(),
        Action::Signal(signal) => format!("signal:{signal}"),
        Action::Run(argv) => format!("run {}", argv.join(" ")),
        Action::Restart => "restart".to_owned(),
        Action::NeedsBuild => "needs-build".to_owned(),
    }
}

/// One `[[restart.rule]]`. The first rule that a path matches decides for that path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Patterns in gitignore syntax, relative to the source.
    pub paths: Vec<String>,
    /// A command to run at the target before the action.
    pub run: Option<Value<Vec<String>>>,
    /// What then happens; never [`Action::Run`].
    pub action: Value<Action>,
}

/// How it is known that the started command is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// A TCP connection to `host:port` is accepted.
    Tcp(String),
    /// A GET of this `http://` address is answered with a status below 400.
    Http(String),
}

impl Ready {
    /// Checks `host:port`.
    ///
    /// # Errors
    /// When it is not a host and a port.
    pub(super) fn tcp(text: &str) -> Result<Self, QuantityError> {
        match text.rsplit_once(':') {
            Some((host, port)) if host_fits(host) && port.parse::<u16>().is_ok_and(|p| p > 0) => {
                Ok(Self::Tcp(text.to_owned()))
            }
            _ => Err(QuantityError::Tcp),
        }
    }

    /// Checks `http://host[:port][/path]`.
    ///
    /// # Errors
    /// When it is not an `http` address.
    pub(super) fn http(text: &str) -> Result<Self, QuantityError> {
        let rest = text.strip_prefix("http://").ok_or(QuantityError::Http)?;
        let host = rest.split('/').next().unwrap_or_default();
        let host = match host.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok_and(|port| port > 0) => host,
            Some(_) if !host.ends_with(']') => return Err(QuantityError::Http),
            _ => host,
        };
        let plain = text.bytes().all(|b| b.is_ascii_graphic());
        if host_fits(host) && plain {
            Ok(Self::Http(text.to_owned()))
        } else {
            Err(QuantityError::Http)
        }
    }
}

fn host_fits(host: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    !host.is_empty() && !host.starts_with('-') && host.bytes().all(fits)
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp {address}"),
            Self::Http(address) => write!(f, "http {address}"),
        }
    }
}
