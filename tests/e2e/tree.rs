//! What a directory holds, to compare with another.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Found {
    File { mode: u32, content: Vec<u8> },
    Directory,
    Link(Vec<u8>),
    Other,
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { mode, content } => {
                let start = String::from_utf8_lossy(&content[..content.len().min(40)]);
                write!(f, "file {mode:o} of {} bytes, {start:?}", content.len())
            }
            Self::Directory => f.write_str("directory"),
            Self::Link(to) => write!(f, "link to {:?}", String::from_utf8_lossy(to)),
            Self::Other => f.write_str("something else"),
        }
    }
}

pub(crate) type Tree = BTreeMap<Vec<u8>, Found>;

/// All below a directory, without our own staging.
pub(crate) fn of(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            if entry.file_name() == ".e2ek-sync" {
                continue;
            }
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            let found = if meta.is_dir() {
                open.push(path);
                Found::Directory
            } else if meta.is_symlink() {
                Found::Link(fs::read_link(&path).unwrap().into_os_string().as_bytes().to_vec())
            } else if meta.is_file() {
                let mode = meta.permissions().mode() & 0o7777;
                Found::File { mode, content: fs::read(&path).unwrap_or_default() }
            } else {
                Found::Other
            };
            tree.insert(name, found);
        }
    }
    tree
}

#[track_caller]
pub(crate) fn assert_equal(source: &Tree, target: &Tree) {
    let mut wrong = Vec::new();
    for name in source.keys().chain(target.keys().filter(|name| !source.contains_key(*name))) {
        let (here, there) = (source.get(name), target.get(name));
        if here != there {
            let name = String::from_utf8_lossy(name).into_owned();
            wrong.push(format!("{name:?}: {here:?} at the source, {there:?} at the target"));
        }
    }
    assert!(wrong.is_empty(), "{} paths differ:\n{}", wrong.len(), wrong.join("\n"));
}
