//! Owns the grammar of a target (cli.md "Targets") and of a path pair.
//!
//! Parsing looks at the words alone: no file, no host, no cluster is asked. Every name that later
//! becomes an argument of another program is checked here against its grammar, so that none can pass
//! for a flag. Paths below a root may hold any byte but NUL; they never become arguments.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use e2ek_sidecar::path::Escaped;

/// Where files are to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetSpec {
    /// A directory, as written: relative to where it was written, `~/` not yet expanded.
    Directory(PathBuf),
    /// A path inside the root of a process on this machine.
    Process {
        /// Never 0.
        pid: u32,
        /// Absolute; `None` when it is left to the path pairs.
        path: Option<PathBuf>,
    },
    /// A workload in a cluster.
    Kube {
        /// The short kind: `deploy`, `sts`, `ds`, `rs`, `job`, `pod`.
        kind: &'static str,
        /// A DNS-1123 subdomain.
        name: String,
        /// Absolute; `None` when it is left to the path pairs.
        path: Option<PathBuf>,
    },
    /// An SSH host; recognised, not built in this version.
    Ssh {
        /// The login name, if one was given.
        user: Option<String>,
        /// A host name or address.
        host: String,
        /// The port, if one was given.
        port: Option<u16>,
        /// The process there whose root is meant.
        pid: Option<u32>,
        /// Absolute or `~/...`.
        path: PathBuf,
    },
}

/// Why a word is not a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nothing there.
    #[error("the target is empty")]
    Empty,
    /// It begins with `-`, or a name in it does.
    #[error("`{0}` could be taken for a flag")]
    Dash(String),
    /// A name with a character that no such name has.
    #[error("`{name}` is not a {what}")]
    Name {
        /// What it should be.
        what: &'static str,
        /// What it is, escaped.
        name: String,
    },
    /// The path after `:` is not absolute.
    #[error("the path `{0}` is not absolute")]
    Relative(String),
    /// `~user/...`.
    #[error("`{0}`: only `~/` is expanded, not another user's home")]
    OtherHome(String),
    /// A word in none of the forms.
    #[error("`{0}` is neither a directory, a workload nor a host")]
    BareWord(String),
    /// A pair without `:`, or with nothing on one side.
    #[error("`{0}` is not SRC:DST")]
    Pair(String),
}

const KINDS: [(&str, &[&str]); 6] = [
    ("deploy", &["deploy", "deployment", "deployments"]),
    ("sts", &["sts", "statefulset", "statefulsets"]),
    ("ds", &["ds", "daemonset", "daemonsets"]),
    ("rs", &["rs", "replicaset", "replicasets"]),
    ("job", &["job", "jobs"]),
    ("pod", &["pod", "pods", "po"]),
];

fn shown(bytes: &[u8]) -> String {
    Escaped(bytes).to_string()
}

fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

impl TargetSpec {
    /// Reads a target by the first form that fits, in the order of cli.md's table.
    ///
    /// # Errors
    /// When no form fits, or a name in it breaks its grammar.
    pub fn parse(word: &OsStr) -> Result<Self, TargetError> {
        let bytes = word.as_bytes();
        match bytes {
            b"" => return Err(TargetError::Empty),
            [b'-', ..] => return Err(TargetError::Dash(shown(bytes))),
            b"." | b".." | b"~" => return Ok(Self::Directory(path(bytes))),
            _ => {}
        }
        if [&b"/"[..], b"./", b"../", b"~/"].iter().any(|start| bytes.starts_with(start)) {
            return Ok(Self::Directory(path(bytes)));
        }
        if bytes[0] == b'~' {
            return Err(TargetError::OtherHome(shown(bytes)));
        }
        if let Some(rest) = bytes.strip_prefix(b"ssh://") {
            return ssh_url(rest);
        }
        let (head, tail) = match colon(bytes) {
            Some(colon) => (&bytes[..colon], Some(&bytes[colon + 1..])),
            None => (bytes, None),
        };
        match head.iter().position(|&b| b == b'/') {
            Some(slash) => kind_and_name(bytes, &head[..slash], &head[slash + 1..], tail),
            None => match tail {
                Some(tail) => ssh(head, None, tail),
                None => Err(TargetError::BareWord(shown(bytes))),
            },
        }
    }
}

/// `pid/N[:/path]` and `KIND/NAME[:/path]`.
fn kind_and_name(
    whole: &[u8],
    kind: &[u8],
    name: &[u8],
    tail: Option<&[u8]>,
) -> Result<TargetSpec, TargetError> {
    let at = tail.map(absolute).transpose();
    if kind == b"pid" {
        let pid = process(name)?;
        return Ok(TargetSpec::Process { pid, path: at? });
    }
    let known = KINDS.iter().find(|(_, names)| names.iter().any(|n| n.as_bytes() == kind));
    let Some((kind, _)) = known else {
        return Err(TargetError::BareWord(shown(whole)));
    };
    let name = checked("workload name", name, |b| {
        b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.')
    })?;
    Ok(TargetSpec::Kube { kind, name, path: at? })
}

/// `user@host:2222/srv/app`, what follows `ssh://`.
fn ssh_url(rest: &[u8]) -> Result<TargetSpec, TargetError> {
    let slash = rest.iter().position(|&b| b == b'/').unwrap_or(rest.len());
    let (host, tail) = rest.split_at(slash);
    match colon(host) {
        Some(at) => {
            let digits = String::from_utf8_lossy(&host[at + 1..]).into_owned();
            let port = digits.parse().ok().filter(|port| *port != 0);
            let port = port.ok_or_else(|| bad("port", digits.as_bytes()))?;
            ssh(&host[..at], Some(port), tail)
        }
        None => ssh(host, None, tail),
    }
}

/// `[user@]host` and what follows its colon: `/path`, `~/path` or `pid/N:/path`.
fn ssh(head: &[u8], port: Option<u16>, tail: &[u8]) -> Result<TargetSpec, TargetError> {
    let (user, host) = match head.iter().rposition(|&b| b == b'@') {
        Some(at) => (Some(&head[..at]), &head[at + 1..]),
        None => (None, head),
    };
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let user = user.map(|user| checked("user name", user, letter)).transpose()?;
    let host = match host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")) {
        Some(address) => checked("address", address, |b| letter(b) || b":%".contains(&b))?,
        None => checked("host name", host, letter)?,
    };
    let (pid, tail) = match tail.strip_prefix(b"pid/") {
        Some(rest) => {
            let at = colon(rest).ok_or_else(|| TargetError::Relative(shown(tail)))?;
            (Some(process(&rest[..at])?), &rest[at + 1..])
        }
        None => (None, tail),
    };
    let path = if tail.starts_with(b"~/") { path(tail) } else { absolute(tail)? };
    Ok(TargetSpec::Ssh { user, host, port, pid, path })
}

/// The colon that ends a host or a name: the first one outside the brackets of an IPv6 address.
fn colon(bytes: &[u8]) -> Option<usize> {
    let user = bytes.iter().position(|b| b"@:/".contains(b)).filter(|&at| bytes[at] == b'@');
    let from = match &bytes[user.map_or(0, |at| at + 1)..] {
        [b'[', ..] => bytes.iter().position(|&b| b == b']')?,
        _ => 0,
    };
    Some(from + bytes[from..].iter().position(|&b| b == b':')?)
}

fn bad(what: &'static str, name: &[u8]) -> TargetError {
    TargetError::Name { what, name: shown(name) }
}

fn checked(
    what: &'static str,
    name: &[u8],
    allowed: impl Fn(u8) -> bool,
) -> Result<String, TargetError> {
    match std::str::from_utf8(name) {
        Ok(text) if text.starts_with('-') => Err(TargetError::Dash(text.to_owned())),
        Ok(text) if (1..=253).contains(&text.len()) && text.bytes().all(allowed) => {
            Ok(text.to_owned())
        }
        _ => Err(bad(what, name)),
    }
}

fn process(digits: &[u8]) -> Result<u32, TargetError> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
    // The kernel's PID_MAX_LIMIT is 2^22; i32 is what system calls take.
    number
        .filter(|n| plain && (1..=i32::MAX as u32).contains(n))
        .ok_or_else(|| bad("process number", digits))
}

fn absolute(bytes: &[u8]) -> Result<PathBuf, TargetError> {
    match bytes {
        [b'/', ..] => Ok(path(bytes)),
        _ => Err(TargetError::Relative(shown(bytes))),
    }
}

/// Shows the target as it is written, names of unusual bytes escaped.
impl fmt::Display for TargetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = |path: &Option<PathBuf>| match path {
            Some(path) => format!(":{}", shown(path.as_os_str().as_bytes())),
            None => String::new(),
        };
        match self {
            Self::Directory(path) => f.write_str(&shown(path.as_os_str().as_bytes())),
            Self::Process { pid, path } => write!(f, "pid/{pid}{}", tail(path)),
            Self::Kube { kind, name, path } => write!(f, "{kind}/{name}{}", tail(path)),
            Self::Ssh { user, host, port, pid, path } => {
                let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
                let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
                let pid = pid.map(|pid| format!("pid/{pid}:")).unwrap_or_default();
                let path = shown(path.as_os_str().as_bytes());
                match port {
                    Some(port) => write!(f, "ssh://{user}{host}:{port}{path}"),
                    None => write!(f, "{user}{host}:{pid}{path}"),
                }
            }
        }
    }
}

/// A path pair as it was typed; neither side is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairSpec {
    /// A directory on this machine.
    pub from: PathBuf,
    /// Below the target's path, or absolute.
    pub to: PathBuf,
}

impl PairSpec {
    /// Reads `SRC:DST`, divided at the first colon.
    ///
    /// # Errors
    /// When there is no colon, or nothing before or after it.
    pub fn parse(word: &OsStr) -> Result<Self, TargetError> {
        let bytes = word.as_bytes();
        match bytes.iter().position(|&b| b == b':') {
            Some(at) if at > 0 && at + 1 < bytes.len() => {
                Ok(Self { from: path(&bytes[..at]), to: path(&bytes[at + 1..]) })
            }
            _ => Err(TargetError::Pair(shown(bytes))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(word: &str) -> Result<TargetSpec, TargetError> {
        TargetSpec::parse(OsStr::new(word))
    }

    fn kube(kind: &'static str, name: &str, path: Option<&str>) -> TargetSpec {
        TargetSpec::Kube { kind, name: name.into(), path: path.map(Into::into) }
    }

    fn ssh(user: &str, host: &str, port: u16, pid: u32, path: &str) -> TargetSpec {
        TargetSpec::Ssh {
            user: Some(user.to_owned()).filter(|user| !user.is_empty()),
            host: host.into(),
            port: Some(port).filter(|port| *port != 0),
            pid: Some(pid).filter(|pid| *pid != 0),
            path: path.into(),
        }
    }

    #[test]
    fn every_form_of_the_contract_is_recognised() {
        let directory = |path: &str| TargetSpec::Directory(path.into());
        let process =
            |pid, path: Option<&str>| TargetSpec::Process { pid, path: path.map(Into::into) };
        for (word, expected) in [
            ("/path", directory("/path")),
            ("/odd:name", directory("/odd:name")),
            ("./path", directory("./path")),
            ("../path", directory("../path")),
            ("~/path", directory("~/path")),
            (".", directory(".")),
            ("..", directory("..")),
            ("/a\nb", directory("/a\nb")),
            ("pid/1234:/srv/app", process(1234, Some("/srv/app"))),
            ("pid/1234", process(1234, None)),
            ("deploy/api:/srv/app", kube("deploy", "api", Some("/srv/app"))),
            ("deployment/api", kube("deploy", "api", None)),
            ("sts/db-0:/x", kube("sts", "db-0", Some("/x"))),
            ("daemonsets/a.b:/x", kube("ds", "a.b", Some("/x"))),
            ("rs/x:/x", kube("rs", "x", Some("/x"))),
            ("job/x:/x", kube("job", "x", Some("/x"))),
            ("pod/x:/x", kube("pod", "x", Some("/x"))),
            ("host:/srv/app", ssh("", "host", 0, 0, "/srv/app")),
            ("host:~/app", ssh("", "host", 0, 0, "~/app")),
            ("me@host.example:/srv", ssh("me", "host.example", 0, 0, "/srv")),
            ("[fe80::1%eth0]:/srv", ssh("", "fe80::1%eth0", 0, 0, "/srv")),
            ("me@[::1]:/srv", ssh("me", "::1", 0, 0, "/srv")),
            ("host:/a@[b", ssh("", "host", 0, 0, "/a@[b")),
            ("ssh://me@host:2222/srv", ssh("me", "host", 2222, 0, "/srv")),
            ("ssh://[::1]:22/srv", ssh("", "::1", 22, 0, "/srv")),
            ("ssh://[::1]/srv", ssh("", "::1", 0, 0, "/srv")),
            ("host:pid/7:/srv", ssh("", "host", 0, 7, "/srv")),
        ] {
            assert_eq!(parse(word), Ok(expected), "{word:?}");
        }
    }

    #[test]
    fn what_is_shown_is_the_same_target() {
        for word in ["/p", "pid/1:/p", "pid/1", "deploy/a:/p", "me@h:/p", "ssh://me@h:22/p"] {
            assert_eq!(parse(word).unwrap().to_string(), word);
        }
        assert_eq!(parse("statefulset/a").unwrap().to_string(), "sts/a");
        assert_eq!(parse("h:pid/7:/p").unwrap().to_string(), "h:pid/7:/p");
        assert_eq!(parse("[::1]:/p").unwrap().to_string(), "[::1]:/p");
        assert_eq!(parse("/a\x1b").unwrap().to_string(), "/a\\x1b");
    }

    #[test]
    fn i6_names_that_could_become_flags_or_lines_are_refused() {
        for word in [
            "-rf",
            "--to",
            "-oProxyCommand=id:/x",
            "me@-host:/x",
            "-me@host:/x",
            "deploy/-api:/x",
            "ssh://-host/x",
            "ssh://-oProxyCommand=id/x",
        ] {
            assert!(matches!(parse(word), Err(TargetError::Dash(_))), "{word:?}");
        }
        for word in [
            "ho st:/x",
            "host\n:/x",
            "ho$(id)st:/x",
            "deploy/a\nb:/x",
            "deploy/$(id):/x",
            "deploy/:/x",
            ":/x",
            "@host:/x",
            "pid/0:/x",
            "pid/:/x",
            "pid/1x:/x",
            "pid/+1:/x",
            "pid/99999999999:/x",
            "ssh://host:0/x",
            "ssh://host:99999/x",
            "ssh://host:/x",
            "pid/1\n:/x",
            "h:pid/0:/x",
        ] {
            assert!(matches!(parse(word), Err(TargetError::Name { .. })), "{word:?}");
        }
        let bytes = OsString::from_vec(b"ho\xffst:/x".to_vec());
        assert!(matches!(TargetSpec::parse(&bytes), Err(TargetError::Name { .. })));
    }

    #[test]
    fn other_words_say_why_they_are_no_target() {
        assert_eq!(parse(""), Err(TargetError::Empty));
        for word in ["src", "src/app", "e2ek.toml", "deployx/api:/x"] {
            assert!(matches!(parse(word), Err(TargetError::BareWord(_))), "{word:?}");
        }
        for word in ["host:", "host:srv/app", "deploy/api:srv", "pid/1:srv", "h:pid/7"] {
            assert!(matches!(parse(word), Err(TargetError::Relative(_))), "{word:?}");
        }
        assert!(matches!(parse("~bob/x"), Err(TargetError::OtherHome(_))));
    }

    #[test]
    fn pairs_are_divided_at_the_first_colon() {
        let pair = |word: &str| PairSpec::parse(OsStr::new(word));
        let expected = PairSpec { from: "src".into(), to: "/srv/a:b".into() };
        assert_eq!(pair("src:/srv/a:b"), Ok(expected));
        for word in ["src", ":dst", "src:", ""] {
            assert!(matches!(pair(word), Err(TargetError::Pair(_))), "{word:?}");
        }
    }
}
