//! Storms against a real watch: whatever is done to the tree, everything in it is found.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests; a measurement")]

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sync::engine::debounce::Seen;
use e2ek_sync::watch::{Observed, Shortage, Wanted, Watch};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Starts a watch, by one backend or the other.
type Start = fn(PathBuf, PathBuf, Wanted) -> std::io::Result<Watch>;

/// Each case runs over our own inotify and over what stands in for it on other systems.
macro_rules! over_both {
    ($($(#[$attribute:meta])* $case:ident,)*) => {
        mod inotify {
            $($(#[$attribute])* #[tokio::test] async fn $case() {
                super::$case(super::Watch::start).await;
            })*
        }
        mod portable {
            $($(#[$attribute])* #[tokio::test] async fn $case() {
                super::$case(super::Watch::start_portable).await;
            })*
        }
    };
}

over_both! {
    i5_files_born_in_new_directories_are_all_found,
    i5_directories_that_move_while_files_are_born_in_them_lose_none,
    two_directories_that_change_places_are_both_watched_afterwards,
    a_directory_moved_away_is_watched_no_more_and_one_moved_in_is,
    each_kind_of_change_is_told_apart,
    unwanted_directories_are_not_watched_until_they_are_wanted,
    i12_an_overflow_is_counted_and_everything_is_found_all_the_same,
    i5_a_directory_that_is_born_in_a_walk_is_watched_though_nothing_follows,
    a_root_that_goes_and_comes_back_is_told_and_watched_again,
    a_root_whose_parent_is_renamed_is_gone,
    #[ignore = "run by another test with few watches to be had"]
    few_watches,
    #[ignore = "run by another test with no inotify to be had"]
    no_instances,
    #[ignore = "run by another test in a process of its own"]
    no_descriptors,
    #[ignore = "a measurement"]
    figures,
}

/// A watched directory and somebody who looks where the watch says.
struct Scene {
    root: PathBuf,
    watch: Watch,
    found: HashSet<PathBuf>,
    /// All that was observed, in order.
    log: Vec<Observed>,
    _home: tempfile::TempDir,
}

fn path(text: &str) -> SyncPath {
    SyncPath::try_from(text).unwrap()
}

fn everything() -> Wanted {
    Arc::new(|_: &SyncPath| true)
}

impl Scene {
    /// Watches a directory made by `prepare`; returns once all watches stand.
    async fn new(start: Start, wanted: Wanted, prepare: impl FnOnce(&Path)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let home_path = home.path().canonicalize().unwrap();
        let (root, cookies) = (home_path.join("root"), home_path.join("cookies"));
        fs::create_dir(&cookies).unwrap();
        fs::create_dir(&root).unwrap();
        prepare(&root);
        let watch = start(root.clone(), cookies, wanted).unwrap();
        let mut scene = Self { root, watch, found: HashSet::new(), log: Vec::new(), _home: home };
        scene.until(|o| matches!(o, Observed::Everywhere { .. })).await;
        scene.log.clear();
        scene
    }

    fn at(&self, path: &SyncPath) -> PathBuf {
        if path.is_root() {
            return self.root.clone();
        }
        self.root.join(OsStr::from_bytes(path.as_bytes()))
    }

    /// Looks, as a scan would, where an observation says, at once.
    fn look(&mut self, observed: Vec<Observed>) {
        for one in observed {
            match &one {
                Observed::Path { path, .. } => {
                    let at = self.at(path);
                    if at.symlink_metadata().is_ok() {
                        self.found.insert(at);
                    }
                }
                Observed::Everywhere { subtree, .. } => {
                    let at = self.at(subtree);
                    list(&at, &mut self.found);
                }
                Observed::Lost { .. } | Observed::RootGone { .. } | Observed::RootBack { .. } => {}
            }
            self.log.push(one);
        }
    }

    async fn until(&mut self, wanted: impl Fn(&Observed) -> bool) {
        let search = async {
            loop {
                let batch = self.watch.next().await.expect("the watch goes on");
                let found = batch.iter().any(&wanted);
                self.look(batch);
                if found {
                    return;
                }
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(60), search).await;
        in_time.expect("it is observed within a minute");
    }

    /// Takes part in all that happened until now.
    async fn settle(&mut self) {
        tokio::time::timeout(Duration::from_secs(60), self.watch.sync_point()).await.unwrap();
        let rest = self.watch.take_now();
        self.look(rest);
    }

    /// What is in the tree and was not found.
    fn lost(&self) -> Vec<PathBuf> {
        let mut all = HashSet::new();
        list(&self.root, &mut all);
        all.into_iter().filter(|p| !self.found.contains(p)).collect()
    }

    fn saw(&self, wanted: &Observed) -> bool {
        self.log.iter().any(|o| same(o, wanted))
    }

    fn saw_path(&self, text: &str, seen: Seen) -> bool {
        self.saw(&Observed::Path { path: path(text), seen, at: Instant::now() })
    }
}

/// Equal but for the time.
fn same(a: &Observed, b: &Observed) -> bool {
    match (a, b) {
        (Observed::Path { path: p, seen: s, .. }, Observed::Path { path: q, seen: t, .. }) => {
            (p, s) == (q, t)
        }
        (Observed::Everywhere { subtree: p, .. }, Observed::Everywhere { subtree: q, .. }) => {
            p == q
        }
        _ => std::mem::discriminant(a) == std::mem::discriminant(b),
    }
}

fn list(directory: &Path, into: &mut HashSet<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            list(&entry.path(), into);
        }
        into.insert(entry.path());
    }
}

/// Runs `act` on a thread of its own while the scene goes on looking.
async fn storm(scene: &mut Scene, act: impl FnOnce() + Send + 'static) -> Duration {
    let begin = Instant::now();
    let mut acting = tokio::task::spawn_blocking(act);
    loop {
        tokio::select! {
            done = &mut acting => {
                done.unwrap();
                break;
            }
            batch = scene.watch.next() => scene.look(batch.expect("the watch goes on")),
        }
    }
    let took = begin.elapsed();
    scene.settle().await;
    took
}

fn fill(root: &Path, directories: usize, files: usize) {
    for d in 0..directories {
        let directory = root.join(format!("a{}/d{d}", d / 50));
        fs::create_dir_all(&directory).unwrap();
        for f in 0..files {
            fs::write(directory.join(format!("f{f}")), b"x").unwrap();
        }
    }
}

async fn i5_files_born_in_new_directories_are_all_found(start: Start) {
    let mut scene = Scene::new(start, everything(), |_| {}).await;
    let root = scene.root.clone();
    storm(&mut scene, move || fill(&root, 2_000, 5)).await;
    assert_eq!(scene.lost(), Vec::<PathBuf>::new());
    assert_eq!(scene.watch.stats().directories, 1 + 40 + 2_000);
}

async fn i5_directories_that_move_while_files_are_born_in_them_lose_none(start: Start) {
    let mut scene = Scene::new(start, everything(), |root| fill(root, 100, 1)).await;
    let root = scene.root.clone();
    let begin = scene.log.len();
    storm(&mut scene, move || {
        for round in 0..400 {
            let (from, to) = (round % 2, (round + 1) % 2);
            let (from, to) = (root.join(format!("a{from}")), root.join(format!("a{to}")));
            let aside = root.join("aside");
            fs::write(from.join(format!("d{}/in-{round}", from_number(&from))), b"x").unwrap();
            fs::rename(&from, &aside).unwrap();
            fs::create_dir(aside.join(format!("d{}/new-{round}", from_number(&aside)))).unwrap();
            fs::write(aside.join(format!("d{}/new-{round}/f", from_number(&aside))), b"x").unwrap();
            fs::rename(&to, &from).unwrap();
            fs::rename(&aside, &to).unwrap();
        }
    })
    .await;
    assert!(scene.log.len() > begin);
    assert_eq!(scene.lost(), Vec::<PathBuf>::new());
    let root = scene.root.clone();
    assert_eq!(scene.watch.stats().directories, directories(&root), "each directory, once");
    // And the watches stand where they say: a save in each directory is seen under its name.
    scene.found.clear();
    each_directory(&root, &mut |directory| fs::write(directory.join("last"), b"x").unwrap());
    scene.settle().await;
    let mut missing = Vec::new();
    each_directory(&root, &mut |directory| {
        if !scene.found.contains(&directory.join("last")) {
            missing.push(directory.to_owned());
        }
    });
    assert_eq!(missing, Vec::<PathBuf>::new());
}

/// Some directory that lies in it now.
fn from_number(directory: &Path) -> String {
    let name = fs::read_dir(directory).unwrap().flatten().map(|e| e.file_name()).min().unwrap();
    name.to_str().unwrap()[1..].to_owned()
}

fn each_directory(top: &Path, visit: &mut dyn FnMut(&Path)) {
    visit(top);
    for entry in fs::read_dir(top).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            each_directory(&entry.path(), visit);
        }
    }
}

fn directories(top: &Path) -> usize {
    let mut count = 0;
    each_directory(top, &mut |_| count += 1);
    count
}

async fn two_directories_that_change_places_are_both_watched_afterwards(start: Start) {
    let mut scene = Scene::new(start, everything(), |root| fill(root, 60, 1)).await;
    let root = scene.root.clone();
    let (a, b) = (root.join("a0/d1"), root.join("a1"));
    let cwd = rustix::fs::CWD;
    rustix::fs::renameat_with(cwd, &a, cwd, &b, rustix::fs::RenameFlags::EXCHANGE).unwrap();
    scene.settle().await;
    scene.found.clear();
    for file in [a.join("d50/f"), a.join("x"), b.join("y")] {
        fs::write(&file, b"x").unwrap();
        scene.settle().await;
        assert!(scene.found.contains(&file), "{}", file.display());
    }
    assert_eq!(scene.watch.stats().directories, directories(&root));
}

async fn a_directory_moved_away_is_watched_no_more_and_one_moved_in_is(start: Start) {
    let mut scene = Scene::new(start, everything(), |root| fill(root, 3, 1)).await;
    let (inside, outside) = (scene.root.join("a0"), scene.root.with_file_name("outside"));
    fs::rename(&inside, &outside).unwrap();
    scene.settle().await;
    assert!(scene.saw_path("a0", Seen::MovedOut));
    while scene.watch.stats().directories != 1 {
        // Nothing is observed of its end; the watch drops it within milliseconds.
        scene.settle().await;
    }
    fs::rename(&outside, &inside).unwrap();
    scene
        .until(|o| same(o, &Observed::Everywhere { subtree: path("a0"), at: Instant::now() }))
        .await;
    assert_eq!(scene.lost(), Vec::<PathBuf>::new());
    fs::write(inside.join("d2/f0"), b"y").unwrap();
    scene.settle().await;
    assert!(scene.saw_path("a0/d2/f0", Seen::Closed));
    fs::remove_dir_all(&inside).unwrap();
    scene.settle().await;
    assert!(scene.saw_path("a0", Seen::Removed));
    assert_eq!(scene.watch.stats().directories, 1);
}

async fn each_kind_of_change_is_told_apart(start: Start) {
    let mut scene =
        Scene::new(start, everything(), |root| fs::write(root.join("old"), b"x").unwrap()).await;
    let root = scene.root.clone();
    let at = |name: &str| root.join(name);
    fs::write(at("new"), b"x").unwrap();
    std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
    fs::hard_link(at("old"), at("other")).unwrap();
    fs::create_dir(at("dir")).unwrap();
    let open = fs::File::create(at("open")).unwrap();
    fs::rename(at("old"), at("moved")).unwrap();
    fs::remove_file(at("other")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(at("moved"), mode).unwrap();
    scene.settle().await;
    let made = |open| Seen::Created { open };
    for (name, seen) in [
        ("new", made(true)),
        ("new", Seen::Closed),
        ("link", made(false)),
        ("dir", made(false)),
        ("open", made(true)),
        ("old", Seen::MovedOut),
        ("moved", Seen::MovedIn),
        ("other", Seen::Removed),
        ("moved", Seen::Attributes),
    ] {
        assert!(scene.saw_path(name, seen), "{name} {seen:?} in {:?}", scene.log);
    }
    assert!(!scene.saw_path("open", Seen::Closed));
    drop(open);
    scene.settle().await;
    assert!(scene.saw_path("open", Seen::Closed));
    let before = scene.log.len();
    fs::read(at("new")).unwrap();
    list(&root, &mut HashSet::new());
    scene.settle().await;
    assert_eq!(scene.log.len(), before, "reading is not an event");
}

async fn unwanted_directories_are_not_watched_until_they_are_wanted(start: Start) {
    let wanted: Wanted = Arc::new(|path: &SyncPath| path.name() != Some(b"d1"));
    let mut scene = Scene::new(start, wanted, |root| fill(root, 3, 1)).await;
    assert_eq!(scene.watch.stats().directories, 4);
    fs::create_dir_all(scene.root.join("new/d1/x")).unwrap();
    scene.settle().await;
    assert_eq!(scene.watch.stats().directories, 5);
    scene.watch.rewalk(everything());
    scene.until(|o| matches!(o, Observed::Everywhere { .. })).await;
    assert_eq!(scene.watch.stats().directories, 8);
    scene.watch.rewalk(Arc::new(|path: &SyncPath| *path == SyncPath::try_from("new").unwrap()));
    scene.until(|o| matches!(o, Observed::Everywhere { .. })).await;
    assert_eq!(scene.watch.stats().directories, 2);
}

async fn i5_a_directory_that_is_born_in_a_walk_is_watched_though_nothing_follows(start: Start) {
    let (place, asked) = (Arc::new(OnceLock::<PathBuf>::new()), AtomicUsize::new(0));
    let root = Arc::clone(&place);
    // The root was listed by then, and events are read before the walk ends.
    let wanted: Wanted = Arc::new(move |_: &SyncPath| {
        if asked.fetch_add(1, Ordering::Relaxed) == 40 {
            fs::create_dir(root.get().unwrap().join("late")).unwrap();
        }
        true
    });
    let prepare = |root: &Path| {
        fill(root, 100, 1);
        place.set(root.to_owned()).unwrap();
    };
    let mut scene = Scene::new(start, wanted, prepare).await;
    let (all, since) = (directories(&scene.root), Instant::now());
    while scene.watch.stats().directories < all {
        assert!(since.elapsed() < Duration::from_secs(60), "it is not watched");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fs::write(scene.root.join("late/after"), b"x").unwrap();
    let after = path("late/after");
    scene.until(|o| matches!(o, Observed::Path { path, .. } if *path == after)).await;
}

async fn i12_an_overflow_is_counted_and_everything_is_found_all_the_same(start: Start) {
    // The watching thread asks what is wanted: while it waits for our answer the queue fills.
    let (gate, open) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(std::sync::Barrier::new(2)));
    let (at_gate, may_go) = (Arc::clone(&gate), Arc::clone(&open));
    let first = AtomicBool::new(true);
    let (told, is_told) = mpsc::channel::<()>();
    let is_told = std::sync::Mutex::new(is_told);
    let wanted: Wanted = Arc::new(move |path: &SyncPath| {
        if path.name() == Some(b"gate") {
            if first.swap(false, Ordering::Relaxed) {
                at_gate.wait();
                may_go.wait();
            } else {
                // All is gone through anew: not before somebody knows that it will be.
                let _ = is_told.lock().unwrap().recv();
            }
        }
        true
    });
    let mut scene = Scene::new(start, wanted, |root| fill(root, 100, 1)).await;
    // Dropped before the watch, so that a test that fails ends.
    let told = told;
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    // The portable watch keeps this many before it has lost some.
    let limit = limit.trim().parse::<usize>().unwrap().max(65_536);
    let root = scene.root.clone();
    let storm = std::thread::spawn(move || {
        fs::create_dir(root.join("gate")).unwrap();
        gate.wait();
        // Each is at least three events; the rest of what is below is lost with them.
        for i in 0..limit / 3 + 1 {
            fs::write(root.join(format!("f{i}")), b"x").unwrap();
        }
        fill(&root.join("late"), 100, 2);
        fs::rename(root.join("a0"), root.join("late/b0")).unwrap();
        fs::remove_dir_all(root.join("a1")).unwrap();
        open.wait();
    });
    scene.until(|o| matches!(o, Observed::Lost { .. })).await;
    let everywhere = Observed::Everywhere { subtree: SyncPath::root(), at: Instant::now() };
    assert!(!scene.saw(&everywhere), "it was said before all was gone through");
    drop(told);
    scene.until(|o| same(o, &everywhere)).await;
    storm.join().unwrap();
    assert_eq!(scene.watch.stats().overflows, 1);
    assert_eq!(scene.watch.stats().rewalks, 1);
    assert_eq!(scene.lost(), Vec::<PathBuf>::new());
    assert_eq!(scene.watch.stats().directories, directories(&scene.root));
    let file = scene.root.join("late/b0/d7/after");
    fs::write(&file, b"x").unwrap();
    scene.settle().await;
    assert!(scene.found.contains(&file));
}

async fn a_root_that_goes_and_comes_back_is_told_and_watched_again(start: Start) {
    let mut scene = Scene::new(start, everything(), |root| fill(root, 3, 1)).await;
    let (root, aside) = (scene.root.clone(), scene.root.with_file_name("aside"));
    type Step = (&'static str, Box<dyn Fn()>, Box<dyn Fn()>);
    let (r, a) = (root.clone(), aside.clone());
    let (r2, a2) = (root.clone(), aside.clone());
    let (r3, r4) = (root.clone(), root.clone());
    let steps: [Step; 2] = [
        (
            "moved",
            Box::new(move || fs::rename(&r, &a).unwrap()),
            Box::new(move || fs::rename(&a2, &r2).unwrap()),
        ),
        (
            "deleted",
            Box::new(move || fs::remove_dir_all(&r3).unwrap()),
            Box::new(move || fill(&r4, 5, 1)),
        ),
    ];
    for (what, go, come) in steps {
        go();
        scene.until(|o| matches!(o, Observed::RootGone { .. })).await;
        assert_eq!(scene.watch.stats().directories, 0, "{what}");
        scene.settle().await;
        scene.found.clear();
        come();
        scene.until(|o| matches!(o, Observed::RootBack { .. })).await;
        scene.settle().await;
        assert_eq!(scene.lost(), Vec::<PathBuf>::new(), "{what}");
        fs::write(root.join("a0/d0/after"), b"x").unwrap();
        scene.settle().await;
        assert!(scene.found.contains(&root.join("a0/d0/after")), "{what}");
    }
}

async fn a_root_whose_parent_is_renamed_is_gone(start: Start) {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().canonicalize().unwrap();
    fs::create_dir_all(home.join("above/root/sub")).unwrap();
    fs::create_dir(home.join("cookies")).unwrap();
    let watch = start(home.join("above/root"), home.join("cookies"), everything()).unwrap();
    let next = async || {
        let wait = tokio::time::timeout(Duration::from_secs(60), watch.next());
        wait.await.unwrap().unwrap()[0].clone()
    };
    assert!(matches!(next().await, Observed::Everywhere { .. }));
    fs::rename(home.join("above"), home.join("below")).unwrap();
    assert!(matches!(next().await, Observed::RootGone { .. }));
    // Beside its parent nothing is watched: it is looked for every two seconds.
    fs::rename(home.join("below"), home.join("above")).unwrap();
    assert!(matches!(next().await, Observed::RootBack { .. }));
    assert_eq!(watch.stats().directories, 2);
}

/// Runs one test of this file in a user namespace of its own, in which `setting` is `value`.
fn in_namespace(setting: &str, value: u32, test: &str) {
    let script = format!(
        "echo {value} > /proc/sys/user/{setting} && exec \"$0\" --exact {test} --ignored --nocapture"
    );
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .output()
        .expect("unshare(1) of util-linux is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{said}");
}

#[test]
fn i10_beyond_the_limit_of_watches_directories_are_polled() {
    in_namespace("max_inotify_watches", 60, "inotify::few_watches");
    in_namespace("max_inotify_watches", 60, "portable::few_watches");
}

#[test]
fn i10_without_any_inotify_everything_is_polled() {
    in_namespace("max_inotify_instances", 0, "inotify::no_instances");
    in_namespace("max_inotify_instances", 0, "portable::no_instances");
}

#[test]
fn i5_what_could_not_be_opened_for_a_moment_is_watched_later() {
    for name in ["inotify::no_descriptors", "portable::no_descriptors"] {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--ignored", "--exact", name]).output().unwrap();
        let passed = String::from_utf8_lossy(&output.stdout).contains("1 passed");
        assert!(output.status.success() && passed, "{name}: {output:#?}");
    }
}

async fn no_descriptors(start: Start) {
    let wanted: Wanted = Arc::new(|path: &SyncPath| path.name() != Some(b"a1"));
    let mut scene = Scene::new(start, wanted, |root| fill(root, 3, 1)).await;
    scene.settle().await;
    let before = getrlimit(Resource::Nofile);
    let next = fs::File::open("/").unwrap().as_raw_fd();
    let none = Rlimit { current: u64::try_from(next).ok(), ..before };
    setrlimit(Resource::Nofile, none).unwrap();
    scene.watch.rewalk(everything());
    scene.until(|o| matches!(o, Observed::Everywhere { .. })).await;
    let degraded = scene.watch.degraded();
    setrlimit(Resource::Nofile, before).unwrap();
    assert!(!degraded.is_empty(), "{:?}", scene.watch.stats());
    // Nothing but these saves happens from here on.
    fill(&scene.root.join("a1"), 3, 2);
    while !scene.lost().is_empty() {
        scene.until(|_| true).await;
    }
    while !scene.watch.degraded().is_empty() {
        scene.until(|_| true).await;
    }
    assert_eq!(scene.watch.stats().directories, directories(&scene.root));
}

async fn few_watches(start: Start) {
    let mut scene = Scene::new(start, everything(), |root| fill(root, 100, 1)).await;
    let stats = scene.watch.stats();
    assert!(stats.directories > 10 && stats.directories <= 60, "{stats:?}");
    let degraded = scene.watch.degraded();
    assert_eq!((degraded.len(), degraded[0].shortage), (1, Shortage::Watches));
    assert_eq!(degraded[0].directories, stats.polled);
    let (name, value) = Shortage::Watches.setting().unwrap();
    assert!(name == "fs.inotify.max_user_watches" && value > 0);
    // A sync point covers what is not watched, too.
    each_directory(&scene.root, &mut |directory| fs::write(directory.join("n"), b"x").unwrap());
    scene.settle().await;
    assert_eq!(scene.lost(), Vec::<PathBuf>::new());
    // And without one, the next poll does; watches that become free are used.
    each_directory(&scene.root, &mut |directory| fs::write(directory.join("m"), b"x").unwrap());
    while !scene.lost().is_empty() {
        scene.until(|_| true).await;
    }
    for entry in fs::read_dir(&scene.root).unwrap().flatten().filter(|e| e.path().is_dir()) {
        if entry.file_name() != "a0" {
            fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    for d in 10..50 {
        fs::remove_dir_all(scene.root.join(format!("a0/d{d}"))).unwrap();
    }
    while scene.watch.stats().polled > 0 {
        scene.until(|_| true).await;
    }
    scene.settle().await;
    assert_eq!(scene.watch.degraded(), []);
    assert_eq!(scene.watch.stats().directories, directories(&scene.root));
}

async fn no_instances(start: Start) {
    let mut scene = Scene::new(start, everything(), |root| fill(root, 3, 1)).await;
    assert_eq!(scene.watch.degraded()[0].shortage, Shortage::Instances);
    fill(&scene.root, 9, 2);
    scene.settle().await;
    assert_eq!(scene.lost(), Vec::<PathBuf>::new());
    fill(&scene.root, 20, 2);
    while !scene.lost().is_empty() {
        scene.until(|_| true).await;
    }
    fs::remove_dir_all(&scene.root).unwrap();
    scene.until(|o| matches!(o, Observed::RootGone { .. })).await;
    fill(&scene.root, 2, 2);
    scene.until(|o| matches!(o, Observed::RootBack { .. })).await;
}

/// Figures for the head of `watch`; run with `--release -- --ignored --nocapture`.
async fn figures(start: Start) {
    for (directories, files) in [(2_000, 5), (20_000, 10)] {
        let mut scene = Scene::new(start, everything(), |_| {}).await;
        let root = scene.root.clone();
        let cpu = cpu();
        let took = storm(&mut scene, move || fill(&root, directories, files)).await;
        println!(
            "storm {directories} x {files}: lost {}, storm {took:?}, cpu {:?}, {:?}",
            scene.lost().len(),
            self::cpu() - cpu,
            scene.watch.stats(),
        );
    }
    for directories in [10_000, 100_000] {
        let home = tempfile::tempdir().unwrap();
        for d in 0..directories {
            fs::create_dir_all(home.path().join(format!("r/{}/{d}", d / 300))).unwrap();
        }
        fs::create_dir(home.path().join("c")).unwrap();
        let (begin, cpu, rss) = (Instant::now(), cpu(), rss());
        let watch = start(home.path().join("r"), home.path().join("c"), everything()).unwrap();
        let first = watch.next().await.unwrap();
        let (took, cpu) = (begin.elapsed(), self::cpu() - cpu);
        assert!(matches!(first[0], Observed::Everywhere { .. }));
        let rss = self::rss() - rss;
        println!("set up {directories}: {took:?}, cpu {cpu:?}, rss {rss} KiB, {:?}", watch.stats());
        latency(&watch, &home.path().join("r/0/1/f")).await;
    }
}

async fn latency(watch: &Watch, file: &Path) {
    let mut took = Vec::new();
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(watch.take_now());
        let (file, (tell, told)) = (file.to_owned(), mpsc::channel());
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(300));
            fs::write(file, b"x").unwrap();
            tell.send(Instant::now()).unwrap();
        });
        let closed = |o: &Observed| matches!(o, Observed::Path { seen: Seen::Closed, .. });
        while !watch.next().await.unwrap().iter().any(closed) {}
        let seen = Instant::now();
        took.push(seen.saturating_duration_since(told.recv().unwrap()));
    }
    took.sort();
    println!(
        "write returned -> observed: p50 {:?} p90 {:?} p99 {:?}",
        took[500], took[900], took[990]
    );
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap()
}

fn rss() -> i64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<i64>().unwrap() * 4
}
