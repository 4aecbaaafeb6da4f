//! One message and more for every variant that crosses the wire, with the variant's name.
//!
//! [`variants!`] makes the list of names and a match over the type from the same words, so a new
//! variant does not compile until it is listed, and does not pass until it has a sample.

use std::time::Duration;

use e2ek_sidecar::path::SyncPath;
use e2ek_sidecar::restart::{ActionSet, OnExit, Policy, Signal};
use e2ek_sidecar::tree::{Change, Digest, Entry, Problem, Reason, TreeId};
use e2ek_sidecar::wire::*;

macro_rules! variants {
    ($type:ident: $($variant:ident),* $(,)?) => {
        impl Named for $type {
            const NAMES: &'static [&'static str] = &[$(stringify!($variant)),*];
            const TYPE: &'static str = stringify!($type);
            fn variant(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => stringify!($variant)),*
                }
            }
        }
    };
}

/// A closed set whose members keep their bytes.
pub(crate) trait Named {
    const NAMES: &'static [&'static str];
    const TYPE: &'static str;
    fn variant(&self) -> &'static str;
}

variants!(ToHub: Open, Ops, Data, Withdraw, Commit, Describe, ListForeign, Run, Act, Stdin, StdinEnd,
    StopCommand, Credit, Ping, Bye, RemoveForeign, PackedOps, OpenIn, Ahead, AheadData, AheadEnd);
variants!(FromHub: Opened, Refused, Drifted, Need, Applied, Listing, Foreign, ForeignRemoved, Child,
    Output, Credit, Ping, Bye, StdinTaken, AppliedPart, NotReplayable, AheadTaken, Held, NotHeld);
variants!(Refusal: Owned, Nested, NotFound, Forbidden, Unusable, Superseded);
variants!(ChildEvent: Started, Restarted, Exited, Failed, Ran, Signalled, Stopped, Interrupted,
    Backoff, NotDone);
variants!(Listed: File, Symlink, Directory);
variants!(How: None, Data, Copy, Ask, Forget, Patch, Tree, Like, Held);
variants!(NotHeld: Ended, Base, Fault);
variants!(WriteMode: Auto, Rename, InPlace);
variants!(Entry: File, Directory, Symlink);
variants!(OnExit: Hold, Restart);
variants!(Reason: Denied, NoSpace, ReadOnly, Special, LinkInTheWay, UnsafeLink, MountPoint, NotEmpty,
    Conflict, Unstable, Name, Busy, Io);

pub(crate) fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

fn blob(text: &str) -> Blob {
    Blob(text.as_bytes().to_vec())
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

const TREE: TreeId = TreeId([0xab; 32]);
const DIGEST: Digest = Digest([0xcd; 16]);

pub(crate) fn entries() -> Vec<Entry> {
    vec![
        Entry::File { digest: DIGEST, size: 300, executable: true },
        Entry::Directory,
        Entry::Symlink { target: b"../x"[..].into() },
    ]
}

pub(crate) fn hows() -> Vec<How> {
    vec![
        How::None,
        How::Data,
        How::Copy { from: path("0/b") },
        How::Ask,
        How::Forget,
        How::Patch,
        How::Tree { from: path("0/b"), tree: TREE, count: 5000 },
        How::Like { from: path("0/b") },
        How::Held,
    ]
}

pub(crate) fn listed() -> Vec<Listed> {
    vec![
        Listed::File { digest: DIGEST, size: 7, executable: false },
        Listed::Symlink(blob("to")),
        Listed::Directory(TREE),
    ]
}

pub(crate) fn write_modes() -> Vec<WriteMode> {
    vec![WriteMode::Auto, WriteMode::Rename, WriteMode::InPlace]
}

pub(crate) fn on_exits() -> Vec<OnExit> {
    vec![OnExit::Hold, OnExit::Restart { pause: Duration::from_millis(1500) }]
}

pub(crate) fn reasons() -> Vec<Reason> {
    vec![
        Reason::Denied,
        Reason::NoSpace,
        Reason::ReadOnly,
        Reason::Special,
        Reason::LinkInTheWay,
        Reason::UnsafeLink,
        Reason::MountPoint,
        Reason::NotEmpty,
        Reason::Conflict,
        Reason::Unstable,
        Reason::Name,
        Reason::Busy,
        Reason::Io("os error 5".to_owned()),
    ]
}

pub(crate) fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::Owned { by: "ann@desk:src".to_owned(), active: true },
        Refusal::Nested { root: "/srv".to_owned(), by: "bob".to_owned() },
        Refusal::NotFound("/srv/app".to_owned()),
        Refusal::Forbidden("EPERM".to_owned()),
        Refusal::Unusable("a file".to_owned()),
        Refusal::Superseded,
    ]
}

pub(crate) fn child_events() -> Vec<ChildEvent> {
    vec![
        ChildEvent::Started { pid: 77 },
        ChildEvent::Restarted { generation: 42, micros: 310_000, pid: 78 },
        ChildEvent::Exited { status: 137, signal: 9, held: true },
        ChildEvent::Failed { error: "no such file".to_owned() },
        ChildEvent::Ran { argv: words(&["make", "all"]), status: -1 },
        ChildEvent::Signalled { signal: 1 },
        ChildEvent::Stopped { status: 143 },
        ChildEvent::Interrupted,
        ChildEvent::Backoff { micros: 200_000 },
        ChildEvent::NotDone { why: "no wrapper".to_owned() },
    ]
}

pub(crate) fn not_held() -> Vec<NotHeld> {
    vec![NotHeld::Ended, NotHeld::Base, NotHeld::Fault(Reason::NoSpace)]
}

fn open() -> Open {
    Open {
        workspace: [0x11; 16],
        writer: "ann@desk:src".to_owned(),
        roots: vec![blob("/srv/app"), blob("rel")],
        process: Some(4321),
        write: WriteMode::InPlace,
        take_over: false,
        check: true,
        dry_run: false,
    }
}

fn ops() -> Vec<Op> {
    let change =
        |name: &str, old: Option<Entry>, new: Option<Entry>| Change { path: path(name), old, new };
    let [file, directory, link] = entries().try_into().unwrap();
    let meta = Meta { mode: 0o755, mtime_ns: -5 };
    let [none, data, copy, ask, forget, ..] = <[How; 9]>::try_from(hows()).unwrap();
    vec![
        Op { change: change("0/a", None, Some(file.clone())), how: data, meta },
        Op { change: change("0/c", Some(link), Some(file.clone())), how: copy, meta },
        Op { change: change("0/d", None, Some(directory)), how: none.clone(), meta },
        Op { change: change("0/e", None, Some(file.clone())), how: ask, meta: Meta::default() },
        Op { change: change("1/x", Some(file.clone()), None), how: none, meta: Meta::default() },
        Op { change: change("1/y", Some(file), None), how: forget, meta: Meta::default() },
    ]
}

pub(crate) fn to_hub() -> Vec<ToHub> {
    let command = |policy: Policy, inherit: bool| {
        ToHub::Run(CommandSpec { argv: vec![blob("python"), blob("\u{e4}.py")], policy, inherit })
    };
    let signals = vec![Signal::HUP, Signal::TERM];
    let commands = vec![words(&["pip", "install"]), words(&["make"])];
    vec![
        ToHub::Open(open()),
        ToHub::Open(Open { process: None, roots: Vec::new(), ..open() }),
        ToHub::Ops { generation: 42, ops: ops(), last: true },
        ToHub::Data { encoding: 1, body: blob("zstd") },
        ToHub::Withdraw { index: 5 },
        ToHub::Commit { generation: 42, target: TREE },
        ToHub::Describe { paths: vec![path("0"), path("0/d")] },
        ToHub::ListForeign,
        command(Policy::default(), true),
        command(Policy { on_exit: on_exits().remove(1), ..Policy::default() }, false),
        ToHub::Act {
            generation: 42,
            actions: ActionSet { commands, signals, restart: true, needs_build: 2 },
        },
        ToHub::Stdin(blob("in\n")),
        ToHub::StdinEnd,
        ToHub::StopCommand,
        ToHub::Credit { bytes: 1 << 20 },
        ToHub::Ping,
        ToHub::Bye,
        ToHub::RemoveForeign { paths: vec![(path("0/log"), listed().remove(0))] },
        ToHub::Ops { generation: 43, ops: vec![patch()], last: false },
        ToHub::Ops { generation: 44, ops: vec![tree()], last: true },
        OpsPacker::new(45, TREE, 0).pack(&packed_ops(), true),
        ToHub::PackedOps {
            generation: 46,
            base: TREE,
            encoding: 1,
            body: blob("zstd"),
            digests: blob(""),
            last: false,
        },
        ToHub::OpenIn { open: open(), container: container(Some(&"0123456789abcdef".repeat(4))) },
        ToHub::OpenIn { open: Open { process: None, ..open() }, container: container(None) },
        ToHub::Ops { generation: 45, ops: vec![Op { how: How::Held, ..patch() }], last: true },
        ToHub::Ahead { number: 300, op: patch() },
        ToHub::AheadData { number: 300, encoding: 1, body: blob("zstd") },
        ToHub::AheadEnd { number: 300 },
    ]
}

/// All that a packed frame can hold.
pub(crate) fn packed_ops() -> Vec<Op> {
    let mut ops = ops();
    let [_, _, link] = entries().try_into().unwrap();
    let meta = Meta { mode: 0o644, mtime_ns: i64::MAX };
    let like = Change { path: path("1/z"), old: None, new: Some(entries().remove(0)) };
    let link = Change { path: path("1/zz"), old: None, new: Some(link) };
    ops.insert(4, patch());
    ops.insert(5, tree());
    ops.push(Op { change: like, how: hows().remove(7), meta });
    ops.push(Op { change: link, how: How::None, meta: Meta::default() });
    ops
}

fn container(id: Option<&str>) -> Container {
    Container { name: "app".to_owned(), id: id.map(str::to_owned) }
}

fn tree() -> Op {
    let change = Change { path: path("0/t"), old: None, new: Some(Entry::Directory) };
    Op { change, how: hows().remove(6), meta: Meta { mode: 0o755, mtime_ns: 7 } }
}

fn patch() -> Op {
    let file = entries().remove(0);
    let old = Some(Entry::File { digest: Digest([0xef; 16]), size: 11_000, executable: false });
    let change = Change { path: path("0/p"), old, new: Some(file) };
    Op { change, how: How::Patch, meta: Meta { mode: 0, mtime_ns: 7 } }
}

pub(crate) fn from_hub() -> Vec<FromHub> {
    let skipped: Vec<Skipped> = (0..).zip(reasons()).map(skip).collect();
    let withdrawn = Skipped { index: 99, reason: None };
    let mut all = vec![
        FromHub::Opened { tree: TREE, generation: 41, epoch: 3, populated: true },
        FromHub::Drifted { paths: vec![path("0/a")] },
        FromHub::Need { indices: vec![1, 128, u32::MAX], adopted: 4, last: true },
        FromHub::Applied {
            generation: 42,
            tree: TREE,
            skipped: skipped.into_iter().chain([withdrawn]).collect(),
            overwritten: vec![path("0/b")],
            micros: 900,
        },
        FromHub::Listing {
            path: Some(path("0")),
            children: listed().into_iter().map(|entry| (blob("n"), entry)).collect(),
            last: false,
        },
        FromHub::Listing { path: None, children: Vec::new(), last: true },
        FromHub::Foreign { paths: vec![(path("0/log"), listed().remove(2))], last: false },
        FromHub::ForeignRemoved {
            removed: 3,
            problems: vec![Problem { path: path("0/log"), reason: Reason::NotEmpty }],
        },
        FromHub::Output { stream: 2, bytes: blob("oops\n") },
        FromHub::Credit { bytes: 300 },
        FromHub::Ping,
        FromHub::Bye { reason: "stopped".to_owned() },
        FromHub::StdinTaken { bytes: 70_000 },
        FromHub::AppliedPart {
            skipped: vec![Skipped { index: 5, reason: Some(Reason::NoSpace) }],
            overwritten: vec![path("0/c")],
        },
        FromHub::NotReplayable { paths: vec![path("0/big")], count: 300 },
        FromHub::AheadTaken { bytes: 131_072 },
        FromHub::Held { number: 300 },
    ];
    all.extend(not_held().into_iter().map(|why| FromHub::NotHeld { number: 7, why }));
    all.extend(refusals().into_iter().map(FromHub::Refused));
    all.extend(child_events().into_iter().map(FromHub::Child));
    all
}

fn skip((index, reason): (u32, Reason)) -> Skipped {
    Skipped { index, reason: Some(reason) }
}
