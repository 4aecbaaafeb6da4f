//! Owns the daemon's end of the socket: connections, their bounds, and who follows the events.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::line::{LineError, Lines};
use super::lock::Lock;
use super::{MAX_LINE_BYTES, Reply, Request, Versioned, parse_request};
use crate::report::{Backlog, Event, Failure, Record, json_line};

/// Connections at a time; the next one is told so and closed.
const MAX_CONNECTIONS: usize = 64;
/// Requests read that the daemon has not taken; their connections wait.
const MAX_CALLS: usize = 16;
/// Records waiting for one follower.
const MAX_RECORDS: usize = 1024;
/// Bytes of records waiting for one follower.
const MAX_RECORD_BYTES: usize = 4 << 20;
/// Pause after `accept` failed (too many open files, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The daemon's end of the socket. Dropping it removes the socket and ends every connection.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
    calls: mpsc::Receiver<Call>,
    shared: Shared,
    /// One per connection.
    connections: JoinSet<()>,
    /// Turns true once: finish what is being said, then hang up.
    closing: watch::Sender<bool>,
    /// Last, so that it is let go of after the socket is gone.
    _lock: Lock,
}

/// What every connection has.
#[derive(Clone, Debug)]
struct Shared {
    calls: mpsc::Sender<Call>,
    followers: Arc<Mutex<Vec<Weak<Follower>>>>,
    closing: watch::Receiver<bool>,
}

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The directory belongs to another user.
    #[error("{} belongs to user {owner}", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Something that is not a socket has its name.
    #[error("{} is not a socket", path.display())]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// The system says no.
    #[error("{}", path.display())]
    Io {
        /// The directory or the socket.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// A request that the daemon has to answer.
#[derive(Debug)]
pub struct Call {
    /// What is asked. Never [`Request::Attach`].
    pub request: Request,
    answer: oneshot::Sender<Reply>,
    /// Whoever asks to join.
    member: Option<Member>,
}

/// Somebody who joined, as long as the connection lasts.
#[derive(Debug)]
pub struct Member {
    left: oneshot::Receiver<()>,
    last: oneshot::Sender<Reply>,
}

impl Member {
    /// What resolves when it wants to leave, or has gone; and the way to have the last word.
    pub fn split(self) -> (impl Future<Output = ()> + Send + 'static, LastWord) {
        let Self { left, last } = self;
        // That the connection's task has ended says the same.
        (async move { drop(left.await) }, LastWord(last))
    }
}

/// Ends a membership; when it is dropped unsaid, the connection ends without a word.
#[derive(Debug)]
pub struct LastWord(oneshot::Sender<Reply>);

impl LastWord {
    /// Says it, after all events before it, and hangs up.
    pub fn say(self, reply: Reply) {
        let _ = self.0.send(reply);
    }
}

impl Call {
    /// Answers a [`Request::Join`] with yes. `None` for another request, which is then dropped
    /// without an answer.
    pub fn admit(mut self, reply: Reply) -> Option<Member> {
        let member = self.member.take();
        self.answer(reply);
        member
    }

    /// Answers. Nothing happens when the asker has hung up.
    pub fn answer(self, reply: Reply) {
        let _ = self.answer.send(reply);
    }

    /// Whether the asker has hung up, so that nothing need be waited for on its behalf.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.answer.is_closed()
    }
}

impl ControlServer {
    /// Listens at `path` as the daemon that holds `lock`; what a killed daemon left there is
    /// replaced. The path has at most 107 bytes. Its directory is made when it is not there, and
    /// shut to others. Needs a running tokio runtime with I/O and time.
    ///
    /// # Errors
    /// When the directory or the socket's name is somebody else's, or the system refuses.
    pub fn bind(path: &Path, lock: Lock) -> Result<Self, BindError> {
        let io = |source| BindError::Io { path: path.to_owned(), source };
        make_private(path.parent().unwrap_or(Path::new(".")))?;
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(BindError::NotASocket { path: path.to_owned() });
            }
            Ok(_) => fs::remove_file(path).map_err(io)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        let listener = UnixListener::bind(path).map_err(io)?;
        // Nobody else could come in before this either: the directory is shut.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(io)?;
        let (sender, calls) = mpsc::channel(MAX_CALLS);
        let (closing, closing_seen) = watch::channel(false);
        let shared = Shared { calls: sender, followers: Arc::default(), closing: closing_seen };
        Ok(Self {
            listener,
            path: path.to_owned(),
            calls,
            shared,
            connections: JoinSet::new(),
            closing,
            _lock: lock,
        })
    }

    /// Lets connections in until one of them asks something that the daemon has to answer.
    ///
    /// # Cancel safety
    /// Safe: made for `select!`.
    pub async fn next_call(&mut self) -> Call {
        loop {
            tokio::select! {
                Some(call) = self.calls.recv() => return call,
                Some(_) = self.connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.let_in(stream),
                    Err(error) => {
                        tracing::warn!(%error, "control: accept");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    /// Tells an event to every follower. Never waits: what a slow one cannot take is counted, and
    /// the count is told to it.
    pub fn publish(&self, record: &Record) {
        let mut followers = self.shared.followers.lock().unwrap_or_else(PoisonError::into_inner);
        followers.retain(|follower| follower.strong_count() > 0);
        if followers.is_empty() {
            return;
        }
        let line: Arc<str> = (json_line(record) + "\n").into();
        for follower in followers.iter().filter_map(Weak::upgrade) {
            follower.push(Arc::clone(&line));
        }
    }

    /// Hangs up in good order: no one new comes in, answers and records that are due are written,
    /// for at most `patience`; then the socket is removed.
    pub async fn close(mut self, patience: Duration) {
        // Readers see it; a connection that is already gone does not matter.
        let _ = self.closing.send(true);
        // Calls that nobody will take: dropping them answers that the daemon ends.
        self.calls.close();
        while self.calls.try_recv().is_ok() {}
        let all = async { while self.connections.join_next().await.is_some() {} };
        // Whoever does not listen is cut off.
        let _ = timeout(patience, all).await;
    }

    fn let_in(&mut self, stream: UnixStream) {
        while self.connections.try_join_next().is_some() {}
        if self.connections.len() >= MAX_CONNECTIONS {
            let failure = Failure::new(
                "failure",
                format!("the daemon has {MAX_CONNECTIONS} connections, no more are let in"),
            );
            // A fresh socket takes a short line at once; if not, closing it says as much.
            let _ = stream.try_write(reply_line(Reply::Failed(failure)).as_bytes());
            return;
        }
        self.connections.spawn(converse(stream, self.shared.clone()));
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        // The lock is still held: this is our socket, not a successor's.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes a directory, or shuts an existing one of ours to others.
fn make_private(path: &Path) -> Result<(), BindError> {
    let io = |source| BindError::Io { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
    let found = fs::symlink_metadata(path).map_err(io)?;
    let ours = rustix::process::geteuid().as_raw();
    if found.uid() != ours {
        return Err(BindError::NotOurs { path: path.to_owned(), owner: found.uid() });
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io)?;
    }
    Ok(())
}

/// The reply as its line, which the asker's cap lets through.
fn reply_line(reply: Reply) -> String {
    let reply = Versioned::new(reply);
    let line = json_line(&reply) + "\n";
    match reply.body {
        Reply::Status { mut status } if line.len() > MAX_LINE_BYTES => {
            // Some hundred paths of the greatest length: they are counted all the same.
            status.targets.iter_mut().for_each(|target| target.problems.clear());
            json_line(&Versioned::new(Reply::Status { status })) + "\n"
        }
        _ => line,
    }
}

/// One connection, from its first byte to its last.
async fn converse(stream: UnixStream, shared: Shared) {
    let allowed =
        stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw());
    let (from, mut to) = stream.into_split();
    if !allowed {
        let failure = Failure::new("forbidden", "the daemon belongs to another user");
        let _ = to.write_all(reply_line(Reply::Failed(failure)).as_bytes()).await;
        return;
    }
    let mut lines = Lines::new(from);
    // An error here is the asker's hanging up.
    while let Ok(true) = exchange(&mut lines, &mut to, &shared).await {}
}

/// One request and its answer; false when it was the last one.
async fn exchange(
    lines: &mut Lines<OwnedReadHalf>,
    to: &mut OwnedWriteHalf,
    shared: &Shared,
) -> io::Result<bool> {
    let mut closing = shared.closing.clone();
    let line = tokio::select! {
        line = lines.next() => line,
        _ = closing.wait_for(|closing| *closing) => return Ok(false),
    };
    let line = match line {
        Ok(Some(line)) => line,
        Ok(None) => return Ok(false),
        Err(LineError::Io(error)) => return Err(error),
        Err(error @ LineError::TooLong) => {
            let failure = Failure::new("usage", error.to_string());
            to.write_all(reply_line(Reply::Failed(failure)).as_bytes()).await?;
            return Ok(false);
        }
    };
    let reply = match parse_request(&line) {
        Err(failure) => Reply::Failed(failure),
        Ok(Request::Attach {}) => {
            follow(lines, to, shared).await?;
            return Ok(false);
        }
        Ok(request @ Request::Join(_)) => {
            take_part(request, lines, to, shared).await?;
            return Ok(false);
        }
        Ok(request) => match ask_daemon(request, lines, to, shared).await {
            Some(reply) => reply,
            None => return Ok(false),
        },
    };
    to.write_all(reply_line(reply).as_bytes()).await?;
    Ok(true)
}

/// Hands a request to the daemon's loop; `None` when the asker hung up meanwhile.
async fn ask_daemon(
    request: Request,
    lines: &mut Lines<OwnedReadHalf>,
    to: &OwnedWriteHalf,
    shared: &Shared,
) -> Option<Reply> {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        // A failure means that the daemon ends; then `answer` is dropped as well.
        let _ = shared.calls.send(Call { request, answer, member: None }).await;
        answered.await
    };
    tokio::select! {
        reply = asked => Some(reply.unwrap_or_else(|_| {
            Reply::Failed(Failure::new("no-daemon", "the daemon is ending"))
        })),
        () = hung_up(lines, to) => None,
    }
}

/// Waits until the asker is gone. One that only shut its writing half still reads; that such a one
/// goes later is noticed by the next write.
async fn hung_up(lines: &mut Lines<OwnedReadHalf>, to: &OwnedWriteHalf) {
    lines.ended().await;
    let mut asked = [PollFd::new(to.as_ref(), PollFlags::empty())];
    let polled = poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    if polled.is_ok() && !asked[0].revents().contains(PollFlags::HUP) {
        std::future::pending().await
    }
}

/// Somebody who follows the events.
#[derive(Debug)]
struct Follower {
    waiting: Mutex<Backlog<Arc<str>>>,
    /// Something is waiting.
    news: Notify,
}

impl Follower {
    fn push(&self, line: Arc<str>) {
        let bytes = line.len();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(line, bytes);
        self.news.notify_one();
    }

    fn take(&self) -> (VecDeque<Arc<str>>, u64) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Shared {
    /// Somebody more to tell everything from now on.
    fn follower(&self) -> Arc<Follower> {
        let waiting = Mutex::new(Backlog::new(MAX_RECORDS, MAX_RECORD_BYTES));
        let me = Arc::new(Follower { waiting, news: Notify::new() });
        let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        followers.push(Arc::downgrade(&me));
        me
    }
}

/// Writes what waits for a follower.
async fn tell(me: &Follower, to: &mut OwnedWriteHalf) -> io::Result<()> {
    let (records, left_out) = me.take();
    for record in records {
        to.write_all(record.as_bytes()).await?;
    }
    if left_out > 0 {
        let record = Record::at(SystemTime::now(), Event::LeftOut { count: left_out });
        to.write_all((json_line(&record) + "\n").as_bytes()).await?;
    }
    Ok(())
}

async fn follow(
    lines: &mut Lines<OwnedReadHalf>,
    to: &mut OwnedWriteHalf,
    shared: &Shared,
) -> io::Result<()> {
    let me = shared.follower();
    // Only now: what happens after the answer is told.
    to.write_all(reply_line(Reply::Attached {}).as_bytes()).await?;
    let mut closing = shared.closing.clone();
    loop {
        let last = tokio::select! {
            () = me.news.notified() => false,
            _ = closing.wait_for(|closing| *closing) => true,
            () = hung_up(lines, to) => return Ok(()),
        };
        tell(&me, to).await?;
        if last {
            return Ok(());
        }
    }
}

/// Follows as one who takes part, when the daemon agrees. The end of this tells the daemon, however
/// it comes.
async fn take_part(
    request: Request,
    lines: &mut Lines<OwnedReadHalf>,
    to: &mut OwnedWriteHalf,
    shared: &Shared,
) -> io::Result<()> {
    // Before the daemon is asked, so that nothing of what it then says is missed.
    let me = shared.follower();
    let (leaving, left) = oneshot::channel();
    let (last, mut ended) = oneshot::channel();
    let (answer, answered) = oneshot::channel();
    let call = Call { request, answer, member: Some(Member { left, last }) };
    let asked = async {
        // A failure means that the daemon ends; then `answer` is dropped as well.
        let _ = shared.calls.send(call).await;
        answered.await
    };
    let reply = tokio::select! {
        reply = asked => reply,
        () = hung_up(lines, to) => return Ok(()),
    };
    // Without an answer the daemon is ending: whoever asks may soon be the first.
    let Ok(reply) = reply else { return Ok(()) };
    let admitted = matches!(reply, Reply::Joined { .. });
    to.write_all(reply_line(reply).as_bytes()).await?;
    if !admitted {
        return Ok(());
    }
    let mut leaving = Some(leaving);
    let mut closing = shared.closing.clone();
    loop {
        let last = tokio::select! {
            () = me.news.notified() => None,
            reply = &mut ended => Some(reply.ok()),
            _ = closing.wait_for(|closing| *closing) => Some(None),
            () = lines.ended(), if leaving.is_some() => {
                // It may be listening still: its last word is the daemon's.
                leaving = None;
                continue;
            }
        };
        tell(&me, to).await?;
        if let Some(reply) = last {
            if let Some(reply) = reply {
                to.write_all(reply_line(reply).as_bytes()).await?;
            }
            return Ok(());
        }
    }
}
