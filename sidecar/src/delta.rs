//! Owns what a changed file is made of: what is still known of its old content, how the new one
//! differs from it, and the patch that says so.
//!
//! Pure. A patch copies ranges of the old content and brings the rest; whoever applies one compares
//! the digest of the result with what it shall be and takes nothing else, so a wrong base, a hostile
//! patch and sums that are equal by chance all end the same way: the content is sent whole.
//!
//! What is known of the old content decides how finely the change is found:
//!
//! | known | for files | finds |
//! |---|---|---|
//! | its bytes ([`between`]) | in memory | every run of 16 bytes and more |
//! | a [`Sketch`] | 1/4 to 64 KiB | the front, the back and runs between that stayed in their order, in blocks of 32 bytes and more |
//! | its [`Blocks`] | above | blocks of 1 KiB and more, wherever they went |

#![deny(clippy::disallowed_methods)]

mod blocks;
mod differ;
mod exact;
mod nodes;
mod patch;
mod rolling;
mod search;
mod sketch;

pub use blocks::{Blocks, Part, PartSigner, SignedPart, Signer, block_bytes};
pub use differ::{Differ, Gaps};
pub use exact::between;
pub use nodes::{NodeHasher, Nodes, PART_BYTES, part_node};
pub use patch::{PatchError, PatchWriter, Patcher, Piece};
pub use sketch::Sketch;

#[cfg(test)]
mod tests;
