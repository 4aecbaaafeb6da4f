//! Owns where things are kept on this machine, and the only reading of the environment.
//!
//! | what | where |
//! |---|---|
//! | state | `--state-dir`, `E2EK_STATE_DIR`, `$XDG_STATE_HOME/e2ek-sync`, `~/.local/state/e2ek-sync` |
//! | sockets | `$XDG_RUNTIME_DIR/e2ek-sync`, else `run/` below state |
//!
//! The address of a Unix socket has 108 bytes with its NUL (unix(7)). Where a socket's path would be
//! longer, `/tmp/e2ek-sync-UID` is used: always `/tmp`, never `TMPDIR`, since every command of the
//! same user must find the same place. Others can write to `/tmp`, so whoever binds or connects
//! there calls [`make_private`] first, which refuses a directory that is not ours alone.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::value::{Source, Value};

/// Every variable that is ever looked at.
const VARIABLES: [&str; 20] = [
    "E2EK_LOG",
    "E2EK_STATE_DIR",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_SYSTEM",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "KUBECONFIG",
    "LOGNAME",
    "NO_COLOR",
    "NO_PROXY",
    "TERM",
    "USER",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// `sockaddr_un.sun_path`, less its NUL.
const SOCKET_PATH_BYTES: usize = 107;

/// What the process was started with. Made once, in `main`; below `config` nobody asks again.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Absolute.
    pub current_dir: PathBuf,
    /// Those of the known variables that are set and not empty.
    pub variables: BTreeMap<&'static str, OsString>,
    /// The effective user.
    pub uid: u32,
    /// This machine's name.
    pub host: String,
    /// Whether stdout is a terminal.
    pub stdout_is_terminal: bool,
}

impl Environment {
    /// Reads the process's own environment.
    ///
    /// # Errors
    /// When the current directory is gone.
    pub fn from_process() -> io::Result<Self> {
        let variables = VARIABLES
            .into_iter()
            .filter_map(|name| Some((name, std::env::var_os(name).filter(|v| !v.is_empty())?)))
            .collect();
        Ok(Self {
            current_dir: std::env::current_dir()?,
            variables,
            uid: rustix::process::geteuid().as_raw(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            stdout_is_terminal: io::stdout().is_terminal(),
        })
    }

    /// The variable, unless it is unset or empty. `name` is one of the known.
    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        debug_assert!(VARIABLES.contains(&name), "{name} is not in the list");
        self.variables.get(name).map(OsString::as_os_str)
    }

    /// A directory; relative ones are ignored, as the XDG base directory specification asks.
    fn directory(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// `user@host`, for people and for the hub's record of who writes.
    pub(super) fn writer(&self) -> String {
        let user = self.variable("USER").or_else(|| self.variable("LOGNAME"));
        let user = user.map_or_else(|| self.uid.to_string(), |u| u.to_string_lossy().into_owned());
        format!("{user}@{}", self.host)
    }
}

/// The variables that say where git keeps its configuration, handed on as they are: what they mean
/// is `filter`'s to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitVariables(BTreeMap<&'static str, OsString>);

impl GitVariables {
    fn of(environment: &Environment) -> Self {
        let of_git =
            |name: &str| name.starts_with("GIT_") || matches!(name, "HOME" | "XDG_CONFIG_HOME");
        let all = environment.variables.iter().filter(|(name, _)| of_git(name));
        Self(all.map(|(name, value)| (*name, value.clone())).collect())
    }

    /// The variable, unless it is unset or empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<OsString> {
        self.0.get(name).cloned()
    }
}

/// The variables that name proxies, as they are: the large spelling before the small one, empty where
/// neither is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyVariables {
    /// For servers spoken to over TLS.
    pub https: String,
    /// For others.
    pub http: String,
    /// The servers that are reached without.
    pub no: String,
}

impl ProxyVariables {
    fn of(environment: &Environment) -> Self {
        let either = |large, small| {
            let value = environment.variable(large).or_else(|| environment.variable(small));
            value.map_or_else(String::new, |value| value.to_string_lossy().into_owned())
        };
        Self {
            https: either("HTTPS_PROXY", "https_proxy"),
            http: either("HTTP_PROXY", "http_proxy"),
            no: either("NO_PROXY", "no_proxy"),
        }
    }
}

/// The directories on this machine. Resolved, not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The user's home, for `~/` and git's own configuration.
    pub home: Option<PathBuf>,
    /// What git's own configuration is found by.
    pub git: GitVariables,
    /// On the way to a cluster.
    pub proxies: ProxyVariables,
    /// Holds one directory a workspace.
    pub state: Value<PathBuf>,
    /// Holds the control sockets.
    pub runtime: Value<PathBuf>,
}

impl Places {
    /// Finds them. `state_dir` is what was typed, already absolute.
    pub(super) fn resolve(
        state_dir: Option<PathBuf>,
        environment: &Environment,
    ) -> Result<Self, ConfigError> {
        let home = environment.directory("HOME");
        let from_env = environment.variable("E2EK_STATE_DIR").map(|dir| {
            Value::new(environment.current_dir.join(dir), Source::Env("E2EK_STATE_DIR"))
        });
        let from_xdg = environment
            .directory("XDG_STATE_HOME")
            .map(|dir| Value::new(dir.join("e2ek-sync"), Source::Env("XDG_STATE_HOME")));
        let from_home = home
            .as_ref()
            .map(|home| Value::new(home.join(".local/state/e2ek-sync"), Source::Default));
        let state = state_dir
            .map(|dir| Value::new(dir, Source::Flag("--state-dir")))
            .or(from_env)
            .or(from_xdg)
            .or(from_home)
            .ok_or(ConfigError::NoHome)?;
        let runtime = runtime(&state, environment);
        let (git, proxies) = (GitVariables::of(environment), ProxyVariables::of(environment));
        Ok(Self { home, git, proxies, state, runtime })
    }
}

/// The first place that exists for us and leaves room for a socket's name.
fn runtime(state: &Value<PathBuf>, environment: &Environment) -> Value<PathBuf> {
    let name = "/0123456789abcdef.sock".len();
    let fits = |path: &PathBuf| path.as_os_str().len() + name <= SOCKET_PATH_BYTES;
    let ours = |dir: &PathBuf| {
        fs::metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == environment.uid)
    };
    let session = environment
        .directory("XDG_RUNTIME_DIR")
        .filter(ours)
        .map(|dir| Value::new(dir.join("e2ek-sync"), Source::Env("XDG_RUNTIME_DIR")));
    let below_state = Value::new(state.value.join("run"), state.source.clone());
    let short = PathBuf::from(format!("/tmp/e2ek-sync-{}", environment.uid));
    session
        .into_iter()
        .chain([below_state])
        .find(|place| fits(&place.value))
        .unwrap_or_else(|| Value::new(short, Source::Default))
}

/// Makes a directory that only this user may enter (0700), parents included, and makes sure that an
/// existing one is such: a real directory, owned by us, closed to group and others.
///
/// # Errors
/// When it cannot be made, or is not private; the kind is then `PermissionDenied`.
pub fn make_private(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(path)?;
    let uid = rustix::process::geteuid().as_raw();
    let fault = match () {
        () if !meta.is_dir() => "it is not a directory",
        () if meta.uid() != uid => "it belongs to another user",
        () if meta.mode() & 0o077 != 0 => "others may enter it",
        () => return Ok(()),
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, fault))
}

/// The name of a workspace in state and sockets: 64 bits of blake3 over the bytes of its canonical
/// folder, as 16 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceId(String);

impl WorkspaceId {
    /// The id of the workspace whose canonical folder this is.
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        let hash = blake3::hash(folder.as_os_str().as_bytes()).to_hex();
        Self(hash.as_str()[..16].to_owned())
    }

    /// The 16 digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn environment(variables: &[(&'static str, &str)]) -> Environment {
        Environment {
            current_dir: "/work".into(),
            variables: variables.iter().map(|(name, value)| (*name, value.into())).collect(),
            uid: rustix::process::geteuid().as_raw(),
            host: "box".into(),
            stdout_is_terminal: false,
        }
    }

    #[test]
    fn state_is_found_in_the_order_of_the_contract() {
        let all = [("E2EK_STATE_DIR", "rel"), ("XDG_STATE_HOME", "/xdg"), ("HOME", "/home/me")];
        let state = |typed: Option<&str>, from: usize| {
            let state =
                Places::resolve(typed.map(Into::into), &environment(&all[from..])).unwrap().state;
            (state.value.to_str().unwrap().to_owned(), state.source.to_string())
        };
        let expected = |path: &str, source: &str| (path.to_owned(), source.to_owned());
        assert_eq!(state(Some("/typed"), 0), expected("/typed", "--state-dir"));
        assert_eq!(state(None, 0), expected("/work/rel", "$E2EK_STATE_DIR"));
        assert_eq!(state(None, 1), expected("/xdg/e2ek-sync", "$XDG_STATE_HOME"));
        assert_eq!(state(None, 2), expected("/home/me/.local/state/e2ek-sync", "default"));
        let nowhere = Places::resolve(None, &environment(&[("XDG_STATE_HOME", "relative")]));
        assert!(matches!(nowhere, Err(ConfigError::NoHome)));
    }

    #[test]
    fn proxies_are_named_in_large_letters_or_small() {
        let all = [("HTTPS_PROXY", "a"), ("https_proxy", "b"), ("no_proxy", "c")];
        let places = Places::resolve(Some("/s".into()), &environment(&all)).unwrap();
        let expected =
            ProxyVariables { https: "a".into(), http: String::new(), no: "c".to_owned() };
        assert_eq!(places.proxies, expected);
    }

    #[test]
    fn sockets_always_fit_their_address() {
        let room = tempfile::tempdir().unwrap();
        let own = room.path().to_str().unwrap();
        let runtime = |xdg: &str, state: &str| {
            let environment = environment(&[("XDG_RUNTIME_DIR", xdg)]);
            let places = Places::resolve(Some(state.into()), &environment).unwrap();
            places.runtime.value
        };
        assert_eq!(runtime(own, "/s"), room.path().join("e2ek-sync"));
        assert_eq!(runtime("/nowhere/at/all", "/s"), Path::new("/s/run"));
        let long = format!("/{}", "x".repeat(100));
        let uid = rustix::process::geteuid().as_raw();
        let short = PathBuf::from(format!("/tmp/e2ek-sync-{uid}"));
        assert_eq!(runtime("/nowhere", &long), short);
        let edge = format!("/{}", "x".repeat(107 - 1 - 4 - 22));
        assert_eq!(runtime("/nowhere", &edge), Path::new(&edge).join("run"));
        assert_eq!(runtime("/nowhere", &(edge + "x")), short);
    }

    #[test]
    fn a_directory_that_others_reach_is_not_private() {
        let room = tempfile::tempdir().unwrap();
        let made = room.path().join("a/b");
        make_private(&made).unwrap();
        make_private(&made).unwrap();
        assert_eq!(fs::metadata(&made).unwrap().mode() & 0o777, 0o700);
        fs::set_permissions(&made, fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(make_private(&made).unwrap_err().to_string(), "others may enter it");
        fs::set_permissions(&made, fs::Permissions::from_mode(0o700)).unwrap();
        let link = room.path().join("link");
        symlink(&made, &link).unwrap();
        assert_eq!(make_private(&link).unwrap_err().to_string(), "it is not a directory");
    }

    #[test]
    fn a_workspace_id_is_sixteen_hex_digits_of_its_folder() {
        let id = WorkspaceId::of(Path::new("/srv/app"));
        assert_eq!(id.as_str().len(), 16);
        assert_eq!(id, WorkspaceId::of(Path::new("/srv/app")));
        assert_ne!(id, WorkspaceId::of(Path::new("/srv/app2")));
        // Kept state is found by it, so it may never change.
        assert_eq!(id.as_str(), "05ddf75751b732f0");
    }
}
