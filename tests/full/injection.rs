//! One fault at one system call of a process, put in by strace.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// What happens in place of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`, before the call does anything.
    Kill,
    /// The call fails with this error and does nothing.
    Error(&'static str),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kill => f.write_str("KILL"),
            Self::Error(name) => f.write_str(name),
        }
    }
}

/// The calls that change or claim something, and those that bring its content: where a process is
/// stopped makes a difference there.
pub(crate) const CALLS: &[&str] = &[
    "write",
    "pwrite64",
    "writev",
    "rename",
    "renameat",
    "renameat2",
    "open",
    "openat",
    "openat2",
    "creat",
    "unlink",
    "unlinkat",
    "rmdir",
    "mkdir",
    "mkdirat",
    "close",
    "fsync",
    "fdatasync",
    "ftruncate",
    "fallocate",
    "copy_file_range",
    "sendfile",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "fchmod",
    "fchmodat",
    "utimensat",
    "flock",
    "read",
    "pread64",
    "getdents64",
];

/// The faults that the kernel gives for such a call.
pub(crate) fn faults(call: &str) -> Vec<Fault> {
    let more: &[&str] = match call {
        "open" | "openat" | "openat2" | "creat" => &["EMFILE", "EROFS", "EACCES"],
        "rename" | "renameat" | "renameat2" => &["EROFS", "EACCES", "EBUSY"],
        "unlink" | "unlinkat" | "rmdir" => &["EROFS", "EACCES", "EBUSY"],
        "mkdir" | "mkdirat" | "symlinkat" => &["EROFS", "EACCES"],
        _ => &[],
    };
    let both: &[&str] = match call {
        // It is closed all the same (close(2)); strace would leave it open.
        "close" => &[],
        "read" | "pread64" | "getdents64" | "flock" => &["EIO"],
        _ => &["ENOSPC", "EIO"],
    };
    let errors = both.iter().chain(more).map(|name| Fault::Error(name));
    std::iter::once(Fault::Kill).chain(errors).collect()
}

/// A fault at the `when`-th call of its kind in each thread of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Injection {
    pub(crate) call: &'static str,
    pub(crate) fault: Fault,
    pub(crate) when: u32,
}

impl std::fmt::Display for Injection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {} number {}", self.fault, self.call, self.when)
    }
}

impl Injection {
    /// The beginning of a command line that runs the rest of it with the fault, noted in a file.
    /// `alone`: what the process starts is left in peace.
    ///
    /// Not with `--seccomp-bpf`: strace 6.1 then forgets to send the signal.
    pub(crate) fn words(&self, log: &Path, alone: bool) -> Vec<String> {
        let Self { call, fault, when } = self;
        let how = match fault {
            Fault::Kill => "signal=KILL".to_owned(),
            Fault::Error(name) => format!("error={name}"),
        };
        let mut words = tracing(log, alone);
        words.extend(["-e".to_owned(), format!("trace={call}")]);
        words.extend(["-e".to_owned(), format!("inject={call}:{how}:when={when}")]);
        words
    }

    /// Whether it happened.
    pub(crate) fn has_fired(&self, log: &Path) -> bool {
        let text = fs::read_to_string(log).unwrap_or_default();
        match self.fault {
            Fault::Error(_) => text.contains("(INJECTED)"),
            Fault::Kill => {
                // Whoever sees its end may end strace before that has written so.
                let ends = [" = ?", "+++ killed by SIGKILL +++", "<unfinished ...>"];
                let most = counted(&text).remove(self.call).unwrap_or_default();
                most >= self.when && ends.iter().any(|end| text.contains(end))
            }
        }
    }
}

/// Whether the fault hit the counter by which a runtime wakes itself (eventfd(2)). The kernel never
/// fails there, so what comes of it, a panic or a standstill, says nothing.
pub(crate) fn was_impossible(log: &Path) -> bool {
    let text = fs::read_to_string(log).unwrap_or_default();
    let mut begun = HashMap::new();
    text.lines().any(|line| {
        let wakes = line.contains(r#""\1\0\0\0\0\0\0\0", 8"#);
        // Another thread's call may have come between the two halves of this one.
        let thread = line.split(' ').next().unwrap_or_default();
        let resumed = line.contains(" resumed>") && begun.remove(thread).unwrap_or(false);
        if line.ends_with("<unfinished ...>") {
            begun.insert(thread, wakes);
        }
        (wakes || resumed) && line.ends_with("(INJECTED)")
    })
}

/// A plan of stops: all of them, or a share spread evenly over what a run without a fault made.
pub(crate) enum Stops {
    /// N = 1, 2, 3 ... until nothing happens any more.
    All,
    /// One of so many.
    OneOf(usize),
}

impl Stops {
    /// All with `E2EK_FULL=1`.
    pub(crate) fn one_of(share: usize) -> Self {
        if crate::is_full() { Self::All } else { Self::OneOf(share) }
    }

    /// Has `strike` done at each stop for as long as it answers that the fault happened. `made` is
    /// what [`calls_made`] counted. With `E2EK_STOP="ENOSPC at openat number 2"` that one alone, with
    /// `E2EK_CALLS=unlink,write` those of these calls.
    pub(crate) fn each(
        &self,
        made: &HashMap<String, u32>,
        mut strike: impl FnMut(Injection) -> bool,
    ) {
        if let Ok(one) = std::env::var("E2EK_STOP") {
            let kinds =
                CALLS.iter().flat_map(|call| faults(call).into_iter().map(move |f| (call, f)));
            let all = kinds.flat_map(|(call, fault)| {
                (1..=999).map(move |when| Injection { call, fault, when })
            });
            all.filter(|injection| injection.to_string() == one).for_each(|injection| {
                strike(injection);
            });
            return;
        }
        let only = std::env::var("E2EK_CALLS").ok();
        let wanted =
            |call: &&str| only.as_ref().is_none_or(|only| only.split(',').any(|o| o == *call));
        let calls = CALLS.iter().copied().filter(wanted);
        let made = calls.filter_map(|call| Some((call, *made.get(call)?)));
        let kinds = made.flat_map(|(call, n)| faults(call).into_iter().map(move |f| (call, f, n)));
        match self {
            Self::All => {
                for (call, fault, _) in kinds {
                    let mut when = 1;
                    while strike(Injection { call, fault, when }) {
                        when += 1;
                    }
                }
            }
            Self::OneOf(share) => {
                let all = kinds.flat_map(|(call, fault, n)| {
                    (1..=n).map(move |when| Injection { call, fault, when })
                });
                all.step_by(*share).for_each(|injection| {
                    strike(injection);
                });
            }
        }
    }
}

/// The words that run a program and only note its calls.
pub(crate) fn survey(log: &Path, alone: bool) -> Vec<String> {
    let mut words = tracing(log, alone);
    let known: Vec<_> = CALLS.iter().map(|call| format!("?{call}")).collect();
    words.extend(["-e".to_owned(), format!("trace={}", known.join(","))]);
    words
}

/// How often each call is made by the thread that makes it most often.
pub(crate) fn calls_made(log: &Path) -> HashMap<String, u32> {
    counted(&fs::read_to_string(log).unwrap_or_default())
}

fn tracing(log: &Path, alone: bool) -> Vec<String> {
    let mut words = vec!["strace".to_owned(), "-f".to_owned()];
    if alone {
        words.extend(["-b".to_owned(), "execve".to_owned()]);
    }
    words.extend(["-e", "signal=none", "-o", log.to_str().unwrap()].map(str::to_owned));
    words
}

fn counted(log: &str) -> HashMap<String, u32> {
    let mut threads: HashMap<(&str, &str), u32> = HashMap::new();
    for line in log.lines() {
        let Some((thread, said)) = line.split_once(' ') else { continue };
        if let Some((call, _)) = said.trim_start().split_once('(') {
            *threads.entry((thread, call)).or_default() += 1;
        }
    }
    let mut most = HashMap::new();
    for ((_, call), count) in threads {
        let entry = most.entry(call.to_owned()).or_insert(0);
        *entry = count.max(*entry);
    }
    most
}

/// Whether the sweeps can be run here.
pub(crate) fn can_inject() -> bool {
    let there = Command::new("strace").arg("--version").output().is_ok();
    if !there {
        println!("left out: strace is not installed");
    }
    // A mount of its own: where many file systems are mounted, each opening of a root looks for them.
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        let _ = tempfile::env::override_temp_dir(memory);
    }
    there
}
