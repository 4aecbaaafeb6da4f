//! A bad peer is a clean error (I11): whatever bytes come, in whatever pieces.

use std::ops::Range;

use crate::samples::{self, Named as _};
use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::{Change, Digest, Entry, TreeId};
use e2ek_sidecar::wire::*;
use proptest::collection::vec;
use proptest::prelude::*;
use serde::de::DeserializeOwned;

/// Length, checksum: what a frame has besides its message.
const FRAME_EXTRA_BYTES: usize = 3 + 4;

/// Feeds bytes in pieces of these lengths, over and over; what came out, up to an error.
fn read<M: DeserializeOwned>(bytes: &[u8], pieces: &[usize]) -> (Vec<M>, Option<WireError>) {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    let mut rest = bytes;
    let mut lengths = pieces.iter().cycle();
    while !rest.is_empty() {
        let len = lengths.next().map_or(rest.len(), |&len| len.clamp(1, rest.len()));
        let (piece, after) = rest.split_at(len);
        rest = after;
        decoder.feed(piece);
        loop {
            match decoder.message() {
                Ok(Some((message, _))) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(decoder.pending() < MAX_FRAME_BYTES + FRAME_EXTRA_BYTES, "holds too much");
    }
    (messages, None)
}

fn frames<M: serde::Serialize>(messages: &[M]) -> Vec<u8> {
    let mut out = Vec::new();
    for message in messages {
        encode(message, &mut out);
    }
    out
}

/// A frame around any bytes, with the length and checksum that they have.
fn sealed(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_varint(body.len(), &mut out);
    out.extend_from_slice(body);
    out.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    out
}

fn push_varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..4_usize, 1..5000_usize], 1..5)
}

fn any_path() -> impl Strategy<Value = SyncPath> {
    vec("[a-z\u{e4}]{1,12}", 1..5)
        .prop_map(|parts| SyncPath::new(parts.join("/").as_bytes()).unwrap())
}

fn any_entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        (any::<[u8; 16]>(), any::<u64>(), any::<bool>()).prop_map(|(digest, size, executable)| {
            Entry::File { digest: Digest(digest), size, executable }
        }),
        Just(Entry::Directory),
        vec(any::<u8>(), 0..40).prop_map(|target| Entry::Symlink { target: target.into() }),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let change = (any_path(), prop::option::of(any_entry()), prop::option::of(any_entry()));
    let how = prop_oneof![
        Just(How::None),
        Just(How::Data),
        Just(How::Ask),
        any_path().prop_map(|from| How::Copy { from }),
    ];
    (change, how, any::<u16>(), any::<i64>()).prop_map(|((path, old, new), how, mode, mtime_ns)| {
        Op { change: Change { path, old, new }, how, meta: Meta { mode, mtime_ns } }
    })
}

fn any_to_hub() -> impl Strategy<Value = ToHub> {
    let len = prop_oneof![0..5_usize, 120..140_usize, 16_370..16_400_usize];
    let blob = (len, any::<u8>()).prop_map(|(len, byte)| Blob(vec![byte; len]));
    prop_oneof![
        3 => prop::sample::select(samples::to_hub()),
        1 => (any::<u64>(), vec(any_op(), 0..20), any::<bool>())
            .prop_map(|(generation, ops, last)| ToHub::Ops { generation, ops, last }),
        1 => (any::<u8>(), blob).prop_map(|(encoding, body)| ToHub::Data { encoding, body }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn i11_what_is_sent_arrives_in_whatever_pieces(
        messages in vec(any_to_hub(), 0..6),
        pieces in pieces(),
    ) {
        let (arrived, error) = read::<ToHub>(&frames(&messages), &pieces);
        prop_assert_eq!(error, None);
        prop_assert_eq!(arrived, messages);
    }

    #[test]
    fn i11_answers_arrive_in_whatever_pieces(
        messages in vec(prop::sample::select(samples::from_hub()), 0..6),
        pieces in pieces(),
    ) {
        let (arrived, error) = read::<FromHub>(&frames(&messages), &pieces);
        prop_assert_eq!(error, None);
        prop_assert_eq!(arrived, messages);
    }

    #[test]
    fn i11_any_bytes_are_messages_or_one_error(
        bytes in vec(any::<u8>(), 0..3000),
        pieces in pieces(),
    ) {
        read::<ToHub>(&bytes, &pieces);
        read::<FromHub>(&bytes, &pieces);
    }

    /// Past the checksum, to where the message is read.
    #[test]
    fn i11_any_sealed_bytes_are_a_message_or_an_error(
        variant in 0_u8..20,
        body in vec(any::<u8>(), 0..300),
    ) {
        let mut body = body;
        body.insert(0, variant);
        for (count, error) in [
            { let (m, e) = read::<ToHub>(&sealed(&body), &[]); (m.len(), e) },
            { let (m, e) = read::<FromHub>(&sealed(&body), &[]); (m.len(), e) },
        ] {
            prop_assert!((count == 1) != (error == Some(WireError::Malformed)));
        }
    }

    /// A true message with some bytes changed and the checksum made to fit.
    #[test]
    fn i11_forged_messages_do_no_harm(
        message in any_to_hub(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = postcard::to_stdvec(&message).unwrap();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let (messages, error) = read::<ToHub>(&sealed(&body), &[]);
        prop_assert!((messages.len() == 1) != (error == Some(WireError::Malformed)));
    }

    #[test]
    fn i11_any_body_unpacks_or_is_refused(encoding in 0_u8..3, body in vec(any::<u8>(), 0..2000)) {
        let packed = if encoding == 1 { zstd::bulk::compress(&body, 1).unwrap() } else { body.clone() };
        for body in [body, packed] {
            if let Ok((unpacked, pieces)) = unpack(encoding, body) {
                check_pieces(&unpacked, &pieces);
            }
        }
    }

    #[test]
    fn i11_what_is_packed_is_unpacked(
        files in vec((any::<u32>(), prop_oneof![4 => 0..200_usize, 1 => 0..3 * PIECE_BYTES], any::<u8>()), 0..6),
        level in 0..4,
    ) {
        let mut packer = Packer::new(level);
        let mut messages = Vec::new();
        let content = |len: usize, seed: u8| (0..len).map(move |i| seed.wrapping_add((i % 251) as u8));
        for &(index, len, seed) in &files {
            messages.extend(packer.push(index, &content(len, seed).collect::<Vec<_>>()));
        }
        messages.extend(packer.flush());
        let mut arrived = Vec::new();
        for message in messages {
            prop_assert!(encode(&message, &mut Vec::new()) <= PIECE_BYTES + 64);
            let ToHub::Data { encoding, body } = message else { panic!("not data") };
            let (unpacked, pieces) = unpack(encoding, body.0).unwrap();
            check_pieces(&unpacked, &pieces);
            arrived.extend(pieces.into_iter().map(|(index, range)| (index, unpacked[range].to_vec())));
        }
        // Pieces of one file come one after another; glue those of the same push.
        let mut arrived = arrived.into_iter();
        for (index, len, seed) in files {
            let mut got = Vec::new();
            while got.len() < len {
                let (of, bytes) = arrived.next().unwrap();
                prop_assert_eq!(of, index);
                got.extend(bytes);
            }
            prop_assert!(got.into_iter().eq(content(len, seed)));
        }
        prop_assert!(arrived.next().is_none());
    }

    #[test]
    fn i11_any_ops_unpack_or_are_refused(
        encoding in 0_u8..3,
        body in vec(any::<u8>(), 0..300),
        digests in vec(any::<u8>(), 0..64),
    ) {
        let packed = if encoding == 1 { zstd::bulk::compress(&body, 1).unwrap() } else { body.clone() };
        for body in [body, packed] {
            if let Ok(ops) = unpack_ops(encoding, body, &digests) {
                prop_assert!(ops.len() <= OPS_PER_FRAME);
            }
        }
    }

    #[test]
    fn i11_ops_that_are_packed_are_unpacked(ops in vec(any_op(), 0..40), level in 0..4) {
        let ops: Vec<Op> = ops.into_iter().chain(samples::packed_ops()).collect();
        let message = OpsPacker::new(7, TreeId([3; 32]), level).pack(&ops, true);
        let ToHub::PackedOps { encoding, body, digests, .. } = message else { panic!("not ops") };
        let arrived = unpack_ops(encoding, body.0, &digests.0).unwrap();
        let told = |op: &Op| Op { change: Change { old: None, ..op.change.clone() }, ..op.clone() };
        prop_assert_eq!(arrived, ops.iter().map(told).collect::<Vec<_>>());
    }

    #[test]
    fn i11_any_greeting_is_a_hello_or_an_error(
        bytes in vec(any::<u8>(), 0..1500),
        ours in 0_usize..40,
        pieces in pieces(),
    ) {
        // Begins like ours for a while, so that all of the reader is reached.
        let mut greeting = Vec::new();
        Hello::ours().encode(&mut greeting);
        greeting.truncate(ours);
        greeting.extend_from_slice(&bytes);
        let _: Greeting = read_hello(&greeting, &pieces);
    }

    #[test]
    fn i13_a_hello_arrives_in_whatever_pieces(
        versions in any::<(u16, u16)>(),
        features in any::<u64>(),
        build in "[0-9a-z.+-]{0,255}",
        after in vec(any::<u8>(), 0..50),
        pieces in pieces(),
    ) {
        let hello = Hello { versions, features, build };
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        bytes.extend_from_slice(&after);
        prop_assert_eq!(read_hello(&bytes, &pieces), Ok(Some((hello, after))));
    }
}

fn check_pieces(unpacked: &[u8], pieces: &[(u32, Range<usize>)]) {
    assert!(unpacked.len() <= MAX_UNPACKED_BYTES);
    let mut end = 0;
    for (_, range) in pieces {
        assert!(!range.is_empty() && range.start > end && range.end <= unpacked.len());
        end = range.end;
    }
    assert!(end == unpacked.len(), "bytes that are in no piece");
}

type Greeting = Result<Option<(Hello, Vec<u8>)>, WireError>;

/// Feeds a greeting in pieces; what follows the Hello is what was left of its piece, and the rest.
fn read_hello(bytes: &[u8], pieces: &[usize]) -> Greeting {
    let mut reader = HelloReader::default();
    let mut rest = bytes;
    let mut lengths = pieces.iter().cycle();
    while !rest.is_empty() {
        let len = lengths.next().map_or(rest.len(), |&len| len.clamp(1, rest.len()));
        let (piece, after) = rest.split_at(len);
        rest = after;
        if let Some((hello, mut left)) = reader.feed(piece)? {
            left.extend_from_slice(rest);
            return Ok(Some((hello, left)));
        }
    }
    Ok(None)
}

#[test]
fn i11_every_flipped_bit_is_seen() {
    for message in samples::to_hub() {
        let whole = frames(std::slice::from_ref(&message));
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (messages, _) = read::<ToHub>(&bytes, &[]);
            assert_eq!(messages, [], "{message:?}, bit {bit}");
            // With more behind it nothing is taken for a message either.
            bytes.extend_from_slice(&frames(&samples::to_hub()));
            let (messages, _) = read::<ToHub>(&bytes, &[]);
            assert_eq!(messages, [], "{message:?}, bit {bit}, more behind it");
        }
    }
}

#[test]
fn i11_every_cut_is_incomplete_and_no_more() {
    for message in samples::from_hub() {
        let whole = frames(std::slice::from_ref(&message));
        for cut in 0..whole.len() {
            assert_eq!(read::<FromHub>(&whole[..cut], &[]), (Vec::new(), None), "cut at {cut}");
            let both = read::<FromHub>(&whole, &[cut.max(1)]).0;
            assert_eq!(both, std::slice::from_ref(&message));
        }
    }
}

#[test]
fn i11_lengths_at_the_edge() {
    // The longest frame there may be: variant, encoding and the length of the length come on top.
    let longest = |extra: usize| ToHub::Data {
        encoding: 0,
        body: Blob(vec![7; MAX_FRAME_BYTES - 5 + extra]),
    };
    let bytes = frames(&[longest(0)]);
    assert_eq!(read::<ToHub>(&bytes, &[4096]), (vec![longest(0)], None));
    let body = postcard::to_stdvec(&longest(1)).unwrap();
    assert_eq!(body.len(), MAX_FRAME_BYTES + 1);
    for (bytes, error) in [
        // Refused by its length alone, before any of it is here.
        (&sealed(&body)[..3], Some(WireError::TooLong)),
        (&[0xff, 0xff, 0x7f], Some(WireError::TooLong)),
        (&[0x80, 0x80, 0x80], Some(WireError::TooLong)),
        (&[0x00], Some(WireError::Malformed)),
        (&[0x80, 0x00], Some(WireError::Malformed)),
        (&[0x80, 0x80, 0x40], None),
    ] {
        assert_eq!(read::<ToHub>(bytes, &[1]), (Vec::new(), error), "{bytes:x?}");
    }
}

#[test]
fn i11_a_message_ends_where_its_frame_ends() {
    let mut body = postcard::to_stdvec(&ToHub::Ping).unwrap();
    body.push(0);
    assert_eq!(read::<ToHub>(&sealed(&body), &[]).1, Some(WireError::Malformed));
    let unknown = [u8::try_from(ToHub::NAMES.len()).unwrap(), 0, 0];
    assert_eq!(read::<ToHub>(&sealed(&unknown), &[]).1, Some(WireError::Malformed));
}

#[test]
fn i11_paths_from_the_wire_stay_below_the_root() {
    for bad in [&b"/etc"[..], b"..", b"a/../b", b"", b"a//b", b"a\0b", &[b'x'; 256]] {
        // Describe, of one path.
        let mut body = vec![5, 1];
        push_varint(bad.len(), &mut body);
        body.extend_from_slice(bad);
        let (messages, error) = read::<ToHub>(&sealed(&body), &[]);
        assert_eq!((messages, error), (vec![], Some(WireError::Malformed)), "{bad:?}");
    }
    assert_eq!(
        read::<ToHub>(&sealed(b"\x05\x01\x01a"), &[]).0.len(),
        1,
        "the forgery is well made"
    );
}

/// One piece that is `len` bytes long, its head included.
fn one_piece(len: usize) -> Vec<u8> {
    let with_head = |head: usize| {
        let mut body = vec![0];
        push_varint(len - head, &mut body);
        body
    };
    let body = (2..12).map(|head| (head, with_head(head))).find(|(head, body)| body.len() == *head);
    let mut body = body.expect("some head fits").1;
    body.resize(len, 0);
    body
}

#[test]
fn i11_a_bomb_is_refused() {
    let pack = |len: usize| zstd::bulk::compress(&one_piece(len), 1).unwrap();
    let (whole, pieces) = unpack(1, pack(MAX_UNPACKED_BYTES)).unwrap();
    assert_eq!((whole.len(), pieces.len()), (MAX_UNPACKED_BYTES, 1));
    assert_eq!(unpack(1, pack(MAX_UNPACKED_BYTES + 1)), Err(WireError::TooLong));
    // Says its length, or does not, or is many.
    assert_eq!(unpack(1, pack(8 << 20)), Err(WireError::TooLong));
    let streamed = zstd::stream::encode_all(&*one_piece(8 << 20), 1).unwrap();
    assert!(unpack(1, streamed).is_err());
    let many: Vec<u8> = (0..3).flat_map(|_| pack(MAX_UNPACKED_BYTES / 2)).collect();
    assert!(unpack(1, many).is_err());
}

#[test]
fn i11_packed_ops_are_bounded() {
    // The same path over and over, as a removal: four bytes each.
    let same = |count: usize| {
        let mut body = b"\0\x01a\0\0".to_vec();
        body.extend(b"\x01\0\0\0".repeat(count - 1));
        body
    };
    assert_eq!(unpack_ops(0, same(OPS_PER_FRAME), b"").unwrap().len(), OPS_PER_FRAME);
    assert_eq!(unpack_ops(0, same(OPS_PER_FRAME + 1), b""), Err(WireError::TooLong));
    let bomb = zstd::bulk::compress(&vec![0; MAX_UNPACKED_BYTES + 1], 1).unwrap();
    assert_eq!(unpack_ops(1, bomb, b""), Err(WireError::TooLong));
    let digests = [0; 15];
    for (body, digests) in [
        (&b"\x01\0\0\0"[..], &b""[..]),
        (b"\0\x02a", b""),
        (b"\0\x01a\x05\0", b""),
        (b"\0\x01a\x20\0", b""),
        (b"\0\x01a\0\x09", b""),
        (b"\0\x01a\x01\x01\x01", &digests),
        (b"\0\x01a\0\0", &digests),
        (b"\0\x03../\0\0", b""),
        (b"\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a\0\0", b""),
    ] {
        assert_eq!(unpack_ops(0, body.to_vec(), digests), Err(WireError::Malformed), "{body:x?}");
    }
}

#[test]
fn i11_data_that_is_not_data_is_malformed() {
    for (encoding, body) in [
        (2, &b""[..]),
        (1, b"not zstd"),
        (0, b"\x00"),
        // A piece of nothing, a piece longer than the body, an index beyond 32 bits, a length
        // without end.
        (0, b"\x00\x00"),
        (0, b"\x00\x02a"),
        (0, b"\x80\x80\x80\x80\x10\x01a"),
        (0, b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a"),
        (0, b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
    ] {
        assert_eq!(
            unpack(encoding, body.to_vec()),
            Err(WireError::Malformed),
            "{encoding} {body:x?}"
        );
    }
    assert_eq!(unpack(0, Vec::new()), Ok((Vec::new(), Vec::new())));
}

#[test]
fn i11_a_shell_that_answers_is_shown() {
    let banner = b"bash: e2ek-sidecar: command not found\n\x1b[2J";
    let error = HelloReader::default().feed(banner).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the other end is not e2ek-sync; it said \"bash: e2ek-sidecar: command not found\\x0a\\x1b[2J\""
    );
    // Not later than its first byte.
    assert!(matches!(HelloReader::default().feed(b"b"), Err(WireError::NotOurs(_))));
    // A carrier that changes line ends is found out by the Hello itself.
    let mut bytes = Vec::new();
    Hello::ours().encode(&mut bytes);
    let mangled: Vec<u8> = bytes.iter().copied().filter(|&b| b != b'\r').collect();
    assert!(matches!(HelloReader::default().feed(&mangled), Err(WireError::NotOurs(_))));
}

#[test]
fn i10_a_list_of_any_length_is_cut_to_fit() {
    let longest = |i: usize| {
        let name = "x".repeat(250);
        SyncPath::new([format!("{i:05}"), vec![name; 15].join("/")].join("/").as_bytes()).unwrap()
    };
    let short = |i: usize| SyncPath::new(format!("{i:05}").as_bytes()).unwrap();
    let paths: Vec<SyncPath> = (0..3000).map(longest).chain((3000..6000).map(short)).collect();
    let parts: Vec<Vec<SyncPath>> = batches(paths.clone()).collect();
    for part in &parts {
        let bytes = encode(&FromHub::Drifted { paths: part.clone() }, &mut Vec::new());
        assert!(part.len() <= OPS_PER_FRAME && bytes <= MAX_FRAME_BYTES, "{bytes} bytes");
    }
    assert!(parts.len() < 32, "{} parts", parts.len());
    assert_eq!(parts.concat(), paths);
    assert_eq!(batches(vec!["x".repeat(MAX_FRAME_BYTES); 2]).count(), 2);
    assert_eq!(batches(Vec::<u8>::new()).count(), 0);
}
