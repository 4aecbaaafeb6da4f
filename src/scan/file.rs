//! Owns what is found out about one name: its facts, and for a regular file its content's digest;
//! of a large one, also its blocks.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use e2ek_sidecar::delta::Blocks;
use e2ek_sidecar::tree::{Digest, Stamp};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use super::large;

/// Of larger files the blocks are handed on, of smaller ones the content.
pub(super) const MAX_CONTENT_BYTES: u64 = 1024 * 1024;
/// One read takes this much; the buffer is reused.
pub(super) const READ_BYTES: usize = 256 * 1024;
/// How often a file that changes while it is read is tried.
const TRIES: usize = 3;

const WANTED: StatxFlags = StatxFlags::TYPE
    .union(StatxFlags::MODE)
    .union(StatxFlags::INO)
    .union(StatxFlags::SIZE)
    .union(StatxFlags::MTIME)
    .union(StatxFlags::CTIME);
/// Never follows a link, and does not wait for a FIFO that took the file's place meanwhile.
const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// What stat says about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) kind: FileType,
    /// Whether the owner may execute it.
    pub(super) executable: bool,
    /// In bytes.
    pub(super) size: u64,
    pub(super) stamp: Stamp,
    /// Of the file system it lies on.
    pub(super) device: u64,
}

impl Facts {
    /// Of an open file.
    pub(super) fn of(file: impl AsFd) -> Result<Self, Errno> {
        rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, WANTED).map(|stat| Self::from(&stat))
    }

    /// Of a name in an open directory; of a link itself.
    pub(super) fn at(directory: &OwnedFd, name: &CStr) -> Result<Self, Errno> {
        rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, WANTED)
            .map(|stat| Self::from(&stat))
    }
}

impl From<&Statx> for Facts {
    fn from(stat: &Statx) -> Self {
        Self {
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            executable: stat.stx_mode & 0o100 != 0,
            size: stat.stx_size,
            stamp: Stamp {
                inode: stat.stx_ino,
                mtime_ns: nanoseconds(stat.stx_mtime),
                ctime_ns: nanoseconds(stat.stx_ctime),
            },
            device: u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor),
        }
    }
}

/// Since the epoch; times beyond the years 1677 to 2262 become the nearest of those.
fn nanoseconds(time: StatxTimestamp) -> i64 {
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec.into())
}

/// The whole of a file, when it was asked for and the file is small.
type Content = Option<Arc<[u8]>>;

/// A regular file as it was at one moment.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) facts: Facts,
    pub(super) digest: Digest,
    /// Bytes read, all tries counted.
    pub(super) bytes: u64,
    pub(super) content: Content,
    /// Of a large file, when they were asked for.
    pub(super) blocks: Option<Arc<Blocks>>,
}

/// What is wanted of a file besides its digest; asked once its size is known.
pub(super) trait Wanted {
    /// Whether the content of a file of so many bytes, small enough to be handed on, is wanted.
    fn content(&self, size: u64) -> bool;
    /// Whether the blocks of a larger one are.
    fn blocks(&self, size: u64) -> bool;
    /// Blocks that those of the file are likely to be.
    fn base(&self) -> Option<Arc<Blocks>>;
    /// Whether a file is better read when others do not wait for it.
    fn later(&self, facts: Facts) -> bool;
}

/// Why a file could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadError {
    /// It is not a regular file (any more): ask again what it is.
    Replaced,
    /// It changed during every try.
    Unstable,
    /// It is large, and was not read.
    Later,
    /// The system's word. ENOENT when it has vanished.
    Os(Errno),
}

/// Reads a regular file that does not change meanwhile. One that only grows is read up to where it
/// ended: read twice alike, that much of it stood there between the two; its stamp is then unknown.
pub(super) fn read(
    directory: &OwnedFd,
    name: &CStr,
    wanted: &dyn Wanted,
    buffer: &mut [u8],
) -> Result<Read, ReadError> {
    let mut wasted = 0;
    let mut grown: Option<Read> = None;
    for _ in 0..TRIES {
        let file =
            rustix::fs::openat(directory, name, OPEN, Mode::empty()).map_err(|e| match e {
                // ELOOP: a link; ENXIO: a socket, or a device without a driver.
                Errno::LOOP | Errno::NXIO => ReadError::Replaced,
                error => ReadError::Os(error),
            })?;
        let before = Facts::of(&file).map_err(ReadError::Os)?;
        if before.kind != FileType::RegularFile {
            return Err(ReadError::Replaced);
        }
        if wanted.later(before) {
            return Err(ReadError::Later);
        }
        let earlier = grown.take().filter(|earlier| grew(earlier.facts, before));
        let size = earlier.as_ref().map_or(before.size, |earlier| earlier.facts.size);
        let facts = Facts { size, ..before };
        match read_open(&file, facts, wanted, buffer)? {
            Ok(read) => return Ok(Read { bytes: read.bytes + wasted, ..read }),
            Err(vain) => {
                wasted += vain.bytes;
                grown = vain.grown;
            }
        }
        let again = |read: &Read| earlier.is_some_and(|earlier| earlier.digest == read.digest);
        if let Some(read) = grown.take_if(|read| again(read)) {
            let facts = Facts { stamp: Stamp::default(), ..read.facts };
            return Ok(Read { bytes: wasted, facts, ..read });
        }
    }
    Err(ReadError::Unstable)
}

/// Whether a large file may have become longer, and no more.
fn grew(before: Facts, now: Facts) -> bool {
    let same = (before.stamp.inode, before.device) == (now.stamp.inode, now.device);
    same && before.size > MAX_CONTENT_BYTES && now.size > before.size
}

/// What came of reading a file that changed meanwhile.
struct Vain {
    /// Bytes read.
    bytes: u64,
    /// It may only have become longer: what it was before.
    grown: Option<Read>,
}

/// Reads an open file whose facts were `before`; in vain when they are others now, or there was less
/// to read than they promised.
fn read_open(
    file: &OwnedFd,
    before: Facts,
    wanted: &dyn Wanted,
    buffer: &mut [u8],
) -> Result<Result<Read, Vain>, ReadError> {
    let read = if before.size > MAX_CONTENT_BYTES {
        sign(file, before, wanted, buffer)?
    } else {
        let (digest, content, bytes) =
            digest(file, before.size, wanted.content(before.size), buffer)?;
        let read = Read { facts: before, digest, bytes, content, blocks: None };
        if bytes == before.size { Ok(read) } else { Err(bytes) }
    };
    let now = Facts::of(file);
    Ok(match read {
        Ok(read) if now == Ok(before) => Ok(read),
        Ok(read) => {
            let bytes = read.bytes;
            let grown = Some(read).filter(|_| now.is_ok_and(|now| grew(before, now)));
            Err(Vain { bytes, grown })
        }
        Err(bytes) => Err(Vain { bytes, grown: None }),
    })
}

/// Reads a large file; the bytes read in vain when there was less than its facts promise.
fn sign(
    file: &OwnedFd,
    facts: Facts,
    wanted: &dyn Wanted,
    buffer: &mut [u8],
) -> Result<Result<Read, u64>, ReadError> {
    let traced = wanted.blocks(facts.size);
    let base = wanted.base().filter(|_| traced);
    let signed = large::sign(file, facts.size, (traced, base.as_deref()), buffer);
    let large::Signed { bytes, content } = signed.map_err(ReadError::Os)?;
    let Some((digest, blocks)) = content else { return Ok(Err(bytes)) };
    Ok(Ok(Read { facts, digest, bytes, content: None, blocks }))
}

/// Reads up to `size` bytes; fewer only at the end of the file.
fn digest(
    file: &OwnedFd,
    size: u64,
    keep: bool,
    buffer: &mut [u8],
) -> Result<(Digest, Content, u64), ReadError> {
    let mut hasher = blake3::Hasher::new();
    let mut gathered = Vec::new();
    let mut count: u64 = 0;
    while count < size {
        let want = usize::try_from(size - count).unwrap_or(usize::MAX).min(buffer.len());
        let got = match rustix::io::read(file, &mut buffer[..want]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(ReadError::Os(error)),
        };
        hasher.update(&buffer[..got]);
        count += got as u64;
        let whole = count == size && gathered.is_empty();
        if keep && !whole {
            gathered.extend_from_slice(&buffer[..got]);
        } else if keep {
            // Read in one piece: one copy.
            return Ok((hasher.finalize().into(), Some(buffer[..got].into()), count));
        }
    }
    Ok((hasher.finalize().into(), keep.then(|| gathered.into()), count))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    struct All;

    impl Wanted for All {
        fn content(&self, _: u64) -> bool {
            true
        }
        fn blocks(&self, _: u64) -> bool {
            true
        }
        fn base(&self) -> Option<Arc<Blocks>> {
            None
        }
        fn later(&self, _: Facts) -> bool {
            false
        }
    }

    #[test]
    fn i5_a_file_that_changes_while_it_is_read_is_not_taken() {
        type Act = fn(&mut fs::File);
        let acts: [(&str, Act, bool); 4] = [
            ("nothing", |_| (), true),
            ("same length", |file| file.write_all(b"yyyyyy").unwrap(), false),
            ("longer", |file| file.set_len(9).unwrap(), false),
            ("shorter", |file| file.set_len(2).unwrap(), false),
        ];
        let home = tempfile::tempdir().unwrap();
        for (what, act, stable) in acts {
            let path = home.path().join(what);
            fs::write(&path, b"xxxxxx").unwrap();
            let file = OwnedFd::from(fs::File::open(&path).unwrap());
            let before = Facts::of(&file).unwrap();
            act(&mut fs::OpenOptions::new().write(true).open(&path).unwrap());
            let read = read_open(&file, before, &All, &mut [0; 4]).unwrap();
            assert_eq!(read.is_ok(), stable, "{what}");
        }
    }

    /// Grows at each question, as one that is written to all the time.
    struct Growing(std::cell::RefCell<fs::File>, bool);

    impl Wanted for Growing {
        fn content(&self, _: u64) -> bool {
            false
        }
        fn blocks(&self, _: u64) -> bool {
            let mut file = self.0.borrow_mut();
            file.write_all(b"more").unwrap();
            if self.1 {
                std::os::unix::fs::FileExt::write_at(&*file, &Stamped::now(), 5).unwrap();
            }
            false
        }
        fn base(&self) -> Option<Arc<Blocks>> {
            None
        }
        fn later(&self, _: Facts) -> bool {
            false
        }
    }

    /// Bytes that are others each time.
    struct Stamped;

    impl Stamped {
        fn now() -> [u8; 8] {
            static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
            NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_le_bytes()
        }
    }

    #[test]
    fn i5_a_file_that_grows_for_ever_is_taken_up_to_where_it_ended() {
        let home = tempfile::tempdir().unwrap();
        let directory = OwnedFd::from(fs::File::open(home.path()).unwrap());
        let start = vec![7; MAX_CONTENT_BYTES as usize + 1];
        for (rewritten, taken) in [(false, true), (true, false)] {
            fs::write(home.path().join("f"), &start).unwrap();
            let mut file = fs::OpenOptions::new().write(true).open(home.path().join("f")).unwrap();
            std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
            let growing = Growing(std::cell::RefCell::new(file), rewritten);
            let read = read(&directory, c"f", &growing, &mut [0; 4096]);
            assert_eq!(read.is_ok(), taken);
            let Ok(read) = read else { continue };
            // What it was when it was opened, before it grew the first time.
            assert_eq!(read.digest, Digest::of(&start));
            assert_eq!((read.facts.size, read.facts.stamp), (start.len() as u64, Stamp::default()));
        }
    }

    #[test]
    fn content_comes_whole_however_small_the_buffer() {
        let home = tempfile::tempdir().unwrap();
        let directory = OwnedFd::from(fs::File::open(home.path()).unwrap());
        for size in [0, 1, 7, 8, 9, 100] {
            let content: Vec<u8> = (0..size).collect();
            fs::write(home.path().join("f"), &content).unwrap();
            let read = read(&directory, c"f", &All, &mut [0; 8]).unwrap();
            assert_eq!(read.content.as_deref(), Some(&*content));
            assert_eq!((read.digest, read.bytes), (Digest::of(&content), u64::from(size)));
        }
    }

    #[test]
    fn i6_only_regular_files_are_opened() {
        let home = tempfile::tempdir().unwrap();
        let directory = OwnedFd::from(fs::File::open(home.path()).unwrap());
        fs::write(home.path().join("f"), b"secret").unwrap();
        std::os::unix::fs::symlink("f", home.path().join("link")).unwrap();
        rustix::fs::mkfifoat(&directory, "fifo", Mode::RUSR | Mode::WUSR).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(home.path().join("socket")).unwrap();
        for name in [c"link", c"fifo", c"socket"] {
            let error = read(&directory, name, &All, &mut [0; 8]).unwrap_err();
            assert_eq!(error, ReadError::Replaced, "{name:?}");
        }
        let error = read(&directory, c"absent", &All, &mut [0; 8]).unwrap_err();
        assert_eq!(error, ReadError::Os(Errno::NOENT));
    }
}
