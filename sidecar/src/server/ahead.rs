//! Owns contents that come ahead of their generation: a thread writes, patches and hashes them in
//! staging, so that whatever else the hub does waits for none of them.
//!
//! Which may come and what may be held is bookkeeping (`receive::Ahead`); what is held is given to the
//! op that asks for it, and that is a rename. Everything ends with the link, and nothing stays behind:
//! dropped, the thread is told to stop and waited for.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc as jobs;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

use super::apply::{Fault, Made, Patching};
use super::look::{content_of, reason};
use super::root::Staged;
use super::site::Site;
use crate::delta::{NodeHasher, Nodes};
use crate::path::SyncPath;
use crate::receive::Ahead;
use crate::tree::{Digest, Entry, Node, Reason};
use crate::wire::{
    self, AHEAD_WINDOW_BYTES, Blob, FromHub, How, MAX_FRAME_BYTES, NotHeld, Op, WireError,
};

/// The most that is held in memory, where no directory takes staged content, in bytes.
const MEMORY_BYTES: u64 = 64 << 20;

/// So many bytes are told of together, as long as they come one after the other: each word back costs
/// every process on its way.
const TOLD_BYTES: u64 = AHEAD_WINDOW_BYTES / 16;
/// What was taken is told of when nothing more came for so long. Little beside what a queue may take
/// (the daemon's window), which the time from a piece to this word shows.
const TOLD_WITHIN: Duration = Duration::from_millis(2);

/// What a thread tells: of which lane, and what became of a job. Unbounded, because each stands for a
/// message that the window bounds.
pub(super) type Tell = mpsc::UnboundedSender<(u64, Done)>;

/// All that comes ahead at one site.
#[derive(Default)]
pub(super) struct Lane {
    book: Ahead,
    worker: Option<Worker>,
    /// What is held, by number.
    ready: HashMap<u64, Made>,
    /// What the contents in memory are counted with, by number.
    in_memory: HashMap<u64, u64>,
    /// Bytes that the thread was given and has not taken.
    waiting: u64,
}

/// A content that is being made.
struct Content {
    making: Making,
    digest: Digest,
    /// Of the old content's parts.
    known: Option<Arc<Nodes>>,
    /// Nobody wants it any more.
    stop: Arc<AtomicBool>,
}

enum Making {
    Whole { staged: Staged, hasher: Box<NodeHasher>, left: u64 },
    Patch(Box<Patching>),
}

enum Job {
    Begin(u64, Box<Content>),
    Data { number: u64, encoding: u8, body: Vec<u8>, len: u64 },
    End(u64),
}

/// What became of a job.
pub(super) enum Done {
    /// So many bytes of frames were taken.
    Taken(u64),
    Made(u64, Box<Made>),
    Failed(u64, NotHeld),
    /// The other end broke the protocol.
    Broken(WireError),
}

/// A thread and its jobs, or, where there can be none, what it would hold.
struct Worker {
    /// Of all workers there ever were, so that a late word is not taken for another's.
    id: u64,
    jobs: Option<jobs::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    here: HashMap<u64, Content>,
    /// Of the contents that were begun, by number.
    stops: HashMap<u64, Arc<AtomicBool>>,
    tell: Tell,
}

impl Lane {
    /// Whether its thread has this name.
    pub(super) fn is(&self, id: u64) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.id == id)
    }

    /// Gives what an op says is held.
    pub(super) fn take(&mut self, op: &Op) -> Option<Made> {
        let number = self.book.take(op)?;
        self.in_memory.remove(&number);
        self.ready.remove(&number)
    }

    /// What ops did not take that said it is held is removed.
    pub(super) fn let_go<'a>(&mut self, ops: impl IntoIterator<Item = &'a Op>) {
        for number in self.book.let_go(ops) {
            self.in_memory.remove(&number);
            self.ready.remove(&number);
        }
    }

    /// Whether it may take long to put in place what is held: it is patched where it stands.
    pub(super) fn is_long(&self) -> bool {
        self.ready.values().any(|made| matches!(made, Made::Over(_)))
    }

    /// Ends a content, whatever has become of it.
    pub(super) fn end(&mut self, number: u64) -> Result<Option<FromHub>, WireError> {
        let coming = self.book.end(number)?;
        self.ready.remove(&number);
        self.in_memory.remove(&number);
        if let Some(worker) = self.worker.as_mut() {
            worker.forget(number);
            if coming {
                worker.give(Job::End(number));
            }
        }
        Ok(coming.then_some(FromHub::NotHeld { number, why: NotHeld::Ended }))
    }

    /// Takes some of a content.
    pub(super) fn data(
        &mut self,
        number: u64,
        encoding: u8,
        body: Blob,
        len: usize,
    ) -> Result<Option<FromHub>, WireError> {
        let len = len as u64;
        let wanted = self.book.data(number)?;
        let Some(worker) = self.worker.as_mut().filter(|_| wanted) else {
            return Ok(Some(FromHub::AheadTaken { bytes: len }));
        };
        self.waiting += len;
        if self.waiting > AHEAD_WINDOW_BYTES + MAX_FRAME_BYTES as u64 {
            return Err(WireError::Order("more ahead than its window"));
        }
        worker.give(Job::Data { number, encoding, body: body.0, len });
        Ok(None)
    }

    /// What to answer when a job is done.
    pub(super) fn done(&mut self, done: Done) -> Result<Option<FromHub>, WireError> {
        Ok(match done {
            Done::Taken(bytes) => {
                self.waiting = self.waiting.saturating_sub(bytes);
                Some(FromHub::AheadTaken { bytes })
            }
            Done::Made(number, made) => {
                self.worker.iter_mut().for_each(|worker| worker.forget(number));
                // One that was ended meanwhile is dropped here, and so removed.
                let wanted = self.book.whole(number);
                wanted.then(|| {
                    self.ready.insert(number, *made);
                    FromHub::Held { number }
                })
            }
            Done::Failed(number, why) => {
                self.worker.iter_mut().for_each(|worker| worker.forget(number));
                self.in_memory.remove(&number);
                self.book.failed(number).then_some(FromHub::NotHeld { number, why })
            }
            Done::Broken(error) => return Err(error),
        })
    }
}

impl Site {
    /// A content comes ahead.
    pub(super) fn begin_ahead(
        &mut self,
        number: u64,
        op: &Op,
        tell: &Tell,
    ) -> Result<Option<FromHub>, WireError> {
        self.ahead.book.begin(number, op, self.roots.len())?;
        match self.begin_content(number, op) {
            Ok(content) => {
                let worker = self.ahead.worker.get_or_insert_with(|| Worker::new(tell.clone()));
                worker.give(Job::Begin(number, Box::new(content)));
                Ok(None)
            }
            Err(why) => {
                self.ahead.book.failed(number);
                Ok(Some(FromHub::NotHeld { number, why }))
            }
        }
    }

    fn begin_content(&mut self, number: u64, op: &Op) -> Result<Content, NotHeld> {
        let digest = content_of(op.change.new.as_ref()).unwrap_or_default();
        let known = content_of(op.change.old.as_ref()).and_then(|digest| self.parts.get(digest));
        let stop = Arc::default();
        if let Some((from, size)) = self.base_of(op)? {
            let name = format!("ahead-{number}");
            let patching = self.begin_patch(op, (from, size), &name).map_err(why)?;
            let making = Making::Patch(Box::new(patching));
            return Ok(Content { making, digest, known, stop });
        }
        let Some(Entry::File { size, .. }) = op.change.new else { return Err(NotHeld::Ended) };
        let (root, below) = self.locate(&op.change.path).ok_or(NotHeld::Fault(Reason::Name))?;
        root.ask_for_staging_again();
        let staged = root.stage(&below, size).map_err(|e| NotHeld::Fault(reason(&e)))?;
        if staged.is_in_memory() {
            let all =
                self.ahead.in_memory.values().fold(size, |sum, more| sum.saturating_add(*more));
            if all > MEMORY_BYTES {
                return Err(NotHeld::Fault(Reason::Busy));
            }
            self.ahead.in_memory.insert(number, size);
        }
        let making = Making::Whole { staged, hasher: Box::default(), left: size };
        Ok(Content { making, digest, known, stop })
    }

    /// What a content is a patch of: where that lies, and how long it is.
    fn base_of<'a>(&self, op: &'a Op) -> Result<Option<(&'a SyncPath, u64)>, NotHeld> {
        let (from, size) = match (&op.how, &op.change.old) {
            (How::Patch, Some(Entry::File { size, .. })) => (&op.change.path, *size),
            (How::Like { from }, _) => match self.receiver.held().get(from) {
                Some(&Node::File { size, .. }) => (from, size),
                _ => return Err(NotHeld::Base),
            },
            (How::Patch, _) => return Err(NotHeld::Base),
            _ => return Ok(None),
        };
        Ok(Some((from, size)))
    }

    /// Puts what came ahead in place.
    pub(super) fn put_held(&mut self, index: u32) {
        let op = self.receiver.op(index).clone();
        match self.ahead.take(&op) {
            Some(made) => self.put_made(index, made),
            None => self.receiver.skip(index, Reason::Unstable),
        }
    }
}

impl Worker {
    fn new(tell: Tell) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let stop = Arc::new(AtomicBool::new(false));
        let (give, take) = jobs::channel();
        let (said, stopped) = (tell.clone(), Arc::clone(&stop));
        let work = move || work(&take, &stopped, |done| drop(said.send((id, done))));
        let thread = std::thread::Builder::new().name("e2ek-ahead".to_owned()).spawn(work).ok();
        let jobs = thread.is_some().then_some(give);
        let (here, stops) = (HashMap::new(), HashMap::new());
        Self { id, jobs, thread, stop, here, stops, tell }
    }

    /// Leaves a content as it is; one that is still being made is not finished.
    fn forget(&mut self, number: u64) {
        if let Some(stop) = self.stops.remove(&number) {
            stop.store(true, Ordering::Relaxed);
        }
    }

    fn give(&mut self, job: Job) {
        if let Job::Begin(number, content) = &job {
            self.stops.insert(*number, Arc::clone(&content.stop));
        }
        let (id, tell) = (self.id, &self.tell);
        match &self.jobs {
            Some(jobs) => drop(jobs.send(job)),
            None => {
                perform(job, &mut self.here, |done| drop(tell.send((id, done))));
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.stops.values().for_each(|stop| stop.store(true, Ordering::Relaxed));
        self.jobs = None;
        // What it holds is removed when it has ended.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread does until it is told to stop.
fn work(jobs: &jobs::Receiver<Job>, stop: &AtomicBool, tell: impl Fn(Done)) {
    let (mut making, taken, over) = (HashMap::new(), Cell::new(0), Cell::new(false));
    let note = |done| match done {
        Done::Taken(bytes) => taken.set(taken.get() + bytes),
        done => {
            over.set(true);
            tell(done);
        }
    };
    loop {
        let job = match taken.get() {
            0 => jobs.recv().map_err(Into::into),
            _ => jobs.recv_timeout(TOLD_WITHIN),
        };
        if stop.load(Ordering::Relaxed) {
            return;
        }
        match job {
            Ok(job) => perform(job, &mut making, note),
            Err(jobs::RecvTimeoutError::Timeout) => over.set(true),
            Err(jobs::RecvTimeoutError::Disconnected) => return,
        }
        if taken.get() >= TOLD_BYTES || over.take() && taken.get() > 0 {
            tell(Done::Taken(taken.take()));
        }
    }
}

fn perform(job: Job, making: &mut HashMap<u64, Content>, tell: impl Fn(Done)) {
    match job {
        Job::Begin(number, content) => drop(making.insert(number, *content)),
        Job::End(number) => drop(making.remove(&number)),
        Job::Data { number, encoding, body, len } => {
            if let Some(content) = making.remove(&number) {
                let taken = wire::plain(encoding, body).map(|body| content.take(&body));
                match taken {
                    Ok(Ok(Progress::More(content))) => drop(making.insert(number, content)),
                    Ok(Ok(Progress::Made(made))) => {
                        tell(Done::Made(number, Box::new(made)));
                    }
                    Ok(Ok(Progress::Broken)) => {
                        tell(Done::Broken(WireError::Order("more data than the file has")));
                    }
                    Ok(Err(fault)) => tell(Done::Failed(number, why(fault))),
                    Err(error) => tell(Done::Broken(error)),
                }
            }
            tell(Done::Taken(len));
        }
    }
}

enum Progress {
    More(Content),
    Made(Made),
    Broken,
}

impl Content {
    fn take(mut self, body: &[u8]) -> Result<Progress, Fault> {
        let complete = match &mut self.making {
            Making::Patch(patching) => patching.take(body, &self.stop)?,
            Making::Whole { staged, hasher, left } => {
                let Some(rest) = left.checked_sub(body.len() as u64) else {
                    return Ok(Progress::Broken);
                };
                *left = rest;
                hasher.update(body);
                staged.write_all(body)?;
                rest == 0
            }
        };
        if !complete {
            return Ok(Progress::More(self));
        }
        let made = match self.making {
            Making::Patch(patching) => {
                patching.finish(Some(self.digest), self.known.as_deref(), &self.stop)?
            }
            Making::Whole { staged, hasher, .. } => {
                let (digest, nodes) = hasher.finish();
                if digest != self.digest {
                    // The daemon checks what it sends: another file than it said.
                    return Err(Fault::Base);
                }
                Made::Staged(staged, nodes)
            }
        };
        Ok(Progress::Made(made))
    }
}

fn why(fault: Fault) -> NotHeld {
    match fault {
        Fault::Base => NotHeld::Base,
        Fault::Write(error) => NotHeld::Fault(Reason::from(&error)),
        Fault::Root(error) => NotHeld::Fault(reason(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_one_after_the_other_is_told_of_together() {
        let (give, take) = jobs::channel();
        let len = TOLD_BYTES / 4;
        // Of a content that was ended meanwhile; the last two are not enough for a word of their own.
        for _ in 0..4 * 5 + 2 {
            let data = Job::Data { number: 1, encoding: 0, body: Vec::new(), len };
            give.send(data).ok().unwrap();
        }
        let (say, hear) = jobs::channel();
        let thread = std::thread::spawn(move || {
            let tell = |done| match done {
                Done::Taken(bytes) => say.send(bytes).unwrap(),
                _ => panic!("something else came of it"),
            };
            work(&take, &AtomicBool::new(false), tell);
        });
        let told: Vec<u64> = (0..6).map(|_| hear.recv().unwrap()).collect();
        assert_eq!(told, [&[TOLD_BYTES; 5][..], &[2 * len]].concat());
        drop(give);
        thread.join().unwrap();
        assert!(hear.recv().is_err(), "nothing is told of twice");
    }
}
