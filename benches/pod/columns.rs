//! Owns who stands beside ours in the table.

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Peer {
    /// `tar cf - | kubectl exec -i -- tar xf -`.
    Tar,
    /// `kubectl cp`.
    Cp,
    DevSpace,
}

pub(crate) const WIDTH: usize = 3;

/// Each has a column, in this order.
pub(crate) const PEERS: [(Peer, &str); WIDTH] =
    [(Peer::Tar, "tar over exec"), (Peer::Cp, "kubectl cp"), (Peer::DevSpace, "DevSpace")];
