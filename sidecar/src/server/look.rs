//! Owns the look before each change: what stands at a path, and whose it is.
//!
//! What we wrote ourselves is known by its stamp, what is equal already is taken over, and anything
//! else is somebody's: it is kept in the trash before it is replaced.

use super::root::{Found, FoundKind, RootError, RootErrorKind, TargetRoot};
use crate::path::SyncPath;
use crate::tree::{Digest, Entry, Node, Reason, Stamp};
use crate::wire::Op;

/// What stands at a path, for who wants to change it.
pub(super) enum Look {
    /// Nothing, what we put there, or what the trash holds: it may be replaced.
    Free,
    /// What is wanted, already.
    Equal(Stamp),
    /// Somebody else's.
    Foreign,
}

/// Looks at an op's path below its root. `held` is what the record says, `kept` the stamp of what the
/// trash holds a copy of.
///
/// # Errors
/// Why it cannot be changed.
pub(super) fn look(
    root: &TargetRoot,
    below: &SyncPath,
    held: Option<&Node>,
    kept: Option<Stamp>,
    op: &Op,
) -> Result<Look, Reason> {
    let found = match root.stat(below) {
        Err(error) if error.kind == RootErrorKind::NotFound => None,
        found => found.map_err(|error| reason(&error))?,
    };
    whose(root, below, found.as_ref(), held, kept, op)
}

/// As [`look`], for who has just looked and `found` this.
///
/// # Errors
/// As there.
pub(super) fn whose(
    root: &TargetRoot,
    below: &SyncPath,
    found: Option<&Found>,
    held: Option<&Node>,
    kept: Option<Stamp>,
    op: &Op,
) -> Result<Look, Reason> {
    let Some(found) = found else { return Ok(Look::Free) };
    let wanted = op.change.new.as_ref();
    match (&found.kind, wanted) {
        // What was ours is gone already; what came in its place is not ours to remove.
        (FoundKind::Other, None) => Ok(Look::Equal(Stamp::default())),
        (FoundKind::File | FoundKind::Symlink { .. }, None)
            if matches!(held, Some(Node::Directory(_))) =>
        {
            Ok(Look::Equal(Stamp::default()))
        }
        (FoundKind::Other, _) => Err(Reason::Special),
        (FoundKind::Directory, Some(Entry::Directory)) => Ok(Look::Equal(Stamp::default())),
        (FoundKind::Directory, None) if !matches!(held, Some(Node::Directory(_))) => {
            Ok(Look::Equal(Stamp::default()))
        }
        // An empty one makes room; the root refuses one that is not.
        (FoundKind::Directory, _) => Ok(Look::Free),
        (FoundKind::Symlink { target }, Some(Entry::Symlink { target: link }))
            if target == link =>
        {
            Ok(Look::Equal(found.stamp))
        }
        (FoundKind::Symlink { target }, _) => {
            let ours = matches!(held, Some(Node::Symlink(link)) if link == target);
            Ok(if ours || kept == Some(found.stamp) { Look::Free } else { Look::Foreign })
        }
        (FoundKind::File, _) if kept == Some(found.stamp) || is_as_written(held, found) => {
            Ok(Look::Free)
        }
        (FoundKind::File, _) => look_inside(root, below, held, wanted),
    }
}

/// Whether a file is what we wrote, by its stamp.
pub(super) fn is_as_written(held: Option<&Node>, found: &Found) -> bool {
    matches!(held, Some(&Node::File { size, stamp, .. })
        if stamp == found.stamp && size == found.size && stamp != Stamp::default())
}

fn look_inside(
    root: &TargetRoot,
    below: &SyncPath,
    held: Option<&Node>,
    wanted: Option<&Entry>,
) -> Result<Look, Reason> {
    let Some((digest, found)) = root.hash(below).map_err(|error| reason(&error))? else {
        return Ok(Look::Free);
    };
    let entry = Entry::File { digest, size: found.size, executable: found.executable };
    Ok(if wanted == Some(&entry) {
        Look::Equal(found.stamp)
    } else if content_of(wanted) == Some(digest) || held.map(Node::entry) == Some(entry) {
        // With equal content nothing is lost, whatever the mode.
        Look::Free
    } else {
        Look::Foreign
    })
}

/// The digest of a file's entry.
pub(super) fn content_of(entry: Option<&Entry>) -> Option<Digest> {
    match entry {
        Some(&Entry::File { digest, .. }) => Some(digest),
        _ => None,
    }
}

/// A root's fault, as the other end is told.
pub(super) fn reason(error: &RootError) -> Reason {
    match error.kind {
        RootErrorKind::NoSpace | RootErrorKind::Quota => Reason::NoSpace,
        RootErrorKind::ReadOnly => Reason::ReadOnly,
        RootErrorKind::Denied => Reason::Denied,
        RootErrorKind::Busy => Reason::Busy,
        RootErrorKind::MountPoint => Reason::MountPoint,
        RootErrorKind::LinkInTheWay => Reason::LinkInTheWay,
        RootErrorKind::NotEmpty => Reason::NotEmpty,
        RootErrorKind::NotRegular => Reason::Special,
        RootErrorKind::Reserved | RootErrorKind::NameTooLong => Reason::Name,
        RootErrorKind::UnsafeLink => Reason::UnsafeLink,
        RootErrorKind::Changed => Reason::Unstable,
        _ => match &error.source {
            Some(source) => Reason::Io(format!("{}: {source}", error.kind)),
            None => Reason::Io(error.kind.to_string()),
        },
    }
}
