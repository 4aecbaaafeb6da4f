//! What the control socket asks of the daemon, each request answered or handed to who answers it.

use std::time::Instant;

use super::Daemon;
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

    /// Restarts the command of the named target, or every one.
    fn restart(&mut self, call: Call) {
        let Request::Restart { target } = &call.request else { return };
        let named = target.as_ref().map(|name| self.named(name)).transpose();
        let runs = |id: Option<TargetId>| {
            let mut all =
                self.targets.iter().filter(|(other, _)| id.is_none_or(|id| id == **other));
            all.any(|(_, target)| target.wanted.command.is_some())
        };
        match named {
            Err(error) => call.answer(Reply::Failed((&error).into())),
            Ok(id) if !runs(id) => call.answer(Reply::Failed((&Error::no_command()).into())),
            Ok(Some(id)) => self.command(call, Input::RestartOne(id)),
            Ok(None) => self.command(call, Input::Restart),
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
        let generation = Some(self.session.generation());
        call.answer(Reply::Done { generation });
    }
}

/// The next request; never without a socket. Cancel safe.
pub(super) async fn next_call(control: &mut Option<ControlServer>) -> Call {
    match control {
        Some(control) => control.next_call().await,
        None => std::future::pending().await,
    }
}
