//! Owns the reading of one TOML table key by key, so that every fault names its line.
//!
//! The keys that were asked for are the keys that are known: [`Table::finish`] refuses the rest and
//! names the nearest. There is no second list that could drift from the first.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use e2ek_sidecar::path::Escaped;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::value::{Location, Source, Value};

/// A file's name and text: turns offsets into lines.
#[derive(Clone)]
pub(super) struct Text<'t> {
    pub(super) path: Arc<PathBuf>,
    pub(super) text: &'t str,
}

impl Text<'_> {
    pub(super) fn at(&self, offset: usize) -> Location {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
        Location { path: self.path.clone(), line }
    }
}

/// A table being read. Keys are taken out; what is left at the end is unknown.
pub(super) struct Table<'t> {
    text: Text<'t>,
    /// As people know it: `[workspace]`.
    name: String,
    at: Location,
    left: BTreeMap<String, (usize, toml::Spanned<DeValue<'t>>)>,
    asked: Vec<&'static str>,
}

impl<'t> Table<'t> {
    pub(super) fn new(text: Text<'t>, name: &str, at: Location, table: DeTable<'t>) -> Self {
        let left = table
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), (key.span().start, value)))
            .collect();
        Self { text, name: name.to_owned(), at, left, asked: Vec::new() }
    }

    /// Where the table begins.
    pub(super) fn location(&self) -> Location {
        self.at.clone()
    }

    fn take(&mut self, key: &'static str) -> Option<(Location, DeValue<'t>)> {
        self.asked.push(key);
        let (offset, value) = self.left.remove(key)?;
        Some((self.text.at(offset), value.into_inner()))
    }

    /// The value of `key`, seen through `read`, which answers `None` when the type does not fit.
    pub(super) fn get<T>(
        &mut self,
        key: &'static str,
        expected: &'static str,
        read: impl FnOnce(&DeValue<'t>) -> Option<T>,
    ) -> Result<Option<Value<T>>, ConfigError> {
        let Some((at, value)) = self.take(key) else {
            return Ok(None);
        };
        match read(&value) {
            Some(read) => Ok(Some(Value::new(read, Source::File(at)))),
            None => Err(wrong_type(at, key, expected, &value)),
        }
    }

    pub(super) fn string(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Value<String>>, ConfigError> {
        self.get(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// A list of strings; each entry knows its own line.
    pub(super) fn strings(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Vec<Value<String>>>, ConfigError> {
        let Some((at, value)) = self.take(key) else {
            return Ok(None);
        };
        let list = value.as_array().ok_or_else(|| wrong_type(at, key, "a list", &value))?;
        let entry = |item: &toml::Spanned<DeValue<'t>>| {
            let at = self.text.at(item.span().start);
            match item.get_ref().as_str() {
                Some(text) => Ok(Value::new(text.to_owned(), Source::File(at))),
                None => Err(wrong_type(at, key, "a list of strings", item.get_ref())),
            }
        };
        list.iter().map(entry).collect::<Result<_, _>>().map(Some)
    }

    /// A program and its arguments, as one value; an empty list is as good as none.
    pub(super) fn command(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Value<Vec<String>>>, ConfigError> {
        let words = self.strings(key)?.unwrap_or_default();
        let Some(first) = words.first() else {
            return Ok(None);
        };
        let source = first.source.clone();
        Ok(Some(Value::new(words.into_iter().map(|word| word.value).collect(), source)))
    }

    /// A string that is one of `choices`, by the value that stands beside it.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &'static [&'static str],
        values: &[T],
    ) -> Result<Option<Value<T>>, ConfigError> {
        let Some(text) = self.string(key)? else {
            return Ok(None);
        };
        match choices.iter().zip(values).find(|(name, _)| **name == text.value) {
            Some((_, value)) => Ok(Some(text.map(|_| *value))),
            None => Err(bad_choice(text, key, choices)),
        }
    }

    pub(super) fn table(&mut self, key: &'static str) -> Result<Option<Table<'t>>, ConfigError> {
        let name = format!("[{key}]");
        let Some((at, value)) = self.take(key) else {
            return Ok(None);
        };
        self.inner(at, key, value, &name).map(Some)
    }

    /// `[[key]]`, in the file's order.
    pub(super) fn tables(&mut self, key: &'static str) -> Result<Vec<Table<'t>>, ConfigError> {
        let name = match self.name.strip_prefix('[') {
            Some(outer) => format!("{}.{key}", outer.trim_matches(['[', ']'])),
            None => key.to_owned(),
        };
        let Some((at, value)) = self.take(key) else {
            return Ok(Vec::new());
        };
        match value {
            DeValue::Array(list) => list
                .into_iter()
                .map(|item| {
                    let at = self.text.at(item.span().start);
                    self.inner(at, key, item.into_inner(), &format!("[[{name}]]"))
                })
                .collect(),
            other => Err(wrong_type(at, key, "a list of tables", &other)),
        }
    }

    fn inner(
        &self,
        at: Location,
        key: &'static str,
        value: DeValue<'t>,
        name: &str,
    ) -> Result<Table<'t>, ConfigError> {
        match value {
            DeValue::Table(table) => Ok(Table::new(self.text.clone(), name, at, table)),
            other => Err(wrong_type(at, key, "a table", &other)),
        }
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(mut self) -> Result<(), ConfigError> {
        let Some((key, (offset, _))) = self.left.into_iter().min_by_key(|(_, (at, _))| *at) else {
            return Ok(());
        };
        self.asked.sort_unstable();
        Err(ConfigError::UnknownKey {
            at: self.text.at(offset),
            nearest: nearest(&key, &self.asked),
            key: Escaped(key.as_bytes()).to_string(),
            table: self.name,
            known: self.asked,
        })
    }
}

/// The known word within two edits, or within a third of the word's letters.
pub(super) fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    let distance = |k: &&'static str| strsim::damerau_levenshtein(word, k);
    let best = known.iter().copied().min_by_key(distance)?;
    (distance(&best) <= 2.max(word.len() / 3)).then_some(best)
}

/// A word that is none of `choices`.
pub(super) fn bad_choice(
    text: Value<String>,
    key: &str,
    choices: &'static [&'static str],
) -> ConfigError {
    let value = Escaped(text.value.as_bytes()).to_string();
    ConfigError::BadChoice { from: text.source, key: key.to_owned(), value, choices }
}

fn wrong_type(at: Location, key: &str, expected: &'static str, found: &DeValue<'_>) -> ConfigError {
    let found = match found.type_str() {
        found @ ("integer" | "array") => format!("an {found}"),
        found => format!("a {found}"),
    };
    ConfigError::WrongType { at, key: key.to_owned(), expected, found }
}
