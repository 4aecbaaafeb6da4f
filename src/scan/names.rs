//! Owns names that are to be looked at: all of a directory, or those hinted at in several.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::OwnedFd;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::Snapshot;
use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;

use crate::engine::debounce::Hints;

/// A name to look at, and what it names as the listing says; `None` when it does not, or there was none.
pub(super) type Name<'a> = (&'a CStr, Option<FileType>);

/// Names of one directory.
#[derive(Default)]
pub(super) struct Names {
    /// One after the other, each with its NUL.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<(usize, Option<FileType>)>,
}

impl Names {
    /// Adds a name, which holds no NUL.
    pub(super) fn push(&mut self, name: &[u8], kind: Option<FileType>) {
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.ends.push((self.bytes.len(), kind));
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn in_range(&self, range: Range<usize>) -> impl Iterator<Item = Name<'_>> {
        range.map(|index| {
            let start = index.checked_sub(1).map_or(0, |before| self.ends[before].0);
            let (end, kind) = self.ends[index];
            let name = CStr::from_bytes_with_nul(&self.bytes[start..end]);
            (name.expect("names hold no NUL but the last"), kind)
        })
    }
}

/// The hinted names by the directory they lie in. Where a directory on the way was none before,
/// all of it is new, and it takes the hint's place. A single path counts as a subtree: when it is a
/// directory, it may be another one than before (`mv d elsewhere; mkdir d`).
pub(super) fn grouped(previous: &Snapshot, hints: &Hints) -> BTreeMap<SyncPath, Names> {
    let mut groups: BTreeMap<SyncPath, BTreeSet<&[u8]>> = BTreeMap::new();
    for path in hints.paths().keys().chain(hints.subtrees().keys()) {
        let mut parent = SyncPath::root();
        for name in path.components() {
            let Ok(next) = parent.join(name) else { break };
            if next == *path || previous.dir(&next).is_none() {
                groups.entry(parent).or_default().insert(name);
                break;
            }
            parent = next;
        }
    }
    let names = |group: BTreeSet<&[u8]>| {
        let mut names = Names::default();
        group.into_iter().for_each(|name| names.push(name, None));
        names
    };
    groups.into_iter().map(|(parent, group)| (parent, names(group))).collect()
}

/// All names of a directory.
pub(super) fn names_of(
    directory: &OwnedFd,
    buffer: &mut [MaybeUninit<u8>],
) -> Result<Names, Errno> {
    let mut names = Names::default();
    let mut entries = RawDir::new(directory, buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            let kind = Some(entry.file_type()).filter(|&kind| kind != FileType::Unknown);
            names.push(name.to_bytes(), kind);
        }
    }
    Ok(names)
}
