//! Links into a hub: the standard streams of one process, or a unix socket; and the bridge from
//! standard streams to that socket.
//!
//! Each link has a task that reads and one that writes. Both ends say Hello at once; a Ping follows
//! five seconds of silence, and fifteen without a byte end the link.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::wire::{self, Decoder, FromHub, Hello, HelloReader, ToHub, WireError};

/// Silence after which a Ping is sent.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// Silence after which a link is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(15);
/// How long the other end may take to say Hello.
pub const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Read at once.
const READ_BYTES: usize = 256 << 10;
/// Messages between a link's reader and the hub; the credit window bounds their bytes.
const QUEUE: usize = 64;

/// Names a link.
pub type PeerId = u64;

/// The hub's end of a link.
#[derive(Debug)]
pub struct Peer {
    id: PeerId,
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
}

impl Peer {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// Queues a message. A link that ended swallows it; its end is told apart.
    pub fn send(&self, message: &FromHub) {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        let _ = self.outgoing.send(bytes);
    }
}

/// What the links bring.
#[derive(Debug)]
pub enum Incoming {
    /// A link whose other end speaks our protocol.
    Linked(Peer),
    /// A message and its length in bytes.
    Message(PeerId, ToHub, usize),
    /// The link is over.
    Ended(PeerId, Option<WireError>),
}

/// A queue for [`Incoming`].
#[must_use]
pub fn queue() -> (mpsc::Sender<Incoming>, mpsc::Receiver<Incoming>) {
    mpsc::channel(QUEUE)
}

/// Serves one link until it ends; nothing of it is left then.
pub async fn link<R, W>(id: PeerId, reader: R, writer: W, hub: mpsc::Sender<Incoming>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (outgoing, queue) = mpsc::unbounded_channel();
    let mut hello = Vec::new();
    Hello::ours().encode(&mut hello);
    let _ = outgoing.send(hello);
    let peer = Peer { id, outgoing };
    let reading = read(peer, reader, &hub);
    let writing = write(writer, queue, &FromHub::Ping);
    let mut writing = std::pin::pin!(writing);
    let (result, written) = tokio::select! {
        result = reading => (result, false),
        () = &mut writing => (Ok(()), true),
    };
    let _ = hub.send(Incoming::Ended(id, result.err())).await;
    if !written {
        // The hub drops its sender now: what is queued still goes out, within reason.
        let _ = tokio::time::timeout(HEARTBEAT, writing).await;
    }
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
    if hub.send(Incoming::Linked(peer)).await.is_err() {
        return Ok(());
    }
    let mut decoder = Decoder::default();
    decoder.feed(&rest);
    loop {
        while let Some((message, len)) = decoder.message::<ToHub>()? {
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

/// Reads the other end's Hello; `None` when it closed without a word.
pub async fn hello<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut [u8],
) -> Option<Result<(Hello, Vec<u8>), WireError>> {
    let mut greeting = HelloReader::default();
    loop {
        match reader.read(buffer).await {
            Ok(0) | Err(_) if greeting.is_empty() => return None,
            Ok(0) | Err(_) => return Some(Err(greeting.not_ours())),
            Ok(len) => match greeting.feed(&buffer[..len]) {
                Ok(None) => {}
                Ok(Some(found)) => return Some(Ok(found)),
                Err(error) => return Some(Err(error)),
            },
        }
    }
}

/// Writes what is queued; sends `ping` after five seconds of silence. Ends with the queue or with
/// the other end.
pub async fn write<W, M>(mut writer: W, mut queue: mpsc::UnboundedReceiver<Vec<u8>>, ping: &M)
where
    W: AsyncWrite + Unpin,
    M: serde::Serialize,
{
    loop {
        let mut bytes = match tokio::time::timeout(HEARTBEAT, queue.recv()).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break,
            Err(_) => {
                let mut bytes = Vec::new();
                wire::encode(ping, &mut bytes);
                bytes
            }
        };
        // What is queued already goes out in one write.
        while bytes.len() < READ_BYTES
            && let Ok(more) = queue.try_recv()
        {
            bytes.extend_from_slice(&more);
        }
        if writer.write_all(&bytes).await.is_err() {
            break;
        }
    }
    let _ = writer.shutdown().await;
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
    links.spawn(link(0, reader, writer, sender));
    hub.run(stop).await;
    // The last words go out.
    let _ = tokio::time::timeout(HEARTBEAT, links.join_next()).await;
    Ok(())
}

/// Serves every link that comes to a unix socket. The socket is made with mode 0600 and removed at
/// the end; one left by a killed hub is replaced.
///
/// # Errors
/// When the socket cannot be made, or another hub listens there.
pub async fn serve_socket(
    settings: super::Settings,
    socket: &Path,
    stop: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let listener = bind(socket)?;
    let (sender, receiver) = queue();
    let hub = super::Hub::new(settings, receiver);
    let accept = async move {
        let mut links = JoinSet::new();
        let mut next = 0;
        loop {
            tokio::select! {
                Some(_) = links.join_next() => {}
                accepted = listener.accept() => {
                    let Ok((stream, _)) = accepted else { continue };
                    let ours = rustix::process::geteuid().as_raw();
                    if stream.peer_cred().is_ok_and(|peer| peer.uid() == ours || peer.uid() == 0) {
                        let (reader, writer) = stream.into_split();
                        links.spawn(link(next, reader, writer, sender.clone()));
                        next += 1;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = hub.run(stop) => {}
        () = accept => {}
    }
    let _ = std::fs::remove_file(socket);
    Ok(())
}

fn bind(socket: &Path) -> std::io::Result<UnixListener> {
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::AddrInUse,
            "another hub listens there",
        ));
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Made in a private place and moved, so that nobody can connect before its mode is set.
    let aside = socket.with_extension(format!("{}.tmp", std::process::id()));
    let _ = std::fs::remove_file(&aside);
    let listener = UnixListener::bind(&aside)?;
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&aside, socket)?;
    Ok(listener)
}

/// Carries bytes between this process's standard streams and a hub's socket until either ends.
///
/// # Errors
/// When nobody listens there.
pub async fn bridge(socket: &Path) -> std::io::Result<()> {
    let stream = UnixStream::connect(socket).await?;
    let (mut from_hub, mut to_hub) = stream.into_split();
    let (stdin, stdout) = (
        rustix::stdio::stdin().try_clone_to_owned()?,
        rustix::stdio::stdout().as_fd().try_clone_to_owned()?,
    );
    let (mut input, mut output) = (reader_of(stdin)?, writer_of(stdout)?);
    tokio::select! {
        result = tokio::io::copy(&mut input, &mut to_hub) => result.map(|_| ()),
        result = tokio::io::copy(&mut from_hub, &mut output) => result.map(|_| ()),
    }
}
