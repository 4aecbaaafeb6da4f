//! Real sockets, both ends.

mod joining;

use std::fs::{self, Permissions};
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::task::{Context, Waker};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::report::{
    ChildState, ChildStatus, Event, Generations, GroupStatus, Latency, ProblemStatus, Record,
    STATUS_VERSION, State, TargetStatus, WaitingPod, WatchCounts,
};

const SOON: Option<Duration> = Some(Duration::from_secs(60));

struct Place {
    _directory: TempDir,
    state: PathBuf,
    socket: PathBuf,
}

fn place() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state/0123456789abcdef");
    let socket = directory.path().join("run/0123456789abcdef.sock");
    Place { _directory: directory, state, socket }
}

impl Place {
    fn serve(&self) -> ControlServer {
        ControlServer::bind(&self.socket, Lock::take(&self.state).unwrap()).unwrap()
    }

    async fn connect(&self) -> ControlClient {
        ControlClient::connect(&self.socket).await.unwrap()
    }
}

/// Runs `client` while a daemon answers every call with `answer`; hands the server back.
async fn with_daemon<T>(
    mut server: ControlServer,
    answer: impl Fn(&Request) -> Reply,
    client: impl Future<Output = T>,
) -> (ControlServer, T) {
    tokio::pin!(client);
    let serving = async {
        loop {
            tokio::select! {
                call = server.next_call() => {
                    let reply = answer(&call.request);
                    call.answer(reply);
                }
                done = &mut client => return done,
            }
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(60), serving).await;
    (server, done.expect("the client is served within a minute"))
}

fn done(_: &Request) -> Reply {
    Reply::Done { generation: Some(42) }
}

fn status() -> Status {
    Status {
        v: STATUS_VERSION,
        pid: 7,
        state: State::Held,
        degraded: vec!["polling: 812 directories".into()],
        source: "/w".into(),
        generations: Generations { local: 42, acked: 41 },
        targets: vec![TargetStatus {
            name: "api".into(),
            state: State::Held,
            gen_acked: 41,
            tree: Some("00ff".into()),
            restarts: 3,
            child: Some(ChildStatus { state: ChildState::Held, pid: None, exit: Some(1) }),
            problems: vec![ProblemStatus { path: "p".into(), reason: "is a FIFO".into() }],
            problem_count: 1,
        }],
        watch: WatchCounts { directories: 9, overflows: 0, rescans: 1, polled: 812 },
        latency_ms: Latency { p50: Some(1.5), p95: Some(9.25), count: 30 },
        groups: vec![GroupStatus {
            name: "deploy/api".into(),
            current: 2,
            pods: 3,
            waiting: vec![WaitingPod { pod: "api-3".into(), reason: "Pending".into() }],
        }],
    }
}

fn warning(message: &str) -> Record {
    Record::at(SystemTime::UNIX_EPOCH, Event::Warning { message: message.into() })
}

/// A client that says what it likes.
fn raw(socket: &Path, text: Vec<u8>) -> tokio::task::JoinHandle<String> {
    let mut stream = StdStream::connect(socket).unwrap();
    tokio::task::spawn_blocking(move || {
        // The server may hang up before it has read everything.
        let _ = stream.write_all(&text);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    })
}

#[tokio::test]
async fn every_request_goes_there_and_back() {
    let place = place();
    let requests = vec![
        Request::Status {},
        Request::Flush { restarted: true, timeout_ms: Some(10_000) },
        Request::Wait { until: Until::Gen(42), timeout_ms: None },
        Request::Wait { until: Until::Synced, timeout_ms: None },
        Request::Wait { until: Until::Ready, timeout_ms: Some(1) },
        Request::Restart { target: Some("api".into()) },
        Request::Pause {},
        Request::Resume { accept: true },
        Request::Reset {},
        Request::Stop { target: Some("api".into()) },
        Request::Stop { target: None },
    ];
    let seen = std::cell::RefCell::new(Vec::new());
    let answer = |request: &Request| {
        seen.borrow_mut().push(request.clone());
        match request {
            Request::Status {} => Reply::Status { status: Box::new(status()) },
            Request::Pause {} => Reply::Failed(Failure::new("conflict", "m").hint("h")),
            other => done(other),
        }
    };
    let client = async {
        let mut client = place.connect().await;
        let mut replies = Vec::new();
        for request in &requests {
            replies.push(client.request(request, SOON).await.unwrap());
        }
        replies
    };
    let (_, replies) = with_daemon(place.serve(), answer, client).await;
    assert_eq!(*seen.borrow(), requests);
    assert_eq!(replies[0], Reply::Status { status: Box::new(status()) });
    assert_eq!(replies[1], Reply::Done { generation: Some(42) });
    assert_eq!(replies[6], Reply::Failed(Failure::new("conflict", "m").hint("h")));
}

#[tokio::test]
async fn the_lines_are_as_documented() {
    let place = place();
    let server = place.serve();
    let ask = br#"{"v":1,"do":"flush","restarted":true,"timeout_ms":10000}
{"v":1,"do":"status","grown":true}
"#;
    let client = raw(&place.socket, ask.to_vec());
    let answer = |request: &Request| match request {
        Request::Flush { restarted: true, timeout_ms: Some(10_000) } => done(request),
        Request::Status {} => Reply::Failed(Failure::new("failure", "\u{1b}")),
        other => panic!("{other:?}"),
    };
    // The asker has shut its writing half (`printf ... | nc -U`), yet still reads.
    let (_, answers) = with_daemon(server, answer, client).await;
    assert_eq!(
        answers.unwrap(),
        "{\"v\":1,\"reply\":\"done\",\"gen\":42}\n\
         {\"v\":1,\"reply\":\"failed\",\"kind\":\"failure\",\"message\":\"\\\\x1b\",\"hints\":[]}\n"
    );
}

#[tokio::test]
async fn i11_a_bad_request_is_a_typed_answer_and_the_connection_goes_on() {
    let place = place();
    let server = place.serve();
    let client = async {
        let mut stream = StdStream::connect(&place.socket).unwrap();
        let talk = move || {
            let mut answers = BufReader::new(stream.try_clone().unwrap());
            let mut ask = |line: &[u8]| {
                stream.write_all(line).unwrap();
                let mut answer = String::new();
                answers.read_line(&mut answer).unwrap();
                answer
            };
            [
                ask(b"{\"v\":1,\"do\":\"rollback\",\"gen\":3}\n"),
                ask(b"{\"v\":9,\"do\":\"status\"}\n"),
                ask(b"\xff\x00 \x1b\n"),
                ask(b"\n"),
                ask(b"{\"v\":1,\"do\":\"wait\"}\n"),
                ask(b"{\"v\":1,\"do\":\"pause\"}\n"),
            ]
        };
        tokio::task::spawn_blocking(talk).await.unwrap()
    };
    let (_, answers) = with_daemon(server, done, client).await;
    for (answer, kind, word) in [
        (&answers[0], "no-daemon", "rollback"),
        (&answers[1], "no-daemon", "version 9"),
        (&answers[2], "usage", "not a request"),
        (&answers[3], "usage", "not a request"),
        (&answers[4], "no-daemon", "until"),
    ] {
        let reply: Versioned<Reply> = serde_json::from_str(answer).unwrap();
        let Reply::Failed(failure) = reply.body else { panic!("{answer}") };
        assert_eq!(failure.kind.as_str(), kind);
        assert!(failure.message.as_str().contains(word), "{answer}");
    }
    assert_eq!(answers[5], "{\"v\":1,\"reply\":\"done\",\"gen\":42}\n");
}

#[tokio::test]
async fn i10_a_line_without_end_is_cut_off() {
    let place = place();
    let server = place.serve();
    let client = raw(&place.socket, vec![b' '; MAX_LINE_BYTES * 3]);
    let (_, answer) = with_daemon(server, done, client).await;
    // The hang-up may overtake the answer, since the rest was never read.
    let answer = answer.unwrap();
    assert!(answer.is_empty() || answer.contains("longer than 1048576 bytes"), "{answer:?}");
}

#[tokio::test]
async fn i10_lines_hold_no_more_than_the_cap() {
    let endless = tokio::io::repeat(b'x');
    let mut lines = line::Lines::new(endless);
    assert!(matches!(lines.next().await, Err(line::LineError::TooLong)));
    assert!(lines.held() <= MAX_LINE_BYTES + (64 << 10), "{}", lines.held());

    let longest = [vec![b'x'; MAX_LINE_BYTES - 1], b"\nnext\n".to_vec()].concat();
    let mut lines = line::Lines::new(&longest[..]);
    assert_eq!(lines.next().await.unwrap().unwrap().len(), MAX_LINE_BYTES - 1);
    assert_eq!(lines.next().await.unwrap().unwrap(), b"next");
    assert!(lines.next().await.unwrap().is_none());
    let mut torn = line::Lines::new(&b"half"[..]);
    assert!(torn.next().await.is_err(), "an end in the middle of a line is not a line");
}

#[tokio::test]
async fn i8_the_socket_of_a_killed_daemon_is_replaced() {
    let place = place();
    fs::create_dir_all(place.socket.parent().unwrap()).unwrap();
    // What kill -9 leaves: a socket with nobody behind it, and an old process number.
    drop(StdListener::bind(&place.socket).unwrap());
    fs::create_dir_all(&place.state).unwrap();
    fs::write(place.state.join("lock"), "999999999\n").unwrap();
    let connected = ControlClient::connect(&place.socket).await;
    assert!(matches!(connected, Err(ClientError::NoDaemon)), "nobody listens: {connected:?}");

    let client = async { place.connect().await.request(&Request::Pause {}, SOON).await };
    let (server, reply) = with_daemon(place.serve(), done, client).await;
    assert_eq!(reply.unwrap(), Reply::Done { generation: Some(42) });
    let pid = fs::read_to_string(place.state.join("lock")).unwrap();
    assert_eq!(pid, format!("{}\n", std::process::id()));
    server.close(SOON.unwrap()).await;
    assert!(!place.socket.exists(), "a clean end leaves no socket");
    let connected = ControlClient::connect(&place.socket).await;
    assert!(matches!(connected, Err(ClientError::NoDaemon)));
}

#[tokio::test]
async fn one_daemon_per_workspace() {
    let place = place();
    let server = place.serve();
    match Lock::take(&place.state) {
        Err(LockError::Busy { pid }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
    drop(server);
    // Between its fork and its exec a process that another test starts has our descriptors, the lock
    // among them: that moment is waited out.
    let give_up = std::time::Instant::now() + SOON.unwrap();
    let again = loop {
        match Lock::take(&place.state) {
            Err(LockError::Busy { .. }) if std::time::Instant::now() < give_up => {
                std::thread::yield_now();
            }
            taken => break taken.unwrap(),
        }
    };
    let path = place.state.join("lock");
    assert!(matches!(Lock::take(&place.state), Err(LockError::Busy { .. })));
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(again);
}

#[tokio::test]
async fn a_file_in_the_sockets_place_is_not_ours_to_remove() {
    let place = place();
    fs::create_dir_all(place.socket.parent().unwrap()).unwrap();
    fs::write(&place.socket, "mine").unwrap();
    let bound = ControlServer::bind(&place.socket, Lock::take(&place.state).unwrap());
    assert!(matches!(bound, Err(BindError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&place.socket).unwrap(), "mine");
}

#[tokio::test]
async fn the_socket_and_its_directory_are_shut_to_others() {
    let place = place();
    let run = place.socket.parent().unwrap();
    fs::create_dir_all(run).unwrap();
    fs::set_permissions(run, Permissions::from_mode(0o777)).unwrap();
    let _server = place.serve();
    for (path, mode) in [(run, 0o700), (&*place.socket, 0o600), (&*place.state, 0o700)] {
        let found = fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{}", path.display());
    }
}

/// What another user gets when it connects: an error, or the daemon's answer.
fn as_nobody(socket: PathBuf) -> tokio::task::JoinHandle<Result<String, std::io::ErrorKind>> {
    let connect = move || {
        let nobody = rustix::process::Uid::from_raw(65534);
        // On Linux this changes the calling thread alone, which ends with this function.
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let mut stream = StdStream::connect(&socket).map_err(|error| error.kind())?;
        let _ = stream.write_all(b"{\"v\":1,\"do\":\"stop\"}\n");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        Ok(answer)
    };
    let (sender, answer) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || sender.send(connect()));
    tokio::spawn(async move { answer.await.unwrap() })
}

#[tokio::test]
async fn another_user_is_refused_twice() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let place = place();
    let server = place.serve();
    fs::set_permissions(place._directory.path(), Permissions::from_mode(0o755)).unwrap();
    let refuse = |request: &Request| -> Reply { panic!("another user asked {request:?}") };
    let (server, shut) = with_daemon(server, refuse, as_nobody(place.socket.clone())).await;
    assert_eq!(shut.unwrap(), Err(std::io::ErrorKind::PermissionDenied), "by the directory");

    // Even where somebody opens the directory and the socket.
    fs::set_permissions(place.socket.parent().unwrap(), Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&place.socket, Permissions::from_mode(0o666)).unwrap();
    let (_, told) = with_daemon(server, refuse, as_nobody(place.socket.clone())).await;
    let told = told.unwrap().unwrap();
    assert!(told.is_empty() || told.contains("\"kind\":\"forbidden\""), "{told:?}");
}

#[tokio::test]
async fn followers_hear_everything_in_order_until_the_end() {
    let place = place();
    let server = place.serve();
    let attaching = async { place.connect().await.attach(SOON.unwrap()).await.unwrap() };
    let (server, mut events) = with_daemon(server, done, attaching).await;
    for n in 0..100 {
        server.publish(&warning(&format!("event {n} \u{1b}")));
    }
    let closing = tokio::spawn(server.close(SOON.unwrap()));
    for n in 0..100 {
        let record = events.next().await.unwrap().unwrap();
        assert_eq!(record, warning(&format!("event {n} \\x1b")));
    }
    assert_eq!(events.next().await.unwrap(), None);
    closing.await.unwrap();
}

#[tokio::test]
async fn i10_a_slow_follower_blocks_nobody_and_learns_what_it_missed() {
    let place = place();
    let server = place.serve();
    let attaching = async { place.connect().await.attach(SOON.unwrap()).await.unwrap() };
    let (server, mut events) = with_daemon(server, done, attaching).await;
    // Never yields: the follower's task cannot run meanwhile, nor is it read from.
    for n in 0..5000 {
        server.publish(&warning(&format!("{n:0>500}")));
    }
    let asking = async { place.connect().await.request(&Request::Pause {}, SOON).await };
    let (server, reply) = with_daemon(server, done, asking).await;
    assert_eq!(reply.unwrap(), done(&Request::Pause {}), "others are served");
    let reading = async {
        let mut read = 0;
        loop {
            match events.next().await.unwrap().unwrap().event {
                Event::Warning { message } => {
                    assert_eq!(message.as_str().parse::<u64>().unwrap(), read);
                    read += 1;
                }
                Event::LeftOut { count } => return (read, count),
                other => panic!("{other:?}"),
            }
        }
    };
    let (server, (read, left_out)) = with_daemon(server, done, reading).await;
    assert_eq!((read, read + left_out), (1024, 5000));
    server.publish(&warning("after"));
    let (_, after) = with_daemon(server, done, events.next()).await;
    assert_eq!(after.unwrap(), Some(warning("after")), "and it goes on");
}

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let place = place();
    let server = place.serve();
    let mut idle = Vec::new();
    let filling = async {
        for _ in 0..64 {
            let mut client = place.connect().await;
            client.request(&Request::Pause {}, SOON).await.unwrap();
            idle.push(client);
        }
        place.connect().await.request(&Request::Pause {}, SOON).await.unwrap()
    };
    let (server, reply) = with_daemon(server, done, filling).await;
    assert!(
        matches!(reply, Reply::Failed(ref f) if f.message.as_str().contains("64")),
        "{reply:?}"
    );
    idle.pop();
    let again = async {
        // The daemon notices the hang-up at its own time.
        loop {
            let reply = place.connect().await.request(&Request::Pause {}, SOON).await.unwrap();
            if reply == done(&Request::Pause {}) {
                return;
            }
        }
    };
    with_daemon(server, done, again).await;
}

#[tokio::test]
async fn an_asker_that_hangs_up_is_noticed() {
    let place = place();
    let mut server = place.serve();
    let mut client = place.connect().await;
    let asking = tokio::spawn(async move {
        let _ = client.request(&Request::Flush { restarted: false, timeout_ms: None }, None).await;
    });
    let call = server.next_call().await;
    assert!(!call.is_gone());
    asking.abort();
    let _ = asking.await;
    // The loop goes on as the daemon's would, until the connection's task has seen the end.
    let deadline = std::time::Instant::now() + SOON.unwrap();
    while !call.is_gone() {
        assert!(std::time::Instant::now() < deadline, "the hang-up goes unnoticed");
        let _ = tokio::time::timeout(Duration::from_millis(5), server.next_call()).await;
    }
    call.answer(Reply::Unknown);
}

#[tokio::test]
async fn stop_is_answered_and_the_end_is_seen() {
    let place = place();
    let mut server = place.serve();
    let mut client = place.connect().await;
    let asking = tokio::spawn(async move {
        let reply = client.request(&Request::Stop { target: None }, SOON).await.unwrap();
        client.closed().await;
        reply
    });
    let mut waiting = place.connect().await;
    let hopeless = tokio::spawn(async move { waiting.request(&Request::Reset {}, SOON).await });
    // Calls come in any order; the other one is never answered.
    let stop = loop {
        let call = server.next_call().await;
        if call.request == (Request::Stop { target: None }) {
            break call;
        }
    };
    stop.answer(Reply::Done { generation: None });
    server.close(SOON.unwrap()).await;
    assert_eq!(asking.await.unwrap(), Reply::Done { generation: None });
    match hopeless.await.unwrap() {
        Ok(Reply::Failed(failure)) => assert_eq!(failure.kind.as_str(), "no-daemon"),
        Err(ClientError::Ended) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_daemon_that_ends_before_it_took_the_connection_has_ended() {
    let place = place();
    fs::create_dir_all(place.socket.parent().unwrap()).unwrap();
    let listener = StdListener::bind(&place.socket).unwrap();
    let mut connecting = std::pin::pin!(ControlClient::connect(&place.socket));
    // It stands in the listener's queue, and the result is not looked at yet.
    let first = connecting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(first.is_pending());
    drop(listener);
    let refused = connecting.await.unwrap_err();
    assert!(matches!(refused, ClientError::Ended), "{refused:?}");
}

#[tokio::test]
async fn i10_a_status_that_is_too_long_for_a_line_keeps_its_counts() {
    let place = place();
    let path = "x".repeat(4096);
    let mut long = status();
    long.targets[0].problems =
        vec![ProblemStatus { path: path.into(), reason: "r".into() }; MAX_LINE_BYTES / 4096];
    long.targets[0].problem_count = 256;
    let answer = |_: &Request| Reply::Status { status: Box::new(long.clone()) };
    let client = async { place.connect().await.request(&Request::Status {}, SOON).await };
    let (_, reply) = with_daemon(place.serve(), answer, client).await;
    let Ok(Reply::Status { status }) = reply else { panic!("{reply:?}") };
    assert_eq!((status.targets[0].problems.len(), status.targets[0].problem_count), (0, 256));
}

#[tokio::test]
async fn a_daemon_that_stands_still_is_called_silent() {
    let place = place();
    let _server = place.serve();
    let mut client = place.connect().await;
    let reply = client.request(&Request::Status {}, Some(Duration::from_millis(20))).await;
    assert!(matches!(reply, Err(ClientError::Silent)), "{reply:?}");
}
