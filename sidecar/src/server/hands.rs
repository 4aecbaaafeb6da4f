//! Owns the threads that put new files in place, while the hub reads what comes next.
//!
//! What they do needs no record: a file that was not there is made, or it turns out that the matter
//! is not so simple, and the hub does it its usual way when it gathers what was done. It gathers
//! before anything else happens in the generation (`apply`).

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::root::{PutMeta, TargetRoot, Within};
use crate::path::SyncPath;
use crate::tree::{Digest, Stamp};

/// Threads: what a file takes is mostly the kernel's work in two directories at a time.
const THREADS: usize = 2;
/// Frames that may wait, in all at most a megabyte of content; beyond, the hub waits.
pub(super) const AHEAD: usize = 8;

/// A file to be made.
pub(super) struct NewFile {
    /// Of the op.
    pub(super) index: u32,
    pub(super) root: Arc<TargetRoot>,
    /// Below the root.
    pub(super) path: SyncPath,
    /// Of the content in its frame.
    pub(super) range: Range<usize>,
    pub(super) digest: Digest,
    pub(super) meta: PutMeta,
}

/// The new files of one frame.
pub(super) struct Job {
    pub(super) body: Arc<[u8]>,
    pub(super) files: Vec<NewFile>,
}

/// What became of a [`Job`].
pub(super) struct Done {
    pub(super) body: Arc<[u8]>,
    /// Op, content, and the stamp of the file; `None` when it was not made.
    pub(super) files: Vec<(u32, Range<usize>, Option<Stamp>)>,
}

/// The threads. Dropped, they end after the job they are at.
pub(super) struct Hands {
    jobs: Sender<Job>,
    done: Receiver<Done>,
    /// Jobs handed out and not gathered.
    waiting: usize,
}

impl Hands {
    /// Starts them.
    ///
    /// # Errors
    /// When not even one can be started.
    pub(super) fn new() -> std::io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let (tell, done) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..THREADS {
            let (queue, tell) = (Arc::clone(&queue), tell.clone());
            let work = move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    if tell.send(perform(&job)).is_err() {
                        return;
                    }
                }
            };
            let started = std::thread::Builder::new().name("hand".to_owned()).spawn(work);
            if number == 0 {
                started?;
            }
        }
        Ok(Self { jobs, done, waiting: 0 })
    }

    /// Hands out a job.
    pub(super) fn give(&mut self, job: Job) {
        if self.jobs.send(job).is_ok() {
            self.waiting += 1;
        }
    }

    /// What was done of a job, waiting for it when more than `ahead` are out; `None` when not more
    /// are and none is ready.
    pub(super) fn gather(&mut self, ahead: usize) -> Option<Done> {
        let done =
            if self.waiting > ahead { self.done.recv().ok() } else { self.done.try_recv().ok() };
        self.waiting -= usize::from(done.is_some());
        done
    }
}

fn perform(job: &Job) -> Done {
    let mut within = Within::default();
    let mut root: Option<&Arc<TargetRoot>> = None;
    let files = job.files.iter().map(|file| {
        if !root.is_some_and(|root| Arc::ptr_eq(root, &file.root)) {
            within = Within::default();
            root = Some(&file.root);
        }
        let content = &job.body[file.range.clone()];
        let made = (Digest::of(content) == file.digest)
            .then(|| file.root.put_new(&file.path, content, &file.meta, &mut within).ok());
        (file.index, file.range.clone(), made.flatten())
    });
    Done { files: files.collect(), body: Arc::clone(&job.body) }
}
