//! The bytes of the store: checked frames, the manifest's header, the log's head and records.
//!
//! Kept for good. A frame is `payload length (u32) | crc32c of the payload (u32) | crc32c of those
//! eight bytes (u32) | payload (postcard)`, all little endian. Because the length is checked by
//! itself, a frame that ends too early was cut off by a crash, and everything else that does not fit
//! is damage. Enums grow only at their end.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Owner;
use crate::path::SyncPath;
use crate::tree::{Change, Digest, Edit, Node, Snapshot, Stamp, TreeId};

const MANIFEST_MAGIC: &[u8; 8] = b"e2ekhub1";
const LOG_MAGIC: &[u8; 8] = b"e2eklog1";
const FRAME_HEAD_BYTES: usize = 12;
/// Length of a log that holds no record yet.
pub(super) const LOG_HEAD_BYTES: usize = 8 + 8 + 16 + 4;

/// The bytes are not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Damage;

/// What stands before the snapshot in a manifest.
#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    /// Names the manifest; its log is `log.<nonce>`.
    pub(super) nonce: u64,
    /// The last generation that the snapshot includes.
    pub(super) generation: u64,
    /// The last writer.
    pub(super) owner: Option<Owner>,
}

/// A log record as it is read. Append only.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
pub(super) enum Record {
    /// What is about to change.
    Begin { generation: u64, changes: Vec<Change> },
    /// What was done, and what is held since.
    Done { generation: u64, edits: Vec<(SyncPath, Option<Logged>)>, tree: TreeId },
    /// Who writes from now on.
    Owner(Owner),
    /// As `Begin`, with directories that move whole: where to, and where from. Of what is in them
    /// there are no changes; the record before it says what that is.
    BeginMoves { generation: u64, changes: Vec<Change>, moves: Vec<(SyncPath, SyncPath)> },
}

/// A log record as it is written: the same bytes, borrowed.
#[derive(Serialize)]
pub(super) enum RecordRef<'a> {
    Begin {
        generation: u64,
        changes: Vec<&'a Change>,
    },
    Done {
        generation: u64,
        edits: Vec<(&'a SyncPath, Option<Logged>)>,
        tree: TreeId,
    },
    Owner(&'a Owner),
    BeginMoves {
        generation: u64,
        changes: Vec<&'a Change>,
        moves: Vec<(&'a SyncPath, &'a SyncPath)>,
    },
}

/// A node within a record. Append only.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
pub(super) enum Logged {
    File {
        digest: Digest,
        size: u64,
        executable: bool,
        stamp: Stamp,
    },
    Symlink(Vec<u8>),
    /// Holds nothing, at this point of the edits.
    Directory,
    /// An archived snapshot of what is below.
    Subtree(Vec<u8>),
    /// The directory that stood at this path before the record.
    Moved(SyncPath),
}

impl From<&Node> for Logged {
    fn from(node: &Node) -> Self {
        match node {
            &Node::File { digest, size, executable, stamp } => {
                Self::File { digest, size, executable, stamp }
            }
            Node::Symlink(target) => Self::Symlink(target.to_vec()),
            Node::Directory(dir) if dir.is_empty() => Self::Directory,
            Node::Directory(dir) => {
                let mut below = Vec::new();
                Snapshot::from_root(dir.clone()).encode(&mut below);
                Self::Subtree(below)
            }
        }
    }
}

impl Logged {
    /// A node as a record tells it. A directory that stood at one of `gone` before is not told again.
    pub(super) fn of(node: &Node, before: &Snapshot, gone: &[&SyncPath]) -> Self {
        if let Node::Directory(dir) = node
            && !dir.is_empty()
        {
            let is_it =
                |path: &&&SyncPath| before.dir(path).is_some_and(|old| Arc::ptr_eq(old, dir));
            if let Some(from) = gone.iter().find(is_it) {
                return Self::Moved((*from).clone());
            }
        }
        Self::from(node)
    }

    fn into_node(self, at: &SyncPath, before: &Snapshot) -> Result<Node, Damage> {
        Ok(match self {
            Self::Moved(from) => {
                let dir = before.dir(&from).filter(|dir| dir.fits(at)).ok_or(Damage)?;
                Node::Directory(Arc::clone(dir))
            }
            Self::File { digest, size, executable, stamp } => {
                Node::File { digest, size, executable, stamp }
            }
            Self::Symlink(target) => Node::Symlink(target.into()),
            Self::Directory => Node::directory(),
            Self::Subtree(below) => {
                let tree = Snapshot::decode(&below).map_err(|_| Damage)?;
                Node::Directory(tree.root().clone())
            }
        })
    }
}

/// The edits of a record, to be applied to what was held before it.
pub(super) fn into_edits(
    logged: Vec<(SyncPath, Option<Logged>)>,
    before: &Snapshot,
) -> Result<Vec<Edit>, Damage> {
    let edit = |(path, node): (SyncPath, Option<Logged>)| {
        let node = node.map(|node| node.into_node(&path, before)).transpose()?;
        Ok((path, node))
    };
    logged.into_iter().map(edit).collect()
}

/// Appends one frame.
///
/// # Errors
/// When the payload is 4 GiB or more.
pub(super) fn push_frame<T: Serialize>(payload: &T, out: &mut Vec<u8>) -> std::io::Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
    *out = postcard::to_extend(payload, std::mem::take(out)).expect("records are plain data");
    let body = start + FRAME_HEAD_BYTES;
    let Ok(len) = u32::try_from(out.len() - body) else {
        out.truncate(start);
        return Err(std::io::ErrorKind::FileTooLarge.into());
    };
    let sum = crc32c::crc32c(&out[body..]);
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&sum.to_le_bytes());
    let head_sum = crc32c::crc32c(&out[start..start + 8]);
    out[start + 8..body].copy_from_slice(&head_sum.to_le_bytes());
    Ok(())
}

/// Takes one frame off the front; `None` when it was cut off.
pub(super) fn take_frame<'a, T: Deserialize<'a>>(
    input: &mut &'a [u8],
) -> Result<Option<T>, Damage> {
    let Some((head, rest)) = input.split_at_checked(FRAME_HEAD_BYTES) else { return Ok(None) };
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if crc32c::crc32c(&head[..8]) != word(8) {
        return Err(Damage);
    }
    let len = usize::try_from(word(0)).map_err(|_| Damage)?;
    let Some((payload, rest)) = rest.split_at_checked(len) else { return Ok(None) };
    if crc32c::crc32c(payload) != word(4) {
        return Err(Damage);
    }
    let (value, surplus) = postcard::take_from_bytes(payload).map_err(|_| Damage)?;
    if !surplus.is_empty() {
        return Err(Damage);
    }
    *input = rest;
    Ok(Some(value))
}

/// The bytes of a whole manifest.
pub(super) fn manifest(header: &Header, held: &Snapshot) -> std::io::Result<Vec<u8>> {
    let mut out = MANIFEST_MAGIC.to_vec();
    push_frame(header, &mut out)?;
    held.encode(&mut out);
    Ok(out)
}

/// Reads what [`manifest`] made.
pub(super) fn read_manifest(bytes: &[u8]) -> Result<(Header, Snapshot), Damage> {
    let mut input = bytes.strip_prefix(MANIFEST_MAGIC).ok_or(Damage)?;
    let header = take_frame(&mut input)?.ok_or(Damage)?;
    let held = Snapshot::decode(input).map_err(|_| Damage)?;
    Ok((header, held))
}

/// The first bytes of a log.
pub(super) fn log_head(nonce: u64, boot: [u8; 16]) -> Vec<u8> {
    let mut out = LOG_MAGIC.to_vec();
    out.extend_from_slice(&nonce.to_le_bytes());
    out.extend_from_slice(&boot);
    let sum = crc32c::crc32c(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// Takes the head off a log that must belong to the manifest `nonce`: in which boot of the machine
/// was it begun?
pub(super) fn take_log_head(input: &mut &[u8], nonce: u64) -> Result<[u8; 16], Damage> {
    let (head, rest) = input.split_at_checked(LOG_HEAD_BYTES).ok_or(Damage)?;
    let boot = head[16..32].try_into().map_err(|_| Damage)?;
    if head != log_head(nonce, boot) {
        return Err(Damage);
    }
    *input = rest;
    Ok(boot)
}
