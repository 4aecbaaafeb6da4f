//! The filter against the real git: over random trees and rules, what we would send is what
//! `git ls-files -o --exclude-standard` lists. Nothing more (a secret sent) and nothing less.
//!
//! `E2EK_FILTER_TREES` sets how many trees are tried, `E2EK_FILTER_SEED` where they begin; a
//! difference prints its seed and its rules.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2ek_sync::filter::{DirRules, Filter, FilterOptions, GitPlaces, Verdict};

/// A small generator (SplitMix64), so that a seed means the same tree for ever.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        from[self.roll(from.len())]
    }
}

/// Names: plain ones often, so that rules meet them, and every kind that has to be escaped.
const PLAIN: &[&[u8]] = &[
    b"a", b"b", b"ab", b"foo", b"bar", b"a.log", b"x.txt", b".env", b"foobar",
];
const ODD: &[&[u8]] = &[
    b"a b",
    b"a ",
    b" a",
    b"{a,b}",
    b"{a",
    b"a}",
    b"[",
    b"[a]",
    b"a]",
    b"]",
    b"*",
    b"**",
    b"?",
    b"!",
    b"!a",
    b"#",
    b"#a",
    b"\\",
    b"a\\",
    b"\\a",
    b"a\\b",
    b"\xff",
    b"a\xfe",
    b"\xc3\xa9",
    b"\xe6\x97\xa5",
    b"A",
    b"Foo",
    b"a.",
    b".a",
    b"...",
    b"-",
    b"a-b",
    b"^",
    b"a\nb",
    b"a\tb",
    b"a\t",
    b"1",
    b",",
    b"a,b",
    b"a\xc2\xa0",
    b"~",
    b"_",
    b"$",
    b"a\r",
    b"\x01",
    b"\x7f",
    b"a\xe3\x80\x80",
    b".log",
    b"b.a.log",
];
/// Pieces of patterns besides names.
const PIECES: &[&[u8]] = &[
    b"*",
    b"*",
    b"*",
    b"?",
    b"**",
    b"**",
    b"***",
    b"/",
    b"/",
    b"/",
    b"**/",
    b"/**",
    b"/**/",
    b"*/",
    b"[ab]",
    b"[!a]",
    b"[^a-c]",
    b"[a-c]",
    b"[[:alpha:]]",
    b"[[:digit:]x]",
    b"[![:punct:]]",
    b"[[:space:]]",
    b"[[:cntrl:]]",
    b"[[:upper:]]",
    b"[[:nope:]]",
    b"[[:alpha:]",
    b"[:alpha:]",
    b"[[:]a]",
    b"[",
    b"]",
    b"[]]",
    b"[]a]",
    b"[!]a]",
    b"[a-]",
    b"[-a]",
    b"[c-a]",
    b"[\\]a]",
    b"[a\\-z]",
    b"[!/]",
    b"[/]",
    b"[a/b]",
    b"[^]",
    b"[!!]",
    b"[\\",
    b"[*]",
    b"[[]",
    b"[{,}]",
    b"{a,b}",
    b"{",
    b"}",
    b",",
    b"\\*",
    b"\\?",
    b"\\[",
    b"\\\\",
    b"\\",
    b"\\ ",
    b" ",
    b"\\/",
    b"\\!",
    b"\\#",
    b"!",
    b"#",
    b"\t",
    b"\xff",
    b"\xc3\xa9",
    b"[\xc3\xa9]",
    b"[^\xc3]",
    b"[\x80-\xff]",
    b"[!\x80-\xbf]",
    b"[^\xc3\xa9]",
    b".",
    b"*.log",
    b"*.",
    b"[[:graph:]]",
    b"[[:print:]]",
    b"[[:xdigit:]]",
    b"[[:lower:]]",
    b"[[:blank:]]",
    b"[[:alnum:]]",
    b"[+--]",
];

fn name(dice: &mut Dice) -> Vec<u8> {
    let from = if dice.one_in(3) { ODD } else { PLAIN };
    dice.pick(from).to_vec()
}

fn line(dice: &mut Dice) -> Vec<u8> {
    if dice.one_in(25) {
        let odd: [&[u8]; 10] = [
            b"!", b"!/", b"/", b"//", b"", b"# a", b"\\", b"! ", b"**", b"*",
        ];
        return dice.pick(&odd).to_vec();
    }
    let mut out = Vec::new();
    if dice.one_in(4) {
        out.push(b'!');
    }
    if dice.one_in(6) {
        out.push(b'/');
    }
    for part in 0..=dice.roll(4) {
        if part > 0 && dice.one_in(3) {
            out.push(b'/');
        }
        match dice.one_in(2) {
            true => out.extend(name(dice)),
            false => out.extend(dice.pick(PIECES)),
        }
    }
    for (sides, tail) in [
        (6, &b"/"[..]),
        (20, b"  "),
        (30, b"\\ "),
        (40, b"\t"),
        (20, b"\r"),
    ] {
        if dice.one_in(sides) {
            out.extend(tail);
        }
    }
    out.retain(|&b| b != b'\n');
    out
}

fn rules(dice: &mut Dice, lines: usize) -> Vec<u8> {
    let mut out = if dice.one_in(15) {
        b"\xef\xbb\xbf".to_vec()
    } else {
        Vec::new()
    };
    for _ in 0..=dice.roll(lines) {
        out.extend(line(dice));
        out.push(b'\n');
    }
    if dice.one_in(5) {
        out.pop();
    }
    out
}

fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// Fills a directory; rule files with their bytes go to `told`.
fn grow(dice: &mut Dice, dir: &Path, depth: usize, told: &mut Vec<(PathBuf, Vec<u8>)>) {
    for _ in 0..2 + dice.roll(5) {
        let path = dir.join(os(&name(dice)));
        if path.symlink_metadata().is_ok() {
            continue;
        }
        // A protected name only as a file: our walk does not enter protected directories.
        let secret = path.file_name() == Some(OsStr::new(".env"));
        if depth > 0 && dice.one_in(2) && !secret {
            std::fs::create_dir(&path).unwrap();
            grow(dice, &path, depth - 1, told);
        } else if dice.one_in(12) {
            std::os::unix::fs::symlink(".", &path).unwrap();
        } else {
            std::fs::write(&path, b"").unwrap();
        }
    }
    if depth == 3 || dice.one_in(3) {
        write(&dir.join(".gitignore"), rules(dice, 6), told);
    }
}

fn write(path: &Path, bytes: Vec<u8>, told: &mut Vec<(PathBuf, Vec<u8>)>) {
    std::fs::write(path, &bytes).unwrap();
    told.push((path.to_path_buf(), bytes));
}

/// A place where only our own configuration of git counts.
struct Ground {
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("home")).unwrap();
        let ground = Self { dir };
        ground.git(ground.path(), &["init", "-q", "-b", "main", "tree"]);
        ground
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn tree(&self) -> PathBuf {
        self.path().join("tree")
    }

    fn vars(&self) -> Vec<(&'static str, PathBuf)> {
        let home = self.path().join("home");
        vec![("XDG_CONFIG_HOME", home.join("xdg")), ("HOME", home)]
    }

    fn git(&self, dir: &Path, args: &[&str]) -> Vec<u8> {
        let output = self.command(dir, args).output().expect("git is installed");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {args:?}: {error}");
        output.stdout
    }

    fn command(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command
            .args(args)
            .current_dir(dir)
            .envs(self.vars())
            .env("GIT_CONFIG_NOSYSTEM", "1");
        for name in [
            "GIT_DIR",
            "GIT_WORK_TREE",
            "GIT_CONFIG_GLOBAL",
            "GIT_CONFIG_COUNT",
        ] {
            command.env_remove(name);
        }
        command
    }

    fn filter(&self, root: &Path) -> Filter {
        self.filter_with(root, FilterOptions::default())
    }

    fn filter_with(&self, root: &Path, options: FilterOptions) -> Filter {
        let vars = self.vars();
        let git = GitPlaces::from_vars(|name| match name {
            "GIT_CONFIG_NOSYSTEM" => Some("1".into()),
            _ => vars
                .iter()
                .find(|v| v.0 == name)
                .map(|v| v.1.clone().into()),
        });
        Filter::new(
            root,
            &FilterOptions {
                git: Some(git),
                ..options
            },
        )
        .unwrap()
    }

    /// What git would add below `dir`.
    fn listed(&self, dir: &Path) -> BTreeSet<Vec<u8>> {
        let out = self.git(dir, &["ls-files", "-o", "--exclude-standard", "-z"]);
        out.split(|&b| b == 0)
            .filter(|p| !p.is_empty())
            .map(<[u8]>::to_vec)
            .collect()
    }
}

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
            let inside = filter.child_rules(rules, name);
            walk(
                filter,
                &inside,
                &entry.path(),
                &[&path[..], b"/"].concat(),
                out,
            );
        } else {
            out.insert(path);
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().expect("a number"))
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
        write(
            &ground.tree().join(".git/info/exclude"),
            rules(&mut dice, 2),
            &mut told,
        );
        let global = ground.path().join("home/global ignore");
        write(&global, rules(&mut dice, 2), &mut told);
        let fold = if dice.one_in(8) { "true" } else { "false" };
        let config =
            format!("[core]\n\texcludesFile = \"~/global ignore\" ; c\n ignoreCase={fold}");
        write(
            &ground.path().join("home/.gitconfig"),
            config.into(),
            &mut told,
        );

        let git = ground.listed(&ground.tree());
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
    assert!(
        wrong.is_empty(),
        "sent {leaks}, dropped {drops} wrongly\n{}",
        wrong.join("\n")
    );
    assert!(kept as u64 > trees, "the rules leave something to compare");
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
