//! The cluster's word on which start of a container runs, and what the hub finds: nothing is written
//! where the two differ, as they do for a moment after each restart.

use std::io::{Read, Write};
use std::process::{Child, ChildStdout, Stdio};

use e2ek_sidecar::server::listen::HEARTBEAT;
use e2ek_sidecar::wire::{
    self, Blob, Container, Decoder, FromHub, Hello, HelloReader, Open, Refusal, ToHub, WriteMode,
};

use crate::pod::{Manifest, Pod};
use crate::rig::Rig;

/// A daemon's first words over an exec, with an id of our choice.
struct Link {
    child: Child,
    output: ChildStdout,
    decoder: Decoder,
}

impl Link {
    fn open(pod: &Pod<'_>, id: Option<&str>) -> Self {
        let mut command = pod.rig.kubectl_command();
        command.args(["-n", &pod.rig.namespace, "exec", "-i", &pod.name, "-c", "e2ek-sync", "--"]);
        command.args(["/e2ek-sidecar", "connect"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut this = Self { child, output, decoder: Decoder::default() };
        let mut words = Vec::new();
        Hello::ours().encode(&mut words);
        let open = Open {
            roots: vec![Blob(b"/tmp".to_vec())],
            workspace: [7; 16],
            writer: "tester".to_owned(),
            take_over: false,
            check: false,
            write: WriteMode::Auto,
            dry_run: false,
            process: None,
        };
        let container = Container { name: "app".to_owned(), id: id.map(str::to_owned) };
        wire::encode(&ToHub::OpenIn { open, container }, &mut words);
        input.write_all(&words).unwrap();
        let mut ping = Vec::new();
        wire::encode(&ToHub::Ping, &mut ping);
        // Until the carrier is killed.
        std::thread::spawn(move || {
            while input.write_all(&ping).is_ok() {
                std::thread::sleep(HEARTBEAT);
            }
        });
        let (mut greeting, mut buffer) = (HelloReader::default(), [0; 4096]);
        loop {
            let len = this.output.read(&mut buffer).unwrap();
            assert_ne!(len, 0, "the link ended before it was greeted");
            if let Some((_, rest)) = greeting.feed(&buffer[..len]).unwrap() {
                this.decoder.feed(&rest);
                return this;
            }
        }
    }

    /// Whether it is let in; else why not.
    fn answer(&mut self) -> Result<(), Refusal> {
        let mut buffer = [0; 4096];
        loop {
            while let Some((message, _)) = self.decoder.message::<FromHub>().unwrap() {
                match message {
                    FromHub::Opened { .. } => return Ok(()),
                    FromHub::Refused(refusal) => return Err(refusal),
                    _ => {}
                }
            }
            let len = self.output.read(&mut buffer).unwrap();
            assert_ne!(len, 0, "the link ended before it was answered");
            self.decoder.feed(&buffer[..len]);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn i6_a_container_that_the_cluster_knows_by_another_id_is_not_opened() {
    let Some(rig) = Rig::at_level("pod-id", "baseline") else { return };
    let pod = rig.pod(&Manifest::new());
    let id = pod.container_id("app").unwrap();
    let another = "0123456789abcdef".repeat(4);
    let refused = |refusal: Result<(), Refusal>| {
        let Err(Refusal::NotFound(why)) = refusal else { panic!("{refusal:?}") };
        assert!(why.contains(&id) && why.contains(&another), "both are named: {why}");
        assert!(why.contains("container app"), "{why}");
    };
    refused(Link::open(&pod, Some(&another)).answer());
    let mut right = Link::open(&pod, Some(&id));
    assert_eq!(right.answer(), Ok(()));
    // Whoever is there already is not sent away by one who means another start.
    let mut wrong = Link::open(&pod, Some(&another));
    refused(wrong.answer());
    drop((right, wrong));
    assert_eq!(Link::open(&pod, None).answer(), Ok(()), "as somebody who was not told");
}

/// The pod's status is behind for a moment each time.
#[test]
fn i3_a_container_that_starts_anew_is_followed_by_its_next_id() {
    let Some(rig) = Rig::at_level("pod-id-next", "baseline") else { return };
    rig.write("view.py", "0");
    let pod = rig.pod(&Manifest::new());
    let mut watch = rig.watch(&pod.target("/tmp"), &[]);
    watch.line(&["sync end", "status=ok"]);
    for round in 1..=3 {
        let before = pod.main("app");
        pod.kill(before);
        let text = round.to_string();
        rig.write("view.py", &text);
        watch.line(&["disconnected"]);
        watch.line(&["connected"]);
        watch.flush();
        let main = pod.next_main("app", Some(before));
        assert_eq!(main.file("/tmp/view.py"), Some(text));
    }
    watch.stop();
}
