//! Owns the name and number of a signal, as typed by people and as sent over the wire.
//!
//! Numbers are Linux's (generic table: x86, arm, riscv), because the hub that sends them runs
//! there, whatever the machine on which they were typed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One of the 31 named signals of Linux. Real-time signals are refused: libc keeps some of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Signal(u8);

/// What was typed, or sent, is no named signal of Linux.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such signal: {0}")]
pub struct UnknownSignal(pub String);

/// By number, from 1. Later names for one number are aliases.
const NAMES: [(u8, &str); 35] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (4, "ILL"),
    (5, "TRAP"),
    (6, "ABRT"),
    (7, "BUS"),
    (8, "FPE"),
    (9, "KILL"),
    (10, "USR1"),
    (11, "SEGV"),
    (12, "USR2"),
    (13, "PIPE"),
    (14, "ALRM"),
    (15, "TERM"),
    (16, "STKFLT"),
    (17, "CHLD"),
    (18, "CONT"),
    (19, "STOP"),
    (20, "TSTP"),
    (21, "TTIN"),
    (22, "TTOU"),
    (23, "URG"),
    (24, "XCPU"),
    (25, "XFSZ"),
    (26, "VTALRM"),
    (27, "PROF"),
    (28, "WINCH"),
    (29, "IO"),
    (30, "PWR"),
    (31, "SYS"),
    (6, "IOT"),
    (17, "CLD"),
    (29, "POLL"),
    (31, "UNUSED"),
];

impl Signal {
    /// Terminal hung up.
    pub const HUP: Self = Self(1);
    /// What Ctrl-C sends, and the default way to ask a command to stop.
    pub const INT: Self = Self(2);
    /// The one that cannot be caught.
    pub const KILL: Self = Self(9);
    /// A program's own meaning.
    pub const USR1: Self = Self(10);
    /// Another one.
    pub const USR2: Self = Self(12);
    /// The polite request to end.
    pub const TERM: Self = Self(15);
    /// Wakes a stopped process.
    pub const CONT: Self = Self(18);

    /// The signal of this number.
    ///
    /// # Errors
    /// When it is not within 1..=31.
    pub fn from_number(number: i32) -> Result<Self, UnknownSignal> {
        match u8::try_from(number) {
            Ok(number @ 1..=31) => Ok(Self(number)),
            _ => Err(UnknownSignal(number.to_string())),
        }
    }

    /// Its number on Linux, 1..=31.
    #[must_use]
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// `SIGINT`, `INT`, `int`, `2`.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        if let Ok(number) = text.parse() {
            return Self::from_number(number);
        }
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        let found = NAMES.iter().find(|(_, name)| *name == bare);
        found.map(|&(number, _)| Self(number)).ok_or_else(|| UnknownSignal(text.to_owned()))
    }
}

impl fmt::Display for Signal {
    /// With the prefix: `SIGINT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIG{}", NAMES[usize::from(self.0) - 1].1)
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<i32> for Signal {
    type Error = UnknownSignal;

    fn try_from(number: i32) -> Result<Self, UnknownSignal> {
        Self::from_number(number)
    }
}

impl From<Signal> for i32 {
    fn from(signal: Signal) -> Self {
        signal.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read() {
        for text in ["SIGINT", "INT", "int", "sigint", "2"] {
            assert_eq!(text.parse(), Ok(Signal::INT), "{text}");
        }
        assert_eq!("IOT".parse::<Signal>().unwrap().to_string(), "SIGABRT");
        for text in ["", "0", "-1", "32", "64", "SIG", "SIGSIGINT", "RTMIN", "2 ", "INT\0"] {
            assert!(text.parse::<Signal>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_number_has_its_own_name() {
        for number in 1..=31 {
            let signal = Signal::from_number(number).unwrap();
            assert_eq!(signal.to_string().parse(), Ok(signal));
            assert_eq!(signal.number(), number);
        }
    }

    #[test]
    fn a_number_from_the_wire_is_checked() {
        let bytes = postcard::to_allocvec(&99_i32).unwrap();
        assert!(postcard::from_bytes::<Signal>(&bytes).is_err());
        let bytes = postcard::to_allocvec(&Signal::TERM).unwrap();
        assert_eq!(postcard::from_bytes(&bytes), Ok(Signal::TERM));
    }
}
