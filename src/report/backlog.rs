//! Owns what a slow reader has not taken yet: a bounded queue that counts what it leaves out.

use std::collections::VecDeque;

/// Items waiting for one reader. Never waits, never grows past its caps; once something was left
/// out, everything is, until the reader has taken what is there: so the gap has one place.
#[derive(Debug)]
pub(crate) struct Backlog<T> {
    /// Oldest first; at most `max_items`, weighing at most `max_bytes` together.
    items: VecDeque<T>,
    /// What `items` weigh.
    bytes: usize,
    /// Items refused since the last `take`.
    left_out: u64,
    max_items: usize,
    max_bytes: usize,
}

impl<T> Backlog<T> {
    pub(crate) fn new(max_items: usize, max_bytes: usize) -> Self {
        Self { items: VecDeque::new(), bytes: 0, left_out: 0, max_items, max_bytes }
    }

    /// Queues an item that weighs `bytes`, or counts it as left out.
    pub(crate) fn push(&mut self, item: T, bytes: usize) {
        let full = self.items.len() >= self.max_items
            || (!self.items.is_empty() && self.bytes.saturating_add(bytes) > self.max_bytes);
        if full || self.left_out > 0 {
            self.left_out += 1;
            return;
        }
        self.bytes += bytes;
        self.items.push_back(item);
    }

    /// Everything that waits, oldest first, and how many were left out after it.
    pub(crate) fn take(&mut self) -> (VecDeque<T>, u64) {
        self.bytes = 0;
        (std::mem::take(&mut self.items), std::mem::take(&mut self.left_out))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.left_out == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i10_a_full_backlog_counts_and_keeps_its_gap_in_one_place() {
        let mut backlog = Backlog::new(3, 100);
        for (item, bytes) in [(1, 10), (2, 90), (3, 1), (4, 0)] {
            backlog.push(item, bytes);
        }
        assert_eq!(
            backlog.take(),
            (VecDeque::from([1, 2]), 2),
            "4 would fit, but comes after a gap"
        );
        for item in 0..5 {
            backlog.push(item, 0);
        }
        assert_eq!(backlog.take(), (VecDeque::from([0, 1, 2]), 2));
        backlog.push(9, 1000);
        assert_eq!(backlog.take(), (VecDeque::from([9]), 0), "one large item is better than none");
        assert!(backlog.is_empty());
    }
}
