//! Names of temporary files that had to be made beside others, so that the next hub removes them.
//!
//! A file of its own, because it is written from wherever files are. Only hints: a name that cannot
//! be read is a file that stays, and a name too many is looked for in vain.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::files::append_to;
use super::format;
use crate::path::SyncPath;

pub(super) const NAME: &str = "staged";

struct Shared {
    file: File,
    /// Something was recorded since it was opened, so it is not to be cleared.
    used: AtomicBool,
}

pub(super) struct Journal {
    shared: Arc<Shared>,
    /// What an earlier hub recorded and nobody forgot.
    left: BTreeSet<SyncPath>,
}

impl Journal {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let shared = Arc::new(Shared { file: append_to(path)?, used: AtomicBool::new(false) });
        let bytes = fs::read(path)?;
        let mut input = &*bytes;
        let names = std::iter::from_fn(|| format::take_frame(&mut input).ok().flatten());
        let left: BTreeSet<SyncPath> = names.collect();
        if !input.is_empty() {
            // Half a name at the end: none may follow it.
            shared.file.set_len((bytes.len() - input.len()) as u64)?;
        }
        Ok(Self { shared, left })
    }

    pub(super) fn left(&self) -> Vec<SyncPath> {
        self.left.iter().cloned().collect()
    }

    pub(super) fn recorder(&self) -> impl Fn(&SyncPath) + Send + Sync + 'static + use<> {
        let shared = self.shared.clone();
        move |path| {
            shared.used.store(true, Ordering::SeqCst);
            let mut frame = Vec::new();
            // One write, so that names from two threads stay whole.
            let written = format::push_frame(path, &mut frame)
                .and_then(|()| (&shared.file).write_all(&frame));
            if let Err(error) = written {
                tracing::warn!(%path, %error, "a staged file cannot be recorded");
            }
        }
    }

    pub(super) fn forget(&mut self, path: &SyncPath) -> io::Result<()> {
        let last = self.left.remove(path) && self.left.is_empty();
        if last && !self.shared.used.load(Ordering::SeqCst) { self.clear() } else { Ok(()) }
    }

    pub(super) fn clear(&self) -> io::Result<()> {
        self.shared.file.set_len(0)
    }
}
