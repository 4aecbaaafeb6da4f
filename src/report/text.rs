//! Owns the words' raw material: text that cannot drive a terminal, and sizes, times and counts
//! as people read them.
//!
//! Promises that a [`Text`] holds no control and no bidirectional character, however it was made
//! (CVE-2021-25743, CVE-2021-42574), so that whoever shows one need not think about it.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use e2ek_sidecar::path::{Escaped, SyncPath};
use serde::{Deserialize, Deserializer, Serialize};

/// One line of text for people, made harmless when it is made.
///
/// There are two ways to make one. A *name* (a path, an argument, anything that is bytes) is
/// escaped so that two names never look alike: [`Text::name`] and the conversions from paths. A
/// *sentence* (a message, which may already hold escaped names) only loses its control
/// characters: the conversions from strings. Making a sentence twice changes nothing.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize)]
#[serde(transparent)]
pub struct Text(String);

impl Text {
    /// Bytes from outside as a name: control characters and bytes that are not UTF-8 become
    /// `\xNN`, a backslash is doubled.
    #[must_use]
    pub fn name(bytes: impl AsRef<[u8]>) -> Self {
        Self(Escaped(bytes.as_ref()).to_string())
    }

    /// The harmless text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn sentence(text: &str) -> Self {
        let mut harmless = String::with_capacity(text.len());
        // Escaped leaves everything but backslashes as they must be here: hand it the pieces.
        for (i, piece) in text.split('\\').enumerate() {
            if i > 0 {
                harmless.push('\\');
            }
            harmless.push_str(&Escaped(piece.as_bytes()).to_string());
        }
        Self(harmless)
    }
}

impl From<&str> for Text {
    fn from(sentence: &str) -> Self {
        Self::sentence(sentence)
    }
}

impl From<String> for Text {
    fn from(sentence: String) -> Self {
        Self::sentence(&sentence)
    }
}

impl From<&SyncPath> for Text {
    fn from(path: &SyncPath) -> Self {
        Self(path.to_string())
    }
}

impl From<&Path> for Text {
    fn from(path: &Path) -> Self {
        Self::name(path.as_os_str().as_encoded_bytes())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// Bytes with a binary unit and one decimal: `2.1 KiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
        // 1023.95 would be shown as 1024.0.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A time span with the unit that leaves two or three digits: `0.4 ms`, `9 ms`, `1.2 s`,
/// `2 min 5 s`.
#[must_use]
pub fn span(span: Duration) -> String {
    let us = span.as_micros();
    match us {
        0 => "0 ms".into(),
        1..=949 => format!("{}.{} ms", (us + 50) / 1000, (us + 50) % 1000 / 100),
        950..=999_499 => format!("{} ms", (us + 500) / 1000),
        999_500..=59_949_999 => {
            let tenths = (us + 50_000) / 100_000;
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
        _ => {
            let seconds = (us + 500_000) / 1_000_000;
            format!("{} min {} s", seconds / 60, seconds % 60)
        }
    }
}

/// A count with its noun, thousands parted: `1 file`, `10,000 files`.
#[must_use]
pub fn count(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// A number with its thousands parted by commas.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut parted = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            parted.push(',');
        }
        parted.push(digit);
    }
    parted
}

/// A moment as RFC 3339 in UTC with milliseconds: `2026-11-23T01:04:09.123Z`. A clock before 1970
/// is shown as 1970.
#[must_use]
pub fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis(),
    )
}

/// Days since 1970-01-01 as year, month, day (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_read_well() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (2150, "2.1 KiB"),
            (1_048_575, "1.0 MiB"),
            (37 << 20, "37.0 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
        for (micros, shown) in [
            (0, "0 ms"),
            (1, "0.0 ms"),
            (449, "0.4 ms"),
            (949, "0.9 ms"),
            (950, "1 ms"),
            (9_100, "9 ms"),
            (999_499, "999 ms"),
            (999_500, "1.0 s"),
            (59_949_999, "59.9 s"),
            (125_000_000, "2 min 5 s"),
        ] {
            assert_eq!(span(Duration::from_micros(micros)), shown, "{micros} us");
        }
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(1_234_567, "file"), "1,234,567 files");
        assert_eq!(grouped(100), "100");
    }

    #[test]
    fn moments_follow_the_calendar() {
        for (seconds, shown) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
            (1_795_395_849, "2026-11-23T01:04:09.000Z"),
        ] {
            assert_eq!(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), shown);
        }
    }

    #[test]
    fn names_differ_and_sentences_keep_their_escapes() {
        assert_eq!(Text::name(b"a\\x1b").as_str(), "a\\\\x1b");
        assert_eq!(Text::name(b"a\x1b").as_str(), "a\\x1b");
        let name = Text::name(b"\x1b]0;x\x07").to_string();
        assert_eq!(
            Text::from(format!("cannot read {name}\n")).as_str(),
            "cannot read \\x1b]0;x\\x07\\x0a"
        );
    }

    proptest! {
        #[test]
        fn no_text_holds_a_control_character(text in any::<String>(), bytes: Vec<u8>) {
            for text in [Text::from(text), Text::name(bytes)] {
                prop_assert!(!text.as_str().chars().any(char::is_control));
                prop_assert_eq!(&Text::from(text.as_str()), &text, "harmless stays as it is");
                let json = serde_json::to_string(&text).unwrap();
                prop_assert_eq!(serde_json::from_str::<Text>(&json).unwrap(), text);
            }
        }
    }
}
