//! Owns a process between a daemon and its hub that counts the bytes each way.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Result;

pub(crate) const ROLE: &str = "__relay";

/// Bytes to the hub, bytes from it.
pub(crate) fn counted(file: &Path) -> Result<(u64, u64)> {
    let bytes = fs::read(file)?;
    let number = |place: &[u8]| -> Result<u64> { Ok(u64::from_le_bytes(place.try_into()?)) };
    let (to, from) = bytes.split_at_checked(8).ok_or("the relay counted nothing")?;
    Ok((number(to)?, number(from)?))
}

/// `__relay COUNTS PROG ARGS...`: starts PROG and carries its standard streams. The counts are kept
/// current in the file COUNTS, for whoever started the relay may kill it.
pub(crate) fn carry(words: &[String]) -> Result<()> {
    let [counts, program, arguments @ ..] = words else { return Err("COUNTS PROG ARGS".into()) };
    let counts = File::create(counts)?;
    counts.write_all_at(&[0; 16], 0)?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let to_hub = child.stdin.take().ok_or("no stdin")?;
    let from_hub = child.stdout.take().ok_or("no stdout")?;
    let stdin = File::from(rustix::io::dup(rustix::stdio::stdin())?);
    let stdout = File::from(rustix::io::dup(rustix::stdio::stdout())?);
    let other = counts.try_clone()?;
    // Not joined: it may wait for a daemon that keeps its end open, and ends with this process.
    std::thread::spawn(move || pass(stdin, to_hub, &other, 0));
    pass(from_hub, stdout, &counts, 8)?;
    child.wait()?;
    Ok(())
}

fn pass(mut from: impl Read, mut to: impl Write, counts: &File, place: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0u64;
    loop {
        let bytes = from.read(&mut buffer)?;
        if bytes == 0 {
            return Ok(());
        }
        total += bytes as u64;
        counts.write_all_at(&total.to_le_bytes(), place)?;
        to.write_all(&buffer[..bytes])?;
    }
}
