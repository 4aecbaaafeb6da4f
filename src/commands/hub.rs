//! Owns `hub`: this program as the far end of a link on this machine.
//!
//! Promises that nothing but the link's own bytes comes out of it: no settings are read, nothing is
//! printed, and what is logged goes to the state's file, when `E2EK_LOG` asks for it. The hub itself
//! is the sidecar's ([`e2ek_sidecar::server`]).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use e2ek_sidecar::server::{CONTENTS_BYTES, Settings, listen};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::HubArgs;
use crate::error::Error;
use crate::log;

/// Serves one link until it ends.
///
/// # Errors
/// When the link is no pipe or socket, or the kernel refuses what a hub needs.
pub(super) fn run(args: &HubArgs) -> Result<u8, Error> {
    let failed = |error: io::Error| Error::hub_not_served(&error);
    // Before anything else is opened: no other descriptor can have the link's number.
    let (input, output) = link(args.link, args.link_out).map_err(failed)?;
    // An app in the same process name space shall not walk in here (invariants, trust).
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| failed(error.into()))?;
    let filter = std::env::var("E2EK_LOG").ok().filter(|filter| !filter.is_empty());
    // Whoever started us reads the link and nothing else: without a log, there is none.
    let _log = filter.as_deref().and_then(|filter| {
        let (state, filter) = (Some(args.state.as_path()), Some(filter));
        log::start(log::Options { state, filter, ..log::Options::default() }).ok()
    });
    let settings = Settings {
        state: args.state.clone(),
        once: true,
        idle: None,
        container: None,
        own: false,
        wrappers: None,
        contents_bytes: CONTENTS_BYTES,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .and_then(|runtime| {
            runtime.block_on(async {
                // As a task: what wakes it stays within the loop, and costs no system call.
                let hub = listen::serve_link(settings, input, output, asked()?);
                tokio::spawn(hub).await.map_err(io::Error::other)?
            })
        })
        .map_err(failed)?;
    Ok(0)
}

/// Both directions of the link, closed in every child.
fn link(number: Option<RawFd>, out: Option<RawFd>) -> io::Result<(OwnedFd, OwnedFd)> {
    let Some(number) = number else {
        let input = fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
        return Ok((input, fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?));
    };
    let input = inherited(number)?;
    fcntl_setfd(&input, FdFlags::CLOEXEC)?;
    let output = match out.filter(|out| *out != number) {
        Some(out) => inherited(out)?,
        None => fcntl_dupfd_cloexec(&input, 3)?,
    };
    fcntl_setfd(&output, FdFlags::CLOEXEC)?;
    Ok((input, output))
}

/// Takes over a pipe or socket that this process was started with. To be called before it opens anything.
fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    let name = std::fs::read_link(format!("/proc/self/fd/{number}"))?;
    let streams = |name: &str| name.starts_with("socket:") || name.starts_with("pipe:");
    if !name.to_str().is_some_and(streams) || number < 3 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no pipe or socket"));
    }
    // SAFETY: the descriptor is open and a stream (checked), and nobody here owns it: this process
    // has opened nothing yet, and the standard streams are excluded.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Ready after SIGTERM. Ctrl-C and a hang-up are the daemon's to understand: they reach the whole
/// group, and the link tells us what is to be done.
fn asked() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => {}
                _ = hang_up.recv() => {}
            }
        }
    })
}
