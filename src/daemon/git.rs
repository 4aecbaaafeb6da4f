//! Whether a git command is at work: while it is, what it leaves is half of something.

use std::fs;
use std::path::Path;

/// Deepest that submodules are looked for; a name with slashes takes one for each of its parts.
const MAX_DEPTH: usize = 8;

/// Whether a git command holds the index of a repository, or that of a submodule in it, at any depth.
/// `git` is where it keeps what belongs to the working tree.
///
/// Cost: a look and a list for each submodule.
pub(super) fn is_busy(git: &Path) -> bool {
    git.join("index.lock").exists() || in_modules(&git.join("modules"), MAX_DEPTH)
}

fn in_modules(folder: &Path, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    let Ok(list) = fs::read_dir(folder) else { return false };
    let folders = list.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).any(|module| {
        if module.join("index.lock").exists() {
            return true;
        }
        // A submodule's own, or the first part of a name.
        let is_one = module.join("HEAD").exists();
        in_modules(&if is_one { module.join("modules") } else { module }, depth)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i9_the_lock_of_any_submodule_counts() {
        let home = tempfile::tempdir().unwrap();
        let git = home.path().join(".git");
        let modules = ["modules/a", "modules/lib/b", "modules/lib/b/modules/c"];
        for module in ["."].into_iter().chain(modules) {
            fs::create_dir_all(git.join(module).join("objects/aa")).unwrap();
            fs::write(git.join(module).join("HEAD"), "").unwrap();
        }
        assert!(!is_busy(&git));
        for module in ["."].into_iter().chain(modules) {
            let lock = git.join(module).join("index.lock");
            fs::write(&lock, "").unwrap();
            assert!(is_busy(&git), "{module}");
            fs::remove_file(lock).unwrap();
            assert!(!is_busy(&git), "{module}");
        }
    }
}
