//! Bytes from the other end: as they come, and as messages within sealed frames, for both ends.

#![no_main]

use e2ek_sidecar::receive::{Ahead, Receiver, Step};
use e2ek_sidecar::tree::{Snapshot, Stamp};
use e2ek_sidecar::wire::{
    AHEAD_CONTENTS, Decoder, FromHub, HelloReader, MAX_FRAME_BYTES, ToHub, unpack, unpack_ops,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = HelloReader::default().feed(bytes);
    read(bytes);
    // The checksum would stop nearly everything: the same bytes again, sealed.
    let mut sealed = Vec::new();
    for body in bytes.split(|&byte| byte == 0xff) {
        varint(body.len(), &mut sealed);
        sealed.extend_from_slice(body);
        sealed.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    }
    read(&sealed);
});

fn read(bytes: &[u8]) {
    let mut hub = Decoder::default();
    hub.feed(bytes);
    while let Ok(Some((_, len))) = hub.message::<FromHub>() {
        assert!(len <= MAX_FRAME_BYTES);
    }
    let mut daemon = Decoder::default();
    daemon.feed(bytes);
    let mut receiver = Receiver::new(Snapshot::empty(), 0, 2);
    let mut ahead = Ahead::default();
    while let Ok(Some((message, _))) = daemon.message::<ToHub>() {
        if come_ahead(&mut ahead, &message).is_none() || obey(&mut receiver, message).is_none() {
            return;
        }
    }
}

/// As a hub does that holds what comes at once.
fn come_ahead(ahead: &mut Ahead, message: &ToHub) -> Option<()> {
    match message {
        ToHub::Ahead { number, op } => ahead.begin(*number, op, 2).ok()?,
        ToHub::AheadData { number, .. } if ahead.data(*number).ok()? => {
            ahead.whole(*number);
        }
        ToHub::AheadEnd { number } => drop(ahead.end(*number).ok()?),
        ToHub::Ops { ops, .. } => drop(ahead.let_go(ops)),
        _ => {}
    }
    assert!(ahead.len() <= AHEAD_CONTENTS);
    Some(())
}

/// As a hub does whose every step succeeds.
fn obey(receiver: &mut Receiver, message: ToHub) -> Option<()> {
    let steps = match message {
        ToHub::Ops { generation, ops, last } => receiver.take_ops(generation, ops, last).ok()?,
        ToHub::PackedOps { generation, base, encoding, body, digests, last } => {
            let ops = unpack_ops(encoding, body.0, &digests.0).ok()?;
            receiver.take_packed(generation, base, ops, last).ok()?
        }
        ToHub::Data { encoding, body } => {
            let (body, pieces) = unpack(encoding, body.0).ok()?;
            assert!(pieces.iter().all(|(_, range)| range.end <= body.len()));
            receiver.take_data(pieces).ok()?
        }
        ToHub::Withdraw { index } => {
            receiver.withdraw(index).ok()?;
            Vec::new()
        }
        ToHub::Commit { generation, target } => {
            let steps = receiver.commit(generation, target).ok()?;
            report(receiver, &steps);
            receiver.finish().ok()?;
            return Some(());
        }
        _ => Vec::new(),
    };
    report(receiver, &steps);
    Some(())
}

fn report(receiver: &mut Receiver, steps: &[Step]) {
    for step in steps {
        match *step {
            Step::Move { index, removal } => {
                receiver.done(index, Stamp::default());
                receiver.done(removal, Stamp::default());
            }
            Step::MoveTree { index, .. } if index % 2 == 0 => receiver.moved(index),
            Step::MoveTree { index, .. } => {
                let steps = receiver.scattered(index);
                report(receiver, &steps);
            }
            Step::Ask { index } => receiver.need(index),
            Step::MakeDirectory { index } | Step::Copy { index } | Step::Place { index } => {
                receiver.done(index, Stamp::default());
            }
            Step::Remove { index } => receiver.gone(index),
            Step::Make { index }
            | Step::PutHeld { index }
            | Step::Patch { index, .. }
            | Step::Write { index, complete: true, .. } => {
                receiver.done(index, Stamp::default());
            }
            Step::Stage { .. } | Step::Write { .. } => {}
        }
    }
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
