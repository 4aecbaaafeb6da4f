//! Owns how single words become values; the notations themselves are `config`'s.

use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::config::{ColorChoice, Mode, Output, WriteMode};

/// A parser for a choice: clap lists the names and suggests the nearest.
macro_rules! choice {
    ($name:ident, $type:ty) => {
        pub(super) fn $name() -> impl TypedValueParser<Value = $type> {
            PossibleValuesParser::new(<$type>::NAMES.iter().copied()).map(|name| {
                <$type>::from_name(&name).expect("clap lets only the names of the choice through")
            })
        }
    };
}

choice!(mode, Mode);
choice!(write, WriteMode);
choice!(output, Output);
choice!(color, ColorChoice);

/// Patterns divided by `;`, as watchmedo writes them; empty ones fall away.
pub(super) fn patterns(lists: &[String]) -> Vec<String> {
    let patterns = lists.iter().flat_map(|list| list.split(';')).map(str::trim);
    patterns.filter(|pattern| !pattern.is_empty()).map(str::to_owned).collect()
}
