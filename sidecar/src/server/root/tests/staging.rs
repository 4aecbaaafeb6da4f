//! Where files are made before they are put in place, by one thread and by several.

use super::*;

#[test]
fn i1_a_new_file_comes_complete_and_nothing_stays_behind() {
    let bench = Bench::new();
    let done = bench.put("a", "text", PLAIN).unwrap();
    assert_eq!(fs::read(bench.at("a")).unwrap(), b"text");
    assert_eq!((done.in_place, bench.mode("a")), (None, 0o644));
    let found = bench.root.stat(&path("a")).unwrap().unwrap();
    assert_eq!((found.stamp, found.size, found.kind), (done.stamp, 4, FoundKind::File));
    let given = PutMeta { mode: Some(0o6740), ..PROGRAM };
    bench.put("b", "", given).unwrap();
    assert_eq!(bench.mode("b"), 0o740, "setuid and setgid are dropped");
    bench.put("c", "", PutMeta { mode: Some(0o640), ..PROGRAM }).unwrap();
    assert_eq!(bench.mode("c"), 0o750, "executable is content");
    drop(bench.root.stage(&path("d"), 0).unwrap());
    assert_eq!(bench.staged(), 0, "dropped staging is gone");
    assert!(!bench.at("d").exists());
    let Bench { temp, root } = bench;
    drop(root);
    assert!(!temp.path().join("root/.e2ek-sync").exists(), "tidy at a clean end");
}

#[test]
fn i8_leftovers_are_swept_but_not_those_of_the_living() {
    let bench = Bench::new();
    let alive = bench.root.stage(&path("a"), 0).unwrap();
    let second = TargetRoot::open_directory(&bench.at(""), false).unwrap();
    assert_eq!(bench.staged(), 1, "a living hub's staging is left alone");
    assert_eq!(second.identity(), bench.root.identity());
    drop((second, alive));
    // What a kill leaves: the names, and no lock.
    let killed = tempfile::tempdir().unwrap();
    let place = killed.path().join(".e2ek-sync");
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(place.join("0123456789abcdef-7"), "half").unwrap();
    fs::create_dir(place.join("0123456789abcdef-8")).unwrap();
    symlink("/etc/passwd", place.join("0123456789abcdef-9")).unwrap();
    let root = TargetRoot::open_directory(killed.path(), false).unwrap();
    assert!(!place.exists(), "swept at open");
    put(&root, &path("a"), b"x", &PLAIN).unwrap();
}

#[test]
fn i8_staging_beside_is_recorded_and_swept() {
    let mut bench = Bench::new();
    let recorded = std::sync::Arc::new(Mutex::new(Vec::new()));
    let record = std::sync::Arc::clone(&recorded);
    bench.root.on_beside(move |path| record.lock().unwrap().push(path.clone()));
    fs::create_dir(bench.temp.path().join("out")).unwrap();
    symlink("../out", bench.at(".e2ek-sync")).unwrap();
    bench.root.make_directory(&path("d"), None).unwrap();
    bench.put("d/f", "x", PLAIN).unwrap();
    bench.root.make_symlink(&path("d/l"), b"f").unwrap();
    let killed = bench.root.stage(&path("d/g"), 0).unwrap();
    std::mem::forget(killed);
    let left: Vec<SyncPath> = recorded.lock().unwrap().clone();
    assert_eq!((left.len(), left[1].parent()), (2, Some(path("d"))));
    assert_eq!(bench.root.list(&path("d")).unwrap().len(), 2, "hidden from lists");
    assert_eq!(fs::read_dir(bench.at("d")).unwrap().count(), 3);
    bench.root.sweep_beside(&left);
    bench.root.sweep_beside(&[path("d/f")]);
    assert_eq!(fs::read_dir(bench.at("d")).unwrap().count(), 2);
    assert_eq!(fs::read_dir(bench.temp.path().join("out")).unwrap().count(), 0);
}

#[test]
fn staging_that_was_taken_away_is_made_again() {
    let bench = Bench::new();
    bench.put("a", "1", PLAIN).unwrap();
    fs::remove_dir(bench.at(".e2ek-sync")).unwrap();
    bench.put("a", "2", PLAIN).unwrap();
    fs::rename(bench.at(".e2ek-sync"), bench.temp.path().join("moved")).unwrap();
    bench.put("a", "3", PLAIN).unwrap();
    assert_eq!(fs::read(bench.at("a")).unwrap(), b"3");
    assert_eq!(fs::read_dir(bench.temp.path().join("moved")).unwrap().count(), 0);
}

#[test]
fn two_threads_write_at_once() {
    let bench = Bench::new();
    bench.root.make_directory(&path("d"), None).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let root = &bench.root;
            scope.spawn(move || {
                for number in 0..500 {
                    let own = path(&format!("d/{thread}-{number}"));
                    put(root, &own, b"x", &PLAIN).unwrap();
                    put(root, &path("d/shared"), b"x", &PLAIN).or_else(changed).unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read_dir(bench.at("d")).unwrap().count(), 1001);
    assert_eq!(bench.staged(), 0);
}

/// The only fault two writers of one path may see: it appeared between look and rename.
fn changed(kind: RootErrorKind) -> Result<Put, RootErrorKind> {
    match kind {
        RootErrorKind::Changed => Ok(Put { stamp: Stamp::default(), in_place: None }),
        other => Err(other),
    }
}

/// For a look at the cost: `strace -fc`, or the time it prints. Run with `--ignored`.
#[test]
#[ignore = "a measurement"]
fn ten_thousand_new_files_from_two_threads() {
    let bench = Bench::new();
    let content = vec![b'x'; 3700];
    let meta = PutMeta { mtime_ns: Some(SECOND_NS), ..PLAIN };
    for directory in 0..200 {
        bench.root.make_directory(&path(&format!("d{directory}")), None).unwrap();
    }
    let before = std::time::Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (root, content, meta) = (&bench.root, &content, &meta);
            scope.spawn(move || {
                for number in 0..5000 {
                    let to = path(&format!("d{}/{thread}-{number}", number % 200));
                    put(root, &to, content, meta).unwrap();
                }
            });
        }
    });
    println!("{:?}", before.elapsed());
}
