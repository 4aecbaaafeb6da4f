//! The files that decide and lie in no pair's root, or in a `.git` (`.gitignore` above it, `info/exclude`,
//! git's `core.excludesFile` and the configuration that names it): their names are followed in their
//! folders, and nothing else there.

use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Told;
use crate::watch::{Folders, Names};

/// All of them. Dropped, they are followed no more.
#[derive(Default)]
pub(super) struct Outside {
    followed: Names,
    task: JoinSet<()>,
}

impl Outside {
    /// Follows these files from now on; each change of one is told, and some that are none. What is not
    /// there yet is waited for where the way to it ends.
    pub(super) fn follow(
        &mut self,
        files: impl Iterator<Item = PathBuf>,
        told: &mpsc::Sender<Told>,
    ) {
        let names = names_of(files);
        if names == self.followed {
            return;
        }
        self.task = JoinSet::new();
        if !names.is_empty() {
            self.task.spawn(tell(Folders::new(names.clone()), told.clone()));
        }
        self.followed = names;
    }
}

async fn tell(mut folders: Folders, told: mpsc::Sender<Told>) {
    loop {
        folders.next().await;
        if told.send(Told::Rules).await.is_err() {
            return;
        }
    }
}

/// Where to look for a change of these files: the folder of each, or the last on the way to it that
/// is there; of a link, what it leads to as well.
fn names_of(files: impl Iterator<Item = PathBuf>) -> Names {
    let mut names = Names::new();
    for file in files {
        let real = file.canonicalize().ok();
        // A device (`GIT_CONFIG_GLOBAL=/dev/null`) never says anything else, and much goes on beside it.
        if real.as_ref().is_some_and(|real| !real.is_file() && !real.is_dir()) {
            continue;
        }
        real.iter().for_each(|real| add(&mut names, real));
        add(&mut names, &file);
    }
    names
}

fn add(names: &mut Names, file: &Path) {
    let mut missing = file;
    while let Some((folder, name)) = missing.parent().zip(missing.file_name()) {
        if let Ok(folder) = folder.canonicalize() {
            names.entry(folder).or_default().insert(name.as_encoded_bytes().to_vec());
            return;
        }
        missing = folder;
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_looked_for_where_it_is_where_it_leads_and_where_the_way_ends() {
        let home = tempfile::tempdir().unwrap();
        let top = home.path().canonicalize().unwrap();
        std::fs::create_dir(top.join("dotfiles")).unwrap();
        std::fs::write(top.join("dotfiles/gitconfig"), "").unwrap();
        std::os::unix::fs::symlink("dotfiles/gitconfig", top.join(".gitconfig")).unwrap();
        let files = [".gitconfig", "no/such/file", "/dev/null"].map(|name| top.join(name));
        let named = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
        let expected = [
            (top.clone(), named(&[".gitconfig", "no"])),
            (top.join("dotfiles"), named(&["gitconfig"])),
        ];
        assert_eq!(names_of(files.into_iter()), Names::from(expected));
    }
}
