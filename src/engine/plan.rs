//! Owns what is to be done to make one tree another: ops, where their content comes from, and when to
//! ask a person first. Pure; order and hazards at the target are the receiver's business.

mod moves;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Change, Digest, Dir, Entry, Node, Reason, Snapshot};
use e2ek_sidecar::wire::{How, Meta, Op};

use self::moves::{Moved, Moves};
use super::session::Amount;

/// What becomes of files that others made at the target.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// They stay.
    #[default]
    Keep,
    /// They are removed, within the delete budget.
    Mirror,
}

/// How many files one generation may delete before it is held (I7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeleteBudget {
    /// At most so many.
    Count(u64),
    /// At most this share (0 to 100) of the managed ones; [`FREE_DELETES`] are always allowed.
    Percent(u8),
}

/// Deletes within this time count together.
pub const DELETE_WINDOW: Duration = Duration::from_secs(10);

/// Deletes that a share never forbids: small trees change by half every day.
pub const FREE_DELETES: u64 = 50;

impl Default for DeleteBudget {
    fn default() -> Self {
        Self::Percent(25)
    }
}

impl DeleteBudget {
    /// Whether deleting `deletes` of `managed` files is within the budget.
    #[must_use]
    pub fn allows(self, deletes: u64, managed: u64) -> bool {
        match self {
            Self::Count(count) => deletes <= count,
            Self::Percent(share) => {
                deletes <= FREE_DELETES
                    || u128::from(deletes) * 100 <= u128::from(managed) * u128::from(share)
            }
        }
    }

    /// Whether the user said that everything may go, an emptied root included.
    #[must_use]
    pub fn is_unlimited(self) -> bool {
        matches!(self, Self::Percent(100..))
    }
}

/// Why nothing is sent until somebody answers (I7).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hold {
    /// A source root is gone, was replaced by another directory or unmounted.
    RootGone,
    /// A source root that held something holds nothing.
    RootEmptied {
        /// Files that would be deleted.
        deletes: u64,
    },
    /// More deletes than the budget allows.
    Budget {
        /// Files that would be deleted.
        deletes: u64,
        /// Files managed.
        managed: u64,
    },
}

/// Changes that a target refused, so that they are not tried again until something differs.
pub type Refused = BTreeMap<SyncPath, (Option<Entry>, Reason)>;

/// Where the target has which content.
type Known = HashMap<(Digest, u64), SyncPath>;

/// Most ops of one generation of a first sync: both ends hold them, and the hub is silent while it
/// makes their directories (0.1 s).
pub const GENERATION_OPS: usize = 20_000;

/// Smallest new file for whose content the whole tree at the target is searched; smaller ones are
/// looked for only among what the same generation removes or replaces.
const SEARCH_FROM_BYTES: u64 = 16 << 10;

/// What a plan goes by beside the two trees.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    /// What is left out.
    pub refused: &'a Refused,
    /// First contact: the target may have the content already, so it is asked before anything is sent.
    pub ask: bool,
    /// Whether a content is sent in any case, wherever else it may be found.
    pub sent: &'a dyn Fn(&(Digest, u64)) -> bool,
    /// Directories that moved are told as such, but for those of which this says that they stay
    /// where they were; without it, each entry of them is.
    pub moves: Option<&'a dyn Fn(&SyncPath) -> bool>,
}

/// The ops that turn `held` into `wanted`, without those refused before. A directory that moved is
/// two of them, in path order like all: [`How::Tree`] where it comes, and its removal.
#[must_use]
pub fn plan(held: &Snapshot, wanted: &Snapshot, given: Given<'_>) -> Vec<Op> {
    let differences = held.differences(wanted);
    let moves = match given.moves.filter(|_| given.refused.is_empty() && !given.ask) {
        Some(stays) => moves::find(&differences, stays),
        None => Moves::new(),
    };
    let mut changes = moves::changes(differences, &moves);
    if !given.refused.is_empty() {
        let again = |change: &Change| {
            given.refused.get(&change.path).is_some_and(|(entry, _)| *entry == change.new)
        };
        leave_out(&mut changes, |change| change, again);
    }
    let known = match given.ask {
        true => HashMap::new(),
        false => known_content(held, &changes, &moves, given.sent),
    };
    ops(changes, wanted, (&known, &moves), given)
}

fn ops(
    changes: Vec<Change>,
    wanted: &Snapshot,
    (known, moves): (&Known, &Moves<'_>),
    given: Given<'_>,
) -> Vec<Op> {
    changes
        .into_iter()
        .map(|change| {
            let moved = moves.get(&change.path).map(Moved::how);
            let how = moved.unwrap_or_else(|| content_of(&change, known, given));
            // Of what is new more than the time is asked for when it is sent.
            let replaces = matches!(change.old, Some(Entry::File { .. }));
            let node = if replaces { wanted.get(&change.path) } else { None };
            let meta = Meta { mode: 0, mtime_ns: mtime_of(node) };
            Op { change, how, meta }
        })
        .collect()
}

/// As [`plan`], but of a first sync only as much as one generation takes, with the tree that leads to;
/// without one it is all. What changes or removes something is never cut: a file that is moved would
/// be sent anew. `more` are ops that stand in the way and will not be part of the generation.
#[must_use]
pub fn first(
    held: &Snapshot,
    wanted: &Snapshot,
    given: Given<'_>,
    more: usize,
) -> (Vec<Op>, Option<Snapshot>) {
    let most = GENERATION_OPS + more;
    let changes = held.diff_up_to(wanted, most);
    let adds = given.refused.is_empty() && changes.iter().all(|change| change.old.is_none());
    let last = changes.last().filter(|_| adds && changes.len() >= most);
    match last.map(|change| held.advanced(wanted, &change.path)) {
        Some(reached) => {
            (ops(changes, wanted, (&HashMap::new(), &Moves::new()), given), Some(reached))
        }
        None => (plan(held, wanted, given), None),
    }
}

/// Makes of removals what they are when a path is gone only because it is ignored now: it stays at
/// the target and is managed no more. Returns how many files and links that are.
pub fn forget(ops: &mut [Op], ignored: &dyn Fn(&SyncPath, bool) -> bool) -> u64 {
    let mut count = 0;
    for op in ops.iter_mut().filter(|op| op.change.new.is_none()) {
        let is_dir = matches!(op.change.old, Some(Entry::Directory));
        if ignored(&op.change.path, is_dir) {
            op.how = How::Forget;
            count += u64::from(!is_dir);
        }
    }
    count
}

/// The time that the last look found; 0 where it did not settle.
fn mtime_of(node: Option<&Node>) -> i64 {
    match node {
        Some(Node::File { stamp, .. }) => stamp.mtime_ns,
        _ => 0,
    }
}

fn content_of(change: &Change, known: &Known, given: Given<'_>) -> How {
    let Some(Entry::File { digest, size, .. }) = &change.new else { return How::None };
    let unchanged = matches!(&change.old, Some(Entry::File { digest: old, .. }) if old == digest);
    match known.get(&(*digest, *size)) {
        _ if *size == 0 || unchanged => How::None,
        _ if (given.sent)(&(*digest, *size)) => How::Data,
        _ if given.ask => How::Ask,
        Some(from) => How::Copy { from: from.clone() },
        None => How::Data,
    }
}

/// Drops the changes that `stay` undone, what lies below such a path, and the removal of directories
/// in which something stays.
pub(super) fn leave_out<T>(
    items: &mut Vec<T>,
    of: impl Fn(&T) -> &Change,
    stay: impl Fn(&Change) -> bool,
) {
    let mut stuck: HashSet<SyncPath> = HashSet::new();
    let mut above: HashSet<SyncPath> = HashSet::new();
    items.retain(|item| {
        let change = of(item);
        let mut parents = std::iter::successors(change.path.parent(), SyncPath::parent);
        let stays = stay(change) || parents.any(|parent| stuck.contains(&parent));
        if stays {
            stuck.insert(change.path.clone());
            above.extend(std::iter::successors(change.path.parent(), SyncPath::parent));
        }
        !stays
    });
    items.retain(|item| of(item).new.is_some() || !above.contains(&of(item).path));
}

/// Content that the target holds and that this generation needs: of files it removes or replaces,
/// and of any file when a large one is new.
fn known_content(
    held: &Snapshot,
    changes: &[Change],
    moves: &Moves<'_>,
    sent: &dyn Fn(&(Digest, u64)) -> bool,
) -> Known {
    let mut known = HashMap::new();
    let needs = |change: &Change| matches!(change.new, Some(Entry::File { size: 1.., .. }));
    if !changes.iter().any(needs) {
        return known;
    }
    // What a directory holds that moves is copied before it does.
    for Moved { from, dir } in moves.values() {
        files_of(from, dir, &mut |path, content| {
            known.entry(content).or_insert(path);
        });
    }
    let mut add = |entry: Option<&Entry>, path: &SyncPath| {
        if let Some(&Entry::File { digest, size, .. }) = entry {
            known.entry((digest, size)).or_insert_with(|| path.clone());
        }
    };
    // What is removed comes first: it can be moved rather than copied.
    for change in changes.iter().filter(|c| c.new.is_none()) {
        add(change.old.as_ref(), &change.path);
    }
    for change in changes.iter().filter(|c| c.new.is_some()) {
        add(change.old.as_ref(), &change.path);
    }
    let mut searched: HashSet<(Digest, u64)> = (changes.iter())
        .filter_map(|change| match change {
            Change { old: None, new: Some(Entry::File { digest, size, .. }), .. } => {
                Some((*digest, *size))
            }
            _ => None,
        })
        .filter(|key| key.1 >= SEARCH_FROM_BYTES && !known.contains_key(key) && !sent(key))
        .collect();
    if !searched.is_empty() {
        held.walk(&mut |path, node| {
            if let Node::File { digest, size, .. } = node
                && searched.remove(&(*digest, *size))
            {
                known.insert((*digest, *size), path.clone());
            }
        });
    }
    known
}

/// Tells each file below a directory, by its path and content.
fn files_of(at: &SyncPath, dir: &Dir, tell: &mut dyn FnMut(SyncPath, (Digest, u64))) {
    for (name, node) in dir.iter() {
        let path = || at.join(name).expect("names and depth were checked when the tree was made");
        match node {
            Node::File { digest, size, .. } => tell(path(), (*digest, *size)),
            Node::Directory(inside) => files_of(&path(), inside, tell),
            Node::Symlink(_) => {}
        }
    }
}

/// Whether a person must be asked before these ops are sent. `recent` are the deletes sent within
/// [`DELETE_WINDOW`]: an `rm -rf` that is seen in ten steps is one delete to a person.
#[must_use]
pub fn guard(
    held: &Snapshot,
    wanted: &Snapshot,
    ops: &[Op],
    budget: DeleteBudget,
    recent: u64,
) -> Option<Hold> {
    if budget.is_unlimited() {
        return None;
    }
    let deletes = losses(wanted, ops, recent);
    if deletes == 0 {
        return None;
    }
    // Each path pair is one directory at the top.
    for (name, node) in held.root().iter() {
        let Node::Directory(before) = node else { continue };
        let now_empty = match wanted.root().get(name) {
            Some(Node::Directory(now)) => now.is_empty(),
            _ => true,
        };
        if now_empty && !before.is_empty() {
            return Some(Hold::RootEmptied { deletes });
        }
    }
    // Counting costs a walk over everything: not for what is allowed whatever is managed.
    let deletes = deletes + recent;
    if budget.allows(deletes, 0) {
        return None;
    }
    let managed = files(held) + recent;
    (!budget.allows(deletes, managed)).then_some(Hold::Budget { deletes, managed })
}

/// Whether a directory moves as a whole among these.
#[must_use]
pub fn has_moves(ops: &[Op]) -> bool {
    ops.iter().any(|op| matches!(op.how, How::Tree { .. }))
}

/// Deletes as the guard counts them: many at once are looked at closely, and what the source still
/// has at another path (a directory renamed in two steps) is no loss. Cost then: a walk over `wanted`.
#[must_use]
pub fn losses(wanted: &Snapshot, ops: &[Op], recent: u64) -> u64 {
    let deletes = deletes(ops);
    if deletes == 0 || deletes + recent <= FREE_DELETES / 2 {
        return deletes;
    }
    let mut gone: HashMap<(Digest, u64), u64> = HashMap::new();
    for op in ops.iter().filter(|op| op.change.new.is_none() && op.how != How::Forget) {
        if let Some(Entry::File { digest, size, .. }) = op.change.old {
            *gone.entry((digest, size)).or_default() += 1;
        }
    }
    let mut elsewhere = 0;
    wanted.each_node(&mut |node| {
        if let &Node::File { digest, size, .. } = node {
            elsewhere += gone.remove(&(digest, size)).unwrap_or(0);
        }
    });
    deletes.saturating_sub(elsewhere)
}

/// Files and links that go for good: what is moved elsewhere does not count.
#[must_use]
pub fn deletes(ops: &[Op]) -> u64 {
    let mut moved: Vec<&SyncPath> = (ops.iter())
        .filter_map(|op| match &op.how {
            How::Copy { from } => Some(from),
            _ => None,
        })
        .collect();
    // Both in path order: what a directory held that was renamed mostly is already.
    moved.sort();
    let mut moved = moved.into_iter().peekable();
    let gone = ops.iter().filter(|op| {
        let gone = matches!(op.change.old, Some(Entry::File { .. } | Entry::Symlink { .. }));
        gone && op.change.new.is_none() && op.how != How::Forget
    });
    gone.filter(|op| {
        let path = &op.change.path;
        while moved.next_if(|from| *from < path).is_some() {}
        moved.peek() != Some(&path)
    })
    .count() as u64
}

/// All files and links of a tree. Costs a walk.
#[must_use]
pub fn amount(tree: &Snapshot) -> Amount {
    let mut amount = Amount::default();
    tree.each_node(&mut |node| match node {
        Node::File { size, .. } => amount = amount.and(Amount { files: 1, bytes: *size }),
        Node::Symlink(_) => amount.files += 1,
        Node::Directory(_) => {}
    });
    amount
}

fn files(tree: &Snapshot) -> u64 {
    let mut count = 0;
    tree.each_node(&mut |node| count += u64::from(!matches!(node, Node::Directory(_))));
    count
}

#[cfg(test)]
mod tests;
