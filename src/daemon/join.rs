//! The second `watch` of a workspace: takes part in the first one's session and follows it, until
//! one of the two ends.
//!
//! The targets are the first one's to serve: this process only says which it wants, and what
//! happens. It takes them away by leaving, or by dying.

use std::time::{Duration, Instant};

use e2ek_sidecar::server::until;

use super::ending::HUB_ENDS_WITHIN;
use super::{LAST_WORDS, Signals, settings};
use crate::config::Config;
use crate::control::{ClientError, ControlClient, Followed, Membership, Reply};
use crate::error::Error;
use crate::report::{Desk, Event, Text};

/// Between two tries while the first one is just beginning or ending.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How long somebody may hold the lock and not listen: the first one binds its socket at once, lets go
/// of the lock at once after it, and what holds the lock for a moment is no watch.
const LISTENS_WITHIN: Duration = Duration::from_secs(2);

/// What became of a try to join.
pub(super) enum Joined {
    /// It took part until its end; the exit code.
    Over(Result<u8, Error>),
    /// The first one listens still, and ends: this may be the first soon.
    Ending,
    /// Nobody listens: this may be the first now.
    Again,
}

/// Takes part in the session that process `pid` has. Somebody was `heard` of last at that time, at the
/// latest when this process began to look.
///
/// # Errors
/// When it cannot, or was interrupted while it tried.
pub(super) async fn join(
    config: &Config,
    desk: &Desk,
    signals: &mut Signals,
    heard: Instant,
    pid: Option<u32>,
) -> Result<Joined, Error> {
    let joining = settings::joining(config)?;
    let socket = config.control_socket();
    let asked = async {
        let client = ControlClient::connect(&socket).await?;
        client.join(joining).await
    };
    let asked = tokio::select! {
        asked = asked => asked,
        why = signals.next() => return Err(why),
    };
    match asked {
        Ok(Ok(membership)) => Ok(Joined::Over(follow(config, desk, signals, membership).await)),
        Ok(Err(failure)) => Err(failure.into()),
        Err(ClientError::NoDaemon) if heard.elapsed() > LISTENS_WITHIN => {
            Err(Error::already_watched(&config.workspace.folder, pid))
        }
        Err(ClientError::NoDaemon) => again(signals, Joined::Again).await,
        Err(ClientError::Ended) => again(signals, Joined::Ending).await,
        Err(error) => Err(Error::unanswered(error, &config.workspace.folder, &socket)),
    }
}

/// That, after a moment.
async fn again(signals: &mut Signals, joined: Joined) -> Result<Joined, Error> {
    tokio::select! {
        () = tokio::time::sleep(AGAIN_AFTER) => Ok(joined),
        why = signals.next() => Err(why),
    }
}

/// Says what happens, until the end.
async fn follow(
    config: &Config,
    desk: &Desk,
    signals: &mut Signals,
    mut membership: Membership,
) -> Result<u8, Error> {
    let pid = membership.pid;
    let names = config.targets.iter().map(|target| Text::name(target.name.value.as_bytes()));
    let _ = desk.say(Event::Started {
        source: Text::from(config.workspace.folder.as_path()),
        targets: names.collect(),
        workspace: Text::name(config.workspace.id.as_str()),
    });
    let _ = desk.say(Event::Joined { pid });
    let mut leaving: Option<(Error, Instant)> = None;
    let last = loop {
        let patience = leaving.as_ref().map(|(_, at)| *at);
        tokio::select! {
            biased;
            why = signals.next() => {
                if leaving.is_some() {
                    break Followed::Ended;
                }
                let _ = desk.say(Event::Stopping { reason: why.message.as_str().into() });
                membership.leave().await;
                leaving = Some((why, Instant::now() + let_go_within(config)));
            }
            next = membership.next() => match next {
                Ok(Followed::Record(record)) => pass_on(desk, record.event),
                Ok(last) => break last,
                Err(error) => {
                    tracing::warn!(%error, "the connection to the first watch is lost");
                    break Followed::Ended;
                }
            },
            () = until(patience) => break Followed::Ended,
        }
    };
    let exit = match (leaving, last) {
        (Some((why, _)), _) => Err(why),
        (None, Followed::Over(Reply::Failed(failure))) => Err(failure.into()),
        // `stop --target` took away what it was here for.
        (None, Followed::Over(Reply::Done { .. })) => Ok(0),
        (None, _) => Err(Error::joined_ended(pid)),
    };
    let code = exit.as_ref().map_or_else(|error: &Error| error.kind.exit_code(), |code| *code);
    let _ = desk.say(Event::Stopped { exit: code });
    exit
}

/// The first one's own end has another exit code than ours.
fn pass_on(desk: &Desk, event: Event) {
    if !matches!(event, Event::Stopped { .. }) {
        let _ = desk.say(event);
    }
}

/// How long the first one may take to let go of what was wanted here.
fn let_go_within(config: &Config) -> Duration {
    config.restart.kill_after.value.saturating_add(HUB_ENDS_WITHIN).saturating_add(LAST_WORDS)
}
