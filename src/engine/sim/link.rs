//! The links: messages on their way, in order, until they are cut, stalled or tampered with.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use e2ek_sidecar::tree::TreeId;
use e2ek_sidecar::wire::{self, Decoder, FromHub, Op, ToHub};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::clock::{Clock, Event};
use super::seed::Rng;
use crate::engine::session::TargetId;

/// Whoever hears nothing for so long gives a link up (`server::listen::DEAD_AFTER`).
const DEAD_AFTER: u64 = 15_000_000;
/// After the network changed the daemon gives one up that says nothing for so long: a hub that has
/// nothing to do answers, and a busy one says something every five seconds (`daemon::link`).
const PROBED_WITHIN: [u64; 2] = [2_000_000, 7_000_000];

/// On its way to the hub.
pub(super) enum Down {
    Message(ToHub),
    /// Content that is read when its turn comes.
    Data {
        generation: u64,
        ops: Arc<[Op]>,
        indices: Vec<u32>,
        commit: TreeId,
    },
    /// Content that goes ahead of its generation, read and sent bit by bit between other things: what
    /// it is for, and how many bits were sent.
    Ahead {
        number: u64,
        op: Op,
        bits: u32,
    },
    /// Content: op, and where in the file it lies.
    Pieces(Vec<(u32, Range<usize>)>),
}

#[derive(Default)]
pub(super) struct Link {
    pub(super) down: VecDeque<Down>,
    pub(super) up: VecDeque<FromHub>,
    /// When the last message on its way arrives: they keep their order.
    down_at: u64,
    up_at: u64,
    cut: bool,
    /// Nothing arrives before.
    stalled_until: u64,
    /// Of the lease that the hub gave for it.
    pub(super) epoch: Option<u64>,
    /// Messages were exchanged or doubled: either end may refuse to go on.
    pub(super) tampered: bool,
}

/// All links there ever were.
pub(super) struct Wires {
    links: BTreeMap<(TargetId, u64), Link>,
    /// The connection that the daemon holds.
    pub(super) current: Vec<Option<u64>>,
    serial: u64,
    /// In microseconds; a message takes up to twice that.
    latency: u64,
}

impl Wires {
    pub(super) fn new(targets: usize, latency: u64) -> Self {
        Self { links: BTreeMap::new(), current: vec![None; targets], serial: 0, latency }
    }

    pub(super) fn connect(&mut self, target: TargetId) {
        self.serial += 1;
        self.links.insert((target, self.serial), Link::default());
        self.current[target] = Some(self.serial);
    }

    pub(super) fn get(&mut self, target: TargetId, serial: u64) -> &mut Link {
        self.links.get_mut(&(target, serial)).expect("a link is never forgotten")
    }

    /// Whether the hub gave an epoch to a link that was made later.
    pub(super) fn has_newer_epoch(&self, target: TargetId, serial: u64) -> bool {
        let newer = self.links.range((target, serial + 1)..=(target, u64::MAX));
        newer.into_iter().any(|(_, link)| link.epoch.is_some())
    }

    pub(super) fn now(&mut self, target: TargetId) -> Option<&mut Link> {
        let serial = self.current[target]?;
        Some(self.get(target, serial))
    }

    /// Sends to the hub; the daemon must have a connection.
    pub(super) fn send(&mut self, target: TargetId, item: Down, clock: &mut Clock, rng: &mut Rng) {
        let Some(serial) = self.current[target] else {
            panic!("i14: a message without a connection");
        };
        let takes = self.latency + rng.below(self.latency);
        let link = self.get(target, serial);
        if !link.cut {
            link.down.push_back(item);
            link.down_at = link.down_at.max(clock.now + takes);
            clock.after(link.down_at - clock.now, Event::ToHub { target, serial });
        }
    }

    /// Puts an item behind all that is on its way to the hub, in a cut link nothing.
    pub(super) fn push_back(
        &mut self,
        target: TargetId,
        serial: u64,
        item: Down,
        clock: &mut Clock,
        rng: &mut Rng,
    ) {
        let takes = 1 + rng.below(self.latency);
        let link = self.get(target, serial);
        if !link.cut {
            link.down.push_back(item);
            link.down_at = link.down_at.max(clock.now + takes);
            clock.after(link.down_at - clock.now, Event::ToHub { target, serial });
        }
    }

    /// Sends to the daemon.
    pub(super) fn answer(
        &mut self,
        (target, serial): (TargetId, u64),
        message: FromHub,
        clock: &mut Clock,
        rng: &mut Rng,
    ) {
        let takes = self.latency + rng.below(self.latency);
        let link = self.get(target, serial);
        if !link.cut {
            link.up.push_back(message);
            link.up_at = link.up_at.max(clock.now + takes);
            clock.after(link.up_at - clock.now, Event::ToDaemon { target, serial });
        }
    }

    /// Puts what was read for an item in that item's place: it arrives before what was sent later.
    pub(super) fn expand(
        &mut self,
        target: TargetId,
        serial: u64,
        items: Vec<Down>,
        clock: &mut Clock,
    ) {
        let link = self.get(target, serial);
        let count = items.len() as u64;
        for item in items.into_iter().rev() {
            link.down.push_front(item);
        }
        link.down_at = link.down_at.max(clock.now + count);
        (0..count).for_each(|i| clock.after(i, Event::ToHub { target, serial }));
    }

    /// Cuts the daemon's link. Some of what is on its way still arrives; each end notices when it
    /// does, the hub perhaps only after others came.
    pub(super) fn cut(&mut self, target: TargetId, clock: &mut Clock, rng: &mut Rng) {
        let Some(serial) = self.current[target] else { return };
        let link = self.get(target, serial);
        if std::mem::replace(&mut link.cut, true) {
            return;
        }
        let unread = (link.down.iter())
            .position(|item| matches!(item, Down::Data { .. } | Down::Ahead { .. }));
        let arrives = rng.below(unread.unwrap_or(link.down.len()) as u64 + 1) as usize;
        link.down.truncate(arrives);
        let arrives = rng.below(link.up.len() as u64 + 1) as usize;
        link.up.truncate(arrives);
        let late = if rng.one_in(4) { DEAD_AFTER } else { 30_000 };
        let (a, b) = (rng.below(30_000), rng.below(late));
        clock.after(a, Event::Lost { target, serial });
        clock.after(b, Event::Unlink { target, serial });
    }

    /// Nothing arrives for a while, either way. Too long a while is noticed by both ends.
    pub(super) fn stall(&mut self, target: TargetId, micros: u64, clock: &mut Clock) {
        let Some(serial) = self.current[target] else { return };
        let until = clock.now + micros;
        let link = self.get(target, serial);
        link.stalled_until = link.stalled_until.max(until);
        link.down_at = link.down_at.max(until);
        link.up_at = link.up_at.max(until);
        if micros >= DEAD_AFTER {
            clock.after(DEAD_AFTER, Event::Lost { target, serial });
            clock.after(DEAD_AFTER, Event::Unlink { target, serial });
        }
    }

    /// The network changed: the daemon gives its link up if nothing can arrive in time. The hub does not
    /// notice. `quiet`: it has nothing to do. Returns whether.
    pub(super) fn probe(&mut self, target: TargetId, quiet: bool, clock: &mut Clock) -> bool {
        let Some(serial) = self.current[target] else { return false };
        let patience = PROBED_WITHIN[usize::from(!quiet)];
        let silent = self.get(target, serial).stalled_until > clock.now + patience;
        if silent {
            clock.after(patience, Event::Lost { target, serial });
        }
        silent
    }

    /// When a message that is due now really arrives, if it is later.
    pub(super) fn delayed(&mut self, target: TargetId, serial: u64, now: u64) -> Option<u64> {
        let until = self.get(target, serial).stalled_until;
        (until > now).then(|| until - now)
    }

    /// Exchanges or doubles what is on its way: no carrier does, but an enemy may. Returns whether.
    pub(super) fn tamper(&mut self, target: TargetId, clock: &mut Clock, rng: &mut Rng) -> bool {
        let Some(serial) = self.current[target] else { return false };
        let (up, twice) = (rng.one_in(2), rng.one_in(2));
        let link = self.get(target, serial);
        let (arrives, event) = if up {
            let copy = link.up.front().cloned().filter(|_| twice);
            disorder(&mut link.up, copy);
            (link.up_at, Event::ToDaemon { target, serial })
        } else {
            let copy = match link.down.front() {
                Some(Down::Message(first)) if twice => Some(Down::Message(first.clone())),
                _ => None,
            };
            disorder(&mut link.down, copy);
            (link.down_at, Event::ToHub { target, serial })
        };
        link.tampered = true;
        clock.after(arrives.saturating_sub(clock.now), event);
        true
    }
}

/// Puts a copy before the first, or exchanges the first two.
fn disorder<T>(queue: &mut VecDeque<T>, copy: Option<T>) {
    match copy {
        Some(copy) => queue.push_front(copy),
        None if queue.len() > 1 => queue.swap(0, 1),
        None => {}
    }
}

/// What becomes of a message's frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum FrameFault {
    /// Nothing of it arrives.
    Edge,
    /// Some bytes arrive, and then no more.
    Inside,
    /// One bit is another.
    Flip,
}

impl FrameFault {
    pub(super) const NAMES: [(Self, &'static str); 3] = [
        (Self::Edge, "cut between frames"),
        (Self::Inside, "cut within a frame"),
        (Self::Flip, "a bit flipped on the way"),
    ];
}

/// Carries a message through its frame, damaged: nothing may come out at the other end.
pub(super) fn i11_damaged<M: Serialize + DeserializeOwned>(
    message: &M,
    fault: FrameFault,
    rng: &mut Rng,
) {
    let mut bytes = Vec::new();
    wire::encode(message, &mut bytes);
    match fault {
        FrameFault::Edge => return,
        FrameFault::Inside => bytes.truncate(rng.below(bytes.len() as u64) as usize),
        FrameFault::Flip => {
            let at = rng.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << rng.below(8);
        }
    }
    let mut decoder = Decoder::default();
    let half = bytes.len() / 2;
    decoder.feed(&bytes[..half]);
    decoder.feed(&bytes[half..]);
    let came = decoder.message::<M>();
    assert!(!matches!(came, Ok(Some(_))), "i11: a damaged frame is taken for a message");
}

/// Carries a message through its frame.
pub(super) fn carried<M: Serialize + DeserializeOwned>(message: &M) -> M {
    let mut bytes = Vec::new();
    wire::encode(message, &mut bytes);
    let mut decoder = Decoder::default();
    decoder.feed(&bytes);
    let came = decoder.message().expect("a whole frame is a message");
    came.expect("a whole frame is a message").0
}
