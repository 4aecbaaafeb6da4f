//! Random trees full of names and rules that are hard to get right.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A small generator (SplitMix64), so that a seed means the same tree for ever.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    pub(crate) fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        from[self.roll(from.len())]
    }
}

/// Names: plain ones often, so that rules meet them, and every kind that has to be escaped.
const PLAIN: &[&[u8]] =
    &[b"a", b"b", b"ab", b"foo", b"bar", b"a.log", b"x.txt", b".env", b"foobar"];
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
        let odd: [&[u8]; 10] = [b"!", b"!/", b"/", b"//", b"", b"# a", b"\\", b"! ", b"**", b"*"];
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
    for (sides, tail) in [(6, &b"/"[..]), (20, b"  "), (30, b"\\ "), (40, b"\t"), (20, b"\r")] {
        if dice.one_in(sides) {
            out.extend(tail);
        }
    }
    out.retain(|&b| b != b'\n');
    out
}

pub(crate) fn rules(dice: &mut Dice, lines: usize) -> Vec<u8> {
    let mut out = if dice.one_in(15) { b"\xef\xbb\xbf".to_vec() } else { Vec::new() };
    for _ in 0..=dice.roll(lines) {
        out.extend(line(dice));
        out.push(b'\n');
    }
    if dice.one_in(5) {
        out.pop();
    }
    out
}

pub(crate) fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// Fills a directory; rule files with their bytes go to `told`.
pub(crate) fn grow(dice: &mut Dice, dir: &Path, depth: usize, told: &mut Vec<(PathBuf, Vec<u8>)>) {
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

pub(crate) fn write(path: &Path, bytes: Vec<u8>, told: &mut Vec<(PathBuf, Vec<u8>)>) {
    std::fs::write(path, &bytes).unwrap();
    told.push((path.to_path_buf(), bytes));
}
