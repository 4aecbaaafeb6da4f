//! Owns the thread that lets go of replaced and removed files (`root::replaced`) and of the roots of containers that
//! ended: the disk may keep whoever does, and nobody who saves is to wait for that.
//!
//! It is woken after what was done has been said, never in between: on two cores the one it would run on
//! is the daemon's.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use super::Hub;
use super::root::{Replaced, TargetRoot};

/// Files handed over and not let go: beyond, they stay where they are held, which is bounded itself.
const MOST_WAITING: usize = 256;

/// Something to be dropped, and how many files that is.
type Left = (usize, Box<dyn Send>);

/// The thread, from the first file on. Dropped, it ends when it has let go of all.
#[derive(Default)]
pub(super) struct LettingGo {
    thread: Option<Sender<Left>>,
    waiting: Arc<AtomicUsize>,
}

impl LettingGo {
    fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < MOST_WAITING
    }

    /// Takes files over; where there can be no thread, lets go of them here.
    fn take(&mut self, files: Replaced) {
        self.give(files.len(), Box::new(files));
    }

    /// Takes over what leads into a container that ended. Whoever lets go of it last unmounts its root,
    /// and waits until all that was written there is on the disk.
    pub(super) fn take_container(&mut self, held: impl Send + 'static) {
        self.give(1, Box::new(held));
    }

    fn give(&mut self, count: usize, what: Box<dyn Send>) {
        if self.thread.is_none() {
            let (give, take) = channel::<Left>();
            let waiting = Arc::clone(&self.waiting);
            let work = move || {
                while let Ok((count, what)) = take.recv() {
                    drop(what);
                    waiting.fetch_sub(count, Ordering::Relaxed);
                }
            };
            let started = std::thread::Builder::new().name("e2ek-leave".to_owned()).spawn(work);
            self.thread = started.ok().map(|_| give);
        }
        if let Some(thread) = &self.thread {
            self.waiting.fetch_add(count, Ordering::Relaxed);
            let _ = thread.send((count, what));
        }
    }
}

impl Hub {
    fn roots(&self) -> impl Iterator<Item = &Arc<TargetRoot>> {
        self.sites.iter().flat_map(|serving| serving.site.roots.iter().flatten())
    }

    /// Whether files were replaced that are still held, and may be handed over.
    pub(super) fn has_replaced(&self) -> bool {
        self.letting_go.has_room() && self.roots().any(|root| root.has_replaced())
    }

    /// Has them let go.
    pub(super) fn let_go_of_replaced(&mut self) {
        let replaced: Vec<Replaced> = self.roots().map(|root| root.take_replaced()).collect();
        for files in replaced.into_iter().filter(|files| !files.is_empty()) {
            self.letting_go.take(files);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::super::root::PutMeta;
    use super::*;
    use crate::path::SyncPath;

    fn put(root: &TargetRoot, path: &SyncPath, content: &[u8]) {
        let mut staged = root.stage(path, content.len() as u64).unwrap();
        staged.write_all(content).unwrap();
        root.put(path, staged, &PutMeta::default()).unwrap();
    }

    /// Files of this folder that this process has open although they have no name any more.
    fn nameless(folder: &std::path::Path) -> usize {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let leads = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        let gone = |to: &std::path::PathBuf| {
            to.starts_with(folder) && to.as_os_str().as_encoded_bytes().ends_with(b" (deleted)")
        };
        leads.filter(gone).count()
    }

    #[test]
    fn i10_what_is_replaced_is_held_until_there_is_time_and_no_more_than_so_many() {
        let home = tempfile::tempdir().unwrap();
        let top = home.path().canonicalize().unwrap();
        let root = TargetRoot::open_directory(&top, false).unwrap();
        let path = SyncPath::try_from("file").unwrap();
        put(&root, &path, b"0");
        assert!(!root.has_replaced(), "nothing stood there");
        for round in 1..=3_u8 {
            put(&root, &path, &[round]);
        }
        assert_eq!(nameless(&top), 3, "a rename frees none of them");
        let mut thread = LettingGo::default();
        thread.take(root.take_replaced());
        while !thread.has_room() || thread.waiting.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        assert_eq!(nameless(&top), 0);
        for round in 0..100_u8 {
            put(&root, &path, &[round]);
        }
        assert_eq!(nameless(&top), 64, "the rest went with its rename");
        drop(root);
        assert_eq!(nameless(&top), 0);
        // What is removed is held as well.
        let root = TargetRoot::open_directory(&top, false).unwrap();
        root.remove_file(&path).unwrap();
        assert_eq!(nameless(&top), 1);
        drop(root.take_replaced());
        assert_eq!(nameless(&top), 0);
        put(&root, &path, b"again");
        // What has another name is freed by nobody.
        std::fs::hard_link(top.join("file"), top.join("twin")).unwrap();
        let root = TargetRoot::open_directory(&top, false).unwrap();
        put(&root, &path, b"last");
        assert!(!root.has_replaced());
        assert_eq!(std::fs::metadata(top.join("twin")).unwrap().nlink(), 1);
    }
}
