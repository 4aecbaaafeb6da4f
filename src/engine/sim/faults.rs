//! The script: what people, others and bad luck do, each with its weight.

use std::sync::atomic::Ordering;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::tree::Reason;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::World;
use super::clock::Event;
use super::disk::is_dir;
use super::hub::record::damage_bytes;
use super::link::{FrameFault, Link, i11_damaged};
use crate::engine::session::{Input, TargetId};

type Fault = fn(&mut World, TargetId);

/// Weight, name, what happens.
const SCRIPT: [(u64, &str, Fault); 26] = [
    (40, "files edited", |world, _| world.edit()),
    (2, "the source emptied", |world, _| world.source.empty()),
    (2, "the source reverted", |world, _| world.source.revert()),
    (2, "the source's root gone", |world, _| world.unmount()),
    (2, "an ignore rule toggled", |world, _| world.toggle_ignoring()),
    (6, "looked for no reason", |_, _| {}),
    (4, "the link cut", |world, target| world.cut(target)),
    (2, "the link stalled for a while", |world, target| world.stall(target, 14_000_000)),
    (2, "the link stalled for too long", |world, target| world.stall(target, 60_000_000)),
    (2, "messages out of order", World::tamper),
    (1, "the hub killed", World::crash_hub),
    (3, "the hub to be killed soon", |world, target| {
        world.hubs[target].fuse = Some(world.rng.below(12));
    }),
    (1, "the hub killed and its record damaged", World::damage_record),
    (1, "the hub's record backed up", |world, target| world.hubs[target].record.remember()),
    (2, "the hub's state not writable", |world, target| world.fill_state(target)),
    (1, "the daemon killed", |world, _| world.crash_daemon()),
    (1, "the daemon killed and its index damaged", |world, _| world.damage_index()),
    (5, "others write at the target", World::foreign_write),
    (4, "a path not writable", World::break_path),
    (2, "paused", |world, _| world.input(Input::Pause)),
    (5, "resumed", |world, _| world.resume()),
    (2, "tried again", |world, _| world.input(Input::Retry)),
    (2, "a restart asked for", |world, _| world.restart()),
    (1, "the clock jumps", |world, _| world.jump()),
    (2, "the target's container starts anew", World::start_anew),
    (2, "the network changed", |world, _| world.network_changed()),
];

/// What a long enough simulation must have met; see also [`SCRIPT`].
pub(super) const ALL: [&str; 17] = [
    "a bit flipped on the way",
    "a bit of the record flipped",
    "a file changed before it was sent",
    "a hold outlasted",
    "a link taken over by the next",
    "a silent link given up when the network changed",
    "a stale link's message refused",
    "an older index put back",
    "an older record put back",
    "cut between frames",
    "cut within a frame",
    "files changed during a look",
    "the daemon refuses to go on",
    "the hub killed within a generation",
    "the hub refuses to go on",
    "the index damaged",
    "the record cut short",
];

impl World {
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let after = 500 + self.rng.below(self.options.pace);
        self.clock.after(after, Event::Fault);
        let target = self.rng.below(self.options.targets as u64) as usize;
        let mut at = self.rng.below(SCRIPT.iter().map(|(weight, ..)| weight).sum());
        for (bit, (weight, name, happen)) in SCRIPT.into_iter().enumerate() {
            if at < weight {
                // Files are edited in every run.
                if bit > 0 && self.options.faults >> bit & 1 == 0 {
                    return;
                }
                self.trace.count(name);
                self.note(format_args!("! {name} ({target})"));
                happen(self, target);
                // People and the kernel tell of changes; a look for no reason does no harm.
                return self.touched();
            }
            at -= weight;
        }
    }

    fn edit(&mut self) {
        for _ in 0..=self.rng.below(3) {
            self.source.edit(&mut self.rng);
        }
    }

    fn unmount(&mut self) {
        if std::mem::replace(&mut self.unmounted, true) {
            return;
        }
        self.root_gone();
        self.input(Input::RootGone);
        if self.rng.one_in(3) {
            // Another directory takes its place.
            self.source.empty();
            self.edit();
        }
        let after = self.rng.below(3_000_000);
        self.clock.after(after, Event::Mounted);
    }

    fn toggle_ignoring(&mut self) {
        // What `mirror` may remove is the filter's question.
        if !self.options.mirror {
            self.source.ignoring.fetch_xor(true, Ordering::Relaxed);
        }
    }

    fn stall(&mut self, target: TargetId, most: u64) {
        let micros = self.rng.below(most);
        self.wires.stall(target, micros, &mut self.clock);
    }

    fn tamper(&mut self, target: TargetId) {
        self.checks.tampered |= self.wires.tamper(target, &mut self.clock, &mut self.rng);
    }

    /// Whether links may break by themselves.
    pub(super) fn links_break(&self) -> bool {
        !self.calm && self.options.faults >> 63 == 1
    }

    /// Whether a message's frame is damaged; then the link is over, and what was behind it is lost.
    pub(super) fn breaks<M: Serialize + DeserializeOwned>(
        &mut self,
        target: TargetId,
        message: &M,
        lost: fn(&mut Link),
    ) -> bool {
        if !self.links_break() || !self.rng.one_in(150) {
            return false;
        }
        let (fault, name) = FrameFault::NAMES[self.rng.below(3) as usize];
        i11_damaged(message, fault, &mut self.rng);
        self.trace.count(name);
        self.note(format_args!("! {name} ({target})"));
        self.cut(target);
        if let Some(link) = self.wires.now(target) {
            lost(link);
        }
        true
    }

    pub(super) fn crash_hub(&mut self, target: TargetId) {
        self.note(format_args!("! hub {target} is killed"));
        self.hub_lets_go(target);
        self.cut(target);
        if let Some(link) = self.wires.now(target) {
            link.down.clear();
        }
        self.hubs[target].crash();
    }

    /// The hub ends the link it listens to.
    pub(super) fn hub_lets_go(&mut self, target: TargetId) {
        if let Some(serial) = self.hubs[target].peer.take() {
            self.wires.get(target, serial).down.clear();
        }
    }

    fn damage_record(&mut self, target: TargetId) {
        self.crash_hub(target);
        let hub = &mut self.hubs[target];
        let what = hub.record.damage(&mut self.rng);
        hub.disown();
        hub.crash();
        self.trace.count(what);
    }

    /// All at the target is gone, and the hub writes it again from what it keeps.
    fn start_anew(&mut self, target: TargetId) {
        // In a container nothing is opened whose record cannot be written.
        if self.hubs[target].record.full || self.hubs[target].record.behind {
            return;
        }
        self.crash_hub(target);
        self.hubs[target].replay(&mut self.rng);
    }

    fn fill_state(&mut self, target: TargetId) {
        self.hubs[target].record.full = true;
        let after = self.rng.below(1_000_000);
        self.clock.after(after, Event::Mend { target });
    }

    fn crash_daemon(&mut self) {
        for target in 0..self.options.targets {
            self.cut(target);
            self.wires.current[target] = None;
        }
        self.session = self.options.session(&self.source);
        self.checks.daemon_dies();
        self.kept = false;
        self.start();
    }

    fn damage_index(&mut self) {
        let kind = self.rng.below(4);
        if kind < 2 && !self.source.older_index.is_empty() {
            self.source.index = self.source.older_index.clone();
            self.trace.count("an older index put back");
        } else {
            damage_bytes(&mut self.source.index, kind < 3, &mut self.rng);
            self.trace.count("the index damaged");
        }
        self.crash_daemon();
    }

    /// Somebody at the target edits, makes or removes something.
    fn foreign_write(&mut self, target: TargetId) {
        let file = self.source.file(&mut self.rng);
        let hub = &mut self.hubs[target];
        let paths: Vec<SyncPath> = hub.disk.keys().skip(1).cloned().collect();
        match self.rng.below(3) {
            0 => {
                if let Some(at) = self.rng.pick(&paths)
                    && !is_dir(hub.disk.get(&at))
                {
                    hub.ours.remove(&at);
                    hub.disk.insert(at.clone(), file);
                    hub.drift.insert(at);
                    hub.ever_drifted = true;
                }
            }
            1 => {
                if let Some(at) = self.rng.pick(&paths) {
                    hub.disk.retain(|p, _| !p.starts_with(&at));
                    hub.ours.retain(|p| !p.starts_with(&at));
                    hub.drift.insert(at);
                    hub.ever_drifted = true;
                }
            }
            _ => {
                let dirs = hub.disk.iter().filter(|(_, e)| is_dir(Some(e)));
                let dirs: Vec<SyncPath> = dirs.map(|(p, _)| p.clone()).collect();
                if let Some(dir) = self.rng.pick(&dirs) {
                    hub.disk.entry(dir.join(b"foreign").unwrap()).or_insert(file);
                }
            }
        }
    }

    fn break_path(&mut self, target: TargetId) {
        let mut paths: Vec<SyncPath> = self.source.disk.keys().skip(1).cloned().collect();
        paths.extend(self.hubs[target].disk.keys().skip(1).cloned());
        if let Some(at) = self.rng.pick(&paths) {
            let reason = if self.rng.one_in(2) { Reason::Denied } else { Reason::NoSpace };
            self.hubs[target].broken.insert(at, reason);
            let after = self.rng.below(2_000_000);
            self.clock.after(after, Event::Mend { target });
        }
    }

    pub(super) fn resume(&mut self) {
        let accept = self.rng.one_in(2) || self.calm;
        if accept {
            self.checks.accept();
        }
        self.input(Input::Resume { accept });
    }

    fn restart(&mut self) {
        self.checks.user_restart();
        (0..self.hubs.len()).for_each(|target| self.input(Input::Restart(target)));
    }

    /// The machine sleeps, for up to an hour, and sees that it did.
    fn jump(&mut self) {
        let most = [1_000_000, 60_000_000, 3_600_000_000][self.rng.below(3) as usize];
        let micros = self.rng.below(most);
        self.clock.jump(micros);
        self.network_changed();
    }

    /// Links that look alive must prove it; lost ones are made at once.
    fn network_changed(&mut self) {
        for target in 0..self.options.targets {
            let quiet = self.session.is_quiet(target);
            if self.wires.probe(target, quiet, &mut self.clock) {
                self.trace.count("a silent link given up when the network changed");
            }
        }
        self.input(Input::Reconnect);
    }
}
