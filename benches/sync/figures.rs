//! Owns samples, counts, and how they are worded.

/// Samples in nanoseconds, signed, for a restart may come before it is due.
#[derive(Clone, Default)]
pub(crate) struct Samples(Vec<i64>);

impl Samples {
    pub(crate) fn push(&mut self, nanos: i64) {
        let place = self.0.partition_point(|&other| other <= nanos);
        self.0.insert(place, nanos);
    }

    pub(crate) fn extend(&mut self, more: impl IntoIterator<Item = i64>) {
        more.into_iter().for_each(|nanos| self.push(nanos));
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest sample that `percent` of all do not exceed; `None` without samples.
    pub(crate) fn percentile(&self, percent: usize) -> Option<i64> {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied()
    }

    pub(crate) fn min(&self) -> Option<i64> {
        self.0.first().copied()
    }

    pub(crate) fn median(&self) -> Option<i64> {
        self.percentile(50)
    }

    /// `min / median / max`.
    pub(crate) fn range(&self) -> String {
        let three = [self.min(), self.percentile(50), self.percentile(100)];
        three.map(ms).join(" / ")
    }
}

/// Milliseconds with as many digits as mean something.
pub(crate) fn ms(nanos: Option<i64>) -> String {
    let Some(nanos) = nanos else { return "-".to_owned() };
    let value = millis(nanos);
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0} ms"),
        middle if middle >= 10.0 => format!("{value:.1} ms"),
        _ => format!("{value:.3} ms"),
    }
}

/// How many times `of` is in `what`.
pub(crate) fn ratio(what: Option<i64>, of: Option<i64>) -> String {
    match (what, of) {
        (Some(what), Some(of)) if of != 0 => format!("{:.2}x", millis(what) / millis(of)),
        _ => "-".to_owned(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "below 2^53 ns: a hundred days")]
pub(crate) fn millis(nanos: i64) -> f64 {
    nanos as f64 / 1e6
}

/// The signed distance of two moments.
pub(crate) fn between(from: u64, to: u64) -> i64 {
    to.cast_signed().wrapping_sub(from.cast_signed())
}

/// Bytes in millions.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Bytes to the hub and from it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Carried {
    pub(crate) out: u64,
    pub(crate) back: u64,
}

impl Carried {
    pub(crate) fn sum(self) -> u64 {
        self.out + self.back
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { out: self.out - before.out, back: self.back - before.back }
    }
}

impl std::fmt::Display for Carried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} out, {} back)", self.sum(), self.out, self.back)
    }
}
