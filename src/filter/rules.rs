//! Owns one source of rules: a file of patterns, or the patterns of one option, ready to match.
//!
//! Each line is rewritten to git's meaning (`rewrite`) and given to the `ignore` crate; the last
//! line that matches decides. Order between sources is left to the parent room.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::as_path;
use super::rewrite::{self, Pattern, Written};

/// One rule that decided: where it stands and what it says.
#[derive(Clone)]
pub struct Rule {
    file: Arc<RuleFile>,
    index: usize,
}

impl Rule {
    /// Where the rule stands: a path below the repository's top (`sub/.gitignore`), an absolute
    /// path, `--exclude`, `--include`, or `built-in`. Bytes as the file system gave them.
    #[must_use]
    pub fn source(&self) -> &[u8] {
        &self.file.source
    }

    /// The line in that source, counted from 1 (for options: which of them).
    #[must_use]
    pub fn line(&self) -> u32 {
        self.file.lines[self.index].number
    }

    /// The pattern as written, with its `!` and `/`, without trailing spaces.
    #[must_use]
    pub fn pattern(&self) -> &[u8] {
        &self.file.lines[self.index].text
    }

    /// Whether the rule keeps what it matches (`!`).
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.file.lines[self.index].negative
    }

    pub(super) fn new(file: &Arc<RuleFile>, index: usize) -> Self {
        Self { file: Arc::clone(file), index }
    }
}

/// `source:line:pattern`, escaped for people.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = e2ek_sidecar::path::Escaped;
        write!(f, "{}:{}:{}", escaped(self.source()), self.line(), escaped(self.pattern()))
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        (self.source(), self.line(), self.pattern())
            == (other.source(), other.line(), other.pattern())
    }
}

impl Eq for Rule {}

/// A line as it is told to people.
struct Line {
    number: u32,
    text: Box<[u8]>,
    negative: bool,
}

/// A run of lines that one matcher holds.
struct Run {
    matcher: Gitignore,
    wide: bool,
}

/// Patterns from one place.
pub(super) struct RuleFile {
    source: Box<[u8]>,
    lines: Vec<Line>,
    /// In the order of the lines: a later run beats an earlier one.
    runs: Vec<Run>,
}

impl RuleFile {
    /// Reads the bytes of an ignore file.
    pub(super) fn from_bytes(source: &[u8], bytes: &[u8], ignore_case: bool) -> Self {
        let lines = rewrite::lines(bytes);
        Self::from_patterns(source, lines, ignore_case, |pattern| vec![pattern])
    }

    /// Takes lines as [`rewrite::lines`] gives them; `map` may put other patterns in place of each
    /// (the line then stands for those).
    pub(super) fn from_patterns<'a>(
        source: &[u8],
        numbered: impl Iterator<Item = (u32, &'a [u8])>,
        ignore_case: bool,
        map: impl Fn(Pattern) -> Vec<Pattern>,
    ) -> Self {
        let mut lines: Vec<Line> = Vec::new();
        let mut written: Vec<(usize, Written)> = Vec::new();
        for (number, text) in numbered {
            let Some(pattern) = Pattern::parse(text, ignore_case) else {
                continue;
            };
            let negative = pattern.negative;
            written.extend(map(pattern).iter().map(|pattern| (lines.len(), pattern.write())));
            lines.push(Line { number, text: text.into(), negative });
        }
        let mut runs = Vec::new();
        for run in written.chunk_by(|a, b| a.1.wide == b.1.wide) {
            build(run, &|lines| compile(lines, ignore_case), &mut runs);
        }
        Self { source: source.into(), lines, runs }
    }

    /// A source whose lines are matched by other means; only their words are kept here.
    pub(super) fn of_names(source: &[u8], names: &[&str]) -> Self {
        let line = |(number, name): (u32, &&str)| Line {
            number,
            text: name.as_bytes().into(),
            negative: false,
        };
        let lines = (1..).zip(names).map(line).collect();
        Self { source: source.into(), lines, runs: Vec::new() }
    }

    /// Whether nothing here can ever match.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The last rule that matches `path` (relative to the directory the rules belong to).
    pub(super) fn matched(self: &Arc<Self>, path: &[u8], is_dir: bool) -> Option<Rule> {
        let mut widened = None;
        for run in self.runs.iter().rev() {
            let path: &[u8] = match run.wide {
                true => widened.get_or_insert_with(|| rewrite::widen(path)),
                false => path,
            };
            match run.matcher.matched(as_path(path).as_ref(), is_dir) {
                Match::None => {}
                Match::Ignore(glob) | Match::Whitelist(glob) => {
                    return Some(Rule::new(self, index_of(glob.from())));
                }
            }
        }
        None
    }
}

/// Makes matchers for a run of lines. One that is too large for `compile` (the crate's automata are
/// bounded) is cut in two: no line may be lost, because a lost line sends what was to stay.
fn build(
    written: &[(usize, Written)],
    compile: &impl Fn(&[(usize, Written)]) -> Option<Gitignore>,
    runs: &mut Vec<Run>,
) {
    match compile(written) {
        Some(matcher) => runs.push(Run { matcher, wide: written[0].1.wide }),
        None if written.len() > 1 => {
            let (first, second) = written.split_at(written.len() / 2);
            build(first, compile, runs);
            build(second, compile, runs);
        }
        None => tracing::warn!(line = %written[0].1.line.escape_debug(), "rule is too large"),
    }
}

/// Hands lines to the crate; `None` when it cannot take them together.
fn compile(written: &[(usize, Written)], ignore_case: bool) -> Option<Gitignore> {
    let mut builder = GitignoreBuilder::new("");
    builder.case_insensitive(ignore_case).ok()?;
    for (index, written) in written {
        // The crate hands back what it was told as the line's origin: we tell it the index.
        builder.add_line(Some(PathBuf::from(index.to_string())), &written.line).ok()?;
    }
    builder.build().ok()
}

fn index_of(from: Option<&Path>) -> usize {
    let index = from.and_then(Path::to_str).and_then(|text| text.parse().ok());
    index.expect("every line was added with its index as its origin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_too_large_for_one_automaton_loses_no_line() {
        let names = ["a*", "!ab", "c", "d", "e", "a?c"];
        let write = |text: &&str| Pattern::parse(text.as_bytes(), false).unwrap().write();
        let written: Vec<_> = names.iter().map(write).enumerate().collect();
        let small = |lines: &[_]| (lines.len() < 3).then(|| compile(lines, false)).flatten();
        let mut runs = Vec::new();
        build(&written, &small, &mut runs);
        assert!(runs.len() > 2);
        let whole = RuleFile::from_bytes(b"", names.join("\n").as_bytes(), false);
        let cut = Arc::new(RuleFile { runs, ..whole });
        for (name, line) in [("ax", 1), ("ab", 2), ("c", 3), ("d", 4), ("e", 5), ("abc", 6)] {
            let rule = cut.matched(name.as_bytes(), false);
            assert_eq!(rule.map(|rule| rule.line()), Some(line), "{name}");
        }
    }
}
