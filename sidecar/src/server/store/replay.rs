//! From the bytes of a manifest and its log to what the hub held: pure, and all or nothing.

use super::format::{self, Damage, Header, Record};
use super::{Loaded, Owner};
use crate::tree::{Change, Snapshot};

/// A generation that was begun and is not known to be done.
pub(super) struct Open {
    pub(super) generation: u64,
    /// Where its record lies in the log, in bytes.
    pub(super) offset: u64,
    /// How long that record is, in bytes.
    pub(super) len: u64,
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
                    self.open.push(Open { generation, offset, len });
                    self.unfinished.push(changes);
                }
                Some(record) => self.take(record)?,
                None => return Ok(()),
            }
        }
    }

    fn take(&mut self, record: Record) -> Result<(), Damage> {
        match record {
            Record::Begin { .. } => {}
            Record::Done { generation, edits, tree } => {
                let edits = format::into_edits(edits)?;
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
