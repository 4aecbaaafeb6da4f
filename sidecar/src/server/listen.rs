//! Links into a hub: the standard streams of one process, or whoever calls at a unix socket, over that
//! or over streams of its own ([`bridge`]).
//!
//! Each link has a task that reads and one that writes. Both ends say Hello at once; a Ping follows
//! five seconds of silence, and fifteen without a byte end the link. A daemon's Ping is answered at
//! once, by the link's own task: whatever keeps the hub, the daemon knows that the way there is good. As
//! long as it asks, nothing need be said unasked, and the hub wakes up once a heartbeat.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::bridge::{self, Ends, Metered};
use super::wrap::{self, FromWrappers};
use crate::wire::{self, Decoder, FromHub, Hello, HelloReader, ToHub, WireError};

/// Silence after which a Ping is sent.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Silence after which a link is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(15);
/// Silence after which a Ping is sent where the last word was the answer to one: the other end was
/// silent itself, and asks again before that.
const ANSWERED: Duration = HEARTBEAT.saturating_mul(2);
/// How long the other end may take to say Hello.
pub const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Read at once.
const READ_BYTES: usize = 256 << 10;
/// Messages between a link's reader and the hub; the credit window bounds their bytes.
const QUEUE: usize = 64;

/// What may wait for a link whose other end does not read, in bytes; above, the link is ended.
pub const OUTGOING_BYTES: usize = 64 << 20;
/// Answers that were asked for are made only as long as less than this waits, in bytes.
pub(super) const ANSWERS_AHEAD_BYTES: usize = 4 << 20;
/// Links at a time.
const MAX_LINKS: usize = 64;
/// How long to wait before the next accept after one that failed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Names a link.
pub type PeerId = u64;

/// The hub's end of a link. Dropped, the link ends as soon as what is queued went out, at most
/// [`HEARTBEAT`] later.
#[derive(Debug)]
pub struct Peer {
    id: PeerId,
    /// Unbounded, because the hub looks at `queued` after each message.
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes in `outgoing`.
    queued: Arc<AtomicUsize>,
    /// Told apart from `outgoing`, which ends only after its last message.
    _held: oneshot::Sender<()>,
}

/// The link's end of a [`Peer`].
struct Outgoing {
    messages: mpsc::UnboundedReceiver<Vec<u8>>,
    queued: Arc<AtomicUsize>,
}

impl Peer {
    fn new(id: PeerId) -> (Self, Outgoing, oneshot::Receiver<()>) {
        let (outgoing, messages) = mpsc::unbounded_channel();
        let (held, dropped) = oneshot::channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let peer = Self { id, outgoing, queued: Arc::clone(&queued), _held: held };
        (peer, Outgoing { messages, queued }, dropped)
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Queues a message. A link that ended swallows it; its end is told apart.
    pub fn send(&self, message: &FromHub) {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        self.push(bytes);
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    fn push(&self, bytes: Vec<u8>) {
        self.queued.fetch_add(bytes.len(), Ordering::Relaxed);
        let _ = self.outgoing.send(bytes);
    }

    fn answers(&self) -> Answers {
        Answers { outgoing: self.outgoing.downgrade(), queued: Arc::clone(&self.queued) }
    }
}

/// Answers the other end's Pings. Does not keep the link.
struct Answers {
    outgoing: mpsc::WeakUnboundedSender<Vec<u8>>,
    queued: Arc<AtomicUsize>,
}

impl Answers {
    fn answer(&self) {
        // What waits to be written says as much, and many Pings gather nothing.
        if self.queued.load(Ordering::Relaxed) > 0 {
            return;
        }
        let Some(outgoing) = self.outgoing.upgrade() else { return };
        let bytes = ping();
        self.queued.fetch_add(bytes.len(), Ordering::Relaxed);
        let _ = outgoing.send(bytes);
    }
}

fn ping() -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode(&FromHub::Ping, &mut bytes);
    bytes
}

/// What the links bring.
#[derive(Debug)]
#[allow(private_interfaces)]
pub enum Incoming {
    /// A link whose other end speaks our protocol.
    Linked(Peer),
    /// A message and its length in bytes.
    Message(PeerId, ToHub, usize),
    /// All that waited for the link was written.
    Drained(PeerId),
    /// The link is over.
    Ended(PeerId, Option<WireError>),
    /// Of the wrappers in containers of our pod.
    Wrapper(FromWrappers),
}

/// A queue for [`Incoming`].
#[must_use]
pub fn queue() -> (mpsc::Sender<Incoming>, mpsc::Receiver<Incoming>) {
    mpsc::channel(QUEUE)
}

/// Serves one link until it ends, at the latest when whoever carries it has `left`; nothing of it is left
/// then. Returns what was wrong with it.
pub async fn link<R, W>(
    id: PeerId,
    reader: R,
    writer: W,
    left: impl Future<Output = ()>,
    hub: mpsc::Sender<Incoming>,
) -> Option<WireError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (peer, outgoing, mut dropped) = Peer::new(id);
    let mut hello = Vec::new();
    Hello::of_hub().encode(&mut hello);
    peer.push(hello);
    let mut reading = std::pin::pin!(read(peer, reader, &hub));
    let mut writing = std::pin::pin!(write(id, writer, outgoing, &hub));
    let (error, written) = tokio::select! {
        biased;
        _ = &mut dropped => (None, false),
        result = &mut reading => (result.err(), false),
        () = &mut writing => {
            // What was cut off takes no answer any more; what came before that counts.
            let came = tokio::select! {
                _ = &mut dropped => Ok(()),
                came = tokio::time::timeout(HEARTBEAT, reading) => came.unwrap_or(Ok(())),
            };
            (came.err(), true)
        }
        () = left => (None, true),
    };
    let _ = hub.send(Incoming::Ended(id, error.clone())).await;
    if !written {
        // The hub drops its end now: what is queued still goes out, within reason.
        let _ = tokio::time::timeout(HEARTBEAT, writing).await;
    }
    error
}

async fn read<R: AsyncRead + Unpin>(
    peer: Peer,
    mut reader: R,
    hub: &mpsc::Sender<Incoming>,
) -> Result<(), WireError> {
    let id = peer.id;
    let mut buffer = vec![0; READ_BYTES];
    let rest = match tokio::time::timeout(HELLO_WITHIN, hello(&mut reader, &mut buffer)).await {
        Ok(Some(greeting)) => {
            let (theirs, rest) = greeting?;
            wire::negotiate(&Hello::ours(), &theirs)?;
            rest
        }
        Ok(None) => return Ok(()),
        Err(_) => return Err(WireError::NotOurs(String::new())),
    };
    let answers = peer.answers();
    if hub.send(Incoming::Linked(peer)).await.is_err() {
        return Ok(());
    }
    let mut decoder = Decoder::default();
    decoder.feed(&rest);
    loop {
        while let Some((message, len)) = decoder.message::<ToHub>()? {
            if message == ToHub::Ping {
                answers.answer();
            }
            // The hub hears of it, too: it is a sign of life.
            if hub.send(Incoming::Message(id, message, len)).await.is_err() {
                return Ok(());
            }
        }
        match tokio::time::timeout(DEAD_AFTER, reader.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) | Err(_) => return Ok(()),
            Ok(Ok(len)) => decoder.feed(&buffer[..len]),
        }
    }
}

/// Reads the other end's Hello; `None` when it closed before that was whole.
pub async fn hello<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut [u8],
) -> Option<Result<(Hello, Vec<u8>), WireError>> {
    let mut greeting = HelloReader::default();
    loop {
        match reader.read(buffer).await {
            // What is no Hello was refused at its first wrong byte.
            Ok(0) | Err(_) => return None,
            Ok(len) => match greeting.feed(&buffer[..len]) {
                Ok(None) => {}
                Ok(Some(found)) => return Some(Ok(found)),
                Err(error) => return Some(Err(error)),
            },
        }
    }
}

/// Writes what is queued; sends a Ping after five seconds of silence, after an answer to one later. Ends
/// with the queue or with the other end.
async fn write<W: AsyncWrite + Unpin>(
    id: PeerId,
    mut writer: W,
    mut outgoing: Outgoing,
    hub: &mpsc::Sender<Incoming>,
) {
    let ping = ping();
    let mut patience = HEARTBEAT;
    loop {
        let mut bytes = match tokio::time::timeout(patience, outgoing.messages.recv()).await {
            Ok(Some(bytes)) => {
                patience = silence_after(&bytes, &ping);
                bytes
            }
            Ok(None) => break,
            Err(_) => {
                patience = HEARTBEAT;
                outgoing.queued.fetch_add(ping.len(), Ordering::Relaxed);
                ping.clone()
            }
        };
        // What is queued already goes out in one write.
        while bytes.len() < READ_BYTES
            && let Ok(more) = outgoing.messages.try_recv()
        {
            bytes.extend_from_slice(&more);
        }
        if writer.write_all(&bytes).await.is_err() {
            break;
        }
        let before = outgoing.queued.fetch_sub(bytes.len(), Ordering::Relaxed);
        // Only who has much to say waits for room.
        if before >= ANSWERS_AHEAD_BYTES
            && before - bytes.len() < ANSWERS_AHEAD_BYTES
            && hub.send(Incoming::Drained(id)).await.is_err()
        {
            // The hub is gone, what it said last is not.
        }
    }
    let _ = writer.shutdown().await;
}

/// How long to say nothing after these words.
fn silence_after(words: &[u8], ping: &[u8]) -> Duration {
    if words == ping { ANSWERED } else { HEARTBEAT }
}

/// A pipe or socket that this process was given, made ready for reading without blocking.
///
/// # Errors
/// When it is neither.
pub fn reader_of(fd: OwnedFd) -> std::io::Result<Box<dyn AsyncRead + Send + Unpin>> {
    if rustix::net::sockopt::socket_type(&fd).is_ok() {
        let stream = std::os::unix::net::UnixStream::from(fd);
        stream.set_nonblocking(true)?;
        return Ok(Box::new(UnixStream::from_std(stream)?));
    }
    Ok(Box::new(tokio::net::unix::pipe::Receiver::from_owned_fd(fd)?))
}

/// A pipe or socket that this process was given, made ready for writing without blocking.
///
/// # Errors
/// When it is neither.
pub fn writer_of(fd: OwnedFd) -> std::io::Result<Box<dyn AsyncWrite + Send + Unpin>> {
    if rustix::net::sockopt::socket_type(&fd).is_ok() {
        let stream = std::os::unix::net::UnixStream::from(fd);
        stream.set_nonblocking(true)?;
        return Ok(Box::new(UnixStream::from_std(stream)?));
    }
    Ok(Box::new(tokio::net::unix::pipe::Sender::from_owned_fd(fd)?))
}

/// Serves one link over two descriptors, and ends with it.
///
/// # Errors
/// When they are neither pipes nor sockets.
pub async fn serve_link(
    settings: super::Settings,
    input: OwnedFd,
    output: OwnedFd,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let (reader, writer) = (reader_of(input)?, writer_of(output)?);
    let (sender, receiver) = queue();
    let hub = super::Hub::new(super::Settings { once: true, ..settings }, receiver);
    let mut links = JoinSet::new();
    links.spawn(link(0, reader, writer, std::future::pending(), sender));
    hub.run(stop).await;
    // The last words go out.
    match tokio::time::timeout(HEARTBEAT, links.join_next()).await {
        Ok(Some(Ok(Some(error @ (WireError::NotOurs(_) | WireError::Skew { .. }))))) => {
            Err(std::io::Error::other(error))
        }
        _ => Ok(()),
    }
}

/// Serves every link that comes to a unix socket, 64 at a time; the others wait. The
/// socket is made with mode 0600 and removed at the end; one left by a killed hub is replaced.
///
/// # Errors
/// When the socket cannot be made, or another hub listens there.
pub async fn serve_socket(
    settings: super::Settings,
    socket: &Path,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let bound = Bound::new(socket)?;
    let (sender, receiver) = queue();
    let mut links = JoinSet::new();
    let mut wrappers = JoinSet::new();
    if let Some(socket) = &settings.wrappers {
        match open_to_all(socket) {
            Ok(listener) => drop(wrappers.spawn(wrap::serve(listener, sender.clone()))),
            // Whoever shares the directory can only keep its own wrapper out.
            Err(error) => {
                tracing::warn!(socket = %socket.display(), %error, "no wrapper is served")
            }
        }
    }
    {
        let mut hub = std::pin::pin!(super::Hub::new(settings, receiver).run(stop));
        let mut next = 0;
        loop {
            tokio::select! {
                () = &mut hub => break,
                Some(_) = links.join_next() => {}
                stream = accept(&bound.listener), if links.len() < MAX_LINKS => {
                    links.spawn(called(next, stream, sender.clone()));
                    next += 1;
                }
            }
        }
    }
    drop(bound);
    // The last words go out.
    let ended = async { while links.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(HEARTBEAT, ended).await;
    Ok(())
}

/// Serves whoever has called.
async fn called(id: PeerId, stream: UnixStream, hub: mpsc::Sender<Incoming>) -> Option<WireError> {
    let ends = tokio::time::timeout(HELLO_WITHIN, bridge::take_in(stream)).await;
    let Ends { reader, writer, lender } = match ends {
        Ok(Ok(ends)) => ends,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a caller without a link");
            return None;
        }
        Err(_) => return Some(WireError::NotOurs(String::new())),
    };
    let ((reader, taken), (writer, given)) = (Metered::new(reader), Metered::new(writer));
    let error = link(id, reader, writer, bridge::left(lender.as_ref()), hub).await;
    let [taken, given] = [taken, given].map(|bytes| bytes.load(Ordering::Relaxed));
    tracing::info!(taken, given, "a link has ended, bytes from and to the daemon");
    error
}

/// The next link of our own user, or of root. Cancel safe.
async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let ours = rustix::process::geteuid().as_raw();
                if stream.peer_cred().is_ok_and(|peer| peer.uid() == ours || peer.uid() == 0) {
                    return stream;
                }
            }
            // Out of descriptors, for one: without a wait this would spin.
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// A path as the kernel takes it for a socket, however long its directory's is (sun_path holds 108
/// bytes).
struct Short {
    directory: OwnedFd,
    name: OsString,
}

impl Short {
    fn of(socket: &Path) -> std::io::Result<Self> {
        let name = socket.file_name().ok_or(std::io::ErrorKind::InvalidInput)?.to_owned();
        let above = socket.parent().filter(|above| !above.as_os_str().is_empty());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = above.unwrap_or(Path::new("."));
        Ok(Self { directory: rustix::fs::open(above, flags, Mode::empty())?, name })
    }

    fn path(&self) -> PathBuf {
        self.beside(&self.name)
    }

    fn beside(&self, name: impl AsRef<Path>) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd())).join(name)
    }

    fn identity(&self) -> Option<(u64, u64)> {
        let stat = rustix::fs::statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        stat.ok().map(|stat| (stat.st_dev, stat.st_ino))
    }
}

/// A socket that is listened to; dropped, it is removed if it still is ours.
struct Bound {
    listener: UnixListener,
    place: Short,
    identity: Option<(u64, u64)>,
}

impl Bound {
    fn new(socket: &Path) -> std::io::Result<Self> {
        let place = Short::of(socket)?;
        // One hub at a time looks around here; let go with the last line.
        let guard = rustix::io::fcntl_dupfd_cloexec(&place.directory, 3)?;
        rustix::fs::flock(&guard, FlockOperation::LockExclusive)?;
        let bound = Self::bind(place);
        rustix::fs::flock(&guard, FlockOperation::Unlock)?;
        bound
    }

    fn bind(place: Short) -> std::io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        if std::os::unix::net::UnixStream::connect(place.path()).is_ok() {
            let why = "another hub listens there";
            return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, why));
        }
        if let Ok(there) = std::fs::symlink_metadata(place.path())
            && !std::os::unix::fs::FileTypeExt::is_socket(&there.file_type())
        {
            let why = "something that is no socket stands there";
            return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, why));
        }
        // Made aside and moved, so that it has its mode before anybody finds it.
        let aside = place.beside(format!(".e2ek-{}", std::process::id()));
        let _ = std::fs::remove_file(&aside);
        let listener = UnixListener::bind(&aside)?;
        let named = std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&aside, place.path()));
        if let Err(error) = named {
            let _ = std::fs::remove_file(&aside);
            return Err(error);
        }
        let identity = place.identity();
        Ok(Self { listener, place, identity })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.identity.is_some() && self.place.identity() == self.identity {
            let _ = std::fs::remove_file(self.place.path());
        }
    }
}

/// Listens where any user of the pod may call; the kernel says who does. The directory is shared with
/// the app: nothing in it is waited for, looked at or changed but what is made here.
fn open_to_all(socket: &Path) -> std::io::Result<UnixListener> {
    let place = Short::of(socket)?;
    let aside = place.beside(format!(".e2ek-{}", std::process::id()));
    let _ = std::fs::remove_file(&aside);
    // Its mode from the first moment on, and not by its name.
    let mask = rustix::process::umask(Mode::empty());
    let listener = UnixListener::bind(&aside);
    rustix::process::umask(mask);
    let listener = listener?;
    std::fs::rename(&aside, place.path())?;
    Ok(listener)
}

/// Connects to a hub's socket.
///
/// # Errors
/// When nobody listens there.
pub fn connect(socket: &Path) -> std::io::Result<std::os::unix::net::UnixStream> {
    std::os::unix::net::UnixStream::connect(Short::of(socket)?.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a link's own task answers, its hub being busy elsewhere.
    #[test]
    fn a_ping_is_answered_once_and_by_what_is_on_its_way_anyway() {
        let (peer, mut outgoing, _dropped) = Peer::new(1);
        let answers = peer.answers();
        answers.answer();
        answers.answer();
        assert_eq!(outgoing.messages.try_recv().unwrap(), ping());
        assert!(outgoing.messages.try_recv().is_err(), "one waits: two say no more");
        outgoing.queued.store(0, Ordering::Relaxed);
        answers.answer();
        assert_eq!(outgoing.messages.try_recv().unwrap(), ping());
        drop(peer);
        outgoing.queued.store(0, Ordering::Relaxed);
        answers.answer();
        let ended = mpsc::error::TryRecvError::Disconnected;
        assert_eq!(outgoing.messages.try_recv(), Err(ended), "the link is not kept for that");
    }

    #[test]
    fn who_asks_every_five_seconds_is_told_nothing_unasked() {
        let ping = ping();
        let busy = wire_of(&FromHub::Credit { bytes: 1 });
        assert_eq!(silence_after(&busy, &ping), HEARTBEAT);
        let answered = silence_after(&ping, &ping);
        assert!(HEARTBEAT < answered && answered < DEAD_AFTER, "{answered:?}");
    }

    fn wire_of(message: &FromHub) -> Vec<u8> {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        bytes
    }
}
