//! Words an event as one stable line, `[e2ek] WORDS key=value ...`, for scripts and editors.
//!
//! The words, the keys and their order are a promise (cli.md, "Lines"): new keys only at the end.
//! A value with a space, a quote or an equals sign stands in double quotes; messages and hints
//! always do. A quote inside is written `\x22`, so that `"[^"]*"` matches every such value and no
//! text from outside can end one.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::event::{Event, Exit, Failure, Phase};
use super::status::Status;
use super::text::Text;

/// The line of an event, without the newline; `None` for what lines do not say: the app's output,
/// which is passed on byte for byte.
#[must_use]
pub(super) fn line(event: &Event) -> Option<String> {
    Some(sync(event).or_else(|| trouble(event)).or_else(|| rest(event))?.0)
}

/// The line of a command's failure.
#[must_use]
pub(super) fn failure(failure: &Failure) -> String {
    error(None, &failure.kind, &failure.message, &failure.hints).0
}

fn sync(event: &Event) -> Option<Line> {
    Some(match event {
        Event::Started { source, targets, workspace } => Line::new("started")
            .key("source", source)
            .key("targets", joined(targets))
            .key("workspace", workspace),
        Event::Joined { pid } => Line::new("joined").key("pid", pid),
        Event::TargetAdded { target } => Line::new("target added").key("target", target),
        Event::TargetRemoved { target } => Line::new("target removed").key("target", target),
        Event::PodFound { target } => Line::new("pod found").key("target", target),
        Event::PodGone { target } => Line::new("pod gone").key("target", target),
        Event::PodWaiting { target, pod, reason } => {
            Line::new("pod waiting").key("target", target).key("pod", pod).key("reason", reason)
        }
        Event::Forwarding { local, target, remote } => {
            Line::new("forwarding").key("local", local).key("target", target).key("remote", remote)
        }
        Event::PodsAbsent { target } => Line::new("pods absent").key("target", target),
        Event::Connecting { target } => Line::new("connecting").key("target", target),
        Event::Connected { target, equal } => {
            Line::new("connected").key("target", target).key("equal", equal)
        }
        Event::Scanned { files, bytes, took, protected, ignored } => Line::new("scan end")
            .key("files", files)
            .key("bytes", bytes)
            .ms(*took)
            .key("protected", protected)
            .key("ignored", ignored),
        Event::SyncBegin { generation, files } => {
            Line::new("sync begin").key("gen", generation).key("files", files)
        }
        Event::Progress { generation, phase, files, bytes, total_files, total_bytes } => {
            Line::new("progress")
                .key("phase", if *phase == Phase::Scan { "scan" } else { "send" })
                .key("files", files)
                .key("bytes", bytes)
                .maybe("total_files", *total_files)
                .maybe("total_bytes", *total_bytes)
                .maybe("gen", *generation)
        }
        Event::SyncEnd { generation, status, files, bytes, took, acked, targets, .. } => {
            Line::new("sync end")
                .key("gen", generation)
                .key("status", status.word())
                .key("files", files)
                .key("bytes", bytes)
                .ms(*took)
                .key("targets", format_args!("{acked}/{targets}"))
        }
        Event::RestartBegin { generation, target } => {
            Line::new("restart begin").key("gen", generation).key("target", target)
        }
        Event::RestartEnd { generation, target, status, took, stamps } => Line::new("restart end")
            .key("gen", generation)
            .key("status", status.word())
            .ms(*took)
            .key("target", target)
            .maybe("hashed_us", stamps.hashed_us)
            .maybe("sent_us", stamps.sent_us)
            .maybe("written_us", stamps.written_us)
            .maybe("acked_us", stamps.acked_us)
            .maybe("restarted_us", stamps.restarted_us),
        Event::CommandRan { generation, target, argv, status, took } => Line::new("command end")
            .key("gen", generation)
            .exit(*status)
            .ms(*took)
            .key("target", target)
            .key("argv", spaced(argv)),
        Event::ChildExited { target, status, held } => {
            Line::new("exited").key("target", target).exit(*status).key("held", held)
        }
        Event::NeedsBuild { generation, paths, count } => Line::new("needs-build")
            .key("gen", generation)
            .key("count", count)
            .key("paths", joined(paths)),
        _ => return None,
    })
}

fn trouble(event: &Event) -> Option<Line> {
    Some(match event {
        Event::Problem { target, path, reason } => Line::new("problem")
            .key("path", path)
            .quoted("reason", reason)
            .maybe("target", target.as_ref()),
        Event::ProblemGone { target, path } => {
            Line::new("problem gone").key("path", path).maybe("target", target.as_ref())
        }
        Event::Held { target, reason, command } => Line::new("held")
            .quoted("reason", reason)
            .quoted("command", command)
            .maybe("target", target.as_ref()),
        Event::Released { target } => Line::new("released").maybe("target", target.as_ref()),
        Event::Conflict { target, path, reason } => {
            Line::new("conflict").key("target", target).key("path", path).quoted("reason", reason)
        }
        Event::Overwritten { target, path, kept } => Line::new("overwritten")
            .key("target", target)
            .key("path", path)
            .maybe("kept", kept.as_ref()),
        Event::Disconnected { target, error, retry } => Line::new("disconnected")
            .key("target", target)
            .quoted("error", error)
            .maybe("retry_ms", retry.map(|r| r.as_millis())),
        Event::Degraded { what } => Line::new("degraded").quoted("what", what),
        Event::Warning { message } => Line::new("warning").quoted("message", message),
        Event::Error { target, class, message, hints } => {
            error(target.as_ref(), class, message, hints)
        }
        _ => return None,
    })
}

fn rest(event: &Event) -> Option<Line> {
    Some(match event {
        Event::Stopping { reason } => Line::new("stopping").key("reason", reason),
        Event::Stopped { exit } => Line::new("stopped").key("exit", exit),
        Event::LeftOut { count } => Line::new("left out").key("count", count),
        Event::PlanStep { target, action, path, bytes, reason } => Line::new("plan step")
            .key("target", target)
            .key("action", action)
            .key("path", path)
            .key("bytes", bytes)
            .quoted("reason", reason),
        Event::PlanEnd { target, writes, deletes, bytes } => Line::new("plan end")
            .key("target", target)
            .key("writes", writes)
            .key("deletes", deletes)
            .key("bytes", bytes),
        Event::Setting { key, value, origin } => {
            Line::new("setting").key("key", key).quoted("value", value).quoted("origin", origin)
        }
        Event::Done { command, generation } => {
            Line::new("done").key("command", command).maybe("gen", *generation)
        }
        Event::Version { version, protocol: (low, high), features } => Line::new("version")
            .key("version", version)
            .key("protocol", format_args!("{low}..{high}"))
            .key("features", joined(features)),
        _ => return None,
    })
}

fn error(target: Option<&Text>, class: &Text, message: &Text, hints: &[Text]) -> Line {
    Line::new("error")
        .key("kind", class)
        .quoted("message", message)
        .quoted("hint", &spaced(hints))
        .maybe("target", target)
}

fn joined(texts: &[Text]) -> String {
    texts.iter().map(Text::as_str).collect::<Vec<_>>().join(",")
}

fn spaced(texts: &[Text]) -> String {
    texts.iter().map(Text::as_str).collect::<Vec<_>>().join(" ")
}

/// A line while it is put together.
struct Line(String);

impl Line {
    fn new(words: &str) -> Self {
        Self(format!("[e2ek] {words}"))
    }

    fn key(self, key: &str, value: impl Display) -> Self {
        let value = value.to_string();
        // Text was made harmless when it was made; a space or quote must not end the value.
        if value.is_empty() || value.contains([' ', '"', '=', '\u{a0}']) {
            return self.quoted(key, &value);
        }
        self.push(key, value)
    }

    fn quoted(self, key: &str, value: &(impl Display + ?Sized)) -> Self {
        let value = value.to_string().replace('"', "\\x22");
        self.push(key, format_args!("\"{value}\""))
    }

    fn maybe(self, key: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.key(key, value),
            None => self,
        }
    }

    fn ms(self, span: Duration) -> Self {
        self.key("ms", span.as_millis())
    }

    fn exit(self, status: Exit) -> Self {
        match status {
            Exit::Code(code) => self.key("exit", code),
            Exit::Signal(signal) => self.key("signal", signal),
        }
    }

    fn push(mut self, key: &str, value: impl Display) -> Self {
        write!(self.0, " {key}={value}").expect("writing to a string does not fail");
        self
    }
}

/// The lines of a status, each ended: one for the whole, one per target.
#[must_use]
pub(super) fn status(status: &Status) -> String {
    let mut text = Line::new("status")
        .key("state", status.state.word())
        .key("gen", status.generations.local)
        .key("acked", status.generations.acked)
        .key("source", &status.source)
        .key("pid", status.pid)
        .0;
    text.push('\n');
    for target in &status.targets {
        let line = Line::new("status target")
            .key("target", &target.name)
            .key("state", target.state.word())
            .key("acked", target.gen_acked)
            .key("problems", target.problem_count.max(target.problems.len() as u64))
            .key("restarts", target.restarts);
        let line = match target.child {
            Some(child) => line.key("child", child.state.word()),
            None => line,
        };
        text.push_str(&line.0);
        text.push('\n');
    }
    for group in &status.groups {
        let line = Line::new("status pods")
            .key("target", &group.name)
            .key("current", group.current)
            .key("pods", group.pods)
            .key("waiting", group.waiting.len());
        text.push_str(&line.0);
        text.push('\n');
    }
    text
}
