//! The bytes of the protocol, line by line: what was once sent is understood for good.
//!
//! `golden/wire.txt` only grows. A line that differs means that an older end misreads us: append a
//! variant or raise the protocol version instead. `E2EK_UPDATE_GOLDEN=1` writes the file anew.

use std::fmt::Write as _;
use std::path::Path;

use crate::samples::{self, Named};
use e2ek_sidecar::wire::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// One line a sample: name, number, bytes.
fn lines<T: Named>(samples: &[T], bytes: impl Fn(&T) -> Vec<u8>) -> Vec<(String, String)> {
    for name in T::NAMES {
        assert!(samples.iter().any(|s| s.variant() == *name), "{}::{name} has no sample", T::TYPE);
    }
    let mut seen = Vec::new();
    let mut named = |sample: &T| {
        seen.push(sample.variant());
        let number = seen.iter().filter(|name| **name == sample.variant()).count();
        (format!("{}.{}.{number}", T::TYPE, sample.variant()), hex(&bytes(sample)))
    };
    samples.iter().map(&mut named).collect()
}

fn frame<T: Serialize>(message: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode(message, &mut out);
    out
}

fn plain<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap()
}

fn hello() -> Hello {
    Hello { versions: (1, 2), features: 0x0102, build: "0.1.0".to_owned() }
}

fn hello_bytes(hello: &Hello) -> Vec<u8> {
    let mut out = Vec::new();
    hello.encode(&mut out);
    out
}

fn all_lines() -> Vec<(String, String)> {
    let mut all = vec![("Hello".to_owned(), hex(&hello_bytes(&hello())))];
    all.extend(lines(&samples::to_hub(), frame));
    all.extend(lines(&samples::from_hub(), frame));
    all.extend(lines(&samples::refusals(), plain));
    all.extend(lines(&samples::child_events(), plain));
    all.extend(lines(&samples::listed(), plain));
    all.extend(lines(&samples::hows(), plain));
    all.extend(lines(&samples::not_held(), plain));
    all.extend(lines(&samples::write_modes(), plain));
    all.extend(lines(&samples::entries(), plain));
    all.extend(lines(&samples::on_exits(), plain));
    all.extend(lines(&samples::reasons(), plain));
    all
}

#[test]
fn i13_golden_bytes_never_change() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire.txt");
    let now: String = all_lines().iter().map(|(name, bytes)| format!("{name} {bytes}\n")).collect();
    if std::env::var_os("E2EK_UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &now).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap();
    for line in golden.lines() {
        assert!(
            now.lines().any(|l| l == line),
            "changed or gone, an older end misreads it:\n{line}"
        );
    }
    for line in now.lines() {
        assert!(golden.lines().any(|l| l == line), "new, run with E2EK_UPDATE_GOLDEN=1:\n{line}");
    }
}

fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> T {
    let mut decoder = Decoder::default();
    decoder.feed(bytes);
    decoder.message().unwrap().unwrap().0
}

#[test]
fn i13_golden_bytes_are_read_back() {
    let lines = all_lines();
    let of = |kind: &str| -> Vec<Vec<u8>> {
        let prefix = format!("{kind}.");
        let mine = lines.iter().filter(|(name, _)| name.starts_with(&prefix));
        mine.map(|(_, bytes)| unhex(bytes)).collect()
    };
    let to_hub: Vec<ToHub> = of("ToHub").iter().map(|bytes| decoded(bytes)).collect();
    assert_eq!(to_hub, samples::to_hub());
    let from_hub: Vec<FromHub> = of("FromHub").iter().map(|bytes| decoded(bytes)).collect();
    assert_eq!(from_hub, samples::from_hub());
    let read = HelloReader::default().feed(&hello_bytes(&hello())).unwrap();
    assert_eq!(read, Some((hello(), Vec::new())));
}

#[test]
fn i13_the_highest_common_version_or_a_refusal_that_names_both() {
    let speaks =
        |low, high| Hello { versions: (low, high), features: 0, build: format!("b{high}") };
    for (ours, theirs, expected) in [
        ((1, 1), (1, 1), Some(1)),
        ((1, 3), (2, 5), Some(3)),
        ((2, 5), (1, 3), Some(3)),
        ((1, 9), (4, 4), Some(4)),
        ((3, 3), (1, 3), Some(3)),
        ((1, 1), (2, 3), None),
        ((2, 3), (1, 1), None),
        ((0, 0), (1, 1), None),
        // A range turned inside out has nothing in it.
        ((1, 9), (5, 2), None),
        ((1, u16::MAX), (u16::MAX, u16::MAX), Some(u16::MAX)),
    ] {
        let (us, them) = (speaks(ours.0, ours.1), speaks(theirs.0, theirs.1));
        match (negotiate(&us, &them), expected) {
            (Ok(version), Some(expected)) => assert_eq!(version, expected),
            (Err(error), None) => {
                let text = error.to_string();
                let (ours_build, theirs_build) = (us.build, them.build);
                for part in [
                    format!("{}..={} ({ours_build})", ours.0, ours.1),
                    format!("{}..={} ({theirs_build})", theirs.0, theirs.1),
                ] {
                    assert!(text.contains(&part), "{text}");
                }
                let skew = WireError::Skew { ours, ours_build, theirs, theirs_build };
                assert_eq!(error, skew);
            }
            (answer, _) => panic!("{ours:?} with {theirs:?}: {answer:?}"),
        }
    }
    assert_eq!(negotiate(&Hello::ours(), &Hello::ours()), Ok(PROTOCOL.1));
}

#[test]
fn i13_a_later_hello_may_have_more_in_it() {
    let mut bytes = hello_bytes(&hello());
    bytes.extend_from_slice(b"later");
    let len = u16::from_le_bytes([bytes[8], bytes[9]]) + 5;
    bytes[8..10].copy_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(b"frames");
    let read = HelloReader::default().feed(&bytes).unwrap();
    assert_eq!(read, Some((hello(), b"frames".to_vec())));
}
