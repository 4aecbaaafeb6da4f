//! Owns `check-ignore`: for each path the rule that decides, in the words of `git check-ignore`.
//!
//! Output and order are git's byte for byte (git's manual page, OUTPUT); whether a path is tracked
//! plays no part, as with git's `--no-index`. Rules of ours name `--exclude`, `--include` or
//! `built-in` as their source. Printing is left to whoever owns the writer, words for people to the
//! error room, exit codes to the commands: [`Found::Some`] is 0, [`Found::Nothing`] 1, every
//! [`CheckError`] 128, as git's.

use std::io::{self, BufRead, Write};
use std::path::{Component, Path, PathBuf};

use e2ek_sidecar::path::{PathError, SyncPath};

use super::{Filter, Rule, RuleFiles, as_path};

/// How the records look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// `-v`: source, line and pattern before each path; rules that keep a path are told, too.
    pub verbose: bool,
    /// `-q`: nothing is written.
    pub quiet: bool,
    /// `-n`: also paths that no rule matches.
    pub non_matching: bool,
    /// `-z`: NUL between fields and paths, in and out; nothing is quoted.
    pub nul: bool,
}

/// Where the paths come from. Relative ones count from the working directory.
pub enum Paths<'a> {
    /// From the command line.
    Given(&'a [PathBuf]),
    /// `--stdin`: one a line (quoted as git quotes them, if they begin with `"`), or NUL after each.
    Read(&'a mut dyn BufRead),
}

/// Whether any of the paths is ignored (with `verbose`: matched by any rule).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// At least one: exit code 0.
    Some,
    /// None: exit code 1.
    Nothing,
}

/// Why the question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No path at all.
    #[error("no path specified")]
    NoPath,
    /// `--stdin` with paths on the command line.
    #[error("cannot specify pathnames with --stdin")]
    PathsAndStdin,
    /// `-q` with more than one path on the command line.
    #[error("--quiet is only valid with a single pathname")]
    QuietOfMany,
    /// `-q` with `-v`.
    #[error("cannot have both --quiet and --verbose")]
    QuietAndVerbose,
    /// `-z` with paths on the command line.
    #[error("-z only makes sense with --stdin")]
    NulWithoutStdin,
    /// `-n` without `-v`.
    #[error("--non-matching is only valid with --verbose")]
    NonMatchingWithoutVerbose,
    /// An empty path.
    #[error("an empty path names nothing")]
    Empty,
    /// A path that does not lie below the root.
    #[error("{} is outside of {}", path.display(), root.display())]
    Outside {
        /// As asked.
        path: PathBuf,
        /// The root.
        root: PathBuf,
    },
    /// A path that leads through a link.
    #[error("{} is beyond a symbolic link", path.display())]
    BeyondLink {
        /// As asked.
        path: PathBuf,
    },
    /// A path that no tree can hold.
    #[error("{}", path.display())]
    Path {
        /// As asked.
        path: PathBuf,
        /// Why.
        source: PathError,
    },
    /// A line of standard input that begins with `"` and is no quoted path.
    #[error("line is badly quoted")]
    BadlyQuoted,
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Asks `filter` about `paths`, writes the records to `out` (flushed after each path read from
/// standard input, so that it can be used as a coprocess). `cwd` is absolute.
///
/// # Errors
/// At the first path that cannot be asked about; given paths are all checked before anything is
/// written, read ones as they come (git does the same).
pub fn check_ignore(
    filter: &Filter,
    cwd: &Path,
    paths: Paths<'_>,
    options: CheckOptions,
    out: &mut dyn Write,
) -> Result<Found, CheckError> {
    if options.nul && matches!(paths, Paths::Given(_)) {
        return Err(CheckError::NulWithoutStdin);
    }
    if matches!(paths, Paths::Given([])) {
        return Err(CheckError::NoPath);
    }
    if options.quiet && matches!(paths, Paths::Given([_, _, ..])) {
        return Err(CheckError::QuietOfMany);
    }
    if options.quiet && options.verbose {
        return Err(CheckError::QuietAndVerbose);
    }
    if options.non_matching && !options.verbose {
        return Err(CheckError::NonMatchingWithoutVerbose);
    }
    let mut found = Found::Nothing;
    match paths {
        Paths::Given(paths) => {
            let asked = paths.iter().map(|path| Asked::new(filter, cwd, path));
            for asked in asked.collect::<Result<Vec<_>, _>>()? {
                answer(filter, &asked, options, out, &mut found)?;
            }
        }
        Paths::Read(input) => {
            while let Some(path) = next_path(input, options.nul)? {
                let asked = Asked::new(filter, cwd, &as_path(&path))?;
                answer(filter, &asked, options, out, &mut found)?;
                out.flush()?;
            }
        }
    }
    Ok(found)
}

/// A path as asked, and where it lies below the root.
struct Asked {
    shown: Vec<u8>,
    path: SyncPath,
    /// Ends with a slash: the question is about what is inside.
    inside: bool,
}

impl Asked {
    fn new(filter: &Filter, cwd: &Path, asked: &Path) -> Result<Self, CheckError> {
        let shown = asked.as_os_str().as_encoded_bytes().to_vec();
        if shown.is_empty() {
            return Err(CheckError::Empty);
        }
        let outside =
            || CheckError::Outside { path: asked.to_path_buf(), root: filter.root().to_path_buf() };
        let plain = plain(&cwd.join(asked)).ok_or_else(outside)?;
        let below = below(&plain, filter.root()).ok_or_else(outside)?;
        let names: Vec<&[u8]> = below.iter().map(|name| name.as_encoded_bytes()).collect();
        let inside = shown.ends_with(b"/");
        let path = match names.is_empty() {
            true => SyncPath::root(),
            false => SyncPath::new(names.join(&b'/'))
                .map_err(|source| CheckError::Path { path: asked.to_path_buf(), source })?,
        };
        let leading = names.len() - usize::from(!inside && !names.is_empty());
        let mut directory = filter.root().to_path_buf();
        for name in below.iter().take(leading) {
            directory.push(name);
            if directory.is_symlink() {
                return Err(CheckError::BeyondLink { path: asked.to_path_buf() });
            }
        }
        Ok(Self { shown, path, inside })
    }

    /// The rule that decides, if any matches.
    fn rule(&self, filter: &Filter) -> Option<Rule> {
        let on_disk = || filter.root().join(as_path(self.path.as_bytes()));
        let is_dir = self.inside || on_disk().symlink_metadata().is_ok_and(|meta| meta.is_dir());
        let decision = filter.decision_of(&self.path, is_dir)?;
        if !self.inside || !decision.verdict.is_kept() {
            return decision.rule;
        }
        // git compares the empty name behind the slash, so that `dir/` is told by a `*` in `dir`.
        let rules = self.path.components().fold(filter.root_rules(), |rules, name| {
            filter.child_rules(&rules, name, RuleFiles::ANY)
        });
        rules.decide(b"", true).rule
    }
}

/// Resolves `.` and `..` by the text alone, as git does; `None` above the top.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if !out.pop() => return None,
            Component::ParentDir => {}
            other => out.push(other),
        }
    }
    Some(out)
}

/// What remains of `path` below `root` (resolved); the way to the root may lead through links.
fn below<'a>(path: &'a Path, root: &Path) -> Option<&'a Path> {
    if let Ok(below) = path.strip_prefix(root) {
        return Some(below);
    }
    let is_root = |a: &&Path| a.canonicalize().is_ok_and(|real| real == root);
    path.strip_prefix(path.ancestors().find(is_root)?).ok()
}

fn answer(
    filter: &Filter,
    asked: &Asked,
    options: CheckOptions,
    out: &mut dyn Write,
    found: &mut Found,
) -> io::Result<()> {
    let rule = asked.rule(filter).filter(|rule| options.verbose || !rule.is_negative());
    if rule.is_some() {
        *found = Found::Some;
    } else if !options.non_matching {
        return Ok(());
    }
    if options.quiet {
        return Ok(());
    }
    let mut record = Vec::new();
    match (options.verbose, options.nul) {
        (true, true) => {
            if let Some(rule) = &rule {
                record.extend_from_slice(rule.source());
                write!(record, "\0{}\0", rule.line())?;
                record.extend_from_slice(rule.pattern());
                record.push(0);
            } else {
                record.extend_from_slice(b"\0\0\0");
            }
        }
        (true, false) => {
            if let Some(rule) = &rule {
                quote(rule.source(), &mut record);
                write!(record, ":{}:", rule.line())?;
                record.extend_from_slice(rule.pattern());
            } else {
                record.extend_from_slice(b"::");
            }
            record.push(b'\t');
        }
        (false, _) => {}
    }
    if options.nul {
        record.extend_from_slice(&asked.shown);
        record.push(0);
    } else {
        quote(&asked.shown, &mut record);
        record.push(b'\n');
    }
    out.write_all(&record)
}

/// Reads one path; `None` at the end.
fn next_path(input: &mut dyn BufRead, nul: bool) -> Result<Option<Vec<u8>>, CheckError> {
    let end = if nul { 0 } else { b'\n' };
    let mut path = Vec::new();
    if input.read_until(end, &mut path)? == 0 {
        return Ok(None);
    }
    if path.last() == Some(&end) {
        path.pop();
        if !nul && path.last() == Some(&b'\r') {
            path.pop();
        }
    }
    match path.strip_prefix(b"\"") {
        Some(quoted) if !nul => unquote(quoted).map(Some).ok_or(CheckError::BadlyQuoted),
        _ => Ok(Some(path)),
    }
}

/// The letters that stand for control characters after a backslash (git's `quote.c`).
const LETTERS: [(u8, u8); 9] = [
    (7, b'a'),
    (8, b'b'),
    (b'\t', b't'),
    (b'\n', b'n'),
    (11, b'v'),
    (12, b'f'),
    (b'\r', b'r'),
    (b'"', b'"'),
    (b'\\', b'\\'),
];

/// Writes a name as git does when `core.quotePath` is on (its default, and not read here).
fn quote(name: &[u8], out: &mut Vec<u8>) {
    let letter = |byte: u8| LETTERS.iter().find(|pair| pair.0 == byte).map(|pair| pair.1);
    let plain = |&byte: &u8| matches!(byte, 0x20..0x7f) && letter(byte).is_none();
    if name.iter().all(plain) {
        return out.extend_from_slice(name);
    }
    out.push(b'"');
    for &byte in name {
        match letter(byte) {
            Some(letter) => out.extend_from_slice(&[b'\\', letter]),
            None if plain(&byte) => out.push(byte),
            None => {
                let digit = |shift: u8| b'0' + ((byte >> shift) & 7);
                out.extend_from_slice(&[b'\\', digit(6), digit(3), digit(0)]);
            }
        }
    }
    out.push(b'"');
}

/// Reads what follows the opening quote; what follows the closing one is passed over, as git does.
fn unquote(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = text.iter().copied();
    loop {
        match bytes.next()? {
            b'"' => return Some(out),
            b'\\' => match bytes.next()? {
                high @ b'0'..=b'3' => {
                    let mut value = high - b'0';
                    for _ in 0..2 {
                        let digit = bytes.next().filter(|b| (b'0'..=b'7').contains(b))?;
                        value = value * 8 + (digit - b'0');
                    }
                    out.push(value);
                }
                letter => out.push(LETTERS.iter().find(|pair| pair.1 == letter)?.0),
            },
            byte => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_git_does() {
        for (name, quoted) in [
            (&b"a b"[..], "a b"),
            (b"\xc3\xa9", r#""\303\251""#),
            (b"a\tb\"\\\x01\x7f\n", r#""a\tb\"\\\001\177\n""#),
        ] {
            let mut out = Vec::new();
            quote(name, &mut out);
            assert_eq!(out, quoted.as_bytes());
            if let Some(rest) = out.strip_prefix(b"\"") {
                assert_eq!(unquote(rest).unwrap(), name);
            }
        }
        for bad in ["", "a", "\\", "\\q\"", "\\4\"", "\\018\""] {
            assert_eq!(unquote(bad.as_bytes()), None, "{bad}");
        }
    }
}
