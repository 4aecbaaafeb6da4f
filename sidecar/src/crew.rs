//! Jobs that make more jobs, done by several threads once they are many.
//!
//! Whoever does the jobs gathers what comes of them, each thread for itself; nobody waits for a job that
//! cannot come. A panic in one thread is one of the whole.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Jobs done before threads are started: fewer are over sooner than a thread has started.
const ALONE: usize = 16;

/// The jobs that are left.
pub struct Crew<J> {
    shared: Mutex<Shared<J>>,
    /// A job was added, or the last one done.
    changed: Condvar,
}

struct Shared<J> {
    /// Taken from the end: the last made, the first done, so that few are begun at a time.
    jobs: Vec<J>,
    /// Jobs being done.
    running: usize,
    /// Threads that wait for a job: nobody else is to be woken, which costs a system call.
    waiting: usize,
}

impl<J> Default for Crew<J> {
    fn default() -> Self {
        let shared = Shared { jobs: Vec::new(), running: 0, waiting: 0 };
        Self { shared: Mutex::new(shared), changed: Condvar::new() }
    }
}

impl<J: Send> Crew<J> {
    /// Adds jobs, and wakes whoever waits for them.
    pub fn add(&self, jobs: impl IntoIterator<Item = J>) {
        let mut shared = self.lock();
        let before = shared.jobs.len();
        shared.jobs.extend(jobs);
        match (shared.waiting, shared.jobs.len() - before) {
            (0, _) | (_, 0) => {}
            (1, _) | (_, 1) => self.changed.notify_one(),
            _ => self.changed.notify_all(),
        }
    }

    /// Does all jobs: the first few in this thread, then with up to `most` of them. Gives back what the
    /// other threads gathered.
    pub fn work_off<G: Send>(
        &self,
        most: usize,
        mine: &mut G,
        gatherer: impl Fn() -> G + Sync,
        perform: impl Fn(J, &mut G) + Sync,
    ) -> Vec<G> {
        for _ in 0..ALONE {
            let Some(job) = self.lock().jobs.pop() else { return Vec::new() };
            perform(job, mine);
        }
        // More threads than cores: cold disks gain, warm caches lose nothing.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let others = (2 * cores).max(4).min(most).saturating_sub(1);
        let (perform, gatherer) = (&perform, &gatherer);
        std::thread::scope(|scope| {
            let others: Vec<_> = (0..others)
                .map(|_| {
                    scope.spawn(move || {
                        let mut gathered = gatherer();
                        self.take_part(&mut gathered, perform);
                        gathered
                    })
                })
                .collect();
            self.take_part(mine, perform);
            let gathered = others.into_iter().map(|other| match other.join() {
                Ok(gathered) => gathered,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            gathered.collect()
        })
    }

    /// Does jobs until none is left and none can come.
    fn take_part<G>(&self, gathered: &mut G, perform: impl Fn(J, &mut G)) {
        let mut shared = self.lock();
        loop {
            if let Some(job) = shared.jobs.pop() {
                shared.running += 1;
                drop(shared);
                let done = Running(self);
                perform(job, gathered);
                drop(done);
                shared = self.lock();
            } else if shared.running == 0 {
                return;
            } else {
                shared.waiting += 1;
                shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
                shared.waiting -= 1;
            }
        }
    }
}

impl<J> Crew<J> {
    fn lock(&self) -> MutexGuard<'_, Shared<J>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a job as done, however it ends, so that nobody waits for it for ever.
struct Running<'a, J>(&'a Crew<J>);

impl<J> Drop for Running<'_, J> {
    fn drop(&mut self) {
        let mut shared = self.0.lock();
        shared.running -= 1;
        if shared.running == 0 && shared.jobs.is_empty() {
            self.0.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_is_done_once_whoever_made_it() {
        for depth in [1, 12] {
            let crew = Crew::default();
            crew.add([depth]);
            let perform = |depth: u32, count: &mut u64| {
                *count += 1;
                crew.add((1..depth).rev());
            };
            let mut mine = 0;
            let others = crew.work_off(8, &mut mine, || 0, perform);
            assert_eq!(mine + others.iter().sum::<u64>(), 1 << (depth - 1));
        }
    }
}
