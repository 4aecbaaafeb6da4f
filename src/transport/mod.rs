//! Carriers of one byte stream to a hub.
//!
//! A [`Link`] is bytes both ways and whatever must live as long as they do; who speaks over it, and
//! what is worth trying again, is the daemon's business.

pub mod kube;
pub mod network;
pub mod process;

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::cluster::ClusterError;

/// A stream to a hub.
pub struct Link {
    /// What the hub says.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What is said to it; what was written is on its way after a flush.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// What carries it.
    pub carrier: Carrier,
}

/// What carries a link, for as long as it lives.
pub enum Carrier {
    /// A program on this machine.
    Program(process::Program),
    /// An exec in a pod.
    Pod(kube::FarEnd),
}

/// How a carrier ended.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code, if it ended by itself and that is known.
    pub code: Option<i32>,
    /// What was said about it.
    pub said: Option<String>,
}

/// Why there is no carrier.
#[derive(Debug)]
pub enum NotStarted {
    /// The program cannot be started.
    Program(io::Error),
    /// The cluster will not, or cannot be asked.
    Cluster(ClusterError),
}

/// How a hub is reached.
#[derive(Clone, Debug)]
pub enum Transport {
    /// By a program on this machine.
    Process(process::Transport),
    /// In a pod.
    Pod(kube::PodHub),
}

impl Transport {
    /// Whether the hub may be on another machine, so that what becomes of the network matters.
    #[must_use]
    pub fn is_far(&self) -> bool {
        !matches!(self, Self::Process(process::Transport::Embedded { .. }))
    }

    /// Makes the link. The Hello is not exchanged yet.
    ///
    /// # Errors
    /// When there is no carrier.
    pub async fn connect(&self) -> Result<Link, NotStarted> {
        match self {
            Self::Process(transport) => transport.connect().map_err(NotStarted::Program),
            Self::Pod(hub) => hub.connect().await.map_err(NotStarted::Cluster),
        }
    }
}

impl Carrier {
    /// Waits for its end, at most so long; then it is ended.
    pub async fn end(self, patience: Duration) -> Ended {
        match self {
            Self::Program(program) => Ended { code: program.end(patience).await, said: None },
            Self::Pod(far) => {
                let (code, said) = far.told();
                Ended { code, said }
            }
        }
    }
}
