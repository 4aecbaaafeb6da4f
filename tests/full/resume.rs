//! What a link that is cut in the middle of many files costs: the next one goes on where it ended.

use std::collections::BTreeSet;

use e2ek_sidecar::wire::{self, Decoder, HelloReader, PIECE_BYTES, ToHub};

use crate::daemon::Daemon;
use crate::place::{Link, Place};
use crate::relay::{Harm, Relay, Way};

const FILES: u64 = 400;
/// Of each: some of them share a frame.
const SIZE: usize = 8 << 10;
/// More than the ops of all of them take, which the second link brings again.
const OPS_BYTES: usize = FILES as usize * 128;

/// Stands in each content before its number.
const MARK: &[u8] = b"file no.";

/// Noise, of which nothing is shorter than it is, around its number.
fn content(number: u64) -> Vec<u8> {
    let mut content = vec![0; SIZE];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut content);
    content[SIZE / 2..][..8].copy_from_slice(MARK);
    content[SIZE / 2 + 8..][..8].copy_from_slice(&number.to_le_bytes());
    content
}

/// What a link brought: the files whose content came whole, and bytes in all.
fn arrived(to_hub: &[u8]) -> BTreeSet<u64> {
    let mut greeting = HelloReader::default();
    let Some((_, rest)) = greeting.feed(to_hub).unwrap() else { return BTreeSet::new() };
    let mut decoder = Decoder::default();
    let mut found = BTreeSet::new();
    // As it may come in a read, each frame being within the decoder's bounds.
    for part in rest.chunks(64 << 10) {
        decoder.feed(part);
        while let Some((message, _)) = decoder.message::<ToHub>().unwrap() {
            let ToHub::Data { encoding, body } = message else { continue };
            let (body, pieces) = wire::unpack(encoding, body.0).unwrap();
            for (_, range) in pieces {
                // As it is, or as a patch of another one, of which it has a byte or two.
                let piece = &body[range];
                assert!(piece.len() > SIZE - 16, "a file that fits a frame is not cut");
                let at = piece.windows(8).position(|bytes| bytes == MARK).unwrap() + 8;
                found.insert(u64::from_le_bytes(piece[at..][..8].try_into().unwrap()));
            }
        }
    }
    found
}

/// A first sync over a link that is cut after so many bytes; what each link brought.
fn sync(cut: Option<u64>) -> Vec<Vec<u8>> {
    let place = Place::new(Link::Stdio);
    let relay = Relay::new(&place);
    (0..FILES)
        .for_each(|number| place.write(&format!("d{}/f{number}", number % 7), content(number)));
    relay.arm(cut.map(|cut| (Way::ToHub, Harm::CutAfterBytes(cut))));
    let mut command = place.command(&["watch"]);
    command.arg(&place.source).arg(&place.target).args(["--output", "lines"]);
    command.arg("--transport-cmd").arg(relay.transport());
    let mut daemon = Daemon::start(&place, command);
    daemon.event("connected");
    daemon.flush();
    place.assert_equal();
    relay.to_hub()
}

#[test]
fn i5_after_a_cut_only_what_was_on_its_way_is_sent_again() {
    let whole = sync(None);
    let [whole] = &whole[..] else { panic!("one link") };
    assert_eq!(arrived(whole).len() as u64, FILES);
    for part in 1..8 {
        let cut = whole.len() as u64 * part / 8;
        let links = sync(Some(cut));
        let [first, next] = &links[..] else { panic!("{} links", links.len()) };
        let (before, after) = (arrived(first), arrived(next));
        // What the hub had, it has. Only of what was cut through some comes again: one frame.
        assert_eq!(before.intersection(&after).count(), 0, "files sent twice");
        assert_eq!((before.len() + after.len()) as u64, FILES);
        let (bytes, most) = (first.len() + next.len(), whole.len() + PIECE_BYTES + OPS_BYTES);
        assert!(bytes <= most, "cut at {cut}: {bytes} bytes, {} without a cut", whole.len());
    }
}
