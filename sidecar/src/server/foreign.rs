//! Owns what lies at the roots and is not managed, for `mirror`: told with its content, and removed
//! only if it still is that. Files and links go through the trash.
//!
//! What is mounted below a root by others is left alone with all that is in it, and so are FIFOs,
//! sockets and devices: the directory they lie in stays and is told as a problem.

use super::look::reason;
use super::root::{Found, FoundKind, Removed, TargetRoot};
use super::site::Site;
use crate::path::SyncPath;
use crate::tree::{Problem, Reason, TreeId};
use crate::wire::{self, Blob, FromHub, Listed};

impl Site {
    /// Answers `ListForeign`: what lies at the roots and is not in the record.
    pub(super) fn foreign(&self) -> Vec<FromHub> {
        let mut found = Vec::new();
        for (index, root) in self.roots.iter().enumerate() {
            let top = SyncPath::root().join(index.to_string().as_bytes());
            if let (Some(root), Ok(top)) = (root, top) {
                self.list_foreign(root, &top, &SyncPath::root(), &mut found);
            }
        }
        let parts = wire::batches(found);
        let mut answers: Vec<_> =
            parts.map(|paths| FromHub::Foreign { paths, last: false }).collect();
        answers.push(FromHub::Foreign { paths: Vec::new(), last: true });
        answers
    }

    fn list_foreign(
        &self,
        root: &TargetRoot,
        path: &SyncPath,
        below: &SyncPath,
        out: &mut Vec<(SyncPath, Listed)>,
    ) {
        let Ok(mut list) = root.list(below) else { return };
        list.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, found) in list {
            let (Ok(path), Ok(below)) = (path.join(&name), below.join(&name)) else { continue };
            let managed = self.receiver.held().get(&path).is_some();
            if !managed && found.mount_root {
                continue;
            }
            let listed = if managed { None } else { listed_as(root, &below, &found) };
            out.extend(listed.map(|listed| (path.clone(), listed)));
            if found.kind == FoundKind::Directory {
                self.list_foreign(root, &path, &below, out);
            }
        }
    }

    /// Removes unmanaged paths that still are what was listed (`mirror`).
    pub(super) fn remove_foreign(&mut self, paths: &[(SyncPath, Listed)]) -> Vec<FromHub> {
        let (mut removed, mut problems) = (0, Vec::new());
        for (path, listed) in paths.iter().rev() {
            match self.remove_foreign_one(path, listed) {
                Ok(true) => removed += 1,
                Ok(false) => {}
                Err(reason) => problems.push(Problem { path: path.clone(), reason }),
            }
        }
        let mut answers = vec![FromHub::ForeignRemoved { removed, problems: Vec::new() }];
        let mut parts = wire::batches(problems);
        if let Some(problems) = parts.next() {
            answers = vec![FromHub::ForeignRemoved { removed, problems }];
        }
        let rest = parts.map(|problems| FromHub::ForeignRemoved { removed: 0, problems });
        answers.extend(rest);
        answers
    }

    fn remove_foreign_one(&mut self, path: &SyncPath, listed: &Listed) -> Result<bool, Reason> {
        let Some((root, below)) = self.locate(path) else { return Err(Reason::Name) };
        if self.receiver.held().get(path).is_some() || below.is_root() {
            return Ok(false);
        }
        if matches!(listed, Listed::Directory(_)) {
            return match root.remove_directory(&below).map_err(|error| reason(&error))? {
                Removed::Gone => Ok(true),
                Removed::Absent => Ok(false),
                Removed::NotEmpty => Err(Reason::NotEmpty),
            };
        }
        let found = root.stat(&below).map_err(|error| reason(&error))?;
        let Some(found) = found else { return Ok(false) };
        if listed_as(root, &below, &found).as_ref() != Some(listed) {
            return Err(Reason::Conflict);
        }
        let kept = self.keep(path, self.receiver.generation())?;
        let Some((root, below)) = self.locate(path) else { return Err(Reason::Name) };
        match root.stat(&below).map_err(|error| reason(&error))? {
            None => Ok(false),
            Some(now) if Some(now.stamp) == kept => {
                let removed = root.remove_file(&below).map_err(|error| reason(&error))?;
                Ok(removed == Removed::Gone)
            }
            Some(_) => Err(Reason::Conflict),
        }
    }
}

fn listed_as(root: &TargetRoot, below: &SyncPath, found: &Found) -> Option<Listed> {
    match &found.kind {
        FoundKind::Directory => Some(Listed::Directory(TreeId([0; 32]))),
        FoundKind::Symlink { target } => Some(Listed::Symlink(Blob(target.to_vec()))),
        FoundKind::File => {
            let (digest, found) = root.hash(below).ok()??;
            Some(Listed::File { digest, size: found.size, executable: found.executable })
        }
        FoundKind::Other => None,
    }
}
