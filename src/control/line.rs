//! Owns the cutting of a byte stream into lines.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::MAX_LINE_BYTES;

/// Bytes asked for at a time.
const CHUNK: usize = 8 << 10;

/// A reader of lines of at most [`MAX_LINE_BYTES`]. Holds no more than that and one chunk.
#[derive(Debug)]
pub(super) struct Lines<R> {
    from: R,
    /// Bytes read that no line handed out yet has.
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that hold no newline.
    searched: usize,
}

/// Why there is no line.
#[derive(Debug, thiserror::Error)]
pub(super) enum LineError {
    /// Longer than [`MAX_LINE_BYTES`]; the rest of the stream is of no use.
    #[error("line is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// The stream failed, or ended in the middle of a line.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, buffer: Vec::new(), searched: 0 }
    }

    /// The next line without its newline; `None` at the end of the stream.
    ///
    /// # Cancel safety
    /// Safe: what was read is kept.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, LineError> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|&b| b == b'\n') {
                let end = self.searched + at;
                if end >= MAX_LINE_BYTES {
                    return Err(LineError::TooLong);
                }
                let rest = self.buffer.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.truncate(end);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() >= MAX_LINE_BYTES {
                return Err(LineError::TooLong);
            }
            if self.fill().await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
                };
            }
        }
    }

    /// Waits for the end of the stream, or until so much unasked text is waiting that reading on
    /// would break the cap (then for ever: nobody needs to know of that end).
    ///
    /// # Cancel safety
    /// Safe: what was read is kept for [`Self::next`].
    pub(super) async fn ended(&mut self) {
        while self.buffer.len() < MAX_LINE_BYTES {
            if !matches!(self.fill().await, Ok(1..)) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Bytes of memory held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.buffer.capacity()
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(CHUNK);
        (&mut self.from).take(CHUNK as u64).read_buf(&mut self.buffer).await
    }
}
