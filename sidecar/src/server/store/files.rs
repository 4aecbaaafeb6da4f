//! The files of a store: how they are made, found, told apart and cleared away.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::format::{self, Header, LOG_HEAD_BYTES};
use super::replay::Replay;
use super::{Owner, StoreError};
use crate::tree::Snapshot;

pub(super) const MANIFEST: &str = "manifest";
pub(super) const MARKER: &str = "marker";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A manifest with its log, as read.
pub(super) struct Pair {
    pub(super) replay: Replay,
    pub(super) manifest_bytes: u64,
}

/// What lies in a folder.
pub(super) enum Found {
    Nothing,
    Pair(Pair),
    Damage {
        /// Who wrote before, if that can be read.
        owner: Option<Owner>,
    },
}

/// Reads what is there, and changes nothing.
pub(super) fn read(dir: &Path) -> io::Result<Found> {
    let Some(bytes) = read_if_there(&dir.join(MANIFEST))? else { return Ok(Found::Nothing) };
    let Ok(mut replay) = Replay::manifest(&bytes) else { return Ok(Found::Damage { owner: None }) };
    let log = read_if_there(&dir.join(log_name(replay.nonce)))?;
    // The log is made before the manifest that names it: without one, records are missing.
    if log.is_some_and(|log| replay.log(&log).is_ok()) {
        return Ok(Found::Pair(Pair { replay, manifest_bytes: bytes.len() as u64 }));
    }
    Ok(Found::Damage { owner: replay.owner })
}

/// Reads what is there; what is not there or damaged is begun anew. The second value says damage.
pub(super) fn read_or_begin(dir: &Path, boot: [u8; 16]) -> io::Result<(Pair, bool)> {
    let (owner, damaged) = match read(dir)? {
        Found::Pair(pair) => return Ok((pair, false)),
        Found::Nothing => (None, false),
        Found::Damage { owner } => (owner, true),
    };
    if damaged {
        put_aside(dir)?;
    }
    let first = Header { nonce: random()?, generation: 0, owner };
    Ok((begin_anew(dir, first, boot)?, damaged))
}

fn begin_anew(dir: &Path, header: Header, boot: [u8; 16]) -> io::Result<Pair> {
    let (_, manifest_bytes) = write_pair(dir, &header, &Snapshot::empty(), boot, &[])?;
    Ok(Pair { replay: Replay::anew(header, LOG_HEAD_BYTES as u64, boot), manifest_bytes })
}

/// Writes a manifest and the log that it names, beginning with the `carried` records. The rename
/// of the manifest is the one moment at which the new pair counts.
pub(super) fn write_pair(
    dir: &Path,
    header: &Header,
    held: &Snapshot,
    boot: [u8; 16],
    carried: &[u8],
) -> io::Result<(File, u64)> {
    let path = dir.join(log_name(header.nonce));
    let write = || {
        let mut log = append_to(&path)?;
        log.write_all(&[&format::log_head(header.nonce, boot), carried].concat())?;
        let manifest = format::manifest(header, held)?;
        replace(dir, MANIFEST, &manifest)?;
        Ok((log, manifest.len() as u64))
    };
    write().inspect_err(|_: &io::Error| drop(fs::remove_file(&path)))
}

/// Opens the log and cuts off a record that a crash left half written.
pub(super) fn continue_log(dir: &Path, replay: &Replay) -> io::Result<File> {
    let log = append_to(&dir.join(log_name(replay.nonce)))?;
    log.set_len(replay.log_bytes)?;
    Ok(log)
}

/// Keeps unreadable files for whoever wants to know why; one set of them.
fn put_aside(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b"log.") {
            fs::rename(entry.path(), dir.join("damaged.log"))?;
        }
    }
    fs::rename(dir.join(MANIFEST), dir.join("damaged.manifest"))
}

/// Removes what a crash in the middle of a fold left behind.
pub(super) fn sweep(dir: &Path, nonce: u64) -> io::Result<()> {
    let ours = log_name(nonce);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        let old_log = name.starts_with(b"log.") && name != ours.as_bytes();
        if old_log || name.ends_with(b".new") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

pub(super) fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn take_lock(path: &Path) -> Result<File, StoreError> {
    let io = |source| StoreError::Io { path: path.to_owned(), source };
    let file = private().read(true).write(true).create(true).open(path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {
            // The owner of a hub that lives no more is not the one who has it locked.
            file.set_len(0).map_err(io)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let bytes = fs::read(path).map_err(io)?;
            Err(StoreError::Locked { owner: format::take_frame(&mut &*bytes).ok().flatten() })
        }
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

pub(super) fn append_to(path: &Path) -> io::Result<File> {
    private().read(true).append(true).create(true).open(path)
}

/// Writes a file aside and renames it into place.
pub(super) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let write = || {
        private().write(true).create(true).truncate(true).open(&new)?.write_all(bytes)?;
        fs::rename(&new, dir.join(name))
    };
    write().inspect_err(|_| drop(fs::remove_file(&new)))
}

pub(super) fn marker(dir: &Path) -> io::Result<String> {
    let known = read_if_there(&dir.join(MARKER))?.and_then(|bytes| String::from_utf8(bytes).ok());
    let well_made = |m: &String| m.len() == 32 && m.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(marker) = known.filter(well_made) {
        return Ok(marker);
    }
    let marker = format!("{:016x}{:016x}", random()?, random()?);
    replace(dir, MARKER, marker.as_bytes())?;
    Ok(marker)
}

pub(super) fn random() -> io::Result<u64> {
    let mut bytes = [0_u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes))
}

/// Tells one start of the machine from the next (random(4)); zeros where the kernel does not say.
pub(super) fn boot_id() -> [u8; 16] {
    let text = fs::read_to_string(BOOT_ID).unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map_or([0; 16], u128::to_be_bytes)
}

pub(super) fn log_name(nonce: u64) -> String {
    format!("log.{nonce:016x}")
}

/// Writes one value as a file of its own: whole or not at all.
///
/// # Errors
/// When it cannot be written; then the one before is there.
pub(in crate::server) fn write_note<T: serde::Serialize>(
    dir: &Path,
    name: &str,
    value: &T,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    format::push_frame(value, &mut bytes)?;
    replace(dir, name, &bytes)
}

/// Reads what [`write_note`] wrote; `None` when it is not there or damaged.
pub(in crate::server) fn read_note<T: serde::de::DeserializeOwned>(
    dir: &Path,
    name: &str,
) -> Option<T> {
    let bytes = read_if_there(&dir.join(name)).ok().flatten()?;
    format::take_frame(&mut &*bytes).ok().flatten()
}

/// Writes a tree as a file of its own: whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub(in crate::server) fn write_tree(dir: &Path, name: &str, tree: &Snapshot) -> io::Result<()> {
    let mut bytes = Vec::new();
    tree.encode(&mut bytes);
    replace(dir, name, &bytes)
}

/// Reads what [`write_tree`] wrote; `None` when it is not there or damaged.
pub(in crate::server) fn read_tree(dir: &Path, name: &str) -> Option<Snapshot> {
    let bytes = read_if_there(&dir.join(name)).ok().flatten()?;
    Snapshot::decode(&bytes).ok()
}
