//! From the bytes of a manifest and its log to what the hub held: pure, and all or nothing.

use std::io;
use std::sync::Arc;

use super::format::{self, Damage, Header, Record, RecordRef};
use super::{Loaded, Owner};
use crate::path::SyncPath;
use crate::receive::changes_of_move;
use crate::tree::{Change, Dir, Snapshot};

/// A generation that was begun and is not known to be done.
pub(super) struct Open {
    pub(super) generation: u64,
    /// Where its record lies in the log, in bytes.
    pub(super) offset: u64,
    /// How long that record is, in bytes.
    pub(super) len: u64,
    /// Directories that were about to move, as they were held then.
    pub(super) moves: Vec<Moved>,
}

/// A directory that moves whole.
pub(super) struct Moved {
    to: SyncPath,
    from: SyncPath,
    dir: Arc<Dir>,
}

impl Moved {
    /// Those that are held; of others nothing is to be moved.
    pub(super) fn of(
        held: &Snapshot,
        moves: impl IntoIterator<Item = (SyncPath, SyncPath)>,
    ) -> Vec<Self> {
        let moves = moves.into_iter();
        let known = moves.filter_map(|(to, from)| {
            let dir = held.dir(&from).filter(|dir| dir.fits(&to))?.clone();
            Some(Self { to, from, dir })
        });
        known.collect()
    }

    /// What it comes to, but for the directory itself.
    pub(super) fn changes(&self) -> Vec<Change> {
        changes_of_move(&self.dir, &self.to, &self.from)
    }
}

/// What a manifest and the records after it say.
pub(super) struct Replay {
    pub(super) nonce: u64,
    pub(super) held: Snapshot,
    pub(super) generation: u64,
    pub(super) owner: Option<Owner>,
    /// Generations begun and not done, oldest first.
    pub(super) open: Vec<Open>,
    /// Their changes, in the same order.
    unfinished: Vec<Vec<Change>>,
    /// Up to where the log holds whole records, in bytes.
    pub(super) log_bytes: u64,
    /// In which boot of the machine the log was begun.
    pub(super) boot: [u8; 16],
}

impl Replay {
    /// Reads a manifest.
    pub(super) fn manifest(bytes: &[u8]) -> Result<Self, Damage> {
        let (header, held) = format::read_manifest(bytes)?;
        Ok(Self { held, ..Self::anew(header, 0, [0; 16]) })
    }

    /// Begins with nothing held.
    pub(super) fn anew(header: Header, log_bytes: u64, boot: [u8; 16]) -> Self {
        Self {
            nonce: header.nonce,
            held: Snapshot::empty(),
            generation: header.generation,
            owner: header.owner,
            open: Vec::new(),
            unfinished: Vec::new(),
            log_bytes,
            boot,
        }
    }

    /// Follows its log. A last record that was cut off did not happen.
    pub(super) fn log(&mut self, bytes: &[u8]) -> Result<(), Damage> {
        let mut input = bytes;
        self.boot = format::take_log_head(&mut input, self.nonce)?;
        loop {
            let offset = (bytes.len() - input.len()) as u64;
            self.log_bytes = offset;
            match format::take_frame(&mut input)? {
                Some(Record::Begin { generation, changes }) => {
                    let len = (bytes.len() - input.len()) as u64 - offset;
                    self.open.push(Open { generation, offset, len, moves: Vec::new() });
                    self.unfinished.push(changes);
                }
                Some(Record::BeginMoves { generation, mut changes, moves }) => {
                    let len = (bytes.len() - input.len()) as u64 - offset;
                    let moves = Moved::of(&self.held, moves);
                    changes.extend(moves.iter().flat_map(Moved::changes));
                    self.open.push(Open { generation, offset, len, moves });
                    self.unfinished.push(changes);
                }
                Some(record) => self.take(record)?,
                None => return Ok(()),
            }
        }
    }

    fn take(&mut self, record: Record) -> Result<(), Damage> {
        match record {
            Record::Begin { .. } | Record::BeginMoves { .. } => {}
            Record::Done { generation, edits, tree } => {
                let edits = format::into_edits(edits, &self.held)?;
                self.held = self.held.apply(&edits).map_err(|_| Damage)?;
                // A record is missing before this one.
                if self.held.id() != tree {
                    return Err(Damage);
                }
                self.generation = generation;
                if self.open.pop_if(|open| open.generation == generation).is_some() {
                    self.unfinished.pop();
                }
            }
            Record::Owner(owner) => self.owner = Some(owner),
        }
        Ok(())
    }

    /// What the hub is told.
    pub(super) fn loaded(&mut self, boot: [u8; 16]) -> Loaded {
        Loaded {
            held: self.held.clone(),
            generation: self.generation,
            owner: self.owner.clone(),
            unfinished: std::mem::take(&mut self.unfinished).into_iter().flatten().collect(),
            staged: Vec::new(),
            damaged: false,
            rebooted: self.boot != boot,
        }
    }
}

/// A record of moves as one of all changes.
pub(super) fn spelt_out(record: &[u8], moves: &[Moved]) -> io::Result<Vec<u8>> {
    let damaged = |_: Damage| io::Error::from(io::ErrorKind::InvalidData);
    let taken: Option<Record> = format::take_frame(&mut &*record).map_err(damaged)?;
    let Some(Record::BeginMoves { generation, mut changes, .. }) = taken else {
        return Ok(record.to_vec());
    };
    changes.extend(moves.iter().flat_map(Moved::changes));
    let mut out = Vec::new();
    format::push_frame(
        &RecordRef::Begin { generation, changes: changes.iter().collect() },
        &mut out,
    )?;
    Ok(out)
}
