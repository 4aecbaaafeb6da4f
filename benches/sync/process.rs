//! Owns what /proc says of a running process: its children, its memory.

use std::fs;

use crate::Result;

/// What stands after the name, which may hold anything: field 3 of `proc_pid_stat`(5) is the first.
pub(crate) fn stat(pid: u32) -> Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').ok_or("no name in stat")?;
    Ok(rest.split_ascii_whitespace().map(str::to_owned).collect())
}

/// The processes below `root`, parents first, without it.
pub(crate) fn descendants(root: u32) -> Result<Vec<u32>> {
    let mut pairs = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        // It may have ended meanwhile. Field 4 is the parent.
        let Ok(fields) = stat(pid) else { continue };
        let Some(parent) = fields.get(1).and_then(|field| field.parse::<u32>().ok()) else {
            continue;
        };
        pairs.push((parent, pid));
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(pairs.iter().filter(|(its, _)| *its == parent).map(|(_, pid)| *pid));
        next += 1;
    }
    found.retain(|&pid| pid != root);
    Ok(found)
}

/// Resident memory in bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) now: u64,
    /// The most since the start, or since [`forget_peak`].
    pub(crate) peak: u64,
}

pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.split_ascii_whitespace().next());
        Ok(kib.ok_or_else(|| format!("no {name} of {pid}"))?.parse::<u64>()? * 1024)
    };
    Ok(Memory { now: field("VmRSS")?, peak: field("VmHWM")? })
}

/// Lets the peak begin anew at what is resident now (proc(5), `clear_refs`).
pub(crate) fn forget_peak(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}
