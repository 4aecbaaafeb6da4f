//! Owns who enters: one workspace at a time writes to a target, and everybody is told who does.

use std::time::{Duration, Instant};

use super::length::aside;
use super::listen::PeerId;
use super::opening::NotOpened;
use super::site::Site;
use super::{Hub, Serving};
use crate::lease::Leases;
use crate::wire::{FromHub, Open, Refusal, WireError};

/// How long an earlier hub of the same workspace may take to finish.
const HAND_OVER: Duration = Duration::from_secs(15);
const HAND_OVER_STEP: Duration = Duration::from_millis(20);

/// A session that is to be opened as soon as an earlier hub has let go.
pub(super) struct Waiting {
    pub(super) id: PeerId,
    open: Open,
    /// The next try.
    pub(super) again: Instant,
    /// The last one.
    until: Instant,
}

impl Hub {
    /// Opens a session: takes up a site that waits for this workspace, or opens one.
    pub(super) async fn open(&mut self, id: PeerId, open: Open) -> Result<(), WireError> {
        let known = self.sites.iter().any(|serving| serving.peer == Some(id))
            || self.waiting.iter().any(|waiting| waiting.id == id)
            || self.is_leaving(id);
        if known {
            return Err(WireError::Order("opened twice"));
        }
        self.enter(id, open, Instant::now() + HAND_OVER).await;
        Ok(())
    }

    pub(super) async fn try_waiting(&mut self, now: Instant) {
        let due: Vec<Waiting> = self.waiting.extract_if(.., |w| w.again <= now).collect();
        for Waiting { id, open, until, .. } in due {
            self.enter(id, open, until).await;
        }
    }

    async fn enter(&mut self, id: PeerId, open: Open, until: Instant) {
        let now = Instant::now();
        if !open.dry_run {
            if let Err(refusal) = self.make_room(&open, now) {
                return self.links.send(id, &FromHub::Refused(refusal));
            }
            if let Some(at) = self.sites.iter().position(|serving| same_site(&serving.open, &open))
            {
                return self.welcome(id, at);
            }
        }
        // What lies there may have to be read to know whether it is what was written.
        let (asked, state) = (open.clone(), self.settings.state.clone());
        match aside(move || Site::open(&asked, &state)).await {
            Ok(site) => self.admit(id, open, site, now),
            Err(NotOpened::Busy(_)) if now < until => {
                let again = now + HAND_OVER_STEP;
                self.waiting.push(Waiting { id, open, again, until });
            }
            Err(NotOpened::Busy(refusal) | NotOpened::Refused(refusal)) => {
                self.links.send(id, &FromHub::Refused(refusal));
            }
        }
    }

    fn admit(&mut self, id: PeerId, open: Open, site: Site, now: Instant) {
        let mut leases = Leases::new(site.epoch().saturating_sub(1));
        let Ok(epoch) = leases.acquire(now, open.workspace, &open.writer, false) else { return };
        let serving = Serving { open, site, leases, epoch, peer: None, alone_since: None };
        self.sites.push(serving);
        self.welcome(id, self.sites.len() - 1);
    }

    fn welcome(&mut self, id: PeerId, at: usize) {
        let serving = &mut self.sites[at];
        serving.peer = Some(id);
        serving.alone_since = None;
        let ours = self.charge.as_mut().filter(|charge| same_site(&charge.open, &serving.open));
        if let Some(charge) = ours.filter(|charge| !charge.leaving) {
            charge.peer = Some(id);
            self.command.found(serving.site.receiver.held().id());
        }
        for answer in serving.site.opened() {
            self.links.send(id, &answer);
        }
    }

    /// Ends the sites that stand in the way of `open` and may: they are the same workspace's, their
    /// writer was silent for too long, or is overruled. What can go on as it is stays, with the next
    /// epoch.
    fn make_room(&mut self, open: &Open, now: Instant) -> Result<(), Refusal> {
        let mut at = 0;
        while at < self.sites.len() {
            if self.sites[at].site.is_dry() || !meet(&self.sites[at].open, open) {
                at += 1;
                continue;
            }
            let serving = &mut self.sites[at];
            let (workspace, writer) = (open.workspace, &open.writer);
            let epoch = serving.leases.acquire(now, workspace, writer, open.take_over);
            let epoch = epoch.map_err(|held| Refusal::Owned { by: held.writer, active: true })?;
            let same = same_site(&serving.open, open);
            let stays = same && !open.check && !self.command.is_idle();
            if stays && serving.site.next_epoch(open, epoch).is_ok() {
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
pub(super) fn same_site(a: &Open, b: &Open) -> bool {
    a.workspace == b.workspace && meet(a, b) && a.roots == b.roots
}

/// Whether two sessions have a root in common.
fn meet(a: &Open, b: &Open) -> bool {
    a.process == b.process && a.roots.iter().any(|root| b.roots.contains(root))
}
