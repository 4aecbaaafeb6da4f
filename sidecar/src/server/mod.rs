//! The hub: the other loop. One thread owns the sites, the links and the command; tasks only move
//! bytes.
//!
//! A link is a task that reads frames and one that writes them ([`listen`]). What comes in is handled
//! in order, one message at a time, so that a restart asked for after a generation finds its files in
//! place. The outgoing queue of a link is unbounded, because its content is bounded elsewhere:
//! output by credit, answers by what was asked.

mod apply;
mod command;
pub mod listen;
pub mod root;
pub mod run;
mod site;
pub mod store;
pub mod target;

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{info, warn};

use self::command::Command;
use self::listen::{Incoming, Peer, PeerId};
use self::site::Site;
use crate::wire::{self, FromHub, Open, Refusal, ToHub, WINDOW_BYTES, WireError};

/// How long the right to write, and a running command, outlive a lost link (cli.md, CMD).
const KEEP_AFTER_LINK: Duration = Duration::from_secs(60);
/// Credit is given back in pieces of this size.
const CREDIT_STEP: u64 = WINDOW_BYTES / 8;

/// What a hub needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder for the records of all targets, made with mode 0700 when there is none.
    pub state: PathBuf,
    /// End when the last link has ended (the hub of one link), rather than wait for the next.
    pub once: bool,
    /// End after so long without a link; `None`: never.
    pub idle: Option<Duration>,
}

/// A site that is served, and to whom.
struct Serving {
    open: Open,
    site: Site,
    peer: Option<PeerId>,
    /// Since when nobody is there.
    alone_since: Option<Instant>,
}

struct Link {
    peer: Peer,
    /// Consumed and not yet given back.
    consumed: u64,
}

/// The hub's loop and all it owns.
pub struct Hub {
    settings: Settings,
    incoming: mpsc::Receiver<Incoming>,
    links: HashMap<PeerId, Link>,
    sites: Vec<Serving>,
    command: Command,
    /// No new work is taken; when the command is gone, so is the hub.
    ending: bool,
    idle_since: Instant,
}

impl Hub {
    /// A hub that takes its links from `incoming`.
    #[must_use]
    pub fn new(settings: Settings, incoming: mpsc::Receiver<Incoming>) -> Self {
        Self {
            settings,
            incoming,
            links: HashMap::new(),
            sites: Vec::new(),
            command: Command::default(),
            ending: false,
            idle_since: Instant::now(),
        }
    }

    /// Serves until `stop` is ready, or by itself as the settings say. The command is stopped and
    /// everything closed when it returns.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut stopping = false;
        while !(self.ending && self.command.is_gone()) {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                () = &mut stop, if !stopping => {
                    stopping = true;
                    self.end();
                }
                event = self.command.next() => self.command_event(event),
                incoming = self.incoming.recv() => match incoming {
                    Some(incoming) => self.take(incoming),
                    None => self.end(),
                },
                () = until(deadline) => self.expire(),
            }
        }
        for serving in self.sites.drain(..) {
            serving.site.close();
        }
        for link in self.links.values() {
            link.peer.send(&FromHub::Bye { reason: String::new() });
        }
    }

    fn end(&mut self) {
        self.ending = true;
        self.command.stop();
    }

    fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Linked(peer) => {
                self.links.insert(peer.id(), Link { peer, consumed: 0 });
            }
            Incoming::Message(id, message, len) => {
                if let Err(error) = self.message(id, message, len) {
                    self.refuse(id, &error);
                }
            }
            Incoming::Ended(id, error) => {
                if let Some(error) = error {
                    info!(%error, "link ended");
                }
                self.unlink(id);
            }
        }
    }

    fn send(&self, id: PeerId, message: &FromHub) {
        if let Some(link) = self.links.get(&id) {
            link.peer.send(message);
        }
    }

    /// Ends a link whose other end broke the protocol.
    fn refuse(&mut self, id: PeerId, error: &WireError) {
        warn!(%error, "protocol broken");
        self.send(id, &FromHub::Bye { reason: error.to_string() });
        self.unlink(id);
    }

    fn unlink(&mut self, id: PeerId) {
        self.links.remove(&id);
        for serving in self.sites.iter_mut().filter(|serving| serving.peer == Some(id)) {
            serving.site.abandon();
            serving.peer = None;
            serving.alone_since = Some(Instant::now());
        }
        self.idle_since = Instant::now();
        if self.settings.once && self.links.is_empty() {
            self.end();
        }
    }

    fn message(&mut self, id: PeerId, message: ToHub, len: usize) -> Result<(), WireError> {
        if let ToHub::Open(open) = message {
            return self.open(id, open);
        }
        let Some(at) = self.sites.iter().position(|serving| serving.peer == Some(id)) else {
            return match message {
                ToHub::Ping | ToHub::Bye => Ok(()),
                _ => Err(WireError::Order("a message before the session is open")),
            };
        };
        match message {
            ToHub::Ops { generation, ops, last } => {
                self.consume(id, len);
                for answer in self.sites[at].site.take_ops(generation, ops, last)? {
                    self.send(id, &answer);
                }
            }
            ToHub::Data { encoding, body } => {
                self.consume(id, len);
                let (body, pieces) = wire::unpack(encoding, body.0)?;
                self.sites[at].site.take_data(&body, pieces)?;
            }
            ToHub::Withdraw { index } => self.sites[at].site.receiver.withdraw(index)?,
            ToHub::Commit { generation, target } => self.commit(id, at, generation, target)?,
            ToHub::Describe { paths } => {
                for answer in self.sites[at].site.describe(&paths) {
                    self.send(id, &answer);
                }
            }
            ToHub::ListForeign => {
                for answer in self.sites[at].site.foreign() {
                    self.send(id, &answer);
                }
            }
            ToHub::RemoveForeign { paths } => {
                let answer = self.sites[at].site.remove_foreign(&paths);
                self.send(id, &answer);
            }
            ToHub::Run(spec) => {
                let site = &self.sites[at].site;
                let marker = site.store.as_ref().map_or("", |store| store.marker());
                let generation = site.receiver.generation();
                if let Some(event) = self.command.run(spec, site.directory(), marker, generation) {
                    self.send(id, &event);
                }
            }
            ToHub::Act { generation, actions } => self.command.act(generation, actions),
            ToHub::Stdin(bytes) => self.command.stdin(bytes.0),
            ToHub::StdinEnd => self.command.stdin_end(),
            ToHub::StopCommand => self.command.stop(),
            ToHub::Credit { bytes } => self.command.credit(bytes),
            ToHub::Ping => {}
            ToHub::Bye => self.bye(id, at),
            ToHub::Open(_) => {}
        }
        Ok(())
    }

    fn consume(&mut self, id: PeerId, len: usize) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.consumed += len as u64;
        if link.consumed >= CREDIT_STEP {
            let bytes = std::mem::take(&mut link.consumed);
            link.peer.send(&FromHub::Credit { bytes });
        }
    }

    fn commit(
        &mut self,
        id: PeerId,
        at: usize,
        generation: u64,
        target: crate::tree::TreeId,
    ) -> Result<(), WireError> {
        let site = &mut self.sites[at].site;
        let applied = site.commit(generation, target)?;
        if site.is_visible() {
            applied.iter().for_each(|answer| self.send(id, answer));
            return Ok(());
        }
        // Written into a directory or process that is gone: nobody can see it (I2).
        let serving = self.sites.remove(at);
        drop(serving);
        self.send(id, &FromHub::Bye { reason: "the target was removed or replaced".to_owned() });
        self.unlink(id);
        Ok(())
    }

    /// Opens a session: takes up a site that waits for this workspace, or opens one.
    fn open(&mut self, id: PeerId, open: Open) -> Result<(), WireError> {
        if self.sites.iter().any(|serving| serving.peer == Some(id)) {
            return Err(WireError::Order("opened twice"));
        }
        let waiting = self.sites.iter().position(|serving| same_site(&serving.open, &open));
        if let Some(at) = waiting {
            let serving = &mut self.sites[at];
            let before = serving.peer.take();
            serving.site.abandon();
            if let Some(before) = before {
                self.send(before, &FromHub::Refused(Refusal::Superseded));
                self.links.remove(&before);
            }
            if self.command.is_idle() || open.check {
                // Opened anew: what somebody changed meanwhile is found.
                self.sites.remove(at).site.close();
            }
        }
        let at = match self.sites.iter().position(|serving| same_site(&serving.open, &open)) {
            Some(at) => at,
            None => {
                self.make_room(&open);
                match Site::open(&open, &self.settings.state) {
                    Ok(site) => {
                        let open = open.clone();
                        self.sites.push(Serving { open, site, peer: None, alone_since: None });
                        self.sites.len() - 1
                    }
                    Err(refusal) => {
                        self.send(id, &FromHub::Refused(refusal));
                        return Ok(());
                    }
                }
            }
        };
        self.sites[at].peer = Some(id);
        self.sites[at].alone_since = None;
        for answer in self.sites[at].site.opened() {
            self.send(id, &answer);
        }
        Ok(())
    }

    /// Ends sites that stand in the way of `open` and may: it takes over, or nobody is there.
    fn make_room(&mut self, open: &Open) {
        let mut at = 0;
        while at < self.sites.len() {
            let serving = &self.sites[at];
            let same_roots = serving.open.roots == open.roots;
            if !same_roots || !(open.take_over || serving.peer.is_none()) {
                at += 1;
                continue;
            }
            let serving = self.sites.remove(at);
            if let Some(peer) = serving.peer {
                let by = open.writer.clone();
                self.send(peer, &FromHub::Refused(Refusal::Owned { by, active: true }));
                self.links.remove(&peer);
            }
            serving.site.close();
        }
    }

    fn bye(&mut self, id: PeerId, at: usize) {
        self.sites.remove(at).site.close();
        if self.settings.once {
            // The link stays until the command is gone, so that its last words arrive.
            self.end();
        } else {
            self.command.stop();
            self.send(id, &FromHub::Bye { reason: String::new() });
        }
    }

    fn command_event(&mut self, event: FromHub) {
        let serving = self.sites.iter().find_map(|serving| serving.peer);
        let peer = serving.or_else(|| self.links.keys().next().copied());
        if let Some(peer) = peer {
            self.send(peer, &event);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let alone = self.sites.iter().filter_map(|serving| serving.alone_since).min();
        let alone = alone.map(|since| since + KEEP_AFTER_LINK);
        let idle = self.settings.idle.filter(|_| self.links.is_empty() && self.sites.is_empty());
        [alone, idle.map(|idle| self.idle_since + idle)].into_iter().flatten().min()
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let over = |serving: &Serving| {
            serving.alone_since.is_some_and(|since| since + KEEP_AFTER_LINK <= now)
        };
        while let Some(at) = self.sites.iter().position(over) {
            self.sites.remove(at).site.close();
            self.command.stop();
            self.idle_since = now;
        }
        let idle = self.settings.idle.filter(|_| self.links.is_empty() && self.sites.is_empty());
        if idle.is_some_and(|idle| self.idle_since + idle <= now) {
            self.end();
        }
    }
}

fn same_site(a: &Open, b: &Open) -> bool {
    a.workspace == b.workspace && a.roots == b.roots && a.process == b.process
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
