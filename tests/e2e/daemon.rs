//! A running `watch`: its lines as they come, and its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use crate::place::{PATIENCE, Place, Said, everything_below, until};
use crate::processes;

pub(crate) struct Daemon<'a> {
    pub(crate) place: &'a Place,
    child: Child,
    lines: Receiver<String>,
    /// Of those that a test has waited past.
    pub(crate) seen: Vec<String>,
    errors: Arc<Mutex<String>>,
}

impl<'a> Daemon<'a> {
    pub(crate) fn start(place: &'a Place, mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut errors = child.stderr.take().unwrap();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let said = Arc::new(Mutex::new(String::new()));
        let said_here = said.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = errors.read(&mut buffer) {
                said_here.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..len]));
            }
        });
        Self { place, child, lines, seen: Vec::new(), errors: said }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The hub's process: the embedded one, the sidecar or the bridge to it.
    pub(crate) fn hub(&self) -> u32 {
        let mut found = None;
        until("there is a hub", || {
            found = processes::children(self.pid()).first().copied();
            found.is_some()
        });
        found.unwrap()
    }

    /// The next line that has all of these, in any order.
    #[track_caller]
    pub(crate) fn line(&mut self, parts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if parts.iter().all(|part| line.contains(part)) {
                        return line;
                    }
                }
                Err(why) => {
                    let how = match why {
                        RecvTimeoutError::Timeout => "in time",
                        RecvTimeoutError::Disconnected => "before its end",
                    };
                    let seen = self.seen.join("\n");
                    let errors = self.errors.lock().unwrap();
                    panic!("{parts:?} was not said {how}; said was:\n{seen}\n{errors}");
                }
            }
        }
    }

    /// The next of our own lines: `[e2ek] ` and these.
    #[track_caller]
    pub(crate) fn event(&mut self, words: &str) -> String {
        self.line(&[&format!("[e2ek] {words}")])
    }

    /// The first state is at the target.
    #[track_caller]
    pub(crate) fn synced(self) -> Self {
        let said = self.place.control_retried(&["wait", "--synced", "--timeout", "100s"]);
        assert_eq!(said.code, Some(0), "{said:?}\n{:#}", self.status());
        self
    }

    #[track_caller]
    pub(crate) fn flush(&self) {
        self.place.control(&["flush", "--timeout", "100s"]).ends_with(0);
    }

    /// The number of the generation that the next save makes. What was said of others before may still
    /// be on its way to us.
    #[track_caller]
    pub(crate) fn next_generation(&self) -> u64 {
        self.flush();
        self.status()["gen"]["local"].as_u64().unwrap() + 1
    }

    pub(crate) fn connection(&self) -> Connection {
        let all = everything_below(&self.place.state).into_iter();
        let mut sockets = all.filter(|path| path.extension().is_some_and(|end| end == "sock"));
        let socket = sockets.next().expect("a daemon listens");
        Connection(BufReader::new(UnixStream::connect(socket).unwrap()))
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let said = self.place.control(&["status", "--json"]).ends_with(0);
        serde_json::from_str(&said.out).unwrap()
    }

    /// Lines that came and were not waited for.
    pub(crate) fn rest(&mut self) -> String {
        self.seen.extend(self.lines.try_iter());
        self.seen.join("\n")
    }

    pub(crate) fn input(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn end_input(&mut self) {
        self.child.stdin = None;
    }

    /// Nobody reads what it says any longer.
    pub(crate) fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// `stop`; then nothing may be left.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.place.control(&["stop"]).ends_with(0);
        assert_eq!(self.wait(), Some(0), "{}", self.rest());
        self.place.assert_clean();
    }

    /// Its exit code once it has ended; minus the signal's number.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        let mut status = None;
        until("the daemon ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        status.code().or_else(|| status.signal().map(|signal| -signal))
    }

    /// kill -9; returns once it is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to a daemon that is kept, so that a question is there within microseconds.
pub(crate) struct Connection(BufReader<UnixStream>);

impl Connection {
    /// As [`Daemon::flush`].
    #[track_caller]
    pub(crate) fn flush(&mut self) {
        let question = b"{\"v\":1,\"do\":\"flush\",\"timeout_ms\":100000}\n";
        self.0.get_mut().write_all(question).unwrap();
        let mut answer = String::new();
        self.0.read_line(&mut answer).unwrap();
        assert!(answer.contains("\"reply\":\"done\""), "{answer}");
    }
}

impl Place {
    /// As [`Place::control`], but waits for a daemon that is only starting.
    pub(crate) fn control_retried(&self, words: &[&str]) -> Said {
        let mut said = None;
        until("the daemon answers", || {
            said = Some(self.control(words));
            said.as_ref().is_some_and(|said| said.code != Some(7))
        });
        said.unwrap()
    }
}
