//! Owns chance: the numbers that a seed gives, and the trace by which two runs of it are compared.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write};

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn pick<T: Clone>(&mut self, items: &[T]) -> Option<T> {
        (!items.is_empty()).then(|| items[self.below(items.len() as u64) as usize].clone())
    }
}

/// Lines of a failing run that are printed.
const TAIL: usize = 60;

/// What a trace is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Telling {
    /// Only its hash counts.
    Hash,
    /// As [`Self::Hash`]; the last lines are printed when the run panics.
    Tail,
    /// Every line is printed as it comes.
    Aloud,
}

/// Everything that happened, as a hash (FNV-1a) of its lines: keeping the text of 20,000 runs to
/// compare it costs more than running them.
pub(super) struct Trace {
    hash: u64,
    telling: Telling,
    tail: VecDeque<String>,
    /// How often each fault and each rare way was met.
    pub(super) tally: BTreeMap<&'static str, u64>,
}

impl Trace {
    pub(super) fn new(telling: Telling) -> Self {
        let tail = VecDeque::new();
        Self { hash: 0xcbf2_9ce4_8422_2325, telling, tail, tally: BTreeMap::new() }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn line(&mut self, now: u64, line: fmt::Arguments<'_>) {
        let _ = write!(self, "{now} {line}");
        match self.telling {
            Telling::Hash => {}
            Telling::Tail => {
                self.tail.push_back(format!("{now} {line}"));
                if self.tail.len() > TAIL {
                    self.tail.pop_front();
                }
            }
            Telling::Aloud => println!("{now} {line}"),
        }
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }
}

impl Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tail.iter().for_each(|line| println!("{line}"));
        }
    }
}
