//! Logs that end early, bytes that turn, a disk that is full.

use super::*;

#[test]
fn i8_every_cut_of_the_log_is_an_earlier_state() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut states = vec![dump(&Snapshot::empty())];
    let mut held = Snapshot::empty();
    let mut ends = Vec::new();
    for generation in 1..6 {
        let name = path(&format!("f{}", generation % 3));
        let content = format!("content {generation}");
        step(&mut store, &mut held, generation, &[(name, Some(file(&content, generation)))]);
        states.push(dump(&held));
        ends.push(fs::metadata(log_of(dir.path())).unwrap().len());
    }
    drop(store);
    let log = log_of(dir.path());
    let bytes = fs::read(&log).unwrap();
    for cut in 0..=bytes.len() {
        fs::write(&log, &bytes[..cut]).unwrap();
        let read = read_pair(dir.path());
        if cut < LOG_HEAD_BYTES {
            assert!(read.is_none(), "cut at {cut}: the head is never half written");
            continue;
        }
        let mut replay = read.expect("a cut is no damage");
        let done = ends.iter().filter(|&&end| end <= cut as u64).count();
        assert_eq!(dump(&replay.held), states[done], "cut at {cut}");
        assert_eq!(replay.generation, done as u64);
        let unfinished = replay.loaded([0; 16]).unfinished;
        assert!(unfinished.len() <= 1);
        assert!(unfinished.iter().all(|c| c.path == path(&format!("f{}", (done + 1) % 3))));
    }
}

#[test]
fn i8_the_half_record_of_a_kill_does_not_spoil_what_follows() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut held = three_generations(&mut store);
    drop(store);
    let log = log_of(dir.path());
    let whole = fs::read(&log).unwrap();
    fs::write(&log, [&whole[..], &whole[LOG_HEAD_BYTES..LOG_HEAD_BYTES + 20]].concat()).unwrap();
    let (mut store, _) = open(dir.path());
    step(&mut store, &mut held, 4, &[(path("0/a"), None)]);
    drop(store);
    let (_store, loaded) = open(dir.path());
    assert_eq!((dump(&loaded.held), loaded.damaged), (dump(&held), false));
}

#[test]
fn i8_a_record_that_is_missing_in_the_middle_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut held = Snapshot::empty();
    let mut ends = Vec::new();
    for generation in 1..4 {
        let name = path(&format!("f{generation}"));
        step(&mut store, &mut held, generation, &[(name, Some(file("x", generation)))]);
        ends.push(store.log_bytes as usize);
    }
    drop(store);
    let log = log_of(dir.path());
    let bytes = fs::read(&log).unwrap();
    fs::write(&log, [&bytes[..ends[0]], &bytes[ends[1]..]].concat()).unwrap();
    assert!(open(dir.path()).1.damaged);
}

/// Reads manifest and log without opening for use; `None` for damage.
fn read_pair(dir: &Path) -> Option<Replay> {
    let mut replay = Replay::manifest(&fs::read(dir.join(MANIFEST)).unwrap()).ok()?;
    replay.log(&fs::read(dir.join(log_name(replay.nonce))).ok()?).ok()?;
    Some(replay)
}

#[test]
fn i8_every_changed_byte_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut held = three_generations(&mut store);
    store.reset(3, &held).unwrap();
    store.set_owner(&owner(1)).unwrap();
    step(&mut store, &mut held, 4, &[(path("0/a"), Some(file("four", 4)))]);
    drop(store);
    for file in [dir.path().join(MANIFEST), log_of(dir.path())] {
        let bytes = fs::read(&file).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            // The boot id within the log's head is under its checksum like all else.
            fs::write(&file, &flipped).unwrap();
            assert!(read_pair(dir.path()).is_none(), "{file:?} at {at}");
        }
        fs::write(&file, &bytes).unwrap();
    }
    assert!(read_pair(dir.path()).is_some());
}

#[test]
fn i8_damage_means_an_empty_record_and_the_files_are_kept_aside() {
    for victim in [MANIFEST, "log", "no log"] {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path());
        store.set_owner(&owner(1)).unwrap();
        let mut held = three_generations(&mut store);
        let marker = store.marker().to_owned();
        drop(store);
        let log = log_of(dir.path());
        let target = if victim == MANIFEST { dir.path().join(MANIFEST) } else { log };
        let mut bytes = fs::read(&target).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        if victim == "no log" {
            fs::remove_file(target).unwrap();
        } else {
            fs::write(target, bytes).unwrap();
        }

        let (mut store, loaded) = open(dir.path());
        assert!(loaded.damaged, "{victim}");
        assert_eq!((loaded.held.count(), loaded.generation), (0, 0));
        assert_eq!(loaded.owner.is_some(), victim == "log", "who came before the damage is told");
        assert!(dir.path().join("damaged.manifest").exists());
        assert_eq!(dir.path().join("damaged.log").exists(), victim != "no log");
        assert_eq!(store.marker(), marker);
        held = held.apply(&[]).unwrap();
        store.reset(9, &held).unwrap();
        drop(store);
        let (_store, loaded) = open(dir.path());
        assert_eq!((dump(&loaded.held), loaded.damaged), (dump(&held), false));
    }
}

#[test]
fn i8_a_fold_that_was_cut_off_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let held = three_generations(&mut store);
    let before = dir.path().join("before");
    copy_dir_files(dir.path(), &before);
    store.reset(8, &Snapshot::empty()).unwrap();
    drop(store);
    // The new log is there, the manifest still the old one.
    let new_log = log_of(dir.path());
    fs::copy(&new_log, before.join(new_log.file_name().unwrap())).unwrap();
    fs::copy(dir.path().join(MANIFEST), before.join("manifest.new")).unwrap();
    let (_store, loaded) = open(&before);
    assert_eq!((dump(&loaded.held), loaded.generation), (dump(&held), 3));
    assert!(!before.join("manifest.new").exists());
    assert!(!before.join(new_log.file_name().unwrap()).exists());
    // The manifest is the new one, the old log still there: it is never played on top.
    let old_log = log_of(&before);
    fs::copy(&old_log, dir.path().join(old_log.file_name().unwrap())).unwrap();
    let (_store, loaded) = open(dir.path());
    assert_eq!((loaded.held.count(), loaded.generation), (0, 8));
    assert!(!dir.path().join(old_log.file_name().unwrap()).exists());
}

fn copy_dir_files(from: &Path, to: &Path) {
    let files: Vec<_> = fs::read_dir(from).unwrap().map(|e| e.unwrap()).collect();
    fs::create_dir_all(to).unwrap();
    for entry in files.iter().filter(|e| e.file_type().unwrap().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn i8_a_full_disk_loses_no_truth() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut held = three_generations(&mut store);
    let log = log_of(dir.path());
    // Whatever is appended fails from here on, as on a full disk; folding works again later.
    store.log = File::open(&log).unwrap();
    let edits = [(path("0/a"), Some(file("five", 5)))];
    let after = held.apply(&edits).unwrap();
    let changes = held.diff(&after);
    assert!(store.begin(4, changes.iter(), std::iter::empty()).is_err());
    assert!(store.behind);
    held = after;
    store.finish(4, &edits, &held).unwrap();
    step(&mut store, &mut held, 5, &[(path("0/b"), Some(file("six", 6)))]);
    drop(store);
    let (_store, loaded) = open(dir.path());
    assert_eq!((dump(&loaded.held), loaded.generation), (dump(&held), 5));
    assert!(loaded.unfinished.is_empty());
}
