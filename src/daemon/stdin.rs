//! The command's standard input when it comes from here: read by a thread, sent within a window.

use std::io::{IsTerminal, Read};

use e2ek_sidecar::wire::INPUT_WINDOW_BYTES;
use tokio::sync::mpsc;

use crate::config::{Config, Output};

/// Read at once.
const PIECE: usize = 16 << 10;

/// Whether our standard streams are a terminal that a person looks at; then the command of an
/// embedded hub gets them as they are.
pub(super) fn is_terminal_of_human(config: &Config) -> bool {
    config.say.output.value == Output::Human
        && config.targets.iter().all(|target| target.transport.is_none())
        && std::io::stdin().is_terminal()
        && std::io::stdout().is_terminal()
}

/// Standard input, piece by piece.
pub(super) struct Stdin {
    wanted: bool,
    pieces: Option<mpsc::Receiver<Vec<u8>>>,
    /// Bytes that may still be sent.
    window: u64,
}

impl Stdin {
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, pieces: None, window: INPUT_WINDOW_BYTES }
    }

    /// Begins to read, once: before the command runs nobody would take it.
    pub(super) fn open(&mut self) {
        if !std::mem::take(&mut self.wanted) {
            return;
        }
        let (sender, receiver) = mpsc::channel(1);
        self.pieces = Some(receiver);
        // Not joined: a read of a terminal cannot be called off, and ends with the process.
        let reader = std::thread::Builder::new().name("stdin".to_owned());
        let spawned = reader.spawn(move || {
            let mut buffer = vec![0; PIECE];
            while let Ok(len @ 1..) = std::io::stdin().read(&mut buffer) {
                if sender.blocking_send(buffer[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "standard input is not read");
        }
    }

    /// The command took so much.
    pub(super) fn taken(&mut self, bytes: u64) {
        self.window = self.window.saturating_add(bytes).min(INPUT_WINDOW_BYTES);
    }

    /// The next piece; `None` once at the end. Pending while the command takes nothing. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Vec<u8>> {
        let Some(pieces) = self.pieces.as_mut().filter(|_| self.window > 0) else {
            return std::future::pending().await;
        };
        let piece = pieces.recv().await;
        match &piece {
            Some(bytes) => self.window = self.window.saturating_sub(bytes.len() as u64),
            None => self.pieces = None,
        }
        piece
    }
}
