//! Paired machines under a fake clock: the real [`Session`] and the real receiver over a model of a
//! disk, joined by a link that is slow and cut at any message. One integer seeds a run; every run is
//! made twice and must leave the same trace. `E2EK_SIM_SEEDS` sets how many, `E2EK_SIM_SEED` one.

mod hub;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::restart::{Action, Policy};
use e2ek_sidecar::tree::{Digest, Entry, Reason, TreeId};
use e2ek_sidecar::wire::{ChildEvent, CommandSpec, FromHub, How, Op, ToHub, WireError};

use self::hub::{Disk, Hub, is_dir, snapshot};
use super::plan::{DeleteBudget, Mode, deletes};
use super::session::{Effect, Input, Session, Settings, TargetId, TargetState};

const SEEDS: u64 = 1000;
const SETTLE: Duration = Duration::from_millis(50);
/// Messages in a second of virtual time, beyond which it is ping-pong.
const BUSY: usize = 1500;
/// Everything must be equal so long after the last fault.
const CONVERGED: u64 = 150_000_000;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> Option<T> {
        (!items.is_empty()).then(|| items[self.below(items.len() as u64) as usize].clone())
    }
}

/// On its way to the hub.
enum Down {
    Message(ToHub),
    Data { generation: u64, ops: Arc<[Op]>, indices: Vec<u32>, commit: TreeId },
    Pieces(Vec<(u32, std::ops::Range<usize>)>),
}

enum Event {
    Scan {
        seen: u64,
    },
    ToHub {
        target: TargetId,
        serial: u64,
    },
    ToDaemon {
        target: TargetId,
        serial: u64,
    },
    /// The daemon's end notices.
    Lost {
        target: TargetId,
        serial: u64,
    },
    /// The hub's end notices.
    Unlink {
        target: TargetId,
        serial: u64,
    },
    /// A restart that the hub began is done.
    Restarted {
        target: TargetId,
        generation: u64,
        pid: i32,
    },
    Mend {
        target: TargetId,
    },
    Chaos,
}

#[derive(Default)]
struct Link {
    down: VecDeque<Down>,
    up: VecDeque<FromHub>,
    /// When the last message on its way arrives: they keep their order.
    down_at: u64,
    up_at: u64,
    cut: bool,
}

struct World {
    rng: Rng,
    base: Instant,
    now: u64,
    seq: u64,
    events: BTreeMap<(u64, u64), Event>,
    session: Session,
    targets: usize,
    source: Disk,
    /// The source that the session was shown last.
    shown: Disk,
    scan_pending: bool,
    hubs: Vec<Hub>,
    links: BTreeMap<(TargetId, u64), Link>,
    /// The connection that the daemon holds.
    current: Vec<Option<u64>>,
    serial: u64,
    calm: bool,
    mirror: bool,
    count_budget: Option<u64>,
    latency: u64,
    tokens: u64,
    trace: String,
    /// Print the trace as it comes.
    aloud: bool,
    /// Trees whose deletes the user agreed to.
    accepted: BTreeSet<[u8; 32]>,
    /// Times of the messages delivered in the last second.
    delivered: VecDeque<u64>,
    /// When each target was last asked to restart, on which link, and whether the user asked since.
    acts: Vec<Option<u64>>,
    acted_on: Vec<Option<u64>>,
    user_restart: Vec<bool>,
    /// The session has asked for the command before.
    ran: Vec<bool>,
    /// The daemon was killed: what it still had to ask of a running command is forgotten.
    daemon_died: bool,
}

fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

fn root() -> SyncPath {
    path("0")
}

fn settings(mirror: bool, count_budget: Option<u64>) -> Settings {
    Settings {
        dry: false,
        mode: if mirror { Mode::Mirror } else { Mode::Keep },
        budget: count_budget.map_or_else(DeleteBudget::default, DeleteBudget::Count),
        settle: SETTLE,
        settle_at_most: Duration::from_secs(2),
        git_at_most: Duration::from_secs(10),
        command: Some(CommandSpec { argv: Vec::new(), policy: Policy::default(), inherit: false }),
        rules: Box::new(|_| vec![Action::Restart]),
        ignored: Box::new(|_, _| false),
    }
}

impl World {
    fn new(seed: u64, base: Instant) -> Self {
        let mut rng = Rng(seed);
        let targets = if rng.one_in(4) { 2 } else { 1 };
        let mirror = rng.one_in(5);
        let count_budget = rng.one_in(3).then(|| rng.below(4));
        let latency = [200, 1000, 20_000, 100_000][rng.below(4) as usize];
        let mut world = Self {
            base,
            now: 0,
            seq: 0,
            events: BTreeMap::new(),
            session: Session::new(settings(mirror, count_budget), targets, 0),
            targets,
            source: Disk::from([(root(), Entry::Directory)]),
            shown: Disk::new(),
            scan_pending: false,
            hubs: Vec::new(),
            links: BTreeMap::new(),
            current: vec![None; targets],
            serial: 0,
            calm: false,
            mirror,
            count_budget,
            latency,
            tokens: 0,
            trace: String::new(),
            aloud: false,
            accepted: BTreeSet::new(),
            delivered: VecDeque::new(),
            acts: vec![None; targets],
            acted_on: vec![None; targets],
            user_restart: vec![false; targets],
            ran: vec![false; targets],
            daemon_died: false,
            rng,
        };
        for _ in 0..world.rng.below(12) {
            world.edit();
        }
        for _ in 0..targets {
            let mut disk = Disk::from([(root(), Entry::Directory)]);
            if world.rng.one_in(2) {
                // Some of the source lies there already, some differs.
                for (path, entry) in &world.source.clone() {
                    let parent = path.parent().unwrap_or_default();
                    if (parent.is_root() || is_dir(disk.get(&parent))) && world.rng.one_in(2) {
                        let other = world.rng.one_in(3) && !is_dir(Some(entry));
                        let entry = if other { world.file() } else { entry.clone() };
                        disk.insert(path.clone(), entry);
                    }
                }
            }
            world.hubs.push(Hub::new(disk));
        }
        world
    }

    fn at(&self, micros: u64) -> Instant {
        self.base + Duration::from_micros(micros)
    }

    fn push(&mut self, after: u64, event: Event) {
        self.seq += 1;
        self.events.insert((self.now + after, self.seq), event);
    }

    fn file(&mut self) -> Entry {
        // Contents come again, so that there is something to copy and to revert to.
        if !self.rng.one_in(3) {
            self.tokens += 1;
        }
        let token = self.tokens;
        let size = [0, 1, 7, 40_000][(token % 4) as usize];
        let digest = if size == 0 { Digest::of(b"") } else { Digest::of(&token.to_le_bytes()) };
        Entry::File { digest, size, executable: self.rng.one_in(5) }
    }

    /// One change of the source, as a person or git would make it.
    fn edit(&mut self) {
        let paths: Vec<SyncPath> = self.source.keys().skip(1).cloned().collect();
        let dirs: Vec<SyncPath> = (self.source.iter())
            .filter(|(p, e)| is_dir(Some(e)) && p.components().count() < 4)
            .map(|(p, _)| p.clone())
            .collect();
        match self.rng.below(10) {
            0..4 => {
                let Some(dir) = self.rng.pick(&dirs) else { return };
                let name = [b"a", b"b", b"c", b"d"][self.rng.below(4) as usize];
                let at = dir.join(name).unwrap();
                let entry = match self.rng.below(6) {
                    0 | 1 => Entry::Directory,
                    2 => Entry::Symlink { target: b"x".as_slice().into() },
                    _ => self.file(),
                };
                self.clear(&at);
                self.source.insert(at, entry);
            }
            4 | 5 => {
                if let Some(at) = self.rng.pick(&paths)
                    && !is_dir(self.source.get(&at))
                {
                    let entry = self.file();
                    self.source.insert(at, entry);
                }
            }
            6 => {
                if let Some(at) = self.rng.pick(&paths) {
                    self.clear(&at);
                }
            }
            7 => {
                if let (Some(from), Some(dir)) = (self.rng.pick(&paths), self.rng.pick(&dirs)) {
                    self.rename(&from, &dir.join(b"e").unwrap());
                }
            }
            8 => {
                let files: Vec<SyncPath> =
                    paths.into_iter().filter(|p| !is_dir(self.source.get(p))).collect();
                if let (Some(a), Some(b)) = (self.rng.pick(&files), self.rng.pick(&files)) {
                    let (x, y) = (self.source[&a].clone(), self.source[&b].clone());
                    self.source.insert(a, y);
                    self.source.insert(b, x);
                }
            }
            _ => {
                if let Some(at) = self.rng.pick(&paths)
                    && let Some(Entry::File { executable, .. }) = self.source.get_mut(&at)
                {
                    *executable = !*executable;
                }
            }
        }
    }

    fn clear(&mut self, at: &SyncPath) {
        self.source.retain(|path, _| !path.starts_with(at));
    }

    fn rename(&mut self, from: &SyncPath, to: &SyncPath) {
        if to.starts_with(from) || from.starts_with(to) {
            return;
        }
        self.clear(to);
        let moved: Vec<_> = (self.source.iter())
            .filter(|(p, _)| p.starts_with(from))
            .map(|(p, e)| (to.append(&p.strip_prefix(from).unwrap()).unwrap(), e.clone()))
            .collect();
        self.clear(from);
        self.source.extend(moved);
    }

    fn touched(&mut self) {
        if !self.scan_pending {
            self.scan_pending = true;
            let (seen, after) = (self.now, 500 + self.rng.below(8000));
            self.push(after, Event::Scan { seen });
        }
    }

    fn input(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.note(&format!("< {}", brief(&input)));
            let now = self.at(self.now);
            for effect in self.session.handle(now, input) {
                self.note(&format!("> {effect:?}"));
                self.perform(effect, &mut inputs);
            }
            self.check();
        }
    }

    fn note(&mut self, line: &str) {
        if self.aloud {
            println!("{} {line}", self.now);
        }
        let _ = writeln!(self.trace, "{} {line}", self.now);
    }

    fn perform(&mut self, effect: Effect, inputs: &mut VecDeque<Input>) {
        match effect {
            Effect::Connect(target) => {
                assert_eq!(self.current[target], None, "connected twice");
                self.serial += 1;
                let serial = self.serial;
                self.links.insert((target, serial), Link::default());
                self.current[target] = Some(serial);
                self.hubs[target].peer = self.hubs[target].peer.filter(|_| true);
                self.send(target, Down::Message(ToHub::Ping));
                if !self.calm && self.rng.one_in(8) {
                    self.cut(target);
                }
            }
            Effect::Close(target, why) => {
                assert!(!matches!(why, super::session::Closing::Protocol(_)), "{why:?}");
                self.cut(target);
                self.current[target] = None;
                inputs.push_back(Input::LinkDown(target));
            }
            Effect::Send(target, message) => {
                if matches!(message, ToHub::Run(_)) {
                    self.check_first_start(target);
                }
                if matches!(&message, ToHub::Act { actions, .. } if actions.restart) {
                    self.check_window(target);
                }
                self.send(target, Down::Message(message));
            }
            Effect::SendOps(target, generation, ops) => {
                let ops = ops.to_vec();
                self.send(target, Down::Message(ToHub::Ops { generation, ops, last: true }));
            }
            Effect::SendData { target, generation, ops, indices, commit } => {
                self.send(target, Down::Data { generation, ops, indices, commit });
            }
            Effect::Say(_) => {}
        }
    }

    fn send(&mut self, target: TargetId, item: Down) {
        let Some(serial) = self.current[target] else {
            panic!("i14: a message without a connection");
        };
        let jitter = self.rng.below(self.latency);
        let link = self.links.get_mut(&(target, serial)).unwrap();
        if link.cut {
            return;
        }
        link.down.push_back(item);
        link.down_at = link.down_at.max(self.now + self.latency + jitter);
        let after = link.down_at - self.now;
        self.push(after, Event::ToHub { target, serial });
    }

    fn answer(&mut self, target: TargetId, message: FromHub) {
        let Some(serial) = self.hubs[target].peer else { return };
        let jitter = self.rng.below(self.latency);
        let link = self.links.get_mut(&(target, serial)).unwrap();
        if link.cut {
            return;
        }
        link.up.push_back(message);
        link.up_at = link.up_at.max(self.now + self.latency + jitter);
        let after = link.up_at - self.now;
        self.push(after, Event::ToDaemon { target, serial });
    }

    /// Everything on its way is lost; both ends notice when they do.
    fn cut(&mut self, target: TargetId) {
        let Some(serial) = self.current[target] else { return };
        let link = self.links.get_mut(&(target, serial)).unwrap();
        if std::mem::replace(&mut link.cut, true) {
            return;
        }
        link.down.clear();
        link.up.clear();
        let (a, b) = (self.rng.below(30_000), self.rng.below(30_000));
        self.push(a, Event::Lost { target, serial });
        self.push(b, Event::Unlink { target, serial });
    }

    fn step(&mut self) {
        let deadline = self.session.deadline().map(|at| {
            let micros = at.saturating_duration_since(self.base).as_nanos().div_ceil(1000);
            (micros as u64).max(self.now)
        });
        let first = self.events.first_key_value().map(|(key, _)| key.0);
        match (deadline, first) {
            (Some(at), first) if first.is_none_or(|first| at <= first) => {
                self.now = at;
                self.delivered_one();
                let git_busy = !self.calm && self.rng.one_in(3);
                self.input(Input::Tick { git_busy });
            }
            (_, Some(_)) => {
                let ((at, _), event) = self.events.pop_first().unwrap();
                self.now = at;
                self.event(event);
            }
            _ => self.now += 1_000_000,
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Scan { seen } => {
                self.scan_pending = false;
                self.shown = self.source.clone();
                let tree = snapshot(&self.source);
                let seen = self.at(seen);
                if tree.id() != self.session.local().map_or(TreeId([9; 32]), |l| l.id()) {
                    self.accepted.clear();
                }
                self.input(Input::Scanned { tree, seen });
            }
            Event::ToHub { target, serial } => {
                let item = self.links.get_mut(&(target, serial)).and_then(|l| l.down.pop_front());
                if let Some(item) = item {
                    self.delivered_one();
                    if !self.calm && self.rng.one_in(150) {
                        return self.cut_serial(target, serial);
                    }
                    self.arrive(target, serial, item);
                }
            }
            Event::ToDaemon { target, serial } => {
                let message = self.links.get_mut(&(target, serial)).and_then(|l| l.up.pop_front());
                if let Some(message) = message
                    && self.current[target] == Some(serial)
                {
                    self.delivered_one();
                    if !self.calm && self.rng.one_in(150) {
                        return self.cut_serial(target, serial);
                    }
                    self.input(match message {
                        FromHub::Foreign { paths, .. } => Input::Foreign(target, paths),
                        message => Input::Message(target, message),
                    });
                }
            }
            Event::Lost { target, serial } => {
                if self.current[target] == Some(serial) {
                    self.current[target] = None;
                    self.input(Input::LinkDown(target));
                }
            }
            Event::Unlink { target, serial } => {
                if self.hubs[target].peer == Some(serial) {
                    self.hubs[target].unlink();
                    self.note(&format!("! hub {target} abandons"));
                }
            }
            Event::Restarted { target, generation, pid } => self.restarted(target, generation, pid),
            Event::Mend { target } => self.hubs[target].broken.clear(),
            Event::Chaos => self.chaos(),
        }
    }

    fn cut_serial(&mut self, target: TargetId, serial: u64) {
        if self.current[target] == Some(serial) {
            self.cut(target);
        }
    }

    fn delivered_one(&mut self) {
        self.delivered.push_back(self.now);
        while self.delivered.front().is_some_and(|at| at + 1_000_000 < self.now) {
            self.delivered.pop_front();
        }
        assert!(self.delivered.len() < BUSY, "ping-pong");
    }

    fn arrive(&mut self, target: TargetId, serial: u64, item: Down) {
        let result = match item {
            Down::Data { generation, ops, indices, commit } => {
                self.read(target, serial, generation, &ops, &indices, commit);
                Ok(())
            }
            Down::Pieces(pieces) => {
                let hub = &mut self.hubs[target];
                hub.receiver.take_data(pieces).map(|steps| hub.perform(steps))
            }
            Down::Message(message) => self.message(target, serial, message),
        };
        if let Err(error) = result {
            panic!("the hub refuses: {error}");
        }
    }

    /// What the sender's task does when its turn comes: reads the files as they are by now.
    fn read(
        &mut self,
        target: TargetId,
        serial: u64,
        generation: u64,
        ops: &[Op],
        indices: &[u32],
        commit: TreeId,
    ) {
        let mut items = VecDeque::new();
        let mut changed = false;
        for &index in indices {
            let op = &ops[index as usize];
            let Some(Entry::File { digest, size, .. }) = op.change.new else { unreachable!() };
            let same = matches!(self.source.get(&op.change.path),
                Some(Entry::File { digest: now, .. }) if *now == digest);
            let middle = size as usize / 2;
            if same || self.rng.one_in(2) {
                items.push_back(Down::Pieces(vec![(index, 0..middle)]));
            }
            if same {
                items.push_back(Down::Pieces(vec![(index, middle..size as usize)]));
            } else {
                items.push_back(Down::Message(ToHub::Withdraw { index }));
                changed = true;
            }
        }
        // One piece that is empty is none.
        items.retain(|item| !matches!(item, Down::Pieces(p) if p[0].1.is_empty()));
        items.push_back(Down::Message(ToHub::Commit { generation, target: commit }));
        if changed {
            self.touched();
        }
        let link = self.links.get_mut(&(target, serial)).unwrap();
        let count = items.len();
        for item in items.into_iter().rev() {
            link.down.push_front(item);
        }
        for i in 0..count {
            self.push(i as u64, Event::ToHub { target, serial });
        }
        // They arrive before whatever was sent later.
        let after = self.now + count as u64;
        let link = self.links.get_mut(&(target, serial)).unwrap();
        link.down_at = link.down_at.max(after);
    }

    fn message(&mut self, target: TargetId, serial: u64, message: ToHub) -> Result<(), WireError> {
        let answers = match message {
            // Stands for Open.
            ToHub::Ping => {
                let hub = &mut self.hubs[target];
                if hub.peer.is_some() {
                    hub.unlink();
                }
                hub.peer = Some(serial);
                hub.open()
            }
            ToHub::Ops { generation, ops, last } => {
                self.check_ops(target, &ops);
                self.hubs[target].take_ops(generation, ops, last)?
            }
            ToHub::Withdraw { index } => {
                self.hubs[target].receiver.withdraw(index)?;
                Vec::new()
            }
            ToHub::Commit { generation, target: tree } => {
                vec![self.hubs[target].commit(generation, tree)?]
            }
            ToHub::Describe { paths } => self.hubs[target].describe(&paths),
            ToHub::ListForeign => {
                vec![FromHub::Foreign { paths: self.hubs[target].foreign(), last: true }]
            }
            ToHub::RemoveForeign { paths } => {
                assert!(self.mirror, "i7: unmanaged paths are kept");
                vec![self.hubs[target].remove_foreign(&paths)]
            }
            ToHub::Run(_) => self.run_command(target),
            ToHub::Act { generation, actions } => {
                self.act(target, generation, actions.restart);
                Vec::new()
            }
            other => panic!("not sent by a session: {other:?}"),
        };
        answers.into_iter().for_each(|answer| self.answer(target, answer));
        Ok(())
    }

    fn run_command(&mut self, target: TargetId) -> Vec<FromHub> {
        let hub = &mut self.hubs[target];
        assert!(hub.receiver.ops().is_empty(), "i9: started within a generation");
        if hub.pid.is_none() {
            hub.pids += 1;
            hub.pid = Some(hub.pids);
            hub.loaded = Some(hub.receiver.held().clone());
        }
        let pid = hub.pid.unwrap_or_default();
        vec![FromHub::Child(ChildEvent::Started { pid })]
    }

    fn act(&mut self, target: TargetId, generation: u64, restart: bool) {
        let hub = &mut self.hubs[target];
        assert!(hub.receiver.ops().is_empty(), "i9: acts within a generation");
        assert!(hub.receiver.generation() <= generation, "i9: for an older generation");
        if !restart || hub.pid.is_none() {
            return;
        }
        if !std::mem::replace(&mut hub.starting, true) {
            let pid = hub.pids;
            let after = 1000 + self.rng.below(60_000);
            self.push(after, Event::Restarted { target, generation, pid });
        }
    }

    fn restarted(&mut self, target: TargetId, generation: u64, pid: i32) {
        let hub = &mut self.hubs[target];
        if hub.pid != Some(pid) || !hub.starting {
            return;
        }
        hub.starting = false;
        hub.pids += 1;
        hub.pid = Some(hub.pids);
        hub.loaded = Some(hub.receiver.held().clone());
        let event = ChildEvent::Restarted { generation, micros: 1, pid: hub.pids };
        self.answer(target, FromHub::Child(event));
    }

    /// I7 and I4 where the hub takes a generation.
    fn check_ops(&self, target: TargetId, ops: &[Op]) {
        let held = self.hubs[target].receiver.held();
        for op in ops {
            if let How::Copy { from } = &op.how {
                assert!(!from.is_root());
            }
        }
        let Some(local) = self.session.local() else { panic!("ops without a source") };
        let changes: Vec<_> = ops.iter().map(|op| op.change.clone()).collect();
        let Ok(reached) = held.apply_changes(&changes) else { return };
        let gone = deletes(ops);
        let empties = held.dir(&root()).is_some_and(|d| !d.is_empty())
            && reached.dir(&root()).is_none_or(|d| d.is_empty());
        let over = self.count_budget.is_some_and(|budget| gone > budget);
        if (gone > 0 && empties) || over {
            // Sent when that was the tree; an answer is forgotten when the source moves on.
            let answered = self.accepted.contains(&reached.id().0) || local.id() != reached.id();
            assert!(answered, "i7: {gone} deletes without an answer");
        }
    }

    /// I9: one restart in a settle window, unless somebody asked or the link is another.
    fn check_window(&mut self, target: TargetId) {
        let settle = SETTLE.as_micros() as u64;
        let close = self.acts[target].replace(self.now).is_some_and(|at| at + settle > self.now);
        let asked = std::mem::take(&mut self.user_restart[target]);
        let before = std::mem::replace(&mut self.acted_on[target], self.current[target]);
        let relinked = before != self.current[target];
        assert!(!close || asked || relinked, "i9: two restarts in one settle window");
    }

    fn check_first_start(&mut self, target: TargetId) {
        if std::mem::replace(&mut self.ran[target], true) {
            return;
        }
        let status = &self.session.status()[target];
        if status.problems.is_empty() {
            let local = self.session.local().map(|l| l.id());
            assert_eq!(Some(status.tree), local, "i9: started before it is current");
        }
    }

    /// I12: what is called synced is.
    fn check(&self) {
        for (target, status) in self.session.status().iter().enumerate() {
            let hub = &self.hubs[target];
            if status.state != TargetState::Synced || hub.drifted {
                continue;
            }
            assert!(status.problems.is_empty() && status.hold.is_none());
            self.assert_equal(hub, &self.shown);
        }
    }

    fn assert_equal(&self, hub: &Hub, source: &Disk) {
        for (path, entry) in source {
            assert_eq!(hub.disk.get(path), Some(entry), "i3, i12: {path}");
        }
        for path in &hub.ours {
            let stays = source.contains_key(path) || !hub.disk.contains_key(path);
            let holds_foreign = is_dir(hub.disk.get(path));
            assert!(stays || holds_foreign, "i3: {path} is left over");
        }
    }

    fn chaos(&mut self) {
        if self.calm {
            return;
        }
        let after = 500 + self.rng.below(60_000);
        self.push(after, Event::Chaos);
        let target = self.rng.below(self.targets as u64) as usize;
        match self.rng.below(40) {
            0..20 => {
                for _ in 0..=self.rng.below(3) {
                    self.edit();
                }
                self.touched();
            }
            20 => {
                self.source.retain(|path, _| *path == root());
                self.touched();
            }
            21 => {
                // Content goes back to what was shown before.
                self.source = if self.shown.is_empty() { return } else { self.shown.clone() };
                self.touched();
            }
            22 | 23 => self.cut(target),
            24 => self.crash_hub(target),
            25 => self.crash_daemon(),
            26 | 27 => self.foreign_write(target),
            28 | 29 => self.break_path(target),
            30 => self.input(Input::Pause),
            31 | 32 => self.resume(),
            33 => self.input(Input::Retry),
            34 => {
                self.user_restart.fill(true);
                self.input(Input::Restart);
            }
            35 => {
                self.input(Input::RootGone);
                self.touched();
            }
            _ => self.touched(),
        }
    }

    fn resume(&mut self) {
        let accept = self.rng.one_in(2) || self.calm;
        if accept && let Some(local) = self.session.local() {
            self.accepted.insert(local.id().0);
        }
        self.input(Input::Resume { accept });
    }

    fn crash_hub(&mut self, target: TargetId) {
        self.cut(target);
        self.note(&format!("! hub {target} is killed"));
        self.hubs[target].crash();
    }

    fn crash_daemon(&mut self) {
        self.daemon_died = true;
        self.ran.fill(false);
        for target in 0..self.targets {
            self.cut(target);
            self.current[target] = None;
        }
        let settings = settings(self.mirror, self.count_budget);
        self.session = Session::new(settings, self.targets, 0);
        self.accepted.clear();
        self.input(Input::Start);
        self.touched();
    }

    /// Somebody at the target edits, makes or removes something.
    fn foreign_write(&mut self, target: TargetId) {
        self.note(&format!("! others write at {target}"));
        let file = self.file();
        let hub = &mut self.hubs[target];
        let paths: Vec<SyncPath> = hub.disk.keys().skip(1).cloned().collect();
        let dirs: Vec<SyncPath> =
            hub.disk.iter().filter(|(_, e)| is_dir(Some(e))).map(|(p, _)| p.clone()).collect();
        match self.rng.below(3) {
            0 => {
                if let Some(at) = self.rng.pick(&paths)
                    && !is_dir(hub.disk.get(&at))
                {
                    hub.drifted = true;
                    hub.ever_drifted = true;
                    hub.ours.remove(&at);
                    hub.disk.insert(at, file);
                }
            }
            1 => {
                if let Some(at) = self.rng.pick(&paths) {
                    hub.drifted = true;
                    hub.ever_drifted = true;
                    hub.disk.retain(|p, _| !p.starts_with(&at));
                    hub.ours.retain(|p| !p.starts_with(&at));
                }
            }
            _ => {
                if let Some(dir) = self.rng.pick(&dirs) {
                    let at = dir.join(b"foreign").unwrap();
                    hub.disk.entry(at).or_insert(file);
                }
            }
        }
    }

    fn break_path(&mut self, target: TargetId) {
        let mut paths: Vec<SyncPath> = self.source.keys().skip(1).cloned().collect();
        paths.extend(self.hubs[target].disk.keys().skip(1).cloned());
        if let Some(at) = self.rng.pick(&paths) {
            let reason = if self.rng.one_in(2) { Reason::Denied } else { Reason::NoSpace };
            self.hubs[target].broken.insert(at, reason);
            let after = self.rng.below(2_000_000);
            self.push(after, Event::Mend { target });
        }
    }

    /// No more faults and edits: both sides must become equal, and then be silent.
    fn calm_down(&mut self) {
        self.calm = true;
        for target in 0..self.targets {
            // The next open finds what others changed.
            self.cut(target);
            let source = self.source.clone();
            let hub = &mut self.hubs[target];
            if hub.peer.is_some() {
                hub.unlink();
            }
            hub.broken.clear();
            // What others put in the way of the source's files is a person's to move.
            let in_the_way = |p: &SyncPath| {
                std::iter::successors(Some(p.clone()), SyncPath::parent)
                    .any(|up| source.get(&up).is_some_and(|e| !is_dir(Some(e))))
            };
            let theirs = |p: &SyncPath, entry: &Entry| {
                !hub.ours.contains(p) && hub.receiver.held().entry(p).as_ref() != Some(entry)
            };
            let others: Vec<SyncPath> = (hub.disk.iter())
                .filter(|(p, entry)| theirs(p, entry) && in_the_way(p))
                .map(|(p, _)| p.clone())
                .collect();
            hub.disk.retain(|p, _| !others.iter().any(|other| p.starts_with(other)));
            hub.ours.retain(|p| hub.disk.contains_key(p));
        }
        self.touched();
        let until = self.now + CONVERGED;
        let mut answered = self.now;
        while self.now < until && !self.is_over() {
            if self.now > answered + 3_000_000 {
                answered = self.now;
                self.resume();
            }
            self.step();
        }
        let status = self.session.status();
        assert!(self.is_over(), "i3: not converged: {status:?}");
        for (target, hub) in self.hubs.iter().enumerate() {
            self.assert_equal(hub, &self.source);
            assert_eq!(hub.receiver.held().id(), status[target].tree);
            let loaded = hub.loaded.as_ref().map(|l| l.id());
            let fresh = loaded == Some(hub.receiver.held().id());
            assert!(
                fresh || self.daemon_died || hub.ever_drifted,
                "i9: the command never saw the last files"
            );
        }
        assert_eq!(self.session.deadline(), None, "nothing is left to wait for");
        assert!(self.events.is_empty(), "silent");
    }

    fn is_over(&self) -> bool {
        self.events.is_empty()
            && self.session.deadline().is_none()
            && self.session.status().iter().all(|t| t.state == TargetState::Synced)
    }
}

/// The debug form, without what a snapshot holds.
fn brief(input: &Input) -> String {
    match input {
        Input::Scanned { tree, .. } => format!("Scanned {:?}", tree.id()),
        other => format!("{other:?}"),
    }
}

fn run(seed: u64, base: Instant, aloud: bool) -> String {
    let mut world = World::new(seed, base);
    world.aloud = aloud;
    world.input(Input::Start);
    world.touched();
    world.push(0, Event::Chaos);
    let until = 200_000 + world.rng.below(4_000_000);
    while world.now < until {
        world.step();
    }
    world.calm_down();
    world.trace
}

#[test]
fn i3_i7_i9_i12_paired_machines_converge_after_any_history() {
    let base = Instant::now();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("E2EK_SIM_SEED") {
        run(seed, base, true);
        return;
    }
    for seed in 0..number("E2EK_SIM_SEEDS").unwrap_or(SEEDS) {
        let twice = std::panic::catch_unwind(|| (run(seed, base, false), run(seed, base, false)));
        let Ok((first, second)) = twice else { panic!("E2EK_SIM_SEED={seed} fails") };
        assert!(first == second, "E2EK_SIM_SEED={seed} is not repeatable");
    }
}
