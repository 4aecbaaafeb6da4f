//! Patterns that stand alone, in no file: those of the restart rules.

use std::sync::Arc;

use e2ek_sidecar::path::SyncPath;

use super::rewrite;
use super::rules::RuleFile;

/// A list of patterns in gitignore syntax, relative to a root; `!` takes back.
#[derive(Clone)]
pub struct Patterns(Arc<RuleFile>);

impl Patterns {
    /// Takes the patterns in their order: a later one wins.
    #[must_use]
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Self {
        let joined: Vec<&str> = patterns.iter().map(AsRef::as_ref).collect();
        let joined = joined.join("\n");
        let lines = rewrite::lines(joined.as_bytes());
        Self(Arc::new(RuleFile::from_patterns(b"rule", lines, false, |pattern| vec![pattern])))
    }

    /// Whether a path, or a directory it lies in, matches.
    #[must_use]
    pub fn matches(&self, path: &SyncPath) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let (mut at, mut directory) = (path.as_bytes(), false);
        while !at.is_empty() {
            if let Some(rule) = self.0.matched(at, directory) {
                return !rule.is_negative();
            }
            directory = true;
            at = &at[..at.iter().rposition(|&byte| byte == b'/').unwrap_or(0)];
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_an_ignore_file() {
        let patterns = Patterns::new(&["*.html", "static/**", "/top.txt", "!keep.html"]);
        let matches = |text: &str| patterns.matches(&SyncPath::try_from(text).unwrap());
        for path in ["a.html", "d/e/a.html", "static/css/x.css", "top.txt"] {
            assert!(matches(path), "{path}");
        }
        for path in ["a.py", "keep.html", "d/top.txt", "staticx"] {
            assert!(!matches(path), "{path}");
        }
    }
}
