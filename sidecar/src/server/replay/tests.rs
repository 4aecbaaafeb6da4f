//! Sites in a container that is a directory, and what they know after what.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::super::ahead::Lane;
use super::super::apply::{Applying, Brought, Parts};
use super::super::root::TargetRoot;
use super::super::root::tests::mounts::in_own_mounts;
use super::super::store::{Contents, Store};
use super::super::target::Identity;
use super::*;
use rustix::mount::MountFlags;

use crate::receive::Receiver;
use crate::tree::{Edit, Stamp};
use crate::wire::{Blob, Container, Open, WriteMode};

/// A site of container `app` whose root is `top`, with its contents in `store`. Nothing of it is
/// written down.
pub(in crate::server) fn site(top: &Path, store: &Path, held: &[Edit]) -> Site {
    let mut inside = started("1");
    inside.contents = Some(Contents::open(store, 64 << 20).unwrap());
    let held = Snapshot::empty().apply(held).unwrap();
    Site {
        roots: vec![Some(Arc::new(TargetRoot::open_directory(top, false).unwrap()))],
        process: None,
        inside: Some(inside),
        store: None,
        receiver: Receiver::new(held, 1, 1),
        applying: Applying::default(),
        ahead: Lane::default(),
        torn: Default::default(),
        in_place: true,
        parts: Parts::default(),
        directory: top.to_owned(),
        epoch: 1,
        populated: false,
        drifted: Vec::new(),
        claims: Vec::new(),
    }
}

/// One start of the container `app`.
pub(in crate::server) fn started(start: &str) -> Inside {
    let [pod, name, start] = ["pod", "app", start].map(str::to_owned);
    Inside::of(Identity { pod, name, start, id: None })
}

/// What a workspace asks for in container `app`.
pub(in crate::server) fn request(who: u8, roots: &[&str]) -> Request {
    let open = Open {
        workspace: [who; 16],
        writer: format!("writer-{who}"),
        roots: roots.iter().map(|root| Blob(root.as_bytes().to_vec())).collect(),
        process: None,
        write: WriteMode::Auto,
        take_over: false,
        check: false,
        dry_run: false,
    };
    Request { open, container: Some(Container { name: "app".to_owned(), id: None }) }
}

fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

fn file(bytes: &[u8]) -> Entry {
    Entry::File { digest: Digest::of(bytes), size: bytes.len() as u64, executable: false }
}

/// Puts files there, as edits of an empty tree.
fn filled(top: &Path, names: &[&str]) -> Vec<Edit> {
    let mut edits = vec![(path("0"), Some(Node::directory()))];
    for name in names {
        std::fs::write(top.join(name), name).unwrap();
        let found = TargetRoot::open_directory(top, false).unwrap().stat(&path(name));
        let stamp = found.unwrap().map_or_else(Stamp::default, |found| found.stamp);
        let node = Node::from_entry(&file(name.as_bytes()), stamp);
        edits.push((path(&format!("0/{name}")), Some(node)));
    }
    edits
}

#[test]
fn i4_what_is_forgotten_is_not_removed_again() {
    let home = tempfile::tempdir().unwrap();
    let [top, store] = ["top", "store"].map(|name| home.path().join(name));
    [&top, &store].into_iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let mut here = site(&top, &store, &filled(&top, &["ignored", "kept", "removed"]));
    let op = |name: &str, how: How| {
        let old = Some(file(name.as_bytes()));
        let change = Change { path: path(&format!("0/{name}")), old, new: None };
        Op { change, how, meta: Meta::default() }
    };
    let ops = vec![op("ignored", How::Forget), op("removed", How::None)];
    let changes: Vec<Change> = ops.iter().map(|op| op.change.clone()).collect();
    let target = here.receiver.held().apply_changes(&changes).unwrap().id();
    here.take_ops(Brought { generation: 2, base: None, ops, last: true }).unwrap();
    here.commit(2, target).unwrap();
    assert!(top.join("ignored").exists() && !top.join("removed").exists());
    let gone: Vec<String> = here.inside.unwrap().gone.iter().map(ToString::to_string).collect();
    assert_eq!(gone, ["0/removed"]);
}

#[test]
fn i9_what_was_not_written_again_whole_is_not_complete_at_the_next_opening_either() {
    let home = tempfile::tempdir().unwrap();
    let [top, store] = ["top", "store"].map(|name| home.path().join(name));
    std::fs::create_dir(&top).unwrap();
    let open = request(1, &["/srv"]);
    let opened = |lost: Option<Snapshot>| {
        let (record, _) = Store::open(&store).unwrap();
        let held = if lost.is_none() { filled(&top, &["there"]) } else { Vec::new() };
        let mut here = site(&top, &store, &held);
        here.store = Some(record);
        here.stand(&open, lost).unwrap();
        here
    };
    let mut first = opened(None);
    first.complete();
    assert!(first.is_complete());
    first.close();
    assert!(opened(None).is_complete(), "as it was");
    // The container lost a file whose content is not kept.
    let edits = filled(&top, &["there", "unkept"]);
    std::fs::remove_file(top.join("unkept")).unwrap();
    let lost = Snapshot::empty().apply(&edits).unwrap();
    assert!(!opened(Some(lost)).is_complete());
    let mut again = opened(None);
    assert!(!again.is_complete(), "nobody brought it");
    again.complete();
    drop(again);
    assert!(opened(None).is_complete());
}

/// A megabyte for the store, and what fills it up to the last block.
fn on_a_small_volume(test: impl FnOnce(&Path, &dyn Fn()) + Send) {
    in_own_mounts(|| {
        let home = tempfile::tempdir().unwrap();
        let volume = home.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        let size = Some(c"size=1m");
        rustix::mount::mount("tmpfs", &volume, "tmpfs", MountFlags::empty(), size).unwrap();
        let fill = || {
            let mut ballast = std::fs::File::create(volume.join("ballast")).unwrap();
            let full = std::io::copy(&mut std::io::repeat(1), &mut ballast).unwrap_err();
            assert!(is_full(&full));
        };
        test(home.path(), &fill);
    });
}

/// Files named by these numbers, and what a generation did that brought them.
fn written(top: &Path, names: Range<u8>, bytes: impl Fn(u8) -> Vec<u8>) -> Vec<Edit> {
    let mut edits = vec![(path("0"), Some(Node::directory()))];
    for n in names {
        std::fs::write(top.join(n.to_string()), bytes(n)).unwrap();
        let node = Node::from_entry(&file(&bytes(n)), Stamp::default());
        edits.push((path(&format!("0/{n}")), Some(node)));
    }
    edits
}

#[test]
fn i12_on_a_full_volume_less_is_kept_and_all_is_synced() {
    on_a_small_volume(|home, fill| {
        let [top, store] = ["top", "volume/store"].map(|name| home.join(name));
        std::fs::create_dir(&top).unwrap();
        let (record, _) = Store::open(&store).unwrap();
        let bytes = |n: u8| vec![n; 60_000];
        let edits = written(&top, 10..50, bytes);
        let mut here = site(&top, &store, &edits);
        here.store = Some(record);
        here.remember(&edits, &Default::default());
        here.finish_keeping();
        let kept = |site: &Site| site.inside.as_ref().unwrap().contents.as_ref().unwrap().bytes();
        assert!((1..600_000).contains(&kept(&here)), "{}", kept(&here));
        let Some(FromHub::NotReplayable { count, .. }) = here.not_replayable() else {
            panic!("not told");
        };
        assert!((30..40).contains(&count), "{count}");
        // Somebody else fills it: the record comes first. Its log begins a new block now and then.
        fill();
        for generation in 2..40 {
            let name = path(&format!("0/{}", generation + 8));
            let change = Change { path: name, old: Some(file(&bytes(generation + 8))), new: None };
            let op = Op { change, how: How::Forget, meta: Meta::default() };
            let changes = std::slice::from_ref(&op.change);
            let target = here.receiver.held().apply_changes(changes).unwrap().id();
            let (generation, ops) = (u64::from(generation), vec![op]);
            here.take_ops(Brought { generation, base: None, ops, last: true }).unwrap();
            let answers = here.commit(generation, target).unwrap();
            assert!(
                matches!(&answers[..], [FromHub::Applied { skipped, .. }] if skipped.is_empty()),
                "{answers:?}"
            );
        }
    });
}

#[test]
fn when_a_full_volume_has_room_again_more_is_kept() {
    on_a_small_volume(|home, _| {
        let [top, store] = ["top", "volume/store"].map(|name| home.join(name));
        std::fs::create_dir(&top).unwrap();
        let (record, _) = Store::open(&store).unwrap();
        let others = home.join("volume/others");
        std::fs::write(&others, vec![1; 900_000]).unwrap();
        let bytes = |n: u8| vec![n; 20_000];
        let edits = written(&top, 10..20, bytes);
        let mut here = site(&top, &store, &edits);
        here.store = Some(record);
        let mut remember = |edits: &[_]| {
            here.remember(edits, &Default::default());
            here.finish_keeping();
            let told = here.not_replayable();
            let contents = here.inside.as_ref().unwrap().contents.as_ref().unwrap();
            (told, contents.evictions(), contents.bytes())
        };
        let (told, evictions, bytes) = remember(&edits);
        assert!(matches!(told, Some(FromHub::NotReplayable { count: 5.., .. })), "{told:?}");
        assert!(evictions > 0 && bytes < 100_000, "{evictions} {bytes}");
        // Little room is none: else it would be full again with the next save.
        assert_eq!(remember(&[]), (None, evictions, bytes));
        std::fs::write(&others, vec![1; 850_000]).unwrap();
        assert_eq!(remember(&[]), (None, evictions, bytes));
        std::fs::remove_file(&others).unwrap();
        let (told, now, bytes) = remember(&[]);
        assert!(matches!(told, Some(FromHub::NotReplayable { count: 0, .. })), "{told:?}");
        assert!(now == evictions && bytes > 200_000, "{now} {bytes}");
    });
}

#[test]
fn i12_a_full_volume_keeps_nobody_out() {
    on_a_small_volume(|home, fill| {
        let (top, state) = (home.join("top"), home.join("volume"));
        std::fs::create_dir(&top).unwrap();
        // Claims lie elsewhere: of a target in no container nobody knows its folder by then.
        std::fs::create_dir(home.join("roots")).unwrap();
        std::os::unix::fs::symlink(home.join("roots"), state.join("roots")).unwrap();
        let settings = Settings {
            state: state.clone(),
            once: false,
            idle: None,
            container: None,
            own: false,
            wrappers: None,
            contents_bytes: 1 << 20,
        };
        let mut open = request(1, &[top.to_str().unwrap()]);
        open.container = None;
        Site::open(&open, &settings, None).ok().unwrap().close();
        // Only its contents are left of it.
        let folder = std::fs::read_dir(state.join("hubs")).unwrap().next().unwrap().unwrap().path();
        for file in std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap()) {
            if file.file_type().unwrap().is_file() {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
        std::fs::write(folder.join("contents"), vec![0; 500_000]).unwrap();
        fill();
        Site::open(&open, &settings, None).ok().expect("it is opened").close();
        assert!(!folder.join("contents").exists());
    });
}
