//! In quiet times a save wakes the waiting task and no thread of the watch.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use e2ek_sync::engine::debounce::Seen;
use e2ek_sync::watch::{Observed, Watch};

/// How often the watching thread has waited so far; it is the only one in this process.
fn waits() -> u64 {
    let threads = fs::read_dir("/proc/self/task").unwrap().flatten().map(|entry| entry.path());
    let watching = |thread: &PathBuf| {
        fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm == "watch\n")
    };
    let watching: Vec<PathBuf> = threads.filter(watching).collect();
    let [thread] = &watching[..] else { panic!("one thread watches: {watching:?}") };
    let status = fs::read_to_string(thread.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.unwrap().trim().parse().unwrap()
}

async fn closed(watch: &Watch, file: &Path) {
    let name = file.file_name().unwrap().to_str().unwrap();
    loop {
        for observed in watch.next().await.unwrap() {
            if let Observed::Path { path, seen: Seen::Closed, .. } = observed
                && path.name() == Some(name.as_bytes())
            {
                return;
            }
        }
    }
}

/// Saves at a calm pace until four in a row have not woken the thread. It counts as woken when it
/// waits again, hence the pace.
async fn save_until_quiet(watch: &Watch, file: &Path) {
    let quiet = async {
        let (mut before, mut in_a_row) = (waits(), 0);
        while in_a_row < 4 {
            fs::write(file, "x").unwrap();
            closed(watch, file).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = waits();
            in_a_row = if now == before { in_a_row + 1 } else { 0 };
            before = now;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), quiet).await.expect("the thread lends its place");
}

#[tokio::test]
async fn a_save_in_quiet_times_does_not_wake_the_thread() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().canonicalize().unwrap().join("root");
    let cookies = home.path().join("cookies");
    fs::create_dir_all(root.join("a")).unwrap();
    fs::create_dir(&cookies).unwrap();
    let watch = Watch::start(root.clone(), cookies, Arc::new(|_: &_| true)).unwrap();
    let file = root.join("a/f");
    watch.sync_point().await;
    save_until_quiet(&watch, &file).await;

    // A new directory is the thread's, and what is saved there right after is told all the same.
    fs::create_dir(root.join("b")).unwrap();
    let inside = root.join("b/g");
    fs::write(&inside, "x").unwrap();
    let mut found = false;
    while !found {
        found = watch.next().await.unwrap().iter().any(|observed| match observed {
            Observed::Path { path, .. } => path.name() == Some(b"g") || path.as_bytes() == b"b",
            Observed::Everywhere { subtree, .. } => subtree.as_bytes() == b"b",
            _ => false,
        });
    }
    save_until_quiet(&watch, &inside).await;
}
