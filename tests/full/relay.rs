//! A carrier between a daemon and its hubs that does harm to one link.
//!
//! The daemon reaches it by `e2ek-sidecar connect --carry`; each link gets a hub of its own, as with
//! `e2ek-sidecar stdio`.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::place::{Place, sidecar};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToHub,
    FromHub,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// Both ways end after so many frames of one; the Hello is the first.
    CutAfterFrames(u64),
    /// Both ways end after so many bytes of one.
    CutAfterBytes(u64),
    /// One bit of that byte is turned.
    Flip(u64),
    /// From that byte on nothing comes through, and nothing is closed.
    Stall(u64),
}

/// What went over the links so far: of the first one, what it would take to do harm anywhere.
#[derive(Default)]
struct Seen {
    harmed: bool,
    /// Bytes and frames of the first link, to the hub and from it.
    first: [(u64, u64); 2],
    /// What came through to the hub, link by link.
    to_hub: Vec<Vec<u8>>,
}

pub(crate) struct Relay {
    socket: PathBuf,
    harm: Arc<Mutex<Option<(Way, Harm)>>>,
    /// Of one arming: a link of the one before may still be at its last bytes.
    seen: Arc<Mutex<Arc<Mutex<Seen>>>>,
}

impl Relay {
    pub(crate) fn new(place: &Place) -> Self {
        let socket = place.top.join("hub.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let relay = Self { socket, harm: Arc::default(), seen: Arc::default() };
        let (harm, seen, far) = (relay.harm.clone(), relay.seen.clone(), place.far.clone());
        thread::spawn(move || {
            for link in listener.incoming().map_while(Result::ok) {
                serve(link, &harm, &seen.lock().unwrap().clone(), &far);
            }
        });
        relay
    }

    /// The next link gets this harm, and those after it none.
    pub(crate) fn arm(&self, harm: Option<(Way, Harm)>) {
        *self.harm.lock().unwrap() = harm;
        *self.seen.lock().unwrap() = Arc::default();
    }

    pub(crate) fn transport(&self) -> String {
        format!("{} connect --carry --socket {}", sidecar().display(), self.socket.display())
    }

    pub(crate) fn has_harmed(&self) -> bool {
        self.seen.lock().unwrap().lock().unwrap().harmed
    }

    /// Bytes and frames that the first link carried one way.
    pub(crate) fn carried(&self, way: Way) -> (u64, u64) {
        self.seen.lock().unwrap().lock().unwrap().first[way as usize]
    }

    /// What came through to the hub, link by link.
    pub(crate) fn to_hub(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().lock().unwrap().to_hub.clone()
    }
}

fn serve(link: UnixStream, harm: &Mutex<Option<(Way, Harm)>>, seen: &Arc<Mutex<Seen>>, far: &Path) {
    let (hub, theirs) = UnixStream::pair().unwrap();
    let stream = || Stdio::from(OwnedFd::from(theirs.try_clone().unwrap()));
    let mut command = Command::new(sidecar());
    command.args(["stdio", "--state"]).arg(far).stdin(stream()).stdout(stream());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    drop((command, theirs));
    thread::spawn(move || child.wait());
    let harm = harm.lock().unwrap().take();
    let link_number = {
        let mut seen = seen.lock().unwrap();
        seen.to_hub.push(Vec::new());
        seen.to_hub.len() - 1
    };
    for (way, from, to) in [(Way::ToHub, &link, &hub), (Way::FromHub, &hub, &link)] {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let harm = harm.filter(|(where_, _)| *where_ == way).map(|(_, harm)| harm);
        let pass = Pass { way, harm, seen: seen.clone(), link_number, meter: Meter::default() };
        thread::spawn(move || pass.run(from, to));
    }
}

struct Pass {
    way: Way,
    harm: Option<Harm>,
    seen: Arc<Mutex<Seen>>,
    /// 0 for the first one.
    link_number: usize,
    meter: Meter,
}

impl Pass {
    fn run(mut self, mut from: UnixStream, mut to: UnixStream) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            let bytes = &mut buffer[..len];
            let good = self.damage(bytes);
            let carried = (self.meter.bytes, self.meter.frames);
            {
                let mut seen = self.seen.lock().unwrap();
                if self.link_number == 0 {
                    seen.first[self.way as usize] = carried;
                }
                if self.way == Way::ToHub {
                    seen.to_hub[self.link_number].extend_from_slice(&buffer[..good]);
                }
            }
            let stalled = good < len && matches!(self.harm, Some(Harm::Stall(_)));
            if to.write_all(&buffer[..good]).is_err() {
                break;
            }
            if stalled {
                // Whoever waits has to give up by itself.
                while matches!(from.read(&mut buffer), Ok(1..)) {}
                break;
            }
            if good < len {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Does what is to be done to these bytes; how many of them may pass.
    fn damage(&mut self, bytes: &mut [u8]) -> usize {
        for (at, byte) in bytes.iter_mut().enumerate() {
            let (number, frames) = (self.meter.bytes, self.meter.frames);
            let now = match self.harm {
                Some(Harm::CutAfterFrames(after)) => frames == after,
                Some(Harm::CutAfterBytes(after) | Harm::Stall(after)) => number == after,
                Some(Harm::Flip(which)) => number == which,
                None => false,
            };
            self.meter.take(*byte);
            if now {
                self.seen.lock().unwrap().harmed = true;
                match self.harm {
                    Some(Harm::Flip(_)) => *byte ^= 1 << (number % 8),
                    _ => return at,
                }
            }
        }
        bytes.len()
    }
}

/// Counts bytes and frames, a byte at a time.
#[derive(Default)]
struct Meter {
    bytes: u64,
    frames: u64,
    /// Of the frame that is coming: its head, then what is left of it.
    head: Vec<u8>,
    left: usize,
}

impl Meter {
    fn take(&mut self, byte: u8) {
        self.bytes += 1;
        if self.left > 0 {
            self.left -= 1;
            self.frames += u64::from(self.left == 0);
            return;
        }
        self.head.push(byte);
        let rest = match (self.frames, self.head.as_slice()) {
            // The Hello: magic, then the length of the rest in two bytes.
            (0, head) if head.len() == 10 => usize::from(u16::from_le_bytes([head[8], head[9]])),
            (0, _) => return,
            // A length in groups of seven bits; four bytes of checksum at the end.
            (_, head) if byte < 0x80 => {
                let groups = head.iter().enumerate();
                groups.map(|(at, byte)| usize::from(byte & 0x7f) << (7 * at)).sum::<usize>() + 4
            }
            _ => return,
        };
        self.head.clear();
        self.left = rest;
    }
}
