//! Owns the commands that talk to a running daemon; none of them ever starts one.
//!
//! A command that is answered well says one event (`done`) and ends with 0; an answer of "no"
//! carries the kind that makes its exit code.

use std::time::Duration;

use crate::cli::{Command, FlushArgs, WaitArgs};
use crate::config::Config;
use crate::control::{ClientError, ControlClient, Events, Reply, Request, Until};
use crate::error::Error;
use crate::report::{Event, Heard, Reporter, Status};

/// How long an answer may take that waits for nothing.
const ANSWER: Duration = Duration::from_secs(10);
/// How much later than the time given with the request an answer may come, so that the daemon's own
/// answer wins.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks of `status --watch`.
const PACE: Duration = Duration::from_millis(100);

/// Asks the workspace's daemon. `targets` is what `--target` names.
///
/// # Errors
/// Of kind no-daemon when there is none, else as the daemon says.
pub(super) async fn run(
    command: &Command,
    targets: &[String],
    config: &Config,
    reporter: &mut Reporter,
) -> Result<u8, Error> {
    let mut daemon = Daemon::connect(config).await?;
    match command {
        Command::Status(args) if args.watch => return daemon.watch_status(reporter).await,
        Command::Status(_) => {
            reporter.status(&daemon.status().await?);
            return Ok(0);
        }
        Command::Attach(_) => return daemon.attach(reporter).await,
        _ => {}
    }
    let mut generation = None;
    for (request, patience) in requests(command, targets) {
        generation = daemon.done(&request, patience).await?;
    }
    if matches!(command, Command::Stop(_)) && targets.is_empty() {
        daemon.client.closed().await;
    }
    reporter.say(&Event::Done { command: command.name().into(), generation });
    Ok(0)
}

/// What is asked, one after the other, and how long for an answer is waited.
fn requests(command: &Command, targets: &[String]) -> Vec<(Request, Option<Duration>)> {
    let request = match command {
        Command::Flush(args) => return vec![flush(args)],
        Command::Wait(args) => return wait(args).into_iter().collect(),
        Command::Restart(_) => return each(targets, |target| Request::Restart { target }),
        Command::Pause(_) => Request::Pause {},
        Command::Resume(args) => Request::Resume { accept: args.accept },
        Command::Reset(_) => Request::Reset {},
        Command::Stop(_) if targets.is_empty() => Request::Stop { target: None },
        Command::Stop(_) => return each(targets, |target| Request::Stop { target }),
        _ => return Vec::new(),
    };
    vec![(request, Some(ANSWER))]
}

fn flush(args: &FlushArgs) -> (Request, Option<Duration>) {
    let timeout_ms = Some(millis(args.timeout));
    (Request::Flush { restarted: args.restarted, timeout_ms }, Some(patience(args.timeout)))
}

fn wait(args: &WaitArgs) -> Option<(Request, Option<Duration>)> {
    let until = match args.generation {
        Some(generation) => Until::Gen(generation),
        None if args.synced => Until::Synced,
        None if args.ready => Until::Ready,
        None => return None,
    };
    let timeout_ms = args.timeout.map(millis);
    Some((Request::Wait { until, timeout_ms }, args.timeout.map(patience)))
}

/// All targets at once, or each that is named. The old process may take its time to end.
fn each(
    targets: &[String],
    request: impl Fn(Option<String>) -> Request,
) -> Vec<(Request, Option<Duration>)> {
    if targets.is_empty() {
        return vec![(request(None), None)];
    }
    targets.iter().map(|target| (request(Some(target.clone())), None)).collect()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn patience(time: Duration) -> Duration {
    time.saturating_add(GRACE)
}

/// A connection to the daemon of a workspace.
struct Daemon<'a> {
    config: &'a Config,
    client: ControlClient,
}

impl<'a> Daemon<'a> {
    async fn connect(config: &'a Config) -> Result<Self, Error> {
        let client = ControlClient::connect(&config.control_socket()).await;
        let client = client.map_err(|error| said(config, error))?;
        Ok(Self { config, client })
    }

    /// The answer, when it is not "no".
    async fn ask(&mut self, request: &Request, within: Option<Duration>) -> Result<Reply, Error> {
        match self.client.request(request, within).await {
            Ok(Reply::Failed(failure)) => Err(failure.into()),
            Ok(reply) => Ok(reply),
            Err(error) => Err(said(self.config, error)),
        }
    }

    /// The generation of an answer that it is so.
    async fn done(
        &mut self,
        request: &Request,
        within: Option<Duration>,
    ) -> Result<Option<u64>, Error> {
        match self.ask(request, within).await? {
            Reply::Done { generation } => Ok(generation),
            other => Err(Error::daemon_not_understood(&format!("{other:?}"))),
        }
    }

    async fn status(&mut self) -> Result<Status, Error> {
        match self.ask(&Request::Status {}, Some(ANSWER)).await? {
            Reply::Status { status } => Ok(*status),
            other => Err(Error::daemon_not_understood(&format!("{other:?}"))),
        }
    }

    /// The events from now on, over a connection of their own.
    async fn events(&self) -> Result<Events, Error> {
        let Self { client, config } = Self::connect(self.config).await?;
        client.attach(ANSWER).await.map_err(|error| said(config, error))
    }

    /// Shows the status, again whenever something happened that changed it, until nobody listens.
    async fn watch_status(&mut self, reporter: &mut Reporter) -> Result<u8, Error> {
        let mut events = self.events().await?;
        let mut shown = None;
        loop {
            let status = self.status().await?;
            if shown.as_ref() != Some(&status) && reporter.status(&status) == Heard::Gone {
                return Ok(0);
            }
            shown = Some(status);
            next(&mut events, self.config).await?.ok_or_else(Error::daemon_ended)?;
            // What else happens within the pace is seen by the same look.
            let end = tokio::time::Instant::now() + PACE;
            while let Ok(event) = tokio::time::timeout_at(end, next(&mut events, self.config)).await
            {
                event?.ok_or_else(Error::daemon_ended)?;
            }
        }
    }

    /// Says what happens until nobody listens or the daemon ends, which is good when it said that
    /// it would.
    async fn attach(&self, reporter: &mut Reporter) -> Result<u8, Error> {
        let mut events = self.events().await?;
        let mut stopped = false;
        while let Some(event) = next(&mut events, self.config).await? {
            stopped |= matches!(event, Event::Stopping { .. } | Event::Stopped { .. });
            if reporter.say(&event) == Heard::Gone {
                return Ok(0);
            }
        }
        if stopped { Ok(0) } else { Err(Error::daemon_ended()) }
    }
}

/// The next event. A line that is no record is passed over: a newer daemon may have its reasons.
async fn next(events: &mut Events, config: &Config) -> Result<Option<Event>, Error> {
    loop {
        match events.next().await {
            Ok(record) => return Ok(record.map(|record| record.event)),
            Err(ClientError::Garbled(why)) => tracing::warn!(why, "not a record"),
            Err(error) => return Err(said(config, error)),
        }
    }
}

fn said(config: &Config, error: ClientError) -> Error {
    Error::unanswered(error, &config.workspace.folder, &config.control_socket())
}
