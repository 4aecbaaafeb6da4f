//! Owns what a hub does at length. The links' tasks run on the hub's own thread; what may keep that
//! for seconds (reading all that lies at a target, making or removing thousands of files) is done by
//! another one, so that both ends go on hearing each other. Nothing else is handled meanwhile.
//!
//! What is short is done at once: a save must not wait for a thread.

use std::sync::mpsc;

use tokio::sync::oneshot;

use super::Hub;
use super::site::Site;
use crate::tree::Entry;
use crate::wire::{How, Op};

/// Ops that may take long whatever they are: about 0.1 s.
const MANY: usize = 2000;
/// Content at the target that takes long to read: about 0.1 s, in bytes.
const MUCH: u64 = 64 << 20;

/// Whether ops may take long to perform.
pub(super) fn is_long<'a>(ops: impl Iterator<Item = &'a Op>) -> bool {
    let (mut count, mut bytes) = (0, 0_u64);
    for op in ops {
        count += match op.how {
            How::Tree { count, .. } => count as usize + 1,
            _ => 1,
        };
        if let (
            How::Ask | How::Copy { .. } | How::Patch | How::Like { .. } | How::Held,
            Some(Entry::File { size, .. }),
        ) = (&op.how, &op.change.new)
        {
            bytes = bytes.saturating_add(*size);
        }
    }
    count >= MANY || bytes >= MUCH
}

impl Hub {
    /// Does something at a site: at once, or aside when it may take long.
    pub(super) async fn at_site<T: Send + 'static>(
        &mut self,
        at: usize,
        is_long: bool,
        work: impl FnOnce(&mut Site) -> T + Send + 'static,
    ) -> T {
        if !is_long {
            return work(&mut self.sites[at].site);
        }
        let mut serving = self.sites.remove(at);
        let (serving, result) = aside(move || {
            let result = work(&mut serving.site);
            (serving, result)
        })
        .await;
        self.sites.insert(at, serving);
        result
    }
}

/// Has another thread do it; where there can be none, does it here.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (give, take) = mpsc::channel();
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("e2ek-aside".to_owned()).spawn(move || {
        // Nothing comes when nobody waits any longer; then nobody listens either.
        if let Ok(work) = take.recv() {
            let work: Box<dyn FnOnce() -> T + Send> = work;
            let _ = done.send(work());
        }
    });
    if thread.is_err() {
        return work();
    }
    let _ = give.send(Box::new(work));
    result.await.expect("the other thread answers unless it panics, and then so does this one")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::path::SyncPath;
    use crate::tree::{Change, Digest};
    use crate::wire::Meta;

    #[test]
    fn tasks_go_on_while_something_is_done_at_length() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let heard = runtime.block_on(async {
            let (say, hear) = mpsc::channel();
            // As a link's task that says that it lives.
            tokio::spawn(async move { say.send(()).unwrap() });
            aside(move || hear.recv_timeout(Duration::from_secs(20)).is_ok()).await
        });
        assert!(heard);
    }

    #[test]
    fn what_reads_or_changes_much_is_long_and_a_save_is_not() {
        let op = |how, size| {
            let new = Entry::File { digest: Digest::of(b""), size, executable: false };
            let change = Change { path: SyncPath::root(), old: None, new: Some(new) };
            Op { change, how, meta: Meta::default() }
        };
        assert!(!is_long([op(How::Data, u64::MAX)].iter()), "its content comes bit by bit");
        assert!(!is_long([op(How::Ask, 1000)].iter()));
        assert!(is_long([op(How::Ask, MUCH / 2), op(How::Ask, MUCH / 2)].iter()));
        assert!(is_long([op(How::Ask, u64::MAX), op(How::Ask, u64::MAX)].iter()));
        assert!(is_long(vec![op(How::None, 0); MANY].iter()));
    }
}
