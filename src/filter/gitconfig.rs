//! Owns the little of git's configuration syntax that decides about ignoring.
//!
//! Sections, quotes, escapes, comments, continued lines, and both kinds of include; a file that
//! cannot be read or parsed counts as far as it goes (git itself would stop with an error).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::as_path;
use super::dir::read;
use super::rules::RuleFile;

/// How deep includes may nest (git's `MAX_INCLUDE_DEPTH`).
const MAX_INCLUDE_DEPTH: usize = 10;

/// The settings that count here; later files overwrite earlier ones.
#[derive(Debug, Default)]
pub(super) struct Values {
    pub(super) excludes_file: Option<PathBuf>,
    pub(super) ignore_case: bool,
    pub(super) worktree_config: bool,
    /// The files that were looked for, whether they are there or not.
    pub(super) asked: BTreeSet<PathBuf>,
}

/// Reads one file into `values`. `git` is the git directory that `gitdir:` conditions ask about.
pub(super) fn read_into(
    values: &mut Values,
    file: &Path,
    home: Option<&Path>,
    git: Option<&Path>,
    depth: usize,
) {
    values.asked.insert(file.to_path_buf());
    let Ok(Some(bytes)) = read(file, true) else {
        return;
    };
    for (section, key, value) in settings(&bytes) {
        match (&*section, &*key) {
            (b"core", b"excludesfile") => {
                values.excludes_file = expand(value.as_deref().unwrap_or_default(), home);
            }
            (b"core", b"ignorecase") => values.ignore_case = is_true(value.as_deref()),
            (b"extensions", b"worktreeconfig") => {
                values.worktree_config = is_true(value.as_deref());
            }
            (section, b"path") if depth < MAX_INCLUDE_DEPTH => {
                let wanted = section == b"include"
                    || section
                        .strip_prefix(b"includeif.")
                        .is_some_and(|condition| holds(condition, file, home, git));
                let path = value.as_deref().and_then(|value| expand(value, home));
                if let Some(path) = path.filter(|_| wanted) {
                    let path = file.parent().map_or_else(|| path.clone(), |p| p.join(&path));
                    read_into(values, &path, home, git, depth + 1);
                }
            }
            _ => {}
        }
    }
}

/// Whether an `includeIf` condition holds for the repository at hand.
fn holds(condition: &[u8], file: &Path, home: Option<&Path>, git: Option<&Path>) -> bool {
    let (pattern, ignore_case) = match condition {
        [b'g', b'i', b't', b'd', b'i', b'r', b':', rest @ ..] => (rest, false),
        [b'g', b'i', b't', b'd', b'i', b'r', b'/', b'i', b':', rest @ ..] => (rest, true),
        _ => return false,
    };
    let Some(git) = git.and_then(|git| git.canonicalize().ok()) else {
        return false;
    };
    let mut text = match (pattern, file.parent(), home) {
        ([b'.', b'/', rest @ ..], Some(parent), _) => join(parent, rest),
        ([b'~', b'/', rest @ ..], _, Some(home)) => join(home, rest),
        ([b'/', ..], _, _) => pattern.to_vec(),
        _ => [b"**/", pattern].concat(),
    };
    if text.ends_with(b"/") {
        text.extend_from_slice(b"**");
    }
    let git = git.as_os_str().as_encoded_bytes();
    let rules = RuleFile::from_bytes(b"", &text, ignore_case);
    std::sync::Arc::new(rules).matched(git.strip_prefix(b"/").unwrap_or(git), true).is_some()
}

fn join(directory: &Path, rest: &[u8]) -> Vec<u8> {
    [directory.as_os_str().as_encoded_bytes(), b"/", rest].concat()
}

/// A path as git reads one from its configuration: `~/` is the home directory.
fn expand(value: &[u8], home: Option<&Path>) -> Option<PathBuf> {
    match value {
        [b'~', b'/', rest @ ..] => Some(home?.join(as_path(rest))),
        _ => Some(as_path(value).into_owned()),
    }
}

/// git's truth: a key without a value is true.
fn is_true(value: Option<&[u8]>) -> bool {
    let Some(value) = value else { return true };
    let value = value.to_ascii_lowercase();
    matches!(&*value, b"true" | b"yes" | b"on")
        || std::str::from_utf8(&value).is_ok_and(|v| v.parse::<i64>().is_ok_and(|v| v != 0))
}

type Setting = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// All settings: section (lower case, `section.Subsection`), key (lower case), value.
fn settings(bytes: &[u8]) -> Vec<Setting> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut rest = bytes;
    let mut section = Vec::new();
    let mut found = Vec::new();
    loop {
        rest = rest.trim_ascii_start();
        match rest.first() {
            None => return found,
            Some(b'#' | b';') => rest = after(rest, b'\n'),
            Some(b'[') => match read_section(rest) {
                Some((name, tail)) => (section, rest) = (name, tail),
                None => return found,
            },
            Some(_) => {
                let key_end = rest.iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'-');
                let (key, tail) = rest.split_at(key_end.unwrap_or(rest.len()));
                if key.is_empty() {
                    return found;
                }
                let (value, tail) = read_value(tail);
                found.push((section.clone(), key.to_ascii_lowercase(), value));
                rest = tail;
            }
        }
    }
}

/// Reads `[name]`, `[name "sub"]` or `[name.sub]`.
fn read_section(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut name = Vec::new();
    let mut at = 1;
    while !matches!(text.get(at)?, b']' | b'"') {
        if !text[at].is_ascii_whitespace() {
            name.push(text[at].to_ascii_lowercase());
        }
        at += 1;
    }
    if text[at] == b'"' {
        name.push(b'.');
        at += 1;
        while *text.get(at)? != b'"' {
            at += usize::from(text[at] == b'\\');
            name.push(*text.get(at)?);
            at += 1;
        }
        at += 1 + text[at..].iter().position(|&b| b == b']')? - 1;
    }
    Some((name, &text[at + 1..]))
}

/// Reads what follows a key to the end of its (perhaps continued) line.
fn read_value(text: &[u8]) -> (Option<Vec<u8>>, &[u8]) {
    let mut at = text.iter().position(|b| !matches!(b, b' ' | b'\t')).unwrap_or(text.len());
    if text.get(at) != Some(&b'=') {
        return (None, after(text, b'\n'));
    }
    at += 1;
    let mut value: Vec<u8> = Vec::new();
    // What is kept even when it ends in white space, because it was quoted.
    let mut kept = 0;
    let mut quoted = false;
    while let Some(&byte) = text.get(at) {
        at += 1;
        match byte {
            b'\n' => break,
            b'"' => quoted = !quoted,
            b'#' | b';' if !quoted => {
                value.truncate(kept.max(value.trim_ascii_end().len()));
                return (Some(value), after(&text[at..], b'\n'));
            }
            b'\\' => {
                let escaped = text.get(at).copied();
                at += 1;
                match escaped {
                    Some(b'\n') | None => {}
                    Some(b'\r') if text.get(at) == Some(&b'\n') => at += 1,
                    Some(b'n') => value.push(b'\n'),
                    Some(b't') => value.push(b'\t'),
                    Some(b'b') => value.push(8),
                    Some(other) => value.push(other),
                }
            }
            b' ' | b'\t' if value.is_empty() && !quoted => {}
            other => value.push(other),
        }
        if quoted {
            kept = value.len();
        }
    }
    value.truncate(kept.max(value.trim_ascii_end().len()));
    (Some(value), &text[at.min(text.len())..])
}

fn after(text: &[u8], byte: u8) -> &[u8] {
    text.iter().position(|&b| b == byte).map_or(&[], |at| &text[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_git_writes_them() {
        let text = b"# c\n[core]\n\texcludesFile = ~/a b # c\n ignoreCase\n\
            [includeIf \"gitdir:/W \\\"x\\\"/\"] path = \"x;y \" ; c\n\
            [A.B]\nlong = one \\\n two\nlast=\"\\t\\\\\"";
        let found = settings(text);
        let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let found: Vec<_> =
            found.iter().map(|(s, k, v)| (show(s), show(k), v.as_deref().map(show))).collect();
        let row = |s: &str, k: &str, v: Option<&str>| (s.into(), k.into(), v.map(str::to_owned));
        assert_eq!(
            found,
            [
                row("core", "excludesfile", Some("~/a b")),
                row("core", "ignorecase", None),
                row("includeif.gitdir:/W \"x\"/", "path", Some("x;y ")),
                row("a.b", "long", Some("one  two")),
                row("a.b", "last", Some("\t\\")),
            ]
        );
    }

    #[test]
    fn damaged_text_ends_the_reading() {
        for text in ["[", "[a \"", "=", "[core]\nx = \\", "[core]\nx = \"", "\\", "[a \"b\" c"] {
            settings(text.as_bytes());
        }
    }
}
