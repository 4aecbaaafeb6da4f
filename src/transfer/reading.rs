//! The content of one op on its way: whole, or as the patch of what the target has.
//!
//! What is read leaves a trace for its next change, where patches are worth it. A file of any size goes
//! through in pieces, once; one whose blocks the scan has told is read where it changed alone.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use e2ek_sidecar::delta::{Blocks, Differ, Gaps, Signer, Sketch, between};
use e2ek_sidecar::tree::Digest;
use e2ek_sidecar::wire::PIECE_BYTES;

use super::Changed;
use super::known::{Base, Contents, Trace};

/// Files up to here are read at once when they are sent as a patch.
const AT_ONCE_BYTES: u64 = 1 << 20;

/// Where the trace of what is read goes.
pub(super) struct Traces {
    pub(super) contents: Arc<Contents>,
    /// The content that stands at the path so far.
    pub(super) replaces: Option<Digest>,
    /// The blocks of the new content, where the scan has left them.
    pub(super) known: Option<Arc<Blocks>>,
}

/// The content of one op, piece by piece.
pub struct Reading {
    traces: Option<Traces>,
    digest: Digest,
    size: u64,
    left: u64,
    way: Way,
}

/// Where it comes from and what becomes of it.
enum Way {
    Memory(Arc<[u8]>, Option<Base>),
    /// A whole file; the hasher that also remembers it, where it is worth it.
    File(std::fs::File, Hashing),
    /// A file that is read at once.
    Small(std::fs::File, Base),
    /// A file of any size.
    Differ(std::fs::File, Box<Differ>),
    /// One whose blocks are known.
    Gaps(std::fs::File, Box<Gaps>),
    Over,
}

/// What checks that a file still is what the op says.
enum Hashing {
    Plain(Box<blake3::Hasher>),
    Signing(Box<Signer>),
}

impl Reading {
    pub(super) fn memory(
        traces: Option<Traces>,
        digest: Digest,
        content: Arc<[u8]>,
        base: Option<Base>,
    ) -> Self {
        let size = content.len() as u64;
        Self { traces, digest, size, left: size, way: Way::Memory(content, base) }
    }

    pub(super) fn file(
        traces: Option<Traces>,
        digest: Digest,
        size: u64,
        file: std::fs::File,
        base: Option<Base>,
    ) -> Self {
        let known = traces.as_ref().and_then(|traces| traces.known.clone());
        let way = match base {
            Some(Base::Trace(Trace::Blocks(base))) if size > AT_ONCE_BYTES => {
                match known.and_then(|new| Gaps::between(Arc::clone(&base), new)) {
                    Some(gaps) => Way::Gaps(file, Box::new(gaps)),
                    None => Way::Differ(file, Box::new(Differ::new(base, size))),
                }
            }
            Some(base) if size <= AT_ONCE_BYTES => Way::Small(file, base),
            _ => Way::File(file, Hashing::of(size, traces.is_some() && known.is_none())),
        };
        Self { traces, digest, size, left: size, way }
    }

    /// Whether a content of `size` bytes can be sent as a patch of `base`.
    pub(super) fn can_patch(base: &Base, size: u64) -> bool {
        size <= AT_ONCE_BYTES || matches!(base, Base::Trace(Trace::Blocks(_)))
    }

    /// Bytes of the content that were read so far.
    #[must_use]
    pub fn progress(&self) -> u64 {
        self.size - self.left
    }

    /// The next piece of what is sent: of the file, at most [`PIECE_BYTES`], all of what lies in
    /// memory, or of the patch, which may be empty; `false` after the last. The last is given only
    /// when the whole is what the op says.
    ///
    /// # Errors
    /// When it is not.
    pub fn piece(&mut self, buffer: &mut Vec<u8>) -> Result<bool, Changed> {
        buffer.clear();
        if self.left == 0 {
            return Ok(false);
        }
        match std::mem::replace(&mut self.way, Way::Over) {
            Way::Over => return Ok(false),
            Way::Memory(content, base) => {
                if content.len() as u64 != self.size {
                    return Err(Changed);
                }
                self.at_once(&content, base, buffer);
            }
            Way::Small(mut file, base) => {
                let mut content = Vec::with_capacity(self.size as usize);
                read(&mut file, self.size, &mut content)?;
                if Digest::of(&content) != self.digest {
                    return Err(Changed);
                }
                self.at_once(&content, Some(base), buffer);
            }
            Way::File(file, hashing) => self.whole(file, hashing, buffer)?,
            Way::Differ(file, differ) => self.patch(file, differ, buffer)?,
            Way::Gaps(file, gaps) => self.gaps(file, gaps, buffer)?,
        }
        Ok(true)
    }

    /// Sends a content that is at hand.
    fn at_once(&mut self, content: &[u8], base: Option<Base>, buffer: &mut Vec<u8>) {
        self.left = 0;
        let mut trace = None;
        match base {
            None => buffer.extend_from_slice(content),
            Some(Base::Content(old)) => *buffer = between(&old, content),
            Some(Base::Trace(Trace::Sketch(sketch))) => *buffer = sketch.patch(content),
            Some(Base::Trace(Trace::Blocks(blocks))) => {
                let mut differ = Differ::new(blocks, content.len() as u64);
                differ.take(content);
                *buffer = differ.patch();
                let (rest, signed) = differ.finish();
                buffer.extend(rest);
                trace = signed.map(|(_, blocks)| Trace::Blocks(Arc::new(blocks)));
            }
        }
        self.leave(|| trace.or_else(|| trace_of(content)));
    }

    /// Leaves a trace for the next change, where there is somebody to keep it.
    fn leave(&self, trace: impl FnOnce() -> Option<Trace>) {
        if let Some(traces) = &self.traces
            && let Some(trace) = traces.known.clone().map(Trace::Blocks).or_else(trace)
        {
            traces.contents.trace(self.digest, trace, traces.replaces);
        }
    }

    fn whole(
        &mut self,
        mut file: std::fs::File,
        mut hashing: Hashing,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Changed> {
        read(&mut file, self.left.min(PIECE_BYTES as u64), buffer)?;
        match &mut hashing {
            Hashing::Plain(hasher) => drop(hasher.update(buffer)),
            Hashing::Signing(signer) => signer.take(buffer),
        }
        if buffer.len() as u64 == self.left {
            let (digest, trace) = match hashing {
                Hashing::Plain(hasher) => (Digest::from(hasher.finalize()), None),
                Hashing::Signing(signer) => {
                    let (digest, blocks) = signer.finish();
                    (digest, Some(Trace::Blocks(Arc::new(blocks))))
                }
            };
            if digest != self.digest {
                return Err(Changed);
            }
            let all = buffer.len() as u64 == self.size;
            self.leave(|| trace.or_else(|| all.then(|| trace_of(buffer)).flatten()));
        } else {
            self.way = Way::File(file, hashing);
        }
        self.left -= buffer.len() as u64;
        Ok(())
    }

    fn patch(
        &mut self,
        mut file: std::fs::File,
        mut differ: Box<Differ>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Changed> {
        read(&mut file, self.left.min(PIECE_BYTES as u64), buffer)?;
        differ.take(buffer);
        self.left -= buffer.len() as u64;
        *buffer = differ.patch();
        if self.left > 0 {
            self.way = Way::Differ(file, differ);
            return Ok(());
        }
        let (rest, signed) = differ.finish();
        let (_, blocks) = signed.filter(|(digest, _)| *digest == self.digest).ok_or(Changed)?;
        self.leave(|| Some(Trace::Blocks(Arc::new(blocks))));
        buffer.extend(rest);
        Ok(())
    }

    /// Reads what is not where it was. It is what the scan has read, or it does not go out, and the
    /// rest is not asked for: so the patch leads to the op's content, whatever the file becomes.
    fn gaps(
        &mut self,
        file: std::fs::File,
        mut gaps: Box<Gaps>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Changed> {
        if let Some((offset, length)) = gaps.wanted() {
            buffer.resize(length, 0);
            file.read_exact_at(buffer, offset).map_err(|_| Changed)?;
            if !gaps.take(buffer) {
                return Err(Changed);
            }
            *buffer = gaps.patch();
            self.left = self.size - offset - length as u64;
            if self.left > 0 {
                self.way = Way::Gaps(file, gaps);
                return Ok(());
            }
        } else {
            buffer.clear();
        }
        self.left = 0;
        buffer.extend(gaps.finish());
        self.leave(|| None);
        Ok(())
    }
}

impl Hashing {
    fn of(size: u64, signing: bool) -> Self {
        match Signer::new(size).filter(|_| signing) {
            Some(signer) => Self::Signing(Box::new(signer)),
            None => Self::Plain(Box::default()),
        }
    }
}

/// What a change of a content that is at hand can be found by later.
fn trace_of(content: &[u8]) -> Option<Trace> {
    if let Some(sketch) = Sketch::of(content) {
        return Some(Trace::Sketch(Arc::new(sketch)));
    }
    let mut signer = Signer::new(content.len() as u64)?;
    signer.take(content);
    Some(Trace::Blocks(Arc::new(signer.finish().1)))
}

/// Reads just so many bytes.
fn read(file: &mut std::fs::File, len: u64, buffer: &mut Vec<u8>) -> Result<(), Changed> {
    buffer.clear();
    file.take(len).read_to_end(buffer).map_err(|_| Changed)?;
    if buffer.len() as u64 == len { Ok(()) } else { Err(Changed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(content: &[u8]) -> (Digest, Arc<Blocks>) {
        let mut signer = Signer::new(content.len() as u64).unwrap();
        signer.take(content);
        let (digest, blocks) = signer.finish();
        (digest, Arc::new(blocks))
    }

    /// What is sent of a file, `now`, that was `scanned` and is a change of `base`.
    fn sent(base: &[u8], scanned: &[u8], now: &[u8]) -> Result<Vec<u8>, Changed> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("large");
        std::fs::write(&path, now).unwrap();
        let contents = Arc::new(Contents::kept_in(home.path()));
        let (digest, known) = blocks(scanned);
        let traces = Traces { contents: contents.clone(), replaces: None, known: Some(known) };
        let base = Base::Trace(Trace::Blocks(blocks(base).1));
        let file = std::fs::File::open(&path).unwrap();
        let size = scanned.len() as u64;
        let mut reading = Reading::file(Some(traces), digest, size, file, Some(base));
        let (mut patch, mut piece) = (Vec::new(), Vec::new());
        while reading.piece(&mut piece)? {
            patch.extend_from_slice(&piece);
        }
        assert!(contents.blocks(digest).is_some(), "for the next change");
        Ok(patch)
    }

    #[test]
    fn i4_what_changed_since_the_scan_is_withdrawn_where_it_is_sent() {
        let base = vec![7; 3 << 20];
        let mut scanned = base.clone();
        scanned[1 << 20] = 1;
        let patch = sent(&base, &scanned, &scanned).unwrap();
        assert!(patch.len() < 2000, "{}", patch.len());
        let mut now = scanned.clone();
        now[(1 << 20) + 5] = 2;
        assert!(sent(&base, &scanned, &now).is_err(), "in the block that is sent");
        // The patch still leads to what was scanned.
        let mut now = scanned.clone();
        now[0] = 2;
        assert_eq!(sent(&base, &scanned, &now).unwrap(), patch);
        assert!(sent(&base, &scanned, &scanned[..100]).is_err(), "shorter");
    }
}
