use std::fs;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use e2ek_sidecar::tree::{Change, Digest, Entry};
use e2ek_sidecar::wire::{How, Meta};
use tokio::io::AsyncWrite;

use super::*;
use crate::transfer::{Contents, Patches};

/// Something to write to that takes so long for each write.
struct Slow(Duration, Arc<std::sync::atomic::AtomicU64>);

impl AsyncWrite for Slow {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::thread::sleep(self.0);
        self.1.fetch_add(bytes.len() as u64, std::sync::atomic::Ordering::Relaxed);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Text for which a higher level saves something: our own, over and over.
fn text() -> Vec<u8> {
    let texts = ["../link.rs", "lane.rs", "../source.rs", "../settings.rs", "../../daemon.rs"];
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/daemon/link");
    let texts = texts.map(|name| fs::read(here.join(name)).unwrap()).concat();
    (0..40u8).flat_map(|round| texts.iter().map(move |byte| byte ^ (round & 0x0f))).collect()
}

/// An op that puts such a file, which is there.
fn put(folder: &std::path::Path, name: &str, content: &[u8]) -> Op {
    fs::write(folder.join(name), content).unwrap();
    let size = content.len() as u64;
    let new = Some(Entry::File { digest: Digest::of(content), size, executable: false });
    let path = SyncPath::try_from(&*format!("0/{name}")).unwrap();
    let change = Change { path, old: None, new };
    Op { change, how: How::Data, meta: Meta::default() }
}

fn maker(folder: &std::path::Path) -> Maker {
    let contents = Arc::new(Contents::kept_in(folder));
    let origin = Arc::new(Origin::new(vec![folder.to_owned()], contents));
    let (distance, likened) = (Distance::Far, Likened::default());
    Maker { origin, distance, likened, packer: Packer::new(0) }
}

/// The bytes that a generation of files takes on a link that takes so long for each write, and where
/// the hub takes so long to give credit, window by window.
async fn sent(each_write: Duration, each_credit: Duration) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let content = text();
    let mut ops = Vec::new();
    for (number, piece) in content.chunks(64 << 10).enumerate() {
        ops.push(put(folder.path(), &number.to_string(), piece));
    }
    let written = Arc::default();
    // So little that it is waited for.
    let credit: Credit = Arc::new(Semaphore::new(0));
    let (events, _kept) = mpsc::channel(1000);
    let mut sender = Sender {
        writer: Box::new(Slow(each_write, Arc::clone(&written))),
        maker: maker(folder.path()),
        credit: Arc::clone(&credit),
        events,
        at: (1, 1),
        buffer: Vec::new(),
        unflushed: false,
        ops: None,
        told: Instant::now(),
        pace: Pace::new(Distance::Far),
        lane: Lane::new(Arc::default(), Window::default(), Arc::default()),
    };
    let indices: Vec<u32> = (0..ops.len() as u32).collect();
    let (patches, commit) = (Patches::default(), Snapshot::empty().id());
    let content =
        Content { generation: 1, ops: &ops, indices: &indices, patches: &patches, commit };
    let giving = async {
        loop {
            tokio::time::sleep(each_credit).await;
            credit.add_permits(512 << 10);
        }
    };
    tokio::select! {
        done = sender.data(&content, None) => done.unwrap(),
        () = giving => {}
    }
    sender.flush().await.unwrap();
    written.load(std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test]
async fn a_slow_link_is_spared_bytes_and_a_slow_hub_is_none() {
    let at_once = Duration::ZERO;
    let (mut fast, mut slow_hub) = (0, 0);
    // A test that is held up in the midst of a write has a slow link: the most of some tries counts.
    for _ in 0..10 {
        fast = sent(at_once, Duration::from_millis(1)).await.max(fast);
        slow_hub = sent(at_once, Duration::from_millis(400)).await.max(slow_hub);
        if slow_hub == fast {
            break;
        }
    }
    assert_eq!(slow_hub, fast, "as on any fast link");
    let slow_link = sent(Duration::from_millis(100), Duration::from_millis(1)).await;
    assert!(slow_link < fast - fast / 20, "{slow_link} of {fast} bytes");
}

#[test]
fn a_hub_that_answers_and_has_nothing_to_do_proves_it_soon() {
    let probe = Probe::default();
    for (alone, answers, within) in [
        (true, true, ANSWERED_WITHIN),
        // What it has to work at may be before the Ping.
        (false, true, PROBED_WITHIN),
        (true, false, PROBED_WITHIN),
        (false, false, PROBED_WITHIN),
    ] {
        probe.ask(alone);
        assert_eq!(probe.patience(answers), within, "{alone} {answers}");
    }
    assert!(ANSWERED_WITHIN < HEARTBEAT, "else it would say something unasked");
    assert!(PROBED_WITHIN < DEAD_AFTER);
}

#[test]
fn what_goes_to_several_targets_is_read_and_encoded_once() {
    let folder = tempfile::tempdir().unwrap();
    let ops: Arc<[Op]> = [put(folder.path(), "a", b"one"), put(folder.path(), "b", b"two")].into();
    let (base, indices) = (Snapshot::empty(), [0, 1]);
    let mut all = Parcels::default();
    // As the daemon has it sent to three targets, of which the last began something else before.
    let parcels = [1, 1, 2].map(|number| {
        let ops_of = all.ops(number, &ops).unwrap();
        let data_of = all.data(number, &ops).unwrap();
        assert!(Arc::ptr_eq(&ops_of, &data_of));
        (number, ops_of)
    });
    all.clear();
    let mut made = Vec::new();
    for (generation, parcel) in &parcels {
        let mut maker = maker(folder.path());
        let sent = maker.ops(*generation, &base, &ops, Some(parcel));
        let content = Content {
            generation: *generation,
            ops: &ops,
            indices: &indices,
            patches: &sent.patches,
            commit: base.id(),
        };
        made.push((sent.clone(), maker.data(&content, 1, Some(parcel))));
        if made.len() == 1 {
            fs::remove_file(folder.path().join("a")).unwrap();
        }
    }
    let [(first, Some(all)), (second, Some(again)), (alone, None)] = &made[..] else {
        panic!("who is alone has nothing to share, and streams");
    };
    assert!(Arc::ptr_eq(first, second) && Arc::ptr_eq(all, again));
    assert!(!Arc::ptr_eq(first, alone));
    assert!(all.changed.is_empty(), "it was there when it was read");
    assert_eq!(all.iter().count(), 2, "data and commit");
}
