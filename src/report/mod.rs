//! Everything that can be said, and the only place that says it.
//!
//! An [`Event`] is what happened; a [`Reporter`] owns standard output and standard error and words
//! events for people, for scripts (`lines`) or for programs (`json`); a [`Desk`] does so on a
//! thread of its own, so that a stopped terminal never stops the daemon. Promises that nothing
//! from outside drives a terminal (every text is a [`Text`]), and that a closed output is an
//! answer, not an error. What an error advises is `error.rs`'s to word.

mod backlog;
mod desk;
mod event;
mod human;
mod json;
mod lines;
mod output;
mod progress;
mod status;
mod text;

use std::io::Write;
use std::time::{Instant, SystemTime};

use indicatif::ProgressDrawTarget;

pub use desk::Desk;
pub use event::{Event, Exit, Failure, Outcome, Phase, RECORD_VERSION, Record, Stamps, Stream};
pub use progress::LogWriter;
pub use status::{
    ChildState, ChildStatus, Generations, GroupStatus, Latencies, Latency, MAX_PROBLEMS,
    Outstanding, ProblemStatus, STATUS_VERSION, State, Status, TargetStatus, WaitingPod,
    WatchCounts,
};
pub use text::{Text, count, grouped, size, span, timestamp};

pub(crate) use backlog::Backlog;
pub(crate) use json::line as json_line;

use human::{Paint, Said, Weight};
use output::Tails;
use progress::{Bar, Pace, Screen};

/// How events are worded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people; may change.
    #[default]
    Human,
    /// Stable lines, for editors and shell scripts.
    Lines,
    /// One object a line, for programs.
    Json,
}

/// How much is said to people. Lines and JSON are contracts and always say all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// `-q`: trouble, and what was asked for.
    Quiet,
    /// Neither.
    #[default]
    Normal,
    /// `-v`.
    Verbose,
}

/// What was decided about the output; nothing here is looked up again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `--output`, or what suits the output.
    pub format: Format,
    /// `--color` and `NO_COLOR`.
    pub color: bool,
    /// `-q`, `-v`.
    pub verbosity: Verbosity,
    /// Whether both outputs are a terminal: lines may stay open, a bar may be drawn.
    pub terminal: bool,
}

/// Whether anybody is left to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// As far as is known.
    Yes,
    /// Standard output is closed (or full, or failing): the reporter says nothing more there.
    Gone,
}

/// The owner of standard output and standard error.
///
/// Blocks while the outputs do; a daemon uses a [`Desk`]. Every event is flushed when `say`
/// returns.
pub struct Reporter {
    options: Options,
    out: Sink,
    err: Sink,
    screen: Screen,
    bar: Bar,
    pace: Pace,
    /// The generation whose line is the last on the terminal and still open.
    open: Option<u64>,
    /// Unfinished lines of the app's output; only in lines and JSON.
    tails: Tails,
}

/// One of the two outputs.
struct Sink {
    to: Box<dyn Write + Send>,
    /// A write failed: nothing more is written.
    gone: bool,
    /// The last byte written was not a newline.
    dangling: bool,
}

impl Reporter {
    /// A reporter on this process's standard output and standard error.
    #[must_use]
    pub fn stdio(options: Options) -> Self {
        let draw = if options.terminal && options.format == Format::Human {
            ProgressDrawTarget::stderr_with_hz(10)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self::new(options, Box::new(output::stdout()), Box::new(output::stderr()), draw)
    }

    fn new(
        options: Options,
        out: Box<dyn Write + Send>,
        err: Box<dyn Write + Send>,
        draw: ProgressDrawTarget,
    ) -> Self {
        let screen = Screen::new(draw);
        let sink = |to| Sink { to, gone: false, dangling: false };
        Self {
            options,
            out: sink(out),
            err: sink(err),
            bar: Bar::new(screen.clone()),
            screen,
            pace: Pace::default(),
            open: None,
            tails: Tails::default(),
        }
    }

    /// Standard error for the log, kept clear of what this reporter draws.
    #[must_use]
    pub fn log_writer(&self) -> LogWriter {
        LogWriter::new(self.screen.clone())
    }

    /// Says an event now.
    pub fn say(&mut self, event: &Event) -> Heard {
        self.say_at(event, Instant::now(), SystemTime::now())
    }

    /// Says an event that happened at `now`, which is `date` on the clock.
    pub(crate) fn say_at(&mut self, event: &Event, now: Instant, date: SystemTime) -> Heard {
        if self.keeps_silent(event, now) {
            return self.heard();
        }
        match self.options.format {
            Format::Human => self.say_human(event),
            Format::Lines => self.say_lines(event),
            Format::Json => self.say_json(event, date),
        }
        self.heard()
    }

    /// Tells why a command ends without doing its work, on standard error in every format: a
    /// one-shot command's standard output is data. A command that streams events (`watch`,
    /// `sync`, `attach`) says [`Event::Error`] instead.
    pub fn failure(&mut self, failure: &Failure) {
        let text = match self.options.format {
            Format::Human => human::failure(failure, self.paint()),
            Format::Lines => lines::failure(failure),
            Format::Json => json_line(&Record::at(SystemTime::now(), failure.clone().into())),
        };
        self.write_line(Stream::Stderr, &text);
    }

    /// Tells what is wrong beside a command that does its work all the same, on standard error in
    /// every format, as [`Self::failure`] does.
    pub fn warning(&mut self, message: impl Into<Text>) {
        let event = Event::Warning { message: message.into() };
        let text = match self.options.format {
            Format::Human => human::line(&event, self.paint()).map(|said| said.text),
            Format::Lines => lines::line(&event),
            Format::Json => Some(json_line(&Record::at(SystemTime::now(), event))),
        };
        self.write_line(Stream::Stderr, &text.unwrap_or_default());
    }

    /// Answers `status`. JSON is the object of cli.md, not a record.
    pub fn status(&mut self, status: &Status) -> Heard {
        let text = match self.options.format {
            Format::Human => status::human(status, self.paint()),
            Format::Lines => lines::status(status),
            Format::Json => json_line(status) + "\n",
        };
        self.write(Stream::Stdout, text.as_bytes());
        self.heard()
    }

    /// Writes bytes to standard output as they are, for commands whose grammar is somebody
    /// else's (`check-ignore`). The caller answers for what they do to a terminal.
    pub fn verbatim(&mut self, bytes: &[u8]) -> Heard {
        self.write(Stream::Stdout, bytes);
        // A record may well end with a NUL: no newline is missing.
        self.out.dangling = false;
        self.screen.set_dangling(false);
        self.heard()
    }

    /// Ends what is unfinished: the bar, an open line, held output.
    pub fn finish(&mut self) -> Heard {
        self.bar.clear();
        self.pace.end();
        for (target, stream, bytes) in self.tails.take_all() {
            self.pass_on(&target, stream, bytes, SystemTime::now());
        }
        self.end_open_line(Stream::Stdout);
        self.heard()
    }

    fn heard(&self) -> Heard {
        if self.out.gone { Heard::Gone } else { Heard::Yes }
    }

    fn paint(&self) -> Paint {
        let verbose = self.options.verbosity == Verbosity::Verbose;
        Paint { color: self.options.color, verbose }
    }

    /// Keeps the pace; true when this event is not to be told at this time.
    fn keeps_silent(&mut self, event: &Event, now: Instant) -> bool {
        match event {
            Event::Progress { .. } if self.options.format != Format::Human => {
                return !self.pace.line_due(now);
            }
            Event::Progress { .. } => return !self.pace.is_slow(now),
            Event::SyncBegin { .. } => self.pace.begin(now),
            Event::SyncEnd { .. }
            | Event::Scanned { .. }
            | Event::Disconnected { .. }
            | Event::Held { .. }
            | Event::Stopping { .. } => {
                self.pace.end();
                self.bar.clear();
            }
            _ => {}
        }
        false
    }

    fn say_human(&mut self, event: &Event) {
        match event {
            Event::Progress { .. } if self.options.terminal => {
                if self.options.verbosity != Verbosity::Quiet {
                    self.end_open_line(Stream::Stderr);
                    self.bar.show(event);
                }
            }
            Event::Output { stream, bytes, .. } => {
                self.end_open_line_of_ours(*stream);
                self.write(*stream, bytes);
            }
            _ => {
                if let Some(said) = human::line(event, self.paint()) {
                    self.put(&said);
                }
            }
        }
    }

    fn put(&mut self, said: &Said) {
        let least = match self.options.verbosity {
            Verbosity::Quiet => Weight::Needed,
            Verbosity::Normal => Weight::Normal,
            Verbosity::Verbose => Weight::Detail,
        };
        if said.weight < least {
            return;
        }
        if let (Some(open), Some((generation, more))) = (self.open, &said.continues)
            && open == *generation
        {
            self.write(Stream::Stdout, more.as_bytes());
            return;
        }
        let stream = if said.weight == Weight::Trouble { Stream::Stderr } else { Stream::Stdout };
        if said.open.is_some() && self.options.terminal {
            self.end_open_line(stream);
            self.write(stream, said.text.as_bytes());
            self.open = said.open;
        } else {
            self.write_line(stream, &said.text);
        }
    }

    fn say_lines(&mut self, event: &Event) {
        if let Event::Output { target, stream, bytes } = event {
            if let Some(whole) = self.tails.add(target, *stream, bytes) {
                self.write(*stream, &whole);
            }
            return;
        }
        self.flush_tails_before(event, SystemTime::UNIX_EPOCH);
        if let Some(line) = lines::line(event) {
            self.write_line(Stream::Stdout, &line);
        }
    }

    fn say_json(&mut self, event: &Event, date: SystemTime) {
        if let Event::Output { target, stream, bytes } = event {
            if let Some(whole) = self.tails.add(target, *stream, bytes) {
                self.pass_on(target, *stream, whole, date);
            }
            return;
        }
        self.flush_tails_before(event, date);
        if *event != Event::Unknown {
            self.write_line(Stream::Stdout, &json_line(&Record::at(date, event.clone())));
        }
    }

    /// An unfinished line of an app is told before the app's end or restart is.
    fn flush_tails_before(&mut self, event: &Event, date: SystemTime) {
        let tails = match event {
            Event::ChildExited { target, .. } | Event::RestartEnd { target, .. } => {
                self.tails.take_of(target)
            }
            Event::Stopped { .. } => self.tails.take_all(),
            _ => return,
        };
        for (target, stream, bytes) in tails {
            self.pass_on(&target, stream, bytes, date);
        }
    }

    fn pass_on(&mut self, target: &Text, stream: Stream, mut bytes: Vec<u8>, date: SystemTime) {
        if self.options.format == Format::Json {
            let event = Event::Output { target: target.clone(), stream, bytes };
            self.write_line(Stream::Stdout, &json_line(&Record::at(date, event)));
            return;
        }
        if bytes.last() != Some(&b'\n') {
            bytes.push(b'\n');
        }
        self.write(stream, &bytes);
    }

    fn write_line(&mut self, stream: Stream, line: &str) {
        self.end_open_line(stream);
        self.write(stream, format!("{line}\n").as_bytes());
    }

    /// A line that the app left unfinished, or that we keep open, ends where it is.
    fn end_open_line(&mut self, stream: Stream) {
        self.open = None;
        let dangling = if self.options.terminal {
            self.screen.is_dangling()
        } else {
            self.sink(stream).dangling
        };
        if dangling {
            self.write(stream, b"\n");
        }
    }

    /// The same before the app's output, which may well go on with a line of its own.
    fn end_open_line_of_ours(&mut self, stream: Stream) {
        if self.open.is_some() {
            self.end_open_line(stream);
        }
    }

    fn sink(&mut self, stream: Stream) -> &mut Sink {
        match stream {
            Stream::Stdout => &mut self.out,
            Stream::Stderr => &mut self.err,
        }
    }

    fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let Some(last) = bytes.last() else { return };
        let screen = self.screen.clone();
        let sink = self.sink(stream);
        if sink.gone {
            return;
        }
        screen.around(|| sink.write(bytes));
        screen.set_dangling(*last != b'\n');
    }
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) {
        // Whatever the error (EPIPE, EIO after a hang-up, ENOSPC): the reader is lost to us, the
        // work goes on.
        self.gone = self.to.write_all(bytes).and_then(|()| self.to.flush()).is_err();
        self.dangling = bytes.last() != Some(&b'\n');
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests;
