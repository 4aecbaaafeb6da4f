//! Data frames: pieces of many files in one body, each `index (varint) | length (varint) | bytes`,
//! the whole either as it is or as one self-contained zstd frame.

use zstd::bulk::Compressor;

use crate::varint;

use super::{Blob, MAX_UNPACKED_BYTES, PIECE_BYTES, ToHub, WireError};

/// A body that is at least this long is tried with zstd; a shorter one fits a packet as it is.
const COMPRESS_FROM_BYTES: usize = 1024;
/// After a body that does not become shorter so many go out untried.
const UNTRIED: u32 = 7;

/// Gathers pieces of files into Data messages.
pub struct Packer {
    body: Vec<u8>,
    /// zstd level; 0 sends bytes as they are.
    level: i32,
    /// Kept from body to body; of this level.
    compressor: Option<(i32, Compressor<'static>)>,
    /// Bodies that still go out untried.
    untried: u32,
}

impl Packer {
    /// Level 0: no compression.
    #[must_use]
    pub fn new(level: i32) -> Self {
        Self { body: Vec::new(), level, compressor: None, untried: 0 }
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
        if self.compressor.as_ref().is_none_or(|(known, _)| *known != level) {
            self.compressor = Compressor::new(level).ok().map(|new| (level, new));
        }
        let (_, compressor) = self.compressor.as_mut()?;
        let small = compressor.compress(body).ok();
        let small = small.filter(|small| small.len() <= body.len() - body.len() / 16);
        if small.is_none() {
            self.untried = UNTRIED;
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
