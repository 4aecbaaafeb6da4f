//! Owns what people are told when something goes wrong: the kind, which alone decides the exit
//! code, the sentence, and the next command to type.
//!
//! Every piece of advice stands in this file and nowhere else. A constructor is named by its
//! situation and takes facts; the rooms keep their own small error enums, and `From` here turns them
//! into words. Nothing here prints (`report`) and nothing here decides what to do (`daemon`).

mod cluster;
mod commands;
mod joining;
mod settings;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use e2ek_sidecar::path::Escaped;

pub use cluster::why_pod_waits;

/// What kind of failure it is; the exit code and the `kind=` of the lines follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Something failed that no other kind names.
    Failure,
    /// What was typed, or stands in e2ek.toml, makes no sense.
    Usage,
    /// The target is not there, or more than one fits.
    NotFound,
    /// Permissions, a policy or a host key forbid it.
    Forbidden,
    /// A conflict, a hold or a pause, or a guard stopped it.
    Conflict,
    /// Not in sync within the time given, or disconnected.
    NotInSync,
    /// No daemon for this workspace, or one that speaks another protocol version.
    NoDaemon,
    /// Ctrl-C.
    Interrupted,
    /// SIGTERM.
    Terminated,
}

/// The one table of exit codes and names (cli.md "Exit codes"). It never changes, it only grows.
const KINDS: [(Kind, u8, &str); 9] = [
    (Kind::Failure, 1, "failure"),
    (Kind::Usage, 2, "usage"),
    (Kind::NotFound, 3, "not-found"),
    (Kind::Forbidden, 4, "forbidden"),
    (Kind::Conflict, 5, "conflict"),
    (Kind::NotInSync, 6, "not-in-sync"),
    (Kind::NoDaemon, 7, "no-daemon"),
    (Kind::Interrupted, 130, "interrupted"),
    (Kind::Terminated, 143, "terminated"),
];

impl Kind {
    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        KINDS.iter().find(|row| row.2 == name).map(|row| row.0)
    }

    fn row(self) -> (u8, &'static str) {
        let found = KINDS.iter().find(|row| row.0 == self);
        let (_, code, name) = found.expect("the table has a row for every kind (tested)");
        (*code, name)
    }

    /// The exit code of the process.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        self.row().0
    }

    /// The stable word for scripts: `kind=` in lines, `kind` in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }
}

/// A failure as people see it. `Display` is the message alone; the hints are for `report` to set
/// below it. Neither holds a control character, whatever names went in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Decides the exit code.
    pub kind: Kind,
    /// What happened, to which object; one sentence without a full stop, no line breaks.
    pub message: String,
    /// What to do next, most likely first; usually a command to type.
    pub hints: Vec<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// A path as people may read it; see [`Escaped`].
fn shown(path: &Path) -> String {
    Escaped(path.as_os_str().as_bytes()).to_string()
}

/// A word that can be pasted into a shell.
fn typed(word: &OsStr) -> String {
    let shown = Escaped(word.as_bytes()).to_string();
    shlex::try_quote(&shown).map(Into::into).unwrap_or(shown)
}

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hints: Vec::new() }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    fn hint_if(self, condition: bool, hint: impl Into<String>) -> Self {
        if condition { self.hint(hint) } else { self }
    }

    /// Something that failed below the command line and that no situation here names; `what` is
    /// the room's own error chain.
    #[must_use]
    pub fn failure(what: &dyn std::error::Error) -> Self {
        Self::new(Kind::Failure, chain(what))
    }

    /// An operation on a path failed; `doing` is a verb phrase ("read the settings").
    #[must_use]
    pub fn io(doing: &str, path: &Path, error: &io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Kind::Forbidden,
            _ => Kind::Failure,
        };
        let full = error.kind() == io::ErrorKind::StorageFull;
        Self::new(kind, format!("cannot {doing} {}: {}", shown(path), reason(error)))
            .hint_if(full, "free some space; what is missing is then written by itself")
    }
}

/// A room's error with all its causes.
fn chain(what: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(what), |error| error.source());
    let text = causes.map(|error| plain(&error.to_string()).to_owned());
    Escaped(text.collect::<Vec<_>>().join(": ").as_bytes()).to_string()
}

/// A text without Rust's "(os error N)".
fn plain(text: &str) -> &str {
    text.split(" (os error").next().unwrap_or(text)
}

/// The kernel's words.
fn reason(error: &io::Error) -> String {
    plain(&error.to_string()).to_lowercase()
}

/// What was typed.
impl Error {
    /// The command line does not parse; `hints` are the parser's own.
    #[must_use]
    pub fn usage(message: impl Into<String>, hints: Vec<String>) -> Self {
        Self { kind: Kind::Usage, message: message.into(), hints }
    }

    /// A word that the contract keeps free for a later version.
    #[must_use]
    pub fn not_built(what: &str) -> Self {
        Self::new(Kind::Usage, format!("`{what}` is not built in this version"))
            .hint("e2ek-sync --help lists what is")
    }

    /// `watch` and its kin need something to sync, and neither the command line nor e2ek.toml names it.
    #[must_use]
    pub fn nothing_to_sync(command: &str, file: Option<&Path>) -> Self {
        let why = match file {
            Some(file) => format!("{} names no target", shown(file)),
            None => "there is no e2ek.toml here or above".to_owned(),
        };
        Self::new(Kind::Usage, format!("`{command}` needs a source and a target: {why}"))
            .hint(format!("e2ek-sync {command} . /tmp/copy"))
            .hint("or add a [[target]] with `to = \"...\"` to e2ek.toml")
    }

    /// The current directory has been removed.
    #[must_use]
    pub fn no_directory(error: &io::Error) -> Self {
        Self::new(Kind::Failure, format!("the current directory is gone: {}", reason(error)))
            .hint("cd to one that exists")
    }

    /// No target in e2ek.toml has the name given with `--target`.
    #[must_use]
    pub fn no_such_target(name: &str, known: &[String]) -> Self {
        let name = Escaped(name.as_bytes());
        let error = Self::new(Kind::NotFound, format!("no target is named `{name}`"));
        match known {
            [] => error.hint("e2ek.toml names no targets; give SRC TARGET instead"),
            known => error.hint(format!("e2ek.toml has: {}", known.join(", "))),
        }
    }
}

/// Source and target.
impl Error {
    /// SRC does not exist.
    #[must_use]
    pub fn source_missing(path: &Path) -> Self {
        Self::new(Kind::Usage, format!("the source {} does not exist", shown(path)))
            .hint("SRC is a directory on this machine and comes first: e2ek-sync watch SRC TARGET")
    }

    /// SRC is a file.
    #[must_use]
    pub fn source_not_a_directory(path: &Path) -> Self {
        let parent = path.parent().unwrap_or(path);
        Self::new(Kind::Usage, format!("the source {} is not a directory", shown(path)))
            .hint(format!("give the directory it lies in: {}", typed(parent.as_os_str())))
    }

    /// The target is the source or lies inside it: every write would be a new save.
    #[must_use]
    pub fn target_inside_source(target: &Path, source: &Path) -> Self {
        let (target, source) = (shown(target), shown(source));
        let message = if target == source {
            format!("the target {target} is the source itself")
        } else {
            format!("the target {target} lies inside the source {source}")
        };
        Self::new(Kind::Usage, message).hint("choose a target outside the source")
    }

    /// The source lies inside the target, which would be written over while it is read.
    #[must_use]
    pub fn source_inside_target(source: &Path, target: &Path) -> Self {
        let (target, source) = (shown(target), shown(source));
        Self::new(Kind::Usage, format!("the source {source} lies inside the target {target}"))
            .hint("choose a target that does not hold the source")
    }

    /// The target's directory is not there, and its parent is not either.
    #[must_use]
    pub fn target_missing(path: &Path) -> Self {
        let parent = path.parent().unwrap_or(path);
        Self::new(Kind::NotFound, format!("the target {} does not exist", shown(path)))
            .hint(format!("mkdir -p {}", typed(parent.as_os_str())))
    }

    /// The process of a `pid/N:/path` target is gone.
    #[must_use]
    pub fn process_gone(pid: u32) -> Self {
        Self::new(Kind::NotFound, format!("there is no process {pid}"))
            .hint("processes get a new number at every start: pgrep -af NAME finds it")
    }

    /// This user may not enter the root of the process.
    #[must_use]
    pub fn process_forbidden(pid: u32) -> Self {
        Self::new(Kind::Forbidden, format!("the root of process {pid} is closed to this user"))
            .hint("run e2ek-sync as the process's own user, or as root")
    }

    /// The target cannot be written.
    #[must_use]
    pub fn target_forbidden(path: &Path, error: &io::Error) -> Self {
        let (path, why) = (shown(path), reason(error));
        Self::new(Kind::Forbidden, format!("the target {path} cannot be written: {why}"))
    }

    /// Another workspace holds the right to write to this target.
    #[must_use]
    pub fn owned_by_other(target: &str, owner: &str) -> Self {
        let (target, owner) = (Escaped(target.as_bytes()), Escaped(owner.as_bytes()));
        Self::new(Kind::Conflict, format!("{target} is being written by {owner}"))
            .hint("end that session; its lease ends 15 s after its last sign of life")
            .hint("or take the target from it with --take-over")
    }

    /// The target root is nested in, or holds, a target root that somebody else writes.
    #[must_use]
    pub fn nested_target(target: &str, other: &str, owner: &str) -> Self {
        let [target, other, owner] =
            [target, other, owner].map(|text| Escaped(text.as_bytes()).to_string());
        Self::new(
            Kind::Conflict,
            format!("{target} and {other}, which {owner} writes, lie one inside the other"),
        )
        .hint("give the two sources targets that do not overlap")
    }
}

/// Guards.
impl Error {
    /// The source became empty while the target is not.
    #[must_use]
    pub fn held_root_emptied(source: &Path, deletes: u64) -> Self {
        let source = shown(source);
        Self::new(
            Kind::Conflict,
            format!("held: {source} is empty now, and following it would delete {deletes} paths"),
        )
        .hint("put the files back and it goes on by itself")
        .hint("if the deletes are meant: e2ek-sync resume --accept")
        .hint("or, without a watch: e2ek-sync sync --once --delete-budget 100%")
    }

    /// The source is gone, unmounted, or another directory took its place.
    #[must_use]
    pub fn held_root_replaced(source: &Path, why: &str) -> Self {
        let (source, why) = (shown(source), Escaped(why.as_bytes()));
        Self::new(Kind::Conflict, format!("held: {source} is not the directory it was: {why}"))
            .hint("put it back and it goes on by itself")
            .hint("if it is meant, forget what was synced and compare anew: e2ek-sync reset")
    }

    /// One change would delete more than the budget allows.
    #[must_use]
    pub fn held_delete_budget(deletes: u64, of: u64, budget: &str) -> Self {
        Self::new(
            Kind::Conflict,
            format!("held: {deletes} of {of} paths would be deleted, the budget is {budget}"),
        )
        .hint("see which: e2ek-sync plan")
        .hint("if they are meant: e2ek-sync resume --accept")
        .hint("or, without a watch: e2ek-sync sync --once --delete-budget 100%")
    }

    /// Some paths could not be read here or applied there; each was named before.
    #[must_use]
    pub fn left_out(problems: usize) -> Self {
        let s = if problems == 1 { "path was" } else { "paths were" };
        Self::new(Kind::Failure, format!("{problems} {s} left out; the rest is in place"))
            .hint("the reasons stand above, and in `e2ek-sync status`")
    }

    /// There is nothing to restart.
    #[must_use]
    pub fn no_command() -> Self {
        Self::new(Kind::Usage, "this watch runs no command, so there is nothing to restart")
            .hint("start it with one: `e2ek-sync watch SRC TARGET -- CMD`")
    }

    /// A guard waits for an answer.
    #[must_use]
    pub fn held() -> Self {
        Self::new(Kind::Conflict, "held: a change would delete more than the guard allows")
            .hint("`e2ek-sync status` says what; `e2ek-sync resume --accept` makes the deletes")
    }

    /// Somebody asked for a flush or a wait while the session is paused.
    #[must_use]
    pub fn paused() -> Self {
        Self::new(Kind::Conflict, "the session is paused").hint("e2ek-sync resume")
    }

    /// `--timeout` passed before the targets had what was saved.
    #[must_use]
    pub fn not_in_sync(after: Duration, acked: u64, local: u64) -> Self {
        // Nobody wants microseconds here.
        let after = Duration::from_millis(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        let after = crate::config::show_duration(after);
        Self::new(
            Kind::NotInSync,
            format!("not in sync after {after}: generation {acked} of {local} is acknowledged"),
        )
        .hint("e2ek-sync status tells what it waits for")
    }

    /// The link to a target is down.
    #[must_use]
    pub fn disconnected(target: &str, why: &str) -> Self {
        let (target, why) = (Escaped(target.as_bytes()), Escaped(why.as_bytes()));
        Self::new(Kind::NotInSync, format!("{target} is disconnected: {why}"))
            .hint("what arrived stays; once it can be reached, type the same again")
    }
}

/// Daemon, link and command.
impl Error {
    /// No daemon runs for the workspace.
    #[must_use]
    pub fn no_daemon(workspace: &Path) -> Self {
        Self::new(Kind::NoDaemon, format!("nothing is watching {}", shown(workspace)))
            .hint("start it: e2ek-sync watch")
            .hint("or name the workspace with -C DIR")
    }

    /// The daemon that this command followed has ended.
    #[must_use]
    pub fn daemon_ended() -> Self {
        Self::new(Kind::NoDaemon, "the e2ek-sync watch that was followed has ended")
    }

    /// The daemon does not answer.
    #[must_use]
    pub fn daemon_silent() -> Self {
        Self::new(Kind::NotInSync, "the running e2ek-sync watch does not answer")
            .hint("it may be stopped: `fg` in its terminal lets it go on after Ctrl-Z")
            .hint("or the target is slow: try again with a longer --timeout")
    }

    /// The daemon answers what this version does not know.
    #[must_use]
    pub fn daemon_not_understood(answer: &str) -> Self {
        let answer: String = answer.chars().take(200).collect();
        let answer = Escaped(answer.as_bytes());
        let what = "the answer of the running e2ek-sync watch is not understood";
        Self::new(Kind::NoDaemon, format!("{what}: {answer}"))
            .hint("it may be of another version: end it and start it again with this one")
    }

    /// The hub cannot take its link, or cannot serve it.
    #[must_use]
    pub fn hub_not_served(error: &io::Error) -> Self {
        Self::new(Kind::Failure, format!("the link cannot be served: {}", reason(error)))
            .hint("`hub` is started by e2ek-sync itself; see e2ek-sync watch --help")
    }

    /// The two ends speak protocol versions with nothing in common. The older end is the one to
    /// replace.
    #[must_use]
    pub fn version_skew(peer: &str, ours: &str, theirs: &str) -> Self {
        let [peer, ours, theirs] =
            [peer, ours, theirs].map(|text| Escaped(text.as_bytes()).to_string());
        Self::new(
            Kind::NoDaemon,
            format!("this e2ek-sync speaks {ours}, {peer} speaks {theirs}: no version in common"),
        )
        .hint("install the same version at both ends: e2ek-sync version")
    }

    /// The program of `--transport-cmd` could not be started.
    #[must_use]
    pub fn transport_not_started(program: &OsStr, error: &io::Error) -> Self {
        let program = Escaped(program.as_bytes());
        let message = format!("the transport command `{program}` cannot be started: ");
        Self::new(Kind::Failure, message + &reason(error))
            .hint("--transport-cmd takes a program and its arguments; no shell reads them")
    }

    /// The far end did not speak our protocol; `said` is the first of what it sent instead.
    #[must_use]
    pub fn not_a_hub(said: &[u8]) -> Self {
        let said = Escaped(&said[..said.len().min(80)]);
        Self::new(Kind::Failure, format!("the far end is no e2ek hub; it said: {said}"))
            .hint("what starts it must print nothing on stdout: look at shell start-up files")
    }

    /// CMD could not be started.
    #[must_use]
    pub fn command_not_started(program: &OsStr, error: &io::Error) -> Self {
        let name = Path::new(program).file_name().unwrap_or(program);
        let python = name.as_bytes().starts_with(b"python");
        let program = Escaped(program.as_bytes());
        let missing = error.kind() == io::ErrorKind::NotFound;
        Self::new(Kind::Failure, format!("`{program}` cannot be started: {}", reason(error)))
            .hint_if(
                missing && python,
                format!(
                    "{program} not found: install Python 3.9+ with pip, or try `examples/shell`"
                ),
            )
            .hint_if(missing, "it is looked up in PATH at the target, in the target's directory")
    }

    /// A socket or state directory belongs to another user, or others may write to it.
    #[must_use]
    pub fn directory_not_private(path: &Path, why: &str) -> Self {
        Self::new(Kind::Forbidden, format!("{} is not private: {why}", shown(path)))
            .hint("choose another place with --state-dir, or remove it")
    }

    /// Ctrl-C.
    #[must_use]
    pub fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted")
    }

    /// SIGTERM.
    #[must_use]
    pub fn terminated() -> Self {
        Self::new(Kind::Terminated, "terminated")
    }
}
