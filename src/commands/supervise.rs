//! Owns the words of `supervise`: what was typed as its options, what happens as events.

use std::time::{Duration, Instant};

use e2ek_sidecar::restart::Status;
use e2ek_sidecar::server::run::RunEvent;

use crate::cli::SuperviseArgs;
use crate::error::Error;
use crate::report::{Desk, Event, Exit, Failure, Outcome, Reporter, Stamps, Text};
use crate::supervise::{self, Options, SuperviseEvent};

/// How long a stopped terminal may keep us from our end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Supervises until it is asked to end; the exit code.
///
/// # Errors
/// When a directory cannot be watched or the command cannot be started at the beginning.
pub(super) async fn run(args: &SuperviseArgs, reporter: Reporter) -> Result<u8, Error> {
    // A command goes on, and is restarted, also while nobody reads what we say.
    let desk = Desk::open(reporter).map_err(|error| Error::failure(&error))?;
    let mut teller = Teller::new(args);
    let ended = supervise::run(options(args), |event| {
        for event in teller.events(event, Instant::now()) {
            desk.say(event);
        }
    });
    let ended = ended.await;
    if let Ok(exit) = ended {
        desk.say(Event::Stopped { exit });
    }
    desk.close(LAST_WORDS);
    Ok(ended?)
}

fn options(args: &SuperviseArgs) -> Options {
    let patterns = match args.patterns() {
        none if none.is_empty() => Options::default().patterns,
        typed => typed,
    };
    Options {
        command: args.command.clone(),
        directories: args.directories(),
        recursive: args.recursive,
        patterns,
        ignore_patterns: args.ignore_patterns(),
        ignore_directories: args.ignore_directories,
        signal: args.signal,
        kill_after: args.kill_after,
        debounce: args.debounce,
        restart_on_command_exit: !args.no_restart_on_command_exit,
    }
}

/// Turns what happened into what is said.
struct Teller {
    source: Text,
    /// The command, in place of a target.
    target: Text,
    folder: Text,
    program: std::ffi::OsString,
    /// Since when a restart has begun whose end was not said.
    begun: Option<Instant>,
    /// The newest generation.
    generation: u64,
}

impl Teller {
    fn new(args: &SuperviseArgs) -> Self {
        let program = args.command.first().cloned().unwrap_or_default();
        let directories = args.directories();
        let shown: Vec<_> = directories.iter().map(|d| Text::from(d.as_path())).collect();
        let source = shown.iter().map(Text::as_str).collect::<Vec<_>>().join(", ");
        Self {
            source: source.into(),
            target: Text::name(program.as_encoded_bytes()),
            folder: std::env::current_dir().unwrap_or_default().as_path().into(),
            program,
            begun: None,
            generation: 0,
        }
    }

    fn events(&mut self, event: SuperviseEvent, now: Instant) -> Vec<Event> {
        match event {
            SuperviseEvent::Changed { path, generation } => {
                let path = Text::from(path.as_path());
                tracing::info!(%path, generation, "changed");
                self.begin(generation, now)
            }
            SuperviseEvent::EventsLost { generation } => {
                let message = "the kernel lost events: taken as a change".into();
                let mut said = vec![Event::Warning { message }];
                said.extend(self.begin(generation, now));
                said
            }
            SuperviseEvent::Unwatched(path, error) => {
                let path = Text::from(path.as_path());
                vec![Event::Degraded { what: format!("not watched: {path}: {error}").into() }]
            }
            SuperviseEvent::Stopping(signal) => {
                vec![Event::Stopping { reason: signal.to_string().into() }]
            }
            SuperviseEvent::Run(event) => self.of_run(event, now),
        }
    }

    fn of_run(&mut self, event: RunEvent, now: Instant) -> Vec<Event> {
        let warning = |message: String| vec![Event::Warning { message: message.into() }];
        match event {
            RunEvent::Started { .. } => vec![Event::Started {
                source: self.source.clone(),
                targets: vec![self.target.clone()],
                workspace: self.folder.clone(),
            }],
            RunEvent::Restarted { generation, took, .. } => {
                vec![self.end(generation, Outcome::Ok, took)]
            }
            RunEvent::StartFailed { error } => {
                let failure = Failure::from(&Error::command_not_started(&self.program, &error));
                let took = self.begun.map_or(Duration::ZERO, |begun| now - begun);
                vec![self.end(self.generation, Outcome::Failed, took), failure.into()]
            }
            RunEvent::Exited { status, held, interrupted } => {
                let target = self.target.clone();
                let mut said = vec![Event::ChildExited { target, status: exit(status), held }];
                if !held && !interrupted {
                    said.extend(self.begin(self.generation, now));
                }
                said
            }
            RunEvent::Backoff { until, .. } => {
                let wait = crate::report::span(until.saturating_duration_since(now));
                warning(format!("{} keeps ending: started again in {wait}", self.target))
            }
            RunEvent::Killing => warning(format!("{} does not end: killed", self.target)),
            RunEvent::Refused(process) => {
                let name = Text::name(&process.name);
                let who = format!("process {} ({name})", process.pid);
                warning(format!("{who} is another user's and must end before the next start"))
            }
            RunEvent::Leftover(process) => {
                let name = Text::name(&process.name);
                warning(format!("killed what an earlier run left: {} ({name})", process.pid))
            }
            RunEvent::Stopped { .. }
            | RunEvent::Interrupted
            | RunEvent::CommandStarted { .. }
            | RunEvent::CommandDone { .. }
            | RunEvent::CommandFailed { .. }
            | RunEvent::Output { .. }
            | RunEvent::StdinTaken { .. } => Vec::new(),
        }
    }

    /// A restart is decided; said once until its end.
    fn begin(&mut self, generation: u64, now: Instant) -> Vec<Event> {
        self.generation = generation;
        if self.begun.is_some() {
            return Vec::new();
        }
        self.begun = Some(now);
        vec![Event::RestartBegin { generation, target: self.target.clone() }]
    }

    fn end(&mut self, generation: u64, status: Outcome, took: Duration) -> Event {
        self.begun = None;
        let (target, stamps) = (self.target.clone(), Stamps::default());
        Event::RestartEnd { generation, target, status, took, stamps }
    }
}

fn exit(status: Status) -> Exit {
    match status {
        Status::Code(code) => Exit::Code(code.into()),
        Status::Signal(signal) => Exit::Signal(signal.number()),
    }
}
