//! The hub: the other loop. One thread owns the sites, the links and the command; tasks only move
//! bytes.
//!
//! A link is a task that reads frames and one that writes them ([`listen`]). What comes in is handled
//! in order, one message at a time, so that a restart asked for after a generation finds its files in
//! place. Who may write where is decided on entry (`entry`); after that a site listens to one link
//! only, and only as long as its lease is the newest (I14).

mod ahead;
mod apply;
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
mod opening;
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

use self::apply::Brought;
use self::command::Command;
use self::entry::{Request, Waiting, same_site};
use self::leave::LettingGo;
use self::link::{Asked, Links};
use self::listen::{Incoming, PeerId};
use self::site::Site;
use self::still::Looked;
use self::wrap::Wrappers;
use crate::lease::{LEASE, Leases};
use crate::tree::TreeId;
use crate::wire::{self, ChildEvent, CommandSpec, Container, FromHub, Refusal, ToHub, WireError};

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

/// Whose command the command is: there is one at a time.
struct Charge {
    /// The session that asked for it.
    open: Request,
    /// Who is told.
    peer: Option<PeerId>,
    /// The session said good-bye: the link ends with the command.
    leaving: bool,
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

    async fn message(&mut self, id: PeerId, message: ToHub, len: usize) -> Result<(), WireError> {
        let message = match message {
            ToHub::Open(open) => {
                let name = self.settings.container.clone().filter(|_| open.process.is_none());
                let container = name.map(|name| Container { name, id: None });
                return self.open(id, Request { open, container }).await;
            }
            ToHub::OpenIn { open, container } => {
                return self.open(id, Request { open, container: Some(container) }).await;
            }
            message => message,
        };
        let Some(at) = self.sites.iter().position(|serving| serving.peer == Some(id)) else {
            return self.without_session(id, message);
        };
        let serving = &mut self.sites[at];
        if !serving.leases.touch(Instant::now(), serving.epoch) {
            self.links.send(id, &FromHub::Refused(Refusal::Superseded));
            self.unlink(id);
            return Ok(());
        }
        match message {
            ToHub::Ops { .. }
            | ToHub::PackedOps { .. }
            | ToHub::Data { .. }
            | ToHub::Withdraw { .. }
            | ToHub::Commit { .. }
            | ToHub::RemoveForeign { .. }
            | ToHub::Ahead { .. }
            | ToHub::Run(_)
                if serving.site.is_dry() =>
            {
                Err(WireError::Order("a change in a session that only looks"))
            }
            ToHub::Ops { .. }
            | ToHub::PackedOps { .. }
            | ToHub::Data { .. }
            | ToHub::Withdraw { .. } => {
                self.links.consume(id, len);
                self.content(id, at, message).await
            }
            ToHub::Ahead { .. } | ToHub::AheadData { .. } | ToHub::AheadEnd { .. } => {
                self.come_ahead(id, at, message, len)
            }
            ToHub::Commit { generation, target } => self.commit(id, at, generation, target).await,
            ToHub::Describe { paths } => self.describe(id, at, &paths),
            ToHub::ListForeign => {
                let answers = self.at_site(at, true, |site| site.foreign()).await;
                self.links.ask(id, answers.into_iter().map(Asked::Message))
            }
            ToHub::RemoveForeign { paths } => {
                let work = move |site: &mut Site| site.remove_foreign(&paths);
                for answer in self.at_site(at, true, work).await {
                    self.links.send(id, &answer);
                }
                Ok(())
            }
            ToHub::Run(spec) => {
                self.run_command(id, at, spec);
                Ok(())
            }
            ToHub::Bye => {
                self.bye(id, at);
                Ok(())
            }
            message => {
                self.for_command(at, message);
                Ok(())
            }
        }
    }

    /// A message on a link that has no session, or none any more.
    fn without_session(&mut self, id: PeerId, message: ToHub) -> Result<(), WireError> {
        match message {
            ToHub::Ping => Ok(()),
            // Refused, or never opened.
            ToHub::Bye if !self.is_leaving(id) => {
                self.links.send(id, &FromHub::Bye { reason: String::new() });
                self.unlink(id);
                Ok(())
            }
            ToHub::Bye => Ok(()),
            // The command of a session that said good-bye still has the last word.
            ToHub::Credit { bytes } if self.is_leaving(id) => {
                self.command.credit(bytes);
                Ok(())
            }
            ToHub::StopCommand if self.is_leaving(id) => {
                self.command.stop();
                Ok(())
            }
            ToHub::Stdin(_) | ToHub::StdinEnd | ToHub::Act { .. } if self.is_leaving(id) => Ok(()),
            _ => Err(WireError::Order("a message before the session is open")),
        }
    }

    /// What a generation is made of.
    async fn content(&mut self, id: PeerId, at: usize, message: ToHub) -> Result<(), WireError> {
        let site = &mut self.sites[at].site;
        match message {
            ToHub::Ops { generation, ops, last } => {
                let ops = Brought { generation, base: None, ops, last };
                self.ops(id, at, ops).await?;
            }
            ToHub::PackedOps { generation, base, encoding, body, digests, last } => {
                let ops = wire::unpack_ops(encoding, body.0, &digests.0)?;
                let ops = Brought { generation, base: Some(base), ops, last };
                self.ops(id, at, ops).await?;
            }
            ToHub::Data { encoding, body } => {
                let (body, pieces) = wire::unpack(encoding, body.0)?;
                site.take_data(body, pieces)?;
            }
            ToHub::Withdraw { index } => site.receiver.withdraw(index)?,
            _ => {}
        }
        Ok(())
    }

    /// Content ahead of its generation.
    fn come_ahead(
        &mut self,
        id: PeerId,
        at: usize,
        message: ToHub,
        len: usize,
    ) -> Result<(), WireError> {
        let site = &mut self.sites[at].site;
        let answer = match message {
            ToHub::Ahead { number, op } => site.begin_ahead(number, &op, &self.ahead.0)?,
            ToHub::AheadData { number, encoding, body } => {
                site.ahead.data(number, encoding, body, len)?
            }
            ToHub::AheadEnd { number } => site.ahead.end(number)?,
            _ => None,
        };
        answer.iter().for_each(|answer| self.links.send(id, answer));
        Ok(())
    }

    /// A thread that makes content ahead tells of it.
    fn ahead_done(&mut self, worker: u64, done: ahead::Done) {
        // Of one that was let go nothing is told any more.
        let Some(serving) = self.sites.iter_mut().find(|s| s.site.ahead.is(worker)) else { return };
        let Some(peer) = serving.peer else { return };
        match serving.site.ahead.done(done) {
            Ok(answer) => answer.iter().for_each(|answer| self.links.send(peer, answer)),
            Err(error) => self.refuse(peer, &error),
        }
    }

    async fn ops(&mut self, id: PeerId, at: usize, brought: Brought) -> Result<(), WireError> {
        let before = self.sites[at].site.receiver.ops();
        let is_long = length::is_long(before.iter().chain(&brought.ops));
        let is_long = brought.last && (is_long || self.sites[at].site.ahead.is_long());
        let work = move |site: &mut Site| site.take_ops(brought);
        for answer in self.at_site(at, is_long, work).await? {
            self.links.send(id, &answer);
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        id: PeerId,
        at: usize,
        generation: u64,
        target: TreeId,
    ) -> Result<(), WireError> {
        let is_long = length::is_long(self.sites[at].site.receiver.ops().iter());
        let work = move |site: &mut Site| site.commit(generation, target);
        let applied = self.at_site(at, is_long, work).await?;
        if self.sites[at].site.is_visible() {
            applied.iter().for_each(|answer| self.links.send(id, answer));
            let told = self.sites[at].site.not_replayable();
            told.iter().for_each(|told| self.links.send(id, told));
            return Ok(());
        }
        // Written into a directory or process that is gone: nobody can see it (I2). Nor can the
        // command that runs there go on.
        if self.sites[at].open.container.is_some() {
            self.container_ended(self.sites[at].serial).await;
            return Ok(());
        }
        let serving = self.sites.remove(at);
        if self.runs_for(&serving.open) {
            self.command.stop();
        }
        let reason = "the target was removed or replaced".to_owned();
        self.links.send(id, &FromHub::Bye { reason });
        self.unlink(id);
        Ok(())
    }

    fn describe(
        &mut self,
        id: PeerId,
        at: usize,
        paths: &[crate::path::SyncPath],
    ) -> Result<(), WireError> {
        let held = self.sites[at].site.receiver.held();
        let root = [crate::path::SyncPath::root()];
        let wanted = if paths.is_empty() { &root[..] } else { paths };
        let asked = wanted.iter().map(|path| Asked::Listing {
            path: (!path.is_root()).then(|| path.clone()),
            dir: held.dir(path).cloned(),
            next: 0,
        });
        self.links.ask(id, asked)
    }

    fn run_command(&mut self, id: PeerId, at: usize, spec: CommandSpec) {
        if self.sites[at].open.container.is_some() {
            return self.run_wrapped(id, at, &spec);
        }
        let serving = &self.sites[at];
        if !self.command.is_idle() && !self.runs_for(&serving.open) {
            let error = "this hub runs the command of another session".to_owned();
            self.links.send(id, &FromHub::Child(ChildEvent::Failed { error }));
            return;
        }
        self.charge = Some(Charge { open: serving.open.clone(), peer: Some(id), leaving: false });
        if let Some(event) = self.command.run(spec, &serving.site) {
            self.links.send(id, &event);
        }
    }

    /// Passes on what concerns the command, if it is this session's.
    fn for_command(&mut self, at: usize, message: ToHub) {
        if self.sites[at].open.container.is_some() {
            match message {
                ToHub::Act { generation, actions } => self.act_wrapped(at, generation, &actions),
                ToHub::Credit { bytes } => {
                    let credit = &mut self.sites[at].credit;
                    *credit = credit.saturating_add(bytes);
                }
                _ => {}
            }
            return;
        }
        if !self.runs_for(&self.sites[at].open) {
            return;
        }
        match message {
            ToHub::Act { generation, actions } => {
                let held = self.sites[at].site.receiver.held().id();
                self.command.act(generation, actions, held);
            }
            ToHub::Stdin(bytes) => self.command.stdin(bytes.0),
            ToHub::StdinEnd => self.command.stdin_end(),
            ToHub::StopCommand => self.command.stop(),
            ToHub::Credit { bytes } => self.command.credit(bytes),
            _ => {}
        }
    }

    /// Whether the command is, or was, this session's.
    fn runs_for(&self, open: &Request) -> bool {
        self.charge.as_ref().is_some_and(|charge| same_site(&charge.open, open))
    }

    fn is_leaving(&self, id: PeerId) -> bool {
        self.charge.as_ref().is_some_and(|charge| charge.leaving && charge.peer == Some(id))
    }

    /// The clean end of a session. The link stays until its command is gone, so that the last words
    /// arrive.
    fn bye(&mut self, id: PeerId, at: usize) {
        if self.sites[at].open.container.is_some() {
            // What was written is kept for the container's next start.
            self.sites[at].site.tidy();
            self.links.send(id, &FromHub::Bye { reason: String::new() });
            return self.unlink(id);
        }
        let serving = self.sites.remove(at);
        self.idle_since = Instant::now();
        let ours = self.charge.as_mut().filter(|charge| same_site(&charge.open, &serving.open));
        let ours = ours.filter(|_| !self.command.is_idle());
        serving.site.close();
        if let Some(charge) = ours {
            charge.leaving = true;
            self.command.stop();
        } else if !self.settings.once {
            self.links.send(id, &FromHub::Bye { reason: String::new() });
            self.unlink(id);
        }
        if self.settings.once {
            self.ending = true;
        }
    }

    fn command_event(&mut self, event: &FromHub) {
        let Some(charge) = &self.charge else { return };
        let (peer, leaving) = (charge.peer, charge.leaving);
        if let Some(peer) = peer {
            self.links.send(peer, event);
        }
        if leaving && self.command.is_idle() && !self.command.has_output() && !self.ending {
            self.charge = None;
            if let Some(peer) = peer {
                self.links.send(peer, &FromHub::Bye { reason: String::new() });
                self.unlink(peer);
            }
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
