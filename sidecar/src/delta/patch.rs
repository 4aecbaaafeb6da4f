//! The patch: instructions that make a new content from an old one.
//!
//! `length << 1 (varint) | that many bytes` brings bytes; `length << 1 | 1 (varint) | offset (varint)`
//! copies. The offset is told as its distance from the end of the last copy, in zigzag. A patch is
//! over when the new content has its size.

use crate::varint;

/// Bytes gathered before they become an instruction.
const LITERAL_BYTES: usize = 64 << 10;
/// Of a number, at most.
const MAX_NUMBER_BYTES: usize = 10;

/// Writes a patch. Neighbouring copies become one, and so do neighbouring bytes.
#[derive(Default)]
pub struct PatchWriter {
    out: Vec<u8>,
    literal: Vec<u8>,
    /// Offset and length of a copy that may still grow.
    copy: Option<(u64, u64)>,
    /// Where the last copy that was written ends in the old content.
    after: u64,
}

impl PatchWriter {
    /// New content that the old one does not have.
    pub fn bring(&mut self, mut bytes: &[u8]) {
        if !bytes.is_empty() {
            self.write_copy();
        }
        while !bytes.is_empty() {
            let room = LITERAL_BYTES - self.literal.len();
            let (now, rest) = bytes.split_at(bytes.len().min(room));
            self.literal.extend_from_slice(now);
            if self.literal.len() == LITERAL_BYTES {
                self.write_literal();
            }
            bytes = rest;
        }
    }

    /// New content that lies in the old one; offset and length in bytes.
    pub fn copy(&mut self, offset: u64, length: u64) {
        if length == 0 {
            return;
        }
        self.write_literal();
        match &mut self.copy {
            Some((from, known)) if *from + *known == offset => *known += length,
            _ => {
                self.write_copy();
                self.copy = Some((offset, length));
            }
        }
    }

    /// What is written so far. The last instruction may still be missing from it.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Bytes that [`PatchWriter::take`] would give.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether [`PatchWriter::take`] would give nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// The rest of the patch.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.write_literal();
        self.write_copy();
        self.out
    }

    fn write_literal(&mut self) {
        if !self.literal.is_empty() {
            varint::push((self.literal.len() as u64) << 1, &mut self.out);
            self.out.append(&mut self.literal);
        }
    }

    fn write_copy(&mut self) {
        if let Some((offset, length)) = self.copy.take() {
            varint::push(length << 1 | 1, &mut self.out);
            let distance = offset.wrapping_sub(self.after).cast_signed();
            varint::push((distance << 1 ^ distance >> 63).cast_unsigned(), &mut self.out);
            self.after = offset + length;
        }
    }
}

/// Why bytes are no patch of this content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// A number that is too long, or an instruction without length.
    #[error("the patch is malformed")]
    Malformed,
    /// A copy from beyond the old content.
    #[error("the patch copies from beyond the end")]
    Beyond,
    /// More than the new content shall be.
    #[error("the patch makes too much")]
    TooLong,
}

/// A part of the new content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// It is this.
    Bytes(&'a [u8]),
    /// It lies in the old content; within its bounds.
    Copy {
        /// From there, in bytes.
        offset: u64,
        /// So many bytes, at least one.
        length: u64,
    },
}

/// Reads a patch as it comes. Holds no more than a number of it.
#[derive(Debug)]
pub struct Patcher {
    base: u64,
    /// What is still to be made, in bytes.
    left: u64,
    expects: Expects,
    /// Of a number whose end has not come.
    number: [u8; MAX_NUMBER_BYTES],
    number_len: usize,
    after: u64,
}

#[derive(Debug, Clone, Copy)]
enum Expects {
    Instruction,
    Offset { length: u64 },
    Bytes { left: u64 },
}

impl Patcher {
    /// For an old and a new content of so many bytes.
    #[must_use]
    pub fn new(base: u64, size: u64) -> Self {
        let expects = Expects::Instruction;
        Self { base, left: size, expects, number: [0; 10], number_len: 0, after: 0 }
    }

    /// Whether all of the new content was handed out.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// The next piece of the new content; takes what it needs from the front of `bytes`. `None`
    /// when more bytes are needed: then all were taken.
    ///
    /// # Errors
    /// When it is no patch from the old to the new content. What was handed out is worth nothing.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Piece<'a>>, PatchError> {
        loop {
            match self.expects {
                Expects::Instruction => {
                    if self.is_complete() && !bytes.is_empty() {
                        return Err(PatchError::TooLong);
                    }
                    let Some(number) = self.number(bytes)? else { return Ok(None) };
                    let length = number >> 1;
                    if length == 0 {
                        return Err(PatchError::Malformed);
                    }
                    if length > self.left {
                        return Err(PatchError::TooLong);
                    }
                    self.expects = match number & 1 {
                        0 => Expects::Bytes { left: length },
                        _ => Expects::Offset { length },
                    };
                }
                Expects::Offset { length } => {
                    let Some(number) = self.number(bytes)? else { return Ok(None) };
                    return self.copy(number, length).map(Some);
                }
                Expects::Bytes { left } => {
                    if bytes.is_empty() {
                        return Ok(None);
                    }
                    let now = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (piece, rest) = bytes.split_at(now);
                    *bytes = rest;
                    self.left -= now as u64;
                    self.expects = match left - now as u64 {
                        0 => Expects::Instruction,
                        left => Expects::Bytes { left },
                    };
                    return Ok(Some(Piece::Bytes(piece)));
                }
            }
        }
    }

    fn copy<'a>(&mut self, zigzag: u64, length: u64) -> Result<Piece<'a>, PatchError> {
        let distance = (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed();
        let offset = self.after.wrapping_add(distance.cast_unsigned());
        let end = offset.checked_add(length).filter(|&end| end <= self.base);
        self.after = end.ok_or(PatchError::Beyond)?;
        self.left -= length;
        self.expects = Expects::Instruction;
        Ok(Piece::Copy { offset, length })
    }

    fn number(&mut self, bytes: &mut &[u8]) -> Result<Option<u64>, PatchError> {
        while let Some((&byte, rest)) = bytes.split_first() {
            *bytes = rest;
            let slot = self.number.get_mut(self.number_len).ok_or(PatchError::Malformed)?;
            *slot = byte;
            self.number_len += 1;
            if byte < 0x80 {
                let len = std::mem::take(&mut self.number_len);
                let number = varint::read(&self.number[..len], &mut 0);
                return number.map(Some).ok_or(PatchError::Malformed);
            }
        }
        Ok(None)
    }
}
