//! What the control socket asks of the daemon, each request answered or handed to who answers it.

use std::time::Instant;

use super::Daemon;
use crate::control::{Call, ControlServer, Reply, Request};
use crate::engine::session::Input;
use crate::error::Error;

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
            Request::Restart { .. } if !self.has_command() => {
                call.answer(Reply::Failed((&Error::no_command()).into()));
            }
            Request::Flush { .. } => {
                self.input_to_session(Input::Retry);
                let points = self.source.points();
                self.answers.flush(now, call, points);
            }
            Request::Wait { .. } => self.answers.wait(now, call, self.ready_check()),
            Request::Restart { .. } => self.command(call, Input::Restart),
            Request::Pause {} => self.command(call, Input::Pause),
            Request::Resume { accept } => {
                let accept = *accept;
                self.command(call, Input::Resume { accept });
            }
            Request::Reset {} => {
                self.source.everything(now, true);
                self.command(call, Input::Retry);
            }
            Request::Stop {} => {
                call.answer(Reply::Done { generation: None });
                self.end(Ok(0), "stop");
            }
            Request::Join(_) => self.join(call),
            Request::Attach {} => call.answer(Reply::Attached {}),
        }
    }

    pub(super) fn has_command(&self) -> bool {
        self.targets.values().any(|target| target.wanted.command.is_some())
    }

    pub(super) fn command(&mut self, call: Call, input: Input) {
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
