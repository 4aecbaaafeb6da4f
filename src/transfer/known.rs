//! What is still known of content that was read: its bytes for some seconds, and for longer what a
//! change of it can be found by. The latter outlives the daemon, in a file (see `kept`).

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use e2ek_sidecar::delta::{Blocks, Sketch};
use e2ek_sidecar::tree::Digest;

use super::kept;
use super::spill::Spill;

/// Content kept from scans, in bytes: enough for the saves of some seconds.
const KEPT_BYTES: usize = 8 << 20;
/// Blocks kept, in bytes: of 5 GiB of large files.
const BLOCKS_BYTES: usize = 8 << 20;
/// Of the sketches so much outlives the daemon, in bytes: those of 60 MB of small files.
const SKETCHES_BYTES: usize = 4 << 20;
/// From here on it is worth the search for the trace that one replaces.
const LARGE_TRACE_BYTES: usize = 16 << 10;
/// About what the tables take for one of them.
const ENTRY_BYTES: usize = 80;

type Traces = LazyLock<Mutex<Remembered>, Box<dyn FnOnce() -> Mutex<Remembered> + Send>>;

/// Content that was read not long ago, by digest. Shared by all targets; the oldest goes first.
pub struct Contents {
    kept: Mutex<Aging<Arc<[u8]>>>,
    /// Read from the file when one is asked for first: most runs ask for none.
    traces: Traces,
    /// Held by who writes it.
    file: Mutex<PathBuf>,
    /// A trace came that is not in the file.
    changed: AtomicBool,
}

/// What is left of contents: of large ones in memory, of small ones in a file.
struct Remembered {
    blocks: Aging<Arc<Blocks>>,
    sketches: Spill,
}

impl Remembered {
    fn insert(&mut self, digest: Digest, trace: Trace) {
        match trace {
            Trace::Sketch(sketch) => self.sketches.insert(digest, &sketch),
            Trace::Blocks(blocks) => {
                let bytes = ENTRY_BYTES + blocks.bytes();
                self.blocks.insert(digest, blocks, bytes, BLOCKS_BYTES);
            }
        }
    }
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
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Trace {
    Sketch(Arc<Sketch>),
    Blocks(Arc<Blocks>),
}

impl Contents {
    /// With the traces that a file in this folder keeps; none where it is missing or damaged.
    #[must_use]
    pub fn kept_in(folder: &Path) -> Self {
        let file = folder.join("traces");
        let (from, folder) = (file.clone(), folder.to_owned());
        let traces = move || {
            let (blocks, sketches) = (Aging::default(), Spill::new(&folder));
            let mut remembered = Remembered { blocks, sketches };
            for (digest, trace) in kept::read(&from).unwrap_or_default() {
                remembered.insert(digest, trace);
            }
            Mutex::new(remembered)
        };
        Self {
            kept: Mutex::default(),
            traces: LazyLock::new(Box::new(traces)),
            file: Mutex::new(file),
            changed: AtomicBool::new(false),
        }
    }

    /// Whether there are traces that the file does not keep.
    #[must_use]
    pub fn is_to_be_kept(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// Puts the traces into the file, by a new one beside it: some milliseconds. Blocks.
    ///
    /// # Errors
    /// When it cannot be written; what it kept is as it was.
    pub fn keep_traces(&self) -> std::io::Result<()> {
        let file = lock(&self.file);
        if !self.changed.swap(false, Ordering::Relaxed) {
            kept::sweep(&file);
            return Ok(());
        }
        let (blocks, sketches) = {
            let traces = lock(&self.traces);
            (traces.blocks.in_order(), traces.sketches.youngest(SKETCHES_BYTES))
        };
        let blocks = blocks.into_iter().map(|(digest, blocks)| (digest, Trace::Blocks(blocks)));
        let sketches = sketches.into_iter();
        let sketches = sketches.map(|(digest, sketch)| (digest, Trace::Sketch(Arc::new(sketch))));
        kept::write(&file, blocks.chain(sketches))
    }

    /// Reads what the file keeps, if nobody has asked for it yet. Blocks for some milliseconds.
    pub fn read_traces(&self) {
        LazyLock::force(&self.traces);
    }

    /// Keeps what a scan has read.
    pub fn keep(&self, contents: HashMap<Digest, Arc<[u8]>>) {
        let mut kept = lock(&self.kept);
        for (digest, content) in contents {
            let bytes = ENTRY_BYTES + content.len();
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
        self.changed.store(true, Ordering::Relaxed);
        let mut traces = lock(&self.traces);
        if let (Some(old), Trace::Blocks(blocks)) = (replaces, &trace)
            && blocks.bytes() >= LARGE_TRACE_BYTES
        {
            traces.blocks.goes_first(old);
        }
        traces.insert(digest, trace);
    }

    /// Keeps the blocks of a file that was read and of what stood there `before`, as it is likely to
    /// be sent as a patch of that.
    pub fn sign(&self, digest: Digest, before: Option<Digest>, blocks: Arc<Blocks>) {
        self.changed.store(true, Ordering::Relaxed);
        let mut traces = lock(&self.traces);
        if let Some(before) = before.filter(|before| *before != digest) {
            traces.blocks.goes_last(before);
        }
        traces.insert(digest, Trace::Blocks(blocks));
    }

    /// The blocks of a content, where they are still known.
    #[must_use]
    pub fn blocks(&self, digest: Digest) -> Option<Arc<Blocks>> {
        lock(&self.traces).blocks.get(digest)
    }

    /// The best that is known of a content.
    pub(super) fn base(&self, digest: Digest) -> Option<Base> {
        let content = self.get(digest).map(Base::Content);
        content.or_else(|| self.traced(digest).map(Base::Trace))
    }

    pub(super) fn traced(&self, digest: Digest) -> Option<Trace> {
        let traces = lock(&self.traces);
        let sketch = traces.sketches.get(digest).map(|sketch| Trace::Sketch(Arc::new(sketch)));
        sketch.or_else(|| traces.blocks.get(digest).map(Trace::Blocks))
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
        self.take_out(digest).into_iter().for_each(|digest| self.order.push_front(digest));
    }

    /// Makes a thing the youngest.
    fn goes_last(&mut self, digest: Digest) {
        self.take_out(digest).into_iter().for_each(|digest| self.order.push_back(digest));
    }

    fn take_out(&mut self, digest: Digest) -> Option<Digest> {
        let at = self.order.iter().position(|other| *other == digest)?;
        self.order.remove(at)
    }

    /// All, the oldest first.
    fn in_order(&self) -> Vec<(Digest, T)> {
        let thing = |digest: &Digest| Some((*digest, self.get(*digest)?));
        self.order.iter().filter_map(thing).collect()
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
        aging.goes_last(digest(2));
        aging.insert(digest(8), 8, 10, 100);
        let known: Vec<_> = (0..10).filter_map(|number| aging.get(digest(number))).collect();
        assert_eq!(known, vec![2, 7, 8], "what is asked for soon goes last");
    }
}
