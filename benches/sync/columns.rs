//! Owns who stands beside ours in the table.

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Peer {
    Rsync,
    Lsyncd,
    Unison,
    Mutagen,
}

pub(crate) const WIDTH: usize = 4;

/// Each has a column, in this order.
pub(crate) const PEERS: [(Peer, &str); WIDTH] = [
    (Peer::Rsync, "rsync"),
    (Peer::Lsyncd, "lsyncd"),
    (Peer::Unison, "Unison"),
    (Peer::Mutagen, "Mutagen"),
];
