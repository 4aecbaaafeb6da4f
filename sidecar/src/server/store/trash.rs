//! Content that others had put at the target, kept when it is overwritten.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::files::private;
use crate::path::SyncPath;
use crate::tree::Digest;

/// Bytes that the trash of one target may hold; above, the oldest generations go. May be exceeded
/// by one mebibyte while a file is written.
pub const TRASH_BYTES: u64 = 256 << 20;
/// Files that the trash of one target may hold.
pub const TRASH_FILES: u64 = 10_000;
/// Where a file is written until it is whole.
const PART: &str = "part";
const STEP_BYTES: u64 = 1 << 20;
/// Longest name in the trash, without the number that tells equal ones apart.
const MAX_NAME_BYTES: usize = 200;

struct Kept {
    generation: u64,
    bytes: u64,
    files: u64,
}

/// What is kept, oldest first.
pub(super) struct Trash {
    dir: PathBuf,
    kept: Vec<Kept>,
    max_bytes: u64,
    max_files: u64,
}

impl Trash {
    /// Counts what lies there. Cost: a stat of each file.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        Self::bounded(dir, TRASH_BYTES, TRASH_FILES)
    }

    pub(super) fn bounded(dir: &Path, max_bytes: u64, max_files: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let mut found: Vec<(SystemTime, Kept)> = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Some(generation) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let mut kept = Kept { generation, bytes: 0, files: 0 };
            for file in fs::read_dir(entry.path())? {
                kept.bytes += file?.metadata()?.len();
                kept.files += 1;
            }
            // By time, not by number: after damage the numbers begin again.
            found.push((entry.metadata()?.modified()?, kept));
        }
        found.sort_by_key(|(modified, kept)| (*modified, kept.generation));
        let kept = found.into_iter().map(|(_, kept)| kept).collect();
        Ok(Self { dir: dir.to_owned(), kept, max_bytes, max_files })
    }

    pub(super) fn keep(
        &mut self,
        path: &SyncPath,
        generation: u64,
        source: impl Read,
    ) -> io::Result<PathBuf> {
        let current = self.enter(generation)?;
        let part = self.dir.join(PART);
        let placed = self
            .write(&part, source, generation)
            .and_then(|bytes| Ok((bytes, place(&part, &current, &name_of(path))?)));
        match placed {
            Ok((bytes, path)) => {
                let kept = self.kept.last_mut().expect("entered above");
                (kept.bytes, kept.files) = (kept.bytes + bytes, kept.files + 1);
                Ok(path)
            }
            Err(error) => {
                let _ = fs::remove_file(part);
                Err(error)
            }
        }
    }

    /// Makes the generation's folder and its entry at the end, the newest.
    fn enter(&mut self, generation: u64) -> io::Result<PathBuf> {
        let folder = self.dir.join(generation.to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        let known = self.kept.iter().position(|kept| kept.generation == generation);
        let kept = known.map(|at| self.kept.remove(at));
        self.kept.push(kept.unwrap_or(Kept { generation, bytes: 0, files: 0 }));
        Ok(folder)
    }

    fn write(&mut self, part: &Path, mut source: impl Read, generation: u64) -> io::Result<u64> {
        let mut file: File = private().write(true).create(true).truncate(true).open(part)?;
        let mut bytes = 0;
        loop {
            self.make_room(bytes, generation)?;
            let copied = io::copy(&mut source.by_ref().take(STEP_BYTES), &mut file)?;
            if copied == 0 {
                return Ok(bytes);
            }
            bytes += copied;
        }
    }

    /// Lets older generations go until one more file of so many bytes fits.
    fn make_room(&mut self, bytes: u64, generation: u64) -> io::Result<()> {
        loop {
            let held: u64 = self.kept.iter().map(|kept| kept.bytes).sum();
            let files: u64 = self.kept.iter().map(|kept| kept.files).sum();
            if held + bytes <= self.max_bytes && files < self.max_files {
                return Ok(());
            }
            let Some(oldest) = self.kept.first().filter(|kept| kept.generation != generation)
            else {
                return Err(io::ErrorKind::QuotaExceeded.into());
            };
            fs::remove_dir_all(self.dir.join(oldest.generation.to_string()))?;
            self.kept.remove(0);
        }
    }
}

/// Gives a whole file its name; of equal names the later ones get a number.
fn place(part: &Path, folder: &Path, name: &str) -> io::Result<PathBuf> {
    let mut path = folder.join(name);
    let mut number = 1;
    while path.symlink_metadata().is_ok() {
        number += 1;
        path = folder.join(format!("{name}~{number}"));
    }
    fs::rename(part, &path)?;
    Ok(path)
}

/// A path as one name: everything but plain characters as `%XX`, a long one by its hash and its end.
fn name_of(path: &SyncPath) -> String {
    let mut name = String::new();
    for &byte in path.as_bytes() {
        match byte {
            b'.' if name.is_empty() => name.push_str("%2E"),
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'.' | b'_' | b'-' | b'+' | b'=' | b',' => {
                name.push(char::from(byte));
            }
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.len() <= MAX_NAME_BYTES {
        return name;
    }
    let hash = format!("{:?}", Digest::of(path.as_bytes()));
    let end = &name[name.len() - (MAX_NAME_BYTES - hash.len() - 1)..];
    format!("{hash}-{end}")
}
