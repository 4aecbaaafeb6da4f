//! Carriers of one byte stream to a hub.
//!
//! A [`Link`] is bytes both ways and whatever must live as long as they do; who speaks over it, and
//! what is worth trying again, is the daemon's business.

pub mod process;

use tokio::io::{AsyncRead, AsyncWrite};

/// A stream to a hub.
pub struct Link {
    /// What the hub says.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What is said to it.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// The program that carries it.
    pub carrier: process::Carrier,
}
