//! The hub's memory on disk: what is managed at one target, who wrote it, and what was under way.
//!
//! Owns one folder a target: `manifest` (the record at one moment), `log.<nonce>` (what happened
//! since), `lock`, `marker` and `trash/`. It promises that after a kill at any instant the next
//! [`Store::open`] tells a state that was true, plus in [`Loaded::unfinished`] the paths of which it
//! cannot be sure; and that damage is noticed and told, never believed. It does not look at the
//! target: to check what it remembers is `server::root`'s and the loop's business.
//!
//! Nothing is synced to the device: a kill loses nothing, and after a power cut
//! ([`Loaded::rebooted`]) the last records may be missing, so every managed path is to be looked at.
//!
//! All calls block, for the time of one small write; [`Store::finish`] now and then and
//! [`Store::reset`] and [`Store::close`] always write the whole manifest (about 70 bytes a file).

mod format;
mod registry;
mod replay;
mod trash;

pub use registry::{Claim, ClaimError, Clash, Registry};
pub use trash::{TRASH_BYTES, TRASH_FILES};

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::format::{Header, LOG_HEAD_BYTES, Logged, RecordRef};
use self::replay::{Open, Replay};
use self::trash::Trash;
use crate::path::SyncPath;
use crate::tree::{Change, Edit, Snapshot};
use crate::wire::WorkspaceId;

/// A log longer than this, and than a tenth of its manifest, is folded into a new manifest.
const FOLD_FROM_BYTES: u64 = 1 << 20;
const MANIFEST: &str = "manifest";
const MARKER: &str = "marker";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Who may write to a target, or wrote there last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Owner {
    /// Whose files they are.
    pub workspace: WorkspaceId,
    /// For people: user, host and source.
    pub writer: String,
    /// Of the lease; a smaller one never writes again.
    pub epoch: u64,
}

/// What a store remembers when it is opened.
#[derive(Debug)]
pub struct Loaded {
    /// What is managed, with stamps, after the last generation that is known to be done.
    pub held: Snapshot,
    /// That generation's number; 0 before the first.
    pub generation: u64,
    /// Who wrote last.
    pub owner: Option<Owner>,
    /// Changes that were begun and are not known to be done: each such path may hold the old, the
    /// new, or nothing. Told again at every open until [`Store::reset`].
    pub unfinished: Vec<Change>,
    /// Files staged beside their target that may still lie there; sweep them, then
    /// [`Store::forget_staged`].
    pub staged: Vec<SyncPath>,
    /// The record could not be read and is empty now. The unreadable files lie in the folder as
    /// `damaged.manifest` and `damaged.log` until the next damage.
    pub damaged: bool,
    /// The machine was started again since the log was begun: the last records may be lost, so stat
    /// every managed path before believing any, then [`Store::reset`].
    pub rebooted: bool,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another live hub has it.
    #[error("another hub serves this target")]
    Locked {
        /// Who writes through that hub, if it says so.
        owner: Option<Owner>,
    },
    /// The system said no.
    #[error("{path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The memory of one target. Held by one hub at a time; dropping it without [`Self::close`] is the
/// same as being killed, and harmless.
pub struct Store {
    dir: PathBuf,
    /// Locked as long as it is open; holds the owner, for the hub that finds it locked.
    lock: File,
    log: File,
    /// Length of the log, all whole records.
    log_bytes: u64,
    manifest_bytes: u64,
    nonce: u64,
    boot: [u8; 16],
    held: Snapshot,
    generation: u64,
    owner: Option<Owner>,
    staged: BTreeSet<SyncPath>,
    /// Begun and not done, oldest first.
    open: Vec<Open>,
    /// A record could not be written: nothing is appended before all was folded.
    behind: bool,
    marker: String,
    trash: Option<Trash>,
    buffer: Vec<u8>,
}

impl Store {
    /// Opens a target's folder, made with mode 0700 when there is none. Cost: reading it once.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another live hub has it; [`StoreError::Io`] when the system
    /// refuses a read or write. Damage is no error: see [`Loaded::damaged`].
    pub fn open(dir: &Path) -> Result<(Self, Loaded), StoreError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
        let lock = take_lock(&dir.join("lock"))?;
        let marker = marker(dir).map_err(at(&dir.join(MARKER)))?;
        let boot = boot_id();
        let (mut pair, damaged) = read_or_begin(dir, boot).map_err(at(dir))?;
        let log = continue_log(dir, &pair.replay).map_err(at(dir))?;
        sweep(dir, pair.replay.nonce).map_err(at(dir))?;
        let loaded = Loaded { damaged, ..pair.replay.loaded(boot) };
        let Pair { replay, manifest_bytes } = pair;
        let store = Self {
            dir: dir.to_owned(),
            lock,
            log,
            log_bytes: replay.log_bytes,
            manifest_bytes,
            nonce: replay.nonce,
            boot: replay.boot,
            held: replay.held,
            generation: replay.generation,
            owner: replay.owner,
            staged: replay.staged,
            open: replay.open,
            behind: false,
            marker,
            trash: None,
            buffer: Vec::new(),
        };
        Ok((store, loaded))
    }

    /// The random id of this target's processes, 32 hex digits, made once and kept whatever happens
    /// to the record: `E2EK_RUN` of what a hub starts here begins with it.
    #[must_use]
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// Says who writes from now on, here and to a hub that finds the store locked. One write each.
    ///
    /// # Errors
    /// When it cannot be written; it is tried again with the next record.
    pub fn set_owner(&mut self, owner: &Owner) -> io::Result<()> {
        self.owner = Some(owner.clone());
        let mut shown = Vec::new();
        format::push_frame(owner, &mut shown)?;
        self.lock.write_all_at(&shown, 0)?;
        self.lock.set_len(shown.len() as u64)?;
        self.append(&RecordRef::Owner(owner))
    }

    /// Says what is about to change, before the first write of a generation. One write.
    ///
    /// # Errors
    /// When it cannot be written: then nothing is to be written to the target either, for the next
    /// hub would take what it finds there for somebody else's.
    pub fn begin<'a>(
        &mut self,
        generation: u64,
        changes: impl Iterator<Item = &'a Change>,
    ) -> io::Result<()> {
        self.catch_up()?;
        let offset = self.log_bytes;
        self.append(&RecordRef::Begin { generation, changes: changes.collect() })?;
        self.open.push(Open { generation, offset, len: self.log_bytes - offset });
        Ok(())
    }

    /// Says what was done, after the last write of a generation: `held` is what was held before
    /// with `edits` applied (else the whole manifest is written). One write, or now and then the
    /// whole manifest. Also ends a generation
    /// that was cut off, with what was done of it and the number that counts as applied.
    ///
    /// # Errors
    /// When it cannot be written. The changes are then told as unfinished at the next open, unless
    /// a later call gets through.
    pub fn finish(&mut self, generation: u64, edits: &[Edit], held: &Snapshot) -> io::Result<()> {
        let before = std::mem::replace(&mut self.held, held.clone());
        self.generation = generation;
        self.open.pop_if(|open| open.generation == generation);
        let follows = before.apply(edits).is_ok_and(|after| after == *held);
        if self.behind || !follows {
            return self.fold();
        }
        let edits = edits.iter().map(|(path, node)| (path, node.as_ref().map(Logged::from)));
        let record = RecordRef::Done { generation, edits: edits.collect(), tree: held.id() };
        self.encode(&record)?;
        let limit = FOLD_FROM_BYTES.max(self.manifest_bytes / 10);
        if self.log_bytes + self.buffer.len() as u64 > limit {
            return self.fold();
        }
        self.write_buffer()
    }

    /// Replaces the whole record: after a drift check, a recovery, a take-over. Nothing counts as
    /// unfinished any more. Writes the manifest.
    ///
    /// # Errors
    /// When it cannot be written; it is tried again with the next record.
    pub fn reset(&mut self, generation: u64, held: &Snapshot) -> io::Result<()> {
        self.held = held.clone();
        self.generation = generation;
        self.open.clear();
        self.boot = boot_id();
        self.fold()
    }

    /// Remembers a file that is staged beside its target, before it is made. One write.
    ///
    /// # Errors
    /// When it cannot be written: then do not make the file.
    pub fn record_staged(&mut self, path: &SyncPath) -> io::Result<()> {
        self.staged.insert(path.clone());
        self.append(&RecordRef::Staged(path))
    }

    /// Forgets a staged file after it is gone. One write; none when it was not remembered.
    ///
    /// # Errors
    /// When it cannot be written; a later hub then looks for the file in vain, which is harmless.
    pub fn forget_staged(&mut self, path: &SyncPath) -> io::Result<()> {
        if self.staged.remove(path) { self.append(&RecordRef::Unstaged(path)) } else { Ok(()) }
    }

    /// Keeps content that is about to be overwritten or deleted and was not put there by us: as
    /// `trash/<generation>/<escaped path>`, mode 0600, complete or not at all. Of a link, hand in the
    /// target's bytes. Older generations go when there are more than [`TRASH_BYTES`] or
    /// [`TRASH_FILES`].
    ///
    /// # Errors
    /// When it cannot be read or written, or this one generation alone reaches the bound
    /// ([`io::ErrorKind::QuotaExceeded`]): then leave alone what lies at the target.
    pub fn trash(
        &mut self,
        path: &SyncPath,
        generation: u64,
        source: impl Read,
    ) -> io::Result<PathBuf> {
        if self.trash.is_none() {
            self.trash = Some(Trash::open(&self.dir.join("trash"))?);
        }
        let trash = self.trash.as_mut().expect("opened just now");
        trash.keep(path, generation, source)
    }

    /// Folds the log and lets go: the next open reads one file.
    ///
    /// # Errors
    /// When it cannot be written; the log stays and nothing is lost.
    pub fn close(mut self) -> io::Result<()> {
        if self.behind || self.log_bytes > LOG_HEAD_BYTES as u64 { self.fold() } else { Ok(()) }
    }

    fn encode(&mut self, record: &RecordRef<'_>) -> io::Result<()> {
        self.buffer.clear();
        format::push_frame(record, &mut self.buffer)
    }

    fn append(&mut self, record: &RecordRef<'_>) -> io::Result<()> {
        self.catch_up()?;
        self.encode(record)?;
        self.write_buffer()
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        let written = self.log.write_all(&self.buffer);
        match written {
            Ok(()) => self.log_bytes += self.buffer.len() as u64,
            Err(_) => {
                self.behind = true;
                // Half a record at the end is ignored at the next open, but none may follow it.
                let _ = self.log.set_len(self.log_bytes);
            }
        }
        // The record of a first sync is large, and of no use afterwards.
        if self.buffer.capacity() > FOLD_FROM_BYTES as usize {
            self.buffer = Vec::new();
        }
        written
    }

    fn catch_up(&mut self) -> io::Result<()> {
        if self.behind { self.fold() } else { Ok(()) }
    }

    /// Writes all that is known as a new manifest with a log of its own.
    fn fold(&mut self) -> io::Result<()> {
        self.behind = true;
        let mut carried = Vec::new();
        let mut open = Vec::with_capacity(self.open.len());
        for begun in &self.open {
            let mut record = vec![0; usize::try_from(begun.len).map_err(io::Error::other)?];
            self.log.read_exact_at(&mut record, begun.offset)?;
            open.push(Open { offset: (LOG_HEAD_BYTES + carried.len()) as u64, ..*begun });
            carried.extend_from_slice(&record);
        }
        for path in &self.staged {
            format::push_frame(&RecordRef::Staged(path), &mut carried)?;
        }
        let nonce = random()?;
        let header = Header { nonce, generation: self.generation, owner: self.owner.clone() };
        let (log, manifest_bytes) =
            write_pair(&self.dir, &header, &self.held, self.boot, &carried)?;
        // A leftover is swept at the next open.
        let _ = fs::remove_file(self.dir.join(log_name(self.nonce)));
        self.log_bytes = (LOG_HEAD_BYTES + carried.len()) as u64;
        (self.log, self.manifest_bytes) = (log, manifest_bytes);
        (self.nonce, self.open, self.behind) = (nonce, open, false);
        Ok(())
    }
}

/// A manifest with its log, as read.
struct Pair {
    replay: Replay,
    manifest_bytes: u64,
}

/// Reads what is there; what is not there or damaged is begun anew. The second value says damage.
fn read_or_begin(dir: &Path, boot: [u8; 16]) -> io::Result<(Pair, bool)> {
    let Some(bytes) = read_if_there(&dir.join(MANIFEST))? else {
        let first = Header { nonce: random()?, generation: 0, owner: None };
        return Ok((begin_anew(dir, first, BTreeSet::new(), boot)?, false));
    };
    let mut owner = None;
    let mut staged = BTreeSet::new();
    if let Ok(mut replay) = Replay::manifest(&bytes) {
        let log = read_if_there(&dir.join(log_name(replay.nonce)))?;
        // The log is made before the manifest that names it: without one, records are missing.
        if log.is_some_and(|log| replay.log(&log).is_ok()) {
            return Ok((Pair { replay, manifest_bytes: bytes.len() as u64 }, false));
        }
        // What came before the damage is still good to know, and harmless.
        (owner, staged) = (replay.owner, replay.staged);
    }
    put_aside(dir)?;
    let first = Header { nonce: random()?, generation: 0, owner };
    Ok((begin_anew(dir, first, staged, boot)?, true))
}

fn begin_anew(
    dir: &Path,
    header: Header,
    staged: BTreeSet<SyncPath>,
    boot: [u8; 16],
) -> io::Result<Pair> {
    let mut carried = Vec::new();
    for path in &staged {
        format::push_frame(&RecordRef::Staged(path), &mut carried)?;
    }
    let (_, manifest_bytes) = write_pair(dir, &header, &Snapshot::empty(), boot, &carried)?;
    let log_bytes = (LOG_HEAD_BYTES + carried.len()) as u64;
    Ok(Pair { replay: Replay::anew(header, staged, log_bytes, boot), manifest_bytes })
}

/// Writes a manifest and the log that it names, beginning with the `carried` records. The rename
/// of the manifest is the one moment at which the new pair counts.
fn write_pair(
    dir: &Path,
    header: &Header,
    held: &Snapshot,
    boot: [u8; 16],
    carried: &[u8],
) -> io::Result<(File, u64)> {
    let path = dir.join(log_name(header.nonce));
    let write = || {
        let mut log = append_to(&path)?;
        log.write_all(&[&format::log_head(header.nonce, boot), carried].concat())?;
        let manifest = format::manifest(header, held)?;
        replace(dir, MANIFEST, &manifest)?;
        Ok((log, manifest.len() as u64))
    };
    write().inspect_err(|_: &io::Error| drop(fs::remove_file(&path)))
}

/// Opens the log and cuts off a record that a crash left half written.
fn continue_log(dir: &Path, replay: &Replay) -> io::Result<File> {
    let log = append_to(&dir.join(log_name(replay.nonce)))?;
    log.set_len(replay.log_bytes)?;
    Ok(log)
}

/// Keeps unreadable files for whoever wants to know why; one set of them.
fn put_aside(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b"log.") {
            fs::rename(entry.path(), dir.join("damaged.log"))?;
        }
    }
    fs::rename(dir.join(MANIFEST), dir.join("damaged.manifest"))
}

/// Removes what a crash in the middle of a fold left behind.
fn sweep(dir: &Path, nonce: u64) -> io::Result<()> {
    let ours = log_name(nonce);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let old_log = name.starts_with(b"log.") && name != ours.as_bytes();
        if old_log || name.ends_with(b".new") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn take_lock(path: &Path) -> Result<File, StoreError> {
    let io = |source| StoreError::Io { path: path.to_owned(), source };
    let file = private().read(true).write(true).create(true).open(path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {
            // The owner of a hub that lives no more is not the one who has it locked.
            file.set_len(0).map_err(io)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let bytes = fs::read(path).map_err(io)?;
            Err(StoreError::Locked { owner: format::take_frame(&mut &*bytes).ok().flatten() })
        }
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn append_to(path: &Path) -> io::Result<File> {
    private().read(true).append(true).create(true).open(path)
}

/// Writes a file aside and renames it into place.
fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let write = || {
        private().write(true).create(true).truncate(true).open(&new)?.write_all(bytes)?;
        fs::rename(&new, dir.join(name))
    };
    write().inspect_err(|_| drop(fs::remove_file(&new)))
}

fn marker(dir: &Path) -> io::Result<String> {
    let known = read_if_there(&dir.join(MARKER))?.and_then(|bytes| String::from_utf8(bytes).ok());
    let well_made = |m: &String| m.len() == 32 && m.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(marker) = known.filter(well_made) {
        return Ok(marker);
    }
    let marker = format!("{:016x}{:016x}", random()?, random()?);
    replace(dir, MARKER, marker.as_bytes())?;
    Ok(marker)
}

fn random() -> io::Result<u64> {
    let mut bytes = [0_u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes))
}

/// Tells one start of the machine from the next (random(4)); zeros where the kernel does not say.
fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string(BOOT_ID).unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map_or([0; 16], u128::to_be_bytes)
}

fn log_name(nonce: u64) -> String {
    format!("log.{nonce:016x}")
}

#[cfg(test)]
mod tests;
