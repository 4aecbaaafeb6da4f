//! The hub's state: whatever its files hold, it opens, and what it loads is whole.

#![no_main]

use e2ek_sidecar::server::store::Store;
use libfuzzer_sys::fuzz_target;

mod place;

fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, bytes)) = bytes.split_first() else { return };
    let dir = place::in_memory();
    drop(Store::open(dir.path()).expect("a new store"));
    let entries = std::fs::read_dir(dir.path()).expect("it is listed").flatten();
    let begins = if kind & 1 == 0 { "log." } else { "manifest" };
    let file = entries
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(begins.as_bytes()))
        })
        .expect("a store has a manifest and a log");
    let mut content = std::fs::read(&file).expect("it is read");
    match kind & 6 {
        0 => content = bytes.to_vec(),
        2 => content.extend_from_slice(bytes),
        // The checksums would stop nearly everything: as records.
        _ => bytes.split(|&byte| byte == 0xff).for_each(|body| content.extend(record(body))),
    }
    std::fs::write(&file, &content).expect("it is written");
    let (store, loaded) = Store::open(dir.path()).expect("damage is no error");
    let (held, generation) = (loaded.held.id(), loaded.generation);
    drop(store);
    let (_, again) = Store::open(dir.path()).expect("nor is it the second time");
    assert_eq!(again.held.id(), held);
    assert_eq!(again.generation, generation);
});

/// Length, checksum of the body, checksum of both, body.
fn record(body: &[u8]) -> Vec<u8> {
    let mut out = (body.len() as u32).to_le_bytes().to_vec();
    out.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    let head = crc32c::crc32c(&out);
    out.extend_from_slice(&head.to_le_bytes());
    out.extend_from_slice(body);
    out
}
