//! What a hub keeps in its state directory, as `server::store` does: what is held, and what was
//! begun. A record that cannot be read is none.

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::receive::Receiver;
use e2ek_sidecar::tree::{Change, Snapshot};

use crate::engine::sim::seed::Rng;

#[derive(Clone, Default)]
pub(in crate::engine::sim) struct Record {
    pub(in crate::engine::sim) held: Snapshot,
    pub(in crate::engine::sim) generation: u64,
    pub(in crate::engine::sim) epoch: u64,
    /// Begun and not known to be done.
    pub(in crate::engine::sim) unfinished: Vec<Change>,
    /// As it was some time ago.
    older: Option<Box<Record>>,
    /// Nothing can be written.
    pub(in crate::engine::sim) full: bool,
    /// Something could not be written.
    pub(in crate::engine::sim) behind: bool,
}

impl Record {
    /// Says what is about to change to what the receiver holds. Returns whether that could be
    /// written.
    pub(super) fn begin(&mut self, receiver: &Receiver) -> bool {
        if self.full {
            return false;
        }
        if self.behind {
            self.finish(receiver);
        }
        self.unfinished.extend(receiver.changes());
        true
    }

    /// Says what the receiver holds now. What cannot be written stays as it was.
    pub(super) fn finish(&mut self, receiver: &Receiver) {
        self.behind = self.full;
        if !self.full {
            self.held = receiver.held().clone();
            self.generation = receiver.generation();
            self.unfinished.clear();
        }
    }

    /// A backup is made.
    pub(in crate::engine::sim) fn remember(&mut self) {
        self.older = None;
        self.older = Some(Box::new(self.clone()));
    }

    /// Something happens to the files of a hub that is not running. Says what.
    pub(in crate::engine::sim) fn damage(&mut self, rng: &mut Rng) -> &'static str {
        let epoch = self.epoch;
        match rng.below(4) {
            0 if self.older.is_some() => {
                *self = *self.older.take().expect("looked at just now");
                self.epoch = epoch;
                "an older record put back"
            }
            1 => {
                *self = Self { epoch, ..Self::default() };
                "the record removed"
            }
            kind => {
                let mut bytes = Vec::new();
                self.held.encode(&mut bytes);
                damage_bytes(&mut bytes, kind == 2, rng);
                match Snapshot::decode(&bytes) {
                    Ok(same) => assert_eq!(same, self.held, "i8: a damaged record is believed"),
                    Err(_) => *self = Self { epoch, ..Self::default() },
                }
                if kind == 2 { "a bit of the record flipped" } else { "the record cut short" }
            }
        }
    }

    pub(super) fn begun(&self, path: &SyncPath) -> bool {
        self.unfinished.iter().any(|change| change.path == *path)
    }
}

/// Flips a bit, or cuts off the end.
pub(in crate::engine::sim) fn damage_bytes(bytes: &mut Vec<u8>, flip: bool, rng: &mut Rng) {
    let Some(at) = (bytes.len() as u64).checked_sub(1).map(|last| rng.below(last + 1) as usize)
    else {
        return;
    };
    if flip {
        bytes[at] ^= 1 << rng.below(8);
    } else {
        bytes.truncate(at);
    }
}
