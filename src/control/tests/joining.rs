//! Connections that stay: a second `watch`.

use super::*;

fn joining() -> Joining {
    let place = TargetPlace {
        pod: None,
        roots: vec![Word::from(Path::new("/srv/app"))],
        process: Some(7),
        transport: Some(vec![Word::from(Path::new("ssh")), Word::from(Path::new("host"))]),
    };
    let command = WantedCommand {
        argv: vec![Word::from(Path::new("app"))],
        signal: 2,
        kill_after_ms: 10_000,
    };
    let workload = WantedWorkload {
        kind: "deploy".into(),
        name: "api".into(),
        kubeconfig: vec![Word::from(Path::new("/k"))],
        context: None,
        namespace: Some("web".into()),
        pod: None,
        selector: None,
        container: None,
        proxies: ["p:1".into(), String::new(), String::new()],
    };
    Joining {
        sources: vec![Word::from(Path::new("/w"))],
        settings: vec![("workspace.exclude".into(), "*.log".into())],
        targets: vec![Wanted {
            name: "api".into(),
            place,
            root: Word::from(Path::new("/srv/app")),
            directory: None,
            write: "auto".into(),
            take_over: false,
            command: Some(command),
            workload: Some(workload),
        }],
        forwards: vec![(8080, 80)],
    }
}

/// Lets one in that asks to join.
async fn admitted(server: &mut ControlServer, place: &Place) -> (Member, Membership) {
    let client = async { place.connect().await.join(joining()).await.unwrap().unwrap() };
    let serve = async {
        let call = server.next_call().await;
        assert_eq!(call.request, Request::Join(Box::new(joining())));
        server.publish(&warning("between the question and the answer"));
        call.admit(Reply::Joined { pid: 7 }).unwrap()
    };
    let (member, mut membership) = tokio::join!(serve, client);
    assert_eq!(membership.pid, 7);
    let first = soon(server, membership.next()).await.unwrap();
    assert_eq!(first, Followed::Record(warning("between the question and the answer")));
    (member, membership)
}

/// Serves until something is there.
async fn soon<T>(server: &mut ControlServer, what: impl Future<Output = T>) -> T {
    let served = async {
        tokio::select! {
            call = server.next_call() => panic!("{call:?}"),
            done = what => done,
        }
    };
    tokio::time::timeout(Duration::from_secs(60), served).await.unwrap()
}

#[tokio::test]
async fn who_joins_follows_until_it_leaves_and_hears_the_last_word() {
    let place = place();
    let mut server = place.serve();
    let (member, mut membership) = admitted(&mut server, &place).await;
    let (leaves, last) = member.split();
    tokio::pin!(leaves);
    server.publish(&warning("one"));
    let one = soon(&mut server, membership.next()).await.unwrap();
    assert_eq!(one, Followed::Record(warning("one")));
    assert!(
        std::future::poll_fn(|cx| std::task::Poll::Ready(leaves.as_mut().poll(cx)))
            .await
            .is_pending()
    );
    membership.leave().await;
    soon(&mut server, leaves).await;
    // What happens while it leaves is told still, and comes before the last word.
    server.publish(&warning("two"));
    last.say(Reply::Done { generation: None });
    for expected in [
        Followed::Record(warning("two")),
        Followed::Over(Reply::Done { generation: None }),
        Followed::Ended,
    ] {
        assert_eq!(soon(&mut server, membership.next()).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn i8_who_joined_and_dies_has_left() {
    let place = place();
    let mut server = place.serve();
    let (member, membership) = admitted(&mut server, &place).await;
    drop(membership);
    let (leaves, _last) = member.split();
    soon(&mut server, leaves).await;
}

#[tokio::test]
async fn who_joined_is_told_a_failure_or_the_daemons_end() {
    let place = place();
    let mut server = place.serve();
    let (member, mut membership) = admitted(&mut server, &place).await;
    let failure = Failure::new("not-found", "there is no such place");
    member.split().1.say(Reply::Failed(failure.clone()));
    let over = soon(&mut server, membership.next()).await.unwrap();
    assert_eq!(over, Followed::Over(Reply::Failed(failure)));

    let (_member, mut membership) = admitted(&mut server, &place).await;
    server.publish(&warning("the last thing"));
    let (first, ()) = tokio::join!(membership.next(), server.close(Duration::from_secs(20)));
    assert_eq!(first.unwrap(), Followed::Record(warning("the last thing")));
    assert_eq!(membership.next().await.unwrap(), Followed::Ended);
}

#[tokio::test]
async fn a_no_is_a_no_and_silence_is_the_daemons_end() {
    let place = place();
    let mut server = place.serve();
    for no in [Some(Failure::new("conflict", "another exclude")), None] {
        let client = async { place.connect().await.join(joining()).await };
        let serve = async {
            let call = server.next_call().await;
            match &no {
                Some(failure) => call.answer(Reply::Failed(failure.clone())),
                None => drop(call),
            }
        };
        let (asked, ()) = tokio::join!(client, serve);
        match no {
            Some(failure) => assert_eq!(asked.unwrap().unwrap_err(), failure),
            None => assert!(matches!(asked, Err(ClientError::Ended)), "{asked:?}"),
        }
    }
}
