//! Owns finding the mounts that lie inside a root, so that leftovers in them are swept too.

use std::os::fd::{AsFd, BorrowedFd};

use super::beneath::Resolver;
use super::found::mount_id;
use crate::path::SyncPath;

/// One line of `mountinfo` (proc_pid_mountinfo(5)), as far as we need it.
struct Mount {
    id: u64,
    above: u64,
    point: Vec<u8>,
}

/// The directories below `root` at which something is mounted, as `mountinfo` of a process in the
/// same mount namespace tells. The mount points' paths need not begin where the root lies: each
/// tail is tried below the root and taken when it leads to that very mount, so neither a chroot
/// nor links on the way to the root matter. What is overmounted is left out.
pub(super) fn nested(root: BorrowedFd<'_>, resolver: Resolver, mountinfo: &[u8]) -> Vec<SyncPath> {
    let Some(base) = mount_id(root) else {
        return Vec::new();
    };
    let mounts: Vec<Mount> = mountinfo.split(|&b| b == b'\n').filter_map(parse).collect();
    let inside = |mount: &Mount| {
        let mut above = mount.above;
        for _ in 0..mounts.len() {
            if above == base {
                return true;
            }
            match mounts.iter().find(|m| m.id == above) {
                Some(next) if next.id != next.above => above = next.above,
                _ => return false,
            }
        }
        false
    };
    mounts.iter().filter(|m| inside(m)).filter_map(|m| below(root, resolver, m)).collect()
}

fn below(root: BorrowedFd<'_>, resolver: Resolver, mount: &Mount) -> Option<SyncPath> {
    let mut tail = mount.point.as_slice();
    while let Some(cut) = tail.iter().position(|&b| b == b'/') {
        tail = &tail[cut + 1..];
        let Ok(path) = SyncPath::new(tail) else {
            continue;
        };
        let there = resolver.directory(root, tail).ok();
        if there.is_some_and(|d| mount_id(d.as_fd()) == Some(mount.id)) {
            return Some(path);
        }
    }
    None
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
    let (id, above) = (number()?, number()?);
    Some(Mount { id, above, point: unescape(fields.nth(2)?) })
}

/// Undoes the `\040` escapes of `mountinfo`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\');
        let value =
            octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(value.unwrap_or(first));
        rest = if value.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_understood() {
        let line = br"36 35 98:0 /mnt1 /a\040b/c\134 rw,noatime master:1 - ext3 /dev/root rw";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.above, &mount.point[..]), (36, 35, &br"/a b/c\"[..]));
        assert!(parse(b"").is_none() && parse(b"1 x").is_none() && parse(b"1 2 3 4").is_none());
    }
}
