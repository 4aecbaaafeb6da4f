//! The hub: the other loop. One thread owns the sites, the links and the command; tasks only move
//! bytes.
//!
//! A link is a task that reads frames and one that writes them ([`listen`]). What comes in is handled
//! in order, one message at a time, so that a restart asked for after a generation finds its files in
//! place. Who may write where is decided on entry (`entry`); after that a site listens to one link
//! only, and only as long as its lease is the newest (I14).

mod ahead;
mod apply;
pub mod bridge;
mod charge;
mod command;
mod entry;
mod foreign;
mod hands;
mod leave;
mod length;
mod link;
pub mod listen;
mod look;
pub mod memory;
mod message;
mod opening;
mod pass;
mod pod;
mod replay;
pub mod root;
pub mod run;
pub mod said;
mod site;
mod still;
pub mod store;
pub mod target;
pub mod wrap;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{info, warn};

use self::charge::Charge;
use self::command::Command;
use self::entry::{Request, Waiting};
use self::leave::LettingGo;
use self::link::Links;
use self::listen::{Incoming, PeerId};
use self::site::Site;
use self::still::Looked;
use self::wrap::Wrappers;
use crate::lease::{LEASE, Leases};
use crate::wire::{FromHub, WireError};

/// How long a running command outlives a lost link (cli.md, CMD); so long its site is kept.
const KEEP_AFTER_LINK: Duration = Duration::from_secs(60);
/// How long the last output of a command that is gone waits for credit when the hub ends.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// What a hub needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder for the records of all targets, made with mode 0700 when there is none.
    pub state: PathBuf,
    /// End when the last link has ended (the hub of one link), rather than wait for the next.
    pub once: bool,
    /// End after so long without a link; `None`: never.
    pub idle: Option<Duration>,
    /// The container of our pod that a session is for that names none; `None`: no container.
    pub container: Option<String>,
    /// That container is the one we run in ourselves: hub and wrapper are one process.
    pub own: bool,
    /// The socket where the wrappers of containers of our pod call ([`wrap`]); `None`: none is served.
    pub wrappers: Option<PathBuf>,
    /// Bytes of contents that are kept for each target in a container ([`store::Contents`]).
    pub contents_bytes: u64,
}

/// [`Settings::contents_bytes`] unless said otherwise.
pub const CONTENTS_BYTES: u64 = 512 << 20;

/// A site that is served, and to whom.
struct Serving {
    /// Names it as long as this hub lives.
    serial: u64,
    open: Request,
    site: Site,
    /// Of this serving; only `epoch` is ever handed to it by `peer`.
    leases: Leases,
    epoch: u64,
    peer: Option<PeerId>,
    /// Since when nobody is there.
    alone_since: Option<Instant>,
    /// Whether what lies there was looked at since its link was lost.
    looked: Looked,
    /// The session of this link hears of the container's command.
    runs: bool,
    /// Bytes of the command's output that it may be sent.
    credit: u64,
    /// Bytes that it was not sent.
    left_out: u64,
    /// Held, its container's end is watched for.
    _end: Option<oneshot::Sender<()>>,
}

/// The hub's loop and all it owns.
pub struct Hub {
    settings: Settings,
    incoming: mpsc::Receiver<Incoming>,
    links: Links,
    /// What the threads tell that make content ahead of its generation, and how they do.
    ahead: (ahead::Tell, mpsc::UnboundedReceiver<(u64, ahead::Done)>),
    sites: Vec<Serving>,
    /// Sessions that an earlier hub of the same workspace keeps out for a moment, or whose container
    /// is to come.
    waiting: Vec<Waiting>,
    /// The last [`Serving::serial`].
    serial: u64,
    /// Each ends with the process of a container, and says whose it was.
    ends: JoinSet<u64>,
    wrappers: Wrappers,
    /// A thread that keeps contents has kept one, or could not.
    kept: Arc<Notify>,
    /// Lets go of replaced files.
    letting_go: LettingGo,
    command: Command,
    charge: Option<Charge>,
    /// No new work is taken; when the command is gone, so is the hub.
    ending: bool,
    /// Since when only output of a command that is gone holds the end up.
    output_since: Option<Instant>,
    idle_since: Instant,
}

impl Hub {
    /// A hub that takes its links from `incoming`.
    #[must_use]
    pub fn new(settings: Settings, incoming: mpsc::Receiver<Incoming>) -> Self {
        Self {
            settings,
            incoming,
            links: Links::default(),
            ahead: mpsc::unbounded_channel(),
            sites: Vec::new(),
            waiting: Vec::new(),
            serial: 0,
            ends: JoinSet::new(),
            wrappers: Wrappers::default(),
            kept: Arc::default(),
            letting_go: LettingGo::default(),
            command: Command::default(),
            charge: None,
            ending: false,
            output_since: None,
            idle_since: Instant::now(),
        }
    }

    /// Serves until `stop` is ready, or by itself as the settings say. The command is stopped and
    /// everything closed when it returns.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut stopping = false;
        let kept = Arc::clone(&self.kept);
        for request in replay::standing(&self.settings.state) {
            self.stand_by(request);
        }
        while !self.is_over() {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                () = &mut stop, if !stopping => {
                    stopping = true;
                    self.end();
                }
                event = self.command.next() => self.command_event(&event),
                Some((id, done)) = self.ahead.1.recv() => self.ahead_done(id, done),
                Some(Ok(serial)) = self.ends.join_next() => self.container_ended(serial).await,
                incoming = self.incoming.recv() => match incoming {
                    Some(incoming) => self.take(incoming).await,
                    None => self.end(),
                },
                () = until(deadline) => self.expire().await,
                () = kept.notified() => self.take_kept(),
                () = tokio::task::yield_now(), if self.has_to_look() => self.look().await,
                // Only when nothing else is to be done, and the links' tasks have had their turn.
                () = tokio::task::yield_now(), if self.has_replaced() => self.let_go_of_replaced(),
                () = tokio::task::yield_now(), if self.has_more_to_keep() => self.keep_more(),
            }
            while let Some(id) = self.links.overrun() {
                warn!("a link's other end does not read");
                self.unlink(id);
            }
        }
        for serving in self.sites.drain(..) {
            serving.site.close();
        }
        self.links.send_to_all(&FromHub::Bye { reason: String::new() });
    }

    fn end(&mut self) {
        self.ending = true;
        self.command.stop();
    }

    /// Whether nothing is left to do: the command is gone, and its last words said as far as somebody
    /// listens.
    fn is_over(&mut self) -> bool {
        if !self.ending || !self.command.is_idle() {
            return false;
        }
        let heard = self.charge.as_ref().is_some_and(|charge| charge.peer.is_some());
        let since = *self.output_since.get_or_insert_with(Instant::now);
        !self.command.has_output() || !heard || since.elapsed() >= LAST_OUTPUT
    }

    async fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Linked(peer) => self.links.insert(peer),
            Incoming::Message(id, message, len) => {
                // A link that was let go may still have messages on the way: nothing comes of them.
                if self.links.contains(id)
                    && let Err(error) = self.message(id, message, len).await
                {
                    self.refuse(id, &error);
                }
            }
            Incoming::Wrapper(event) => self.wrapper_event(event),
            Incoming::Drained(id) => self.links.answer(id),
            Incoming::Ended(id, error) => {
                if let Some(error) = error {
                    info!(%error, "link ended");
                }
                self.unlink(id);
            }
        }
    }

    /// Ends a link whose other end broke the protocol.
    fn refuse(&mut self, id: PeerId, error: &WireError) {
        warn!(%error, "protocol broken");
        self.links.send(id, &FromHub::Bye { reason: error.to_string() });
        self.unlink(id);
    }

    fn unlink(&mut self, id: PeerId) {
        self.links.remove(id);
        self.waiting.retain(|waiting| waiting.id != Some(id));
        if let Some(charge) = self.charge.as_mut().filter(|charge| charge.peer == Some(id)) {
            charge.peer = None;
        }
        for serving in self.sites.iter_mut().filter(|serving| serving.peer == Some(id)) {
            serving.site.abandon();
            serving.peer = None;
            serving.alone_since = Some(Instant::now());
            serving.looked = Looked::due(serving);
        }
        // Nobody comes back to a mere look.
        self.sites.retain(|serving| serving.peer.is_some() || !serving.site.is_dry());
        self.idle_since = Instant::now();
        if self.settings.once && self.links.is_empty() {
            self.end();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let alone = self.sites.iter().filter_map(|serving| self.kept_until(serving)).min();
        let waiting = self.waiting.iter().map(|waiting| waiting.again).min();
        let output = self.output_since.map(|since| since + LAST_OUTPUT);
        [alone, waiting, output, self.idle_until()].into_iter().flatten().min()
    }

    /// How long a site is kept that nobody is there for: as long as the right to write is, or as its
    /// command.
    fn kept_until(&self, serving: &Serving) -> Option<Instant> {
        if serving.open.container.is_some() {
            return None;
        }
        let runs = !self.command.is_idle() && self.runs_for(&serving.open);
        Some(serving.alone_since? + if runs { KEEP_AFTER_LINK } else { LEASE })
    }

    fn idle_until(&self) -> Option<Instant> {
        let nobody = self.links.is_empty() && self.sites.is_empty();
        Some(self.idle_since + self.settings.idle.filter(|_| nobody && !self.ending)?)
    }

    async fn expire(&mut self) {
        let now = Instant::now();
        self.try_waiting(now).await;
        let over = |serving: &Serving| self.kept_until(serving).is_some_and(|until| until <= now);
        if let Some(at) = self.sites.iter().position(over) {
            self.let_go(at);
            self.idle_since = now;
            return;
        }
        if self.idle_until().is_some_and(|until| until <= now) {
            self.end();
        }
    }

    /// Closes a site, and stops its command.
    fn let_go(&mut self, at: usize) {
        let serving = self.sites.remove(at);
        if self.runs_for(&serving.open) {
            self.command.stop();
        }
        serving.site.fall();
        serving.site.close();
    }
}

/// Waits for a moment; for ever without one.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
