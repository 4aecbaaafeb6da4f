//! The bytes of a snapshot at rest: one depth-first stream of directories, checked at the end.
//!
//! Used by the daemon's state and by the hub's store. Anything wrong with the bytes is an error and
//! the caller looks at the disk again; nothing is ever half believed.

use std::sync::Arc;

use super::{Digest, Dir, DirBuilder, Node, Snapshot, Stamp};
use crate::path::{MAX_DEPTH, check_component};
use crate::varint;

const MAGIC: &[u8; 8] = b"e2ektre1";
const CHECKSUM_BYTES: usize = 32;

/// Why bytes are not an archived snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// Not ours, or of a version this program does not know.
    #[error("not a snapshot of a known version")]
    Version,
    /// Cut off or changed.
    #[error("snapshot is damaged")]
    Damaged,
}

impl Snapshot {
    /// Appends the whole tree, stamps included, with a checksum over it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(MAGIC);
        encode_dir(self.root(), out);
        let sum = blake3::hash(&out[start..]);
        out.extend_from_slice(sum.as_bytes());
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// When a single byte differs.
    pub fn decode(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let body_len = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(ArchiveError::Damaged)?;
        let (body, sum) = bytes.split_at(body_len);
        let listing = body.strip_prefix(MAGIC).ok_or(ArchiveError::Version)?;
        if blake3::hash(body).as_bytes() != sum {
            return Err(ArchiveError::Damaged);
        }
        let mut input = Input(listing);
        let root = decode_dir(&mut input, 0)?;
        if input.0.is_empty() { Ok(Self::from_root(root)) } else { Err(ArchiveError::Damaged) }
    }
}

fn encode_dir(dir: &Dir, out: &mut Vec<u8>) {
    varint::push(dir.len() as u64, out);
    for (name, node) in dir.iter() {
        out.push(u8::try_from(name.len()).expect("a component is at most 255 bytes"));
        out.extend_from_slice(name);
        match node {
            Node::File { digest, size, executable, stamp } => {
                out.push(if *executable { b'x' } else { b'f' });
                out.extend_from_slice(&digest.0);
                varint::push(*size, out);
                varint::push(stamp.inode, out);
                out.extend_from_slice(&stamp.mtime_ns.to_le_bytes());
                out.extend_from_slice(&stamp.ctime_ns.to_le_bytes());
            }
            Node::Symlink(target) => {
                out.push(b'l');
                varint::push(target.len() as u64, out);
                out.extend_from_slice(target);
            }
            Node::Directory(below) => {
                out.push(b'd');
                encode_dir(below, out);
            }
        }
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], ArchiveError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(ArchiveError::Damaged)?;
        self.0 = tail;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, ArchiveError> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ArchiveError> {
        self.take(N)?.try_into().map_err(|_| ArchiveError::Damaged)
    }

    fn varint(&mut self) -> Result<u64, ArchiveError> {
        let mut used = 0;
        let value = varint::read(self.0, &mut used).ok_or(ArchiveError::Damaged)?;
        self.take(used)?;
        Ok(value)
    }
}

fn decode_dir(input: &mut Input<'_>, depth: usize) -> Result<Arc<Dir>, ArchiveError> {
    if depth > MAX_DEPTH {
        return Err(ArchiveError::Damaged);
    }
    let len = input.varint()?;
    let mut builder = DirBuilder::sized(usize::try_from(len).unwrap_or(usize::MAX));
    for _ in 0..len {
        let len = input.byte()?;
        let name = input.take(len.into())?;
        check_component(name).map_err(|_| ArchiveError::Damaged)?;
        let node = decode_node(input, depth)?;
        builder.push(name, node);
    }
    Ok(builder.finish())
}

fn decode_node(input: &mut Input<'_>, depth: usize) -> Result<Node, ArchiveError> {
    match input.byte()? {
        kind @ (b'x' | b'f') => {
            let digest = Digest(input.array()?);
            let size = input.varint()?;
            let stamp = Stamp {
                inode: input.varint()?,
                mtime_ns: i64::from_le_bytes(input.array()?),
                ctime_ns: i64::from_le_bytes(input.array()?),
            };
            Ok(Node::File { digest, size, executable: kind == b'x', stamp })
        }
        b'l' => {
            let len = usize::try_from(input.varint()?).map_err(|_| ArchiveError::Damaged)?;
            Ok(Node::Symlink(input.take(len)?.into()))
        }
        b'd' => Ok(Node::Directory(decode_dir(input, depth + 1)?)),
        _ => Err(ArchiveError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::SyncPath;

    fn sample() -> Snapshot {
        let stamp = Stamp { inode: 300, mtime_ns: -1, ctime_ns: i64::MAX };
        let file = Node::File { digest: Digest::of(b"x"), size: 1 << 40, executable: true, stamp };
        let at = |text: &str| SyncPath::try_from(text).unwrap();
        Snapshot::empty()
            .apply(&[
                (at("d"), Some(Node::directory())),
                (at("d/f"), Some(file)),
                (at("l"), Some(Node::Symlink(b"../x"[..].into()))),
            ])
            .unwrap()
    }

    #[test]
    fn stamps_and_all_come_back() {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        let back = Snapshot::decode(&bytes).unwrap();
        assert_eq!(format!("{back:?}"), format!("{:?}", sample()));
    }

    #[test]
    fn i8_any_damage_is_seen() {
        let mut bytes = Vec::new();
        sample().encode(&mut bytes);
        for at in 0..bytes.len() {
            assert!(Snapshot::decode(&bytes[..at]).is_err(), "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x20;
            assert!(Snapshot::decode(&flipped).is_err(), "flipped at {at}");
        }
    }
}
