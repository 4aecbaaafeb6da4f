//! The daemon's loop: carries inputs to the session and performs what it says, as `daemon` does with
//! real files and links.

use std::collections::VecDeque;

use e2ek_sidecar::receive::{expand, fold};
use e2ek_sidecar::restart::Policy;
use e2ek_sidecar::tree::{Entry, Snapshot};
use e2ek_sidecar::wire::{
    CommandSpec, FromHub, How, OPS_PER_FRAME, Op, Open, OpsPacker, ToHub, WriteMode,
};

use super::World;
use super::checks::brief;
use super::clock::Event;
use super::link::Down;
use crate::engine::plan::has_moves;
use crate::engine::session::{Closing, Effect, Input, TargetId};

impl World {
    /// Something about the source changed: a look ends soon.
    pub(super) fn touched(&mut self) {
        if !self.looking {
            self.looking = true;
            self.source.look_begins();
            let (seen, after) = (self.clock.now, 500 + self.rng.below(8000));
            self.clock.after(after, Event::Look { seen });
        }
    }

    pub(super) fn look_ends(&mut self, seen: u64) {
        self.looking = false;
        if self.unmounted {
            self.root_gone();
            return self.input(Input::RootGone);
        }
        let (tree, torn) = self.source.look(&mut self.rng);
        self.i5_tree_is_what_was_seen(&tree);
        if torn {
            self.trace.count("files changed during a look");
            self.touched();
        }
        if !std::mem::replace(&mut self.kept, true) {
            self.source.keep_index(&tree);
        }
        let seen = self.clock.at(seen);
        self.checks.source_is(&tree);
        self.input(Input::Scanned { tree, seen });
    }

    pub(super) fn mounted(&mut self) {
        self.unmounted = false;
        self.touched();
    }

    /// A new session gets its targets, each with a command.
    pub(super) fn start(&mut self) {
        for target in 0..self.options.targets {
            let policy = Policy::default();
            let command = Some(CommandSpec { argv: Vec::new(), policy, inherit: false });
            self.input(Input::Join { target, command });
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.note(format_args!("< {}", brief(&input)));
            let time_passed = matches!(input, Input::Tick { .. });
            let now = self.clock.instant();
            let effects = self.session.handle(now, input);
            self.i3_what_is_shared_is_alike(&effects);
            for effect in effects {
                if !matches!(effect, Effect::SendData { .. }) {
                    self.note(format_args!("> {effect:?}"));
                }
                self.check_effect(&effect, time_passed);
                self.perform(effect, &mut inputs);
            }
            self.check_status();
        }
    }

    fn perform(&mut self, effect: Effect, inputs: &mut VecDeque<Input>) {
        match effect {
            Effect::Connect(target) => {
                assert_eq!(self.wires.current[target], None, "connected twice");
                self.wires.connect(target);
                self.send(target, Down::Message(ToHub::Open(open())));
                if self.links_break() && self.rng.one_in(8) {
                    self.cut(target);
                }
            }
            Effect::Close(target, why) => {
                let tampered = self.wires.now(target).is_none_or(|link| link.tampered);
                let broken = matches!(why, Closing::Protocol(_));
                assert!(!broken || tampered, "i11: {why:?}");
                if broken {
                    self.trace.count("the daemon refuses to go on");
                }
                self.cut(target);
                self.wires.current[target] = None;
                inputs.push_back(Input::LinkDown(target));
            }
            Effect::Send(target, message) => self.send(target, Down::Message(message)),
            Effect::SendOps { target, generation, base, ops } => {
                self.send_ops(target, generation, &base, &ops);
            }
            Effect::SendData { target, generation, ops, indices, commit } => {
                self.send(target, Down::Data { generation, ops, indices, commit });
            }
            Effect::Ahead { target, number, mut op, whole, .. } => {
                let file = matches!(op.change.old, Some(Entry::File { size: 1.., .. }));
                if let How::Copy { from } = op.how {
                    op.how = if whole { How::Data } else { How::Like { from } };
                    self.trace.count("content that the hub copies ahead");
                } else if file && !whole && self.rng.one_in(2) {
                    op.how = How::Patch;
                }
                self.trace.count("content sent ahead");
                self.send(target, Down::Ahead { number, op, bits: 0 });
            }
            Effect::EndAhead(target, number) => {
                self.trace.count("content sent ahead ended");
                self.send(target, Down::Message(ToHub::AheadEnd { number }));
            }
            Effect::Say(_) => {}
        }
    }

    /// In as many frames as chance likes, packed or not.
    fn send_ops(&mut self, target: TargetId, generation: u64, base: &Snapshot, ops: &[Op]) {
        let (packed, folds) = (self.rng.one_in(2), self.rng.one_in(2));
        if has_moves(ops) {
            self.trace.count("directories that move as one");
        }
        let folded: Vec<Op> = match folds {
            true => fold(base, ops).into_iter().map(|(_, op)| op).collect(),
            false => expand(base, ops).unwrap_or_else(|| ops.to_vec()),
        };
        let mut packer = OpsPacker::new(generation, base.id(), 0);
        let mut rest = &*folded;
        loop {
            let most = if self.rng.one_in(4) { 1 } else { rest.len().min(OPS_PER_FRAME) };
            let (part, after) = rest.split_at(most.min(rest.len()));
            let last = after.is_empty();
            let message = match packed {
                true => packer.pack(part, last),
                false => ToHub::Ops { generation, ops: part.to_vec(), last },
            };
            self.send(target, Down::Message(message));
            if last {
                return;
            }
            rest = after;
        }
    }

    fn send(&mut self, target: TargetId, item: Down) {
        self.wires.send(target, item, &mut self.clock, &mut self.rng);
    }

    pub(super) fn cut(&mut self, target: TargetId) {
        self.wires.cut(target, &mut self.clock, &mut self.rng);
    }

    pub(super) fn daemon_hears(&mut self, target: TargetId, serial: u64) {
        if let Some(later) = self.wires.delayed(target, serial, self.clock.now) {
            return self.clock.after(later, Event::ToDaemon { target, serial });
        }
        let Some(message) = self.wires.get(target, serial).up.pop_front() else { return };
        if self.wires.current[target] != Some(serial) {
            return;
        }
        self.checks.i10_no_ping_pong(self.clock.now);
        if self.breaks(target, &message, |link| link.up.clear()) {
            return;
        }
        self.checks.told(target, &message);
        self.input(match message {
            FromHub::Foreign { paths, .. } => Input::Foreign(target, paths),
            message => Input::Message(target, message),
        });
    }
}

fn open() -> Open {
    Open {
        workspace: [1; 16],
        writer: "sim".to_owned(),
        roots: Vec::new(),
        process: None,
        write: WriteMode::Auto,
        take_over: false,
        check: false,
        dry_run: false,
    }
}
