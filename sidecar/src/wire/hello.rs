//! The Hello: the one part of the protocol that never changes its shape.
//!
//! `magic (8) | length of the rest (u16 LE) | lowest version (u16) | highest version (u16) | features
//! (u64) | build (UTF-8)`. Later versions may append after the build's own length.

use super::WireError;
use crate::path::Escaped;

/// Lowest and highest protocol version of this build.
pub const PROTOCOL: (u16, u16) = (1, 1);
/// A feature: whoever says this answers a Ping at once, with one of its own unless something else is
/// on its way.
pub const ANSWERS_PINGS: u64 = 1;
/// No shell, banner or proxy prints this; like PNG's, it shows a carrier that mangles bytes.
const MAGIC: &[u8; 8] = b"\xe2\x02ek\r\n\x1a\n";
const HEAD_BYTES: usize = MAGIC.len() + 2;
const FIXED_BYTES: usize = 2 + 2 + 8 + 1;
const MAX_BODY_BYTES: usize = 1024;
/// How much of a foreign greeting is shown to people.
const SHOWN_BYTES: usize = 200;

/// What each end says at once, without waiting for the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// Lowest and highest protocol version spoken.
    pub versions: (u16, u16),
    /// Optional abilities, one bit each; unknown bits are ignored.
    pub features: u64,
    /// Version of the program, for people.
    pub build: String,
}

impl Hello {
    /// This build's.
    #[must_use]
    pub fn ours() -> Self {
        Self { versions: PROTOCOL, features: 0, build: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// This build's, as a hub says it.
    #[must_use]
    pub fn of_hub() -> Self {
        Self { features: ANSWERS_PINGS, ..Self::ours() }
    }

    /// Whether a Ping is answered at once.
    #[must_use]
    pub fn answers_pings(&self) -> bool {
        self.features & ANSWERS_PINGS != 0
    }

    /// Appends the bytes. A build of more than 255 bytes is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let build = &self.build.as_bytes()[..self.build.len().min(255)];
        out.extend_from_slice(MAGIC);
        let len = u16::try_from(FIXED_BYTES + build.len()).expect("at most 268");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&self.versions.0.to_le_bytes());
        out.extend_from_slice(&self.versions.1.to_le_bytes());
        out.extend_from_slice(&self.features.to_le_bytes());
        out.push(u8::try_from(build.len()).expect("cut above"));
        out.extend_from_slice(build);
    }
}

/// The version both ends speak: the highest in common.
///
/// # Errors
/// [`WireError::Skew`] when there is none.
pub fn negotiate(ours: &Hello, theirs: &Hello) -> Result<u16, WireError> {
    let version = ours.versions.1.min(theirs.versions.1);
    if version >= ours.versions.0 && version >= theirs.versions.0 {
        return Ok(version);
    }
    Err(WireError::Skew {
        ours: ours.versions,
        ours_build: ours.build.clone(),
        theirs: theirs.versions,
        theirs_build: theirs.build.clone(),
    })
}

/// Collects the other end's Hello from bytes as they come.
#[derive(Default)]
pub struct HelloReader {
    buffer: Vec<u8>,
}

impl HelloReader {
    /// Takes what a read brought. When the Hello is whole: it, and the bytes after it.
    ///
    /// # Errors
    /// [`WireError::NotOurs`] at the first byte that differs from the magic, showing what came.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<(Hello, Vec<u8>)>, WireError> {
        self.buffer.extend_from_slice(bytes);
        let known = self.buffer.len().min(MAGIC.len());
        if self.buffer[..known] != MAGIC[..known] {
            return Err(self.not_ours());
        }
        let Some(head) = self.buffer.get(MAGIC.len()..HEAD_BYTES) else { return Ok(None) };
        let len = usize::from(u16::from_le_bytes([head[0], head[1]]));
        if !(FIXED_BYTES..=MAX_BODY_BYTES).contains(&len) {
            return Err(WireError::Malformed);
        }
        let Some(body) = self.buffer.get(HEAD_BYTES..HEAD_BYTES + len) else { return Ok(None) };
        let hello = parse_body(body)?;
        Ok(Some((hello, self.buffer.split_off(HEAD_BYTES + len))))
    }

    fn not_ours(&self) -> WireError {
        let shown = &self.buffer[..self.buffer.len().min(SHOWN_BYTES)];
        WireError::NotOurs(Escaped(shown.trim_ascii()).to_string())
    }
}

fn parse_body(body: &[u8]) -> Result<Hello, WireError> {
    let short = |at: usize| u16::from_le_bytes([body[at], body[at + 1]]);
    let features = body[4..12].try_into().map_err(|_| WireError::Malformed)?;
    let build = body.get(FIXED_BYTES..FIXED_BYTES + usize::from(body[12]));
    let build = String::from_utf8_lossy(build.ok_or(WireError::Malformed)?);
    Ok(Hello {
        versions: (short(0), short(2)),
        features: u64::from_le_bytes(features),
        build: Escaped(build.as_bytes()).to_string(),
    })
}
