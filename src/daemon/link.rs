//! The tasks behind one target: connect, say Hello, read messages, send what is queued.
//!
//! What is queued for a target goes out in its order, content included, so that a message asked for
//! after a generation arrives after it. Content is read only when the hub has room for it.

mod lane;
mod parcel;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::server::listen::{DEAD_AFTER, HEARTBEAT, HELLO_WITHIN, hello};
use e2ek_sidecar::tree::{Snapshot, TreeId};
use e2ek_sidecar::wire::{
    self, Decoder, FromHub, Hello, Op, PIECE_BYTES, Packer, ToHub, WINDOW_BYTES, WireError,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, Semaphore, mpsc};

use self::lane::Lane;
pub(super) use self::lane::Taken;
pub(super) use self::parcel::Parcels;
use self::parcel::{Content, Done, Frames, Maker, Making, Ops, Parcel};
use crate::engine::session::TargetId;
use crate::transfer::{Distance, Likened, Origin, Pace, Window};
use crate::transport::{Ended, Link, NotStarted, Transport};

/// Read at once.
const READ_BYTES: usize = 64 << 10;
/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// How soon something must be heard after the network changed, of a hub that may be busy with what was
/// sent to it, or is too old to answer: it says something every five seconds.
const PROBED_WITHIN: Duration = HEARTBEAT.saturating_add(Duration::from_secs(2));
/// The same, of a hub that answers a Ping at once when nothing else is on its way to it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);
/// A try to connect that has come so far without an end is begun anew when the network changed.
const TRIED_FOR: Duration = Duration::from_secs(1);
/// How long a carrier may take to end by itself after its streams were closed.
const CARRIER_ENDS_WITHIN: Duration = Duration::from_secs(2);

/// What a link's tasks tell the daemon.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// Hellos were exchanged.
    Up,
    /// A message came.
    Message(FromHub),
    /// How far the content of a generation has come; only said of what takes long.
    Progress(Progress),
    /// A file changed while it was to be sent.
    Changed(SyncPath),
    /// It is over.
    Down(LinkError),
}

/// Files and bytes of a generation's content that were handed to the link, or of what goes ahead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) generation: Option<u64>,
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Of these, those of the file that is just going ahead: the others are counted with the generations
    /// that put them in place.
    pub(super) ahead: u64,
    pub(super) total_files: u64,
    pub(super) total_bytes: u64,
}

/// Why a link is over.
#[derive(Debug)]
pub(super) enum LinkError {
    /// There is no carrier.
    NotStarted(NotStarted),
    /// The other end broke the protocol, or is not ours.
    Wire(WireError),
    /// Nothing came for fifteen seconds.
    Silent,
    /// Nothing came since the network changed, although something should have.
    SilentSince,
    /// It was closed; how its carrier ended.
    Closed(Ended),
}

/// Something to send.
pub(super) enum Outgoing {
    Message(ToHub),
    Ops {
        generation: u64,
        base: Snapshot,
        ops: Arc<[Op]>,
        parcel: Option<Arc<Parcel>>,
    },
    Data {
        generation: u64,
        ops: Arc<[Op]>,
        indices: Vec<u32>,
        commit: TreeId,
        parcel: Option<Arc<Parcel>>,
    },
    /// Content that goes ahead, bit by bit between what comes after this; as a patch of what is in
    /// `base`, where that is told.
    Ahead {
        number: u64,
        op: Op,
        base: Option<Snapshot>,
    },
    EndAhead(u64),
}

/// Bytes that may still be sent before the hub has to give credit.
pub(super) type Credit = Arc<Semaphore>;

/// A target's connection as the daemon holds it. Dropped, it ends.
pub(super) struct Connection {
    /// Which try it is, so that the last words of an older one are not taken for its own.
    pub(super) serial: u64,
    /// Unbounded, because the session bounds it: generations in flight, and small messages.
    pub(super) outgoing: mpsc::UnboundedSender<Outgoing>,
    pub(super) shared: Shared,
}

/// What the daemon shares with a link's tasks.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) credit: Credit,
    /// What the hub took of contents sent ahead.
    pub(super) taken: Arc<Taken>,
    /// Says that the network changed.
    pub(super) probe: Arc<Probe>,
    /// Saves come at any time, and wait for nothing.
    pub(super) saves: bool,
}

/// Says that the network changed: the other end must prove that it can be reached.
#[derive(Default)]
pub(super) struct Probe {
    notify: Notify,
    /// Nothing is on its way there but the Ping.
    alone: AtomicBool,
}

impl Probe {
    /// Says so. A Ping is sent beside it; `alone`: it waits behind nothing.
    pub(super) fn ask(&self, alone: bool) {
        self.alone.store(alone, Ordering::Relaxed);
        self.notify.notify_one();
    }

    /// Waits until it is said. Cancel safe.
    async fn asked(&self) {
        self.notify.notified().await;
    }

    /// How long the answer may take of a hub that answers, or does not.
    fn patience(&self, answers: bool) -> Duration {
        match answers && self.alone.load(Ordering::Relaxed) {
            true => ANSWERED_WITHIN,
            false => PROBED_WITHIN,
        }
    }
}

impl Shared {
    pub(super) fn new(saves: bool) -> Self {
        Self { credit: new_credit(), taken: Arc::default(), probe: Arc::default(), saves }
    }
}

/// Events carry the target and the serial of the connection.
pub(super) type Events = mpsc::Sender<(TargetId, u64, LinkEvent)>;

/// Connects and serves one link until it ends; always ends with [`LinkEvent::Down`].
pub(super) async fn serve(
    target: TargetId,
    serial: u64,
    transport: Transport,
    origin: Arc<Origin>,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
    Shared { credit, taken, probe, saves }: Shared,
    events: Events,
) {
    let distance = if transport.is_far() { Distance::Far } else { Distance::Here };
    let down = match connect(&transport, &probe).await {
        Err(error) => LinkError::NotStarted(error),
        Ok(Link { reader, writer, carrier }) => {
            let shrunk = || origin.shrunk().clone();
            let window = if saves { Window::default() } else { Window::whole() };
            let packer = Packer::sharing(0, shrunk());
            let lane = Lane::new(taken, window, shrunk());
            let mut sender = Sender {
                maker: Maker { origin, distance, likened: Likened::default(), packer },
                lane,
                writer,
                credit,
                events: events.clone(),
                at: (target, serial),
                buffer: Vec::new(),
                unflushed: false,
                ops: None,
                told: Instant::now(),
                pace: Pace::new(distance),
            };
            let result = tokio::select! {
                result = read((target, serial), reader, &events, &probe) => result,
                result = sender.run(&mut outgoing) => {
                    result.map_err(|_| LinkError::Closed(Ended::default()))
                }
            };
            let _ = sender.writer.shutdown().await;
            drop(sender);
            let ended = carrier.end(CARRIER_ENDS_WITHIN).await;
            match result {
                Err(LinkError::Closed(_)) | Ok(()) => LinkError::Closed(ended),
                Err(error) => error,
            }
        }
    };
    let _ = events.send((target, serial, LinkEvent::Down(down))).await;
}

/// Makes the carrier; begins anew when the network changed while it was long about it.
async fn connect(transport: &Transport, probe: &Probe) -> Result<Link, NotStarted> {
    loop {
        let began = Instant::now();
        let connecting = transport.connect();
        tokio::pin!(connecting);
        loop {
            tokio::select! {
                link = &mut connecting => return link,
                () = probe.asked() => {}
            }
            if began.elapsed() >= TRIED_FOR {
                break;
            }
        }
    }
}

async fn read(
    (target, serial): (TargetId, u64),
    mut reader: Box<dyn tokio::io::AsyncRead + Send + Unpin>,
    events: &Events,
    probe: &Probe,
) -> Result<(), LinkError> {
    let mut buffer = vec![0; READ_BYTES];
    let greeting = tokio::time::timeout(HELLO_WITHIN, hello(&mut reader, &mut buffer)).await;
    let (theirs, rest) = match greeting {
        Ok(Some(greeting)) => greeting.map_err(LinkError::Wire)?,
        Ok(None) => return Err(LinkError::Closed(Ended::default())),
        Err(_) => return Err(LinkError::Silent),
    };
    wire::negotiate(&Hello::ours(), &theirs).map_err(LinkError::Wire)?;
    let tell = async |event| {
        let sent = events.send((target, serial, event)).await;
        sent.map_err(|_| LinkError::Closed(Ended::default()))
    };
    tell(LinkEvent::Up).await?;
    let mut decoder = Decoder::default();
    decoder.feed(&rest);
    loop {
        while let Some((message, _)) = decoder.message::<FromHub>().map_err(LinkError::Wire)? {
            tell(LinkEvent::Message(message)).await?;
        }
        let len = heard(&mut reader, &mut buffer, probe, theirs.answers_pings()).await?;
        decoder.feed(&buffer[..len]);
    }
}

/// What comes next, in time. `answers`: the other end answers a Ping at once.
async fn heard(
    reader: &mut (dyn tokio::io::AsyncRead + Send + Unpin),
    buffer: &mut [u8],
    probe: &Probe,
    answers: bool,
) -> Result<usize, LinkError> {
    let mut patience = tokio::time::Instant::now() + DEAD_AFTER;
    let mut silent = LinkError::Silent;
    loop {
        tokio::select! {
            biased;
            read = tokio::time::timeout_at(patience, reader.read(buffer)) => return match read {
                Ok(Ok(0) | Err(_)) => Err(LinkError::Closed(Ended::default())),
                Err(_) => Err(silent),
                Ok(Ok(len)) => Ok(len),
            },
            () = probe.asked() => {
                let sooner = tokio::time::Instant::now() + probe.patience(answers);
                if sooner < patience {
                    (patience, silent) = (sooner, LinkError::SilentSince);
                }
            }
        }
    }
}

struct Sender {
    writer: Box<dyn tokio::io::AsyncWrite + Send + Unpin>,
    maker: Maker,
    credit: Credit,
    events: Events,
    at: (TargetId, u64),
    buffer: Vec<u8>,
    /// Something was written since the last flush.
    unflushed: bool,
    /// Those that were sent last, as long as their content was not.
    ops: Option<Arc<Ops>>,
    /// When progress was told.
    told: Instant,
    pace: Pace,
    lane: Lane,
}

impl Sender {
    async fn run(&mut self, outgoing: &mut mpsc::UnboundedReceiver<Outgoing>) -> io::Result<()> {
        Hello::ours().encode(&mut self.buffer);
        loop {
            match outgoing.try_recv() {
                Ok(next) => self.perform(next).await?,
                Err(mpsc::error::TryRecvError::Disconnected) => return self.flush().await,
                Err(mpsc::error::TryRecvError::Empty) if self.lane.may_send() => {}
                Err(mpsc::error::TryRecvError::Empty) => {
                    self.flush().await?;
                    let waiting = self.lane.is_busy();
                    let next = tokio::select! {
                        next = outgoing.recv() => next.map(Some),
                        () = self.lane.taken.changed(), if waiting => continue,
                        () = tokio::time::sleep(HEARTBEAT) => Some(None),
                    };
                    match next {
                        None => return Ok(()),
                        Some(Some(next)) => self.perform(next).await?,
                        Some(None) => drop(self.message(&ToHub::Ping).await?),
                    }
                }
            }
            if self.lane.may_send() {
                self.send_ahead().await?;
            }
        }
    }

    async fn perform(&mut self, next: Outgoing) -> io::Result<()> {
        match next {
            Outgoing::Message(message) => {
                if message == ToHub::Bye {
                    self.lane.clear();
                }
                self.message(&message).await?;
            }
            Outgoing::Ops { generation, base, ops, parcel } => {
                let made = self.maker.ops(generation, &base, &ops, parcel.as_deref());
                self.frames(&made.frames, None).await?;
                self.ops = Some(made);
            }
            Outgoing::Data { generation, ops, indices, commit, parcel } => {
                let made = self.ops.take().unwrap_or_default();
                let (ops, indices, patches) = (&ops[..], &indices[..], &made.patches);
                let content = Content { generation, ops, indices, patches, commit };
                self.data(&content, parcel.as_deref()).await?;
            }
            Outgoing::Ahead { number, op, base } => {
                self.begin_ahead(number, &op, base.as_ref()).await?;
            }
            Outgoing::EndAhead(number) => {
                self.lane.end(number);
                self.message(&ToHub::AheadEnd { number }).await?;
            }
        }
        Ok(())
    }

    /// Encodes a message; sent with the next flush, or most of it at once when much has gathered.
    async fn message(&mut self, message: &ToHub) -> io::Result<usize> {
        let len = wire::encode(message, &mut self.buffer);
        if self.buffer.len() >= READ_BYTES {
            self.write().await?;
        }
        Ok(len)
    }

    /// Sends all that was made, down to its last byte: to be done before anything is waited for.
    async fn flush(&mut self) -> io::Result<()> {
        self.write().await?;
        if std::mem::take(&mut self.unflushed) {
            let began = Instant::now();
            self.writer.flush().await?;
            self.pace.observe(0, began.elapsed());
        }
        Ok(())
    }

    /// Sends what was made; the end of it may wait for more.
    async fn write(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        self.unflushed = true;
        self.writer.write_all(&self.buffer).await?;
        self.pace.observe(self.buffer.len() as u64, began.elapsed());
        self.buffer.clear();
        Ok(())
    }

    /// Sends frames, as the hub has room for them; of `content`, tells how far it is.
    async fn frames(&mut self, frames: &Frames, content: Option<&Content<'_>>) -> io::Result<()> {
        for (bytes, part) in frames.iter() {
            self.buffer.extend_from_slice(bytes);
            if self.buffer.len() >= READ_BYTES {
                self.write().await?;
            }
            if part.cost > 0 {
                self.pay(part.cost).await?;
            }
            if let Some(content) = content {
                self.tell_progress(content, part.done).await;
            }
        }
        for path in &frames.changed {
            self.tell(LinkEvent::Changed(path.clone())).await;
        }
        Ok(())
    }

    /// Takes from the credit what a message costs that is sent.
    async fn pay(&mut self, cost: usize) -> io::Result<()> {
        let permits = u32::try_from(cost).unwrap_or(u32::MAX);
        let permit = match self.credit.clone().try_acquire_many_owned(permits) {
            Ok(permit) => permit,
            Err(_) => {
                self.flush().await?;
                // What the hub takes its time for, its disk say, tells nothing of the link.
                let waited = self.credit.clone().acquire_many_owned(permits).await;
                waited.map_err(io::Error::other)?
            }
        };
        permit.forget();
        Ok(())
    }

    async fn data(&mut self, content: &Content<'_>, parcel: Option<&Parcel>) -> io::Result<()> {
        self.told = Instant::now();
        if let Some(all) = self.maker.data(content, self.pace.level(), parcel) {
            return self.frames(&all, Some(content)).await;
        }
        let (mut frames, mut making, mut yielded) = (Frames::default(), Making::default(), 0);
        loop {
            let more = self.maker.step(content, &mut making, &mut frames);
            self.frames(&frames, None).await?;
            frames.clear();
            if !more {
                return Ok(());
            }
            self.tell_progress(content, making.done).await;
            self.maker.packer.set_level(self.pace.level());
            // A patch of much may be so little that nothing else makes this task wait.
            if making.done.bytes >= yielded + PIECE_BYTES as u64 {
                yielded = making.done.bytes;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Says how far a generation's content is, if that takes long.
    async fn tell_progress(&mut self, content: &Content<'_>, done: Done) {
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            self.tell(LinkEvent::Progress(Progress::of(content, done))).await;
        }
    }

    async fn tell(&mut self, event: LinkEvent) {
        let _ = self.events.send((self.at.0, self.at.1, event)).await;
    }
}

impl Progress {
    fn of(content: &Content<'_>, Done { files, bytes }: Done) -> Self {
        let (generation, total) = (Some(content.generation), content.total());
        let (total_files, total_bytes) = (total.files, total.bytes);
        Self { generation, files, bytes, ahead: 0, total_files, total_bytes }
    }
}

/// The credit of a new link.
pub(super) fn new_credit() -> Credit {
    Arc::new(Semaphore::new(usize::try_from(WINDOW_BYTES).unwrap_or(usize::MAX)))
}
