//! Words an event for a person at a terminal. This text may change at any time; scripts read
//! `lines` or `json`.

use std::time::Duration;

use super::event::{Event, Exit, Failure, Outcome};
use super::text::{Text, count, size, span};

/// A line for people, without its newline.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// The words, coloured if that was asked for.
    pub(super) text: String,
    /// How much it matters.
    pub(super) weight: Weight,
    /// The generation whose line this is; a restart of the same one may be appended.
    pub(super) open: Option<u64>,
    /// When the line of this generation is the last one and still open, this is appended to it
    /// instead.
    pub(super) continues: Option<(u64, String)>,
}

/// How much a line matters: what `-q` and `-v` choose by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// Only with `-v`.
    Detail,
    /// Not with `-q`.
    Normal,
    /// Always, on standard output.
    Needed,
    /// Always, on standard error.
    Trouble,
}

/// The line of an event; `None` for what people are not told, or see otherwise (a progress bar,
/// the app's own output).
pub(super) fn line(event: &Event, paint: Paint) -> Option<Said> {
    flow(event, paint).or_else(|| trouble(event, paint)).or_else(|| rest(event, paint))
}

/// The lines of a command's failure.
pub(super) fn failure(failure: &Failure, paint: Paint) -> String {
    failed(None, &failure.message, &failure.hints, paint)
}

fn flow(event: &Event, paint: Paint) -> Option<Said> {
    Some(match event {
        Event::Started { source, targets, workspace } => {
            let targets = listed(targets);
            detail_or_normal(format!("watching {source} -> {targets}"), workspace, paint)
        }
        Event::Joined { pid } => {
            Said::normal(format!("joined the watch that is running (process {pid})"))
        }
        Event::TargetAdded { target } => {
            Said::normal(format!("another watch joined, with {target}"))
        }
        Event::TargetRemoved { target } => {
            Said::normal(format!("{target}: let go of, nobody watches it any more"))
        }
        Event::PodFound { target } => Said::normal(format!("{target}: found")),
        Event::PodGone { target } => Said::normal(format!("{target}: the pod is gone")),
        Event::PodWaiting { target, pod, reason } => {
            Said::trouble(paint.yellow(&format!("{target}: {pod} waits: {reason}")))
        }
        Event::Forwarding { local, target, remote } => {
            Said::normal(format!("http://127.0.0.1:{local} leads to port {remote} of {target}"))
        }
        Event::PodsAbsent { target } => {
            Said::trouble(paint.yellow(&format!("{target}: no pods now; waiting for one")))
        }
        Event::Connecting { target } => Said::detail(format!("{target}: connecting")),
        Event::Connected { target, equal: true } => {
            Said::normal(format!("{target}: connected, already up to date"))
        }
        Event::Connected { target, equal: false } => {
            Said::normal(format!("{target}: connected, sending what differs"))
        }
        Event::Scanned { files, bytes, took, protected, ignored } => {
            scanned(*files, *bytes, *took, *protected, *ignored)
        }
        Event::SyncBegin { generation, files } => {
            Said::detail(format!("gen {generation}: sending {}", count(*files, "file")))
        }
        Event::SyncEnd { .. } => sync_end(event, paint)?,
        Event::RestartBegin { generation, target } => {
            Said::detail(format!("gen {generation}: restarting {target}"))
        }
        Event::RestartEnd { generation, target, status, took, .. } => {
            restart_end(*generation, target, *status, *took, paint)
        }
        Event::CommandRan { generation, target, argv, status, took } => {
            let argv = argv.iter().map(Text::as_str).collect::<Vec<_>>().join(" ");
            let said = format!("gen {generation}: {target} ran `{argv}` in {}", span(*took));
            match status {
                Exit::Code(0) => Said::normal(said),
                _ => Said::trouble(paint.red(&format!("{said}: {}", ended(*status)))),
            }
        }
        Event::ChildExited { target, status, held } => child_exited(target, *status, *held, paint),
        Event::NeedsBuild { generation, paths, count: all } => {
            needs_build(*generation, paths, *all, paint)
        }
        _ => return None,
    })
}

fn trouble(event: &Event, paint: Paint) -> Option<Said> {
    Some(match event {
        Event::Problem { target, path, reason } => {
            let there = at(target.as_ref());
            Said::trouble(paint.yellow(&format!("not synced{there}: {path}: {reason}")))
        }
        Event::ProblemGone { target, path } => {
            Said::normal(format!("synced again{}: {path}", at(target.as_ref())))
        }
        Event::Held { target, reason, command } => {
            let held = paint.yellow(&format!("held{}: {reason}", at(target.as_ref())));
            Said::trouble(format!("{held}\n  to go on: {command}"))
        }
        Event::Released { target } => Said::normal(format!("released{}", at(target.as_ref()))),
        Event::Conflict { target, path, reason } => {
            Said::trouble(paint.yellow(&format!("conflict at {target}: {path}: {reason}")))
        }
        Event::Overwritten { target, path, kept } => {
            let kept = match kept {
                Some(kept) => format!("what was there is kept at {kept}"),
                None => "what was there could not be kept".into(),
            };
            Said::trouble(paint.yellow(&format!("overwritten at {target}: {path}; {kept}")))
        }
        Event::Disconnected { target, error, retry } => {
            let next = match retry {
                Some(retry) => format!("; next attempt in {}", span(*retry)),
                None => String::new(),
            };
            Said::trouble(paint.yellow(&format!("{target}: disconnected: {error}{next}")))
        }
        Event::Degraded { what } => Said::trouble(paint.yellow(&format!("degraded: {what}"))),
        Event::Warning { message } => Said::trouble(paint.yellow(&format!("warning: {message}"))),
        Event::Error { target, message, hints, .. } => {
            Said::trouble(failed(target.as_ref(), message, hints, paint))
        }
        _ => return None,
    })
}

fn rest(event: &Event, paint: Paint) -> Option<Said> {
    Some(match event {
        Event::Stopping { reason } => Said::normal(format!("stopping ({reason})")),
        Event::Stopped { .. } => Said::detail("stopped".into()),
        Event::LeftOut { count: n } => Said::trouble(
            paint.yellow(&format!("{} left out: shown too slowly", count(*n, "event"))),
        ),
        Event::PlanStep { action, path, bytes, reason, .. } => {
            let bytes = if *bytes == 0 { String::new() } else { format!(", {}", size(*bytes)) };
            Said::needed(format!(
                "{action:<8} {path}  {}",
                paint.dim(&format!("({reason}{bytes})"))
            ))
        }
        Event::PlanEnd { target, writes: 0, deletes: 0, .. } => {
            Said::needed(format!("{target}: nothing to do"))
        }
        Event::PlanEnd { target, writes, deletes, bytes } => Said::needed(format!(
            "{target}: {} to write ({}), {deletes} to delete",
            count(*writes, "path"),
            size(*bytes),
        )),
        Event::Setting { key, value, origin } => {
            Said::needed(format!("{key} = {value}  {}", paint.dim(&format!("({origin})"))))
        }
        Event::Done { command, generation: None } => Said::normal(format!("{command}: done")),
        Event::Done { command, generation: Some(generation) } => {
            Said::normal(format!("{command}: done, generation {generation}"))
        }
        Event::Version { version, protocol: (low, high), .. } => Said::needed(if low == high {
            format!("e2ek-sync {version} (protocol {low})")
        } else {
            format!("e2ek-sync {version} (protocols {low} to {high})")
        }),
        _ => return None,
    })
}

fn detail_or_normal(text: String, workspace: &Text, paint: Paint) -> Said {
    if paint.verbose {
        return Said::normal(format!("{text}  {}", paint.dim(&format!("(workspace {workspace})"))));
    }
    Said::normal(text)
}

fn scanned(files: u64, bytes: u64, took: Duration, protected: u64, ignored: u64) -> Said {
    let mut text = format!("scanned {} ({}) in {}", count(files, "file"), size(bytes), span(took));
    if ignored > 0 {
        text.push_str(&format!(", {} ignored", count(ignored, "name")));
    }
    if protected > 0 {
        text.push_str(&format!(", {} protected", count(protected, "name")));
        text.push_str(" (`check-ignore -v PATH` says why, `--include` sends it anyway)");
    }
    Said::normal(text)
}

fn sync_end(event: &Event, paint: Paint) -> Option<Said> {
    let Event::SyncEnd {
        generation, status, files, bytes, took, acked, targets, restarting, ..
    } = event
    else {
        return None;
    };
    let what = format!("{}, {}, {}", count(*files, "file"), size(*bytes), span(*took));
    let reached = if acked == targets && *targets < 2 {
        String::new()
    } else {
        format!(", {acked} of {}", count(u64::from(*targets), "target"))
    };
    let text = format!("gen {generation}: {what}{reached}");
    Some(match status {
        Outcome::Ok => Said { open: restarting.then_some(*generation), ..Said::normal(text) },
        Outcome::Partial => {
            Said::trouble(paint.yellow(&format!("{text}; not all of it is synced")))
        }
        other => Said::trouble(paint.yellow(&format!("{text}; {}", other.word()))),
    })
}

fn restart_end(
    generation: u64,
    target: &Text,
    status: Outcome,
    took: Duration,
    paint: Paint,
) -> Said {
    let took = span(took);
    match status {
        Outcome::Ok => {
            let text = format!("{target} restarted in {took}");
            Said {
                continues: Some((generation, format!("; {text}"))),
                ..Said::normal(format!("gen {generation}: {text}"))
            }
        }
        Outcome::Crashed => {
            Said::trouble(paint.red(&format!(
                "gen {generation}: {target} was restarted in {took} and ended at once"
            )))
        }
        other => {
            Said::trouble(paint.red(&format!(
                "gen {generation}: restart of {target}: {} after {took}",
                other.word()
            )))
        }
    }
}

fn child_exited(target: &Text, status: Exit, held: bool, paint: Paint) -> Said {
    let next = if held { "; waiting for the next change" } else { "" };
    let text = format!("{target}: {}{next}", ended(status));
    match status {
        Exit::Code(0) => Said::normal(text),
        _ => Said::trouble(paint.red(&text)),
    }
}

fn needs_build(generation: u64, paths: &[Text], all: u64, paint: Paint) -> Said {
    let more = all.saturating_sub(paths.len() as u64);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    let paths = listed(paths);
    Said::trouble(paint.yellow(&format!("gen {generation}: needs a build: {paths}{more}")))
}

fn failed(target: Option<&Text>, message: &Text, hints: &[Text], paint: Paint) -> String {
    let mut text = format!("{}{}: {message}", paint.red("error"), at(target));
    for hint in hints {
        text.push_str(&format!("\n{}: {hint}", paint.dim("hint")));
    }
    text
}

fn ended(status: Exit) -> String {
    match status {
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal(signal) => format!("ended by signal {signal}"),
    }
}

fn at(target: Option<&Text>) -> String {
    target.map(|target| format!(" at {target}")).unwrap_or_default()
}

fn listed(texts: &[Text]) -> String {
    texts.iter().map(Text::as_str).collect::<Vec<_>>().join(", ")
}

impl Said {
    fn of(weight: Weight, text: String) -> Self {
        Self { text, weight, open: None, continues: None }
    }

    fn detail(text: String) -> Self {
        Self::of(Weight::Detail, text)
    }

    fn normal(text: String) -> Self {
        Self::of(Weight::Normal, text)
    }

    fn needed(text: String) -> Self {
        Self::of(Weight::Needed, text)
    }

    fn trouble(text: String) -> Self {
        Self::of(Weight::Trouble, text)
    }
}

/// Whether to colour, and whether to be wordy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Paint {
    /// `--color` and `NO_COLOR`, resolved.
    pub(super) color: bool,
    /// `-v` was given.
    pub(super) verbose: bool,
}

impl Paint {
    pub(super) fn red(self, text: &str) -> String {
        self.sgr("31", text)
    }

    pub(super) fn yellow(self, text: &str) -> String {
        self.sgr("33", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.sgr("2", text)
    }

    fn sgr(self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
