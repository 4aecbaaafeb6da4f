//! Ignore rules that change while they are followed, however they change.

use std::fs;
use std::path::Path;

use crate::place::Place;

over_each_link! {
    a_directory_that_takes_the_place_of_another_brings_its_own_rules,
    what_is_ignored_from_now_on_is_told_and_left_alone,
    the_settings_are_followed_where_they_lie,
    settings_above_the_source_are_followed,
    rules_outside_the_source_are_followed,
    the_configuration_of_git_is_followed_and_so_are_repositories_inside,
}

fn a_directory_that_takes_the_place_of_another_brings_its_own_rules(place: &Place) {
    for (name, text) in [("dist/app.js", "1"), ("site/.gitignore", "*.css\n"), ("site/a.css", "1")]
    {
        place.write(name, text);
    }
    let daemon = place.watch(&[]).synced();
    assert_eq!(place.read("dist/app.js").unwrap(), "1");
    assert_eq!(place.read("site/a.css"), None);
    // Made elsewhere, as a build does, and swapped in whole: no event names a file in it.
    let made = place.top.join("made");
    for (name, text) in [
        ("dist/.gitignore", "secret.txt\nlogs/\n"),
        ("dist/app.js", "2"),
        ("dist/secret.txt", "hidden"),
        ("dist/deep/secret.txt", "hidden"),
        ("dist/logs/today", "hidden"),
        ("site/a.css", "2"),
        ("site/deep/a.css", "2"),
    ] {
        let file = made.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    for name in ["dist", "site"] {
        fs::rename(place.source.join(name), place.top.join(format!("old-{name}"))).unwrap();
        fs::rename(made.join(name), place.source.join(name)).unwrap();
    }
    daemon.flush();
    assert_eq!(place.read("dist/app.js").unwrap(), "2");
    for hidden in ["dist/secret.txt", "dist/deep/secret.txt", "dist/logs/today"] {
        assert_eq!(place.read(hidden), None, "{hidden} is ignored by dist/.gitignore");
    }
    assert_eq!(place.read("site/a.css").unwrap(), "2", "nothing ignores it any more");
    assert_eq!(place.read("site/deep/a.css").unwrap(), "2");
    // What is wanted by now is watched, too; so is a directory made again without rules.
    fs::rename(place.source.join("dist"), place.top.join("older-dist")).unwrap();
    place.write("dist/logs/today", "shown");
    daemon.flush();
    assert_eq!(place.read("dist/logs/today").unwrap(), "shown");
    place.write("dist/logs/today", "shown again");
    place.write("site/deep/a.css", "3");
    daemon.flush();
    assert_eq!(place.read("dist/logs/today").unwrap(), "shown again");
    assert_eq!(place.read("site/deep/a.css").unwrap(), "3");
    daemon.stop();
    // The root itself.
    place.write(".e2ekignore", "*.map\n");
    place.write("a.map", "hidden");
    let daemon = place.watch(&[]).synced();
    assert_eq!(place.read("a.map"), None);
    let other = place.top.join("other");
    fs::create_dir_all(other.join("dist/logs")).unwrap();
    for (name, text) in [(".gitignore", "*.txt\n"), ("a.map", "shown"), ("a.txt", "hidden")] {
        fs::write(other.join(name), text).unwrap();
    }
    fs::write(other.join("dist/logs/today"), "other").unwrap();
    fs::rename(&place.source, place.top.join("before")).unwrap();
    fs::rename(&other, &place.source).unwrap();
    crate::place::until("the other root's file", || {
        place.read("a.map").is_some_and(|text| text == "shown")
    });
    daemon.flush();
    assert_eq!(place.read("a.txt"), None);
    daemon.stop();
}

fn what_is_ignored_from_now_on_is_told_and_left_alone(place: &Place) {
    for name in ["a.log", "sub/b.log", "sub/c.txt"] {
        place.write(name, "1");
    }
    let mut daemon = place.watch(&[]).synced();
    place.write(".e2ekignore", "*.log\n");
    let told = daemon.line(&["ignored from now on"]);
    assert!(told.contains('2'), "{told}");
    for name in ["a.log", "sub/b.log", "sub/c.txt"] {
        place.write(name, "2");
    }
    fs::remove_file(place.source.join("a.log")).unwrap();
    daemon.flush();
    assert_eq!(place.read("a.log").unwrap(), "1");
    assert_eq!(place.read("sub/b.log").unwrap(), "1");
    assert_eq!(place.read("sub/c.txt").unwrap(), "2");
    fs::remove_file(place.source.join(".e2ekignore")).unwrap();
    daemon.flush();
    assert_eq!(place.read("sub/b.log").unwrap(), "2", "wanted again");
    daemon.stop();
}

fn the_settings_are_followed_where_they_lie(place: &Place) {
    place.write("e2ek.toml", "[workspace]\nexclude = ['*.log']\n");
    settings_are_followed(place, &place.source.join("e2ek.toml"));
}

fn settings_above_the_source_are_followed(place: &Place) {
    fs::write(place.top.join("e2ek.toml"), "[workspace]\nexclude = ['*.log']\n").unwrap();
    settings_are_followed(place, &place.top.join("e2ek.toml"));
}

/// Of the file that excludes `*.log`.
fn settings_are_followed(place: &Place, file: &Path) {
    let save = |text: &str| place.save(file.to_str().unwrap(), text);
    for name in ["a.log", "sub/b.log", "a.txt", "big/c"] {
        place.write(name, "1");
    }
    let mut daemon = place.watch(&["--", "sh", "-c", "echo up; exec sleep 1000"]).synced();
    daemon.line(&["up"]);
    assert_eq!(place.read("sub/b.log"), None);
    let rule = "[[restart.rule]]\npaths = ['*.txt']\naction = 'nothing'\n";
    save(&format!("[workspace]\nexclude = ['big/']\nmode = 'mirror'\n{rule}"));
    daemon.event("setting key=restart.rule");
    daemon.event("setting key=workspace.exclude value=\"big/\"");
    daemon.line(&["workspace.mode", "started again"]);
    daemon.line(&["1 file ignored from now on"]);
    crate::place::until("what is wanted now", || place.read("sub/b.log").is_some());
    place.write("big/c", "2");
    place.write("sub/b.log", "2");
    place.write("a.txt", "2");
    daemon.flush();
    assert_eq!(place.read("big/c").unwrap(), "1");
    assert_eq!(place.read("sub/b.log").unwrap(), "2");
    // A fault changes nothing, and the mended file is followed again.
    let mut connection = daemon.connection();
    save("[workspace]\nexclude = [");
    daemon.line(&["e2ek.toml", "stays"]);
    place.write("big/c", "3");
    connection.flush();
    assert_eq!(place.read("big/c").unwrap(), "1");
    fs::write(file, "").unwrap();
    daemon.event("setting key=workspace.exclude value=\"none\"");
    crate::place::until("what no rule leaves out", || {
        place.read("big/c").is_some_and(|text| text == "3")
    });
    daemon.stop();
}

/// Rules above the source, of the repository and of the user: no event in the source tells of them.
fn rules_outside_the_source_are_followed(place: &Place) {
    let init =
        std::process::Command::new("git").args(["init", "-q"]).current_dir(&place.top).status();
    assert!(init.unwrap().success());
    let files = ["a.log", "b.txt", "c.bak", "d.old"];
    files.iter().for_each(|name| place.write(name, "1"));
    let mut daemon = place.watch(&[]).synced();
    // In the order of their files: the home directory is the repository's top, and has no `.config`.
    let rules = [".gitignore", ".git/info/exclude", ".config/git/ignore", ".e2ekignore"];
    for (at, name) in rules.iter().zip(files) {
        let file = place.top.join(at);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, format!("{name}\n")).unwrap();
        daemon.line(&["1 file ignored from now on"]);
        place.write(name, "2");
        daemon.flush();
        assert_eq!(place.read(name).unwrap(), "1", "{at}");
    }
    for (at, name) in rules.iter().zip(files) {
        // By a rename, as editors do, and by a removal.
        let file = place.top.join(at);
        if name < "c" {
            let aside = place.top.join("aside");
            fs::write(&aside, "# nothing\n").unwrap();
            fs::rename(&aside, &file).unwrap();
        } else {
            fs::remove_file(&file).unwrap();
        }
        crate::place::until(at, || place.read(name).is_some_and(|text| text == "2"));
    }
    // What was saved before a flush counts for it.
    fs::write(place.top.join(".gitignore"), "a.log\n").unwrap();
    place.write("a.log", "3");
    daemon.flush();
    place.write("a.log", "4");
    daemon.flush();
    assert_ne!(place.read("a.log").unwrap(), "4");
    daemon.stop();
}

/// Where a repository begins: the source, one inside, one whose git directory lies elsewhere, a worktree.
const REPOSITORIES: [&str; 4] = [".", "nested", "split", "tree"];
const ENDS: [&str; 3] = ["one", "two", "three"];

#[track_caller]
fn git(place: &Place, at: &str, words: &[&str]) -> crate::place::Said {
    let mut command = place.environment("git".as_ref());
    command.current_dir(place.source.join(at)).args(["-c", "user.name=t", "-c", "user.email=t@t"]);
    command.args(words);
    crate::place::Said::of(command)
}

/// Saves all files, and sees that those arrive that git does not ignore. Git is asked about each.
#[track_caller]
fn assert_as_git_says(place: &Place, daemon: &crate::daemon::Daemon<'_>, content: &str) {
    let files = || REPOSITORIES.iter().flat_map(|at| ENDS.map(|end| (*at, format!("x.{end}"))));
    files().for_each(|(at, name)| place.write(&format!("{at}/{name}"), content));
    daemon.flush();
    for (at, name) in files() {
        let ignored = git(place, at, &["check-ignore", "-q", "--no-index", &name]).code == Some(0);
        let arrived = place.read(&format!("{at}/{name}")).is_some_and(|text| text == content);
        assert_eq!(arrived, !ignored, "{at}/{name}, {content}");
    }
}

fn the_configuration_of_git_is_followed_and_so_are_repositories_inside(place: &Place) {
    git(place, ".", &["init", "-q"]).ends_with(0);
    git(place, ".", &["commit", "-qm", "first", "--allow-empty"]).ends_with(0);
    git(place, ".", &["init", "-q", "nested"]).ends_with(0);
    git(place, ".", &["init", "-q", "--separate-git-dir", "../far.git", "split"]).ends_with(0);
    git(place, ".", &["worktree", "add", "-q", "tree", "-b", "other"]).ends_with(0);
    for name in [".git/info", "nested/.git/info", "../far.git/info"] {
        let _ = fs::remove_dir_all(place.source.join(name));
    }
    for at in REPOSITORIES {
        ENDS.iter().for_each(|end| place.write(&format!("{at}/x.{end}"), ""));
    }
    let mut daemon = place.watch(&[]).synced();
    assert_as_git_says(place, &daemon, "as it was");
    let put = |name: &str, text: &str| {
        let file = place.source.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    let mut ignored = |what: &str, act: &dyn Fn()| {
        act();
        daemon.line(&["ignored from now on"]);
        assert_as_git_says(place, &daemon, what);
    };
    // Nobody has a configuration yet; the file that it names is there before it.
    put("../rules", "x.one\n");
    ignored("the user's configuration", &|| {
        let file = place.top.join("rules");
        let words = ["config", "--global", "core.excludesFile", file.to_str().unwrap()];
        git(place, ".", &words).ends_with(0);
    });
    ignored("the file it names", &|| put("../rules", "x.two\n"));
    ignored("an include of what is not there", &|| {
        git(place, ".", &["config", "--global", "include.path", "more"]).ends_with(0);
        put("../more", "[core]\nexcludesFile = ~/rules\nignoreCase = true\n");
        put("../rules", "X.THREE\n");
    });
    ignored("the configuration of the source", &|| {
        put("../own", "x.one\n");
        git(place, ".", &["config", "core.excludesFile", "~/own"]).ends_with(0);
    });
    ignored("that of a repository inside", &|| {
        git(place, "nested", &["config", "core.excludesFile", "~/own"]).ends_with(0);
    });
    ignored("info/exclude of the source and of its worktree", &|| {
        put(".git/info/exclude", "x.two\n")
    });
    ignored("info/exclude of a repository inside", &|| put("nested/.git/info/exclude", "x.two\n"));
    ignored("info/exclude that lies elsewhere", &|| put("../far.git/info/exclude", "x.two\n"));
    // And back.
    for name in ["../.gitconfig", "../far.git/info", "nested/.git/info", ".git/info/exclude"] {
        let file = place.source.join(name);
        let _ = fs::remove_dir_all(&file).or_else(|_| fs::remove_file(&file));
    }
    git(place, "nested", &["config", "--unset", "core.excludesFile"]).ends_with(0);
    crate::place::until("what nothing ignores", || {
        let wanted = |at: &&str| place.read(&format!("{at}/x.two")) == place.read("split/x.one");
        REPOSITORIES.iter().all(wanted) && place.read("split/x.two") == place.read("split/x.one")
    });
    assert_as_git_says(place, &daemon, "afterwards");
    // A directory that becomes a repository, and is none any more.
    put(".git/info/exclude", "/later/*.one\n");
    daemon.flush();
    put("later/x.one", "1");
    daemon.flush();
    assert_eq!(place.read("later/x.one"), None);
    git(place, "later", &["init", "-q"]).ends_with(0);
    crate::place::until("its own rules", || place.read("later/x.one").is_some());
    fs::remove_dir_all(place.source.join("later/.git")).unwrap();
    daemon.line(&["ignored from now on"]);
    daemon.stop();
}
