//! The file that traces outlive the daemon in.
//!
//! Magic bytes that name the version, the traces of each kind from the oldest on, each with its content's digest,
//! and a checksum of it all. A trace of another content than it says can do no harm: a patch that
//! comes of it is seen by the digest of its result, and costs one whole content.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use e2ek_sidecar::delta::{Blocks, Sketch};
use e2ek_sidecar::tree::Digest;

use super::known::Trace;

const MAGIC: &[u8; 8] = b"e2ektrc1";
const CHECKSUM_BYTES: usize = 32;

/// Writes them to a file of its own name, by one aside. A crash leaves the old one or the new one,
/// or one whose checksum tells.
///
/// # Errors
/// When that does not work.
pub(super) fn write(path: &Path, traces: impl Iterator<Item = (Digest, Trace)>) -> io::Result<()> {
    let aside = aside(path);
    let written = write_new(&aside, traces).and_then(|()| std::fs::rename(&aside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&aside);
    }
    written
}

/// Removes what a killed daemon had begun.
pub(super) fn sweep(path: &Path) {
    let _ = std::fs::remove_file(aside(path));
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn write_new(path: &Path, traces: impl Iterator<Item = (Digest, Trace)>) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 16, File::create(path)?);
    let mut hasher = blake3::Hasher::new();
    let mut bytes = MAGIC.to_vec();
    for (digest, trace) in traces {
        bytes.push(if matches!(trace, Trace::Sketch(_)) { b's' } else { b'b' });
        bytes.extend_from_slice(&digest.0);
        match trace {
            Trace::Sketch(sketch) => sketch.encode(&mut bytes),
            Trace::Blocks(blocks) => blocks.encode(&mut bytes),
        }
        hasher.update(&bytes);
        file.write_all(&bytes)?;
        bytes.clear();
    }
    hasher.update(&bytes);
    file.write_all(&bytes)?;
    file.write_all(hasher.finalize().as_bytes())?;
    file.flush()
}

/// Reads what [`write()`] wrote; `None` when a single byte differs.
pub(super) fn read(path: &Path) -> Option<Vec<(Digest, Trace)>> {
    let bytes = std::fs::read(path).ok()?;
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM_BYTES)?)?;
    if blake3::hash(body).as_bytes() != sum {
        return None;
    }
    let mut input = body.strip_prefix(MAGIC)?;
    let mut traces = Vec::new();
    while let Some((kind, rest)) = input.split_first() {
        let (digest, rest) = rest.split_first_chunk()?;
        input = rest;
        let trace = match kind {
            b's' => Trace::Sketch(Arc::new(Sketch::decode(&mut input)?)),
            b'b' => Trace::Blocks(Arc::new(Blocks::decode(&mut input)?)),
            _ => return None,
        };
        traces.push((Digest(*digest), trace));
    }
    Some(traces)
}

#[cfg(test)]
mod tests {
    use e2ek_sidecar::delta::Signer;

    use super::*;

    fn sample() -> Vec<(Digest, Trace)> {
        let large = vec![7; 100_000];
        let mut signer = Signer::new(100_000).unwrap();
        signer.take(&large);
        let (digest, blocks) = signer.finish();
        let small = b"fn f() {}\n".repeat(300);
        let sketch = Sketch::of(&small).unwrap();
        vec![
            (digest, Trace::Blocks(Arc::new(blocks))),
            (Digest::of(&small), Trace::Sketch(Arc::new(sketch))),
        ]
    }

    #[test]
    fn i8_traces_come_back_or_none_do() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("traces");
        assert_eq!(read(&path), None);
        for traces in [Vec::new(), sample()] {
            write(&path, traces.clone().into_iter()).unwrap();
            assert_eq!(read(&path), Some(traces));
        }
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            std::fs::write(&path, &bytes[..at]).unwrap();
            assert_eq!(read(&path), None, "cut at {at}");
        }
        for at in (0..bytes.len()).step_by(7) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x20;
            std::fs::write(&path, &flipped).unwrap();
            assert_eq!(read(&path), None, "flipped at {at}");
        }
        // A checksum that is right does not make sense of what is none.
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&[b'b'; 40]);
        let sum = blake3::hash(&bytes);
        bytes.extend_from_slice(sum.as_bytes());
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path), None);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "nothing is left aside");
    }
}
