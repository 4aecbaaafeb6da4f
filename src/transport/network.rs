//! Notices that the way to other machines may be another by now: an address, a route or a carrier came
//! or went, or this machine was asleep.
//!
//! Promises that nothing wakes up while nothing changes, and that a storm of changes is told at once
//! and then once a second. Says only that something changed: what that means to a link is the daemon's.
//!
//! Linux tells both by descriptors: a netlink socket in the groups of links, addresses and routes
//! (rtnetlink(7)), and a timer that never fires and is cancelled when the wall clock is set
//! (`TFD_TIMER_CANCEL_ON_SET`, timerfd_create(2)), which waking up does, too. Elsewhere nothing is
//! noticed: links are tried again when their wait is over. The same holds where the kernel refuses.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};

/// Between two tellings.
const APART: Duration = Duration::from_secs(1);

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// A carrier, an address or a route.
    Routes,
    /// The wall clock was set: this machine woke up, or somebody set it.
    Clock,
}

/// What is listened to.
pub struct Network {
    routes: Option<AsyncFd<OwnedFd>>,
    clock: Option<AsyncFd<OwnedFd>>,
    /// Interfaces that can carry, as last told.
    carriers: BTreeMap<i32, bool>,
    /// Noticed and not told yet.
    noticed: Option<Changed>,
    told: Option<Instant>,
}

impl Network {
    /// Listens from now on. Needs a running tokio runtime with I/O and time.
    #[must_use]
    pub fn listen() -> Self {
        Self {
            routes: watched(linux::routes()),
            clock: watched(linux::clock()),
            carriers: BTreeMap::new(),
            noticed: None,
            told: None,
        }
    }

    /// The next change; never where nothing can be noticed.
    ///
    /// # Cancel safety
    /// Nothing is lost when dropped early.
    pub async fn changed(&mut self) -> Changed {
        loop {
            if let Some(noticed) = self.noticed {
                if let Some(told) = self.told {
                    sleep_until(told + APART).await;
                }
                self.noticed = None;
                self.told = Some(Instant::now());
                // What came meanwhile is told by this.
                self.look(Changed::Routes);
                self.look(Changed::Clock);
                self.noticed = None;
                return noticed;
            }
            let ready = tokio::select! {
                () = readable(self.routes.as_ref()) => Changed::Routes,
                () = readable(self.clock.as_ref()) => Changed::Clock,
            };
            self.look(ready);
        }
    }

    /// Reads what a descriptor has to say.
    fn look(&mut self, at: Changed) {
        let from = match at {
            Changed::Routes => &mut self.routes,
            Changed::Clock => &mut self.clock,
        };
        let Some(fd) = from else { return };
        let carriers = &mut self.carriers;
        let read = |fd: &OwnedFd| match at {
            Changed::Routes => linux::read_routes(fd, carriers),
            Changed::Clock => linux::read_clock(fd),
        };
        match fd.try_io(Interest::READABLE, read) {
            Ok(true) => self.noticed = Some(at),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::warn!(%error, ?at, "changes are not noticed any more");
                *from = None;
            }
        }
    }
}

async fn readable(fd: Option<&AsyncFd<OwnedFd>>) {
    match fd {
        // An error is found again by whoever reads.
        Some(fd) => drop(fd.readable().await),
        None => std::future::pending().await,
    }
}

fn watched(fd: io::Result<OwnedFd>) -> Option<AsyncFd<OwnedFd>> {
    let watched = fd.and_then(|fd| {
        // SAFETY: the descriptor is owned by what registers it, and closed with it.
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
    });
    match watched {
        Ok(watched) => Some(watched),
        Err(error) => {
            tracing::debug!(%error, "changes of the network are not noticed");
            None
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{BTreeMap, OwnedFd, io};
    use rustix::io::Errno;
    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };

    /// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, and the same two of IPv6
    /// (linux/rtnetlink.h).
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
    /// A message's header (`struct nlmsghdr`).
    const HEADER_BYTES: usize = 16;
    const NEW_LINK: u16 = 16;
    const DEL_LINK: u16 = 17;
    /// From `RTM_NEWADDR` to `RTM_DELROUTE`: addresses and routes.
    const OF_ADDRESSES_AND_ROUTES: [u16; 4] = [20, 21, 24, 25];
    /// `IFF_RUNNING`: it is up and has a carrier.
    const RUNNING: u32 = 0x40;
    /// Read at once; the kernel's own notices are far smaller.
    const READ_BYTES: usize = 16 << 10;
    /// Later than any wall clock that a timer takes.
    const NEVER_SECONDS: i64 = 1 << 40;

    pub(super) fn routes() -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(socket)
    }

    /// Whether something of what is waiting matters.
    pub(super) fn read_routes(
        fd: &OwnedFd,
        carriers: &mut BTreeMap<i32, bool>,
    ) -> io::Result<bool> {
        let mut matters = false;
        let mut buffer = [0; READ_BYTES];
        loop {
            match recv(fd, &mut buffer, RecvFlags::empty()) {
                Ok((_, len)) => {
                    matters |= any(&buffer[..len.min(READ_BYTES)], carriers);
                }
                // More came than the socket holds.
                Err(Errno::NOBUFS) => matters = true,
                Err(Errno::AGAIN) if matters => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether a datagram has a message that matters.
    pub(super) fn any(mut datagram: &[u8], carriers: &mut BTreeMap<i32, bool>) -> bool {
        let mut matters = false;
        while let Some((header, _)) = datagram.split_at_checked(HEADER_BYTES) {
            let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let Some(body) = datagram.get(HEADER_BYTES..len) else { return matters };
            matters |= OF_ADDRESSES_AND_ROUTES.contains(&kind) || is_carrier(kind, body, carriers);
            // Each begins at a multiple of four.
            datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        matters
    }

    /// Links are told of for many reasons, by some drivers all the time: what matters is whether one
    /// can carry.
    fn is_carrier(kind: u16, body: &[u8], carriers: &mut BTreeMap<i32, bool>) -> bool {
        // `struct ifinfomsg`: family and type, then index and flags.
        let word = |at: usize| body.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let (Some(index), Some(flags)) = (word(4), word(8)) else { return false };
        let index = index.cast_signed();
        match kind {
            NEW_LINK => {
                let runs = flags & RUNNING != 0;
                carriers.insert(index, runs).is_none_or(|before| before != runs)
            }
            DEL_LINK => carriers.remove(&index).unwrap_or(true),
            _ => false,
        }
    }

    pub(super) fn clock() -> io::Result<OwnedFd> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        arm(&timer)?;
        Ok(timer)
    }

    fn arm(timer: &OwnedFd) -> io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let never = Timespec { tv_sec: NEVER_SECONDS, tv_nsec: 0 };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(timer, flags, &Itimerspec { it_interval: zero, it_value: never })?;
        Ok(())
    }

    /// Whether the clock was set.
    pub(super) fn read_clock(fd: &OwnedFd) -> io::Result<bool> {
        match rustix::io::read(fd, &mut [0; 8]) {
            Err(Errno::CANCELED) => arm(fd).map(|()| true),
            // It cannot fire.
            Ok(_) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    //! Nothing is noticed here.
    use super::{BTreeMap, OwnedFd, io};

    pub(super) fn routes() -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn clock() -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn read_routes(_: &OwnedFd, _: &mut BTreeMap<i32, bool>) -> io::Result<bool> {
        Ok(false)
    }

    pub(super) fn read_clock(_: &OwnedFd) -> io::Result<bool> {
        Ok(false)
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests;
