//! Owns what comes of a message: who sends it has the session that it is for, or none.

use std::time::Instant;

use super::apply::Brought;
use super::entry::Request;
use super::link::Asked;
use super::listen::PeerId;
use super::site::Site;
use super::{Hub, ahead, length};
use crate::path::SyncPath;
use crate::tree::TreeId;
use crate::wire::{self, Container, FromHub, Refusal, ToHub, WireError};

impl Hub {
    pub(super) async fn message(
        &mut self,
        id: PeerId,
        message: ToHub,
        len: usize,
    ) -> Result<(), WireError> {
        let message = match message {
            ToHub::Open(open) => {
                let name = self.settings.container.clone().filter(|_| open.process.is_none());
                let container = name.map(|name| Container { name, id: None });
                return self.open(id, Request::new(open, container)).await;
            }
            ToHub::OpenIn { open, container } => {
                return self.open(id, Request::new(open, Some(container))).await;
            }
            message => message,
        };
        let Some(at) = self.sites.iter().position(|serving| serving.peer == Some(id)) else {
            return self.without_session(id, message);
        };
        let serving = &mut self.sites[at];
        if !serving.leases.touch(Instant::now(), serving.epoch) {
            self.links.send(id, &FromHub::Refused(Refusal::Superseded));
            self.unlink(id);
            return Ok(());
        }
        if serving.site.is_dry() && is_change(&message) {
            return Err(WireError::Order("a change in a session that only looks"));
        }
        match message {
            ToHub::Ops { .. }
            | ToHub::PackedOps { .. }
            | ToHub::Data { .. }
            | ToHub::Withdraw { .. } => {
                self.links.consume(id, len);
                self.content(id, at, message).await
            }
            ToHub::Ahead { .. } | ToHub::AheadData { .. } | ToHub::AheadEnd { .. } => {
                self.come_ahead(id, at, message, len)
            }
            ToHub::Commit { generation, target } => self.commit(id, at, generation, target).await,
            ToHub::Describe { paths } => self.describe(id, at, &paths),
            ToHub::ListForeign => {
                let answers = self.at_site(at, true, |site| site.foreign()).await;
                self.links.ask(id, answers.into_iter().map(Asked::Message))
            }
            ToHub::RemoveForeign { paths } => {
                let work = move |site: &mut Site| site.remove_foreign(&paths);
                for answer in self.at_site(at, true, work).await {
                    self.links.send(id, &answer);
                }
                Ok(())
            }
            ToHub::Run(spec) => {
                self.run_command(id, at, spec);
                Ok(())
            }
            ToHub::Bye => {
                self.bye(id, at);
                Ok(())
            }
            message => {
                self.for_command(at, message);
                Ok(())
            }
        }
    }

    /// A message on a link that has no session, or none any more.
    fn without_session(&mut self, id: PeerId, message: ToHub) -> Result<(), WireError> {
        match message {
            ToHub::Ping => Ok(()),
            // Refused, or never opened.
            ToHub::Bye if !self.is_leaving(id) => {
                self.links.send(id, &FromHub::Bye { reason: String::new() });
                self.unlink(id);
                Ok(())
            }
            ToHub::Bye => Ok(()),
            // The command of a session that said good-bye still has the last word.
            ToHub::Credit { bytes } if self.is_leaving(id) => {
                self.command.credit(bytes);
                Ok(())
            }
            ToHub::StopCommand if self.is_leaving(id) => {
                self.command.stop();
                Ok(())
            }
            ToHub::Stdin(_) | ToHub::StdinEnd | ToHub::Act { .. } if self.is_leaving(id) => Ok(()),
            _ => Err(WireError::Order("a message before the session is open")),
        }
    }

    /// What a generation is made of.
    async fn content(&mut self, id: PeerId, at: usize, message: ToHub) -> Result<(), WireError> {
        let site = &mut self.sites[at].site;
        match message {
            ToHub::Ops { generation, ops, last } => {
                let ops = Brought { generation, base: None, ops, last };
                self.ops(id, at, ops).await?;
            }
            ToHub::PackedOps { generation, base, encoding, body, digests, last } => {
                let ops = wire::unpack_ops(encoding, body.0, &digests.0)?;
                let ops = Brought { generation, base: Some(base), ops, last };
                self.ops(id, at, ops).await?;
            }
            ToHub::Data { encoding, body } => {
                let (body, pieces) = wire::unpack(encoding, body.0)?;
                site.take_data(body, pieces)?;
            }
            ToHub::Withdraw { index } => site.receiver.withdraw(index)?,
            _ => {}
        }
        Ok(())
    }

    /// Content ahead of its generation.
    fn come_ahead(
        &mut self,
        id: PeerId,
        at: usize,
        message: ToHub,
        len: usize,
    ) -> Result<(), WireError> {
        let site = &mut self.sites[at].site;
        let answer = match message {
            ToHub::Ahead { number, op } => site.begin_ahead(number, &op, &self.ahead.0)?,
            ToHub::AheadData { number, encoding, body } => {
                site.ahead.data(number, encoding, body, len)?
            }
            ToHub::AheadEnd { number } => site.ahead.end(number)?,
            _ => None,
        };
        answer.iter().for_each(|answer| self.links.send(id, answer));
        Ok(())
    }

    /// A thread that makes content ahead tells of it.
    pub(super) fn ahead_done(&mut self, worker: u64, done: ahead::Done) {
        // Of one that was let go nothing is told any more.
        let Some(serving) = self.sites.iter_mut().find(|s| s.site.ahead.is(worker)) else { return };
        let Some(peer) = serving.peer else { return };
        match serving.site.ahead.done(done) {
            Ok(answer) => answer.iter().for_each(|answer| self.links.send(peer, answer)),
            Err(error) => self.refuse(peer, &error),
        }
    }

    async fn ops(&mut self, id: PeerId, at: usize, brought: Brought) -> Result<(), WireError> {
        let before = self.sites[at].site.receiver.ops();
        let is_long = length::is_long(before.iter().chain(&brought.ops));
        let is_long = brought.last && (is_long || self.sites[at].site.ahead.is_long());
        let work = move |site: &mut Site| site.take_ops(brought);
        for answer in self.at_site(at, is_long, work).await? {
            self.links.send(id, &answer);
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        id: PeerId,
        at: usize,
        generation: u64,
        target: TreeId,
    ) -> Result<(), WireError> {
        let is_long = length::is_long(self.sites[at].site.receiver.ops().iter());
        let work = move |site: &mut Site| site.commit(generation, target);
        let applied = self.at_site(at, is_long, work).await?;
        if self.sites[at].site.is_visible() {
            applied.iter().for_each(|answer| self.links.send(id, answer));
            let told = self.sites[at].site.not_replayable();
            told.iter().for_each(|told| self.links.send(id, told));
            return Ok(());
        }
        // Written into a directory or process that is gone: nobody can see it (I2). Nor can the
        // command that runs there go on.
        if self.sites[at].open.container.is_some() {
            self.container_ended(self.sites[at].serial).await;
            return Ok(());
        }
        let serving = self.sites.remove(at);
        if self.runs_for(&serving.open) {
            self.command.stop();
        }
        let reason = "the target was removed or replaced".to_owned();
        self.links.send(id, &FromHub::Bye { reason });
        self.unlink(id);
        Ok(())
    }

    fn describe(&mut self, id: PeerId, at: usize, paths: &[SyncPath]) -> Result<(), WireError> {
        let held = self.sites[at].site.receiver.held();
        let root = [SyncPath::root()];
        let wanted = if paths.is_empty() { &root[..] } else { paths };
        let asked = wanted.iter().map(|path| Asked::Listing {
            path: (!path.is_root()).then(|| path.clone()),
            dir: held.dir(path).cloned(),
            next: 0,
        });
        self.links.ask(id, asked)
    }
}

/// Whether it changes anything at the target.
fn is_change(message: &ToHub) -> bool {
    matches!(
        message,
        ToHub::Ops { .. }
            | ToHub::PackedOps { .. }
            | ToHub::Data { .. }
            | ToHub::Withdraw { .. }
            | ToHub::Commit { .. }
            | ToHub::RemoveForeign { .. }
            | ToHub::Ahead { .. }
            | ToHub::Run(_)
    )
}
