//! Both ends of an exec over memory, the far one as an API server behaves.

use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;

/// So little that each side has to wait for the other's reading.
const PIPE_BYTES: usize = 8 << 10;
const CONTENT_BYTES: usize = 4 << 20;

struct Near {
    reader: ExecReader,
    writer: ExecWriter,
    far: FarEnd,
}

struct Server {
    sender: SplitSink<WebSocketStream<DuplexStream>, Message>,
    receiver: SplitStream<WebSocketStream<DuplexStream>>,
}

async fn pair(closes: bool) -> (Near, Server) {
    let (near, far) = tokio::io::duplex(PIPE_BYTES);
    let near = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
    let far = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
    let (sender, receiver) = near.split();
    let far_end = FarEnd::default();
    let reader =
        ExecReader { messages: Box::pin(receiver), left: Bytes::new(), far: far_end.clone() };
    let writer = ExecWriter::new(Box::pin(sender), closes);
    let (sender, receiver) = far.split();
    (Near { reader, writer, far: far_end }, Server { sender, receiver })
}

fn on(channel: u8, content: &[u8]) -> Message {
    Message::Binary([&[channel], content].concat().into())
}

/// Content that tells where it was torn.
fn content() -> Vec<u8> {
    (0..CONTENT_BYTES).map(|at| (at / 7 % 251) as u8).collect()
}

#[tokio::test]
async fn what_is_sent_comes_back_whole_in_large_messages() {
    let (Near { mut reader, mut writer, .. }, Server { mut sender, mut receiver }) =
        pair(true).await;
    let echo = tokio::spawn(async move {
        let mut messages = 0;
        while let Some(Ok(Message::Binary(bytes))) = receiver.next().await {
            if bytes[0] == CLOSE {
                break;
            }
            assert_eq!(bytes[0], STDIN);
            messages += 1;
            // Small ones, as a real server sends them.
            for part in bytes[1..].chunks(4 << 10) {
                sender.feed(on(STDOUT, part)).await.unwrap();
            }
            sender.flush().await.unwrap();
        }
        messages
    });
    let sent = content();
    let (written, read) = tokio::join!(
        async {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await
        },
        async {
            let mut back = vec![0; CONTENT_BYTES];
            reader.read_exact(&mut back).await.map(|_| back)
        }
    );
    written.unwrap();
    assert!(read.unwrap() == sent, "the same bytes in the same order");
    assert_eq!(echo.await.unwrap(), CONTENT_BYTES / (64 << 10), "messages of 64 KiB");
}

#[tokio::test]
async fn messages_are_full_until_a_flush_and_nothing_waits_after_it() {
    let (Near { mut writer, reader: _reader, .. }, Server { mut receiver, sender: _sender }) =
        pair(true).await;
    const FULL: usize = 64 << 10;
    // Frames of any length, as the session makes them.
    let sent = &content()[..3 * FULL + 17];
    let writing = async {
        for part in sent.chunks(FULL / 2 + 5) {
            writer.write_all(part).await.unwrap();
        }
        writer.flush().await.unwrap();
        writer.write_all(b"save").await.unwrap();
        writer.flush().await.unwrap();
    };
    let reading = async {
        let (mut lengths, mut all) = (Vec::new(), Vec::new());
        while all.len() < sent.len() + 4 {
            let bytes = receiver.next().await.unwrap().unwrap().into_data();
            lengths.push(bytes.len() - 1);
            all.extend_from_slice(&bytes[1..]);
        }
        (lengths, all)
    };
    let ((), (lengths, all)) = tokio::join!(writing, reading);
    assert_eq!(lengths, [FULL, FULL, FULL, 17, 4]);
    assert!(all == [sent, b"save"].concat());
}

#[tokio::test]
async fn what_is_not_read_does_not_hold_back_what_is_written() {
    let (Near { reader, mut writer, .. }, Server { mut sender, mut receiver }) = pair(true).await;
    // The other end says much, and nobody here listens.
    let talking = tokio::spawn(async move {
        let _ = sender.send(on(STDOUT, &content())).await;
    });
    let listening = tokio::spawn(async move {
        let mut heard = 0;
        while heard < CONTENT_BYTES {
            let Some(Ok(Message::Binary(bytes))) = receiver.next().await else { break };
            heard += bytes.len() - 1;
        }
        heard
    });
    let writing = async {
        writer.write_all(&content()).await.unwrap();
        writer.flush().await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(60), writing).await.expect("writing goes on");
    assert_eq!(listening.await.unwrap(), CONTENT_BYTES);
    talking.abort();
    drop(reader);
}

#[tokio::test]
async fn how_the_far_end_ended_is_kept() {
    let failure = br#"{"metadata":{},"status":"Failure","reason":"NonZeroExitCode",
        "details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
    let (mut near, mut server) = pair(true).await;
    server.sender.send(on(STDOUT, b"last words")).await.unwrap();
    server.sender.send(on(STDERR, &[b'x'; 2000])).await.unwrap();
    server.sender.send(on(STDERR, b"no hub there\n")).await.unwrap();
    server.sender.send(on(STATUS, failure)).await.unwrap();
    server.sender.send(on(9, b"a channel that nobody knows")).await.unwrap();
    server.sender.send(Message::Binary(Bytes::new())).await.unwrap();
    server.sender.close().await.unwrap();
    let mut said = Vec::new();
    near.reader.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"last words");
    let (code, complaint) = near.far.told();
    let complaint = complaint.unwrap();
    assert_eq!(code, Some(7));
    assert!(complaint.ends_with("xno hub there") && complaint.len() < 1024, "{complaint}");

    let lost = pair(true).await;
    drop(lost.1);
    assert_eq!(lost.0.far.told(), (None, None), "nothing is known of a link that was cut");
}

#[tokio::test]
async fn each_protocol_is_closed_in_its_way() {
    for closes in [true, false] {
        let (mut near, mut server) = pair(closes).await;
        near.writer.write_all(b"one").await.unwrap();
        near.writer.shutdown().await.unwrap();
        assert_eq!(server.receiver.next().await.unwrap().unwrap(), on(STDIN, b"one"));
        let last = server.receiver.next().await.unwrap().unwrap();
        match closes {
            true => assert_eq!(last, on(CLOSE, &[STDIN])),
            false => assert!(last.is_close(), "v4 closes nothing less than all: {last:?}"),
        }
    }
}
