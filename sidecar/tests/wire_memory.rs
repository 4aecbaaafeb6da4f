//! Nothing is allocated before its length was checked. Alone in its process, which is measured.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use e2ek_sidecar::wire::*;

/// The most memory this process ever had, in KiB (`VmHWM` of proc_pid_status(5)).
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn sealed(body: &[u8], out: &mut Vec<u8>) {
    let len = body.len();
    out.extend_from_slice(&[len as u8 | 0x80, (len >> 7) as u8 | 0x80, (len >> 14) as u8]);
    out.extend_from_slice(body);
    out.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
}

/// A body that begins like a message and then claims `u64::MAX` of whatever comes next.
fn claims() -> Vec<Vec<u8>> {
    let endless = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    let mut bodies = Vec::new();
    for variant in 0..20 {
        for skip in 0..8 {
            let mut body = vec![1_u8; skip + 1];
            body[0] = variant;
            body.extend_from_slice(&endless);
            body.extend_from_slice(&[1; 64]);
            bodies.push(body);
        }
    }
    bodies
}

#[test]
fn i11_a_hostile_peer_cannot_make_us_hold_much() {
    let before = peak_kib();
    for body in claims() {
        let mut bytes = Vec::new();
        sealed(&body, &mut bytes);
        for _ in 0..10 {
            let mut decoder = Decoder::default();
            decoder.feed(&bytes);
            let _ = decoder.message::<ToHub>();
            let mut decoder = Decoder::default();
            decoder.feed(&bytes);
            let _ = decoder.message::<FromHub>();
        }
    }
    // Frames that never end, byte by byte up to the cap: the cap is what is held.
    let mut decoder = Decoder::default();
    decoder.feed(&[0x80, 0x80, 0x40]);
    for _ in 0..(MAX_FRAME_BYTES / 4096) {
        assert_eq!(decoder.message::<ToHub>(), Ok(None));
        decoder.feed(&[0; 4096]);
    }
    assert!(decoder.message::<ToHub>().is_ok_and(|m| m.is_none()));
    decoder.feed(&[0; 4096]);
    assert_eq!(decoder.message::<ToHub>(), Err(WireError::Damaged));
    // A quarter of a gibibyte of zeros in some kilobytes.
    let bomb =
        zstd::stream::encode_all(std::io::Read::take(std::io::repeat(0), 256 << 20), 1).unwrap();
    assert!(bomb.len() < MAX_FRAME_BYTES);
    assert!(unpack(1, bomb).is_err());
    let grown = peak_kib() - before;
    assert!(grown < 32 << 10, "{grown} KiB");
}
