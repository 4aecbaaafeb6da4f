//! Sketches of more files than memory should hold, in a file that has no name and ends with us.
//!
//! Found by digest with one read. Of the two halves the older one goes when the younger is full. What
//! cannot be written or read back is forgotten: then a content is sent whole. Until there is enough
//! for a write no file is made.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use e2ek_sidecar::delta::Sketch;
use e2ek_sidecar::tree::Digest;

/// What one half may hold, in bytes: sketches of 500 MB of small files.
const HALF_BYTES: usize = 32 << 20;
/// Gathered before it is written, in bytes.
const WRITE_BYTES: usize = 64 << 10;
/// Digest, length.
const HEAD_BYTES: usize = 16 + 2;
/// More than any sketch with its head takes.
const READ_BYTES: usize = 4 << 10;
const NAME: &str = "sketches";

/// See the module.
pub(super) struct Spill {
    folder: PathBuf,
    half_bytes: usize,
    young: Half,
    old: Half,
    /// A write failed: nothing is kept from then on.
    broken: bool,
}

#[derive(Default)]
struct Half {
    file: Option<File>,
    /// By the first eight bytes of the digest, where its record lies.
    places: HashMap<u64, u32>,
    /// Written so far; `gathered` follows.
    written: usize,
    gathered: Vec<u8>,
}

impl Spill {
    /// Below a folder, in which nothing else has our file's name.
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            half_bytes: HALF_BYTES,
            young: Half::default(),
            old: Half::default(),
            broken: false,
        }
    }

    /// Keeps the sketch of a content.
    pub(super) fn insert(&mut self, digest: Digest, sketch: &Sketch) {
        if self.broken || self.young.places.contains_key(&key(digest)) {
            return;
        }
        if let Err(error) = self.young.insert(digest, sketch, &self.folder) {
            tracing::info!(%error, "what was sent is not remembered");
            (self.young, self.old, self.broken) = (Half::default(), Half::default(), true);
        }
        if self.young.written >= self.half_bytes {
            self.old = std::mem::take(&mut self.young);
        }
    }

    /// The youngest sketches of so many bytes in all, about, the oldest of them first.
    pub(super) fn youngest(&self, bytes: usize) -> Vec<(Digest, Sketch)> {
        let young = self.young.youngest(bytes);
        let old = self.old.youngest(bytes.saturating_sub(young.len()));
        let (old, young) = (Records(&old), Records(&young));
        old.chain(young).filter_map(|(digest, sketch)| Some((digest, sketch?))).collect()
    }

    /// The sketch of a content, if it is still known.
    pub(super) fn get(&self, digest: Digest) -> Option<Sketch> {
        self.young.get(digest).or_else(|| self.old.get(digest))
    }
}

impl Half {
    fn insert(&mut self, digest: Digest, sketch: &Sketch, folder: &Path) -> io::Result<()> {
        let place = u32::try_from(self.written + self.gathered.len()).map_err(io::Error::other)?;
        self.gathered.extend_from_slice(&digest.0);
        let length_at = self.gathered.len();
        self.gathered.extend_from_slice(&[0; 2]);
        sketch.encode(&mut self.gathered);
        let length =
            u16::try_from(self.gathered.len() - length_at - 2).map_err(io::Error::other)?;
        self.gathered[length_at..length_at + 2].copy_from_slice(&length.to_le_bytes());
        self.places.insert(key(digest), place);
        if self.gathered.len() < WRITE_BYTES {
            return Ok(());
        }
        if self.file.is_none() {
            self.file = Some(nameless(folder)?);
        }
        if let Some(file) = &self.file {
            file.write_all_at(&self.gathered, self.written as u64)?;
            self.written += self.gathered.len();
            self.gathered.clear();
        }
        Ok(())
    }

    fn get(&self, digest: Digest) -> Option<Sketch> {
        let place = *self.places.get(&key(digest))? as usize;
        if let Some(at) = place.checked_sub(self.written) {
            return parse(self.gathered.get(at..)?, digest);
        }
        let mut record = [0; READ_BYTES];
        let known = (self.written - place).min(READ_BYTES);
        self.file.as_ref()?.read_exact_at(&mut record[..known], place as u64).ok()?;
        parse(&record[..known], digest)
    }
}

impl Half {
    /// Its last records, of at most so many bytes. Nothing where they cannot be read back.
    fn youngest(&self, bytes: usize) -> Vec<u8> {
        let end = self.written + self.gathered.len();
        let places = self.places.values().map(|&place| place as usize);
        let Some(start) = places.filter(|&place| place + bytes >= end).min() else {
            return Vec::new();
        };
        let mut records = vec![0; self.written.saturating_sub(start)];
        let read = match &self.file {
            Some(file) if !records.is_empty() => file.read_exact_at(&mut records, start as u64),
            _ => Ok(()),
        };
        if read.is_err() {
            return Vec::new();
        }
        let gathered = self.gathered.get(start.saturating_sub(self.written)..);
        records.extend_from_slice(gathered.unwrap_or_default());
        records
    }
}

/// Records one after the other.
struct Records<'a>(&'a [u8]);

impl Iterator for Records<'_> {
    type Item = (Digest, Option<Sketch>);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_at_checked(HEAD_BYTES)?;
        let (digest, length) = head.split_first_chunk()?;
        let length = u16::from_le_bytes(length.try_into().ok()?);
        let (mut sketch, rest) = rest.split_at_checked(length.into())?;
        self.0 = rest;
        Some((Digest(*digest), Sketch::decode(&mut sketch)))
    }
}

fn parse(record: &[u8], digest: Digest) -> Option<Sketch> {
    let (head, rest) = record.split_at_checked(HEAD_BYTES)?;
    let length = usize::from(u16::from_le_bytes([head[16], head[17]]));
    if head[..16] != digest.0 {
        return None;
    }
    Sketch::decode(&mut rest.get(..length)?)
}

fn key(digest: Digest) -> u64 {
    let (first, _) = digest.0.split_at(8);
    u64::from_le_bytes(first.try_into().expect("eight of sixteen"))
}

/// A file that is gone when it is closed. One that a kill left with its name is replaced.
fn nameless(folder: &Path) -> io::Result<File> {
    let path = folder.join(NAME);
    let _ = fs::remove_file(&path);
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sketch(number: u32) -> (Digest, Sketch) {
        let content: Vec<u8> = (0..9000).map(|at: u32| ((at * (number + 3)) >> 3) as u8).collect();
        (Digest::of(&number.to_le_bytes()), Sketch::of(&content).unwrap())
    }

    #[test]
    fn i10_what_is_remembered_is_found_again_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill { half_bytes: 3 * WRITE_BYTES, ..Spill::new(folder.path()) };
        for number in 0..2000 {
            let (digest, sketch) = sketch(number);
            spill.insert(digest, &sketch);
            assert_eq!(spill.get(digest).as_ref(), Some(&sketch), "at once");
        }
        let found = |number: &u32| {
            let (digest, sketch) = sketch(*number);
            let found = spill.get(digest);
            assert!(found.as_ref().is_none_or(|found| *found == sketch), "another one");
            found.is_some()
        };
        let known: Vec<u32> = (0..2000).filter(found).collect();
        for bytes in [0, 10_000, WRITE_BYTES * 2, WRITE_BYTES * 5, usize::MAX / 2] {
            let youngest = spill.youngest(bytes);
            let all = known.iter().map(|&number| sketch(number)).collect::<Vec<_>>();
            assert!(all.ends_with(&youngest), "{bytes}: whole ones, in order");
            let record = 9000 / 16 + 100;
            assert!(youngest.len() >= all.len().min(bytes / record), "{bytes}");
        }
        assert!((300..1000).contains(&known.len()), "{}", known.len());
        assert!(known.iter().copied().eq(2000 - known.len() as u32..2000), "the last ones");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
        assert_eq!(spill.get(Digest::of(b"another")), None);
    }

    #[test]
    fn i10_without_a_place_it_forgets() {
        let folder = tempfile::tempdir().unwrap();
        let mut spill = Spill::new(&folder.path().join("absent"));
        for number in 0..2000 {
            let (digest, sketch) = sketch(number);
            spill.insert(digest, &sketch);
        }
        assert!(spill.broken && spill.young.gathered.is_empty());
        assert_eq!(spill.get(sketch(1999).0), None);
    }
}
