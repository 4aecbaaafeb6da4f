//! A workspace with its own home, and a daemon of ours to talk to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use e2ek_sync::config::{Config, Environment, Flags};
use e2ek_sync::control::{ControlServer, Lock, Reply, Request};
use e2ek_sync::report::Record;
use tempfile::TempDir;

pub(crate) use super::said::Said;

/// Nothing here takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Place {
    home: TempDir,
    /// The workspace; canonical.
    pub(crate) folder: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().canonicalize().unwrap().join("work");
        fs::create_dir(&folder).unwrap();
        Self { home, folder }
    }

    /// The binary, in the workspace, with an environment that is ours alone.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_e2ek-sync"));
        command.args(words).current_dir(&self.folder).env_clear();
        command.env("HOME", self.home.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, words: &[&str]) -> Said {
        self.command(words).output().unwrap().into()
    }

    fn config(&self) -> Config {
        let home = self.home.path().as_os_str().to_owned();
        let environment = Environment {
            current_dir: self.folder.clone(),
            variables: BTreeMap::from([("HOME", home)]),
            uid: rustix::process::geteuid().as_raw(),
            host: "box".into(),
            stdout_is_terminal: false,
        };
        Config::resolve(&Flags::default(), &environment).unwrap()
    }

    /// Where a daemon has its lock, and its socket.
    pub(crate) fn daemon_place(&self) -> (PathBuf, PathBuf) {
        let config = self.config();
        (config.workspace_state(), config.control_socket())
    }

    /// A daemon that answers each request with what `answer` says, and then tells its followers
    /// `records`; after a stop it hangs up and ends.
    pub(crate) fn daemon(
        &self,
        records: Vec<Record>,
        answer: impl Fn(&Request) -> Reply + Send + 'static,
    ) -> Daemon {
        let (lock, socket) = self.daemon_place();
        let (asked, requests) = mpsc::channel();
        let (listening, listens) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let mut server = ControlServer::bind(&socket, Lock::take(&lock).unwrap()).unwrap();
                listening.send(()).unwrap();
                loop {
                    let call = server.next_call().await;
                    let request = call.request.clone();
                    call.answer(answer(&request));
                    asked.send(request.clone()).unwrap();
                    records.iter().for_each(|record| server.publish(record));
                    if request == (Request::Stop { target: None }) {
                        return server.close(PATIENCE).await;
                    }
                }
            });
        });
        listens.recv_timeout(PATIENCE).unwrap();
        Daemon { requests, thread: Some(thread), folder: self.folder.clone() }
    }
}

/// Ends with the test, by a request of its own.
pub(crate) struct Daemon {
    requests: mpsc::Receiver<Request>,
    thread: Option<thread::JoinHandle<()>>,
    folder: PathBuf,
}

impl Daemon {
    /// What it was asked next.
    pub(crate) fn asked(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).unwrap()
    }

    /// Waits for its end.
    pub(crate) fn ended(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}
