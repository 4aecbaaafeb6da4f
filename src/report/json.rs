//! Words an event as one JSON object: `v`, `ts`, `kind`, `gen`, `target`, then the event's own
//! fields in alphabetical order. Keys are only ever added.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use super::event::Record;

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = serde_json::to_value(&self.event).map_err(serde::ser::Error::custom)?;
        let Value::Object(mut fields) = event else {
            return Err(serde::ser::Error::custom("an event is an object"));
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("v", &self.v)?;
        map.serialize_entry("ts", &self.ts)?;
        for key in ["kind", "gen", "target"] {
            map.serialize_entry(key, &fields.remove(key).unwrap_or(Value::Null))?;
        }
        for (key, value) in &fields {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// The record as one line, without the newline. C1 controls and DEL, which JSON lets stand, are
/// escaped too: the line may end up on a terminal.
#[must_use]
pub(crate) fn line<T: Serialize>(value: &T) -> String {
    let json = serde_json::to_string(value).expect("records and states have string keys only");
    if !json.chars().any(needs_escape) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 8);
    for c in json.chars() {
        if needs_escape(c) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn needs_escape(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
