//! Owns the reading of large files: one pass gives digest and blocks, by several threads where that
//! is worth it.
//!
//! Read, not mapped: a mapping costs as much (its pages fault in one by one), and a file that shrinks
//! meanwhile would end the process. The parts are nodes of the file's own blake3 tree, so threads need
//! nothing of each other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use e2ek_sidecar::delta::{Blocks, PartSigner, SignedPart};
use e2ek_sidecar::tree::Digest;
use rustix::io::Errno;

/// Files from here on are hashed by several threads, in bytes: a thread starts in the time in which
/// 100 KB are hashed.
const SHARED_FROM: u64 = 8 << 20;
/// Most threads for one file, this one included.
const MAX_THREADS: usize = 4;

/// What became of reading a large file.
pub(super) struct Signed {
    /// Bytes read.
    pub(super) bytes: u64,
    /// `None` when there was less to read than promised.
    pub(super) content: Option<(Digest, Option<Arc<Blocks>>)>,
}

/// Reads `size` bytes of an open file, more than 1 MiB. Its blocks are wanted when `traced`, and likely
/// to be those of `base`.
///
/// # Errors
/// The system's word.
pub(super) fn sign(
    file: &OwnedFd,
    size: u64,
    (traced, base): (bool, Option<&Blocks>),
    buffer: &mut [u8],
) -> Result<Signed, Errno> {
    let signer = PartSigner::new(size, traced, base);
    let crew = Crew { file: file.as_fd(), signer: &signer, next: AtomicUsize::new(0) };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let others = if size < SHARED_FROM { 0 } else { cores.min(MAX_THREADS) - 1 };
    let (bytes, parts) = std::thread::scope(|scope| {
        let (crew, length) = (&crew, buffer.len());
        let others: Vec<_> =
            (0..others).map(|_| scope.spawn(move || crew.work(&mut vec![0; length]))).collect();
        let (mut bytes, mut parts) = crew.work(buffer)?;
        for other in others {
            let (count, more) = match other.join() {
                Ok(done) => done?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            bytes += count;
            parts.extend(more);
        }
        Ok((bytes, parts))
    })?;
    let content = signer.join(parts).map(|(digest, blocks)| (digest, blocks.map(Arc::new)));
    Ok(Signed { bytes, content })
}

/// Those who read one file.
struct Crew<'a> {
    file: BorrowedFd<'a>,
    signer: &'a PartSigner<'a>,
    /// The part that nobody has begun.
    next: AtomicUsize,
}

impl Crew<'_> {
    /// Signs parts until none is left, or one has less than it should; tells the bytes read.
    fn work(&self, buffer: &mut [u8]) -> Result<(u64, Vec<SignedPart>), Errno> {
        let (mut bytes, mut parts) = (0, Vec::new());
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some((mut offset, mut left)) = self.signer.range(number) else { break };
            let mut part = self.signer.part(number);
            while left > 0 {
                let want = left.min(buffer.len());
                let got = fill(self.file, &mut buffer[..want], offset)?;
                bytes += got as u64;
                if got < want {
                    // Nobody needs the rest.
                    self.next.store(usize::MAX / 2, Ordering::Relaxed);
                    return Ok((bytes, parts));
                }
                part.take(&buffer[..got]);
                offset += got as u64;
                left -= got;
            }
            parts.extend(part.finish());
        }
        Ok((bytes, parts))
    }
}

/// Fills the buffer; less only at the end of the file.
fn fill(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut count = 0;
    while count < buffer.len() {
        match rustix::io::pread(file, &mut buffer[count..], offset + count as u64) {
            Ok(0) => break,
            Ok(got) => count += got,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_together_make_one_digest() {
        let content: Vec<u8> = (0u32..3 << 20).flat_map(u32::to_le_bytes).collect();
        let home = tempfile::tempdir().unwrap();
        for size in [(1 << 20) + 1, 8 << 20, 12 << 20] {
            let path = home.path().join("f");
            std::fs::write(&path, &content[..size]).unwrap();
            let file = OwnedFd::from(std::fs::File::open(&path).unwrap());
            let mut buffer = vec![0; 256 << 10];
            let signed = sign(&file, size as u64, (true, None), &mut buffer).unwrap();
            let (digest, blocks) = signed.content.unwrap();
            assert_eq!((digest, signed.bytes), (Digest::of(&content[..size]), size as u64));
            assert_eq!(blocks.unwrap().size(), size as u64);
            // Each byte once, and no more than there is.
            let signed = sign(&file, size as u64 + 1, (false, None), &mut buffer).unwrap();
            assert!(signed.content.is_none() && signed.bytes <= size as u64);
        }
    }
}
