//! Owns how each of the peers is found, started and ended.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::product::time;
use crate::session::{Link, Session};
use crate::table::Peer;
use crate::{Result, Settings, machine};

/// One that keeps a target equal to a source.
#[derive(Debug)]
pub(crate) enum Way {
    Ours,
    Lsyncd,
    /// `-repeat` takes `watch` only where there is a unison-fsmonitor; else it polls.
    Unison {
        watches: bool,
    },
    Mutagen(PathBuf),
}

/// `None`: it is not on this machine.
pub(super) fn find(peer: Peer) -> Option<Way> {
    match peer {
        Peer::Rsync => None,
        Peer::Lsyncd => machine::in_path("lsyncd").then_some(Way::Lsyncd),
        Peer::Unison => {
            let watches = machine::in_path("unison-fsmonitor");
            machine::in_path("unison").then_some(Way::Unison { watches })
        }
        Peer::Mutagen => Some(Way::Mutagen(std::env::var_os("MUTAGEN")?.into())),
    }
}

/// One line each: what they are and how they run.
pub(crate) fn describe() -> Vec<String> {
    let line = |name: &str, peer, argument: &str| {
        let Some(way) = find(peer) else { return format!("{name}: absent") };
        let (program, how) = match &way {
            Way::Unison { watches: true } => (Path::new("unison"), ", -repeat watch"),
            Way::Unison { watches: false } => {
                (Path::new("unison"), ", -repeat 1: there is no unison-fsmonitor to watch with")
            }
            Way::Mutagen(program) => (program.as_path(), ", one-way-safe"),
            Way::Lsyncd | Way::Ours => (Path::new("lsyncd"), ", delay 0, default.rsync"),
        };
        format!("{name}: {}{how}", machine::version(program, argument))
    };
    vec![
        line("lsyncd", Peer::Lsyncd, "-version"),
        line("Unison", Peer::Unison, "-version"),
        line("Mutagen", Peer::Mutagen, "version"),
    ]
}

/// A started one; ended when dropped.
pub(crate) enum Running {
    Ours(Session),
    Other(Other),
}

pub(crate) struct Other {
    child: Child,
    /// Run before the child is ended.
    before: Option<Command>,
}

impl Way {
    /// For a file name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Lsyncd => "lsyncd",
            Self::Unison { .. } => "unison",
            Self::Mutagen(_) => "mutagen",
        }
    }

    pub(crate) fn start(
        &self,
        settings: &Settings,
        place: &Path,
        source: &Path,
        target: &Path,
    ) -> Result<Running> {
        Ok(match self {
            Self::Ours => {
                Running::Ours(Session::launch(settings, place, source, target, Link::Local)?)
            }
            Self::Lsyncd => Running::Other(lsyncd(place, source, target)?),
            Self::Unison { watches } => Running::Other(unison(place, source, target, *watches)?),
            Self::Mutagen(program) => Running::Other(mutagen(program, place, source, target)?),
        })
    }
}

/// As its manual configures a local target, without its usual delay.
fn lsyncd(place: &Path, source: &Path, target: &Path) -> Result<Other> {
    let configuration = format!(
        "settings {{ nodaemon = true }}\n\
         sync {{ default.rsync, source = {source:?}, target = {target:?}, delay = 0,\n\
         \x20 rsync = {{ archive = true }} }}\n"
    );
    let file = place.join("lsyncd.lua");
    fs::write(&file, configuration)?;
    let mut command = Command::new("lsyncd");
    command.arg("-nodaemon").arg(file);
    Other::start(command, place)
}

fn unison(place: &Path, source: &Path, target: &Path, watches: bool) -> Result<Other> {
    let mut command = Command::new("unison");
    command
        .args([source, target])
        .args(["-ui", "text", "-batch", "-auto", "-times", "-repeat"])
        .arg(if watches { "watch" } else { "1" })
        .env("UNISON", place.join("archives"));
    Other::start(command, place)
}

fn mutagen(program: &Path, place: &Path, source: &Path, target: &Path) -> Result<Other> {
    let data = place.join("mutagen-data");
    fs::create_dir(&data)?;
    let command = |words: &[&str]| {
        let mut command = Command::new(program);
        command.args(words).env("MUTAGEN_DATA_DIRECTORY", &data).env("HOME", place);
        command
    };
    let mut other = Other::start(command(&["daemon", "run"]), place)?;
    other.before = Some(command(&["sync", "terminate", "--all"]));
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        let mut create = command(&["sync", "create", "--sync-mode=one-way-safe"]);
        match time(create.args([source, target])) {
            Ok(_) => return Ok(other),
            // Until the daemon listens.
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

impl Other {
    fn start(mut command: Command, place: &Path) -> Result<Self> {
        let said = File::create(place.join("said"))?;
        let child = command
            .current_dir(place)
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()?;
        Ok(Self { child, before: None })
    }
}

impl Running {
    pub(crate) fn stop(self) -> Result<()> {
        match self {
            Self::Ours(session) => session.stop(),
            Self::Other(other) => {
                drop(other);
                Ok(())
            }
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        if let Some(before) = &mut self.before {
            let _ = time(before);
        }
        // Asked first: lsyncd takes its rsync along.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
