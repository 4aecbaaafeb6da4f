//! Owns the product over a workload in the cluster: its commands, and a `watch` that runs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::product::{Daemon, Line};
use crate::{Result, Settings};

/// One workload's target and our own end of it.
pub(crate) struct Way<'s> {
    pub(crate) settings: &'s Settings,
    /// State, home and working directory.
    pub(crate) place: &'s Path,
    pub(crate) source: &'s Path,
    /// `deploy/NAME:PATH`.
    pub(crate) target: String,
}

impl<'s> Way<'s> {
    /// To the Deployment of this name, as the rig makes it.
    pub(crate) fn new(
        settings: &'s Settings,
        place: &'s Path,
        source: &'s Path,
        name: &str,
    ) -> Self {
        Self { settings, place, source, target: format!("deploy/{name}:/srv/app") }
    }

    fn command(&self, words: &[&str], kubeconfig: &Path) -> Result<Command> {
        let mut command = self.settings.product.command(self.place)?;
        command.args(words).arg(self.source).arg(&self.target);
        command.args(["-n", self.settings.rig.namespace(), "--kubeconfig"]).arg(kubeconfig);
        Ok(command)
    }

    pub(crate) fn once(&self) -> Result<Command> {
        self.command(&["sync", "--once"], &self.settings.rig.kubeconfig())
    }

    /// Starts `watch` and waits for nothing.
    pub(crate) fn launch(&self, kubeconfig: &Path) -> Result<Daemon> {
        Daemon::start(self.command(&["watch"], kubeconfig)?, self.place)
    }

    /// A `watch` whose first sync brought so many files.
    pub(crate) fn watch(&self, files: usize) -> Result<Daemon> {
        self.watch_by(&self.settings.rig.kubeconfig(), files)
    }

    /// The same by another way to the cluster.
    pub(crate) fn watch_by(&self, kubeconfig: &Path, files: usize) -> Result<Daemon> {
        let mut daemon = self.launch(kubeconfig)?;
        daemon.wait_synced(files)?;
        Ok(daemon)
    }

    /// Everything that was saved is at every target that there is.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut command = self.settings.product.command(self.place)?;
        command.arg("-C").arg(self.source).args(["flush", "--timeout", "60s"]);
        crate::product::time(&mut command).map(drop)
    }
}

pub(crate) fn is_connected(line: &Line) -> bool {
    line.text.starts_with("[e2ek] connected ")
}

/// A link was made again, and one hash told that nothing is to be sent.
pub(crate) fn is_equal(line: &Line) -> bool {
    line.value("connected", "equal") == Some("true")
}

/// So long nothing is said.
pub(crate) fn quiet(daemon: &Daemon, span: Duration) {
    loop {
        std::thread::sleep(span);
        if daemon.said().is_empty() {
            return;
        }
    }
}
