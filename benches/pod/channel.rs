//! Owns the bare channel: the product's own stream through an exec, with `cat` at its other end.
//!
//! The product starts `/e2ek-sidecar connect` in a container called `e2ek-sync`. In the pod of this
//! module that is a script that answers what it hears, or swallows it: what the stream itself costs,
//! by the same client, messages and hops as the product's.

use std::time::Duration;

use e2ek_sync::cluster::{Access, Bridge, Cluster};
use e2ek_sync::transport::Link;
use e2ek_sync::transport::kube::PodHub;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

use crate::figures::{Samples, between};
use crate::rig::{Pod, Rig};
use crate::{Result, clock};

/// As long as a save's smallest frames.
const ECHO_BYTES: usize = 64;
/// Handed over at once, as the product does it.
const PIECE_BYTES: usize = 64 << 10;
const LOST: Duration = Duration::from_secs(60);
const NAME: &str = "channel";

/// The first line says what to be. The shell that stays keeps standard output open: containerd 1.6 ends an
/// exec, and loses what comes, when nobody has that any more.
const SCRIPT: &str = "#!/bin/sh\nread -r what\n\
                      [ \"$what\" = echo ] && exec cat\ncat >/dev/null\necho swallowed\n";

/// The pod with the script.
pub(crate) struct Far {
    hub: PodHub,
    runtime: Runtime,
}

/// A stream that answers.
pub(crate) struct Echo<'f> {
    far: &'f Far,
    link: Link,
}

impl Far {
    pub(crate) fn start(rig: &Rig) -> Result<Self> {
        let command =
            "printf %s \"$1\" >/e2ek-sidecar; chmod 755 /e2ek-sidecar; exec sleep 1000000";
        let container = json!({
            "name": "e2ek-sync", "image": "e2ek.test/busybox:1", "imagePullPolicy": "Never",
            "command": ["sh", "-c", command, "sh", SCRIPT],
        });
        rig.apply(&json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME},
            "spec": {
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 1,
                "containers": [container],
            },
        }))?;
        rig.k(&["wait", "--for=condition=Ready", "pod/channel", "--timeout=60s"])?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let access = Access {
            kubeconfig: vec![rig.kubeconfig()],
            namespace: Some(rig.namespace().to_owned()),
            ..Access::default()
        };
        let cluster = runtime.block_on(Cluster::open(access));
        let cluster = cluster.map_err(|error| error.to_string())?;
        let hub = PodHub { cluster, pod: NAME.to_owned(), bridge: Bridge::beside() };
        Ok(Self { hub, runtime })
    }

    pub(crate) fn pod() -> Pod {
        Pod { name: NAME.to_owned(), uid: String::new() }
    }

    pub(crate) fn remove(self, rig: &Rig) -> Result<()> {
        rig.k(&["delete", "pod", NAME]).map(drop)
    }

    async fn open(&self, what: &str) -> Result<Link> {
        let mut link = self.hub.connect().await.map_err(|error| error.to_string())?;
        link.writer.write_all(format!("{what}\n").as_bytes()).await?;
        link.writer.flush().await?;
        Ok(link)
    }

    pub(crate) fn echo(&self) -> Result<Echo<'_>> {
        let link = self.runtime.block_on(self.open("echo"))?;
        Ok(Echo { far: self, link })
    }

    /// Sends so many bytes to somebody who swallows them: from the first until it has ended, which it
    /// does when it has read all, in nanoseconds. The stream was there before.
    pub(crate) fn pour(&self, bytes: usize) -> Result<i64> {
        let piece: Vec<u8> = crate::tree::noise(&mut crate::tree::Dice(3), PIECE_BYTES);
        self.runtime.block_on(async {
            let Link { mut reader, mut writer, carrier } = self.open("swallow").await?;
            let began = clock::now();
            let mut left = bytes;
            while left > 0 {
                let part = left.min(piece.len());
                // Pushed out piece by piece, as the product does it.
                let sent = async {
                    writer.write_all(&piece[..part]).await?;
                    writer.flush().await
                };
                sent.await.map_err(|error| format!("{left} bytes before the end: {error}"))?;
                left -= part;
            }
            writer.shutdown().await.map_err(|error| format!("at the end: {error}"))?;
            let mut rest = Vec::new();
            let closed = tokio::time::timeout(LOST, reader.read_to_end(&mut rest)).await?;
            let took = between(began, clock::now());
            let ended = carrier.end(Duration::ZERO).await;
            // How the connection went matters to nobody once it is told that cat ended well.
            match ended.code {
                Some(0) if rest == b"swallowed\n" => Ok(took),
                _ => Err(format!("cat: {ended:?}, {closed:?}").into()),
            }
        })
    }
}

impl Echo<'_> {
    /// One message there and back again, in nanoseconds.
    pub(crate) fn once(&mut self) -> Result<i64> {
        let link = &mut self.link;
        self.far.runtime.block_on(async {
            let mut buffer = [7; ECHO_BYTES];
            let began = clock::now();
            link.writer.write_all(&buffer).await?;
            link.writer.flush().await?;
            tokio::time::timeout(LOST, link.reader.read_exact(&mut buffer)).await??;
            Ok(between(began, clock::now()))
        })
    }

    /// So many at a pace, added to the samples.
    pub(crate) fn block(&mut self, count: usize, gap: u64, samples: &mut Samples) -> Result<()> {
        let mut due = clock::now() + gap;
        for _ in 0..count {
            clock::sleep_until(due);
            samples.push(self.once()?);
            due += gap;
        }
        Ok(())
    }
}
