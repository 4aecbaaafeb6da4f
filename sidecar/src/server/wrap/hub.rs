//! The hub's end: who wraps which container's command, and what is asked of them.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::super::pass;
use super::{FromWrapper, PROTOCOL, ToWrapper};
use crate::restart::ActionSet;
use crate::server::listen::Incoming;
use crate::server::target::{Identity, identify, is_alive};
use crate::tree::TreeId;
use crate::wire::{self, Blob, ChildEvent, CommandSpec, Decoder, FromHub, WireError};

/// Wrappers at a time: containers of one pod.
const MAX_LINKS: usize = 32;
/// How long a caller may take to say who it is.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Messages for a wrapper that does not read; beyond, it is let go and comes again.
const QUEUE: usize = 64;
const READ_BYTES: usize = 4096;

/// What comes from wrappers.
#[derive(Debug)]
pub(in crate::server) enum FromWrappers {
    Linked(Wrapper),
    /// Which one, and what it says.
    Message(u64, FromWrapper),
    Ended(u64),
}

/// One wrapper.
#[derive(Debug)]
pub(in crate::server) struct Wrapper {
    serial: u64,
    /// Where it runs, as the kernel says.
    identity: Identity,
    root: Option<OwnedFd>,
    outgoing: mpsc::Sender<Vec<u8>>,
    /// The command's, as far as it was told.
    pid: Option<i32>,
    started: bool,
    /// The tree that the session has asked for all it wants of.
    settled: Option<TreeId>,
    /// A session was lost before it asked for what its last files need.
    owed: bool,
}

/// All wrappers.
#[derive(Default)]
pub(in crate::server) struct Wrappers(Vec<Wrapper>);

impl Wrappers {
    /// Takes one in; the container it is of.
    pub(in crate::server) fn insert(&mut self, wrapper: Wrapper) -> String {
        let container = &wrapper.identity.name;
        info!(container, started = wrapper.started, "the wrapper is there");
        // One that was lost and came again, or the container's next start.
        self.0.retain(|one| one.identity.name != wrapper.identity.name);
        let name = wrapper.identity.name.clone();
        self.0.push(wrapper);
        name
    }

    pub(in crate::server) fn remove(&mut self, serial: u64) {
        self.0.retain(|one| one.serial != serial);
    }

    /// The root directory that a container's wrapper handed over.
    pub(in crate::server) fn root(&self, name: &str) -> Option<(Identity, OwnedFd)> {
        let one = self.0.iter().find(|one| name.is_empty() || one.identity.name == name)?;
        Some((one.identity.clone(), one.root.as_ref()?.try_clone().ok()?))
    }

    fn of(&mut self, name: &str) -> Option<&mut Wrapper> {
        self.0.iter_mut().find(|one| one.identity.name == name)
    }

    /// Takes what a wrapper tells; the container it is of, and what a session there is to be told.
    pub(in crate::server) fn told(
        &mut self,
        serial: u64,
        message: FromWrapper,
    ) -> Option<(String, FromHub)> {
        let one = self.0.iter_mut().find(|one| one.serial == serial)?;
        match message {
            FromWrapper::Hello { .. } => None,
            FromWrapper::Output { stream, bytes } => {
                Some((one.identity.name.clone(), FromHub::Output { stream, bytes }))
            }
            FromWrapper::Child(event) => {
                one.pid = match event {
                    ChildEvent::Started { pid } | ChildEvent::Restarted { pid, .. } => Some(pid),
                    ChildEvent::Exited { .. } | ChildEvent::Stopped { .. } => None,
                    _ => one.pid,
                };
                Some((one.identity.name.clone(), FromHub::Child(event)))
            }
        }
    }

    /// The files are there: the command may start. Nothing, where it runs already or no wrapper is.
    pub(in crate::server) fn start(&mut self, name: &str, generation: u64) {
        if let Some(one) = self.of(name)
            && !one.started
        {
            one.started = true;
            one.send(&ToWrapper::Run { generation, policy: None });
        }
    }

    /// A session wants the command to run with these files; those of others in the same container are
    /// `all` there, or the first start waits. What it is to be told at once; `None` when no wrapper is
    /// there.
    pub(in crate::server) fn run(
        &mut self,
        name: &str,
        spec: &CommandSpec,
        (generation, held): (u64, TreeId),
        all: bool,
    ) -> Option<Option<FromHub>> {
        let one = self.of(name)?;
        let started = one.started;
        one.started |= all;
        if one.started {
            let policy = Some(spec.policy);
            one.send(&ToWrapper::Run { generation, policy });
        }
        one.settled = Some(held);
        let owed = std::mem::take(&mut one.owed);
        if started && owed {
            info!(generation, "restarting: the session that was lost had not asked for it");
            let actions = ActionSet { restart: true, ..ActionSet::default() };
            one.send(&ToWrapper::Act { generation, actions });
        }
        let pid = one.pid.filter(|_| started);
        Some(pid.map(|pid| FromHub::Child(ChildEvent::Started { pid })))
    }

    /// Does what a session asks for, commands in `directory`. Whether a wrapper is there.
    pub(in crate::server) fn act(
        &mut self,
        name: &str,
        directory: &Blob,
        generation: u64,
        actions: &ActionSet,
        held: TreeId,
    ) -> bool {
        let Some(one) = self.of(name) else { return false };
        one.settled = Some(held);
        one.owed &= !actions.restart && !actions.is_empty();
        let (actions, directory) = (actions.clone(), directory.clone());
        if !actions.commands.is_empty() {
            one.send(&ToWrapper::ActIn { generation, actions, directory });
        } else if !actions.is_empty() {
            one.send(&ToWrapper::Act { generation, actions });
        }
        true
    }

    /// A session comes to where the command runs, and finds these files.
    pub(in crate::server) fn found(&mut self, name: &str, held: TreeId) {
        if let Some(one) = self.of(name) {
            one.owed |= one.started && one.settled.is_some_and(|settled| settled != held);
        }
    }
}

impl Wrapper {
    /// One that calls from a container, and what it is told.
    #[cfg(test)]
    pub(in crate::server) fn of(identity: Identity) -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (outgoing, told) = mpsc::channel(QUEUE);
        let (root, pid, settled) = (None, None, None);
        let (started, owed) = (false, false);
        (Self { serial: 1, identity, root, outgoing, pid, started, settled, owed }, told)
    }

    fn send(&self, message: &ToWrapper) {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        if self.outgoing.try_send(bytes).is_err() {
            warn!(container = self.identity.name, "the wrapper does not listen");
        }
    }
}

/// Serves every wrapper that comes, for ever. Dropped, all links end.
pub(in crate::server) async fn serve(listener: UnixListener, hub: mpsc::Sender<Incoming>) {
    let mut links = JoinSet::new();
    let mut serial = 0;
    loop {
        tokio::select! {
            Some(_) = links.join_next() => {}
            accepted = listener.accept(), if links.len() < MAX_LINKS => match accepted {
                Ok((stream, _)) => {
                    serial += 1;
                    links.spawn(link(serial, stream, hub.clone()));
                }
                Err(error) => {
                    warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn link(serial: u64, stream: UnixStream, hub: mpsc::Sender<Incoming>) {
    let hello = tokio::time::timeout(HELLO_WITHIN, greet(serial, &stream)).await;
    let (wrapper, mut decoder, mut queue) = match hello {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => return warn!(%error, "a caller at the wrappers' socket is refused"),
        Err(_) => return,
    };
    if hub.send(Incoming::Wrapper(FromWrappers::Linked(wrapper))).await.is_err() {
        return;
    }
    let (mut reader, mut writer) = stream.into_split();
    let mut bytes = [0; READ_BYTES];
    loop {
        match decoder.message() {
            Ok(Some((message, _))) => {
                let message = Incoming::Wrapper(FromWrappers::Message(serial, message));
                if hub.send(message).await.is_err() {
                    return;
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                warn!(%error, "a wrapper is not understood");
                break;
            }
        }
        tokio::select! {
            read = reader.read(&mut bytes) => match read {
                Ok(0) | Err(_) => break,
                Ok(len) => decoder.feed(&bytes[..len]),
            },
            // A message that is half written when the wrapper ends is for nobody.
            message = queue.recv() => match message {
                Some(message) if writer.write_all(&message).await.is_ok() => {}
                _ => break,
            },
        }
    }
    let _ = hub.send(Incoming::Wrapper(FromWrappers::Ended(serial))).await;
}

/// Learns who calls: from the kernel where, from the caller what it has.
async fn greet(
    serial: u64,
    stream: &UnixStream,
) -> std::io::Result<(Wrapper, Decoder, mpsc::Receiver<Vec<u8>>)> {
    let refuse = |why: &'static str| std::io::Error::other(why);
    let pid = stream.peer_cred()?.pid().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| refuse("its process is not of this pod"))?;
    // Held while its files are read, so that they are of one process.
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let proc = |name: &str| std::fs::read(format!("/proc/{}/{name}", pid.as_raw_pid()));
    let cgroup = proc("cgroup").ok();
    let identity = identify(&proc("mountinfo")?, cgroup.as_deref());
    let identity = identity.ok_or_else(|| refuse("its process is of no container"))?;
    if !is_alive(&pidfd) {
        return Err(refuse("its process has ended"));
    }
    let mut decoder = Decoder::default();
    let mut bytes = [0; READ_BYTES];
    let mut root = None;
    let (hello, _) = loop {
        if let Some(hello) = decoder.message::<FromWrapper>().map_err(std::io::Error::other)? {
            break hello;
        }
        stream.readable().await?;
        let received = stream.try_io(Interest::READABLE, || Ok(pass::receive(stream, &mut bytes)?));
        match received {
            Ok((0, _)) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok((len, fds)) => {
                decoder.feed(&bytes[..len]);
                root = fds.into_iter().last().or(root);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    };
    let FromWrapper::Hello { protocol: PROTOCOL, pid, started } = hello else {
        return Err(std::io::Error::other(WireError::Order("a wrapper of another version")));
    };
    let (outgoing, queue) = mpsc::channel(QUEUE);
    let (settled, owed) = (None, false);
    let wrapper = Wrapper { serial, identity, root, outgoing, pid, started, settled, owed };
    Ok((wrapper, decoder, queue))
}
