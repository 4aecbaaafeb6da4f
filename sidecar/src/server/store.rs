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
//! [`Store::reset`] always write the whole manifest (about 70 bytes a file), [`Store::close`] after a
//! long log.

mod contents;
mod files;
mod format;
mod journal;
mod registry;
mod replay;
mod trash;

pub use contents::{Contents, Slot};
pub(super) use files::{read_note, read_tree, write_note, write_tree};
pub use registry::{Claim, ClaimError, Clash, Registry};
pub use trash::{TRASH_BYTES, TRASH_FILES};

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::files::{Found, MARKER, Pair, boot_id, log_name, random};
use self::format::{Header, LOG_HEAD_BYTES, Logged, RecordRef};
use self::journal::Journal;
use self::replay::{Moved, Open, Replay};
use self::trash::Trash;
use crate::path::SyncPath;
use crate::tree::{Change, Edit, Snapshot};
use crate::wire::WorkspaceId;

/// A log longer than this, and than a tenth of its manifest, is folded into a new manifest.
const FOLD_FROM_BYTES: u64 = 1 << 20;
/// A log shorter than this is not folded at the end: a start without a change writes no manifest.
const CLOSE_FROM_BYTES: u64 = 16 << 10;
/// Removals among which a directory that moved is looked for.
const MOST_MOVES: usize = 64;
/// About what an edit takes in the log.
const EDIT_BYTES: u64 = 64;

/// How often [`Store::peek`] reads what looks damaged before it says so.
const PEEKS: usize = 5;

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
    journal: Journal,
    /// Begun and not done, oldest first.
    open: Vec<Open>,
    /// [`FOLD_FROM_BYTES`], but for tests.
    fold_from: u64,
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
        let lock = files::take_lock(&dir.join("lock"))?;
        let marker = files::marker(dir).map_err(at(&dir.join(MARKER)))?;
        let boot = boot_id();
        let (mut pair, damaged) = files::read_or_begin(dir, boot).map_err(at(dir))?;
        let log = files::continue_log(dir, &pair.replay).map_err(at(dir))?;
        files::sweep(dir, pair.replay.nonce).map_err(at(dir))?;
        let journal = Journal::open(&dir.join(journal::NAME)).map_err(at(dir))?;
        let staged = journal.left();
        let loaded = Loaded { damaged, staged, ..pair.replay.loaded(boot) };
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
            journal,
            open: replay.open,
            fold_from: FOLD_FROM_BYTES,
            behind: false,
            marker,
            trash: None,
            buffer: Vec::new(),
        };
        Ok((store, loaded))
    }

    /// What a store remembers, without opening it for use, while another hub may have it: for
    /// looking only. `None` when there is none. Nothing is made, locked or written.
    ///
    /// # Errors
    /// When the system refuses a read.
    pub fn peek(dir: &Path) -> io::Result<Option<Loaded>> {
        // Folded while being read, it is read again.
        for _ in 0..PEEKS {
            match files::read(dir)? {
                Found::Nothing => return Ok(None),
                Found::Pair(mut pair) => return Ok(Some(pair.replay.loaded(boot_id()))),
                Found::Damage { .. } => {}
            }
        }
        let header = Header { nonce: 0, generation: 0, owner: None };
        let nothing = Replay::anew(header, 0, boot_id()).loaded(boot_id());
        Ok(Some(Loaded { damaged: true, ..nothing }))
    }

    /// The random id of this target's processes, 32 hex digits, made once and kept whatever happens
    /// to the record: `E2EK_RUN` of what a hub starts here begins with it.
    #[must_use]
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// Where all of it lies.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.dir
    }

    /// Where patches in place are written down before they are made.
    #[must_use]
    pub fn redo_folder(&self) -> PathBuf {
        self.dir.join("redo")
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

    /// Says what is about to change, before the first write of a generation: `changes`, and whole
    /// directories, with where to and where from, of what is held. One write.
    ///
    /// # Errors
    /// When it cannot be written: then nothing is to be written to the target either, for the next
    /// hub would take what it finds there for somebody else's.
    pub fn begin<'a>(
        &mut self,
        generation: u64,
        changes: impl Iterator<Item = &'a Change>,
        moves: impl Iterator<Item = (&'a SyncPath, &'a SyncPath)>,
    ) -> io::Result<()> {
        self.catch_up()?;
        let offset = self.log_bytes;
        let changes = changes.collect();
        let moves: Vec<_> = moves.collect();
        let owned = moves.iter().map(|&(to, from)| (to.clone(), from.clone()));
        let moved = Moved::of(&self.held, owned);
        self.append(&match moves.is_empty() {
            true => RecordRef::Begin { generation, changes },
            false => RecordRef::BeginMoves { generation, changes, moves },
        })?;
        let len = self.log_bytes - offset;
        self.open.push(Open { generation, offset, len, moves: moved });
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
        let limit = self.fold_from.max(self.manifest_bytes / 10);
        // A first sync: neither checked nor encoded only to be folded.
        let large = self.log_bytes + edits.len() as u64 * EDIT_BYTES > limit;
        if self.behind || large || !before.apply(edits).is_ok_and(|after| after == *held) {
            return self.fold();
        }
        let gone = edits.iter().filter(|(_, node)| node.is_none()).map(|(path, _)| path);
        let gone: Vec<&SyncPath> = gone.take(MOST_MOVES).collect();
        let logged = |node| Logged::of(node, &before, &gone);
        let edits = edits.iter().map(|(path, node)| (path, node.as_ref().map(logged)));
        let record = RecordRef::Done { generation, edits: edits.collect(), tree: held.id() };
        self.encode(&record)?;
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

    /// What remembers a file that is staged beside its target, before it is made: for
    /// `TargetRoot::on_beside`, of each root. One write a call; what cannot be written is logged. The
    /// paths come back as they were given. All is forgotten at [`Self::close`].
    pub fn staged_journal(&self) -> impl Fn(&SyncPath) + Send + Sync + 'static + use<> {
        self.journal.recorder()
    }

    /// Forgets one of [`Loaded::staged`] after it is gone. A write with the last of them.
    ///
    /// # Errors
    /// When it cannot be written; a later hub then looks for the files in vain, which is harmless.
    pub fn forget_staged(&mut self, path: &SyncPath) -> io::Result<()> {
        self.journal.forget(path)
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

    /// Folds a log that is long enough to take time at the next open, and lets go. Nothing may be
    /// staged any more.
    ///
    /// # Errors
    /// When it cannot be written; the log stays and nothing is lost.
    pub fn close(mut self) -> io::Result<()> {
        self.journal.clear()?;
        if self.behind || self.log_bytes > CLOSE_FROM_BYTES.min(self.fold_from) {
            self.fold()
        } else {
            Ok(())
        }
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
            if !begun.moves.is_empty() {
                // What is held may be another tree by then.
                record = replay::spelt_out(&record, &begun.moves)?;
            }
            let offset = (LOG_HEAD_BYTES + carried.len()) as u64;
            let (generation, len) = (begun.generation, record.len() as u64);
            open.push(Open { generation, offset, len, moves: Vec::new() });
            carried.extend_from_slice(&record);
        }
        let nonce = random()?;
        let header = Header { nonce, generation: self.generation, owner: self.owner.clone() };
        let (log, manifest_bytes) =
            files::write_pair(&self.dir, &header, &self.held, self.boot, &carried)?;
        // A leftover is swept at the next open.
        let _ = fs::remove_file(self.dir.join(log_name(self.nonce)));
        self.log_bytes = (LOG_HEAD_BYTES + carried.len()) as u64;
        (self.log, self.manifest_bytes) = (log, manifest_bytes);
        (self.nonce, self.open, self.behind) = (nonce, open, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
