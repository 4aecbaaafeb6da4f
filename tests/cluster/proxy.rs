//! A proxy between us and the API server: HTTP's CONNECT, or SOCKS5. Whatever host is asked for, it leads
//! to the rig's server, for here is no DNS.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::pods::deployment;
use crate::rig::{Rig, Said};

const SERVER: &str = "127.0.0.1:16443";
const TARGET: &str = "deploy/app:/srv/app";
/// The bridge of the rig's pods, where no API server listens.
const ELSEWHERE: &str = "10.244.0.1";

/// What the rig's proxies were asked for.
#[derive(Default)]
struct Asked {
    /// Host, port and credentials, for each connection that was carried.
    places: Vec<String>,
    connections: Vec<TcpStream>,
    /// Carried to the server.
    bytes: usize,
}

struct Proxy {
    port: u16,
    asked: Arc<Mutex<Asked>>,
}

impl Proxy {
    fn start(greet: fn(&mut TcpStream) -> Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Asked::default()));
        let there = asked.clone();
        thread::spawn(move || {
            for mut ours in listener.incoming().map_while(Result::ok) {
                let asked = there.clone();
                thread::spawn(move || {
                    let Some(place) = greet(&mut ours) else { return };
                    let theirs = TcpStream::connect(SERVER).unwrap();
                    theirs.set_nodelay(true).unwrap();
                    let both = [ours.try_clone().unwrap(), theirs.try_clone().unwrap()];
                    {
                        let mut asked = asked.lock().unwrap();
                        asked.places.push(place);
                        asked.connections.extend(both);
                    }
                    let (back, forth) = (theirs.try_clone().unwrap(), ours.try_clone().unwrap());
                    thread::spawn(move || carry(back, forth, |_| ()));
                    carry(ours, theirs, |len| asked.lock().unwrap().bytes += len);
                });
            }
        });
        Self { port, asked }
    }

    fn places(&self) -> Vec<String> {
        self.asked.lock().unwrap().places.clone()
    }

    fn bytes(&self) -> usize {
        self.asked.lock().unwrap().bytes
    }

    fn cut(&self) {
        for connection in self.asked.lock().unwrap().connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, count: impl Fn(usize)) {
    let mut buffer = [0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        count(len);
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// RFC 9110, 9.3.6. The place and the credentials.
fn connect(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let place = head.split(' ').nth(1).unwrap().to_owned();
    let key = head.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: Basic "));
    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
    Some(format!("{place} {}", key.unwrap_or_default()).trim().to_owned())
}

/// RFC 1928 and 1929. The place and the credentials.
fn socks(stream: &mut TcpStream) -> Option<String> {
    let take = |stream: &mut TcpStream, len: u8| {
        let mut bytes = vec![0; usize::from(len)];
        stream.read_exact(&mut bytes).ok().map(|()| bytes)
    };
    let head = take(stream, 2)?;
    let methods = take(stream, head[1])?;
    let mut credentials = String::new();
    if methods.contains(&2) {
        stream.write_all(&[5, 2]).ok()?;
        let head = take(stream, 2)?;
        let user = take(stream, head[1])?;
        let len = take(stream, 1)?[0];
        let words = [user, take(stream, len)?].map(|word| String::from_utf8(word).unwrap());
        credentials = words.join(":");
        stream.write_all(&[1, 0]).ok()?;
    } else {
        stream.write_all(&[5, 0]).ok()?;
    }
    let head = take(stream, 4)?;
    let host = match head[3] {
        1 => take(stream, 4)?.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
        3 => {
            let len = take(stream, 1)?[0];
            String::from_utf8(take(stream, len)?).unwrap()
        }
        other => panic!("address of type {other}"),
    };
    let port = take(stream, 2)?;
    let port = u16::from_be_bytes([port[0], port[1]]);
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
    Some(format!("{host}:{port} {credentials}").trim().to_owned())
}

/// A kubeconfig whose server goes by another name, by way of a proxy.
fn kubeconfig(rig: &Rig, host: &str, proxy: Option<&str>) -> String {
    let own = std::fs::read_to_string(rig.cluster.join("kubeconfig")).unwrap();
    let proxy = proxy.map(|url| format!(", proxy-url: \"{url}\"")).unwrap_or_default();
    let there = format!("\"https://{host}:16443\", tls-server-name: localhost{proxy}");
    let text = own.replace("\"https://127.0.0.1:16443\"", &there);
    assert_ne!(own, text);
    let path = rig.home.join("proxied");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// `sync --once` with these variables.
fn once(rig: &Rig, kubeconfig: &str, variables: &[(&str, String)]) -> Said {
    let mut command = rig.syncing(&["sync", "--once"], TARGET, &["--kubeconfig", kubeconfig]);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    Said::from(command.output().unwrap())
}

#[test]
fn all_goes_through_the_proxy_of_the_kubeconfig() {
    let Some(rig) = Rig::new("proxy") else { return };
    rig.write("view.py", "one\n");
    let pod = rig.deploy(&deployment(1)).remove(0);
    for (greet, scheme, expected) in [
        (connect as fn(&mut _) -> _, "http", "the.cluster:16443 bWU6cEA6JQ=="),
        (socks, "socks5", "the.cluster:16443 me:p@:%"),
    ] {
        let proxy = Proxy::start(greet);
        let url = format!("{scheme}://me:p%40%3a%25@127.0.0.1:{}", proxy.port);
        let config = kubeconfig(&rig, "the.cluster", Some(&url));
        let mut watch = rig.watch(TARGET, &["--kubeconfig", &config]);
        watch.line(&["connected"]);
        watch.flush();
        // The stream into the container, too: what is saved is seen by the proxy, and is like nothing
        // that was sent before.
        let before = proxy.bytes();
        let large: String =
            (0..40_000).map(|n| format!("{}\n", n * (scheme.len() * 37 + 1))).collect();
        rig.write("random", &large);
        watch.flush();
        assert!(rig.seen(&pod, "/srv/app/random").as_deref() == Some(&large));
        assert!(proxy.bytes() > before + 10_000, "{} after {before}", proxy.bytes());
        proxy.cut();
        rig.write("view.py", scheme);
        watch.line(&["disconnected"]);
        watch.line(&["connected"]);
        watch.flush();
        assert_eq!(rig.seen(&pod, "/srv/app/view.py").as_deref(), Some(scheme));
        watch.stop();
        let places = proxy.places();
        assert!(places.len() >= 4 && places.iter().all(|place| place == expected), "{places:?}");
    }
}

#[test]
fn the_environment_names_a_proxy_as_it_does_for_kubectl() {
    let Some(rig) = Rig::new("proxyenv") else { return };
    rig.write("view.py", "one\n");
    rig.deploy(&deployment(1));
    let proxy = Proxy::start(socks);
    let url = format!("socks5://127.0.0.1:{}", proxy.port);
    let config = kubeconfig(&rig, ELSEWHERE, None);
    // A list that Go's rules take, and kube's own do not.
    let elsewhere = "example.com,, 10.9.0.0/16,".to_owned();
    let variables = [("HTTPS_PROXY", url.clone()), ("NO_PROXY", elsewhere)];
    once(&rig, &config, &variables).ends_with(0);
    let count = proxy.places().len();
    assert!(count > 0);
    // Directly, where nobody listens.
    for variables in [
        vec![("https_proxy", url.clone()), ("no_proxy", "10.244.0.0/16".to_owned())],
        vec![("HTTP_PROXY", url.clone())],
        // kubectl knows no such variable.
        vec![("ALL_PROXY", url.clone())],
    ] {
        once(&rig, &config, &variables).ends_with(6).says_all(&[ELSEWHERE, "cannot be reached"]);
    }
    assert_eq!(proxy.places().len(), count);
    let config = kubeconfig(&rig, ELSEWHERE, Some("ftp://proxy"));
    once(&rig, &config, &[]).ends_with(2).says_all(&["a proxy of scheme `ftp` cannot be used"]);
    // One that is not there, and one that refuses.
    let config = kubeconfig(&rig, ELSEWHERE, Some("http://127.0.0.1:1"));
    once(&rig, &config, &[]).ends_with(6).says_all(&["cannot be reached"]);
    let refusing = Proxy::start(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 407 Who are you\r\n\r\n");
        None
    });
    let config = kubeconfig(&rig, ELSEWHERE, Some(&format!("http://127.0.0.1:{}", refusing.port)));
    once(&rig, &config, &[]).ends_with(6).says_all(&["proxy authorization required"]);
}

/// A small piece must not wait for the acknowledgement of the one before (Nagle).
#[test]
fn what_goes_through_a_proxy_waits_for_nothing() {
    let Some(rig) = Rig::new("proxynagle") else { return };
    rig.write("view.py", "one\n");
    rig.deploy(&deployment(1));
    for (greet, scheme) in [(connect as fn(&mut _) -> _, "http"), (socks, "socks5")] {
        let proxy = Proxy::start(greet);
        let url = format!("{scheme}://127.0.0.1:{}", proxy.port);
        let config = kubeconfig(&rig, "the.cluster", Some(&url));
        let plain = rig.syncing(&["sync", "--once"], TARGET, &["--kubeconfig", &config]);
        let log = rig.home.join("calls");
        let mut command = std::process::Command::new("strace");
        command.args(["-f", "-qq", "-e", "trace=connect,setsockopt", "-o", log.to_str().unwrap()]);
        command.arg("--").arg(plain.get_program()).args(plain.get_args());
        command.current_dir(&rig.home).env_clear();
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Said::from(command.output().unwrap()).ends_with(0);
        let calls = std::fs::read_to_string(&log).unwrap();
        let port = format!("htons({})", proxy.port);
        let connected = calls.lines().filter(|line| line.contains(&port)).count();
        let prompt = calls.lines().filter(|line| line.contains("TCP_NODELAY, [1]")).count();
        assert!(connected >= 2 && prompt >= connected, "{prompt} of {connected}:\n{calls}");
    }
}
