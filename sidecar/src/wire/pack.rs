//! Data frames: pieces of many files in one body, each `index (varint) | length (varint) | bytes`,
//! the whole either as it is or as one self-contained zstd frame.

use crate::varint;

use super::{Blob, MAX_UNPACKED_BYTES, PIECE_BYTES, ToHub, WireError};

/// A body that is at least this long is tried with zstd.
const COMPRESS_FROM_BYTES: usize = 256;

/// Gathers pieces of files into Data messages.
pub struct Packer {
    body: Vec<u8>,
    /// zstd level; 0 sends bytes as they are.
    level: i32,
}

impl Packer {
    /// Level 0: no compression.
    #[must_use]
    pub fn new(level: i32) -> Self {
        Self { body: Vec::new(), level }
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
        if self.level > 0
            && body.len() >= COMPRESS_FROM_BYTES
            && let Ok(small) = zstd::bulk::compress(&body, self.level)
            && small.len() < body.len()
        {
            return Some(ToHub::Data { encoding: 1, body: Blob(small) });
        }
        Some(ToHub::Data { encoding: 0, body: Blob(body) })
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
    let body = match encoding {
        0 => body,
        1 => decompress(&body)?,
        _ => return Err(WireError::Malformed),
    };
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

fn decompress(body: &[u8]) -> Result<Vec<u8>, WireError> {
    match zstd::zstd_safe::get_frame_content_size(body) {
        Ok(Some(size)) if size > MAX_UNPACKED_BYTES as u64 => Err(WireError::TooLong),
        // Never writes beyond the cap, whatever the frame says.
        _ => zstd::bulk::decompress(body, MAX_UNPACKED_BYTES).map_err(|_| WireError::Malformed),
    }
}
