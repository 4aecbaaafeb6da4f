//! Owns the meaning of one line of an ignore file, as git gives it.
//!
//! A line is parsed the way git's `dir.c` and `wildmatch.c` read it and is then written out again
//! as the pattern that makes the `ignore` crate decide the same. What differs between the two
//! (bare `!`, braces, POSIX classes, a lone `[`, runs of stars, `**` glued to literal text, classes
//! that match `/`, trailing white space other than spaces) never reaches the crate. Which files
//! are read, and in which order they count, is decided elsewhere.

use super::class::Set;

/// One piece of a pattern.
#[derive(Clone, PartialEq, Eq)]
enum Token {
    /// This byte, never `/`.
    Byte(u8),
    Slash,
    /// `?`: one byte other than `/`.
    Any,
    /// `*`: any bytes other than `/`.
    Star,
    /// A class: one byte of a set that never holds `/`.
    One(Box<Set>),
    /// `**/`: no directory, or any number of them.
    Deep,
    /// `**\/`: at least one directory (git compares the next byte with `/` before it unescapes).
    DeepSome,
    /// `**` at the end: everything below.
    DeepTail,
}

/// A line of an ignore file that can match something.
pub(super) struct Pattern {
    /// Begins with `!`.
    pub(super) negative: bool,
    only_dir: bool,
    /// Holds a slash before its end, so that it is compared with the path, not with the name.
    anchored: bool,
    /// How many bytes of literal text git compares before its matcher runs.
    literal_prefix: usize,
    tokens: Vec<Token>,
}

/// A pattern in the words of the `ignore` crate.
pub(super) struct Written {
    /// The line to add.
    pub(super) line: String,
    /// Whether it must be compared with [`widen`]ed paths.
    pub(super) wide: bool,
}

/// Cuts a file into its lines, with their numbers from 1, as git does: one `\r` before the line
/// feed belongs to it, a line ends at a NUL, unescaped spaces at the end go, a byte order mark at
/// the start of the file is skipped, and comments and empty lines are left out.
pub(super) fn lines(file: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    (1..).zip(file.split(|&b| b == b'\n')).filter_map(|(number, line)| {
        if line.first() == Some(&b'#') {
            return None;
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = line.split(|&b| b == 0).next().unwrap_or(line);
        let line = trim(line);
        (!line.is_empty()).then_some((number, line))
    })
}

/// git's `trim_trailing_spaces`: spaces only, and a backslash keeps the one after it.
fn trim(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut at = 0;
    while at < line.len() {
        match line[at] {
            b' ' => at += 1,
            b'\\' if at + 1 == line.len() => return line,
            b'\\' => {
                at += 2;
                end = at;
            }
            _ => {
                at += 1;
                end = at;
            }
        }
    }
    &line[..end]
}

impl Pattern {
    /// Reads a line from [`lines`]; `None` when it can match nothing (for one, a bare `!` or a
    /// class that is never closed).
    pub(super) fn parse(line: &[u8], ignore_case: bool) -> Option<Self> {
        let (negative, text) = match line.strip_prefix(b"!") {
            Some(rest) => (true, rest),
            None => (false, line),
        };
        let (only_dir, text) = match text.strip_suffix(b"/") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let anchored = text.contains(&b'/');
        let text = text.strip_prefix(b"/").unwrap_or(text);
        if text.is_empty() {
            return None;
        }
        let special = |b: &u8| matches!(b, b'*' | b'?' | b'[' | b'\\');
        let literal_prefix = text.iter().position(special).unwrap_or(text.len());
        let mut tokens = tokens(text, anchored, literal_prefix, ignore_case)?;
        if let [.., Token::Byte(_), Token::Deep] = tokens[..] {
            // `a**//`: git compares `a` and lets `**/` match the nothing that remains.
            tokens.pop();
        }
        // No path ends with a slash. (The crate would take a lone `**/` for everything.)
        if let Some(Token::Slash | Token::Deep | Token::DeepSome) = tokens.last() {
            return None;
        }
        Some(Self { negative, only_dir, anchored, literal_prefix, tokens })
    }

    /// Writes the pattern for the `ignore` crate, relative to the directory of its file.
    pub(super) fn write(&self) -> Written {
        let plain = String::from_utf8(self.bytes(false));
        let wide = self.tokens.iter().any(|t| matches!(t, Token::One(set) if !set.is_plain()));
        match plain {
            Ok(line) if !wide => Written { line, wide: false },
            _ => Written {
                line: String::from_utf8(self.bytes(true)).expect("wide patterns are UTF-8"),
                wide: true,
            },
        }
    }

    /// The patterns of the directories that lead to what this one matches, outermost first: as far
    /// as each component is named by the pattern, so not beyond the first `**`, and none for a
    /// pattern that is compared with names only.
    pub(super) fn passages(&self) -> Vec<Self> {
        let deep = |t: &Token| matches!(t, Token::Deep | Token::DeepSome | Token::DeepTail);
        if !self.anchored {
            return Vec::new();
        }
        let end = self.tokens.iter().position(deep).unwrap_or(self.tokens.len());
        (0..end)
            .filter(|&at| self.tokens[at] == Token::Slash)
            .map(|at| Self {
                negative: self.negative,
                only_dir: true,
                anchored: true,
                literal_prefix: self.literal_prefix,
                tokens: self.tokens[..at].to_vec(),
            })
            .collect()
    }

    fn bytes(&self, wide: bool) -> Vec<u8> {
        let mut out = Vec::new();
        if self.negative {
            out.push(b'!');
        }
        out.extend_from_slice(if self.anchored { b"/" } else { b"**/" });
        let mut at = 0;
        while at < self.tokens.len() {
            let glued = at > 0
                && !matches!(self.tokens[at - 1], Token::Slash | Token::Deep | Token::DeepSome);
            match &self.tokens[at] {
                Token::Deep if glued => {
                    // `a**/x`: git compares `a`, and then sees `**/x` at the start of the rest.
                    let mut rest = Vec::new();
                    self.tokens[at + 1..].iter().for_each(|t| t.write(wide, &mut rest));
                    out.push(b'{');
                    out.extend_from_slice(&rest);
                    out.extend_from_slice(b",*/**/");
                    out.extend_from_slice(&rest);
                    out.push(b'}');
                    break;
                }
                Token::DeepTail if glued => out.extend_from_slice(b"{*,*/**}"),
                token => token.write(wide, &mut out),
            }
            at += 1;
        }
        if self.only_dir {
            out.push(b'/');
        } else if let Some(Token::Byte(_)) = self.tokens.last() {
            protect_end(&mut out);
        }
        out
    }
}

/// Keeps white space at the end of a line, which the crate would cut off.
fn protect_end(out: &mut Vec<u8>) {
    let Some(last) = std::str::from_utf8(out).ok().and_then(|text| text.chars().next_back()) else {
        return;
    };
    if last.is_whitespace() {
        let start = out.len() - last.len_utf8();
        out.insert(start, b'{');
        out.push(b'}');
    }
}

/// Reads the text of a pattern; `None` when it can match nothing.
fn tokens(
    text: &[u8],
    anchored: bool,
    literal_prefix: usize,
    ignore_case: bool,
) -> Option<Vec<Token>> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let start = at;
        at += 1;
        match text[start] {
            b'/' => out.push(Token::Slash),
            b'?' => out.push(Token::Any),
            b'\\' => {
                let byte = *text.get(at)?;
                out.push(if byte == b'/' { Token::Slash } else { Token::Byte(byte) });
                at += 1;
            }
            b'[' => {
                let (set, end) = Set::parse(text, at, ignore_case)?;
                out.push(Token::One(Box::new(set)));
                at = end;
            }
            b'*' => {
                at += text[at..].iter().take_while(|&&b| b == b'*').count();
                // git's matcher starts behind the literal text, so what begins there begins it.
                let opens = start == literal_prefix || text[start - 1] == b'/';
                at = push_stars(&mut out, text, at, anchored && at - start > 1 && opens);
            }
            byte => out.push(Token::Byte(byte)),
        }
    }
    Some(out)
}

/// Adds the run of stars that ends before `at`; gives back where to read on.
fn push_stars(out: &mut Vec<Token>, text: &[u8], at: usize, opens: bool) -> usize {
    let (token, end) = match text[at..] {
        [] if opens => (Token::DeepTail, at),
        [b'/', ..] if opens => (Token::Deep, at + 1),
        [b'\\', b'/', ..] if opens => (Token::DeepSome, at + 2),
        _ => (Token::Star, at),
    };
    if token != Token::Deep || out.last() != Some(&Token::Deep) {
        out.push(token);
    }
    end
}

impl Token {
    fn write(&self, wide: bool, out: &mut Vec<u8>) {
        match self {
            Self::Byte(byte) => write_byte(*byte, wide, out),
            Self::Slash => out.push(b'/'),
            Self::Any if wide => Set::all().write(wide, out),
            Self::Any => out.push(b'?'),
            Self::Star => out.push(b'*'),
            Self::One(set) => set.write(wide, out),
            Self::Deep => out.extend_from_slice(b"**/"),
            Self::DeepSome => out.extend_from_slice(b"*/**/"),
            Self::DeepTail => out.extend_from_slice(b"**"),
        }
    }
}

fn write_byte(byte: u8, wide: bool, out: &mut Vec<u8>) {
    match byte {
        // A backslash before the slash at the end would be cut off with it.
        b'\\' => out.extend_from_slice(b"[\\]"),
        0x80.. if wide => push_wide(byte, out),
        _ => {
            if byte.is_ascii_punctuation() {
                out.push(b'\\');
            }
            out.push(byte);
        }
    }
}

/// Makes a path comparable with wide patterns: each byte from 0x80 on becomes one character of two
/// bytes, the first of which (0xC6 or 0xC7) is no continuation byte. The crate takes patterns as
/// text, so this is how bytes that are no text get through it.
pub(super) fn widen(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() * 2);
    for &byte in path {
        match byte {
            0x80.. => push_wide(byte, &mut out),
            _ => out.push(byte),
        }
    }
    out
}

pub(super) fn push_wide(byte: u8, out: &mut Vec<u8>) {
    let wide = char::from_u32(0x100 + u32::from(byte)).expect("U+0180..=U+01FF are characters");
    out.extend_from_slice(wide.encode_utf8(&mut [0; 2]).as_bytes());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::rules::RuleFile;
    use super::*;

    /// Whether one line of an ignore file matches a path (which is a directory with a slash).
    fn matches(line: &[u8], path: &[u8]) -> bool {
        let rules = Arc::new(RuleFile::from_bytes(b"", line, false));
        let name = path.strip_suffix(b"/").unwrap_or(path);
        rules.matched(name, name != path).is_some()
    }

    fn written(line: &[u8]) -> Option<String> {
        Pattern::parse(line, false).map(|pattern| pattern.write().line)
    }

    /// The classes of conformance.md section 3 and what else the two read differently: each row is
    /// a line, what it matches, and what it does not.
    #[test]
    fn lines_mean_what_git_says() {
        type Row<'a> = (&'a [u8], &'a [&'a [u8]], &'a [&'a [u8]]);
        let rows: &[Row<'_>] = &[
            // 1: a bare `!`.
            (b"!", &[], &[b"a", b"!", b""]),
            (b"!/", &[], &[b"a/", b"a"]),
            // 2: braces.
            (b"{a,b}", &[b"{a,b}", b"d/{a,b}"], &[b"a", b"b"]),
            (b"a{", &[b"a{"], &[b"a"]),
            (b"}", &[b"}"], &[b"a"]),
            // 3: POSIX classes, and what only looks like one.
            (b"[[:alpha:]]", &[b"a", b"Z"], &[b"1", b":", b"\xc3\xa9"]),
            (b"[![:digit:]x]", &[b"a"], &[b"1", b"x"]),
            (b"[[:nope:]a]", &[], &[b"a"]),
            (b"[[:a]", &[b"[", b":", b"a"], &[b"b"]),
            (b"[:a:]", &[b":", b"a"], &[b"b"]),
            // 4: a class that is never closed matches nothing.
            (b"[", &[], &[b"["]),
            (b"a[b", &[], &[b"a[b", b"ab"]),
            (b"\\[", &[b"["], &[b"\\["]),
            // 5: runs of stars.
            (b"***", &[b"a", b"d/a"], &[]),
            (b"d/***", &[b"d/a", b"d/e/a"], &[b"d/"]),
            (b"***/x", &[b"x", b"d/x", b"d/e/x"], &[b"dx"]),
            (b"d/a***b", &[b"d/ab", b"d/axb"], &[b"d/a/b"]),
            // 6: `**` glued to literal text, where git itself leaves its manual.
            (b"a**/x", &[b"ax", b"ab/x", b"ab/c/x", b"a/x"], &[b"b/x", b"abx"]),
            (b"d/a**", &[b"d/a", b"d/ab/c"], &[b"d/b"]),
            (b"?a**/x", &[b"ba/x", b"bac/x"], &[b"ba/c/x", b"bax"]),
            // Classes: never a slash, bytes and not characters, odd orders.
            (b"a[^b]c", &[b"axc"], &[b"a/c", b"abc"]),
            (b"d/a[/x]c", &[b"d/axc"], &[b"d/a/c"]),
            (b"[/]", &[], &[b"a", b"/"]),
            (b"[]-]", &[b"]", b"-"], &[b"a"]),
            (b"[!]a]", &[b"b"], &[b"]", b"a"]),
            (b"[!]", &[], &[b"!"]),
            (b"[!^]", &[b"a", b"!"], &[b"^"]),
            (b"[^!]", &[b"a", b"^"], &[b"!"]),
            (b"[a!]", &[b"a", b"!"], &[b"b"]),
            (b"[c-a]", &[b"c"], &[b"a", b"b"]),
            (b"[\\]]", &[b"]"], &[b"\\"]),
            (b"[\xc3]\xa9", &[b"\xc3\xa9"], &[b"\xc4\xa9", b"a"]),
            (b"[!\xc3]?", &[b"ab", b"\xc4\xa9"], &[b"\xc3\xa9"]),
            (b"x\xff", &[b"x\xff", b"d/x\xff"], &[b"x\xfe", b"x"]),
            (b"\xff?*", &[b"\xff\xfe", b"\xffa"], &[b"\xff", b"\xff/a"]),
            (b"??", &[b"\xc3\xa9", b"ab"], &[b"a"]),
            // The ends of lines.
            (b"a  ", &[b"a"], &[b"a "]),
            (b"a\\ ", &[b"a "], &[b"a"]),
            (b"a\t", &[b"a\t"], &[b"a"]),
            (b"a\xe3\x80\x80", &[b"a\xe3\x80\x80"], &[b"a"]),
            (b"a\r\n", &[b"a"], &[b"a\r"]),
            (b"a\r\r\n", &[b"a\r"], &[b"a"]),
            (b"\xef\xbb\xbfa", &[b"a"], &[]),
            (b"a\0b", &[b"a"], &[b"ab"]),
            (b"a\\", &[], &[b"a", b"a\\"]),
            (b"a\\\\", &[b"a\\"], &[b"a"]),
            (b"a\\\\/", &[b"a\\/"], &[b"a\\", b"a/"]),
            (b"# a", &[], &[b"# a"]),
            (b"\\#a", &[b"#a"], &[b"a"]),
            (b"\\!a", &[b"!a"], &[b"a"]),
            // Anchors and directories.
            (b"/a", &[b"a"], &[b"d/a"]),
            (b"d/a", &[b"d/a"], &[b"e/d/a"]),
            (b"a/", &[b"a/", b"d/a/"], &[b"a"]),
            (b"d/**", &[b"d/a", b"d/e/a"], &[b"d/", b"d"]),
            (b"**/a/b", &[b"a/b", b"d/a/b"], &[b"b"]),
            (b"d/**/**/a", &[b"d/a", b"d/e/f/a"], &[b"a"]),
            (b"d/**\\/a", &[b"d/e/a", b"d/e/f/a"], &[b"d/a"]),
            (b"**//", &[], &[b"a/"]),
            (b"a**//", &[b"a/"], &[b"a", b"ab/", b"ab/c/"]),
            (b"a/**//", &[], &[b"a/", b"a/b/"]),
            (b"?a/**//", &[], &[b"ba/", b"ba/c/"]),
            (b"/", &[], &[b"a", b"a/"]),
        ];
        for (line, yes, no) in rows {
            let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
            for path in *yes {
                assert!(matches(line, path), "{} misses {}", shown(line), shown(path));
            }
            for path in *no {
                assert!(!matches(line, path), "{} takes {}", shown(line), shown(path));
            }
        }
    }

    #[test]
    fn plain_lines_stay_plain() {
        // So that the crate keeps its fast ways for names and extensions.
        for (line, expected) in [
            (&b"node_modules"[..], Some("**/node\\_modules")),
            (b"*.pyc", Some("**/*\\.pyc")),
            (b"/target/", Some("/target/")),
            (b"!a/b", Some("!/a/b")),
            (b"[", None),
        ] {
            assert_eq!(written(line).as_deref(), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn case_folds_as_git_folds_it() {
        let file = b"Foo\n[b-c]x\n[A]y\n[[:upper:]]z\n[!q]w\n";
        let rules = Arc::new(RuleFile::from_bytes(b"", file, true));
        for (name, expected) in [
            ("fOO", true),
            ("Bx", true),
            // A class is compared with the lower case of a name only.
            ("ay", false),
            ("Ay", false),
            ("az", true),
            ("Qw", false),
            ("Rw", true),
        ] {
            assert_eq!(rules.matched(name.as_bytes(), false).is_some(), expected, "{name}");
        }
    }
}
