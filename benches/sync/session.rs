//! Owns a running `watch` over a source and a target: its link, what crossed it, its processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub(crate) use crate::figures::Carried;
use crate::process::descendants;
use crate::product::Daemon;
use crate::{Result, Settings, clock, relay};

/// So long without a byte on the link, and a change is over.
const QUIET: u64 = 300_000_000;
/// A link that is busy for longer than this is a failure.
const BUSY: u64 = 60_000_000_000;

/// How the hub is reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Link {
    Local,
    Transport,
    /// By `--transport-cmd` through a process that counts the bytes.
    Counted,
}

impl Link {
    /// Adds what the link needs. `None` where there is no e2ek-sidecar to reach.
    pub(crate) fn add(
        self,
        settings: &Settings,
        place: &Path,
        command: &mut Command,
    ) -> Result<Option<()>> {
        let program = std::env::current_exe()?;
        let counts = counts(place);
        let counted = [program.as_path(), Path::new(relay::ROLE), counts.as_path()];
        let before: &[&Path] = match self {
            Self::Local => return Ok(Some(())),
            Self::Transport => &[],
            Self::Counted => &counted,
        };
        let Some(words) = settings.product.transport(place, before) else { return Ok(None) };
        command.arg("--transport-cmd").arg(words);
        Ok(Some(()))
    }
}

/// What crossed a counted link whose files are in `place`.
pub(crate) fn carried(place: &Path) -> Result<Carried> {
    let (out, back) = relay::counted(&counts(place))?;
    Ok(Carried { out, back })
}

fn counts(place: &Path) -> PathBuf {
    place.join("counts")
}

/// A `watch` whose first sync is done.
pub(crate) struct Session {
    pub(crate) daemon: Daemon,
    place: PathBuf,
    link: Link,
}

impl Session {
    /// Starts one with its state in `place`, and waits until so many files are at the target, which
    /// is made when it is not there.
    pub(crate) fn start(
        settings: &Settings,
        place: &Path,
        source: &Path,
        target: &Path,
        link: Link,
        files: usize,
    ) -> Result<Self> {
        let mut session = Self::launch(settings, place, source, target, link)?;
        session.daemon.wait_synced(files)?;
        Ok(session)
    }

    /// Starts one and waits for nothing.
    pub(crate) fn launch(
        settings: &Settings,
        place: &Path,
        source: &Path,
        target: &Path,
        link: Link,
    ) -> Result<Self> {
        fs::create_dir_all(target)?;
        let mut command = settings.product.command(place)?;
        command.arg("watch").args([source, target]);
        link.add(settings, place, &mut command)?.ok_or("no e2ek-sidecar")?;
        let daemon = Daemon::start(command, place)?;
        Ok(Self { daemon, place: place.to_owned(), link })
    }

    /// Waits until the last change was acknowledged and the link is quiet.
    pub(crate) fn acknowledged(&mut self, within: Duration) -> Result<()> {
        let ok = |line: &crate::product::Line| line.value("sync end", "status") == Some("ok");
        self.daemon.wait_for("an acknowledgement", within, ok)?;
        self.quiet()
    }

    /// Waits until nothing is said and nothing crosses the link.
    pub(crate) fn quiet(&self) -> Result<()> {
        let end = clock::now() + BUSY;
        let mut before = self.carried()?;
        while clock::now() < end {
            clock::sleep_until(clock::now() + QUIET);
            let now = self.carried()?;
            if self.daemon.said().is_empty() && now == before {
                return Ok(());
            }
            before = now;
        }
        Err("the link does not become quiet".into())
    }

    /// What has crossed since the start; nothing where it is not counted.
    pub(crate) fn carried(&self) -> Result<Carried> {
        if self.link != Link::Counted {
            return Ok(Carried::default());
        }
        carried(&self.place)
    }

    /// The daemon, then its hub.
    pub(crate) fn processes(&self) -> Result<[(&'static str, u32); 2]> {
        let daemon = self.daemon.pid();
        let below = descendants(daemon)?;
        let hub = below.last().ok_or("the daemon has no hub")?;
        Ok([("daemon", daemon), ("hub", *hub)])
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(self) -> Result<()> {
        self.daemon.stop()
    }
}
