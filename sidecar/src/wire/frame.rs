//! Frames: length, message, checksum.

use postcard::ser_flavors::Size;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{MAX_FRAME_BYTES, OPS_PER_FRAME, WireError};

const CHECKSUM_BYTES: usize = 4;
/// [`MAX_FRAME_BYTES`] in seven-bit groups.
const MAX_LENGTH_BYTES: usize = 3;

/// Appends one message as a frame. Returns the length of the message, the unit of credit.
///
/// # Panics
/// When the message is longer than [`MAX_FRAME_BYTES`]: whoever makes messages keeps to the caps.
pub fn encode<M: Serialize>(message: &M, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; MAX_LENGTH_BYTES]);
    let body = start + MAX_LENGTH_BYTES;
    let written = postcard::to_extend(message, std::mem::take(out));
    *out = written.expect("messages are plain data");
    let len = out.len() - body;
    assert!(len <= MAX_FRAME_BYTES, "a message of {len} bytes");
    let sum = crc32c::crc32c(&out[body..]);
    out.extend_from_slice(&sum.to_le_bytes());
    // The length is written into the room kept for it, then what is left of the room closed.
    let mut head = [0; MAX_LENGTH_BYTES];
    let used = varint(len, &mut head);
    out[start..start + used].copy_from_slice(&head[..used]);
    out.drain(start + used..body);
    len
}

/// Cuts a list into parts that fit a frame each, in order: at most [`OPS_PER_FRAME`] items and half
/// of [`MAX_FRAME_BYTES`], or one item when it alone is longer. An empty list has no part.
pub fn batches<T: Serialize>(items: impl IntoIterator<Item = T>) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut part = Vec::new();
        let mut bytes = 0;
        while part.len() < OPS_PER_FRAME
            && let Some(item) = items.next_if(|item| {
                bytes += encoded_bytes(item);
                part.is_empty() || bytes <= MAX_FRAME_BYTES / 2
            })
        {
            part.push(item);
        }
        (!part.is_empty()).then_some(part)
    })
}

fn encoded_bytes<T: Serialize>(item: &T) -> usize {
    postcard::serialize_with_flavor(item, Size::default()).expect("messages are plain data")
}

fn varint(mut value: usize, out: &mut [u8; MAX_LENGTH_BYTES]) -> usize {
    let mut used = 0;
    loop {
        out[used] = (value & 0x7f) as u8 | if value > 0x7f { 0x80 } else { 0 };
        value >>= 7;
        used += 1;
        if value == 0 {
            return used;
        }
    }
}

/// Turns bytes as they come into messages. Holds at most one frame plus what one read brought.
#[derive(Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Where the first frame not yet taken begins.
    start: usize,
}

impl Decoder {
    /// Takes what a read brought.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message with its length, if one is there.
    ///
    /// # Errors
    /// When the bytes are no frame; the link is to be closed.
    pub fn message<M: DeserializeOwned>(&mut self) -> Result<Option<(M, usize)>, WireError> {
        let bytes = &self.buffer[self.start..];
        let Some((len, used)) = read_length(bytes)? else { return Ok(None) };
        let end = used + len;
        let Some(sum) = bytes.get(end..end + CHECKSUM_BYTES) else { return Ok(None) };
        let body = &bytes[used..end];
        if crc32c::crc32c(body).to_le_bytes() != sum {
            return Err(WireError::Damaged);
        }
        let (message, rest) = postcard::take_from_bytes(body).map_err(|_| WireError::Malformed)?;
        if !rest.is_empty() {
            return Err(WireError::Malformed);
        }
        self.start += end + CHECKSUM_BYTES;
        Ok(Some((message, len)))
    }

    /// Bytes held that are not a whole frame yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }
}

fn read_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let mut len = 0;
    for at in 0..MAX_LENGTH_BYTES {
        let Some(&byte) = bytes.get(at) else { return Ok(None) };
        len |= usize::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return match len {
                0 => Err(WireError::Malformed),
                1..=MAX_FRAME_BYTES => Ok(Some((len, at + 1))),
                _ => Err(WireError::TooLong),
            };
        }
    }
    Err(WireError::TooLong)
}
