//! Owns watchmedo's path patterns: Python's `PurePosixPath.match`, as documented.
//!
//! A relative pattern is held against the end of the path, component by component (`*.py`,
//! `templates/*.html`); an absolute one against all of it. Within a component `*`, `?`, `[seq]` and
//! `[!seq]`; nothing crosses a `/`, so `**` is `*`. Case counts. Bytes, not characters.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Which paths matter.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Filter {
    /// Empty patterns match nothing.
    pub(super) fn new(include: &[String], exclude: &[String]) -> Self {
        let parse = |texts: &[String]| texts.iter().map(|text| Pattern::new(text)).collect();
        Self { include: parse(include), exclude: parse(exclude) }
    }

    /// `path` is absolute.
    pub(super) fn matches(&self, path: &Path) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(path));
        any(&self.include) && !any(&self.exclude)
    }
}

#[derive(Clone, Debug)]
struct Pattern {
    components: Vec<Vec<u8>>,
    absolute: bool,
}

impl Pattern {
    fn new(text: &str) -> Self {
        Self {
            components: normal(Path::new(text)).map(<[u8]>::to_vec).collect(),
            absolute: text.starts_with('/'),
        }
    }

    fn matches(&self, path: &Path) -> bool {
        let path: Vec<&[u8]> = normal(path).collect();
        let Some(skip) = path.len().checked_sub(self.components.len()) else {
            return false;
        };
        let mut pairs = self.components.iter().zip(&path[skip..]);
        !self.components.is_empty()
            && (skip == 0 || !self.absolute)
            && pairs.all(|(pattern, name)| glob(pattern, name))
    }
}

fn normal(path: &Path) -> impl Iterator<Item = &[u8]> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(OsStr::as_bytes(name)),
        Component::ParentDir => Some(b"..".as_slice()),
        _ => None,
    })
}

/// fnmatch of one component; goes back to the last `*` only, so its cost is pattern times name.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on when what follows the last star does not fit.
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            back = Some((p, n));
        } else if let Some(length) = one(&pattern[p..], name[n]) {
            p += length;
            n += 1;
        } else if let Some((star, from)) = back {
            p = star;
            n = from + 1;
            back = Some((star, n));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// The length of the pattern element at the start of `pattern` when it fits `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => match set(pattern) {
            Some((length, set)) => in_set(set, byte).then_some(length),
            // An unclosed bracket is a bracket.
            None => (byte == b'[').then_some(1),
        },
        &literal => (literal == byte).then_some(1),
    }
}

/// The length of `[...]` and what is between; a `]` right after `[` or `[!` is a member.
fn set(pattern: &[u8]) -> Option<(usize, &[u8])> {
    let first = if pattern.get(1) == Some(&b'!') { 3 } else { 2 };
    let end = pattern.get(first..)?.iter().position(|&byte| byte == b']')? + first;
    Some((end + 1, &pattern[1..end]))
}

fn in_set(set: &[u8], byte: u8) -> bool {
    let (negated, mut set) = match set.strip_prefix(b"!") {
        Some(rest) => (true, rest),
        None => (false, set),
    };
    let mut found = false;
    while let Some((&low, rest)) = set.split_first() {
        if let [b'-', high, rest @ ..] = rest {
            found |= (low..=*high).contains(&byte);
            set = rest;
        } else {
            found |= low == byte;
            set = rest;
        }
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each row was held against `PurePosixPath(path).match(pattern)` of Python 3.11.
    #[test]
    fn patterns_mean_what_python_means() {
        for (pattern, path, expected) in [
            ("*", "/a/b.py", true),
            ("*.py", "/a/b.py", true),
            ("*.py", "/a/b.pyc", false),
            ("*.py", "/a/.py", true),
            ("*.PY", "/a/b.py", false),
            ("a/*.py", "/x/a/b.py", true),
            ("a/*.py", "/x/a/c/b.py", false),
            ("**/b.py", "/b.py", false),
            ("./*.py", "/a/b.py", true),
            ("/a/*.py", "/a/b.py", true),
            ("/a/*.py", "/x/a/b.py", false),
            ("a/", "/x/a", true),
            ("b.p?", "/a/b.py", true),
            ("[ab].py", "/a/b.py", true),
            ("[!ab].py", "/a/b.py", false),
            ("[a-c]*", "/a/bxx", true),
            ("[]x]", "/]", true),
            ("[x", "/[x", true),
            ("[x", "/x", false),
            ("*a*b*c", "/xaxbxbc", true),
            ("*a*b*c", "/xaxbxb", false),
            ("**", "/a", true),
            ("", "/a", false),
        ] {
            let found = Pattern::new(pattern).matches(Path::new(path));
            assert_eq!(found, expected, "{pattern} {path}");
        }
    }

    #[test]
    fn an_excluded_path_does_not_matter() {
        let filter = Filter::new(&["*.py".to_owned()], &["test_*".to_owned()]);
        assert!(filter.matches(Path::new("/a/b.py")));
        assert!(!filter.matches(Path::new("/a/test_b.py")));
        assert!(!filter.matches(Path::new("/a/b.rs")));
    }
}
