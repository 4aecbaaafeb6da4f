//! Storms against a real watch: whatever is done to the tree, everything in it is found.

#![cfg(target_os = "linux")]

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use e2ek_sidecar::path::SyncPath;
use e2ek_sync::engine::debounce::Seen;
use e2ek_sync::watch::{Observed, Shortage, Wanted, Watch};

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
    async fn new(wanted: Wanted, prepare: impl FnOnce(&Path)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let home_path = home.path().canonicalize().unwrap();
        let (root, cookies) = (home_path.join("root"), home_path.join("cookies"));
        fs::create_dir(&cookies).unwrap();
        fs::create_dir(&root).unwrap();
        prepare(&root);
        let watch = Watch::start(root.clone(), cookies, wanted).unwrap();
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
                Observed::RootGone { .. } | Observed::RootBack { .. } => {}
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

#[tokio::test]
async fn i5_files_born_in_new_directories_are_all_found() {
    let mut scene = Scene::new(everything(), |_| {}).await;
    let root = scene.root.clone();
    storm(&mut scene, move || fill(&root, 2_000, 5)).await;
    assert_eq!(scene.lost(), Vec::<PathBuf>::new());
    assert_eq!(scene.watch.stats().directories, 1 + 40 + 2_000);
}

/// Figures for the head of `watch`; run with `--release -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn figures() {
    for (directories, files) in [(2_000, 5), (20_000, 10)] {
        let mut scene = Scene::new(everything(), |_| {}).await;
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
        let watch =
            Watch::start(home.path().join("r"), home.path().join("c"), everything()).unwrap();
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
