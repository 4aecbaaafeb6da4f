//! What is still known of content that was read: its bytes for some seconds, and for longer what a
//! change of it can be found by.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use e2ek_sidecar::delta::{Blocks, Sketch};
use e2ek_sidecar::tree::Digest;

use super::spill::Spill;

/// Content kept from scans, in bytes: enough for the saves of some seconds.
const KEPT_BYTES: usize = 8 << 20;
/// Traces kept in memory, in bytes: of 5 GiB of large files, or of 100 MB of small ones where these
/// have no other place.
const TRACES_BYTES: usize = 8 << 20;
/// From here on it is worth the search for the trace that one replaces.
const LARGE_TRACE_BYTES: usize = 16 << 10;
/// About what the tables take for one of them.
const ENTRY_BYTES: usize = 80;

/// Content that was read not long ago, by digest. Shared by all targets; the oldest goes first.
#[derive(Default)]
pub struct Contents {
    kept: Mutex<Aging<Arc<[u8]>>>,
    traces: Mutex<Aging<Trace>>,
    /// Has the sketches, where there is a place for them.
    spill: Option<Mutex<Spill>>,
}

/// What a change of a content can be found by.
#[derive(Clone)]
pub(super) enum Base {
    /// Its bytes.
    Content(Arc<[u8]>),
    /// What was left of it.
    Trace(Trace),
}

/// What is left of a content whose bytes are gone.
#[derive(Clone)]
pub(super) enum Trace {
    Sketch(Arc<Sketch>),
    Blocks(Arc<Blocks>),
}

impl Trace {
    fn bytes(&self) -> usize {
        ENTRY_BYTES
            + match self {
                Self::Sketch(sketch) => sketch.bytes(),
                Self::Blocks(blocks) => blocks.bytes(),
            }
    }
}

impl Contents {
    /// With a folder for what would be too much to hold in memory.
    #[must_use]
    pub fn beside(folder: &Path) -> Self {
        Self { spill: Some(Mutex::new(Spill::new(folder))), ..Self::default() }
    }

    /// Keeps what a scan has read.
    pub fn keep(&self, contents: HashMap<Digest, Arc<[u8]>>) {
        let mut kept = lock(&self.kept);
        for (digest, content) in contents {
            let bytes = content.len();
            kept.insert(digest, content, bytes, KEPT_BYTES);
        }
    }

    /// Lets go of all bytes, not of what is left of others: after much was sent nothing of that is
    /// asked for again.
    pub fn clear(&self) {
        *lock(&self.kept) = Aging::default();
    }

    pub(super) fn get(&self, digest: Digest) -> Option<Arc<[u8]>> {
        lock(&self.kept).get(digest)
    }

    /// Keeps what a change of a content can be found by. Of a large one that it `replaces` the trace
    /// goes first from then on: it serves no more than a target that lags.
    pub(super) fn trace(&self, digest: Digest, trace: Trace, replaces: Option<Digest>) {
        if let (Trace::Sketch(sketch), Some(spill)) = (&trace, &self.spill) {
            return lock(spill).insert(digest, sketch);
        }
        let bytes = trace.bytes();
        let mut traces = lock(&self.traces);
        if let Some(old) = replaces.filter(|_| bytes >= LARGE_TRACE_BYTES) {
            traces.goes_first(old);
        }
        traces.insert(digest, trace, bytes, TRACES_BYTES);
    }

    /// The best that is known of a content.
    pub(super) fn base(&self, digest: Digest) -> Option<Base> {
        let content = self.get(digest).map(Base::Content);
        content.or_else(|| self.traced(digest).map(Base::Trace))
    }

    pub(super) fn traced(&self, digest: Digest) -> Option<Trace> {
        let spilt = self.spill.as_ref().and_then(|spill| lock(spill).get(digest));
        let spilt = spilt.map(|sketch| Trace::Sketch(Arc::new(sketch)));
        spilt.or_else(|| lock(&self.traces).get(digest))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Things by digest, of which the oldest goes when there are too many bytes.
struct Aging<T> {
    by_digest: HashMap<Digest, (T, usize)>,
    order: VecDeque<Digest>,
    bytes: usize,
}

impl<T> Default for Aging<T> {
    fn default() -> Self {
        Self { by_digest: HashMap::new(), order: VecDeque::new(), bytes: 0 }
    }
}

impl<T: Clone> Aging<T> {
    fn insert(&mut self, digest: Digest, thing: T, bytes: usize, most: usize) {
        if bytes > most {
            return;
        }
        match self.by_digest.insert(digest, (thing, bytes)) {
            None => self.order.push_back(digest),
            Some((_, before)) => self.bytes -= before,
        }
        self.bytes += bytes;
        while self.bytes > most
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= self.by_digest.remove(&oldest).map_or(0, |(_, bytes)| bytes);
        }
    }

    /// Makes a thing the oldest.
    fn goes_first(&mut self, digest: Digest) {
        if let Some(at) = self.order.iter().position(|other| *other == digest) {
            self.order.remove(at);
            self.order.push_front(digest);
        }
    }

    fn get(&self, digest: Digest) -> Option<T> {
        self.by_digest.get(&digest).map(|(thing, _)| thing.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i10_the_oldest_goes_when_there_is_too_much() {
        let mut aging = Aging::default();
        let digest = |number| Digest([number; 16]);
        for number in 0..5 {
            aging.insert(digest(number), number, 30, 100);
        }
        aging.insert(digest(9), 9, 101, 100);
        let known: Vec<_> = (0..10).filter_map(|number| aging.get(digest(number))).collect();
        assert_eq!((known, aging.bytes, aging.order.len()), (vec![2, 3, 4], 90, 3));
        aging.insert(digest(3), 3, 10, 100);
        assert_eq!((aging.bytes, aging.order.len()), (70, 3), "the same once");
        aging.goes_first(digest(4));
        aging.insert(digest(7), 7, 60, 100);
        let known: Vec<_> = (0..10).filter_map(|number| aging.get(digest(number))).collect();
        assert_eq!(known, vec![2, 3, 7], "what was replaced goes before what is older");
    }
}
