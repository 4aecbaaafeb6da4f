//! Owns the notations of durations, budgets and commands: text in, value out, and back.
//!
//! A duration always has a unit, so that `--timeout 10` is a question and not a guess.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why a text is not a quantity. Fragments that follow "`TEXT`: ".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// No unit, an unknown one, or no number before it.
    #[error("a duration is a number with a unit, as in 500ms, 2s or 1m")]
    Duration,
    /// Below zero.
    #[error("a duration cannot be negative")]
    Negative,
    /// Longer than a year.
    #[error("a duration of more than a year is not meant")]
    TooLong,
    /// Neither a count nor a percentage up to 100.
    #[error("a budget is a number of paths (200) or a share of them (25%)")]
    Budget,
    /// No such signal.
    #[error("a signal is a name (SIGINT, INT) or a number (2)")]
    Signal,
    /// Not `port` or `port:port`.
    #[error("a forward is PORT or PORT:PORT, as in 8080:80")]
    Forward,
    /// Not `host:port`.
    #[error("an address is HOST:PORT, as in 127.0.0.1:8080")]
    Tcp,
    /// Not an `http://` address.
    #[error("an address is http://HOST[:PORT][/PATH]")]
    Http,
    /// Quotes that do not end, or nothing at all.
    #[error("a command is a program and its arguments, with quotes closed")]
    Command,
}

const YEAR: f64 = 366.0 * 86_400.0;

fn seconds(number: f64) -> Result<Duration, QuantityError> {
    match number {
        n if n.is_nan() => Err(QuantityError::Duration),
        n if n < 0.0 => Err(QuantityError::Negative),
        n if n > YEAR => Err(QuantityError::TooLong),
        n => Ok(Duration::from_micros((n * 1e6).round() as u64)),
    }
}

/// A number as people write it: digits with at most one point. `inf`, `1e3` and the like are not.
fn number(text: &str) -> Result<f64, QuantityError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match text.parse::<f64>() {
        Ok(number) if plain => Ok(number),
        _ => Err(QuantityError::Duration),
    }
}

/// Reads a duration with its unit: `500us`, `500ms`, `2s`, `1.5s`, `1m`, `2h`. A bare `0` needs none.
///
/// # Errors
/// No or an unknown unit, negative, or longer than a year.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or(QuantityError::Duration)?;
    let (amount, unit) = text.split_at(split);
    let factor = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(QuantityError::Duration),
    };
    seconds(number(amount)? * factor)
}

/// Reads a duration as watchmedo does, a bare number being seconds; ours with a unit too.
///
/// # Errors
/// As [`parse_duration`].
pub fn parse_seconds(text: &str) -> Result<Duration, QuantityError> {
    if text.ends_with(|c: char| c.is_ascii_alphabetic()) {
        return parse_duration(text);
    }
    seconds(number(text)?)
}

/// Writes a duration as [`parse_duration`] reads it, in the largest unit that needs no fraction.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    let units = [(3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms")];
    match units.into_iter().find(|(size, _)| micros >= *size && micros.is_multiple_of(*size)) {
        Some((size, unit)) => format!("{}{unit}", micros / size),
        None if micros == 0 => "0".to_owned(),
        None => format!("{micros}us"),
    }
}

/// How many paths one change may delete before it is held (I7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeleteBudget {
    /// At most so many paths.
    Count(u64),
    /// At most this share of the managed paths; 0 to 100.
    Percent(u8),
}

impl DeleteBudget {
    /// Whether deleting `deletes` of `managed` paths is within the budget.
    #[must_use]
    pub fn allows(self, deletes: u64, managed: u64) -> bool {
        match self {
            Self::Count(count) => deletes <= count,
            Self::Percent(percent) => {
                u128::from(deletes) * 100 <= u128::from(managed) * u128::from(percent)
            }
        }
    }
}

impl FromStr for DeleteBudget {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let digits = text.strip_suffix('%').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Budget);
        }
        if digits.len() == text.len() {
            return text.parse().map(Self::Count).map_err(|_| QuantityError::Budget);
        }
        match digits.parse() {
            Ok(percent @ 0..=100) => Ok(Self::Percent(percent)),
            _ => Err(QuantityError::Budget),
        }
    }
}

impl fmt::Display for DeleteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// Splits `prog 'an argument'` into words by the shell's quoting rules, without a shell: nothing is
/// expanded, run or redirected.
///
/// # Errors
/// When a quote is left open or no word is there.
pub fn parse_command(text: &str) -> Result<Vec<String>, QuantityError> {
    match shlex::split(text) {
        Some(words) if words.first().is_some_and(|program| !program.is_empty()) => Ok(words),
        _ => Err(QuantityError::Command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_come_back_as_written() {
        let ms = Duration::from_millis;
        for (text, expected, shown) in [
            ("500us", Duration::from_micros(500), "500us"),
            ("500ms", ms(500), "500ms"),
            ("2s", ms(2000), "2s"),
            ("1.5s", ms(1500), "1500ms"),
            ("0.05s", ms(50), "50ms"),
            ("1m", ms(60_000), "1m"),
            ("90m", ms(5_400_000), "90m"),
            ("2h", ms(7_200_000), "2h"),
            ("0", ms(0), "0"),
            ("0s", ms(0), "0"),
        ] {
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
            assert_eq!(show_duration(expected), shown);
            assert_eq!(parse_duration(shown), Ok(expected), "{shown}");
        }
        for (text, reason) in [
            ("10", QuantityError::Duration),
            ("", QuantityError::Duration),
            ("s", QuantityError::Duration),
            ("1d", QuantityError::Duration),
            ("1 s", QuantityError::Duration),
            ("1e3s", QuantityError::Duration),
            ("infs", QuantityError::Duration),
            ("1s2", QuantityError::Duration),
            ("-1s", QuantityError::Negative),
            ("9000000h", QuantityError::TooLong),
        ] {
            assert_eq!(parse_duration(text), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn watchmedo_durations_are_seconds_with_fractions_and_never_negative() {
        assert_eq!(parse_seconds("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_seconds(".5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_seconds("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_seconds("-0.5"), Err(QuantityError::Negative));
        for text in ["", "x", "nan", "1e1", "."] {
            assert_eq!(parse_seconds(text), Err(QuantityError::Duration), "{text:?}");
        }
    }

    #[test]
    fn i7_budgets_are_counts_or_shares() {
        assert_eq!("200".parse(), Ok(DeleteBudget::Count(200)));
        assert_eq!("25%".parse(), Ok(DeleteBudget::Percent(25)));
        for text in ["", "%", "-1", "101%", "2.5%", "many", "+3"] {
            assert_eq!(text.parse::<DeleteBudget>(), Err(QuantityError::Budget), "{text:?}");
        }
        assert!(DeleteBudget::Percent(25).allows(25, 100));
        assert!(!DeleteBudget::Percent(25).allows(26, 100));
        assert!(DeleteBudget::Percent(100).allows(u64::MAX, u64::MAX));
        assert!(DeleteBudget::Count(3).allows(3, 3) && !DeleteBudget::Count(3).allows(4, 1000));
    }

    #[test]
    fn i6_commands_are_split_without_a_shell() {
        let words = |text| parse_command(text).unwrap();
        assert_eq!(words("prog args"), ["prog", "args"]);
        assert_eq!(words(r#"prog 'a b' "c d" e\ f ''"#), ["prog", "a b", "c d", "e f", ""]);
        assert_eq!(words("prog $(id) ; rm *"), ["prog", "$(id)", ";", "rm", "*"]);
        for text in ["", "  ", "prog 'open", "''"] {
            assert_eq!(parse_command(text), Err(QuantityError::Command), "{text:?}");
        }
    }
}
