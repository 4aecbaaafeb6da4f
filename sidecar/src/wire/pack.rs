//! Data frames: pieces of many files in one body, each `index (varint) | length (varint) | bytes`,
//! the whole either as it is or as one self-contained zstd frame.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use zstd::bulk::Compressor;

use crate::varint;

use super::{Blob, MAX_UNPACKED_BYTES, PIECE_BYTES, ToHub, WireError};

/// A body that is at least this long is tried with zstd; a shorter one fits a packet as it is.
const COMPRESS_FROM_BYTES: usize = 1024;
/// After a body that does not become shorter so many go out untried.
const UNTRIED: u32 = 7;

/// Compressed bodies that are kept for the next hub, in bytes.
const KEPT_BYTES: usize = 8 << 20;
/// Who has [`Shrunk`] while there is one hub: its owner, and that hub's packers, one for generations and
/// one for what goes ahead of them.
const WITH_ONE_HUB: usize = 3;

/// Bodies compressed lately, for the packers of one sender: what goes to several hubs is compressed
/// once. Empty as long as there is one hub.
#[derive(Default)]
pub struct Shrunk(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// The last one is the newest. `None`: it does not become shorter.
    bodies: VecDeque<(Key, Option<Vec<u8>>)>,
    bytes: usize,
}

/// Digest of a body, and the level.
type Key = (blake3::Hash, i32);

impl Shrunk {
    fn get(&self, key: &Key) -> Option<Option<Vec<u8>>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest first: hubs that keep up ask for the same at the same time.
        kept.bodies.iter().rev().find(|(known, _)| known == key).map(|(_, small)| small.clone())
    }

    fn put(&self, key: Key, small: Option<Vec<u8>>) {
        let size = |small: &Option<Vec<u8>>| size_of::<Key>() + small.as_ref().map_or(0, Vec::len);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += size(&small);
        kept.bodies.push_back((key, small));
        while kept.bytes > KEPT_BYTES
            && let Some((_, oldest)) = kept.bodies.pop_front()
        {
            kept.bytes -= size(&oldest);
        }
    }
}

/// Gathers pieces of files into Data messages.
pub struct Packer {
    body: Vec<u8>,
    /// zstd level; 0 sends bytes as they are.
    level: i32,
    /// Kept from body to body; of this level.
    compressor: Option<(i32, Compressor<'static>)>,
    /// Bodies that still go out untried.
    untried: u32,
    shrunk: Option<Arc<Shrunk>>,
}

impl Packer {
    /// Level 0: no compression.
    #[must_use]
    pub fn new(level: i32) -> Self {
        Self { body: Vec::new(), level, compressor: None, untried: 0, shrunk: None }
    }

    /// One of several that send the same.
    #[must_use]
    pub fn sharing(level: i32, shrunk: Arc<Shrunk>) -> Self {
        Self { shrunk: Some(shrunk), ..Self::new(level) }
    }

    /// Changes the level from the next message on.
    pub fn set_level(&mut self, level: i32) {
        self.level = level;
    }

    /// Adds content of an op. Returns messages that are full. An empty piece adds nothing.
    pub fn push(&mut self, index: u32, mut content: &[u8]) -> Vec<ToHub> {
        let mut full = Vec::new();
        while !content.is_empty() {
            let room = PIECE_BYTES.saturating_sub(self.body.len());
            // A file that fits a frame is not cut: the hub then writes it in one go.
            if room < content.len().min(PIECE_BYTES) && !self.body.is_empty() {
                full.extend(self.flush());
                continue;
            }
            let (piece, rest) = content.split_at(content.len().min(PIECE_BYTES));
            varint::push(index.into(), &mut self.body);
            varint::push(piece.len() as u64, &mut self.body);
            self.body.extend_from_slice(piece);
            content = rest;
        }
        full
    }

    /// The message of what is gathered, if anything is.
    pub fn flush(&mut self) -> Option<ToHub> {
        if self.body.is_empty() {
            return None;
        }
        let body = std::mem::take(&mut self.body);
        Some(match self.compress(&body) {
            Some(small) => ToHub::Data { encoding: 1, body: Blob(small) },
            None => ToHub::Data { encoding: 0, body: Blob(body) },
        })
    }

    /// A body of its own, of at most [`PIECE_BYTES`]: its encoding, and as it is sent.
    #[must_use]
    pub fn alone(&mut self, body: &[u8]) -> (u8, Vec<u8>) {
        self.compress(body).map_or_else(|| (0, body.to_vec()), |small| (1, small))
    }

    /// The body as a frame, where that is shorter by a sixteenth and more.
    fn compress(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        if self.level == 0 || body.len() < COMPRESS_FROM_BYTES {
            return None;
        }
        if self.untried > 0 {
            self.untried -= 1;
            return None;
        }
        let level = self.level;
        let shared = self.shrunk.clone().filter(|all| Arc::strong_count(all) > WITH_ONE_HUB + 1);
        let shared = shared.map(|shrunk| (shrunk, (blake3::hash(body), level)));
        if let Some(known) = shared.as_ref().and_then(|(shrunk, key)| shrunk.get(key)) {
            return known;
        }
        if self.compressor.as_ref().is_none_or(|(known, _)| *known != level) {
            self.compressor = Compressor::new(level).ok().map(|new| (level, new));
        }
        let (_, compressor) = self.compressor.as_mut()?;
        let small = compressor.compress(body).ok();
        let small = small.filter(|small| small.len() <= body.len() - body.len() / 16);
        if small.is_none() {
            self.untried = UNTRIED;
        }
        if let Some((shrunk, key)) = shared {
            shrunk.put(key, small.clone());
        }
        small
    }
}

/// The pieces of a Data message: op index and range within the returned body.
///
/// # Errors
/// [`WireError::TooLong`] when it says that it unpacks to more than [`MAX_UNPACKED_BYTES`],
/// [`WireError::Malformed`] when it does without saying so, or is not what it should be.
#[allow(clippy::type_complexity)]
pub fn unpack(
    encoding: u8,
    body: Vec<u8>,
) -> Result<(Vec<u8>, Vec<(u32, std::ops::Range<usize>)>), WireError> {
    let body = plain(encoding, body)?;
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < body.len() {
        let index = varint::read(&body, &mut at).and_then(|v| u32::try_from(v).ok());
        let len = varint::read(&body, &mut at).and_then(|v| usize::try_from(v).ok());
        let (Some(index), Some(len)) = (index, len) else { return Err(WireError::Malformed) };
        let end = at.checked_add(len).filter(|&end| end <= body.len() && len > 0);
        let end = end.ok_or(WireError::Malformed)?;
        pieces.push((index, at..end));
        at = end;
    }
    Ok((body, pieces))
}

/// A body as it was before it was encoded.
///
/// # Errors
/// As [`unpack`].
pub fn plain(encoding: u8, body: Vec<u8>) -> Result<Vec<u8>, WireError> {
    match encoding {
        0 => Ok(body),
        1 => decompress(&body),
        _ => Err(WireError::Malformed),
    }
}

/// What one zstd frame holds, within [`MAX_UNPACKED_BYTES`].
pub(super) fn decompress(body: &[u8]) -> Result<Vec<u8>, WireError> {
    match zstd::zstd_safe::get_frame_content_size(body) {
        Ok(Some(size)) if size > MAX_UNPACKED_BYTES as u64 => Err(WireError::TooLong),
        Ok(Some(size)) => {
            // No more room than the frame says that it needs.
            zstd::bulk::decompress(body, size as usize).map_err(|_| WireError::Malformed)
        }
        // Never writes beyond the cap, whatever the frame says.
        _ => zstd::bulk::decompress(body, MAX_UNPACKED_BYTES).map_err(|_| WireError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_several_hubs_is_compressed_once() {
        let shrunk = Arc::new(Shrunk::default());
        let body = |n: u8| [n; 4096];
        let kept = || shrunk.0.lock().unwrap().bodies.len();
        let mut hubs: Vec<_> = (0..2).map(|_| Packer::sharing(1, shrunk.clone())).collect();
        let first = hubs[0].alone(&body(1));
        assert_eq!((first.0, kept()), (1, 0), "one hub, with nobody to share with");
        hubs.extend((0..2).map(|_| Packer::sharing(1, shrunk.clone())));
        for n in [1, 2] {
            let all: Vec<_> = hubs.iter_mut().map(|hub| hub.alone(&body(n))).collect();
            assert!(all.iter().all(|small| *small == all[0]));
            assert_eq!(plain(1, all[0].1.clone()).unwrap(), body(n));
            assert_eq!(kept(), usize::from(n), "one for all");
        }
        // The body of another level is another one.
        hubs[0].set_level(3);
        let _ = hubs[0].alone(&body(2));
        assert_eq!(kept(), 3);
        let full = KEPT_BYTES / (1 << 20);
        for n in 0..2 * full as u64 {
            let key = (blake3::hash(&n.to_le_bytes()), 1);
            shrunk.put(key, Some(vec![0; 1 << 20]));
            let kept = shrunk.0.lock().unwrap();
            assert!(kept.bytes <= KEPT_BYTES && kept.bodies.back().unwrap().0 == key);
        }
    }
}
