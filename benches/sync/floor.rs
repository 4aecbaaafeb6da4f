//! Owns the floor: two bare processes and a pipe, which do the least that a save must cost.
//!
//! The reader has an inotify watch on each directory of the source; on a finished write it reads
//! the file and sends path and bytes. The writer writes aside, renames, and acknowledges. No hash,
//! no check, no memory of anything: nothing that is safe to use.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::fs::inotify::{Reader, WatchFlags};

use crate::events::Watches;
use crate::tree::Tree;
use crate::{Result, clock};

pub(crate) const READER: &str = "__floor-reader";
pub(crate) const WRITER: &str = "__floor-writer";

/// The running pair; ended when dropped.
pub(crate) struct Floor {
    reader: Child,
    writer: Child,
}

/// Starts both ends for trees that are equal, and waits until the reader watches. What the reader
/// says on the returned pipe: one byte an acknowledged save.
pub(crate) fn start(source: &Tree, target: &Path, stage: &Path) -> Result<(Floor, ChildStderr)> {
    fs::create_dir(stage)?;
    let program = std::env::current_exe()?;
    let mut writer = Command::new(&program)
        .arg(WRITER)
        .args([target, stage])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let to_writer = writer.stdin.take().ok_or("the writer has no stdin")?;
    let from_writer = writer.stdout.take().ok_or("the writer has no stdout")?;
    let mut reader = Command::new(program)
        .arg(READER)
        .arg(&source.root)
        .stdin(from_writer)
        .stdout(to_writer)
        .stderr(Stdio::piped())
        .spawn()?;
    let mut said = reader.stderr.take().ok_or("the reader has no stderr")?;
    let floor = Floor { reader, writer };
    said.read_exact(&mut [0]).map_err(|error| format!("the floor did not start: {error}"))?;
    Ok((floor, said))
}

impl Drop for Floor {
    fn drop(&mut self) {
        // The writer ends when its pipe does.
        let _ = self.reader.kill();
        let _ = self.reader.wait();
        let _ = self.writer.wait();
    }
}

/// The moments of the bytes that the reader says, until it ends.
pub(crate) fn acknowledged(mut said: ChildStderr, mut each: impl FnMut(u64)) {
    while let Ok(1) = said.read(&mut [0]) {
        each(clock::now());
    }
}

/// The process that watches, reads and sends.
pub(crate) fn reader(words: &[String]) -> Result<()> {
    let [root] = words else { return Err("one argument: the source".into()) };
    let root = PathBuf::from(root);
    let watches = Watches::new(&root, &directories(&root)?, WatchFlags::CLOSE_WRITE)?;
    let mut acknowledged = File::from(rustix::io::dup(rustix::stdio::stdin())?);
    let mut out = File::from(rustix::io::dup(rustix::stdio::stdout())?);
    let mut said = File::from(rustix::io::dup(rustix::stdio::stderr())?);
    let mut buffer = [MaybeUninit::uninit(); 16 << 10];
    let mut events = Reader::new(watches.inotify.as_fd(), &mut buffer);
    let mut frame = Vec::new();
    said.write_all(&[0])?;
    loop {
        let event = events.next()?;
        let Some(path) = watches.file(&event) else { continue };
        let name = path.as_os_str().as_bytes();
        frame.clear();
        frame.extend_from_slice(&u32::try_from(name.len())?.to_le_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(name);
        let bytes = File::open(root.join(&path))?.read_to_end(&mut frame)?;
        frame[4..8].copy_from_slice(&u32::try_from(bytes)?.to_le_bytes());
        out.write_all(&frame)?;
        acknowledged.read_exact(&mut [0])?;
        said.write_all(&[0])?;
    }
}

/// The process that writes aside, renames and acknowledges.
pub(crate) fn writer(words: &[String]) -> Result<()> {
    let [target, stage] = words else { return Err("two arguments: target, staging".into()) };
    let (target, staged) = (PathBuf::from(target), PathBuf::from(stage).join("file"));
    let mut input = File::from(rustix::io::dup(rustix::stdio::stdin())?);
    let mut acknowledge = File::from(rustix::io::dup(rustix::stdio::stdout())?);
    let mut body = Vec::new();
    loop {
        let mut head = [0; 8];
        match input.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let [a, b, c, d, rest @ ..] = head;
        let name_bytes = usize::try_from(u32::from_le_bytes([a, b, c, d]))?;
        let file_bytes = usize::try_from(u32::from_le_bytes(rest))?;
        body.resize(name_bytes + file_bytes, 0);
        input.read_exact(&mut body)?;
        let (name, content) = body.split_at(name_bytes);
        File::create_new(&staged)?.write_all(content)?;
        fs::rename(&staged, target.join(std::ffi::OsStr::from_bytes(name)))?;
        acknowledge.write_all(&[0])?;
    }
}

fn directories(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        for entry in fs::read_dir(root.join(&directory))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(directory.join(entry.file_name()));
            }
        }
        next += 1;
    }
    Ok(found)
}
