//! Owns whose command the hub's one command is, and who is told of it.

use std::time::Instant;

use super::Hub;
use super::entry::{Request, same_site};
use super::listen::PeerId;
use crate::wire::{ChildEvent, CommandSpec, FromHub, ToHub};

/// Whose command the command is: there is one at a time.
pub(super) struct Charge {
    /// The session that asked for it.
    pub(super) open: Request,
    /// Who is told.
    pub(super) peer: Option<PeerId>,
    /// The session said good-bye: the link ends with the command.
    pub(super) leaving: bool,
}

impl Hub {
    pub(super) fn run_command(&mut self, id: PeerId, at: usize, spec: CommandSpec) {
        if self.sites[at].open.container.is_some() {
            return self.run_wrapped(id, at, &spec);
        }
        let serving = &self.sites[at];
        if !self.command.is_idle() && !self.runs_for(&serving.open) {
            let error = "this hub runs the command of another session".to_owned();
            self.links.send(id, &FromHub::Child(ChildEvent::Failed { error }));
            return;
        }
        self.charge = Some(Charge { open: serving.open.clone(), peer: Some(id), leaving: false });
        if let Some(event) = self.command.run(spec, &serving.site) {
            self.links.send(id, &event);
        }
    }

    /// Passes on what concerns the command, if it is this session's.
    pub(super) fn for_command(&mut self, at: usize, message: ToHub) {
        if self.sites[at].open.container.is_some() {
            match message {
                ToHub::Act { generation, actions } => self.act_wrapped(at, generation, &actions),
                ToHub::Credit { bytes } => {
                    let credit = &mut self.sites[at].credit;
                    *credit = credit.saturating_add(bytes);
                }
                _ => {}
            }
            return;
        }
        if !self.runs_for(&self.sites[at].open) {
            return;
        }
        match message {
            ToHub::Act { generation, actions } => {
                let held = self.sites[at].site.receiver.held().id();
                self.command.act(generation, actions, held);
            }
            ToHub::Stdin(bytes) => self.command.stdin(bytes.0),
            ToHub::StdinEnd => self.command.stdin_end(),
            ToHub::StopCommand => self.command.stop(),
            ToHub::Credit { bytes } => self.command.credit(bytes),
            _ => {}
        }
    }

    /// Whether the command is, or was, this session's.
    pub(super) fn runs_for(&self, open: &Request) -> bool {
        self.charge.as_ref().is_some_and(|charge| same_site(&charge.open, open))
    }

    pub(super) fn is_leaving(&self, id: PeerId) -> bool {
        self.charge.as_ref().is_some_and(|charge| charge.leaving && charge.peer == Some(id))
    }

    /// The clean end of a session. The link stays until its command is gone, so that the last words
    /// arrive.
    pub(super) fn bye(&mut self, id: PeerId, at: usize) {
        if self.sites[at].open.container.is_some() {
            // What was written is kept for the container's next start, and whoever comes may have it.
            let serving = &mut self.sites[at];
            serving.leases.release(serving.epoch);
            serving.site.tidy();
            self.links.send(id, &FromHub::Bye { reason: String::new() });
            return self.unlink(id);
        }
        let serving = self.sites.remove(at);
        self.idle_since = Instant::now();
        let ours = self.charge.as_mut().filter(|charge| same_site(&charge.open, &serving.open));
        let ours = ours.filter(|_| !self.command.is_idle());
        serving.site.close();
        if let Some(charge) = ours {
            charge.leaving = true;
            self.command.stop();
        } else if !self.settings.once {
            self.links.send(id, &FromHub::Bye { reason: String::new() });
            self.unlink(id);
        }
        if self.settings.once {
            self.ending = true;
        }
    }

    pub(super) fn command_event(&mut self, event: &FromHub) {
        let Some(charge) = &self.charge else { return };
        let (peer, leaving) = (charge.peer, charge.leaving);
        if let Some(peer) = peer {
            self.links.send(peer, event);
        }
        if leaving && self.command.is_idle() && !self.command.has_output() && !self.ending {
            self.charge = None;
            if let Some(peer) = peer {
                self.links.send(peer, &FromHub::Bye { reason: String::new() });
                self.unlink(peer);
            }
        }
    }
}
