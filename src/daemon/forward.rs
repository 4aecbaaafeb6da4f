//! Ports of this machine that lead to a port of a workload's pods, whichever they are by now.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::groups::Change;
use crate::cluster::{Cluster, ClusterError};
use crate::config::Forward;
use crate::error::Error;

/// Connections at a time; more wait to be taken.
const CONNECTIONS: usize = 256;
/// Between two tries to take one.
const AGAIN: Duration = Duration::from_millis(100);

/// A port that is listened to.
pub(super) struct Forwarded {
    pub(super) forward: Forward,
    listener: TcpListener,
}

/// Takes the port, so that a `watch` that cannot have it says so before anything else.
pub(super) async fn listen(forward: Forward) -> Result<Forwarded, Error> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, forward.local)).await;
    let listener = listener.map_err(|error| Error::port_taken(forward, &error))?;
    Ok(Forwarded { forward, listener })
}

impl Forwarded {
    /// Carries what comes; ends with the daemon's tasks.
    pub(super) async fn run(
        self,
        cluster: Cluster,
        pods: watch::Receiver<Vec<String>>,
        out: mpsc::Sender<Change>,
    ) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS => {
                    let Ok((stream, _)) = accepted else {
                        // No descriptor is left: one may be later.
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    };
                    let (cluster, pods, port) = (cluster.clone(), pods.clone(), self.forward.remote);
                    connections.spawn(async move { cluster.forward(pods, port, stream).await });
                }
                Some(ended) = connections.join_next() => {
                    if let Ok(Err(error @ ClusterError::Forbidden { .. })) = ended {
                        let _ = out.send(Change::NotForwarded(error)).await;
                    }
                }
            }
        }
    }
}
