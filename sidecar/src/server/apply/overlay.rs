//! Owns a large content that is its old one but for some parts: written down, checked as a whole
//! without being read as a whole, then patched in place.
//!
//! What cannot be so, such as a patch that moves things, is made beside the old file like any other.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::root::{Staged, can_patch};
use super::super::site::Site;
use super::redo::{Extent, Found, Head, Redo};
use crate::delta::{NodeHasher, Nodes, PART_BYTES, part_node};
use crate::path::SyncPath;
use crate::tree::Digest;

/// Smaller files are made anew beside the old one: that a reader never sees a mixture is worth it.
pub(super) const ABOVE_BYTES: u64 = 64 << 20;
/// Most parts that are remembered of one patch.
const MAX_EXTENTS: usize = 64 << 10;
/// Contents whose parts' hashes are kept; 32 KiB for 1 GiB.
const KEPT: usize = 16;
const READ_BYTES: usize = 256 << 10;

/// The hashes of the parts of large contents that were written here, by digest; the oldest goes.
#[derive(Default)]
pub(in super::super) struct Parts {
    by_digest: HashMap<Digest, Arc<Nodes>>,
    order: VecDeque<Digest>,
}

impl Parts {
    pub(in super::super) fn keep(&mut self, digest: Digest, nodes: Option<Nodes>) {
        let Some(nodes) = nodes.filter(|nodes| nodes.size() > ABOVE_BYTES) else { return };
        if self.by_digest.insert(digest, Arc::new(nodes)).is_none() {
            self.order.push_back(digest);
        }
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_digest.remove(&oldest);
        }
    }

    pub(in super::super) fn get(&self, digest: Digest) -> Option<Arc<Nodes>> {
        self.by_digest.get(&digest).cloned()
    }
}

/// Records of patches that failed half-way, by path: what is torn is whole again once anything is put
/// there, else the next hub finishes it.
#[derive(Default)]
pub(in super::super) struct Torn(HashMap<SyncPath, Redo>);

impl Torn {
    /// Keeps a record as long as its file may be torn.
    pub(super) fn keep(&mut self, redo: Redo) {
        if redo.is_kept()
            && let Some(mut before) = self.0.insert(redo.head().path.clone(), redo)
        {
            before.forget();
        }
    }

    /// Whatever stands at a path is whole.
    pub(super) fn whole(&mut self, path: &SyncPath) {
        if !self.0.is_empty()
            && let Some(mut redo) = self.0.remove(path)
        {
            redo.forget();
        }
    }
}

/// A new content over an old one.
pub(super) struct Overlay {
    pub(super) redo: Redo,
    /// Where the content is made when this way is given up; empty until then.
    pub(super) staged: Staged,
    /// So much of the new content is known.
    position: u64,
    /// Bytes that are new, and how many may be.
    new: (u64, u64),
}

impl Overlay {
    pub(super) fn new(redo: Redo, staged: Staged, old_size: u64) -> Self {
        Self { redo, staged, position: 0, new: (0, old_size / 4) }
    }

    /// Takes new bytes; `false` when there are too many for this way.
    pub(super) fn bring(&mut self, bytes: &[u8], old: &File) -> io::Result<bool> {
        self.new.0 += bytes.len() as u64;
        if self.new.0 > self.new.1 || self.redo.extents().len() >= MAX_EXTENTS {
            return Ok(false);
        }
        self.redo.take(self.position, bytes, old)?;
        self.position += bytes.len() as u64;
        Ok(true)
    }

    /// Takes a copy; `false` when something moves.
    pub(super) fn stays(&mut self, offset: u64, length: u64) -> bool {
        let stays = offset == self.position;
        self.position += if stays { length } else { 0 };
        stays
    }

    /// What is known of the content, made beside the old one.
    pub(super) fn make(&mut self, old: &File) -> io::Result<NodeHasher> {
        let mut hasher = NodeHasher::default();
        let mut buffer = vec![0; READ_BYTES];
        let mut at = 0;
        let ends = [Extent::nothing(self.position)];
        for extent in self.redo.extents().iter().chain(&ends) {
            while at < extent.offset {
                let now = (extent.offset - at).min(READ_BYTES as u64) as usize;
                old.read_exact_at(&mut buffer[..now], at)?;
                hasher.update(&buffer[..now]);
                self.staged.write_all(&buffer[..now])?;
                at += now as u64;
            }
            let bytes = self.redo.read(*extent)?;
            hasher.update(&bytes);
            self.staged.write_all(&bytes)?;
            at += bytes.len() as u64;
        }
        Ok(hasher)
    }

    /// The hashes of the new content: what stayed is taken from those of the old one where they are
    /// known, else read. Ends early when it is to `stop`.
    pub(super) fn nodes(
        &self,
        old: &File,
        known: Option<&Nodes>,
        stop: &AtomicBool,
    ) -> io::Result<Nodes> {
        let size = self.redo.head().size;
        let mut extents = self.redo.extents().iter().peekable();
        let mut buffer = vec![0; PART_BYTES];
        Nodes::of(size, |number| {
            let start = number as u64 * PART_BYTES as u64;
            let end = size.min(start + PART_BYTES as u64);
            while extents.next_if(|extent| extent.end() <= start).is_some() {}
            let changed = extents.peek().is_some_and(|extent| extent.offset < end);
            if !changed && let Some(node) = known.and_then(|known| known.part(number, size)) {
                return Ok(node);
            }
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let bytes = &mut buffer[..(end - start) as usize];
            fill(old, bytes, start)?;
            // The last may reach into the next part.
            let inside = extents.clone().take_while(|extent| extent.offset < end);
            for extent in inside {
                let new = self.redo.read(*extent)?;
                let skip = start.saturating_sub(extent.offset) as usize;
                let at = extent.offset.saturating_sub(start) as usize;
                let count = (new.len() - skip).min(bytes.len() - at);
                bytes[at..at + count].copy_from_slice(&new[skip..skip + count]);
            }
            Ok(part_node(bytes, number))
        })
    }
}

/// Reads what there is at an offset, and tells how much; nothing is read beyond the end.
pub(super) fn fill(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

impl Site {
    /// Finishes what a killed hub had begun in place, before anything is said of the target.
    pub(in super::super) fn finish_patches(&self, folder: &Path) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let record = entry.path();
            match self.finish_patch(&record) {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "a record of a patch cannot be read"),
            }
            let _ = std::fs::remove_file(record);
        }
        let _ = std::fs::remove_dir(folder);
    }

    fn finish_patch(&self, record: &Path) -> io::Result<()> {
        let Some(found) = Found::open(record)? else { return Ok(()) };
        let Head { path, file, size, .. } = found.head.clone();
        let meta = found.head.meta();
        let Some((root, below)) = self.locate(&path) else { return Ok(()) };
        let Ok(there) = root.open_file(&below) else { return Ok(()) };
        let ours = there.metadata().is_ok_and(|now| (now.dev(), now.ino()) == file)
            && found.can_have_left(&there)?;
        drop(there);
        if !ours {
            // It is looked at like any other: kept aside before anything takes its place.
            tracing::info!(%path, "others wrote where a patch was cut off: it is left");
            return Ok(());
        }
        let Some(mut found) = Found::open(record)? else { return Ok(()) };
        match root.patch_in_place(&below, file, size, &meta, &mut || found.next()) {
            Ok(_) => tracing::info!(%path, "a patch that was cut off is finished"),
            // Somebody put another file there.
            Err(error) => tracing::info!(%error, "a patch that was cut off is left"),
        }
        Ok(())
    }

    /// Whether the file may be patched where it stands.
    pub(super) fn may_patch(&self, path: &SyncPath, file: (u64, u64)) -> bool {
        let Some((root, below)) = self.locate(path) else { return false };
        let found = root.stat(&below);
        matches!(found, Ok(Some(found)) if can_patch(&found)
            && (found.device, found.stamp.inode) == file
            && super::is_as_written(self.receiver.held().get(path), &found))
    }
}
