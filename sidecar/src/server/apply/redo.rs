//! Owns the record of a patch in place: all of it is on file before the first byte of the target is
//! touched, so that a hub that finds one finishes what another began (I1, I8).
//!
//! `magic | length of the head (u32) | head (postcard)`, extents of `offset (u64) | lengths of the new
//! and of the old bytes (u32 each) | both`, and as the last an offset of all ones with the crc32c of
//! everything before. Numbers are little endian. A record without its end was never begun at the target.
//!
//! The old bytes tell what the patch can have left from what others wrote since: that is never
//! written over (I4).

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::super::root::PutMeta;
use super::overlay;
use crate::path::SyncPath;

const MAGIC: &[u8; 12] = b"e2ek redo 2\n";
/// Instead of an offset, before the checksum.
const END: u64 = u64::MAX;
/// Longest extent, in bytes: what one message brings.
const MAX_EXTENT_BYTES: usize = 1 << 20;
/// Before an extent's bytes.
const FIXED_BYTES: u64 = 16;
const MAX_HEAD_BYTES: usize = 64 << 10;

/// What is patched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in super::super) struct Head {
    pub(in super::super) path: SyncPath,
    /// Device and inode of the file: no other is ever written to.
    pub(in super::super) file: (u64, u64),
    /// Of the new content, in bytes.
    pub(in super::super) size: u64,
    /// Of the old one.
    old_size: u64,
    executable: bool,
    mode: Option<u32>,
    mtime_ns: Option<i64>,
}

/// Of a file, in bytes.
pub(super) struct Sizes {
    pub(super) old: u64,
    pub(super) new: u64,
}

impl Head {
    pub(super) fn new(path: &SyncPath, file: (u64, u64), sizes: Sizes, meta: &PutMeta) -> Self {
        let &PutMeta { executable, mode, mtime_ns } = meta;
        let Sizes { old: old_size, new: size } = sizes;
        Self { path: path.clone(), file, size, old_size, executable, mode, mtime_ns }
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
        // Those of patches that failed half-way stay while others come and go.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = folder.join(format!("{name}.{}", NEXT.fetch_add(1, Ordering::Relaxed)));
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

    /// Takes new bytes for an offset, behind all before, and what `old` has there.
    ///
    /// # Errors
    /// `UnexpectedEof` when `old` is shorter than it was.
    pub(super) fn take(&mut self, mut offset: u64, bytes: &[u8], old: &File) -> io::Result<()> {
        for part in bytes.chunks(MAX_EXTENT_BYTES) {
            let at = self.length + FIXED_BYTES;
            let replaced = self.head.old_size.saturating_sub(offset).min(part.len() as u64);
            self.extent(offset, part, (old, replaced))?;
            self.extents.push(Extent { offset, length: part.len() as u32, at });
            offset += part.len() as u64;
        }
        Ok(())
    }

    /// Takes what `old` has beyond the end of the new content.
    ///
    /// # Errors
    /// As [`Redo::take`].
    pub(super) fn take_rest(&mut self, old: &File) -> io::Result<()> {
        let Head { mut size, old_size, .. } = self.head;
        while size < old_size {
            let part = (old_size - size).min(MAX_EXTENT_BYTES as u64);
            self.extent(size, &[], (old, part))?;
            size += part;
        }
        Ok(())
    }

    fn extent(&mut self, offset: u64, new: &[u8], (old, count): (&File, u64)) -> io::Result<()> {
        let mut replaced = vec![0; count as usize];
        old.read_exact_at(&mut replaced, offset)?;
        let lengths = [new.len() as u32, replaced.len() as u32].map(u32::to_le_bytes);
        let fixed = [&offset.to_le_bytes()[..], &lengths[0], &lengths[1]];
        self.append(&[&fixed.concat(), new, &replaced].concat())
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
        end.extend_from_slice(&0u32.to_le_bytes());
        end.extend_from_slice(&sum.to_le_bytes());
        self.append(&end)?;
        self.kept = true;
        Ok(())
    }

    /// Whether it outlives us.
    pub(super) fn is_kept(&self) -> bool {
        self.kept
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

/// One extent as it is read.
struct Part {
    offset: u64,
    new: Vec<u8>,
    old: Vec<u8>,
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
            match self.part() {
                Ok(Part { offset: END, new, .. }) => return Ok(new == sum.to_le_bytes()),
                Ok(Part { offset, new, old }) => {
                    let lengths = [new.len() as u32, old.len() as u32].map(u32::to_le_bytes);
                    for bytes in [&offset.to_le_bytes()[..], &lengths[0], &lengths[1], &new, &old] {
                        *sum = crc32c::crc32c_append(*sum, bytes);
                    }
                    let within = |length: usize, size| {
                        length == 0
                            || offset.checked_add(length as u64).is_some_and(|end| end <= size)
                    };
                    if !within(new.len(), self.head.size) || !within(old.len(), self.head.old_size)
                    {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the file is what the patch can have left of it when it was cut off, where the patch
    /// writes: of each extent some new bytes, then the old ones. Uses the record up.
    pub(in super::super) fn can_have_left(mut self, file: &File) -> io::Result<bool> {
        let Head { size, old_size, .. } = self.head;
        let now = file.metadata()?.len();
        // Only behind all that is written it becomes shorter.
        let between = now == size || (old_size..=size.max(old_size)).contains(&now);
        if !between {
            return Ok(false);
        }
        loop {
            let Part { offset, new, old } = self.part()?;
            if offset == END {
                return Ok(true);
            }
            let mut found = vec![0; new.len().max(old.len())];
            let count = overlay::fill(file, &mut found, offset)?;
            found.truncate(count);
            let written = found.iter().zip(&new).take_while(|(found, new)| found == new).count();
            let cut = new.is_empty() && now == size;
            if !cut && found[written..] != *old.get(written..).unwrap_or_default() {
                return Ok(false);
            }
        }
    }

    fn part(&mut self) -> io::Result<Part> {
        let mut fixed = [0; FIXED_BYTES as usize];
        self.reader.read_exact(&mut fixed)?;
        let (offset, lengths) = fixed.split_at(8);
        let offset = u64::from_le_bytes(offset.try_into().unwrap_or_default());
        let (new, old) = lengths.split_at(4);
        let [new, old] =
            [new, old].map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap_or_default()));
        let mut bytes = |length: u32| {
            if length as usize > MAX_EXTENT_BYTES {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            let mut bytes = vec![0; length as usize];
            self.reader.read_exact(&mut bytes).map(|()| bytes)
        };
        Ok(Part { offset, new: bytes(new)?, old: bytes(old)? })
    }

    /// The next extent, `None` after the last.
    pub(in super::super) fn next(&mut self) -> io::Result<Option<(u64, Vec<u8>)>> {
        loop {
            let Part { offset, new, .. } = self.part()?;
            if offset == END {
                return Ok(None);
            }
            if !new.is_empty() {
                return Ok(Some((offset, new)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A whole record of a file that becomes shorter, and what it is of.
    fn record(folder: &Path) -> (Vec<u8>, File) {
        let old = folder.join("old");
        std::fs::write(&old, [b'a'; 1000]).unwrap();
        let old = File::open(old).unwrap();
        let path = SyncPath::try_from("0/f").unwrap();
        let meta = PutMeta { executable: false, mode: None, mtime_ns: None };
        let head = Head::new(&path, (1, 2), Sizes { old: 1000, new: 990 }, &meta);
        let mut redo = Redo::begin(&folder.join("redo"), "1-0", head).unwrap();
        redo.take(100, b"new", &old).unwrap();
        redo.take(987, b"end", &old).unwrap();
        redo.take_rest(&old).unwrap();
        redo.seal().unwrap();
        let bytes = std::fs::read(&redo.path).unwrap();
        redo.forget();
        (bytes, old)
    }

    #[test]
    fn i8_i11_a_record_is_whole_or_none() {
        let home = tempfile::tempdir().unwrap();
        let (bytes, old) = record(home.path());
        let file = home.path().join("found");
        let found = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            Found::open(&file).unwrap()
        };
        let mut whole = found(&bytes).unwrap();
        assert_eq!(whole.next().unwrap(), Some((100, b"new".to_vec())));
        assert_eq!(whole.next().unwrap(), Some((987, b"end".to_vec())));
        assert_eq!(whole.next().unwrap(), None);
        assert!(found(&bytes).unwrap().can_have_left(&old).unwrap(), "not begun");
        for at in 0..bytes.len() {
            assert!(found(&bytes[..at]).is_none(), "cut at {at}");
            for bit in 0..8 {
                let mut turned = bytes.clone();
                turned[at] ^= 1 << bit;
                assert!(found(&turned).is_none(), "turned at {at}");
            }
        }
    }

    #[test]
    fn i4_what_a_patch_can_have_left_is_told_from_the_rest() {
        let home = tempfile::tempdir().unwrap();
        let (bytes, _) = record(home.path());
        let [record, file] = ["record", "file"].map(|name| home.path().join(name));
        std::fs::write(&record, bytes).unwrap();
        let old = vec![b'a'; 1000];
        let with = |at: usize, bytes: &[u8], size: usize| {
            let mut content = old.clone();
            content[at..at + bytes.len()].copy_from_slice(bytes);
            content.resize(size, b'+');
            content
        };
        let can = |content: Vec<u8>| {
            std::fs::write(&file, content).unwrap();
            let file = File::open(&file).unwrap();
            Found::open(&record).unwrap().unwrap().can_have_left(&file).unwrap()
        };
        for (content, ours) in [
            (old.clone(), true),
            (with(100, b"n", 1000), true),
            (with(100, b"new", 1000), true),
            (with(100, b"new", 990), true),
            (with(500, b"theirs", 1000), true),
            (with(100, b"aew", 1000), false),
            (with(102, b"x", 1000), false),
            (with(994, b"x", 1000), false),
            (with(100, b"new", 989), false),
            (with(100, b"new", 995), false),
            (with(100, b"new", 1001), false),
        ] {
            let at = content.iter().position(|byte| *byte != b'a');
            let size = content.len();
            assert_eq!(can(content), ours, "of {size} bytes, others from {at:?}");
        }
    }
}
