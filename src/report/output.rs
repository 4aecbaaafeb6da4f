//! Owns the way of bytes to the two outputs: patient writers, and the unfinished lines of apps.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::event::Stream;
use super::text::Text;

/// Longest unfinished line that is kept back, in bytes.
const MAX_TAIL_BYTES: usize = 64 << 10;
/// Most streams with an unfinished line; further ones are passed on as they come.
const MAX_TAILS: usize = 256;

/// Standard output, unbuffered.
pub(super) fn stdout() -> impl Write + Send {
    #[cfg(unix)]
    return Patient(rustix::stdio::stdout());
    #[cfg(not(unix))]
    return io::stdout();
}

/// Standard error, unbuffered.
pub(super) fn stderr() -> impl Write + Send {
    #[cfg(unix)]
    return Patient(rustix::stdio::stderr());
    #[cfg(not(unix))]
    return io::stderr();
}

/// A descriptor that is waited for when it would block: a program that shares our terminal may
/// have made it non-blocking, and std would report that as an error.
#[cfg(unix)]
struct Patient<F>(F);

#[cfg(unix)]
impl<F: std::os::fd::AsFd> Write for Patient<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use rustix::event::{PollFd, PollFlags, poll};
        use rustix::io::Errno;
        loop {
            match rustix::io::write(&self.0, bytes) {
                Err(Errno::AGAIN) => {
                    match poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                done => return Ok(done?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What apps have written since their last newline, by stream. Whole lines only are passed on
/// where lines mean something to the reader.
#[derive(Debug, Default)]
pub(super) struct Tails(BTreeMap<(Text, bool), Vec<u8>>);

impl Tails {
    /// Takes in a chunk; hands back all whole lines, or everything when the line grows too long.
    pub(super) fn add(&mut self, target: &Text, stream: Stream, bytes: &[u8]) -> Option<Vec<u8>> {
        let key = (target.clone(), stream == Stream::Stderr);
        let mut all = self.0.remove(&key).unwrap_or_default();
        all.extend_from_slice(bytes);
        let whole = all.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        let tail = all.split_off(whole);
        if tail.len() > MAX_TAIL_BYTES || self.0.len() >= MAX_TAILS {
            all.extend_from_slice(&tail);
        } else if !tail.is_empty() {
            self.0.insert(key, tail);
        }
        (!all.is_empty()).then_some(all)
    }

    /// The unfinished lines of one target.
    pub(super) fn take_of(&mut self, target: &Text) -> Vec<(Text, Stream, Vec<u8>)> {
        let of_target = self.0.extract_if(.., |(of, _), _| of == target);
        of_target.map(named).collect()
    }

    /// All unfinished lines.
    pub(super) fn take_all(&mut self) -> Vec<(Text, Stream, Vec<u8>)> {
        std::mem::take(&mut self.0).into_iter().map(named).collect()
    }
}

fn named(((target, err), bytes): ((Text, bool), Vec<u8>)) -> (Text, Stream, Vec<u8>) {
    (target, if err { Stream::Stderr } else { Stream::Stdout }, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_pass_and_tails_wait() {
        let mut tails = Tails::default();
        let api = Text::from("api");
        let mut add = |stream, bytes: &[u8]| tails.add(&api, stream, bytes);
        assert_eq!(add(Stream::Stdout, b"one\ntw"), Some(b"one\n".to_vec()));
        assert_eq!(add(Stream::Stderr, b"other"), None);
        assert_eq!(add(Stream::Stdout, b"o\n"), Some(b"two\n".to_vec()));
        let long = vec![b'x'; MAX_TAIL_BYTES + 1];
        assert_eq!(add(Stream::Stdout, &long), Some(long), "i10: a line without end is passed on");
        assert_eq!(tails.take_of(&"worker".into()), []);
        assert_eq!(tails.take_of(&api), [(api, Stream::Stderr, b"other".to_vec())]);
        assert_eq!(tails.take_all(), []);
    }

    #[cfg(unix)]
    #[test]
    fn a_full_pipe_is_waited_for_and_a_closed_one_is_an_error() {
        use std::io::Read;
        let (mut reader, writer) = io::pipe().unwrap();
        // As a program that shares the terminal would leave it.
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let mut writer = Patient(writer);
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
        let expected = sent.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&sent).unwrap();
            writer
        });
        let mut got = vec![0; expected.len()];
        reader.read_exact(&mut got).unwrap();
        assert!(got == expected);
        let mut writer = writing.join().unwrap();
        drop(reader);
        assert_eq!(writer.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
