//! Owns what the hub does in a pod: it hears that a container has ended, has the container's command
//! started when its files are there, and passes on what sessions ask of it.
//!
//! Without a wrapper there is no command to restart, only a process to signal; and one that ends with
//! that signal takes the files with it, unless they lie on a volume.

use std::time::Instant;

use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Hub;
use super::length::aside;
use super::link::Links;
use super::listen::PeerId;
use super::run::raw;
use super::site::Site;
use super::target::Target as Process;
use super::wrap::FromWrappers;
use crate::restart::{ActionSet, Signal};
use crate::wire::{Blob, ChildEvent, CommandSpec, FromHub, OUTPUT_WINDOW_BYTES};

impl Hub {
    /// Says that a container's process ended, when it does and as long as what this gives is held.
    pub(super) fn watch_end(&mut self, serial: u64, process: &Process) -> oneshot::Sender<()> {
        let (held, dropped) = oneshot::channel();
        // SAFETY: the descriptor is owned, and closed with what registers it.
        let watch = |fd| unsafe { AsyncFd::register(fd) }.map_err(std::io::Error::from);
        match process.pidfd().try_clone_to_owned().and_then(watch) {
            Ok(pidfd) => {
                self.ends.spawn(async move {
                    // One that is not served any more has a number that nobody has.
                    tokio::select! {
                        _ = pidfd.readable() => serial,
                        _ = dropped => serial,
                    }
                });
            }
            // It is seen at the next acknowledgement.
            Err(error) => warn!(%error, "a container's end is not watched for"),
        }
        held
    }

    /// A container's process has ended, and with it all that was written beside its volumes.
    pub(super) async fn container_ended(&mut self, serial: u64) {
        let Some(at) = self.sites.iter().position(|serving| serving.serial == serial) else {
            return;
        };
        let mut serving = self.sites.remove(at);
        let name = serving.open.inside().unwrap_or_default().to_owned();
        info!(container = name, "the container has ended");
        if let Some(peer) = serving.peer {
            let reason = format!("container {name} has ended");
            self.links.send(peer, &FromHub::Bye { reason });
            self.unlink(peer);
        }
        let request = serving.open.lasting();
        if serving.site.is_keeping() {
            serving = aside(move || {
                serving.site.finish_keeping();
                serving
            })
            .await;
        }
        // Not closed: what was under way went nowhere, and the record is to say what was done before.
        let Site { roots, process, .. } = serving.site;
        // A volume stays, and is swept by the next one that opens it.
        let own = roots.into_iter().flatten().filter(|root| root.settings().fleeting);
        let roots: Vec<_> = own.collect();
        self.letting_go.take_container((roots, process));
        self.stand_by(request);
    }

    /// Whether contents are to be kept for a container's next start.
    pub(super) fn has_more_to_keep(&self) -> bool {
        self.sites.iter().any(|serving| serving.site.has_more_to_keep())
    }

    /// Keeps some of them.
    pub(super) fn keep_more(&mut self) {
        let more = |serving: &&mut super::Serving| serving.site.has_more_to_keep();
        if let Some(serving) = self.sites.iter_mut().find(more) {
            serving.site.keep_more();
            serving.tell_unkept(&self.links);
        }
    }

    /// Takes in what threads have kept.
    pub(super) fn take_kept(&mut self) {
        for serving in &mut self.sites {
            serving.site.take_kept();
            serving.tell_unkept(&self.links);
        }
    }

    pub(super) fn wrapper_event(&mut self, event: FromWrappers) {
        match event {
            FromWrappers::Linked(wrapper) => {
                let name = self.wrappers.insert(wrapper);
                self.hurry(Instant::now());
                let of = |serving: &super::Serving| serving.open.inside() == Some(&name);
                if let Some(at) = self.sites.iter().position(of) {
                    self.start_wrapped(at);
                }
            }
            FromWrappers::Message(serial, message) => {
                let Some((name, message)) = self.wrappers.told(serial, message) else { return };
                for serving in &mut self.sites {
                    if serving.runs && serving.open.inside() == Some(&name) {
                        serving.pass_on(&self.links, &message);
                    }
                }
            }
            FromWrappers::Ended(serial) => self.wrappers.remove(serial),
        }
    }

    /// Whether all files are there that sessions want in a container, at whichever places.
    fn is_complete(&self, name: Option<&str>) -> bool {
        let mut there = self.sites.iter().filter(|serving| serving.open.inside() == name);
        there.all(|serving| serving.site.is_dry() || serving.site.is_complete())
    }

    /// Has a container's command started, if all its files are there.
    pub(super) fn start_wrapped(&mut self, at: usize) {
        let Some(serving) = self.sites.get(at).filter(|serving| !serving.site.is_dry()) else {
            return;
        };
        let name = serving.open.inside();
        if let (Some(name), true) = (name, self.is_complete(name)) {
            self.wrappers.start(name, serving.site.receiver.generation());
        }
    }

    /// The session has all its files there, and wants the container's own command to run with them.
    pub(super) fn run_wrapped(&mut self, id: PeerId, at: usize, spec: &CommandSpec) {
        let serving = &mut self.sites[at];
        if !spec.argv.is_empty() {
            let error = "in a container its own command runs, under e2ek-sidecar run".to_owned();
            return self.links.send(id, &FromHub::Child(ChildEvent::Failed { error }));
        }
        serving.runs = true;
        serving.credit = OUTPUT_WINDOW_BYTES;
        serving.site.complete();
        let (generation, held) =
            (serving.site.receiver.generation(), serving.site.receiver.held().id());
        let name = self.sites[at].open.inside();
        let all = self.is_complete(name);
        let name = name.unwrap_or_default();
        if let Some(Some(answer)) = self.wrappers.run(name, spec, (generation, held), all) {
            self.links.send(id, &answer);
        }
    }

    /// Does what the session asks for.
    pub(super) fn act_wrapped(&mut self, at: usize, generation: u64, actions: &ActionSet) {
        if actions.is_empty() {
            // Nothing is owed: all that the session wants to be there is there.
            self.sites[at].site.complete();
            self.start_wrapped(at);
        }
        let serving = &self.sites[at];
        let name = serving.open.inside().unwrap_or_default();
        let held = serving.site.receiver.held().id();
        // A session has at least one root.
        let directory = &serving.open.roots[0];
        if self.wrappers.act(name, directory, generation, actions, held) || actions.is_empty() {
            return;
        }
        for event in bare(&serving.site, name, actions) {
            if let Some(peer) = serving.peer {
                self.links.send(peer, &FromHub::Child(event));
            }
        }
    }
}

impl super::Serving {
    /// Tells this link's session what cannot be written again, when that is another than it was.
    fn tell_unkept(&mut self, links: &Links) {
        if let Some(peer) = self.peer
            && let Some(told) = self.site.not_replayable()
        {
            links.send(peer, &told);
        }
    }

    /// Tells this link's session of its container's command. Output goes out within the daemon's
    /// credit; beyond it is left out, for all of it is in the container's log.
    fn pass_on(&mut self, links: &Links, message: &FromHub) {
        let Some(peer) = self.peer else { return };
        let FromHub::Output { bytes, .. } = message else { return links.send(peer, message) };
        let len = bytes.0.len() as u64;
        if len > self.credit {
            self.left_out += len;
            return;
        }
        if self.left_out > 0 {
            let left_out = std::mem::take(&mut self.left_out);
            let note =
                format!("... {left_out} bytes more are in the container's log\n").into_bytes();
            links.send(peer, &FromHub::Output { stream: 2, bytes: Blob(note) });
        }
        self.credit -= len;
        links.send(peer, message);
    }
}

/// What can be done without a wrapper: signals, to the main process.
fn bare(site: &Site, name: &str, actions: &ActionSet) -> Vec<ChildEvent> {
    let remedy = "start its command with e2ek-sidecar run -- (see examples/kubernetes)";
    let not_done = |why: String| ChildEvent::NotDone { why };
    if actions.restart || !actions.commands.is_empty() {
        let why = format!("container {name} has no wrapper, so nothing is restarted; {remedy}");
        return vec![not_done(why)];
    }
    let Some(process) = &site.process else { return Vec::new() };
    let send = |&signal: &Signal| {
        if process.would_end(raw(signal)) && !site.is_on_volumes() {
            let why = format!(
                "{signal} would end the main process of container {name}, and with it every file \
                 that is not on a volume; {remedy}"
            );
            return not_done(why);
        }
        match process.signal(raw(signal)) {
            Ok(()) => ChildEvent::Signalled { signal: signal.number() },
            Err(error) => not_done(error.to_string()),
        }
    };
    actions.signals.iter().map(send).collect()
}
