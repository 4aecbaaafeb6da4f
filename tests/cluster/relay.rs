//! A relay between us and the API server, whose connections can be cut or go silent.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::rig::Rig;

/// Where the rig's API server listens.
const SERVER: &str = "127.0.0.1:16443";

#[derive(Default)]
struct Shared {
    connections: Mutex<Vec<TcpStream>>,
    /// What comes is swallowed, and nobody is told.
    silent: AtomicBool,
    made: AtomicUsize,
}

pub(crate) struct Relay {
    port: u16,
    shared: Arc<Shared>,
}

impl Relay {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let there = shared.clone();
        thread::spawn(move || {
            for ours in listener.incoming().map_while(Result::ok) {
                let Ok(theirs) = TcpStream::connect(SERVER) else { continue };
                // What is timed through here is not to wait for acknowledgements.
                let _ = (ours.set_nodelay(true), theirs.set_nodelay(true));
                there.made.fetch_add(1, Ordering::SeqCst);
                let mut connections = there.connections.lock().unwrap();
                connections.extend([ours.try_clone().unwrap(), theirs.try_clone().unwrap()]);
                let (back, forth) = (theirs.try_clone().unwrap(), ours.try_clone().unwrap());
                for (from, to) in [(ours, theirs), (back, forth)] {
                    let shared = there.clone();
                    thread::spawn(move || carry(from, to, &shared.silent));
                }
            }
        });
        Self { port, shared }
    }

    /// A kubeconfig that leads here.
    pub(crate) fn kubeconfig(&self, rig: &Rig) -> String {
        let own = std::fs::read_to_string(rig.cluster.join("kubeconfig")).unwrap();
        let path = rig.home.join("relayed");
        let port = self.port.to_string();
        std::fs::write(&path, own.replace("16443", &port)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Ends every connection that there is.
    pub(crate) fn cut(&self) {
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Swallows what comes over the connections that there are and over new ones, or no longer.
    pub(crate) fn silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
        if !silent {
            // What was swallowed cannot come any more.
            self.cut();
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, silent: &AtomicBool) {
    let mut buffer = [0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        while silent.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(20));
        }
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
