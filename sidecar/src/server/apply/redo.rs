//! Owns the record of a patch in place: all of it is on file before the first byte of the target is
//! touched, so that a hub that finds one finishes what another began (I1, I8).
//!
//! `magic | length of the head (u32) | head (postcard)`, extents of `offset (u64) | length (u32) |
//! bytes`, and as the last an offset of all ones with the crc32c of everything before. Numbers are
//! little endian. A record without its end was never begun at the target.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::root::PutMeta;
use crate::path::SyncPath;

const MAGIC: &[u8; 12] = b"e2ek redo 1\n";
/// Instead of an offset, before the checksum.
const END: u64 = u64::MAX;
/// Longest extent, in bytes: what one message brings.
const MAX_EXTENT_BYTES: usize = 1 << 20;
const MAX_HEAD_BYTES: usize = 64 << 10;

/// What is patched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in super::super) struct Head {
    pub(in super::super) path: SyncPath,
    /// Device and inode of the file: no other is ever written to.
    pub(in super::super) file: (u64, u64),
    /// Of the new content, in bytes.
    pub(in super::super) size: u64,
    executable: bool,
    mode: Option<u32>,
    mtime_ns: Option<i64>,
}

impl Head {
    pub(super) fn new(path: &SyncPath, file: (u64, u64), size: u64, meta: &PutMeta) -> Self {
        let &PutMeta { executable, mode, mtime_ns } = meta;
        Self { path: path.clone(), file, size, executable, mode, mtime_ns }
    }

    pub(in super::super) fn meta(&self) -> PutMeta {
        PutMeta { executable: self.executable, mode: self.mode, mtime_ns: self.mtime_ns }
    }
}

/// One part of the new content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u32,
    /// Where its bytes lie in the record.
    at: u64,
}

impl Extent {
    /// No bytes, at an offset.
    pub(super) fn nothing(offset: u64) -> Self {
        Self { offset, length: 0, at: 0 }
    }

    /// Where it ends in the new content.
    pub(super) fn end(self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

/// A record being written. Dropped, it is gone, as if nothing had been begun.
pub(super) struct Redo {
    file: File,
    path: PathBuf,
    head: Head,
    length: u64,
    sum: u32,
    extents: Vec<Extent>,
    /// The target may be half written: the record outlives us.
    kept: bool,
}

impl Redo {
    /// Begins a record in the folder, which is made when it is missing.
    pub(super) fn begin(folder: &Path, name: &str, head: Head) -> io::Result<Self> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let path = folder.join(name);
        let mut options = File::options();
        let file =
            options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let bytes = postcard::to_allocvec(&head).map_err(io::Error::other)?;
        let extents = Vec::new();
        let mut redo = Self { file, path, head, length: 0, sum: 0, extents, kept: false };
        redo.append(MAGIC)?;
        redo.append(&(bytes.len() as u32).to_le_bytes())?;
        redo.append(&bytes)?;
        Ok(redo)
    }

    /// Takes new bytes for an offset, behind all before.
    pub(super) fn take(&mut self, mut offset: u64, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(MAX_EXTENT_BYTES) {
            let mut record = Vec::with_capacity(12 + part.len());
            record.extend_from_slice(&offset.to_le_bytes());
            record.extend_from_slice(&(part.len() as u32).to_le_bytes());
            record.extend_from_slice(part);
            let at = self.length + 12;
            self.append(&record)?;
            self.extents.push(Extent { offset, length: part.len() as u32, at });
            offset += part.len() as u64;
        }
        Ok(())
    }

    pub(super) fn head(&self) -> &Head {
        &self.head
    }

    pub(super) fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The bytes of an extent.
    pub(super) fn read(&self, extent: Extent) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; extent.length as usize];
        self.file.read_exact_at(&mut bytes, extent.at)?;
        Ok(bytes)
    }

    /// Ends the record: from now on it is finished by whoever finds it.
    pub(super) fn seal(&mut self) -> io::Result<()> {
        let sum = self.sum;
        let mut end = END.to_le_bytes().to_vec();
        end.extend_from_slice(&4u32.to_le_bytes());
        end.extend_from_slice(&sum.to_le_bytes());
        self.append(&end)?;
        self.kept = true;
        Ok(())
    }

    /// The target is whole, old or new: the record is not needed.
    pub(super) fn forget(&mut self) {
        self.kept = false;
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.length)?;
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }
}

impl Drop for Redo {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A whole record that another hub left.
pub(in super::super) struct Found {
    pub(in super::super) head: Head,
    reader: io::BufReader<File>,
}

impl Found {
    /// Reads a record; `None` for one without its end, or anything else.
    pub(in super::super) fn open(path: &Path) -> io::Result<Option<Self>> {
        // All of it is checked before any of it is used.
        let Some((mut found, mut sum)) = Self::begin(path)? else { return Ok(None) };
        if !found.check(&mut sum)? {
            return Ok(None);
        }
        Ok(Self::begin(path)?.map(|(found, _)| found))
    }

    fn begin(path: &Path) -> io::Result<Option<(Self, u32)>> {
        let mut reader = io::BufReader::with_capacity(64 << 10, File::open(path)?);
        let mut fixed = [0; 16];
        if reader.read_exact(&mut fixed).is_err() || !fixed.starts_with(MAGIC) {
            return Ok(None);
        }
        let length = u32::from_le_bytes([fixed[12], fixed[13], fixed[14], fixed[15]]) as usize;
        if length > MAX_HEAD_BYTES {
            return Ok(None);
        }
        let mut head = vec![0; length];
        if reader.read_exact(&mut head).is_err() {
            return Ok(None);
        }
        let sum = crc32c::crc32c_append(crc32c::crc32c(&fixed), &head);
        let Ok(head) = postcard::from_bytes(&head) else { return Ok(None) };
        Ok(Some((Self { head, reader }, sum)))
    }

    fn check(&mut self, sum: &mut u32) -> io::Result<bool> {
        loop {
            match self.extent() {
                Ok((END, bytes)) => return Ok(bytes == sum.to_le_bytes()),
                Ok((offset, bytes)) => {
                    *sum = crc32c::crc32c_append(*sum, &offset.to_le_bytes());
                    *sum = crc32c::crc32c_append(*sum, &(bytes.len() as u32).to_le_bytes());
                    *sum = crc32c::crc32c_append(*sum, &bytes);
                    let end = offset.checked_add(bytes.len() as u64);
                    if end.is_none_or(|end| end > self.head.size) {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn extent(&mut self) -> io::Result<(u64, Vec<u8>)> {
        let mut fixed = [0; 12];
        self.reader.read_exact(&mut fixed)?;
        let (offset, length) = fixed.split_at(8);
        let offset = u64::from_le_bytes(offset.try_into().unwrap_or_default());
        let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
        if length > MAX_EXTENT_BYTES {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; length];
        self.reader.read_exact(&mut bytes)?;
        Ok((offset, bytes))
    }

    /// The next extent, `None` after the last.
    pub(in super::super) fn next(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        let (offset, bytes) = self.extent()?;
        Ok((offset != END).then_some((offset, bytes)))
    }
}
