//! What the control socket asks of the daemon, each request answered or handed to who answers it.

use std::time::Instant;

use super::Daemon;
use super::target::Target;
use crate::control::{Call, ControlServer, Reply, Request};
use crate::engine::session::{Input, TargetId};
use crate::error::Error;
use crate::report::Text;

impl Daemon {
    pub(super) fn call(&mut self, call: Call) {
        let now = Instant::now();
        match &call.request {
            Request::Status {} => {
                let status = Box::new(self.status());
                call.answer(Reply::Status { status });
            }
            Request::Flush { .. } if self.session.is_paused() => {
                call.answer(Reply::Failed((&Error::paused()).into()));
            }
            Request::Flush { .. } => {
                self.input_to_session(Input::Retry);
                let points = self.source.points();
                self.answers.flush(now, call, points);
            }
            Request::Wait { .. } => self.answers.wait(now, call, self.ready_check()),
            Request::Restart { .. } => self.restart(call),
            Request::Pause {} => self.command(call, Input::Pause),
            Request::Resume { accept } => {
                let accept = *accept;
                self.command(call, Input::Resume { accept });
            }
            Request::Reset {} => {
                self.source.everything(now, true);
                self.command(call, Input::Retry);
            }
            Request::Stop { target: Some(_) } => self.stop_target(call),
            Request::Stop { target: None } => {
                call.answer(Reply::Done { generation: None });
                self.end(Ok(0), "stop");
            }
            Request::Join(_) => self.join(call),
            Request::Attach {} => call.answer(Reply::Attached {}),
        }
    }

    /// Restarts the command of the named target, of each pod of the named workload, or every one.
    fn restart(&mut self, call: Call) {
        let Request::Restart { target } = &call.request else { return };
        let meant = match target {
            None => Ok(self.targets.keys().copied().collect()),
            Some(name) => self.all_named(name),
        };
        match meant.and_then(|ids| self.restartable(ids)) {
            Err(error) => call.answer(Reply::Failed((&error).into())),
            Ok(ids) => {
                ids.into_iter().for_each(|id| self.input_to_session(Input::Restart(id)));
                self.done(call);
            }
        }
    }

    /// The target of that name, or those of the workload of that name.
    fn all_named(&self, name: &str) -> Result<Vec<TargetId>, Error> {
        match self.groups.named(&Text::name(name)) {
            Some((_, group)) if group.targets.is_empty() => Err(Error::no_pod(name)),
            Some((_, group)) => Ok(group.targets.values().map(|member| member.target).collect()),
            None => Ok(vec![self.named(name)?]),
        }
    }

    /// Those of them that have a command which can be restarted.
    fn restartable(&self, ids: Vec<TargetId>) -> Result<Vec<TargetId>, Error> {
        let (runs, others): (Vec<_>, Vec<_>) =
            ids.into_iter().partition(|id| self.targets.get(id).is_some_and(Target::runs_command));
        let pod = others.iter().filter_map(|id| self.targets.get(id)).find(|t| t.group.is_some());
        match (runs.is_empty(), pod) {
            (false, _) => Ok(runs),
            (true, Some(pod)) => Err(Error::not_wrapped(pod.name.as_str())),
            (true, None) => Err(Error::no_command()),
        }
    }

    /// The target of that name.
    pub(super) fn named(&self, name: &str) -> Result<TargetId, Error> {
        let there = || self.targets.iter().filter(|(_, target)| target.leaving.is_none());
        let wanted = Text::name(name);
        let found = there().find(|(_, target)| target.name == wanted).map(|(&id, _)| id);
        found.ok_or_else(|| {
            let names = there().map(|(_, target)| target.name.to_string());
            Error::not_in_session(name, &names.collect::<Vec<_>>())
        })
    }

    fn command(&mut self, call: Call, input: Input) {
        self.input_to_session(input);
        self.done(call);
    }

    fn done(&self, call: Call) {
        call.answer(Reply::Done { generation: Some(self.session.generation()) });
    }
}

/// The next request; never without a socket. Cancel safe.
pub(super) async fn next_call(control: &mut Option<ControlServer>) -> Call {
    match control {
        Some(control) => control.next_call().await,
        None => std::future::pending().await,
    }
}
