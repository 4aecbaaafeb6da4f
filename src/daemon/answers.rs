//! Who waits for something: flush and wait, with what they wait for and until when; and `status`.

use std::time::{Duration, Instant};

use crate::config::Ready;
use crate::control::{Call, Reply, Request, Until};
use crate::engine::session::{Session, TargetState};
use crate::error::Error;
use crate::report::{
    ChildState, ChildStatus, Failure, Generations, Outstanding, ProblemStatus, State, Status,
    TargetStatus, Text, WatchCounts,
};
use crate::watch::Watch;
use e2ek_sidecar::wire::ChildEvent;

/// Without a check, a command counts as ready when it has lived so long.
const ALIVE_FOR: Duration = Duration::from_millis(500);
/// Between two tries of a readiness check.
const READY_EVERY: Duration = Duration::from_millis(50);

/// Where a waiting call stands.
enum Stage {
    /// So many watches have not yet delivered what came before the call.
    Points(usize),
    /// The source is still being looked at.
    Looking,
    /// All targets are to have this generation.
    Generation { generation: u64, restarted: bool },
    /// Nothing may be outstanding.
    Synced,
    /// As above and the command restarted; then its readiness is tried.
    Ready(Option<Ready>),
    /// A task tries it and answers.
    Trying,
}

struct Waiting {
    call: Option<Call>,
    stage: Stage,
    since: Instant,
    until: Option<Instant>,
    restarted: bool,
}

/// All who wait.
#[derive(Default)]
pub(super) struct Answers {
    waiting: Vec<Waiting>,
}

impl Answers {
    /// A flush waits for `points` watches first.
    pub(super) fn flush(&mut self, now: Instant, call: Call, points: usize) {
        let Request::Flush { restarted, timeout_ms } = call.request else { return };
        let stage = if points == 0 { Stage::Looking } else { Stage::Points(points) };
        self.add(now, call, stage, timeout_ms, restarted);
    }

    /// A wait.
    pub(super) fn wait(&mut self, now: Instant, call: Call, ready: Option<Ready>) {
        let Request::Wait { until, timeout_ms } = call.request else { return };
        let stage = match until {
            Until::Gen(generation) => Stage::Generation { generation, restarted: false },
            Until::Synced => Stage::Synced,
            Until::Ready => Stage::Ready(ready),
        };
        self.add(now, call, stage, timeout_ms, false);
    }

    fn add(&mut self, now: Instant, call: Call, stage: Stage, ms: Option<u64>, restarted: bool) {
        let until = ms.map(|ms| now + Duration::from_millis(ms));
        self.waiting.push(Waiting { call: Some(call), stage, since: now, until, restarted });
    }

    /// A watch has delivered. Returns whether a flush has all it waited for.
    pub(super) fn point(&mut self) -> bool {
        let mut complete = false;
        // Points are asked for and come in order: each counts for the oldest flush that waits.
        for waiting in &mut self.waiting {
            if let Stage::Points(left) = &mut waiting.stage {
                *left -= 1;
                if *left == 0 {
                    waiting.stage = Stage::Looking;
                    complete = true;
                }
                break;
            }
        }
        complete
    }

    /// When the next of them gives up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|waiting| waiting.until).min()
    }

    /// Answers who need not wait any longer.
    pub(super) fn settle(&mut self, now: Instant, session: &Session, source: Outlook) {
        for waiting in &mut self.waiting {
            waiting.settle(now, session, source);
        }
        self.waiting.retain(|w| w.call.as_ref().is_some_and(|call| !call.is_gone()));
    }

    /// The daemon ends: nobody is left waiting.
    pub(super) fn end(&mut self) {
        for waiting in self.waiting.drain(..) {
            if let Some(call) = waiting.call {
                call.answer(failed(&Error::daemon_ended()));
            }
        }
    }
}

/// What the source still has to say.
#[derive(Clone, Copy)]
pub(super) struct Outlook {
    /// Something waits to be looked at.
    pub(super) busy: bool,
    /// Paths that cannot be read.
    pub(super) problems: usize,
    /// A workload has no pod that could be served.
    pub(super) absent: bool,
}

impl Waiting {
    fn settle(&mut self, now: Instant, session: &Session, source: Outlook) {
        if let Stage::Looking = self.stage
            && !source.busy
        {
            // A source that is gone shows no saves, and has no generation to wait for.
            if let Some(Err(error)) = stuck(session) {
                return self.answer(failed(&error));
            }
            let generation = session.generation();
            self.stage = Stage::Generation { generation, restarted: self.restarted };
        }
        let verdict = match &self.stage {
            Stage::Points(_) | Stage::Looking | Stage::Trying => None,
            Stage::Generation { generation, restarted } => {
                reached(session, source, *generation, *restarted)
            }
            Stage::Synced => synced(session, source),
            Stage::Ready(_) => synced(session, source)
                .filter(|_| reached(session, source, session.generation(), true).is_some()),
        };
        match (verdict, &mut self.stage) {
            (Some(Ok(generation)), Stage::Ready(ready)) => {
                let ready = ready.take();
                self.stage = Stage::Trying;
                self.try_ready(ready, generation, session);
            }
            (Some(Ok(generation)), _) => self.answer(Reply::Done { generation: Some(generation) }),
            (Some(Err(error)), _) => self.answer(failed(&error)),
            (None, _) if self.until.is_some_and(|until| until <= now) => {
                let local = session.generation();
                let acked = session.status().iter().map(|t| t.generation).min().unwrap_or(0);
                let error = Error::not_in_sync(now - self.since, acked, local);
                self.answer(failed(&error));
            }
            (None, _) => {}
        }
    }

    fn answer(&mut self, reply: Reply) {
        if let Some(call) = self.call.take() {
            call.answer(reply);
        }
    }

    /// Hands the call to a task that tries until it succeeds, the time is over or nobody listens.
    fn try_ready(&mut self, ready: Option<Ready>, generation: u64, session: &Session) {
        let Some(call) = self.call.take() else { return };
        let (since, until) = (self.since, self.until);
        let alive = session.status().iter().all(|target| {
            matches!(
                target.child,
                None | Some(ChildEvent::Started { .. } | ChildEvent::Restarted { .. })
            )
        });
        // Ends with the call: whoever hangs up or whose time is over ends it.
        tokio::spawn(async move {
            loop {
                let ok = match &ready {
                    None => {
                        tokio::time::sleep(ALIVE_FOR).await;
                        alive
                    }
                    Some(ready) => is_ready(ready).await,
                };
                if ok {
                    return call.answer(Reply::Done { generation: Some(generation) });
                }
                if call.is_gone() {
                    return;
                }
                let now = Instant::now();
                if until.is_some_and(|until| until <= now) || ready.is_none() {
                    let error = Error::not_in_sync(now - since, generation, generation);
                    return call.answer(failed(&error));
                }
                tokio::time::sleep(READY_EVERY).await;
            }
        });
    }
}

async fn is_ready(ready: &Ready) -> bool {
    let connect = |address: String| async move {
        let connected = tokio::net::TcpStream::connect(address);
        tokio::time::timeout(ALIVE_FOR, connected).await.ok()?.ok()
    };
    match ready {
        Ready::Tcp(address) => connect(address.clone()).await.is_some(),
        Ready::Http(address) => {
            let rest = address.strip_prefix("http://").unwrap_or(address);
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            let port = if host.contains(':') { "" } else { ":80" };
            let Some(stream) = connect(format!("{host}{port}")).await else { return false };
            let asked = ask(stream, host, path);
            tokio::time::timeout(ALIVE_FOR, asked).await.is_ok_and(|answer| answer.is_some())
        }
    }
}

/// One GET; `Some` when the status is below 400.
async fn ask(mut stream: tokio::net::TcpStream, host: &str, path: &str) -> Option<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.ok()?;
    let status: u16 = std::str::from_utf8(&head[9..12]).ok()?.parse().ok()?;
    (head.starts_with(b"HTTP/1.") && status < 400).then_some(())
}

fn failed(error: &Error) -> Reply {
    Reply::Failed(Failure::from(error))
}

/// Whether every target has a generation; an error when it never will without help.
fn reached(
    session: &Session,
    source: Outlook,
    generation: u64,
    restarted: bool,
) -> Option<Result<u64, Error>> {
    let status = session.status();
    let there = status.iter().all(|target| {
        target.generation >= generation && (!restarted || target.restarted >= generation)
    });
    if there && !source.absent {
        let refused: usize = status.iter().map(|target| target.problems.len()).sum();
        let problems = refused + source.problems;
        return Some(if problems > 0 { Err(Error::left_out(problems)) } else { Ok(generation) });
    }
    stuck(session)
}

fn synced(session: &Session, source: Outlook) -> Option<Result<u64, Error>> {
    let synced = session.status().iter().all(|target| target.state == TargetState::Synced);
    if synced && !source.absent && !source.busy && source.problems == 0 {
        Some(Ok(session.generation()))
    } else {
        stuck(session)
    }
}

/// What keeps a target from ever getting there by itself.
fn stuck(session: &Session) -> Option<Result<u64, Error>> {
    if session.is_paused() {
        return Some(Err(Error::paused()));
    }
    let status = session.status();
    if status.iter().any(|target| target.state == TargetState::Held) {
        return Some(Err(Error::held()));
    }
    None
}

impl super::Daemon {
    /// How the command's readiness is known.
    pub(super) fn ready_check(&self) -> Option<Ready> {
        self.config.targets.iter().find_map(|target| Some(target.ready.as_ref()?.value.clone()))
    }

    /// What `status` answers.
    pub(super) fn status(&self) -> Status {
        let targets = self.session.status();
        let local = self.session.generation();
        let acked = targets.iter().map(|target| target.generation).min().unwrap_or(0);
        let states: Vec<State> = targets.iter().map(|target| state_word(target.state)).collect();
        let looking = !self.source.is_quiet();
        let state = match () {
            () if self.ending.is_some() => State::Stopped,
            () if self.session.is_paused() => State::Held,
            () if self.session.local().is_none() => State::Scanning,
            () => states.iter().copied().find(|s| *s != State::Synced).unwrap_or(State::Synced),
        };
        let mut watch = WatchCounts { rescans: self.source.looks(), ..WatchCounts::default() };
        for stats in self.source.watches().map(Watch::stats) {
            watch.directories += stats.directories as u64;
            watch.overflows += stats.overflows;
            watch.polled += stats.polled as u64;
        }
        let source_problems = (self.source.problems().iter()).map(|(path, reason)| ProblemStatus {
            path: self.teller.path(path),
            reason: reason.to_string().into(),
        });
        let source_problems: Vec<_> = source_problems.collect();
        let targets = targets.iter().filter_map(|status| {
            let target = self.targets.get(&status.id)?;
            let own = status.problems.iter().map(|problem| ProblemStatus {
                path: self.teller.path(&problem.path),
                reason: problem.reason.to_string().into(),
            });
            Some(TargetStatus {
                name: target.name.clone(),
                state: state_word(status.state),
                gen_acked: status.generation,
                tree: (status.generation > 0).then(|| hex(&status.tree.0).into()),
                restarts: status.restarts,
                child: status.child.as_ref().map(child_status),
                problems: source_problems.iter().cloned().chain(own).collect(),
                problem_count: (source_problems.len() + status.problems.len()) as u64,
            })
        });
        let (groups, absent) = (self.group_status(), self.groups.absent());
        let state = if absent && state == State::Synced { State::Disconnected } else { state };
        let status = Status {
            v: crate::report::STATUS_VERSION,
            pid: std::process::id(),
            state,
            degraded: self.degraded(),
            source: Text::from(self.config.workspace.folder.as_path()),
            generations: Generations { local, acked },
            targets: targets.collect(),
            watch,
            latency_ms: self.teller.syncs.latencies.summary(),
            groups,
        };
        let unsettled = looking || self.session.local().is_none();
        status.honest(Outstanding { overflow: self.source.is_looking(), conflicts: 0, unsettled })
    }

    /// What does not work as well as it might.
    fn degraded(&self) -> Vec<Text> {
        let polled = self.source.watches().flat_map(Watch::degraded);
        let polled = polled.map(|degraded| Text::from(degraded_words(&degraded)));
        let not_replayable = self.targets.values().filter_map(|target| {
            let (count, paths) = target.not_replayable.as_ref()?;
            let shown = paths.iter().take(SHOWN).map(|path| self.teller.path(path).to_string());
            let more = if *count > SHOWN as u64 { ", ..." } else { "" };
            let shown = shown.collect::<Vec<_>>().join(", ");
            let name = &target.name;
            Some(format!("not-replayable: {name}: {count} files ({shown}{more})").into())
        });
        polled.chain(not_replayable).collect()
    }
}

fn state_word(state: TargetState) -> State {
    match state {
        TargetState::Starting => State::Starting,
        TargetState::Syncing => State::Syncing,
        TargetState::Synced => State::Synced,
        TargetState::Held | TargetState::Refused => State::Held,
        TargetState::Disconnected => State::Disconnected,
    }
}

fn child_status(event: &ChildEvent) -> ChildStatus {
    let (state, pid, exit) = match event {
        ChildEvent::Started { pid } | ChildEvent::Restarted { pid, .. } => {
            (ChildState::Running, u32::try_from(*pid).ok(), None)
        }
        ChildEvent::Exited { status, held: true, .. } => (ChildState::Held, None, Some(*status)),
        ChildEvent::Exited { status, .. } | ChildEvent::Stopped { status } => {
            (ChildState::Exited, None, Some(*status))
        }
        ChildEvent::Failed { .. } => (ChildState::Held, None, Some(127)),
        _ => (ChildState::Starting, None, None),
    };
    ChildStatus { state, pid, exit }
}

/// Paths of one kind that are told by name.
const SHOWN: usize = 3;

pub(super) fn degraded_words(degraded: &crate::watch::Degraded) -> String {
    let count = degraded.directories;
    match degraded.shortage.setting() {
        Some((name, value)) => format!("polling: {count} directories ({name} = {value})"),
        None => format!("polling: {count} directories ({:?})", degraded.shortage),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
