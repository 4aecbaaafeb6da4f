//! What git does to a source that is watched: files flow at once, and only the restart waits.

use std::path::Path;

use crate::daemon::Daemon;
use crate::place::{Place, Said, until};
use crate::tree;

over_each_link! {
    a_checkout_arrives_and_the_restart_comes_after_it,
    i9_files_flow_while_git_holds_its_lock,
    a_worktree_waits_for_its_own_lock,
    i9_a_submodule_that_is_checked_out_is_waited_for,
    stash_sparse_checkout_and_submodules_arrive,
    a_bisect_ends_with_what_it_leaves,
}

/// Says each start, and stays.
const APP: [&str; 4] = ["--", "sh", "-c", "echo started; exec sleep 1000"];

#[track_caller]
fn git(place: &Place, at: &Path, words: &[&str]) {
    let mut command = place.environment("git".as_ref());
    command.current_dir(at).env("GIT_CONFIG_GLOBAL", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "tester");
        command.env(format!("GIT_{who}_EMAIL"), "tester@localhost");
    }
    command.args(["-c", "protocol.file.allow=always", "-c", "init.defaultBranch=one"]).args(words);
    Said::of(command).ends_with(0);
}

#[track_caller]
fn commit(place: &Place, at: &Path) {
    git(place, at, &["add", "-A"]);
    git(place, at, &["commit", "-qm", "as it is"]);
}

/// All of the source but what git keeps for itself.
fn assert_followed(place: &Place) {
    let ours = |name: &[u8]| {
        let mut parts = name.split(|byte| *byte == b'/');
        !parts.any(|part| part == b".git")
    };
    let source = tree::of(&place.source).into_iter().filter(|(name, _)| ours(name)).collect();
    tree::assert_equal(&source, &tree::of(&place.target));
}

fn started(daemon: &mut Daemon<'_>) -> usize {
    daemon.rest().lines().filter(|line| *line == "started").count()
}

#[track_caller]
fn restarted(place: &Place) {
    place.control(&["flush", "--restarted", "--timeout", "100s"]).ends_with(0);
}

fn branch(place: &Place, files: usize, name: &str) {
    for number in 0..files {
        if number % 9 != name.len() {
            place.write(&format!("d{}/{number}", number % 23), format!("{name} {}", number % 2));
        } else {
            let _ = std::fs::remove_file(place.source.join(format!("d{}/{number}", number % 23)));
        }
    }
}

fn a_checkout_arrives_and_the_restart_comes_after_it(place: &Place) {
    git(place, &place.source, &["init", "-q"]);
    branch(place, 400, "one");
    commit(place, &place.source);
    git(place, &place.source, &["checkout", "-qb", "other"]);
    branch(place, 400, "other");
    commit(place, &place.source);
    let mut daemon = place.watch(&APP).synced();
    restarted(place);
    let mut before = started(&mut daemon);
    for name in ["one", "other", "one"] {
        git(place, &place.source, &["checkout", "-q", name]);
        restarted(place);
        assert_followed(place);
        until("the command says so", || started(&mut daemon) > before);
        // One, on a machine that keeps up: what is seen only after the lock is gone makes another.
        let now = started(&mut daemon);
        assert!(now <= before + 3, "{before}, then {now}:\n{}", daemon.rest());
        before = now;
    }
    daemon.stop();
}

/// While this lock is held files arrive and nothing is restarted; then once.
fn held(place: &Place, lock: &Path) {
    let mut daemon = place.watch(&APP).synced();
    restarted(place);
    std::fs::write(lock, "").unwrap();
    // Longer than a restart waits for quiet: by the clock of the product's own answers.
    let began = std::time::Instant::now();
    let mut round = 0;
    while began.elapsed().as_millis() < 1500 {
        round += 1;
        place.write("file", format!("{round}"));
        daemon.flush();
        assert_eq!(place.read("file").unwrap(), format!("{round}"));
        assert!(!daemon.rest().contains("restart begin"), "{}", daemon.rest());
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    std::fs::remove_file(lock).unwrap();
    restarted(place);
    until("the command says so", || started(&mut daemon) >= 2);
    assert_eq!(started(&mut daemon), 2, "{}", daemon.rest());
    daemon.stop();
}

fn i9_files_flow_while_git_holds_its_lock(place: &Place) {
    git(place, &place.source, &["init", "-q"]);
    place.write("file", "0");
    commit(place, &place.source);
    held(place, &place.source.join(".git/index.lock"));
}

fn a_worktree_waits_for_its_own_lock(place: &Place) {
    let main = place.top.join("main");
    std::fs::create_dir(&main).unwrap();
    git(place, &main, &["init", "-q"]);
    std::fs::write(main.join("file"), "0").unwrap();
    commit(place, &main);
    std::fs::remove_dir(&place.source).unwrap();
    git(place, &main, &["worktree", "add", "-q", place.source.to_str().unwrap()]);
    held(place, &main.join(".git/worktrees/src/index.lock"));
    assert_followed(place);
}

fn i9_a_submodule_that_is_checked_out_is_waited_for(place: &Place) {
    let other = place.top.join("other");
    std::fs::create_dir(&other).unwrap();
    git(place, &other, &["init", "-q"]);
    std::fs::write(other.join("inside"), "1").unwrap();
    commit(place, &other);
    git(place, &place.source, &["init", "-q"]);
    git(place, &place.source, &["submodule", "-q", "add", other.to_str().unwrap(), "lib/sub"]);
    commit(place, &place.source);
    held(place, &place.source.join(".git/modules/lib/sub/index.lock"));
    assert_followed(place);
}

fn stash_sparse_checkout_and_submodules_arrive(place: &Place) {
    let other = place.top.join("other");
    std::fs::create_dir(&other).unwrap();
    git(place, &other, &["init", "-q"]);
    std::fs::write(other.join("inside"), "1").unwrap();
    commit(place, &other);
    git(place, &place.source, &["init", "-q"]);
    branch(place, 200, "one");
    commit(place, &place.source);
    let mut daemon = place.watch(&APP).synced();
    restarted(place);
    place.write("d1/1", "not committed");
    restarted(place);
    let before = started(&mut daemon);
    let steps: [&[&str]; 6] = [
        &["stash", "-q"],
        &["stash", "pop", "-q"],
        &["submodule", "-q", "add", other.to_str().unwrap(), "sub"],
        &["commit", "-qam", "with a submodule"],
        &["sparse-checkout", "set", "--no-cone", "/*", "!/d5/"],
        &["sparse-checkout", "disable"],
    ];
    for step in steps {
        git(place, &place.source, step);
        restarted(place);
        assert_followed(place);
        assert_eq!(daemon.status()["state"], "synced", "{step:?}");
    }
    assert_eq!(place.read("sub/inside").unwrap(), "1");
    until("the command says so", || started(&mut daemon) > before);
    daemon.stop();
}

fn a_bisect_ends_with_what_it_leaves(place: &Place) {
    git(place, &place.source, &["init", "-q"]);
    for number in 0..10 {
        place.write("number", format!("{number}"));
        place.write(&format!("d/{number}"), "1");
        commit(place, &place.source);
    }
    let daemon = place.watch(&APP).synced();
    restarted(place);
    git(place, &place.source, &["bisect", "start", "HEAD", "HEAD~9"]);
    git(place, &place.source, &["bisect", "run", "sh", "-c", "test $(cat number) -lt 6"]);
    restarted(place);
    assert_followed(place);
    assert!(!place.target.join("d/9").exists(), "it stands where the bisect ended");
    git(place, &place.source, &["bisect", "reset"]);
    restarted(place);
    assert_followed(place);
    assert_eq!(place.read("number").unwrap(), "9");
    daemon.stop();
}
