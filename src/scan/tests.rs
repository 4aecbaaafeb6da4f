use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, Instant};

use e2ek_sidecar::tree::{Node, Reason, Stamp};
use proptest::prelude::*;

use super::file::Facts;
use super::grain::Grain;
use super::*;

struct Place {
    home: tempfile::TempDir,
    scanner: Scanner,
    tree: Snapshot,
}

fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

impl Place {
    fn new() -> Self {
        Self::judged(Arc::new(|_: &SyncPath, _| true))
    }

    fn judged(judge: Judge) -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        fs::create_dir(&root).unwrap();
        Self { home, scanner: Scanner::new(root, judge), tree: Snapshot::empty() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scanner.root().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), content).unwrap();
    }

    fn scan(&mut self, hints: &Hints) -> ScanReport {
        let report = self.scanner.scan(&self.tree, hints).unwrap();
        self.tree = report.tree.clone();
        report
    }

    /// Walks everything.
    fn scan_all(&mut self) -> ScanReport {
        self.scan(&everywhere())
    }

    /// Looks at single paths.
    fn look(&mut self, names: &[&str]) -> ScanReport {
        let mut hints = Hints::default();
        names.iter().for_each(|name| hints.look(path(name), Instant::now()));
        self.scan(&hints)
    }

    fn content_is(&self, name: &str, content: &[u8]) -> bool {
        matches!(self.tree.get(&path(name)), Some(&Node::File { digest, size, .. })
            if digest == Digest::of(content) && size == content.len() as u64)
    }
}

fn everywhere() -> Hints {
    let mut hints = Hints::default();
    hints.look_everywhere(SyncPath::root(), Instant::now());
    hints
}

/// What a simple reader says stands below a directory.
fn plainly(directory: &Path) -> Snapshot {
    fn of(directory: &Path) -> Arc<Dir> {
        let mut builder = e2ek_sidecar::tree::DirBuilder::default();
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let meta = entry.path().symlink_metadata().unwrap();
            let node = if meta.is_dir() {
                Node::Directory(of(&entry.path()))
            } else if meta.is_symlink() {
                let target = fs::read_link(entry.path()).unwrap();
                Node::Symlink(target.as_os_str().as_bytes().into())
            } else {
                let digest = Digest::of(&fs::read(entry.path()).unwrap());
                let executable = meta.mode() & 0o100 != 0;
                Node::File { digest, size: meta.len(), executable, stamp: Stamp::default() }
            };
            builder.push(entry.file_name().as_bytes(), node);
        }
        builder.finish()
    }
    Snapshot::from_root(of(directory))
}

/// Runs `act` without the rights of root, when we have them.
fn without_rights<R: Send>(act: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            if rustix::process::geteuid().is_root() {
                let nobody = rustix::process::Uid::from_raw(65534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            }
            act()
        });
        run.join().unwrap()
    })
}

#[test]
fn i5_same_size_and_mtime_set_back_fool_neither_a_walk_nor_a_look() {
    let mut place = Place::new();
    for walk in [true, false] {
        place.write("d/f", b"before");
        let mtime = place.at("d/f").metadata().unwrap().modified().unwrap();
        place.scan_all();
        assert!(place.content_is("d/f", b"before"));
        place.write("d/f", b"after!");
        let file = File::options().write(true).open(place.at("d/f")).unwrap();
        file.set_times(FileTimes::new().set_modified(mtime)).unwrap();
        let report = if walk { place.scan_all() } else { place.look(&["d/f"]) };
        assert!(place.content_is("d/f", b"after!"), "walk: {walk}");
        assert_eq!((report.files_read, report.bytes_read), (1, 6));
    }
}

#[test]
fn i5_an_entry_younger_than_the_clocks_grain_is_read_again() {
    let mut place = Place::new();
    place.write("f", b"x");
    let device = Facts::of(File::open(place.at("f")).unwrap()).unwrap().device;
    for (grain, reads) in [(Grain::Exact, 0), (Grain::Coarse(Duration::from_secs(3600)), 1)] {
        place.scanner.grains = Grains::with(device, grain);
        place.tree = Snapshot::empty();
        assert_eq!(place.scan_all().files_read, 1);
        assert_eq!(place.scan_all().files_read, reads, "{grain:?}");
    }
}

#[test]
fn nothing_is_read_and_nothing_new_made_when_nothing_changed() {
    let mut place = Place::new();
    (0..50).for_each(|i| place.write(&format!("d{}/f{i}", i % 7), b"x"));
    place.scan_all();
    let before = place.tree.clone();
    let report = place.scan_all();
    assert_eq!((report.files_read, report.entries), (0, 57));
    assert!(Arc::ptr_eq(before.root(), place.tree.root()));
}

#[test]
fn a_directory_that_moved_is_not_read_again() {
    let mut place = Place::new();
    (0..50).for_each(|i| place.write(&format!("old/d{}/f{i}", i % 7), b"x"));
    place.write("old/top", b"top");
    place.write("other/d0/f0", b"y");
    place.scan_all();
    let before = place.tree.dir(&path("old")).unwrap().clone();
    fs::create_dir_all(place.at("new")).unwrap();
    fs::rename(place.at("old"), place.at("new/place")).unwrap();
    let report = place.look(&["new", "old"]);
    assert_eq!(report.files_read, 0);
    assert!(Arc::ptr_eq(place.tree.dir(&path("new/place")).unwrap(), &before), "the very same");
    assert!(place.tree.get(&path("old")).is_none());
    assert_eq!(place.tree.id(), plainly(place.scanner.root()).id());
    // Back, and something in it is another.
    fs::rename(place.at("new/place"), place.at("old")).unwrap();
    place.write("old/d3/f3", b"z");
    place.write("old/d3/born", b"n");
    fs::remove_file(place.at("old/d4/f4")).unwrap();
    let report = place.look(&["new", "old", "new/place"]);
    assert_eq!(report.files_read, 2);
    assert_eq!(place.tree.id(), plainly(place.scanner.root()).id());
}

#[test]
fn i5_a_directory_that_looks_like_one_that_went_is_read() {
    let mut place = Place::new();
    fs::set_permissions(place.home.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for name in ["a", "b", "sub/c"] {
        place.write(&format!("old/{name}"), b"old");
    }
    place.scan_all();
    for name in ["a", "b", "sub/c"] {
        place.write(&format!("new/{name}"), b"new");
    }
    fs::remove_dir_all(place.at("old")).unwrap();
    for name in ["new/b", "new/sub"] {
        fs::set_permissions(place.at(name), PermissionsExt::from_mode(0o000)).unwrap();
    }
    let report = without_rights(|| place.look(&["new", "old"]));
    assert!(place.content_is("new/a", b"new"));
    assert_eq!(report.problems.len(), 2, "{:?}", report.problems);
    for name in ["new/b", "new/sub/c"] {
        assert!(place.tree.get(&path(name)).is_none(), "{name}: what cannot be read is not known");
    }
    fs::set_permissions(place.at("new/sub"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn what_is_read_is_handed_on_within_its_bound() {
    let mut place = Place::new();
    place.write("small", b"content");
    place.write("large", &vec![7; 1024 * 1024 + 1]);
    (0..20u8).for_each(|i| place.write(&format!("m{i}"), &vec![i; 1024 * 1024]));
    let report = place.scan_all();
    assert_eq!(report.contents.get(&Digest::of(b"content")).map(|c| &**c), Some(&b"content"[..]));
    assert!(report.contents.iter().all(|(digest, content)| Digest::of(content) == *digest));
    let kept: usize = report.contents.values().map(|content| content.len()).sum();
    assert!(kept <= MAX_CONTENTS_BYTES && kept > MAX_CONTENTS_BYTES - 1024 * 1024, "{kept}");
    assert_eq!(report.files_read, 22);
}

#[test]
fn i4_what_may_not_be_read_stays_and_is_told() {
    let mut place = Place::new();
    fs::set_permissions(place.home.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for name in ["open", "file", "dir/f", "dir/sub/g"] {
        place.write(name, b"old");
    }
    place.scan_all();
    let before = place.tree.clone();
    for name in ["open", "file", "dir/f"] {
        place.write(name, b"new");
    }
    place.write("never", b"seen");
    for name in ["file", "dir", "never"] {
        fs::set_permissions(place.at(name), PermissionsExt::from_mode(0o0)).unwrap();
    }
    let mut hints = Hints::default();
    ["open", "file", "dir/f", "never"].iter().for_each(|n| hints.look(path(n), Instant::now()));
    for hints in [everywhere(), hints] {
        place.tree = before.clone();
        let report = without_rights(|| place.scan(&hints));
        let problem = |name| Problem { path: path(name), reason: Reason::Denied };
        assert_eq!(report.problems, ["dir", "file", "never"].map(problem));
        assert!(place.content_is("open", b"new") && place.content_is("file", b"old"));
        assert!(place.content_is("dir/f", b"old") && place.content_is("dir/sub/g", b"old"));
        assert!(place.tree.get(&path("never")).is_none());
    }
    fs::set_permissions(place.at("dir"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn special_files_are_told_and_links_are_not_followed() {
    let mut place = Place::new();
    fs::write(place.home.path().join("outside"), b"secret").unwrap();
    place.write("d/f", b"x");
    symlink("../../outside", place.at("d/out")).unwrap();
    symlink("..", place.at("d/loop")).unwrap();
    symlink("self", place.at("self")).unwrap();
    let root = OwnedFd::from(File::open(place.scanner.root()).unwrap());
    rustix::fs::mkfifoat(&root, "fifo", Mode::RUSR | Mode::WUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.at("d/socket")).unwrap();
    let report = place.scan_all();
    let special = |name| Problem { path: path(name), reason: Reason::Special };
    assert_eq!(report.problems, ["d/socket", "fifo"].map(special));
    for (link, target) in [("d/out", "../../outside"), ("d/loop", ".."), ("self", "self")] {
        let Some(Node::Symlink(found)) = place.tree.get(&path(link)) else { panic!("{link}") };
        assert_eq!(&**found, target.as_bytes());
    }
    assert_eq!((place.tree.count(), report.files_read), (5, 1));
    assert_eq!(place.look(&["fifo", "d/socket"]).problems.len(), 2);
}

#[test]
fn i6_a_directory_that_became_a_link_leads_nowhere() {
    let mut place = Place::new();
    fs::create_dir(place.home.path().join("outside")).unwrap();
    fs::write(place.home.path().join("outside/f"), b"secret").unwrap();
    place.write("d/e/f", b"mine");
    place.scan_all();
    fs::remove_dir_all(place.at("d/e")).unwrap();
    symlink("../../outside", place.at("d/e")).unwrap();
    let report = place.look(&["d/e/f"]);
    assert_eq!((report.files_read, place.tree.get(&path("d/e/f")).is_none()), (0, true));
    place.look(&["d/e"]);
    assert!(matches!(place.tree.get(&path("d/e")), Some(Node::Symlink(_))));
    fs::remove_file(place.at("d/e")).unwrap();
    fs::rename(place.at("d"), place.home.path().join("moved")).unwrap();
    symlink("../moved", place.at("d")).unwrap();
    assert_eq!(place.look(&["d/e/f", "d/new/f"]).files_read, 0);
}

#[test]
fn names_are_bytes_up_to_the_longest() {
    let mut place = Place::new();
    let odd = OsStr::from_bytes(b"\xff\n\x1b");
    let long = "n".repeat(255);
    fs::write(place.scanner.root().join(odd), b"odd").unwrap();
    place.write(&long, b"long");
    place.scan_all();
    assert!(place.tree.get(&SyncPath::new(odd.as_bytes()).unwrap()).is_some());
    assert!(place.content_is(&long, b"long"));
}

#[test]
fn what_is_too_deep_for_a_path_is_told() {
    let mut place = Place::new();
    let deep = vec!["d"; e2ek_sidecar::path::MAX_DEPTH].join("/");
    fs::create_dir_all(place.at(&deep)).unwrap();
    place.write(&format!("{deep}/f"), b"x");
    let report = place.scan_all();
    assert_eq!(report.problems, [Problem { path: path(&deep), reason: Reason::Name }]);
    assert_eq!(place.tree.count(), e2ek_sidecar::path::MAX_DEPTH as u64);
}

#[test]
fn what_is_not_kept_is_not_in_the_tree() {
    let judge = |path: &SyncPath, is_dir: bool| path.name() != Some(b"out") || !is_dir;
    let mut place = Place::judged(Arc::new(judge));
    for name in ["a/f", "a/out/f", "b/out"] {
        place.write(name, b"x");
    }
    place.scan_all();
    place.look(&["a/out/f", "a/out"]);
    let mut names = Vec::new();
    place.tree.walk(&mut |path, _| names.push(path.clone()));
    assert_eq!(names, ["a", "a/f", "b", "b/out"].map(path));
}

#[test]
fn the_filter_decides_directory_by_directory_and_is_followed_when_reloaded() {
    let mut place = Place::new();
    for name in ["a/f", "a/f.log", "a/out/f", "b/out/f", "b/f.log", ".env", ".git/config"] {
        place.write(name, b"x");
    }
    place.write(".gitignore", b"*.log\n");
    place.write("a/.gitignore", b"out\n!f.log\n");
    let options = crate::filter::FilterOptions::default();
    let filter = Arc::new(Filter::new(place.scanner.root(), &options).unwrap());
    // A repository inside goes by its own rules.
    place.write("c/.git/HEAD", b"");
    ["objects", "refs"].iter().for_each(|d| fs::create_dir(place.at("c/.git").join(d)).unwrap());
    place.write("c/f.log", b"");
    place.scanner = Scanner::filtered(filter.clone());
    let files = |place: &Place| {
        let mut names = Vec::new();
        place.tree.walk(&mut |path, node| {
            if !matches!(node, Node::Directory(_)) {
                names.push(path.to_string());
            }
        });
        names
    };
    let report = place.scan_all();
    assert_eq!(
        files(&place),
        [".gitignore", "a/.gitignore", "a/f", "a/f.log", "b/out/f", "c/f.log"]
    );
    assert_eq!((report.ignored, report.protected), (2, 3));
    place.look(&["a/out/f", "b/f.log", "a/f.log"]);
    assert_eq!(files(&place).len(), 6);
    place.write("a/.gitignore", b"");
    filter.reload();
    place.scan_all();
    assert_eq!(
        files(&place),
        [".gitignore", "a/.gitignore", "a/f", "a/out/f", "b/out/f", "c/f.log"]
    );
}

/// Figures for the head of `scan`; run with `--release -- --ignored --nocapture figures`.
#[test]
#[ignore = "a measurement"]
fn figures() {
    for files in [10_000, 100_000] {
        let place = Place::new();
        let content = vec![b'x'; 3700];
        for i in 0..files {
            place.write(&format!("d{}/e{}/f{i}.rs", i / 1000, i / 10 % 100), &content);
        }
        let filter = Filter::new(place.scanner.root(), &Default::default()).unwrap();
        let filtered = Scanner::filtered(Arc::new(filter));
        for (what, scanner) in [("no rules", &place.scanner), ("filter", &filtered)] {
            let begin = Instant::now();
            let first = scanner.scan(&Snapshot::empty(), &everywhere()).unwrap();
            let reading = begin.elapsed();
            let mut again: Vec<_> = (0..5)
                .map(|_| {
                    let begin = Instant::now();
                    scanner.scan(&first.tree, &everywhere()).unwrap();
                    begin.elapsed()
                })
                .collect();
            again.sort();
            let mut hints = Hints::default();
            hints.look(path("d0/e0/f1.rs"), Instant::now());
            let mut looks: Vec<_> = (0..200)
                .map(|i| {
                    place.write("d0/e0/f1.rs", format!("{i}").as_bytes());
                    let begin = Instant::now();
                    assert_eq!(scanner.scan(&first.tree, &hints).unwrap().files_read, 1);
                    begin.elapsed()
                })
                .collect();
            looks.sort();
            println!(
                "{files} files, {what}: reading all {reading:?}, nothing changed {:?}, one save \
                 p50 {:?} p99 {:?}",
                again[0], looks[100], looks[198],
            );
        }
    }
}

#[test]
fn a_root_that_is_gone_is_an_error_and_not_an_empty_tree() {
    let mut place = Place::new();
    place.write("f", b"x");
    place.scan_all();
    fs::remove_dir_all(place.scanner.root()).unwrap();
    let error = place.scanner.scan(&place.tree, &everywhere()).unwrap_err();
    assert!(matches!(error, ScanError::RootGone { .. }));
}

#[test]
fn a_large_tree_is_walked_by_many_and_none_is_missed() {
    let mut place = Place::new();
    for i in 0..3000 {
        place.write(&format!("wide/f{i}"), format!("{i}").as_bytes());
        place.write(&format!("a{}/b{}/f{i}", i % 40, i % 7), b"x");
    }
    assert_eq!(place.scan_all().entries, 3000 * 2 + 1 + 40 + 280);
    assert_eq!(place.tree.id(), plainly(place.scanner.root()).id());
    let mut hints = Hints::default();
    for i in 0..3000 {
        place.write(&format!("wide/f{i}"), format!("-{i}").as_bytes());
        hints.look(path(&format!("wide/f{i}")), Instant::now());
    }
    assert_eq!(place.scan(&hints).files_read, 3000);
    assert_eq!(place.tree.id(), plainly(place.scanner.root()).id());
}

#[derive(Debug, Clone)]
enum Act {
    Write(String, Vec<u8>),
    Remove(String),
    Link(String),
    Rename(String, String),
    Mode(String, bool),
}

fn any_act() -> impl Strategy<Value = Act> {
    let name = || "[ab](/[abc]){0,2}";
    prop_oneof![
        4 => (name(), proptest::collection::vec(0u8..3, 0..3)).prop_map(|(n, c)| Act::Write(n, c)),
        1 => name().prop_map(Act::Remove),
        1 => name().prop_map(Act::Link),
        1 => (name(), name()).prop_map(|(a, b)| Act::Rename(a, b)),
        1 => (name(), any::<bool>()).prop_map(|(n, x)| Act::Mode(n, x)),
    ]
}

/// Does it, when it can be done, and says which names it touched.
fn act(root: &Path, act: &Act) -> Vec<SyncPath> {
    let mut touched: Vec<&str> = Vec::new();
    match act {
        Act::Write(name, content) => {
            let file = root.join(name);
            if fs::create_dir_all(file.parent().unwrap()).is_ok() {
                // The outermost new directory is what a watch would tell of; any above does.
                touched.push(name);
                let _ = fs::write(file, content);
            }
        }
        Act::Remove(name) => {
            let file = root.join(name);
            touched.push(name);
            let _ = fs::remove_file(&file).or_else(|_| fs::remove_dir_all(&file));
        }
        Act::Link(name) => {
            touched.push(name);
            let _ = symlink("/dev/null/nowhere", root.join(name));
        }
        Act::Rename(from, to) => {
            touched.extend([&**from, &**to]);
            let _ = fs::rename(root.join(from), root.join(to));
        }
        Act::Mode(name, executable) => {
            let file = root.join(name);
            if file.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                touched.push(name);
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(file, PermissionsExt::from_mode(mode)).unwrap();
            }
        }
    }
    touched.into_iter().map(path).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn i5_looking_at_what_was_touched_equals_walking_everything(
        rounds in proptest::collection::vec(proptest::collection::vec(any_act(), 1..6), 1..8)
    ) {
        let mut place = Place::new();
        for round in rounds {
            let mut hints = Hints::default();
            for one in &round {
                for path in act(place.scanner.root(), one) {
                    hints.look(path, Instant::now());
                }
            }
            let report = place.scan(&hints);
            prop_assert_eq!(report.problems, []);
            prop_assert_eq!(place.tree.id(), plainly(place.scanner.root()).id(), "after {:?}", round);
        }
    }
}

/// A file of zeros that takes no room, longer than what is hashed at once.
fn sparse(place: &Place, name: &str) {
    File::create(place.at(name)).unwrap().set_len(9 << 20).unwrap();
}

#[test]
fn what_is_small_is_told_without_reading_what_is_large() {
    let mut place = Place::new();
    sparse(&place, "known");
    place.scan_all();
    let small = |place: &mut Place, names: &[&str]| {
        let mut hints = Hints::default();
        names.iter().for_each(|name| hints.look(path(name), Instant::now()));
        let report = place.scanner.scan_small(&place.tree, &hints).unwrap();
        place.tree = report.tree.clone();
        (report.later.iter().map(ToString::to_string).collect::<Vec<_>>(), report.bytes_read)
    };
    let before = place.tree.get(&path("known")).cloned();
    sparse(&place, "new");
    place.write("small", b"small");
    // Changed where it stands.
    let file = fs::OpenOptions::new().write(true).open(place.at("known")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"!", 5 << 20).unwrap();
    drop(file);
    let told = small(&mut place, &["new", "small", "known"]);
    assert_eq!(told, (vec!["known".to_owned(), "new".to_owned()], 5));
    assert!(place.content_is("small", b"small"));
    assert!(place.tree.get(&path("new")).is_none(), "not there before it is known");
    assert_eq!(place.tree.get(&path("known")).map(Node::entry), before.map(|node| node.entry()));
    // Looked at for itself it is read; so is one that may have been renamed.
    place.look(&["new", "known"]);
    fs::rename(place.at("new"), place.at("renamed")).unwrap();
    let (later, _) = small(&mut place, &["new", "renamed"]);
    assert_eq!(later, Vec::<String>::new());
    assert!(place.tree.get(&path("renamed")).is_some() && place.tree.get(&path("new")).is_none());
}
