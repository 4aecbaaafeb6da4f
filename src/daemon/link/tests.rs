use std::fs;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use e2ek_sidecar::tree::{Change, Digest};
use e2ek_sidecar::wire::Meta;
use tokio::io::AsyncWrite;

use super::*;
use crate::transfer::Contents;

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

/// The bytes that a generation of files takes on a link that takes so long for each write, and where
/// the hub takes so long to give credit, window by window.
async fn sent(each_write: Duration, each_credit: Duration) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let content = text();
    let mut ops = Vec::new();
    for (number, piece) in content.chunks(64 << 10).enumerate() {
        fs::write(folder.path().join(number.to_string()), piece).unwrap();
        let size = piece.len() as u64;
        let new = Some(Entry::File { digest: Digest::of(piece), size, executable: false });
        let path = SyncPath::try_from(&*format!("0/{number}")).unwrap();
        let change = Change { path, old: None, new };
        ops.push(Op { change, how: How::Data, meta: Meta::default() });
    }
    let contents = Arc::new(Contents::kept_in(folder.path()));
    let written = Arc::default();
    // So little that it is waited for.
    let credit: Credit = Arc::new(Semaphore::new(0));
    let (events, _kept) = mpsc::channel(1000);
    let mut sender = Sender {
        writer: Box::new(Slow(each_write, Arc::clone(&written))),
        origin: Arc::new(Origin::new(vec![folder.path().to_owned()], contents)),
        credit: Arc::clone(&credit),
        events,
        at: (1, 1),
        buffer: Vec::new(),
        unflushed: false,
        distance: Distance::Far,
        patches: Patches::default(),
        likened: Likened::default(),
        packer: Packer::new(0),
        pace: Pace::new(Distance::Far),
        lane: Lane::new(Arc::default(), Window::default(), Arc::default()),
    };
    let indices: Vec<u32> = (0..ops.len() as u32).collect();
    let giving = async {
        loop {
            tokio::time::sleep(each_credit).await;
            credit.add_permits(512 << 10);
        }
    };
    tokio::select! {
        done = sender.data(1, &ops, &indices) => done.unwrap(),
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
