//! One test's own world: a source, a target, a state directory and the environment of the binaries.

use std::fs;
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::processes;
use crate::tree;

/// Nothing takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How the hub is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// The embedded hub.
    Local,
    /// `--transport-cmd 'e2ek-sidecar stdio'`.
    Stdio,
    /// `--transport-cmd 'e2ek-sidecar connect'` to an `e2ek-sidecar serve`.
    Served,
}

pub(crate) struct Place {
    /// Holds all the rest; canonical.
    pub(crate) top: PathBuf,
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) state: PathBuf,
    /// The state of a hub that is not embedded.
    pub(crate) far: PathBuf,
    pub(crate) link: Link,
    served: Option<Child>,
    _top: TempDir,
}

impl Place {
    pub(crate) fn new(link: Link) -> Self {
        let home = tempfile::Builder::new().prefix("e2e").tempdir().unwrap();
        let top = home.path().canonicalize().unwrap();
        let [source, target, state, far] =
            ["src", "dst", "state", "far"].map(|name| top.join(name));
        fs::create_dir(&source).unwrap();
        let mut place = Self { top, source, target, state, far, link, served: None, _top: home };
        if link == Link::Served {
            let socket = place.top.join("hub.sock");
            let mut serve = place.environment(sidecar());
            serve.arg("serve").arg("--socket").arg(&socket).arg("--state").arg(&place.far);
            place.served = Some(serve.stdin(Stdio::null()).spawn().unwrap());
            until("the hub listens", || socket.exists());
        }
        place
    }

    /// A program with an environment that is this place's alone.
    pub(crate) fn environment(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.top).env_clear().stdin(Stdio::null());
        command.env("HOME", &self.top).env("E2EK_STATE_DIR", &self.state).env("USER", "tester");
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("GIT_CONFIG_NOSYSTEM", "1");
        command
    }

    /// The binary with these words.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.environment(binary());
        command.args(words);
        command
    }

    /// A command that syncs the source to the target, with more words.
    pub(crate) fn syncing(&self, words: &[&str], more: &[&str]) -> Command {
        let mut command = self.command(words);
        command.arg(&self.source).arg(&self.target).args(self.transport());
        command.args(["--output", "lines"]).args(more);
        command
    }

    /// The flag that names the transport, if there is one.
    pub(crate) fn transport(&self) -> Vec<String> {
        let words = match self.link {
            Link::Local => return Vec::new(),
            Link::Stdio => format!("stdio --state {}", self.far.display()),
            Link::Served => format!("connect --socket {}", self.top.join("hub.sock").display()),
        };
        vec!["--transport-cmd".into(), format!("{} {words}", sidecar().display())]
    }

    pub(crate) fn once(&self, more: &[&str]) -> Said {
        Said::of(self.syncing(&["sync", "--once"], more))
    }

    pub(crate) fn watch(&self, more: &[&str]) -> Daemon<'_> {
        Daemon::start(self, self.syncing(&["watch"], more))
    }

    /// A command to the workspace's daemon.
    pub(crate) fn control(&self, words: &[&str]) -> Said {
        let mut command = self.command(&["-C"]);
        command.arg(&self.source).args(words);
        Said::of(command)
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.source.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// The same, but at once, as many editors do: nobody ever sees half of it.
    pub(crate) fn save(&self, path: &str, content: impl AsRef<[u8]>) {
        let aside = self.top.join("aside-of-a-save");
        fs::write(&aside, content).unwrap();
        fs::rename(aside, self.source.join(path)).unwrap();
    }

    /// What the target has there.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.target.join(path)).ok()
    }

    /// Target and source are the same, modes included.
    #[track_caller]
    pub(crate) fn assert_equal(&self) {
        let (source, target) = (tree::of(&self.source), tree::of(&self.target));
        tree::assert_equal(&source, &target);
    }

    /// Where the embedded or the far hub keeps its records.
    pub(crate) fn hub_state(&self) -> &Path {
        if self.link == Link::Local { &self.state } else { &self.far }
    }

    /// Every trashed content of this place's hub.
    pub(crate) fn trash(&self) -> Vec<Vec<u8>> {
        let all = files_below(self.hub_state());
        let trashed = all.iter().filter(|path| path.components().any(|c| c.as_os_str() == "trash"));
        trashed.map(|path| fs::read(path).unwrap()).collect()
    }

    /// I8: no process, socket, staging directory or temporary file is left.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        let kept = self.served.as_ref().map(Child::id);
        until("all processes are gone", || {
            processes::of_place(&self.top).iter().all(|pid| Some(*pid) == kept)
        });
        let hub = self.top.join("hub.sock");
        let mut left = Vec::new();
        let roots = [&self.target, &self.state, &self.far];
        for path in roots.into_iter().flat_map(|root| everything_below(root)) {
            let name = path.file_name().unwrap().as_bytes();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            // The folder of the lock and the sockets stays; a serving hub keeps its ground ready.
            let staging = name.starts_with(b".e2ek-sync") && kept.is_none();
            let temporary = name.ends_with(b".tmp") || name.ends_with(b".new");
            if (staging || temporary || kind.is_socket()) && path != hub {
                left.push(path);
            }
        }
        assert!(left.is_empty(), "left over: {left:?}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(hub) = &mut self.served {
            let _ = hub.kill();
            let _ = hub.wait();
        }
        for pid in processes::of_place(&self.top) {
            processes::kill(pid);
        }
    }
}

/// All paths below a directory; none where it is missing.
pub(crate) fn everything_below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}

pub(crate) fn files_below(root: &Path) -> Vec<PathBuf> {
    everything_below(root).into_iter().filter(|path| path.is_file()).collect()
}

/// Waits for something that no event tells.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_e2ek-sync"))
}

/// The sidecar's binary; built when whoever runs this test alone has not.
pub(crate) fn sidecar() -> &'static Path {
    static SIDECAR: OnceLock<PathBuf> = OnceLock::new();
    SIDECAR.get_or_init(|| {
        let path = binary().with_file_name("e2ek-sidecar");
        if !path.exists() {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "-p", "e2ek-sidecar"]).current_dir(env!("CARGO_MANIFEST_DIR"));
            assert!(cargo.status().unwrap().success(), "e2ek-sidecar can be built");
        }
        path
    })
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn text(file: &mut fs::File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What the binary said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    /// Runs a command to its end; one that does not end is killed and fails the test.
    #[track_caller]
    pub(crate) fn of(mut command: Command) -> Self {
        let [mut out, mut err] = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
        command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let mut code = None;
        let mut ended = false;
        while !ended && Instant::now() < deadline {
            let status = child.try_wait().unwrap();
            ended = status.is_some();
            code = status.and_then(|status| status.code());
            std::thread::sleep(Duration::from_millis(1));
        }
        if !ended {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let said = Self { code, out: text(&mut out), err: text(&mut err) };
        let last = said.out.lines().rev().take(8).collect::<Vec<_>>().join("\n");
        assert!(ended, "it does not end; its last lines, backwards:\n{last}\n{}", said.err);
        said
    }

    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "\n{}{}", self.out, self.err);
        self
    }

    /// All it said holds this.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        let all = format!("{}{}", self.out, self.err);
        assert!(all.contains(text), "`{text}` is not in:\n{all}");
        self
    }

    #[track_caller]
    pub(crate) fn never_says(self, text: &str) -> Self {
        let all = format!("{}{}", self.out, self.err);
        assert!(!all.contains(text), "`{text}` is in:\n{all}");
        self
    }
}
