//! Owns the question which process is a container's: by the container's name, from `/proc` alone.
//!
//! In a pod whose containers share their processes, each process tells whose it is by what the
//! kubelet mounted for it: `.../pods/<pod>/containers/<name>/<hash>` is the origin of the file that
//! `terminationMessagePath` names, and its hash is another one after each restart. An app cannot
//! forge that without the right to mount. The runtime's id of the container stands in the name of
//! its control group; a process of another one than the cluster says is not taken. The container's
//! main process is the oldest of those whose parent is outside of the pod (an exec'd one is such a
//! process, too).
//!
//! Everything here is readable without any privilege. A found number is only a number: `Target`
//! pins it, and looks again whose it is.

use std::path::Path;

/// Whose process it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The pod's uid, as the kubelet writes it.
    pub pod: String,
    /// The container's name in the pod.
    pub name: String,
    /// Differs from one start of the container to the next.
    pub start: String,
    /// The runtime's id, 64 hexadecimal digits; `None` where the control group does not tell (a
    /// namespace that hides it).
    pub id: Option<String>,
}

impl Identity {
    /// Names this start of the container, for the record of what was written there.
    #[must_use]
    pub fn incarnation(&self) -> String {
        format!("{}/{}/{}", self.pod, self.start, self.id.as_deref().unwrap_or_default())
    }

    /// Compares the runtime's id with what the cluster says, where both are known.
    ///
    /// # Errors
    /// [`FindError::Another`].
    pub fn check(&self, told: Option<&str>) -> Result<(), FindError> {
        match (self.id.as_deref(), told) {
            (Some(found), Some(told)) if found != told => Err(FindError::Another {
                wanted: self.name.clone(),
                found: found.to_owned(),
                told: told.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// The main process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MainProcess {
    /// Its number, now.
    pub pid: i32,
    /// Whose it is.
    pub identity: Identity,
}

/// Why a container's process is not found. The names are those of the containers that were seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// No process of a container of this name; without names: processes are not shared at all.
    #[error("no process of container {wanted} is here")]
    Missing {
        /// Which one was asked for; empty for any.
        wanted: String,
        /// Other containers that run.
        seen: Vec<String>,
    },
    /// No container was named, and there are several.
    #[error("there are several containers")]
    Ambiguous {
        /// Which.
        seen: Vec<String>,
    },
    /// The container is there, and the runtime knows it by another id than the cluster says: one of the
    /// two is of an earlier start.
    #[error("container {wanted} has the id {found} here and {told} in the cluster")]
    Another {
        /// Which one was asked for.
        wanted: String,
        /// By its control group.
        found: String,
        /// What the cluster says.
        told: String,
    },
    /// `/proc` cannot be read.
    #[error("/proc cannot be read: {0}")]
    Unreadable(String),
}

/// Finds the main process of the container `name` (`None`: the only one beside our own) in the pod
/// that this process belongs to. Where the runtime's id is known here, it must be `id`.
/// Costs about four small reads a process.
///
/// # Errors
/// [`FindError`].
pub fn find(name: Option<&str>, id: Option<&str>) -> Result<MainProcess, FindError> {
    let ours = std::fs::read("/proc/self/mountinfo").ok().and_then(|bytes| named(&bytes));
    find_in(Path::new("/proc"), ours.as_ref(), name, id)
}

/// This very process, as its container's main one; `None` outside of a pod.
#[must_use]
pub fn ourselves() -> Option<MainProcess> {
    let read = |name: &str| std::fs::read(format!("/proc/self/{name}")).ok();
    let identity = identify(&read("mountinfo")?, read("cgroup").as_deref())?;
    Some(MainProcess { pid: std::process::id().cast_signed(), identity })
}

/// As [`find`], in a `/proc` that lies anywhere, for who is `ours`.
fn find_in(
    proc: &Path,
    ours: Option<&Named>,
    name: Option<&str>,
    id: Option<&str>,
) -> Result<MainProcess, FindError> {
    let mut found: Vec<Candidate> = Vec::new();
    let numbers = std::fs::read_dir(proc).map_err(|e| FindError::Unreadable(e.to_string()))?;
    for entry in numbers {
        let number = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse().ok());
        found.extend(number.and_then(|pid| candidate(proc, pid)));
    }
    if let Some(ours) = ours {
        found.retain(|one| one.named.pod == ours.pod && one.named.name != ours.name);
    }
    let mut seen: Vec<String> = found.iter().map(|one| one.named.name.clone()).collect();
    seen.sort();
    seen.dedup();
    let wanted = match name {
        Some(name) => name.to_owned(),
        None if seen.len() > 1 => return Err(FindError::Ambiguous { seen }),
        None => seen.first().cloned().unwrap_or_default(),
    };
    found.retain(|one| one.named.name == wanted);
    if found.iter().any(|one| one.id.is_some() && one.id.as_deref() == id) {
        found.retain(|one| one.id.as_deref() == id);
    }
    // What does not tell its id may be the one that is meant, before those which are another.
    let oldest = found
        .into_iter()
        .min_by_key(|one| (id.is_some() && one.id.is_some(), one.start_time, one.pid));
    let Some(one) = oldest else { return Err(FindError::Missing { wanted, seen }) };
    let main = MainProcess { pid: one.pid, identity: identity(one.named, one.id) };
    main.identity.check(id).map(|()| main)
}

/// A process that a container's runtime started from outside of the pod.
struct Candidate {
    pid: i32,
    start_time: u64,
    named: Named,
    id: Option<String>,
}

fn candidate(proc: &Path, pid: i32) -> Option<Candidate> {
    let dir = proc.join(pid.to_string());
    let read = |name: &str| std::fs::read(dir.join(name)).ok();
    let stat = parse_stat(&read("stat")?)?;
    let is_main = stat.parent == 0 && !stat.is_starting && !stat.is_dead;
    if !is_main {
        return None;
    }
    let named = named(&read("mountinfo")?)?;
    let id = read("cgroup").and_then(|bytes| container_id(&bytes));
    Some(Candidate { pid, start_time: stat.start_time, named, id })
}

/// The mount that a process's mounts begin with: the last one at `/`, which covers those before it.
pub(super) fn root_mount(mountinfo: &[u8]) -> Option<u64> {
    let lines = mountinfo.split(|&b| b == b'\n');
    let mut at_root = lines.filter_map(|line| {
        let mut fields = line.split(|&b| b == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        (fields.nth(3)? == b"/").then_some(id)
    });
    at_root.next_back()
}

/// What a process's own files say, read again after it was pinned.
pub(in crate::server) fn identify(mountinfo: &[u8], cgroup: Option<&[u8]>) -> Option<Identity> {
    Some(identity(named(mountinfo)?, cgroup.and_then(container_id)))
}

fn identity(named: Named, id: Option<String>) -> Identity {
    let Named { pod, name, start } = named;
    Identity { pod, name, start, id }
}

struct Stat {
    parent: i32,
    start_time: u64,
    /// Still the runtime's own program, which may not have entered the container's root yet.
    is_starting: bool,
    is_dead: bool,
}

/// Some fields of proc_pid_stat(5). The command's name, in parentheses, may hold anything, so the
/// last `)` ends it.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let open = stat.iter().position(|&b| b == b'(')?;
    let close = stat.iter().rposition(|&b| b == b')')?;
    let name = stat.get(open + 1..close)?;
    let rest = std::str::from_utf8(&stat[close + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
        // runc says so of itself (libcontainer/nsenter); crun is not named by a process before it
        // execs, and is not dumpable until then.
        is_starting: name.starts_with(b"runc:["),
        is_dead: matches!(fields.first().copied(), Some("Z" | "X" | "x")),
    })
}

/// What the kubelet's mounts say.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    pod: String,
    name: String,
    start: String,
}

/// Reads `mountinfo` (proc_pid_mountinfo(5): the fourth field is the origin of a mount, the fifth
/// where it is).
fn named(mountinfo: &[u8]) -> Option<Named> {
    let mut found = None;
    for line in mountinfo.split(|&b| b == b'\n') {
        let mut fields = line.split(|&b| b == b' ').skip(3);
        let (Some(origin), Some(place)) = (fields.next(), fields.next()) else { continue };
        let Ok(origin) = std::str::from_utf8(origin) else { continue };
        match of_kubelet(origin.strip_suffix("//deleted").unwrap_or(origin)) {
            // Before the runtime has entered the new root, its mounts lie below that.
            Some(Kubelet::Hosts) if place != b"/etc/hosts" => return None,
            Some(Kubelet::Container(named)) => found = Some(named),
            Some(Kubelet::Hosts) | None => {}
        }
    }
    found
}

/// A mount of the kubelet's own that says something.
enum Kubelet {
    Container(Named),
    Hosts,
}

fn of_kubelet(origin: &str) -> Option<Kubelet> {
    let parts: Vec<&str> = origin.split('/').collect();
    let pods = parts.iter().position(|&part| part == "pods")?;
    match &parts[pods + 1..] {
        // Whatever an app calls its own directories, it does so below `<pod>/volumes`.
        [pod, "containers", name, start] => Some(Kubelet::Container(Named {
            pod: (*pod).to_owned(),
            name: (*name).to_owned(),
            start: (*start).to_owned(),
        })),
        [_, "etc-hosts"] => Some(Kubelet::Hosts),
        _ => None,
    }
}

/// Finds the runtime's id in `cgroup` (cgroups(7)): 64 hexadecimal digits at the end of a component,
/// bare (cgroupfs driver) or after `cri-containerd-`, `crio-`, `docker-` or `<slice>:cri-containerd:`
/// and before `.scope` (systemd driver). A container may have groups of its own below.
fn container_id(cgroup: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(cgroup).ok()?;
    text.lines().find_map(|line| {
        let path = line.splitn(3, ':').nth(2)?;
        path.rsplit('/').find_map(id_in)
    })
}

fn id_in(component: &str) -> Option<String> {
    const DIGITS: usize = 64;
    let component = component.strip_suffix(".scope").unwrap_or(component);
    let cut = component.len().checked_sub(DIGITS)?;
    let (before, id) = component.split_at_checked(cut)?;
    let is_id = id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let is_apart = before.is_empty() || before.ends_with(['-', ':']);
    (is_id && is_apart).then(|| id.to_owned())
}

#[cfg(test)]
mod tests;
