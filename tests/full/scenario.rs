//! Two trees, and a source that becomes the one or the other.
//!
//! Between them everything that a sync does happens once: files come, go, grow, change their kind,
//! their bit and their name; small ones, empty ones and one of several frames.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::place::everything_below;
use crate::tree::{Found, Tree};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Before,
    After,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        if self == Self::Before { Self::After } else { Self::Before }
    }

    pub(crate) fn tree(self) -> Tree {
        let mut tree = Tree::new();
        let mut put = |path: &str, found| {
            let mut above = Path::new(path).parent();
            while let Some(directory) = above.filter(|above| !above.as_os_str().is_empty()) {
                tree.insert(directory.as_os_str().as_bytes().to_vec(), Found::Directory);
                above = directory.parent();
            }
            tree.insert(path.as_bytes().to_vec(), found);
        };
        put("same.txt", file("as ever", 0o644));
        put("deep/1/2/same", file("down here", 0o644));
        match self {
            Self::Before => {
                put("small.txt", file("old", 0o644));
                put("large.bin", large(1));
                put("was-empty", file("", 0o644));
                put("bit-only.sh", file("#!/bin/sh\n", 0o644));
                put("tool", file("#!/bin/sh\necho 1\n", 0o755));
                put("link", Found::Link(b"small.txt".to_vec()));
                put("link-or-file", Found::Link(b"tool".to_vec()));
                put("file-then-directory", file("a file", 0o644));
                put("directory-then-file/1", file("1", 0o644));
                put("directory-then-file/in/2", file("2", 0o644));
                put("old-name.txt", file("travels far", 0o644));
                put("moved/from/here.txt", file("moves with its directory", 0o644));
                put("gone/1", file("goes", 0o644));
                put("gone/deeper/2", file("goes too", 0o755));
            }
            Self::After => {
                put("small.txt", file("new, and longer", 0o644));
                put("large.bin", large(2));
                put("was-empty", file("no longer", 0o644));
                put("bit-only.sh", file("#!/bin/sh\n", 0o755));
                put("tool", file("#!/bin/sh\necho 2\n", 0o755));
                put("link", Found::Link(b"large.bin".to_vec()));
                put("link-or-file", file("a file now", 0o644));
                put("file-then-directory/inside", file("inside", 0o644));
                put("directory-then-file", file("flat", 0o644));
                put("deep/new-name.txt", file("travels far", 0o644));
                put("elsewhere/from/here.txt", file("moves with its directory", 0o644));
                put("new/empty", Found::Directory);
                put("new/3", file("comes", 0o644));
                put("deep/1/2/copy-of-same", file("as ever", 0o644));
            }
        }
        tree
    }

    /// Makes a directory this side, each file and link by one rename.
    pub(crate) fn put_at(self, root: &Path) {
        let wanted = self.tree();
        let there = crate::tree::of(root);
        let is_directory = |found: &Found| *found == Found::Directory;
        // The deepest first, for directories have to be empty.
        for (name, found) in there.iter().rev() {
            let kept = wanted.get(name).is_some_and(|w| is_directory(w) == is_directory(found));
            let path = root.join(OsStr::from_bytes(name));
            match found {
                _ if kept => {}
                Found::Directory => fs::remove_dir(path).unwrap(),
                _ => fs::remove_file(path).unwrap(),
            }
        }
        let aside = root.with_extension("aside");
        for (name, found) in wanted.iter().filter(|(name, found)| there.get(*name) != Some(found)) {
            let path = root.join(OsStr::from_bytes(name));
            match found {
                Found::File { mode, content } => {
                    fs::write(&aside, content).unwrap();
                    fs::set_permissions(&aside, fs::Permissions::from_mode(*mode)).unwrap();
                    fs::rename(&aside, &path).unwrap();
                }
                Found::Directory => fs::create_dir(&path).unwrap(),
                Found::Link(to) => {
                    std::os::unix::fs::symlink(OsStr::from_bytes(to), &aside).unwrap();
                    fs::rename(&aside, &path).unwrap();
                }
                Found::Other => unreachable!("no side has any"),
            }
        }
    }
}

fn file(content: &str, mode: u32) -> Found {
    Found::File { mode, content: content.into() }
}

/// Large enough to go ahead of its generation, in several frames; nothing that compresses.
fn large(seed: u64) -> Found {
    let mut state = seed;
    let mut byte = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    Found::File { mode: 0o644, content: (0..1_200_000).map(|_| byte()).collect() }
}

/// I1: what is wrong with a target on its way from one tree to the other, and perhaps in motion. Each
/// path is as the one or the other has it, and missing only where one has nothing there, or a
/// directory on one side only.
pub(crate) fn neither_old_nor_new(target: &Path, old: &Tree, new: &Tree) -> Vec<String> {
    let mut names: Vec<_> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    let mut wrong = Vec::new();
    for name in names {
        let (old, new) = (old.get(name), new.get(name));
        let found = found(&target.join(OsStr::from_bytes(name)));
        let directory = |found: Option<&Found>| found == Some(&Found::Directory);
        let may_miss = old.is_none() || new.is_none() || directory(old) != directory(new);
        let found = found.as_ref();
        if found != old && found != new && (found.is_some() || !may_miss) {
            let name = String::from_utf8_lossy(name);
            wrong.push(format!("{name}: {found:?}, which is neither {old:?} nor {new:?}"));
        }
    }
    wrong
}

/// What nobody put there: names that neither tree has.
pub(crate) fn unknown(target: &Path, old: &Tree, new: &Tree) -> Vec<String> {
    let there = crate::tree::of(target);
    let unknown = there.keys().filter(|name| !old.contains_key(*name) && !new.contains_key(*name));
    unknown.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

/// What stands at a path at one moment, although it may be replaced at any.
fn found(path: &Path) -> Option<Found> {
    use rustix::fs::{Mode, OFlags};
    use rustix::io::Errno;
    loop {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => {
                let mut file = fs::File::from(fd);
                let meta = file.metadata().unwrap();
                if meta.is_dir() {
                    return Some(Found::Directory);
                }
                let mut content = Vec::new();
                file.read_to_end(&mut content).unwrap();
                let mode = meta.permissions().mode() & 0o7777;
                return Some(Found::File { mode, content });
            }
            Err(Errno::LOOP) => {
                if let Ok(to) = fs::read_link(path) {
                    return Some(Found::Link(to.into_os_string().into_encoded_bytes()));
                }
            }
            Err(_) => return None,
        }
    }
}

/// Files of our own records that are no trash and no log for people.
pub(crate) fn records(roots: [&Path; 2]) -> usize {
    let all = roots.into_iter().flat_map(everything_below).filter(|path| path.is_file());
    let part = |path: &Path, name: &str| path.components().any(|part| part.as_os_str() == name);
    all.filter(|path| !part(path, "trash") && !part(path, "log")).count()
}
