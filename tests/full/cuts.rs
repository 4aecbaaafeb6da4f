//! The link is cut at every edge of a frame and inside, its bytes are turned, and it goes silent
//! (I1, I3, I11): a `watch` goes on by itself, and nothing wrong is ever written.

use std::process::Command;

use crate::place::{Link, Place};
use crate::relay::{Harm, Relay, Way};
use crate::scenario::Side;
use crate::watch::{run, said_at, settle};

const WAYS: [Way; 2] = [Way::ToHub, Way::FromHub];

/// A place whose two sides are equal, and how much a `watch` of the change to the other one carries.
struct Ground {
    place: Place,
    relay: Relay,
    side: Side,
}

impl Ground {
    fn new() -> Self {
        let place = Place::new(Link::Stdio);
        let relay = Relay::new(&place);
        let side = Side::Before;
        side.put_at(&place.source);
        place.once(&[]).ends_with(0);
        Self { place, relay, side }
    }

    fn watch(&self) -> Command {
        let place = &self.place;
        let mut command = place.command(&["watch"]);
        command.arg(&place.source).arg(&place.target).args(["--output", "lines"]);
        command.arg("--transport-cmd").arg(self.relay.transport());
        let said = std::fs::File::create(said_at(place)).unwrap();
        command.stdout(said.try_clone().unwrap()).stderr(said);
        command
    }

    /// From one side to the other over a link that comes to harm; whether it did.
    fn cross(&mut self, harm: Option<(Way, Harm)>) -> bool {
        let what = format!("{harm:?}");
        self.relay.arm(harm);
        let (old, new) = (self.side, self.side.other());
        let code = run(&self.place, self.watch(), old, new, &what);
        // What has never been reached is told at once, and not tried again.
        let never = code.as_deref() == Some("Some(6)") && !self.said().contains("] connected ");
        assert!(code.is_none() || never, "i3: {what}: {code:?}:\n{}", self.said());
        self.side = new;
        settle(&self.place, &what, code.is_some());
        self.relay.has_harmed()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(said_at(&self.place)).unwrap_or_default()
    }
}

/// Numbers below a limit: all of them, or some (a fixed sequence, so that a failure comes again).
fn some(limit: u64, few: u64) -> Vec<u64> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let many = if crate::is_full() { few * 20 } else { few };
    let random = (0..many.min(limit)).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % limit
    });
    random.collect()
}

#[test]
fn i1_i3_a_link_cut_at_every_edge_of_a_frame() {
    let mut ground = Ground::new();
    let mut cuts = 0;
    for way in WAYS {
        let mut frames = 0;
        // The Bye at the end is an edge as well.
        while ground.cross(Some((way, Harm::CutAfterFrames(frames)))) {
            frames += 1;
            cuts += 1;
        }
        assert!(frames > 4, "{way:?}: only {frames} frames");
    }
    println!("cut at {cuts} edges");
}

#[test]
fn i1_i3_a_link_cut_inside_of_frames() {
    let mut ground = Ground::new();
    let mut cuts = 0;
    for way in WAYS {
        ground.cross(None);
        let (bytes, _) = ground.relay.carried(way);
        for at in some(bytes, 6) {
            cuts += u32::from(ground.cross(Some((way, Harm::CutAfterBytes(at)))));
        }
    }
    assert!(cuts > 6, "only {cuts}");
    println!("cut at {cuts} bytes");
}

#[test]
fn i1_i11_a_link_whose_bytes_are_turned() {
    let mut ground = Ground::new();
    let mut turned = 0;
    for way in WAYS {
        ground.cross(None);
        let (bytes, _) = ground.relay.carried(way);
        // The Hello has no checksum, and what it says is refused for good.
        let hello = 28;
        for at in some(bytes - hello, 8) {
            let harmed = ground.cross(Some((way, Harm::Flip(hello + at))));
            // Nobody waits for the end of the last word.
            let last = ground.relay.carried(way).0.saturating_sub(hello + at) < 16;
            let told = last || ground.said().contains("disconnected");
            assert!(!harmed || told, "nobody noticed:\n{}", ground.said());
            turned += u32::from(harmed);
        }
    }
    assert!(turned > 8, "only {turned}");
    println!("turned at {turned} bytes");
}

#[test]
fn i3_a_link_that_goes_silent_is_given_up() {
    let mut ground = Ground::new();
    for way in WAYS {
        ground.cross(None);
        let (bytes, _) = ground.relay.carried(way);
        // How much a run carries differs: under load one message acknowledges more.
        let mut silent = u32::from(ground.cross(Some((way, Harm::Stall(bytes / 3)))));
        for at in some(bytes, u64::from(crate::is_full())) {
            silent += u32::from(ground.cross(Some((way, Harm::Stall(at)))));
        }
        assert!(silent > 0, "{way:?}: never");
    }
}
