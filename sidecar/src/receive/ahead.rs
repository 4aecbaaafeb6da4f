//! Contents that come ahead of their generation: which are coming, which are held, and the bounds.
//!
//! Pure bookkeeping. Whoever writes them reports each with [`Ahead::whole`] or [`Ahead::failed`]; what
//! is held is given to the op that says [`How::Held`] with [`Ahead::take`]. Nothing is allocated by a
//! number that came over the link.

use std::collections::{BTreeMap, HashMap};

use super::check::{check_content, check_place, file_size};
use crate::tree::{Digest, Entry};
use crate::wire::{AHEAD_BYTES, AHEAD_CONTENTS, How, Op, WireError};

/// A content, by its digest and size.
type Content = (Digest, u64);

/// What comes ahead on one link.
#[derive(Default)]
pub struct Ahead {
    /// The last number used.
    last: u64,
    coming: BTreeMap<u64, Content>,
    held: BTreeMap<u64, Content>,
    by_content: HashMap<Content, u64>,
    /// Sizes of all of them.
    bytes: u64,
}

impl Ahead {
    /// A content comes, for a session of so many path pairs.
    ///
    /// # Errors
    /// When it is out of order, nonsense in itself, or more than may be kept.
    pub fn begin(&mut self, number: u64, op: &Op, roots: usize) -> Result<(), WireError> {
        check_place(op, None, roots)?;
        check_content(op, roots)?;
        let (Some(content), How::Data | How::Patch | How::Like { .. }) = (content_of(op), &op.how)
        else {
            return Err(WireError::Order("nothing that comes ahead"));
        };
        if number <= self.last {
            return Err(WireError::Order("content ahead out of order"));
        }
        let count = self.coming.len() + self.held.len();
        if count >= AHEAD_CONTENTS {
            return Err(WireError::Order("more contents ahead than are kept"));
        }
        let bytes = self.bytes.saturating_add(content.1);
        if count > 0 && bytes > AHEAD_BYTES {
            return Err(WireError::Order("more bytes ahead than are kept"));
        }
        self.last = number;
        self.bytes = bytes;
        self.coming.insert(number, content);
        Ok(())
    }

    /// Whether bytes of a content are wanted; those of one that failed or was ended are passed over.
    ///
    /// # Errors
    /// When there never was such a content, or all of it is there.
    pub fn data(&self, number: u64) -> Result<bool, WireError> {
        if number > self.last || self.held.contains_key(&number) {
            return Err(WireError::Order("data ahead that was not announced"));
        }
        Ok(self.coming.contains_key(&number))
    }

    /// The daemon ends a content. Returns whether it was still coming: that is answered.
    ///
    /// # Errors
    /// When there never was such a content.
    pub fn end(&mut self, number: u64) -> Result<bool, WireError> {
        if number > self.last {
            return Err(WireError::Order("end of an unknown content ahead"));
        }
        if let Some(content) = self.held.remove(&number) {
            self.bytes -= content.1;
            self.by_content.retain(|_, held| *held != number);
            return Ok(false);
        }
        Ok(self.failed(number))
    }

    /// All of a content is there and is what it was said to be. Returns whether it is still wanted.
    pub fn whole(&mut self, number: u64) -> bool {
        let Some(content) = self.coming.remove(&number) else { return false };
        self.held.insert(number, content);
        self.by_content.insert(content, number);
        true
    }

    /// A content cannot be held. Returns whether it was still wanted.
    pub fn failed(&mut self, number: u64) -> bool {
        let content = self.coming.remove(&number);
        self.bytes -= content.map_or(0, |content| content.1);
        content.is_some()
    }

    /// Gives what is held to an op; `None` when nothing of the kind is.
    pub fn take(&mut self, op: &Op) -> Option<u64> {
        let number = self.by_content.remove(&content_of(op)?)?;
        self.bytes -= self.held.remove(&number)?.1;
        Some(number)
    }

    /// What ops said is held and did not take, for they were skipped, is held no more. Returns the
    /// numbers.
    pub fn let_go<'a>(&mut self, ops: impl IntoIterator<Item = &'a Op>) -> Vec<u64> {
        let held = ops.into_iter().filter(|op| op.how == How::Held);
        held.filter_map(|op| self.take(op)).collect()
    }

    /// Contents that are coming or held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.coming.len() + self.held.len()
    }

    /// Whether nothing is coming or held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn content_of(op: &Op) -> Option<Content> {
    match op.change.new {
        Some(Entry::File { digest, .. }) => Some((digest, file_size(op))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::SyncPath;
    use crate::tree::Change;
    use crate::wire::Meta;

    fn op(content: u8, size: u64) -> Op {
        let path = SyncPath::try_from("0/a").unwrap();
        let new = Some(Entry::File { digest: Digest([content; 16]), size, executable: false });
        Op { change: Change { path, old: None, new }, how: How::Data, meta: Meta::default() }
    }

    #[test]
    fn i11_numbers_only_grow_and_what_is_kept_is_bounded() {
        let mut ahead = Ahead::default();
        ahead.begin(3, &op(1, AHEAD_BYTES * 2), 1).unwrap();
        assert!(ahead.begin(3, &op(2, 1), 1).is_err(), "used before");
        assert!(ahead.begin(4, &op(2, 1), 1).is_err(), "one may be of any size, not two");
        assert!(ahead.data(4).is_err() && ahead.end(4).is_err(), "never announced");
        assert_eq!((ahead.data(3), ahead.data(2)), (Ok(true), Ok(false)));
        assert_eq!((ahead.end(3), ahead.end(3)), (Ok(true), Ok(false)));
        for number in 0..AHEAD_CONTENTS as u64 {
            ahead.begin(10 + number, &op(number as u8, 1), 1).unwrap();
        }
        assert!(ahead.begin(500, &op(200, 1), 1).is_err(), "one too many");
        assert!(ahead.whole(10) && ahead.begin(500, &op(200, 1), 1).is_err(), "held counts");
        assert!(ahead.data(10).is_err(), "it is complete");
        assert!(ahead.take(&op(0, 1)).is_some() && ahead.begin(500, &op(200, 1), 1).is_ok());
    }

    #[test]
    fn only_content_within_the_roots_comes_ahead() {
        let mut ahead = Ahead::default();
        let other = |how| Op { how, ..op(1, 1) };
        assert!(ahead.begin(1, &op(1, 1), 0).is_err(), "outside");
        for how in [How::None, How::Ask, How::Held, How::Forget, How::Patch] {
            assert!(ahead.begin(1, &other(how), 1).is_err(), "a patch needs an old content");
        }
        assert!(ahead.begin(1, &op(1, 0), 1).is_err(), "nothing to come");
        assert!(ahead.begin(1, &op(1, 1), 1).is_ok());
    }

    #[test]
    fn what_is_held_is_given_once() {
        let mut ahead = Ahead::default();
        ahead.begin(1, &op(1, 5), 1).unwrap();
        assert_eq!(ahead.take(&op(1, 5)), None, "it is still coming");
        assert!(ahead.whole(1) && !ahead.whole(1));
        assert_eq!(ahead.take(&op(1, 6)), None, "another size");
        assert_eq!((ahead.take(&op(1, 5)), ahead.take(&op(1, 5))), (Some(1), None));
        assert!(ahead.is_empty() && ahead.bytes == 0);
        ahead.begin(2, &op(2, 5), 1).unwrap();
        assert!(ahead.failed(2) && !ahead.whole(2) && !ahead.failed(2));
        assert!(ahead.is_empty() && ahead.bytes == 0);
    }
}
