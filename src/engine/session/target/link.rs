//! A target's link: made, opened, compared over, lost and made again.

use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Snapshot, TreeId};
use e2ek_sidecar::wire::{Blob, Listed, ToHub, WireError, batches};

use super::super::compare::{Compare, Progress};
use super::super::{Closing, Effect, Settings};
use super::{Link, RETRY_FIRST, Target};

/// Longest wait between two tries to connect.
const CONNECT_RETRY_MAX: Duration = Duration::from_secs(5);
/// Links that a hub opened are made again at once, though not more often than this when they end as
/// soon as they open.
const REOPEN_EVERY: Duration = Duration::from_millis(50);
/// So many links in a row may end over a generation that was never answered before they are made again
/// ever later: a hub that dies of what it is sent is not kept busy with it.
const FRUITLESS_MAX: u32 = 10;
/// A link that lasted so long was good.
const LASTED: Duration = Duration::from_secs(5);
/// So often in a row a link may be superseded by one of the same writer. A link of ours that was given
/// up and comes late does it once; who goes on is another daemon, and of two the newer one stays, as
/// it was superseded once less.
const SUPERSEDED_MAX: u32 = 5;

impl Target {
    pub(in crate::engine::session) fn connect(&mut self, effects: &mut Vec<Effect>) {
        self.link = Link::Opening;
        self.connect_at = None;
        effects.push(Effect::Connect(self.id));
    }

    /// The way to the hub may be another by now: what waits is tried at once, and so is the next try if
    /// the one under way fails.
    pub(in crate::engine::session) fn reconnect(&mut self, effects: &mut Vec<Effect>) {
        self.connect_wait = Duration::ZERO;
        if self.connect_at.is_some() {
            self.connect(effects);
        }
    }

    pub(in crate::engine::session) fn link_down(&mut self, now: Instant, settings: &Settings) {
        if matches!(self.link, Link::Refused) {
            return;
        }
        self.fruitless = if self.in_flight.is_empty() { 0 } else { self.fruitless + 1 };
        // After a link that the hub opened the first try is made at once; those that never get that far
        // are made ever later.
        if let Some(opened) = self.opened_at.take()
            && (self.fruitless <= FRUITLESS_MAX || opened + LASTED <= now)
        {
            let young = opened + REOPEN_EVERY > now;
            let most = if young { REOPEN_EVERY } else { Duration::ZERO };
            self.connect_wait = self.connect_wait.min(most);
        }
        self.connect_at = Some(now + self.connect_wait);
        self.connect_wait = (self.connect_wait * 2).clamp(RETRY_FIRST, CONNECT_RETRY_MAX);
        self.link = Link::Down;
        self.in_flight.clear();
        (self.astray, self.waits_for_more) = (false, false);
        self.lane.link_down();
        self.begun_before |= std::mem::take(&mut self.begun);
        self.sent = self.acked.clone();
        self.unsure = None;
        self.mirror.link_down();
        self.command.link_down(now, settings);
        self.forget_refused();
    }

    /// We end the link; until the daemon says that it is down nothing more is said on it.
    pub(in crate::engine::session) fn close(&mut self, why: Closing, effects: &mut Vec<Effect>) {
        if !matches!(self.link, Link::Down | Link::Refused) {
            self.link = Link::Down;
            effects.push(Effect::Close(self.id, why));
        }
    }

    /// The hub listens to another link of this writer. Whether to try again.
    pub(in crate::engine::session) fn superseded(&mut self, now: Instant) -> bool {
        if self.opened_at.is_some_and(|at| at + LASTED <= now) {
            self.superseded = 0;
        } else {
            self.opened_at = None;
        }
        self.superseded += 1;
        self.superseded <= SUPERSEDED_MAX
    }

    pub(in crate::engine::session) fn was_open(&self) -> bool {
        self.was_open
    }

    pub(in crate::engine::session) fn refused(&mut self) {
        self.link = Link::Refused;
        self.connect_at = None;
    }

    pub(in crate::engine::session) fn opened(
        &mut self,
        now: Instant,
        tree: TreeId,
        generation: u64,
        populated: bool,
    ) -> Result<(), Closing> {
        if !matches!(self.link, Link::Opening) {
            return Err(Closing::Protocol(WireError::Order("opened twice")));
        }
        self.last_used = generation;
        self.opened_at = Some(now);
        self.was_open = true;
        self.ask = populated;
        self.link = Link::Told(tree);
        Ok(())
    }

    /// Finds out what the hub holds: known here, or asked for where it differs.
    pub(super) fn compare(&mut self, tree: TreeId, local: &Snapshot, effects: &mut Vec<Effect>) {
        let empty = Snapshot::empty();
        let known = [&self.acked, local, &empty].into_iter().find(|known| known.id() == tree);
        match known.cloned() {
            Some(same) => self.ready(same),
            None => {
                let known = vec![local.clone(), self.acked.clone()];
                self.link = Link::Comparing(Compare::new(tree, known));
                effects.push(Effect::Send(self.id, ToHub::Describe { paths: Vec::new() }));
            }
        }
    }

    pub(in crate::engine::session) fn listing(
        &mut self,
        path: Option<&SyncPath>,
        children: Vec<(Blob, Listed)>,
        last: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Closing> {
        let Link::Comparing(compare) = &mut self.link else {
            return Err(Closing::Protocol(WireError::Order("a listing that was not asked for")));
        };
        let path = path.cloned().unwrap_or_default();
        match compare.listing(&path, children, last).map_err(Closing::Protocol)? {
            Progress::Ask(paths) => effects.extend(
                batches(paths).map(|paths| Effect::Send(self.id, ToHub::Describe { paths })),
            ),
            Progress::Waiting => {}
            Progress::Tree(tree) => self.ready(tree),
        }
        Ok(())
    }

    fn ready(&mut self, tree: Snapshot) {
        self.sent = tree.clone();
        self.acked = tree;
        self.unsure = None;
        self.filling = true;
        self.in_parts = false;
        self.link = Link::Ready;
        self.ever_ready = true;
    }
}
