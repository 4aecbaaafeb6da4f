//! The difference between two contents that are both at hand.

use super::patch::PatchWriter;

/// Old content is looked for by runs of so many bytes.
const RUN: usize = 16;
/// Where the old content goes on as it did, so few equal bytes are worth a copy.
const IN_STEP: usize = 8;
const NOWHERE: u32 = u32::MAX;

/// The patch from one content to another. Takes about half of the old one's length for a table when
/// more than its front and back changed.
///
/// Contents of 4 GiB and more are not looked into: the patch brings what is between front and back.
#[must_use]
pub fn between(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut writer = PatchWriter::default();
    let front = equal(old, new);
    let (old_rest, new_rest) = (&old[front..], &new[front..]);
    let back = equal_back(old_rest, new_rest);
    let old_middle = &old_rest[..old_rest.len() - back];
    let new_middle = &new_rest[..new_rest.len() - back];
    writer.copy(0, front as u64);
    if old_middle.len().min(new_middle.len()) < RUN || u32::try_from(old_middle.len()).is_err() {
        writer.bring(new_middle);
    } else {
        Search::new(old_middle, front as u64).run(new_middle, &mut writer);
    }
    writer.copy((old.len() - back) as u64, back as u64);
    writer.finish()
}

/// How many bytes two contents begin with in common.
fn equal(a: &[u8], b: &[u8]) -> usize {
    let blocks = a.chunks_exact(64).zip(b.chunks_exact(64)).take_while(|(a, b)| a == b).count();
    let done = blocks * 64;
    done + a[done..].iter().zip(&b[done..]).take_while(|(a, b)| a == b).count()
}

/// How many bytes two contents end with in common.
fn equal_back(a: &[u8], b: &[u8]) -> usize {
    let blocks = a.rchunks_exact(64).zip(b.rchunks_exact(64)).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[..a.len() - blocks * 64], &b[..b.len() - blocks * 64]);
    blocks * 64 + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// An old content by its runs.
struct Search<'a> {
    old: &'a [u8],
    /// Where it lies in the whole.
    offset: u64,
    table: Vec<u32>,
    /// The bits of a hash that count.
    shift: u32,
}

impl<'a> Search<'a> {
    fn new(old: &'a [u8], offset: u64) -> Self {
        let slots = (old.len() / RUN * 2).next_power_of_two().max(16);
        let shift = 64 - slots.trailing_zeros();
        let mut search = Self { old, offset, table: vec![NOWHERE; slots], shift };
        for (index, run) in old.chunks_exact(RUN).enumerate().rev() {
            let slot = search.slot(run);
            search.table[slot] = (index * RUN) as u32;
        }
        search
    }

    fn slot(&self, run: &[u8]) -> usize {
        let word = |at: usize| u64::from_le_bytes(run[at..at + 8].try_into().expect("eight"));
        let mixed = word(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word(8).rotate_left(32);
        (mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> self.shift) as usize
    }

    fn run(&self, new: &[u8], writer: &mut PatchWriter) {
        let (mut at, mut brought) = (0, 0);
        // Where the old content would go on.
        let mut step: Option<usize> = None;
        while at + IN_STEP <= new.len() {
            let Some(from) = self.find(new, at, step) else {
                at += 1;
                step = step.map(|step| step + 1);
                continue;
            };
            let back = equal_back(&self.old[..from], &new[brought..at]);
            let length = back + equal(&self.old[from..], &new[at..]);
            let (from, begin) = (from - back, at - back);
            writer.bring(&new[brought..begin]);
            writer.copy(self.offset + from as u64, length as u64);
            at = begin + length;
            brought = at;
            step = Some(from + length);
        }
        writer.bring(&new[brought..]);
    }

    fn find(&self, new: &[u8], at: usize, step: Option<usize>) -> Option<usize> {
        let same = |from: usize, length: usize| {
            let here = new.get(at..at + length);
            here.is_some() && here == self.old.get(from..from + length)
        };
        if let Some(step) = step.filter(|&step| same(step, IN_STEP)) {
            return Some(step);
        }
        let run = new.get(at..at + RUN)?;
        let from = self.table[self.slot(run)];
        (from != NOWHERE && same(from as usize, RUN)).then_some(from as usize)
    }
}
