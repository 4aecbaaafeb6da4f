//! Which ops are refused without a look at the record, and what is read off one.

use crate::path::SyncPath;
use crate::tree::Entry;
use crate::wire::{How, Op, WireError};

/// Refuses an op that is out of order or leaves the roots.
pub(super) fn check_place(op: &Op, before: Option<&Op>, roots: usize) -> Result<(), WireError> {
    let change = &op.change;
    if before.is_some_and(|b| b.change.path >= change.path) || change.path.is_root() {
        return Err(WireError::Order("ops are not sorted by path"));
    }
    if root_index(&change.path).is_none_or(|(root, _)| root >= roots) {
        return Err(WireError::Order("op outside the session's roots"));
    }
    Ok(())
}

/// Refuses an op that is nonsense in itself.
pub(super) fn check_content(op: &Op, roots: usize) -> Result<(), WireError> {
    let change = &op.change;
    let fits = match (&change.new, &op.how) {
        (Some(Entry::File { size, .. }), How::Data | How::Ask | How::Held) => *size > 0,
        (Some(Entry::File { size, .. }), How::Copy { from } | How::Like { from }) => {
            *size > 0 && root_index(from).is_some_and(|(root, _)| root < roots)
        }
        (Some(Entry::File { size, .. }), How::Patch) => {
            *size > 0 && matches!(change.old, Some(Entry::File { size: 1.., .. }))
        }
        (Some(Entry::Directory), How::Tree { from, .. }) => {
            change.old.is_none() && root_index(from).is_some_and(|(root, _)| root < roots)
        }
        // Without content: empty, or the same content with another executable bit.
        (Some(Entry::File { digest, size, .. }), How::None) => {
            *size == 0
                || matches!(&change.old, Some(Entry::File { digest: old, .. }) if old == digest)
        }
        (_, How::None) | (None, How::Forget) => true,
        _ => false,
    };
    if fits { Ok(()) } else { Err(WireError::Order("op without its content")) }
}

/// Splits a path of the session's tree: the number of its path pair, and the path below that root.
#[must_use]
pub fn root_index(path: &SyncPath) -> Option<(usize, SyncPath)> {
    let (first, below) = path.split_first()?;
    let digits = std::str::from_utf8(first).ok().filter(|d| *d == "0" || !d.starts_with('0'))?;
    let index = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
    Some((index, below))
}

pub(super) fn bytes_of(op: &Op) -> usize {
    let link = |entry: &Option<Entry>| match entry {
        Some(Entry::Symlink { target }) => target.len(),
        _ => 0,
    };
    let from = match &op.how {
        How::Copy { from } | How::Like { from } | How::Tree { from, .. } => from.as_bytes().len(),
        _ => 0,
    };
    op.change.path.as_bytes().len() + link(&op.change.old) + link(&op.change.new) + from
}

pub(super) fn file_size(op: &Op) -> u64 {
    match op.change.new {
        Some(Entry::File { size, .. }) => size,
        _ => 0,
    }
}
