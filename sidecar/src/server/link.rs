//! Owns the hub's side of each link: what it consumed, and the answers that wait for room.
//!
//! Nothing here grows with what the other end asks: answers are made when there is room for them,
//! and who asks for more than is remembered, or never reads, is let go.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::listen::{ANSWERS_AHEAD_BYTES, OUTGOING_BYTES, Peer, PeerId};
use crate::path::SyncPath;
use crate::tree::{Dir, Node};
use crate::wire::{self, Blob, FromHub, Listed, OPS_PER_FRAME, WINDOW_BYTES, WireError};

/// Credit is given back in pieces of this size.
const CREDIT_STEP: u64 = WINDOW_BYTES / 8;
/// About what a remembered question takes beside its path.
const ASKED_BYTES: usize = 64;

/// An answer to be given.
pub(super) enum Asked {
    /// One directory of the record.
    Listing {
        /// Which; `None` for the root.
        path: Option<SyncPath>,
        /// As it was when it was asked for; `None` for an unknown one.
        dir: Option<Arc<Dir>>,
        /// The first child not told yet.
        next: usize,
    },
    /// Ready to be sent.
    Message(FromHub),
}

struct Link {
    peer: Peer,
    /// Consumed and not yet given back.
    consumed: u64,
    asked: VecDeque<Asked>,
    asked_bytes: usize,
}

/// All links.
#[derive(Default)]
pub(super) struct Links {
    links: HashMap<PeerId, Link>,
}

impl Links {
    pub(super) fn insert(&mut self, peer: Peer) {
        let link = Link { peer, consumed: 0, asked: VecDeque::new(), asked_bytes: 0 };
        self.links.insert(link.peer.id(), link);
    }

    /// Lets go of a link; what was sent before still goes out.
    pub(super) fn remove(&mut self, id: PeerId) {
        self.links.remove(&id);
    }

    pub(super) fn contains(&self, id: PeerId) -> bool {
        self.links.contains_key(&id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    pub(super) fn send(&self, id: PeerId, message: &FromHub) {
        if let Some(link) = self.links.get(&id) {
            link.peer.send(message);
        }
    }

    pub(super) fn send_to_all(&self, message: &FromHub) {
        self.links.values().for_each(|link| link.peer.send(message));
    }

    /// A link whose other end lets too much wait.
    pub(super) fn overrun(&self) -> Option<PeerId> {
        let over = |link: &&Link| link.peer.queued() > OUTGOING_BYTES;
        self.links.values().find(over).map(|link| link.peer.id())
    }

    /// Counts what was consumed, and gives credit back.
    pub(super) fn consume(&mut self, id: PeerId, len: usize) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.consumed += len as u64;
        if link.consumed >= CREDIT_STEP {
            let bytes = std::mem::take(&mut link.consumed);
            link.peer.send(&FromHub::Credit { bytes });
        }
    }

    /// Remembers a question; the answer goes out as soon as there is room.
    ///
    /// # Errors
    /// When more is asked than is remembered.
    pub(super) fn ask(
        &mut self,
        id: PeerId,
        asked: impl IntoIterator<Item = Asked>,
    ) -> Result<(), WireError> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        for asked in asked {
            if let Asked::Listing { path, .. } = &asked {
                link.asked_bytes += bytes_of(path.as_ref());
            }
            link.asked.push_back(asked);
        }
        if link.asked_bytes > OUTGOING_BYTES {
            return Err(WireError::Order("more questions than are answered"));
        }
        self.answer(id);
        Ok(())
    }

    /// Gives answers while there is room for them.
    pub(super) fn answer(&mut self, id: PeerId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        while link.peer.queued() < ANSWERS_AHEAD_BYTES
            && let Some(asked) = link.asked.pop_front()
        {
            match asked {
                Asked::Message(message) => link.peer.send(&message),
                Asked::Listing { path, dir, next } => {
                    let (listing, told) = listing(path.clone(), dir.as_deref(), next);
                    link.peer.send(&listing);
                    match told {
                        Some(next) => link.asked.push_front(Asked::Listing { path, dir, next }),
                        None => link.asked_bytes -= bytes_of(path.as_ref()),
                    }
                }
            }
        }
    }
}

fn bytes_of(path: Option<&SyncPath>) -> usize {
    ASKED_BYTES + path.map_or(0, |path| path.as_bytes().len())
}

/// One part of a directory's listing, and where the next one begins.
fn listing(path: Option<SyncPath>, dir: Option<&Dir>, next: usize) -> (FromHub, Option<usize>) {
    let children = dir.iter().flat_map(|dir| dir.iter()).skip(next).take(OPS_PER_FRAME);
    let children = children.map(|(name, node)| (Blob(name.to_vec()), listed(node)));
    let children = wire::batches(children).next().unwrap_or_default();
    let told = next + children.len();
    let last = dir.is_none_or(|dir| told >= dir.len());
    (FromHub::Listing { path, children, last }, (!last).then_some(told))
}

/// A node as a listing tells it.
fn listed(node: &Node) -> Listed {
    match node {
        &Node::File { digest, size, executable, .. } => Listed::File { digest, size, executable },
        Node::Symlink(target) => Listed::Symlink(Blob(target.to_vec())),
        Node::Directory(dir) => Listed::Directory(dir.id()),
    }
}
