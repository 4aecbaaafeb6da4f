//! Contents by digest, so that a hub can write again what it wrote before without asking anybody.
//!
//! One file that only grows, `contents`: a head of 36 bytes and the content, again and again. Appending
//! is one write, whatever the number of files: a file for each would cost an initial sync as much
//! again as the files at the target do. A half-written record at the end is cut off at the next open, so
//! a content is whole or absent; what is read is compared with its digest by whoever puts it in place.
//!
//! Bounded: what nobody needs any more goes first, then the oldest, half of the bound at a time, by
//! writing what stays into a new file (so for that moment up to the bound is taken twice). A content of
//! more than half of the bound is not kept at all. What is not kept, [`Contents::contains`] says.
//!
//! A large one gets a [`Slot`], which another thread fills: its head is that of a gap until all of it is
//! there, so whatever is put meanwhile stands behind it.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::debug;

use super::files::private;
use crate::tree::{Digest, Node, Snapshot};

const NAME: &str = "contents";
const MAGIC: &[u8; 4] = b"e2c1";
/// Instead of that: room for a content that is not there, or not yet.
const GAP: &[u8; 4] = b"e2c0";
/// Magic, permission bits (u16), nothing (u16), length (u64), digest, CRC32C of those.
const HEAD_BYTES: usize = 4 + 2 + 2 + 8 + 16 + 4;
const STEP_BYTES: usize = 128 << 10;
/// With less than this a volume is full; with more something else kept us from writing, a quota for one.
const FULL_BYTES: u64 = 1 << 20;

/// Where a content lies.
#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Of its head.
    offset: u64,
    len: u64,
    mode: u16,
}

impl Piece {
    fn bytes(self) -> u64 {
        HEAD_BYTES as u64 + self.len
    }
}

/// The contents of one target.
#[derive(Debug)]
pub struct Contents {
    dir: PathBuf,
    file: File,
    index: HashMap<Digest, Piece>,
    /// What slots were given for.
    coming: HashSet<Digest>,
    /// Up to where the file holds whole records.
    end: u64,
    /// How often the file was written anew: slots of the one before are of no use.
    rewrites: u64,
    /// The bound; less than what was asked for after the volume was full.
    max_bytes: u64,
    /// Up to where the bound may rise again.
    wished_bytes: u64,
    /// How often needed contents had to go.
    evictions: u64,
    buffer: Vec<u8>,
}

/// Room for one content, to be filled by whoever has it.
#[derive(Debug)]
pub struct Slot {
    file: File,
    digest: Digest,
    piece: Piece,
    rewrites: u64,
}

impl Slot {
    /// Copies the content from `source`, with the permission bits of the file that it stands in. Blocks
    /// as long as that takes, or until it is to `stop`.
    ///
    /// # Errors
    /// When it cannot be read or written, is not what was said ([`io::ErrorKind::InvalidData`]), or was
    /// stopped ([`io::ErrorKind::Interrupted`]); then it is absent.
    pub fn fill(&mut self, mode: u16, mut source: impl Read, stop: &AtomicBool) -> io::Result<()> {
        let mut buffer = Vec::new();
        let mut hasher = blake3::Hasher::new();
        let (mut left, mut at) = (self.piece.len, self.piece.offset + HEAD_BYTES as u64);
        while left > 0 {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            buffer.clear();
            let step = left.min(STEP_BYTES as u64);
            if source.by_ref().take(step).read_to_end(&mut buffer)? as u64 != step {
                return Err(io::ErrorKind::InvalidData.into());
            }
            hasher.update(&buffer);
            self.file.write_all_at(&buffer, at)?;
            at += step;
            left -= step;
        }
        if Digest::from(hasher.finalize()) != self.digest {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut head = Vec::with_capacity(HEAD_BYTES);
        self.piece.mode = mode;
        push_head(MAGIC, &self.digest, self.piece, &mut head);
        self.file.write_all_at(&head, self.piece.offset)
    }
}

impl Contents {
    /// Opens the contents in a store's folder, of at most `max_bytes` bytes. Cost: reading the heads.
    ///
    /// # Errors
    /// When the system refuses a read or write. Damage only makes contents absent.
    pub fn open(dir: &Path, max_bytes: u64) -> io::Result<Self> {
        let file =
            private().read(true).write(true).create(true).truncate(false).open(dir.join(NAME))?;
        let len = file.metadata()?.len();
        let (mut index, mut end) = (HashMap::new(), 0);
        while let Some((magic, digest, piece)) = read_head(&file, end)? {
            if piece.len > len.saturating_sub(end + HEAD_BYTES as u64) {
                break;
            }
            end += piece.bytes();
            if magic == *MAGIC {
                index.insert(digest, piece);
            }
        }
        file.set_len(end)?;
        let dir = dir.to_owned();
        let (coming, buffer) = (HashSet::new(), Vec::new());
        let (rewrites, evictions, wished_bytes) = (0, 0, max_bytes);
        let contents = Self {
            dir,
            file,
            index,
            coming,
            end,
            rewrites,
            max_bytes,
            wished_bytes,
            evictions,
            buffer,
        };
        Ok(contents)
    }

    /// Bytes that what [`Contents::open`] made in a store's folder takes on disk.
    #[must_use]
    pub fn bytes_in(dir: &Path) -> u64 {
        fs::metadata(dir.join(NAME)).map_or(0, |file| file.len())
    }

    /// Removes what [`Contents::open`] made in a store's folder. Whoever has it open keeps it until then.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Whether a content is there, or has a slot. That it is whole is seen when it is read.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.index.contains_key(digest) || self.coming.contains(digest)
    }

    /// Bytes taken on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// Whether a content of this length is kept at all.
    #[must_use]
    pub fn takes(&self, len: u64) -> bool {
        len.saturating_add(HEAD_BYTES as u64) <= self.max_bytes / 2
    }

    /// Begins anew, with half of what there was as the bound: the volume is full, and the record needs
    /// room as well. Whether anything was let go.
    pub fn give_way(&mut self) -> bool {
        let bytes = self.end;
        self.max_bytes = self.max_bytes.min(bytes / 2);
        if self.free_bytes().is_none_or(|free| free >= FULL_BYTES) {
            // That there is room again could not be seen.
            self.wished_bytes = self.max_bytes;
        }
        self.evictions += 1;
        // At once, for a new file needs room as well. Slots are of the file before.
        let _ = self.file.set_len(0);
        (self.end, self.rewrites) = (0, self.rewrites + 1);
        self.index.clear();
        if let Err(error) = self.rewrite(&[]) {
            debug!(%error, "contents are kept in the file that was full");
        }
        bytes > 0
    }

    /// Raises the bound after [`Contents::give_way`] if the volume has got that much room since that all of
    /// it, and all of it once more, leaves a third: what made it full would have to come again before it
    /// gives way once more. Costs one look at the volume, and nothing where the bound is what it was. Says
    /// whether it has.
    pub fn rise(&mut self) -> bool {
        if self.max_bytes >= self.wished_bytes {
            return false;
        }
        let Some(free) = self.free_bytes() else { return false };
        let bound = (free.saturating_add(self.end) / 3).min(self.wished_bytes);
        // By little it would be raised, and all be looked through, with each file that others remove.
        if bound < self.wished_bytes && bound / 2 < self.max_bytes.max(1) {
            return false;
        }
        self.max_bytes = bound;
        true
    }

    /// What the volume has left for us.
    fn free_bytes(&self) -> Option<u64> {
        let volume = rustix::fs::fstatvfs(&self.file).ok()?;
        Some(volume.f_bavail.saturating_mul(volume.f_frsize))
    }

    /// How often contents that are needed had to go for others.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Puts a content of `len` bytes, with the permission bits of the file that it stands in. `held`
    /// is what is managed: when there is no room, what is not in there goes first. Says whether it
    /// is kept.
    ///
    /// # Errors
    /// When it cannot be read or written, or is not what was said ([`io::ErrorKind::InvalidData`]);
    /// then it is absent.
    pub fn put(
        &mut self,
        digest: Digest,
        len: u64,
        mode: u16,
        source: impl Read,
        held: &Snapshot,
    ) -> io::Result<bool> {
        if self.contains(&digest) {
            return Ok(true);
        }
        if !self.takes(len) {
            return Ok(false);
        }
        let piece = self.place(len, mode, held)?;
        self.append(&digest, piece, source).inspect_err(|_| {
            // None may follow half a record.
            let _ = self.file.set_len(self.end);
        })?;
        self.end += piece.bytes();
        self.index.insert(digest, piece);
        Ok(true)
    }

    /// Gives room for a content of `len` bytes that another thread has; [`Contents::filled`] is to be told
    /// what became of it. `None` when it is there, has a slot, or is not kept.
    ///
    /// # Errors
    /// When there can be none.
    pub fn reserve(
        &mut self,
        digest: Digest,
        len: u64,
        held: &Snapshot,
    ) -> io::Result<Option<Slot>> {
        if self.contains(&digest) || !self.takes(len) {
            return Ok(None);
        }
        let piece = self.place(len, 0, held)?;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        push_head(GAP, &digest, piece, &mut head);
        let file = self.file.try_clone()?;
        self.file.write_all_at(&head, piece.offset).inspect_err(|_| {
            let _ = self.file.set_len(self.end);
        })?;
        self.end += piece.bytes();
        self.coming.insert(digest);
        Ok(Some(Slot { file, digest, piece, rewrites: self.rewrites }))
    }

    /// Takes back a slot, `whole` or not. Says whether its content is kept: not if the file was written
    /// anew meanwhile.
    pub fn filled(&mut self, slot: &Slot, whole: bool) -> bool {
        self.coming.remove(&slot.digest);
        let kept = whole && slot.rewrites == self.rewrites;
        if kept {
            self.index.insert(slot.digest, slot.piece);
        }
        kept
    }

    /// Where the next content comes to lie; makes room for it.
    fn place(&mut self, len: u64, mode: u16, held: &Snapshot) -> io::Result<Piece> {
        let piece = Piece { offset: self.end, len, mode };
        if self.end + piece.bytes() > self.max_bytes {
            self.make_room(held)?;
        }
        Ok(Piece { offset: self.end, ..piece })
    }

    fn append(&mut self, digest: &Digest, piece: Piece, mut source: impl Read) -> io::Result<()> {
        let buffer = &mut self.buffer;
        buffer.clear();
        push_head(MAGIC, digest, piece, buffer);
        let mut left = piece.len;
        let mut offset = piece.offset;
        let mut hasher = blake3::Hasher::new();
        loop {
            let step = left.min((STEP_BYTES - HEAD_BYTES) as u64);
            let before = buffer.len();
            source.by_ref().take(step).read_to_end(buffer)?;
            hasher.update(&buffer[before..]);
            let whole = (buffer.len() - before) as u64 == step;
            if !whole || (left == step && Digest::from(hasher.finalize()) != *digest) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.file.write_all_at(buffer, offset)?;
            offset += buffer.len() as u64;
            left -= step;
            buffer.clear();
            if left == 0 {
                return Ok(());
            }
        }
    }

    /// The content of a digest with its length and the permission bits it was put with. To be
    /// compared with the digest: a power cut may have lost its bytes.
    #[must_use]
    pub fn read(&self, digest: &Digest) -> Option<(u64, u16, impl Read + use<'_>)> {
        let piece = self.index.get(digest)?;
        let at = piece.offset + HEAD_BYTES as u64;
        Some((piece.len, piece.mode, Section { file: &self.file, at, left: piece.len }))
    }

    /// Forgets a content that turned out not to be whole.
    pub fn forget(&mut self, digest: &Digest) {
        self.index.remove(digest);
    }

    /// Lets go of what nobody needs; if that is less than a quarter of the bound, also of the oldest,
    /// until half of it is free.
    fn make_room(&mut self, held: &Snapshot) -> io::Result<()> {
        let mut needed = HashSet::new();
        held.each_node(&mut |node| {
            if let Node::File { digest, .. } = node {
                needed.insert(*digest);
            }
        });
        let mut stay: Vec<(Digest, Piece)> =
            self.index.iter().map(|(digest, piece)| (*digest, *piece)).collect();
        stay.retain(|(digest, _)| needed.contains(digest));
        stay.sort_by_key(|(_, piece)| piece.offset);
        let mut bytes: u64 = stay.iter().map(|(_, piece)| piece.bytes()).sum();
        let mut oldest = 0;
        if bytes > self.max_bytes / 4 * 3 {
            while bytes > self.max_bytes / 2 {
                bytes -= stay[oldest].1.bytes();
                oldest += 1;
            }
        }
        self.evictions += u64::from(oldest > 0);
        self.rewrite(&stay[oldest..])
    }

    fn rewrite(&mut self, stay: &[(Digest, Piece)]) -> io::Result<()> {
        // Swept at the next open of the store when we are killed here.
        let new = self.dir.join(format!("{NAME}.new"));
        let write = || -> io::Result<_> {
            let mut options = private();
            let mut file = options.read(true).write(true).create(true).truncate(true).open(&new)?;
            let (mut index, mut end) = (HashMap::new(), 0);
            let mut old = &self.file;
            for &(digest, piece) in stay {
                old.seek(SeekFrom::Start(piece.offset))?;
                // In the kernel, where it can (copy_file_range(2)).
                io::copy(&mut old.take(piece.bytes()), &mut file)?;
                index.insert(digest, Piece { offset: end, ..piece });
                end += piece.bytes();
            }
            fs::rename(&new, self.dir.join(NAME))?;
            Ok((file, index, end))
        };
        let written = write();
        (self.file, self.index, self.end) = written.inspect_err(|_| drop(fs::remove_file(&new)))?;
        self.rewrites += 1;
        Ok(())
    }
}

fn push_head(magic: &[u8; 4], digest: &Digest, piece: Piece, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(magic);
    out.extend_from_slice(&piece.mode.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&piece.len.to_le_bytes());
    out.extend_from_slice(&digest.0);
    let sum = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// The head at `offset`; `None` where no whole and true one is.
fn read_head(file: &File, offset: u64) -> io::Result<Option<([u8; 4], Digest, Piece)>> {
    let mut head = [0; HEAD_BYTES];
    match file.read_exact_at(&mut head, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let (body, sum) = head.split_at(HEAD_BYTES - 4);
    let magic = [head[0], head[1], head[2], head[3]];
    if crc32c::crc32c(body).to_le_bytes() != sum || ![*MAGIC, *GAP].contains(&magic) {
        return Ok(None);
    }
    let mode = u16::from_le_bytes([head[4], head[5]]);
    let mut len = [0; 8];
    len.copy_from_slice(&head[8..16]);
    let mut digest = [0; 16];
    digest.copy_from_slice(&head[16..32]);
    Ok(Some((magic, Digest(digest), Piece { offset, len: u64::from_le_bytes(len), mode })))
}

/// A part of a file.
struct Section<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::SyncPath;
    use crate::tree::{Entry, Stamp};

    const MAX: u64 = 10_000;

    fn content(n: u8, len: usize) -> (Digest, Vec<u8>) {
        let bytes = vec![n; len];
        (Digest::of(&bytes), bytes)
    }

    fn put(contents: &mut Contents, n: u8, len: usize, held: &Snapshot) -> bool {
        let (digest, bytes) = content(n, len);
        contents.put(digest, len as u64, 0o640, &*bytes, held).unwrap()
    }

    fn get(contents: &Contents, n: u8, len: usize) -> Option<Vec<u8>> {
        let (digest, _) = content(n, len);
        let (told, mode, mut reader) = contents.read(&digest)?;
        assert_eq!((told, mode), (len as u64, 0o640));
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        Some(bytes)
    }

    /// A tree that needs these contents.
    fn held(of: &[(u8, usize)]) -> Snapshot {
        let edits: Vec<_> = of
            .iter()
            .map(|&(n, len)| {
                let digest = content(n, len).0;
                let entry = Entry::File { digest, size: len as u64, executable: false };
                let path = SyncPath::try_from(format!("{n:03}").as_str()).unwrap();
                (path, Some(Node::from_entry(&entry, Stamp::default())))
            })
            .collect();
        Snapshot::empty().apply(&edits).unwrap()
    }

    #[test]
    fn what_was_put_is_there_after_a_restart_and_once_only() {
        let dir = tempfile::tempdir().unwrap();
        let mut contents = Contents::open(dir.path(), MAX << 20).unwrap();
        let nothing = Snapshot::empty();
        for (n, len) in [(1, 5), (2, 0), (3, 400_000), (1, 5)] {
            assert!(put(&mut contents, n, len, &nothing));
        }
        let bytes = contents.bytes();
        assert_eq!(bytes, (3 * HEAD_BYTES + 5 + 400_000) as u64);
        drop(contents);
        let contents = Contents::open(dir.path(), MAX << 20).unwrap();
        assert_eq!(contents.bytes(), bytes);
        for (n, len) in [(1, 5), (2, 0), (3, 400_000)] {
            assert_eq!(get(&contents, n, len), Some(content(n, len).1));
        }
        assert!(get(&contents, 4, 1).is_none());
    }

    #[test]
    fn i8_cut_off_anywhere_a_content_is_whole_or_absent() {
        let dir = tempfile::tempdir().unwrap();
        let mut contents = Contents::open(dir.path(), MAX).unwrap();
        let nothing = Snapshot::empty();
        put(&mut contents, 1, 10, &nothing);
        let first = contents.bytes();
        put(&mut contents, 2, 20, &nothing);
        let all = fs::read(dir.path().join(NAME)).unwrap();
        drop(contents);
        for len in 0..=all.len() as u64 {
            fs::write(dir.path().join(NAME), &all[..len as usize]).unwrap();
            let mut contents = Contents::open(dir.path(), MAX).unwrap();
            let one = get(&contents, 1, 10);
            assert_eq!(one.is_some(), len >= first, "{len}");
            assert_eq!(get(&contents, 2, 20).is_some(), len == all.len() as u64, "{len}");
            // What comes next is found again.
            put(&mut contents, 3, 30, &nothing);
            drop(contents);
            let contents = Contents::open(dir.path(), MAX).unwrap();
            assert_eq!(get(&contents, 3, 30), Some(content(3, 30).1), "{len}");
            assert_eq!(get(&contents, 1, 10).is_some(), one.is_some());
        }
    }

    #[test]
    fn i8_a_source_that_ends_early_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut contents = Contents::open(dir.path(), MAX).unwrap();
        let (digest, bytes) = content(1, 100);
        let short = contents.put(digest, 100, 0, &bytes[..99], &Snapshot::empty());
        assert!(short.is_err() && !contents.contains(&digest));
        assert!(put(&mut contents, 2, 50, &Snapshot::empty()));
        drop(contents);
        let contents = Contents::open(dir.path(), MAX).unwrap();
        assert!(get(&contents, 2, 50).is_some() && get(&contents, 1, 100).is_none());
    }

    #[test]
    fn what_is_put_while_a_slot_is_being_filled_waits_for_nothing_and_is_lost_with_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let nothing = Snapshot::empty();
        let (digest, bytes) = content(1, 400_000);
        let stop = AtomicBool::new(false);
        for ends in ["killed", "stopped", "short", "other", "whole"] {
            let place = dir.path().join(ends);
            fs::create_dir(&place).unwrap();
            let mut contents = Contents::open(&place, MAX << 20).unwrap();
            let mut slot = contents.reserve(digest, 400_000, &nothing).unwrap().unwrap();
            assert!(contents.reserve(digest, 400_000, &nothing).unwrap().is_none(), "once");
            assert!(contents.contains(&digest) && contents.read(&digest).is_none());
            // A save is kept meanwhile.
            assert!(put(&mut contents, 2, 50, &nothing));
            let mut fill = |bytes: &[u8]| slot.fill(0o640, bytes, &stop).is_ok();
            let whole = match ends {
                "stopped" => {
                    stop.store(true, Ordering::Relaxed);
                    let filled = fill(&bytes);
                    stop.store(false, Ordering::Relaxed);
                    filled
                }
                "short" => fill(&bytes[..399_999]),
                "other" => fill(&content(3, 400_000).1),
                "whole" => fill(&bytes),
                _ => false,
            };
            assert_eq!(whole, ends == "whole");
            if ends != "killed" {
                assert_eq!(contents.filled(&slot, whole), whole, "{ends}");
                assert_eq!(contents.contains(&digest), whole, "{ends}");
            }
            let there = |contents: &Contents| {
                assert_eq!(get(contents, 2, 50), Some(content(2, 50).1), "{ends}");
                assert_eq!(get(contents, 1, 400_000).is_some(), whole, "{ends}");
            };
            there(&contents);
            drop(contents);
            let mut contents = Contents::open(&place, MAX << 20).unwrap();
            there(&contents);
            assert_eq!(contents.reserve(digest, 400_000, &nothing).unwrap().is_none(), whole);
        }
    }

    #[test]
    fn i10_a_slot_counts_and_does_not_outlive_the_file_it_is_in() {
        let dir = tempfile::tempdir().unwrap();
        let mut contents = Contents::open(dir.path(), MAX).unwrap();
        let nothing = Snapshot::empty();
        let (digest, bytes) = content(1, 4000);
        let mut slot = contents.reserve(digest, 4000, &nothing).unwrap().unwrap();
        assert!(contents.bytes() >= 4000);
        for n in 2..=9 {
            assert!(put(&mut contents, n, 1000, &held(&[(n, 1000)])));
            assert!(contents.bytes() <= MAX);
        }
        slot.fill(0o640, &*bytes, &AtomicBool::new(false)).unwrap();
        assert!(!contents.filled(&slot, true), "it lies in a file that is gone");
        assert!(!contents.contains(&digest) && get(&contents, 9, 1000).is_some());
        assert!(contents.reserve(digest, 5000, &nothing).unwrap().is_none(), "more than half");
    }

    #[test]
    fn i10_what_nobody_needs_goes_first_then_the_oldest() {
        let dir = tempfile::tempdir().unwrap();
        let mut contents = Contents::open(dir.path(), MAX).unwrap();
        for n in 1..=9 {
            assert!(put(&mut contents, n, 1000, &Snapshot::empty()));
        }
        // 2 and 7 to 9 are needed: all others make room.
        let few = held(&[(2, 1000), (7, 1000), (8, 1000), (9, 1000)]);
        assert!(put(&mut contents, 10, 1000, &few));
        let there = |contents: &Contents| -> Vec<u8> {
            (1..=30).filter(|&n| get(contents, n, 1000).is_some()).collect()
        };
        assert_eq!(there(&contents), [2, 7, 8, 9, 10]);
        // All are needed: the oldest go, down to half.
        let all: Vec<(u8, usize)> = (1..=30).map(|n| (n, 1000)).collect();
        for n in 11..=15 {
            assert!(put(&mut contents, n, 1000, &held(&all)));
            assert!(contents.bytes() <= MAX);
        }
        assert_eq!(there(&contents), [11, 12, 13, 14, 15]);
        assert!(!put(&mut contents, 30, 6000, &held(&all)), "more than half");
        drop(contents);
        let contents = Contents::open(dir.path(), MAX).unwrap();
        assert!(get(&contents, 15, 1000).is_some());
    }
}
