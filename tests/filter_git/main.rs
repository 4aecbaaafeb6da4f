//! The filter against the real git: over random trees and rules, what we would send is what
//! `git ls-files -o --exclude-standard` lists. Nothing more (a secret sent) and nothing less.
//!
//! `E2EK_FILTER_TREES` sets how many trees are tried, `E2EK_FILTER_SEED` where they begin; a
//! difference prints its seed and its rules.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod dice;
mod ground;

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use e2ek_sync::filter::check::{CheckError, CheckOptions, Found, Paths, check_ignore};
use e2ek_sync::filter::{DirRules, Filter, RuleFiles, Verdict};

use dice::{Dice, grow, os, rules, write};
use ground::Ground;

/// What we would send, protected names included (git knows no such protection).
fn sent(filter: &Filter) -> BTreeSet<Vec<u8>> {
    let mut out = BTreeSet::new();
    walk(filter, &filter.root_rules(), filter.root(), b"", &mut out);
    out
}

fn walk(filter: &Filter, rules: &DirRules, dir: &Path, below: &[u8], out: &mut BTreeSet<Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let name = name.as_bytes();
        let is_dir = entry.file_type().unwrap().is_dir();
        match filter.verdict(rules, name, is_dir) {
            Verdict::Ignored(_) => continue,
            Verdict::Protected(_) if name == b".git" => continue,
            Verdict::Protected(_) | Verdict::Kept => {}
        }
        let path = [below, name].concat();
        if is_dir {
            // As the scan does: what the listing does not name is not looked for.
            let listed = std::fs::read_dir(entry.path()).unwrap();
            let names: Vec<_> = listed.map(|inside| inside.unwrap().file_name()).collect();
            let files = RuleFiles::listed(names.iter().map(|name| name.as_bytes()));
            let inside = filter.child_rules(rules, name, files);
            walk(filter, &inside, &entry.path(), &[&path[..], b"/"].concat(), out);
        } else {
            out.insert(path);
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn clear(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.symlink_metadata().unwrap().is_dir() {
            true if path.ends_with(".git") => {}
            true => std::fs::remove_dir_all(path).unwrap(),
            false => std::fs::remove_file(path).unwrap(),
        }
    }
}

#[test]
fn random_trees_are_sent_as_git_would() {
    let first = number("E2EK_FILTER_SEED", 1);
    let trees = number("E2EK_FILTER_TREES", 250);
    let ground = Ground::new();
    let (mut files, mut kept) = (0, 0);
    let mut wrong = Vec::new();
    let (mut leaks, mut drops) = (0, 0);
    for seed in first..first + trees {
        let mut dice = Dice(seed);
        clear(&ground.tree());
        let mut told = Vec::new();
        grow(&mut dice, &ground.tree(), 3, &mut told);
        write(&ground.tree().join(".git/info/exclude"), rules(&mut dice, 2), &mut told);
        let global = ground.path().join("home/global ignore");
        write(&global, rules(&mut dice, 2), &mut told);
        let fold = if dice.one_in(8) { "true" } else { "false" };
        let config =
            format!("[core]\n\texcludesFile = \"~/global ignore\" ; c\n ignoreCase={fold}");
        write(&ground.path().join("home/.gitconfig"), config.into(), &mut told);

        let git = ground.listed(&ground.tree());
        if seed % 8 == 0 {
            compare_answers(&ground, seed);
        }
        let ours = sent(&ground.filter(&ground.tree()));
        files += 1;
        kept += git.len();
        leaks += ours.difference(&git).count();
        drops += git.difference(&ours).count();
        if ours != git && wrong.len() < 5 {
            wrong.push(describe(seed, &git, &ours, &told));
        }
    }
    println!("{files} trees, {kept} files kept; wrongly sent {leaks}, wrongly dropped {drops}");
    assert!(wrong.is_empty(), "sent {leaks}, dropped {drops} wrongly\n{}", wrong.join("\n"));
    assert!(kept as u64 > trees, "the rules leave something to compare");
}

/// The patterns alone decide: what git tracks all the same, by `git add -f`, is still not sent, and
/// what it tracks of the rest still is.
#[test]
fn what_git_tracks_makes_no_difference() {
    let first = number("E2EK_FILTER_SEED", 1);
    let ground = Ground::new();
    let tree = ground.tree();
    let forced = |kind: &[&str]| {
        let words = [&["ls-files", "-z", "--exclude-standard"], kind].concat();
        let out = ground.git(&tree, &words);
        let names = out.split(|&b| b == 0).filter(|name| !name.is_empty() && !name.ends_with(b"/"));
        names.map(<[u8]>::to_vec).collect::<BTreeSet<_>>()
    };
    let (mut tracked_and_ignored, mut tracked) = (0, 0);
    for seed in first..first + 40 {
        let mut dice = Dice(seed);
        clear(&tree);
        let _ = std::fs::remove_file(tree.join(".git/index"));
        let mut told = Vec::new();
        grow(&mut dice, &tree, 3, &mut told);
        write(&tree.join(".git/info/exclude"), rules(&mut dice, 2), &mut told);
        let wanted = ground.listed(&tree);
        // Half of what is ignored, and half of what is not.
        let all = forced(&["-o", "-i"]).into_iter().chain(wanted.iter().cloned());
        let some: Vec<Vec<u8>> = all.filter(|_| dice.one_in(2)).collect();
        let mut list = Vec::new();
        some.iter().for_each(|name| list.extend([&name[..], b"\0"].concat()));
        let words = ["update-index", "--add", "-z", "--stdin"];
        let added = ask_git(&ground, &words, &list);
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let ignored = forced(&["-c", "-i"]);
        tracked += forced(&["-c"]).len();
        tracked_and_ignored += ignored.len();
        let ours = sent(&ground.filter(&tree));
        assert!(ours == wanted, "{}", describe(seed, &wanted, &ours, &told));
        assert!(ours.is_disjoint(&ignored), "seed {seed}");
    }
    assert!(
        tracked_and_ignored > 40 && tracked > tracked_and_ignored,
        "{tracked_and_ignored} of {tracked}"
    );
}

fn describe(
    seed: u64,
    git: &BTreeSet<Vec<u8>>,
    ours: &BTreeSet<Vec<u8>>,
    told: &[(PathBuf, Vec<u8>)],
) -> String {
    let mut out = format!("seed {seed}\n");
    for path in ours.difference(git) {
        out += &format!("  wrongly sent    {}\n", path.escape_ascii());
    }
    for path in git.difference(ours) {
        out += &format!("  wrongly dropped {}\n", path.escape_ascii());
    }
    for (path, bytes) in told {
        out += &format!("  {path:?}:\n");
        for line in bytes.split(|&b| b == b'\n') {
            out += &format!("    {}\n", line.escape_ascii());
        }
    }
    out
}

/// All paths below the tree, ignored ones too, without names that only we protect.
fn everything(dir: &Path, below: &[u8], out: &mut Vec<Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if matches!(name.as_bytes(), b".git" | b".env") {
            continue;
        }
        let path = [below, name.as_bytes()].concat();
        out.push(path.clone());
        if entry.file_type().unwrap().is_dir() {
            out.push([&path[..], b"/absent"].concat());
            everything(&entry.path(), &[&path[..], b"/"].concat(), out);
        }
    }
}

/// `check-ignore` through standard input, ours and git's: bytes and exit code.
fn compare_answers(ground: &Ground, seed: u64) {
    let mut paths = Vec::new();
    everything(&ground.tree(), b"", &mut paths);
    let filter = ground.filter(&ground.tree());
    // For `dir/`, git compares an empty name with the rules inside; beyond `*` that tells how its
    // matcher is built rather than what it means, so such a question is asked of ignored ones only.
    for path in paths.clone() {
        let inside = [&path[..], b"/"].concat();
        let path = e2ek_sidecar::path::SyncPath::new(path).unwrap();
        if filter.verdict_of(&path, true) != Verdict::Kept
            && !ground.tree().join(os(path.as_bytes())).is_symlink()
        {
            paths.push(inside);
        }
    }
    for flags in ["-z", "-zv", "-zvn", "-vn", "", "-q", "-zq"] {
        let end = if flags.contains('z') { 0 } else { b'\n' };
        let usable = paths.iter().filter(|p| end == 0 || !(p.contains(&end) || p.ends_with(b"\r")));
        // Lines that begin with a quote would have to be quoted; no generated name does.
        let input: Vec<u8> = usable.flat_map(|p| [&p[..], &[end]].concat()).collect();
        let mut args = vec!["check-ignore", "--no-index", "--stdin"];
        args.extend((!flags.is_empty()).then_some(flags));
        let git = ask_git(ground, &args, &input);
        let (ours, found) = ask_us(&filter, &ground.tree(), flags, &input);
        let show = |bytes: &[u8]| bytes.escape_ascii().to_string();
        assert_eq!(show(&ours), show(&git.stdout), "seed {seed} {flags}");
        let code = if found == Found::Some { 0 } else { 1 };
        assert_eq!(git.status.code(), Some(code), "seed {seed} {flags}");
    }
}

fn ask_git(ground: &Ground, args: &[&str], input: &[u8]) -> Output {
    use std::io::{Seek, Write};
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input).unwrap();
    file.rewind().unwrap();
    let mut command = ground.command(&ground.tree(), args);
    command.stdin(file).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
}

fn ask_us(filter: &Filter, cwd: &Path, flags: &str, mut input: &[u8]) -> (Vec<u8>, Found) {
    let mut out = Vec::new();
    let paths = Paths::Read(&mut input);
    let found = check_ignore(filter, cwd, paths, options(flags), &mut out).unwrap();
    (out, found)
}

fn options(flags: &str) -> CheckOptions {
    CheckOptions {
        verbose: flags.contains('v'),
        quiet: flags.contains('q'),
        non_matching: flags.contains('n'),
        nul: flags.contains('z'),
    }
}

fn put(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn names(set: &BTreeSet<Vec<u8>>) -> Vec<String> {
    set.iter().map(|p| p.escape_ascii().to_string()).collect()
}

#[test]
fn given_paths_are_answered_as_git_does() {
    let ground = Ground::new();
    let tree = ground.tree();
    put(&tree.join(".gitignore"), "*.log\n!keep.log\nbuild/\n");
    put(&tree.join("sub/.gitignore"), "x y\n");
    put(&tree.join("build/z"), "");
    put(&tree.join("all/.gitignore"), "*\n");
    std::os::unix::fs::symlink("sub", tree.join("link")).unwrap();
    let filter = ground.filter(&tree);
    let sub = tree.join("sub");
    let absolute = tree.join("a.log");
    let absolute = absolute.to_str().unwrap();
    for (cwd, flags, asked) in [
        (&tree, "", &["a.log", "keep.log", "build/z", "build", "kept"][..]),
        (&tree, "v", &["a.log", "keep.log", "build/z", "build", "build/", "sub/../a.log"][..]),
        (&tree, "v", &["./a.log", "sub//a.log", "build//z", absolute, "keep.log/"][..]),
        (&tree, "vn", &["kept", ".", "sub/", "sub/x y", "sub/a", "gone/b.log", "all/", "all"][..]),
        (&tree, "v", &["\u{e9}.log", "\t\"\\.log", "link"][..]),
        (&sub, "v", &["x y", "../a.log", ".", ".."][..]),
        (&tree, "", &["kept"][..]),
        (&tree, "", &["keep.log"][..]),
        (&tree, "v", &["keep.log"][..]),
        (&tree, "", &["../outside"][..]),
        (&tree, "", &[""][..]),
        (&tree, "", &["a.log", ""][..]),
        (&tree, "", &["link/x"][..]),
        (&tree, "", &["link/"][..]),
        (&tree, "", &[][..]),
        (&tree, "n", &["a.log"][..]),
        (&tree, "n", &["../outside"][..]),
        (&tree, "vn", &["a.log", "kept", "keep.log"][..]),
        (&tree, "q", &["a.log"][..]),
        (&tree, "q", &["kept"][..]),
        (&tree, "q", &["keep.log"][..]),
        (&tree, "q", &["a.log", "kept"][..]),
        (&tree, "q", &[][..]),
        (&tree, "qv", &["a.log"][..]),
        (&tree, "qn", &["a.log"][..]),
        (&tree, "qvn", &["a.log"][..]),
        (&tree, "zv", &[][..]),
        (&tree, "z", &["a.log"][..]),
    ] {
        let mut args = vec!["check-ignore", "--no-index"];
        let dashed = format!("-{flags}");
        args.extend((!flags.is_empty()).then_some(&*dashed));
        args.extend(asked);
        let git = ground.command(cwd, &args).output().unwrap();
        let paths: Vec<PathBuf> = asked.iter().map(PathBuf::from).collect();
        let mut out = Vec::new();
        let found = check_ignore(&filter, cwd, Paths::Given(&paths), options(flags), &mut out);
        let code = match found {
            Ok(Found::Some) => 0,
            Ok(Found::Nothing) => 1,
            Err(CheckError::Io(error)) => panic!("{error}"),
            Err(_) => 128,
        };
        assert_eq!(git.status.code(), Some(code), "{flags} {asked:?}");
        assert_eq!(out.escape_ascii().to_string(), git.stdout.escape_ascii().to_string());
    }
}

#[test]
fn lines_of_standard_input_may_be_quoted() {
    let ground = Ground::new();
    put(&ground.tree().join(".gitignore"), "*.log\n");
    let filter = ground.filter(&ground.tree());
    let input = b"a.log\n\"b\\t.log\"\r\nc";
    let (ours, _) = ask_us(&filter, &ground.tree(), "vn", input);
    let git = ask_git(&ground, &["check-ignore", "--no-index", "--stdin", "-vn"], input);
    assert_eq!(ours.escape_ascii().to_string(), git.stdout.escape_ascii().to_string());
    let mut bad: &[u8] = b"a.log\n\"b\n";
    let mut out = Vec::new();
    let answer =
        check_ignore(&filter, &ground.tree(), Paths::Read(&mut bad), options(""), &mut out);
    assert!(matches!(answer, Err(CheckError::BadlyQuoted)));
    assert_eq!(out, b"a.log\n", "what came before was answered");
}

#[test]
fn a_root_below_the_top_follows_the_files_above_it() {
    let ground = Ground::new();
    let tree = ground.tree();
    put(&tree.join(".gitignore"), "*.log\n/api/out/\nsrc/*.tmp\n");
    put(&tree.join("api/.gitignore"), "!keep.log\n");
    put(&tree.join(".git/info/exclude"), "api/secret\n");
    for file in ["a.log", "keep.log", "out/x", "secret", "sub/secret", "src/a.tmp", "src/b"] {
        put(&tree.join("api").join(file), "");
    }
    let ours = sent(&ground.filter(&tree.join("api")));
    assert_eq!(names(&ours), names(&ground.listed(&tree.join("api"))));
    let kept = [".gitignore", "keep.log", "src/a.tmp", "src/b", "sub/secret"];
    assert_eq!(names(&ours), kept);
}

#[test]
fn a_worktree_shares_what_its_repository_excludes() {
    let ground = Ground::new();
    let tree = ground.tree();
    put(&tree.join(".git/info/exclude"), "hidden\n");
    put(&ground.path().join("rules"), "other\n");
    ground.git(&tree, &["config", "extensions.worktreeConfig", "true"]);
    ground.git(
        &tree,
        &["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "a"],
    );
    ground.git(&tree, &["worktree", "add", "-q", "../second"]);
    let second = ground.path().join("second");
    ground.git(&second, &["config", "--worktree", "core.excludesFile", "../rules"]);
    for file in ["hidden", "other", "shown"] {
        put(&second.join(file), "");
    }
    let ours = sent(&ground.filter(&second));
    assert_eq!(names(&ours), ["shown"]);
    assert_eq!(names(&ours), names(&ground.listed(&second)));
}

#[test]
fn a_repository_inside_follows_its_own_files() {
    let ground = Ground::new();
    let tree = ground.tree();
    put(&tree.join(".gitignore"), "*.log\nvendor/gone/\n");
    ground.git(&tree, &["init", "-q", "vendor/inner"]);
    put(&tree.join("vendor/inner/.git/info/exclude"), "own\n");
    for file in ["a.log", "own", "b"] {
        put(&tree.join("vendor/inner").join(file), "");
    }
    put(&tree.join("vendor/gone/c"), "");
    put(&tree.join("vendor/d.log"), "");
    // A directory that is only called `.git` begins no repository.
    put(&tree.join("half/.git/x"), "");
    put(&tree.join("half/e.log"), "");
    let inner = ground.listed(&tree.join("vendor/inner"));
    assert_eq!(names(&inner), ["a.log", "b"]);
    let ours = sent(&ground.filter(&tree));
    assert_eq!(names(&ours), [".gitignore", "vendor/inner/a.log", "vendor/inner/b"]);
}

#[test]
fn the_users_configuration_is_found_where_git_finds_it() {
    let cases: [(&str, &[(&str, &str)]); 6] = [
        ("the default place", &[("home/xdg/git/ignore", "hidden\n")]),
        ("xdg", &[("home/xdg/git/config", "[core]\nexcludesfile=~/r"), ("home/r", "hidden\n")]),
        (
            "the home file beats xdg",
            &[
                ("home/xdg/git/config", "[core]\nexcludesfile=~/none"),
                ("home/.gitconfig", "[Core] ExcludesFile = \"~/r\""),
                ("home/r", "hidden\n"),
            ],
        ),
        (
            "an include",
            &[
                ("home/.gitconfig", "[include]\n path = more\n"),
                ("home/more", "[core]\n excludesFile = \\\n ~/r # why\n"),
                ("home/r", "hidden\n"),
            ],
        ),
        (
            "a condition",
            &[
                ("home/.gitconfig", "[includeIf \"gitdir:tree/\"]\n path = ~/more\n"),
                ("home/more", "[core]\n excludesFile = ~/r\n"),
                ("home/r", "hidden\n"),
            ],
        ),
        (
            "a condition that does not hold",
            &[
                ("home/.gitconfig", "[includeIf \"gitdir:bush/\"]\n path = ~/more\n"),
                ("home/more", "[core]\n excludesFile = ~/r\n"),
                ("home/r", "hidden\n"),
            ],
        ),
    ];
    for (case, files) in cases {
        let ground = Ground::new();
        for (path, text) in files {
            put(&ground.path().join(path), text);
        }
        put(&ground.tree().join("hidden"), "");
        put(&ground.tree().join("shown"), "");
        let ours = sent(&ground.filter(&ground.tree()));
        assert_eq!(names(&ours), names(&ground.listed(&ground.tree())), "{case}");
        assert_eq!(ours.len(), if case.ends_with("not hold") { 2 } else { 1 }, "{case}");
    }
}

#[test]
fn rule_files_that_are_no_files_do_not_count() {
    let ground = Ground::new();
    let tree = ground.tree();
    put(&tree.join("rules"), "*\n");
    std::os::unix::fs::symlink("rules", tree.join(".gitignore")).unwrap();
    put(&tree.join("sub/.gitignore/x"), "");
    std::fs::create_dir_all(tree.join("pipe")).unwrap();
    let fifo = tree.join("pipe/.e2ekignore");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let filter = ground.filter(&tree);
    let mut ours = sent(&filter);
    assert!(ours.remove(&b"pipe/.e2ekignore"[..]), "a FIFO is the scan's business");
    assert_eq!(names(&ours), names(&ground.listed(&tree)));
    assert_eq!(filter.unread().len(), 3, "{:?}", filter.unread());
}
