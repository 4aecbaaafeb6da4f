//! How a daemon ends: because it was told to, because something failed, or because `sync --once` and
//! `plan` have done what they were asked.

use std::time::{Duration, Instant};

use e2ek_sidecar::wire::ToHub;

use super::link::Outgoing;
use super::target::Target;
use super::{Daemon, KEEP_TRACES, Kind, LAST_WORDS, say};
use crate::engine::session::{Input, TargetState};
use crate::error::Error;
use crate::report::Event;

/// How much longer than the command a hub may take to end.
pub(super) const HUB_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// How it ends.
pub(super) struct Ending {
    pub(super) exit: Result<u8, Error>,
    /// Hubs that have not let go by then are left.
    pub(super) at: Instant,
}

impl Daemon {
    /// `sync --once` and `plan` end by themselves.
    pub(super) fn end_when_done(&mut self) {
        if !self.source.is_quiet() || self.groups.absent() {
            return;
        }
        let status = self.session.status();
        let unknown = self.session.local().is_none();
        if let Some(hold) = status.iter().find_map(|target| target.hold.as_ref())
            && (unknown || self.kind != Kind::Plan)
        {
            let budget = self.config.sync.delete_budget.value.to_string();
            return self.end(Err(say::held(&self.config.workspace.folder, hold, &budget)), "held");
        }
        if unknown {
            return;
        }
        if self.kind == Kind::Plan {
            return self.end_when_planned();
        }
        let refused = |target: &&crate::engine::session::TargetStatus| !target.problems.is_empty();
        let idle = status.iter().all(|target| target.generation >= self.session.generation());
        if !idle {
            return;
        }
        let problems = self.source.problems().len()
            + status.iter().filter(refused).map(|target| target.problems.len()).sum::<usize>();
        if problems > 0 {
            return self.end(Err(Error::left_out(problems)), "done");
        }
        if status.iter().all(|target| target.state == TargetState::Synced) {
            self.end(Ok(0), "done");
        }
    }

    pub(super) fn end_when_planned(&mut self) {
        let plans: Option<Vec<_>> =
            self.targets.keys().map(|&id| Some((id, self.session.plan(id)?))).collect();
        let Some(plans) = plans else { return };
        for (target, ops) in plans {
            for event in self.teller.plan(target, &ops) {
                self.say(event);
            }
        }
        self.end(Ok(0), "done");
    }

    pub(super) fn fail(&mut self, error: Error) {
        self.end(Err(error), "error");
    }

    pub(super) fn end_because(&mut self, why: Error) {
        let reason = why.message.clone();
        self.end(Err(why), &reason);
    }

    /// Begins the end: hubs stop their commands and let go. The second time: at once.
    pub(super) fn end(&mut self, exit: Result<u8, Error>, reason: &str) {
        if self.ending.is_some() {
            self.targets.values_mut().for_each(|target| target.connection = None);
            return;
        }
        if self.kind == Kind::Watch {
            self.say(Event::Stopping { reason: reason.into() });
        }
        let patience = self.targets.values().map(Target::patience).max().unwrap_or(HUB_ENDS_WITHIN);
        self.ending = Some(Ending { exit, at: Instant::now() + patience });
        self.input_to_session(Input::End);
        for &target in self.targets.keys() {
            self.send(target, Outgoing::Message(ToHub::Bye));
        }
    }

    pub(super) async fn finish(mut self) -> Result<u8, Error> {
        self.keep_index();
        if self.kind != Kind::Plan {
            tell_unkept(self.origin.contents().keep_traces());
        }
        self.targets.values_mut().for_each(|target| target.connection = None);
        self.answers.end();
        let exit = self.ending.take().map_or(Ok(0), |ending| ending.exit);
        // Carriers end by themselves, or are killed with their tasks. Nobody else is waited for: what
        // follows a workload goes on as long as it is let.
        let carriers = async { while self.carriers.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORDS, carriers).await.is_err() {
            tracing::warn!(left = self.carriers.len(), "links that do not end are left");
        }
        if self.kind == Kind::Watch {
            let code = exit.as_ref().map_or_else(|error| error.kind.exit_code(), |code| *code);
            self.say(Event::Stopped { exit: code });
        }
        self.say_all();
        drop(self.source);
        if let Some(control) = self.control.take() {
            control.close(LAST_WORDS).await;
        }
        self.desk.close(LAST_WORDS);
        exit
    }

    /// Puts the traces into their file now and then, on a thread: never while something is to be sent.
    pub(super) fn settle_traces(&mut self, now: Instant) {
        if self.traces_at.is_none() && self.kind == Kind::Watch {
            let waits = self.origin.contents().is_to_be_kept();
            self.traces_at = waits.then(|| now + self.traces_wait);
        }
        if self.traces_at.is_some_and(|at| at <= now) {
            self.traces_at = None;
            self.traces_wait = KEEP_TRACES[1];
            let contents = self.origin.contents().clone();
            self.tasks.spawn_blocking(move || tell_unkept(contents.keep_traces()));
        }
    }

    /// Keeps the tree with its stamps, so that the next run reads no file that has not changed. A
    /// file that was never finished is no harm: it does not check out and everything is looked at.
    pub(super) fn keep_index(&mut self) {
        let tree = self.source.tree();
        if self.session.local().is_none() || self.kind == Kind::Plan {
            return;
        }
        self.kept = Some(tree.id());
        let aside = self.index.with_extension("new");
        if !self.source.is_to_be_kept() {
            // What a killed daemon had begun.
            let _ = std::fs::remove_file(&aside);
            return;
        }
        let mut bytes = Vec::new();
        tree.encode(&mut bytes);
        let written =
            std::fs::write(&aside, &bytes).and_then(|()| std::fs::rename(&aside, &self.index));
        match written {
            Ok(()) => self.source.was_kept(),
            Err(error) => {
                let _ = std::fs::remove_file(&aside);
                tracing::warn!(%error, "the index cannot be kept; the next run reads all files");
            }
        }
    }
}

fn tell_unkept(written: std::io::Result<()>) {
    if let Err(error) = written {
        tracing::warn!(%error, "the traces cannot be kept; the next run sends large files whole");
    }
}
