//! Many ops in few bytes: what neighbours have in common is told once, and the rest is compressed.
//!
//! One op is `shared (varint) | length (varint) | that many bytes of path | what (1) | how (1) | ...`.
//! `shared` bytes of the path are those of the op before. `what` holds the entry that shall stand there
//! (3 bits) and whether a mode (8) and a time (16) are told. What follows depends on both: the size of
//! a file; the length and the bytes of a link; another path, in the same way; a tree with its count; the
//! mode; the time, as its distance from the last one told, in zigzag. Digests cannot be compressed and
//! lie beside.

use zstd::bulk::Compressor;

use super::pack::decompress;
use super::{Blob, How, MAX_UNPACKED_BYTES, Meta, OPS_PER_FRAME, Op, ToHub, WireError};
use crate::path::SyncPath;
use crate::tree::{Change, Digest, Entry, TreeId};
use crate::varint;

const DIGEST_BYTES: usize = 16;
/// Below, compressing saves less than its own frame takes.
const COMPRESS_FROM_BYTES: usize = 128;
const NOTHING: u8 = 0;
const FILE: u8 = 1;
const EXECUTABLE: u8 = 2;
const DIRECTORY: u8 = 3;
const SYMLINK: u8 = 4;
const WHAT: u8 = 7;
const WITH_MODE: u8 = 8;
const WITH_TIME: u8 = 16;

/// Packs the ops of one generation, whose `old` entries are those of a tree that both ends know.
pub struct OpsPacker {
    generation: u64,
    base: TreeId,
    compressor: Option<Compressor<'static>>,
}

impl OpsPacker {
    /// For a generation that leads on from `base`. Level 0: no compression.
    #[must_use]
    pub fn new(generation: u64, base: TreeId, level: i32) -> Self {
        let compressor = (level != 0).then(|| Compressor::new(level).ok()).flatten();
        Self { generation, base, compressor }
    }

    /// One frame's part of the ops: what [`super::batches`] cuts.
    ///
    /// # Panics
    /// With more of them than that.
    pub fn pack(&mut self, ops: &[Op], last: bool) -> ToHub {
        assert!(ops.len() <= OPS_PER_FRAME, "cut before they are packed");
        let mut writer = Writer::default();
        ops.iter().for_each(|op| writer.op(op));
        let Writer { body, digests, .. } = writer;
        let small = self
            .compressor
            .as_mut()
            .filter(|_| body.len() >= COMPRESS_FROM_BYTES)
            .and_then(|compressor| compressor.compress(&body).ok())
            .filter(|small| small.len() < body.len());
        let (encoding, body) = match small {
            Some(small) => (1, small),
            None => (0, body),
        };
        let (generation, base) = (self.generation, self.base);
        let (body, digests) = (Blob(body), Blob(digests));
        ToHub::PackedOps { generation, base, encoding, body, digests, last }
    }
}

#[derive(Default)]
struct Writer {
    body: Vec<u8>,
    digests: Vec<u8>,
    path: Vec<u8>,
    mtime_ns: i64,
}

impl Writer {
    fn op(&mut self, op: &Op) {
        let Op { change, how, meta } = op;
        let before = std::mem::take(&mut self.path);
        self.path(&before, &change.path);
        let what = match &change.new {
            None => NOTHING,
            Some(Entry::File { executable: false, .. }) => FILE,
            Some(Entry::File { executable: true, .. }) => EXECUTABLE,
            Some(Entry::Directory) => DIRECTORY,
            Some(Entry::Symlink { .. }) => SYMLINK,
        };
        let with_mode = if meta.mode == 0 { 0 } else { WITH_MODE };
        let with_time = if meta.mtime_ns == 0 { 0 } else { WITH_TIME };
        self.body.extend([what | with_mode | with_time, number_of(how)]);
        match &change.new {
            Some(Entry::File { digest, size, .. }) => {
                varint::push(*size, &mut self.body);
                self.digests.extend_from_slice(&digest.0);
            }
            Some(Entry::Symlink { target }) => {
                varint::push(target.len() as u64, &mut self.body);
                self.body.extend_from_slice(target);
            }
            Some(Entry::Directory) | None => {}
        }
        match how {
            How::Copy { from } | How::Like { from } => self.path(change.path.as_bytes(), from),
            How::Tree { from, tree, count } => {
                self.path(change.path.as_bytes(), from);
                self.body.extend_from_slice(&tree.0);
                varint::push(u64::from(*count), &mut self.body);
            }
            How::None | How::Data | How::Ask | How::Forget | How::Patch | How::Held => {}
        }
        if with_mode != 0 {
            varint::push(u64::from(meta.mode), &mut self.body);
        }
        if with_time != 0 {
            let distance = meta.mtime_ns.wrapping_sub(self.mtime_ns);
            varint::push((distance << 1 ^ distance >> 63).cast_unsigned(), &mut self.body);
            self.mtime_ns = meta.mtime_ns;
        }
        self.path.clear();
        self.path.extend_from_slice(change.path.as_bytes());
    }

    fn path(&mut self, before: &[u8], path: &SyncPath) {
        let path = path.as_bytes();
        let shared = before.iter().zip(path).take_while(|(a, b)| a == b).count();
        varint::push(shared as u64, &mut self.body);
        varint::push((path.len() - shared) as u64, &mut self.body);
        self.body.extend_from_slice(&path[shared..]);
    }
}

/// As on the wire in `Ops`.
fn number_of(how: &How) -> u8 {
    match how {
        How::None => 0,
        How::Data => 1,
        How::Copy { .. } => 2,
        How::Ask => 3,
        How::Forget => 4,
        How::Patch => 5,
        How::Tree { .. } => 6,
        How::Like { .. } => 7,
        How::Held => 8,
    }
}

/// The ops of a packed frame; what stands at their paths so far is left to be filled in.
///
/// # Errors
/// [`WireError::TooLong`] when they unpack to more than [`MAX_UNPACKED_BYTES`] or are more than
/// [`OPS_PER_FRAME`], [`WireError::Malformed`] when they are not what [`OpsPacker`] makes.
pub fn unpack_ops(encoding: u8, body: Vec<u8>, digests: &[u8]) -> Result<Vec<Op>, WireError> {
    let body = match encoding {
        0 => body,
        1 => decompress(&body)?,
        _ => return Err(WireError::Malformed),
    };
    if body.len() > MAX_UNPACKED_BYTES {
        return Err(WireError::TooLong);
    }
    let mut reader = Reader { body: &body, at: 0, digests, path: Vec::new(), mtime_ns: 0 };
    let mut ops = Vec::new();
    while reader.at < body.len() {
        if ops.len() == OPS_PER_FRAME {
            return Err(WireError::TooLong);
        }
        ops.push(reader.op().ok_or(WireError::Malformed)?);
    }
    if reader.digests.is_empty() { Ok(ops) } else { Err(WireError::Malformed) }
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    digests: &'a [u8],
    path: Vec<u8>,
    mtime_ns: i64,
}

impl<'a> Reader<'a> {
    fn op(&mut self) -> Option<Op> {
        let before = std::mem::take(&mut self.path);
        let path = self.path(&before)?;
        let &[what, how] = self.bytes(2)? else { return None };
        let new = self.entry(what & WHAT)?;
        let how = self.how(how, &path)?;
        let mode = match what & WITH_MODE {
            0 => 0,
            _ => u16::try_from(self.number()?).ok()?,
        };
        let mut mtime_ns = 0;
        if what & WITH_TIME != 0 {
            let zigzag = self.number()?;
            let distance = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
            self.mtime_ns = self.mtime_ns.wrapping_add(distance);
            mtime_ns = self.mtime_ns;
        }
        if what & !(WHAT | WITH_MODE | WITH_TIME) != 0 {
            return None;
        }
        self.path = before;
        self.path.clear();
        self.path.extend_from_slice(path.as_bytes());
        let change = Change { path, old: None, new };
        Some(Op { change, how, meta: Meta { mode, mtime_ns } })
    }

    fn entry(&mut self, what: u8) -> Option<Option<Entry>> {
        Some(match what {
            NOTHING => None,
            FILE | EXECUTABLE => {
                let size = self.number()?;
                let (digest, rest) = self.digests.split_at_checked(DIGEST_BYTES)?;
                self.digests = rest;
                let digest = Digest(digest.try_into().ok()?);
                Some(Entry::File { digest, size, executable: what == EXECUTABLE })
            }
            DIRECTORY => Some(Entry::Directory),
            SYMLINK => {
                let len = self.length()?;
                Some(Entry::Symlink { target: self.bytes(len)?.into() })
            }
            _ => return None,
        })
    }

    fn how(&mut self, how: u8, path: &SyncPath) -> Option<How> {
        Some(match how {
            0 => How::None,
            1 => How::Data,
            2 => How::Copy { from: self.path(path.as_bytes())? },
            3 => How::Ask,
            4 => How::Forget,
            5 => How::Patch,
            6 => {
                let from = self.path(path.as_bytes())?;
                let tree = TreeId(self.bytes(32)?.try_into().ok()?);
                How::Tree { from, tree, count: u32::try_from(self.number()?).ok()? }
            }
            7 => How::Like { from: self.path(path.as_bytes())? },
            8 => How::Held,
            _ => return None,
        })
    }

    fn path(&mut self, before: &[u8]) -> Option<SyncPath> {
        let shared = self.length()?;
        let len = self.length()?;
        let mut path = before.get(..shared)?.to_vec();
        path.extend_from_slice(self.bytes(len)?);
        SyncPath::new(path).ok()
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len)?;
        let bytes = self.body.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn number(&mut self) -> Option<u64> {
        varint::read(self.body, &mut self.at)
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }
}
