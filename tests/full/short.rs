//! Files that may not grow beyond a size (RLIMIT_FSIZE): the write that reaches it is a short one, and
//! the next fails. strace cannot make a short write: it would tell of one that was none.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::once::{ended, judge};
use crate::place::{Link, Place, sidecar, until};
use crate::processes;
use crate::scenario::Side;

/// Runs a command with files of so many blocks of 512 bytes at the most.
const LIMITED: &str = "#!/bin/sh\ntrap '' XFSZ\nulimit -f \"$1\"\nshift\nexec \"$@\"\n";

fn limited(place: &Place) -> PathBuf {
    let path = place.top.join("limited");
    fs::write(&path, LIMITED).unwrap();
    path
}

/// From one side to the other with each limit: old or new everywhere, no good word for what is not so,
/// and one plain run makes it good.
fn sweep(hub: bool) {
    let place = Place::new(Link::Stdio);
    let script = limited(&place);
    let mut side = Side::Before;
    side.put_at(&place.source);
    place.once(&[]).ends_with(0);
    let tree = crate::tree::of(&place.source);
    let largest = tree.values().map(|found| match found {
        crate::tree::Found::File { content, .. } => content.len() as u64,
        _ => 0,
    });
    let most = largest.max().unwrap() / 512 + 2;
    let share = if crate::is_full() { 1 } else { 5 };
    let mut limits: BTreeSet<u64> = (0..12).step_by(share).collect();
    limits.extend((0..20).map(|part| most * part / 20).step_by(share));
    let (mut failed, mut went_well) = (0, 0);
    for blocks in limits.into_iter().chain([most * 64]) {
        // There, and back again.
        for _ in 0..2 {
            let old = side.tree();
            side = side.other();
            side.put_at(&place.source);
            let mut command = if hub {
                let mut command = place.command(&["sync", "--once"]);
                let (script, far) = (script.display(), place.far.display());
                let hub = sidecar().display();
                let transport = format!("sh {script} {blocks} {hub} stdio --state {far}");
                command.arg(&place.source).arg(&place.target).args(["--output", "lines"]);
                command.args(["--transport-cmd", &transport]);
                command
            } else {
                let plain = place.syncing(&["sync", "--once"], &[]);
                let mut command = place.environment("sh".as_ref());
                command
                    .arg(&script)
                    .arg(blocks.to_string())
                    .arg(plain.get_program())
                    .args(plain.get_args());
                command
            };
            command.stdin(std::process::Stdio::null());
            let said = ended(&place, command);
            until("all of it ends", || processes::of_place(&place.top).is_empty());
            *(if said.code == Some(0) { &mut went_well } else { &mut failed }) += 1;
            let what = format!("files of {blocks} blocks");
            judge(&place, what, &said, &old, &side.tree());
        }
    }
    println!("{failed} failed, {went_well} went well");
    assert!(failed >= 2 && went_well >= 2, "{failed} failed, {went_well} went well");
}

#[test]
fn i1_i3_i12_a_hub_whose_writes_fall_short() {
    sweep(true);
}

#[test]
fn i1_i3_i12_a_daemon_and_a_hub_whose_writes_fall_short() {
    sweep(false);
}
