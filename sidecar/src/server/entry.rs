//! Owns who enters: one workspace at a time writes to a target, and everybody is told who does.
//!
//! Whoever wrote into a container of our pod stays on with nobody there: what was written is written
//! again when the container is started anew. Its request waits like any other's, only for ever.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::length::aside;
use super::listen::PeerId;
use super::opening::{NotOpened, is_meant};
use super::root::TargetRoot;
use super::site::Site;
use super::still::Looked;
use super::target::Target as Process;
use super::{Hub, Serving, replay};
use crate::lease::Leases;
use crate::wire::{Blob, Container, FromHub, Open, Refusal, WireError};

/// How long an earlier hub of the same workspace may take to finish.
const HAND_OVER: Duration = Duration::from_secs(15);
const HAND_OVER_STEP: Duration = Duration::from_millis(20);
/// How soon after its start a wrapper calls, at most; a container whose root is closed to us by then
/// has none.
const WRAPPER_WITHIN: Duration = Duration::from_secs(2);
/// How soon to look again for a container that is to come, at first; and at most, as the kubelet's
/// own pauses grow.
const LOOK_STEP: Duration = Duration::from_millis(10);
const LOOK_STEP_MAX: Duration = Duration::from_millis(500);
/// How soon to try again where it was refused and nobody is there, at first and at most.
const REFUSED_STEP: Duration = Duration::from_secs(1);
const REFUSED_STEP_MAX: Duration = Duration::from_secs(10);

/// What a session asks for, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) open: Open,
    /// Which container of our pod; `None`: here.
    pub(super) container: Option<Container>,
}

impl std::ops::Deref for Request {
    type Target = Open;

    fn deref(&self) -> &Open {
        &self.open
    }
}

impl Request {
    /// What is asked for. In a container a root has one name, however it was typed.
    pub(super) fn new(mut open: Open, container: Option<Container>) -> Self {
        if container.is_some() {
            for root in &mut open.roots {
                let path: PathBuf = path_of(root).components().collect();
                *root = Blob(path.into_os_string().into_vec());
            }
        }
        Self { open, container }
    }

    /// As it is gone on with: for this place, whoever is there, and whichever start of the container.
    pub(super) fn lasting(&self) -> Self {
        let open = Open { take_over: false, check: false, ..self.open.clone() };
        let container = self.container.as_ref();
        let container = container.map(|one| Container { name: one.name.clone(), id: None });
        Self { open, container }
    }

    /// The container's name.
    pub(super) fn inside(&self) -> Option<&str> {
        self.container.as_ref().map(|container| &*container.name)
    }
}

/// A session that is to be opened as soon as an earlier hub has let go, or its container runs.
pub(super) struct Waiting {
    /// Who waits; `None`: the hub itself.
    pub(super) id: Option<PeerId>,
    request: Request,
    since: Instant,
    /// The next try.
    pub(super) again: Instant,
    /// The last one.
    until: Option<Instant>,
    /// It was said that it was refused.
    told: bool,
}

impl Waiting {
    /// Tries at once.
    fn new(id: Option<PeerId>, request: Request, now: Instant, until: Option<Instant>) -> Self {
        Self { id, request, since: now, again: now, until, told: false }
    }

    fn step(&self, now: Instant) -> Duration {
        match self.id {
            Some(_) => HAND_OVER_STEP,
            None => {
                (now.saturating_duration_since(self.since) / 50).clamp(LOOK_STEP, LOOK_STEP_MAX)
            }
        }
    }
}

impl Hub {
    /// Opens a session: takes up a site that waits for this workspace, or opens one.
    pub(super) async fn open(&mut self, id: PeerId, request: Request) -> Result<(), WireError> {
        let known = self.sites.iter().any(|serving| serving.peer == Some(id))
            || self.waiting.iter().any(|waiting| waiting.id == Some(id))
            || self.is_leaving(id);
        if known {
            return Err(WireError::Order("opened twice"));
        }
        let now = Instant::now();
        let until = Some(now + HAND_OVER);
        self.enter(Waiting::new(Some(id), request, now, until)).await;
        Ok(())
    }

    /// Looks at once for who waits: a wrapper has called.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.waiting.iter_mut().for_each(|waiting| waiting.again = now);
    }

    /// Goes on with what was asked for, with nobody there, as soon as its container runs.
    pub(super) fn stand_by(&mut self, request: Request) {
        self.waiting.push(Waiting::new(None, request, Instant::now(), None));
    }

    pub(super) async fn try_waiting(&mut self, now: Instant) {
        let mut due: Vec<Waiting> = self.waiting.extract_if(.., |w| w.again <= now).collect();
        // What a container lost at several places is written again before its command is started.
        let with = |waiting: &mut Waiting| {
            let same = |one: &Waiting| {
                one.id.is_none() && one.request.inside() == waiting.request.inside()
            };
            waiting.id.is_none() && due.iter().any(same)
        };
        let others: Vec<Waiting> = self.waiting.extract_if(.., with).collect();
        due.extend(others);
        for waiting in due {
            self.enter(waiting).await;
        }
        (0..self.sites.len()).for_each(|at| self.start_wrapped(at));
    }

    async fn enter(&mut self, waiting: Waiting) {
        let now = Instant::now();
        let (id, open) = (waiting.id, &waiting.request);
        let another = self.serves_another(open);
        if !open.dry_run && another.is_none() {
            let taken = |serving: &Serving| meet(&serving.open, open) || serving.is_near(open);
            if id.is_none() && self.sites.iter().any(taken) {
                // Somebody came in before us.
                return;
            }
            if let Err(refusal) = self.make_room(open, now) {
                return self.refuse_entry(id, refusal);
            }
            if let Some(at) = self.sites.iter().position(|serving| same_site(&serving.open, open)) {
                return self.welcome(id, at);
            }
        }
        // What lies there may have to be read to know whether it is what was written, and what a
        // container lost is written again.
        let (asked, settings) = (open.clone(), self.settings.clone());
        let given = open.inside().and_then(|name| self.wrappers.root(name));
        let opened = match another {
            // Nobody who writes there is sent away before it is known who is meant.
            Some(refusal) => Err(NotOpened::Busy(refusal)),
            None => aside(move || Site::open(&asked, &settings, given)).await,
        };
        match opened {
            Ok(site) => self.admit(id, waiting.request, site, now),
            // What hides itself at first may be a wrapper that is about to call.
            Err(NotOpened::Busy(Refusal::Forbidden(why)))
                if id.is_some() && now > waiting.since + WRAPPER_WITHIN =>
            {
                self.refuse_entry(id, Refusal::Forbidden(why));
            }
            Err(NotOpened::Busy(_)) if waiting.until.is_none_or(|until| now < until) => {
                self.wait_on(waiting, now);
            }
            // The app may be about to make it.
            Err(NotOpened::Refused(Refusal::NotFound(_))) if id.is_none() => {
                self.wait_on(waiting, now);
            }
            // Of too many files or too little room there may be an end, and nobody else asks again.
            Err(NotOpened::Busy(why) | NotOpened::Refused(why) | NotOpened::Full(why))
                if id.is_none() =>
            {
                if !waiting.told {
                    self.refuse_entry(id, why);
                }
                let step = (now.saturating_duration_since(waiting.since) / 10)
                    .clamp(REFUSED_STEP, REFUSED_STEP_MAX);
                self.waiting.push(Waiting { again: now + step, told: true, ..waiting });
            }
            Err(NotOpened::Busy(why) | NotOpened::Refused(why) | NotOpened::Full(why)) => {
                self.refuse_entry(id, why);
            }
        }
    }

    /// Why a container that is served already is not the one that is meant.
    fn serves_another(&self, open: &Request) -> Option<Refusal> {
        let container = open.container.as_ref()?;
        let there = self.sites.iter().filter(|serving| meet(&serving.open, open));
        let mut identities =
            there.filter_map(|serving| Some(serving.site.inside.as_ref()?.identity()));
        identities.find_map(|identity| is_meant(identity, container).err())
    }

    fn wait_on(&mut self, waiting: Waiting, now: Instant) {
        let again = now + waiting.step(now);
        self.waiting.push(Waiting { again, ..waiting });
    }

    fn refuse_entry(&self, id: Option<PeerId>, refusal: Refusal) {
        match id {
            Some(id) => self.links.send(id, &FromHub::Refused(refusal)),
            None => warn!(?refusal, "what was written into a container is not written again yet"),
        }
    }

    fn admit(&mut self, id: Option<PeerId>, open: Request, mut site: Site, now: Instant) {
        site.tell_kept(&self.kept);
        let mut leases = Leases::new(site.epoch().saturating_sub(1));
        let Ok(epoch) = leases.acquire(now, open.workspace, &open.writer, false) else { return };
        if id.is_none() {
            // Nobody writes until somebody comes.
            leases.release(epoch);
        } else if open.container.is_some() && !open.dry_run {
            replay::stand_alone(&self.settings.state, &open);
        }
        self.serial += 1;
        let serial = self.serial;
        let process = site.process.as_ref().filter(|_| open.container.is_some());
        let end = process.map(|process| self.watch_end(serial, process));
        let alone_since = id.is_none().then_some(now);
        let serving = Serving {
            serial,
            open,
            site,
            leases,
            epoch,
            peer: None,
            alone_since,
            looked: Looked::No,
            runs: false,
            credit: 0,
            left_out: 0,
            _end: end,
        };
        self.sites.push(serving);
        if id.is_some() {
            self.start_wrapped(self.sites.len() - 1);
        }
        self.welcome(id, self.sites.len() - 1);
    }

    fn welcome(&mut self, id: Option<PeerId>, at: usize) {
        let Some(id) = id else { return };
        let serving = &mut self.sites[at];
        serving.peer = Some(id);
        serving.alone_since = None;
        serving.looked = Looked::No;
        (serving.runs, serving.left_out) = (false, 0);
        if let Some(name) = serving.open.inside() {
            self.wrappers.found(name, serving.site.receiver.held().id());
        }
        let ours = self.charge.as_mut().filter(|charge| same_site(&charge.open, &serving.open));
        if let Some(charge) = ours.filter(|charge| !charge.leaving) {
            charge.peer = Some(id);
            self.command.found(serving.site.receiver.held().id());
        }
        for answer in serving.site.opened() {
            self.links.send(id, &answer);
        }
        serving.site.tell_unkept_again();
        if let Some(told) = serving.site.not_replayable() {
            self.links.send(id, &told);
        }
    }

    /// Ends the sites that stand in the way of `open` and may: they are the same workspace's, their
    /// writer was silent for too long, or is overruled. What can go on as it is stays, with the next
    /// epoch.
    fn make_room(&mut self, open: &Request, now: Instant) -> Result<(), Refusal> {
        let mut at = 0;
        while at < self.sites.len() {
            let serving = &mut self.sites[at];
            if serving.site.is_dry() || !meet(&serving.open, open) {
                // One that was left and lies above, below or at another name gives way as well, unless
                // its lease holds: then the claim of its place says whose it is.
                let (workspace, writer) = (open.workspace, &open.writer);
                let left =
                    !serving.site.is_dry() && serving.peer.is_none() && serving.is_near(open);
                if left && serving.leases.acquire(now, workspace, writer, open.take_over).is_ok() {
                    self.let_go(at);
                } else {
                    at += 1;
                }
                continue;
            }
            let serving = &mut self.sites[at];
            let (workspace, writer) = (open.workspace, &open.writer);
            let epoch = serving.leases.acquire(now, workspace, writer, open.take_over);
            let epoch = epoch.map_err(|held| Refusal::Owned { by: held.writer, active: true })?;
            let same = same_site(&serving.open, open);
            let stays = !self.command.is_idle() || serving.is_as_left(open, now);
            let stays = stays && same && !open.check;
            if stays && serving.site.next_epoch(open, epoch).is_ok() {
                debug!(generation = serving.site.receiver.generation(), "goes on as it was left");
                serving.epoch = epoch;
            } else {
                serving.epoch = 0;
            }
            let (stays, peer) = (serving.epoch == epoch, serving.peer.take());
            serving.site.abandon();
            if let Some(peer) = peer {
                let refusal = to_replaced(&serving.open, open);
                self.links.send(peer, &FromHub::Refused(refusal));
                self.unlink(peer);
            }
            if stays {
                self.sites[at].open = open.clone();
                at += 1;
            } else if same {
                // Opened anew: what somebody changed meanwhile is found. The command goes on.
                let serving = self.sites.remove(at);
                serving.site.close();
            } else {
                self.let_go(at);
            }
        }
        Ok(())
    }
}

impl Serving {
    /// Whether a session leads to the same place of the same container as this one, above or below it:
    /// links in the container count.
    fn is_near(&self, open: &Request) -> bool {
        if self.open.inside().is_none() || self.open.inside() != open.inside() {
            return false;
        }
        let named = |request: &Request| -> Vec<PathBuf> {
            let process = self.site.process.as_ref();
            request.roots.iter().map(|root| name_in(process, path_of(root))).collect()
        };
        near(&named(&self.open), &named(open))
    }
}

/// Whether a path of one is that of another, above or below it.
pub(super) fn near(some: &[PathBuf], others: &[PathBuf]) -> bool {
    let mut all = some.iter().flat_map(|a| others.iter().map(move |b| (a, b)));
    all.any(|(a, b)| a.starts_with(b) || b.starts_with(a))
}

/// The name of a directory in a process's root, without links; as it was typed, where none is there.
pub(super) fn name_in(process: Option<&Process>, path: &Path) -> PathBuf {
    let named = process.and_then(|process| TargetRoot::name_in_process(process, path));
    named.unwrap_or_else(|| path.to_owned())
}

pub(super) fn path_of(root: &Blob) -> &Path {
    Path::new(OsStr::from_bytes(&root.0))
}

/// What a session is told that has to make room for another. One of the same writer may be its own:
/// a link that was given up and whose first message came late. It tries again then.
fn to_replaced(before: &Open, after: &Open) -> Refusal {
    if before.workspace == after.workspace && before.writer == after.writer {
        Refusal::Superseded
    } else {
        Refusal::Owned { by: after.writer.clone(), active: true }
    }
}

/// Whether two sessions are of one workspace and lead to the same place.
pub(super) fn same_site(a: &Request, b: &Request) -> bool {
    a.workspace == b.workspace && meet(a, b) && a.roots == b.roots
}

/// Whether two sessions have a root in common.
fn meet(a: &Request, b: &Request) -> bool {
    a.inside() == b.inside()
        && a.process == b.process
        && a.roots.iter().any(|root| b.roots.contains(root))
}

#[cfg(test)]
mod tests;
