//! A running `watch`: its lines as they come, and its end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use crate::rig::{PATIENCE, Rig, until};

pub(crate) struct Watch<'r> {
    rig: &'r Rig,
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    errors: Arc<Mutex<String>>,
}

impl Rig {
    /// `watch SOURCE TARGET`.
    pub(crate) fn watch(&self, target: &str, more: &[&str]) -> Watch<'_> {
        self.start(self.syncing(&["watch"], target, more))
    }

    pub(crate) fn start(&self, mut command: Command) -> Watch<'_> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut stderr = child.stderr.take().unwrap();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let errors = Arc::new(Mutex::new(String::new()));
        let errors_there = errors.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = stderr.read(&mut buffer) {
                errors_there.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..len]));
            }
        });
        Watch { rig: self, child, lines, seen: Vec::new(), errors }
    }
}

impl Watch<'_> {
    /// The next line that has all of these.
    #[track_caller]
    pub(crate) fn line(&mut self, parts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                let (seen, errors) = (self.seen.join("\n"), self.errors.lock().unwrap());
                panic!("{parts:?} was not said; said was:\n{seen}\n{errors}");
            };
            self.seen.push(line.clone());
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
        }
    }

    /// Everything that was saved is at every target that there is.
    #[track_caller]
    pub(crate) fn flush(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.rig.control(&["flush", "--timeout", "120s"]);
            // 7: it is only starting.
            if said.code != Some(7) || Instant::now() > deadline {
                said.ends_with(0);
                return;
            }
        }
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let said = self.rig.control(&["status", "--json"]).ends_with(0);
        serde_json::from_str(&said.out).unwrap()
    }

    /// What was said so far.
    pub(crate) fn said(&mut self) -> String {
        self.seen.extend(self.lines.try_iter());
        self.seen.join("\n")
    }

    /// `stop`: it ends well.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.rig.control(&["stop"]).ends_with(0);
        assert_eq!(self.wait(), Some(0), "{}", self.said());
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }

    /// It ends with this code, and says this.
    #[track_caller]
    pub(crate) fn fails(&mut self, code: i32, words: &str) {
        assert_eq!(self.wait(), Some(code), "{words}");
        // What it said last is still being read.
        until(words, || {
            let said = self.said() + &self.errors.lock().unwrap();
            said.contains(words)
        });
    }

    /// Its exit code, once it has ended.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        until("watch ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
