//! File systems, users and kernels that refuse.

use super::*;

/// Runs in a mount namespace of its own; without root, says so and does nothing.
fn in_own_mounts(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| {
            // SAFETY: of this thread only; nothing here relies on sharing the working directory.
            let alone =
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) };
            if let Err(errno) = alone {
                eprintln!("skipped: a mount namespace of our own is refused ({errno})");
                return;
            }
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            test();
        });
        ran.join().unwrap();
    });
}

#[test]
fn i1_a_full_disk_leaves_the_old_file() {
    in_own_mounts(|| {
        let temp = tempfile::tempdir().unwrap();
        let size = Some(c"size=1m,nr_inodes=64");
        rustix::mount::mount("tmpfs", temp.path(), "tmpfs", MountFlags::empty(), size).unwrap();
        let mut root = TargetRoot::open_directory(temp.path(), false).unwrap();
        put(&root, &path("a"), b"old", &PLAIN).unwrap();
        fs::write(temp.path().join("ballast"), vec![0; 700_000]).unwrap();
        let mut staged = root.stage(&path("a"), 600_000).unwrap();
        let full = staged.write_all(&vec![1; 600_000]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        drop(staged);
        fs::remove_file(temp.path().join("ballast")).unwrap();
        let mut staged = root.stage(&path("a"), 500_000).unwrap();
        staged.write_all(&vec![1; 500_000]).unwrap();
        fs::write(temp.path().join("ballast"), vec![0; 450_000]).unwrap();
        root.configure(Settings { write: WriteMode::InPlace, ..Settings::default() });
        let full = root.put(&path("a"), staged, &PLAIN).unwrap_err();
        assert_eq!(full.kind, RootErrorKind::NoSpace, "found out before the first byte is lost");
        assert_eq!(fs::read(temp.path().join("a")).unwrap(), b"old");
        let no_inode = (0..64).find_map(|n| put(&root, &path(&format!("f{n}")), b"", &PLAIN).err());
        assert_eq!(no_inode, Some(RootErrorKind::NoSpace));
        assert_eq!(fs::read_dir(temp.path().join(".e2ek-sync")).unwrap().count(), 0);
    });
}

#[test]
fn a_read_only_disk_is_said_to_be_one() {
    in_own_mounts(|| {
        let bench = Bench::new();
        bench.put("a", "old", PLAIN).unwrap();
        let Bench { temp, root } = bench;
        drop(root);
        let at = temp.path().join("root");
        rustix::mount::mount_bind(&at, &at).unwrap();
        let read_only = MountFlags::BIND | MountFlags::RDONLY;
        rustix::mount::mount_remount(&at, read_only, "").unwrap();
        let root = TargetRoot::open_directory(&at, false).unwrap();
        for (name, kind) in [("a", RootErrorKind::ReadOnly), ("new", RootErrorKind::ReadOnly)] {
            assert_eq!(put(&root, &path(name), b"x", &PLAIN), Err(kind), "{name}");
        }
        let kind = |error: RootError| error.kind;
        assert_eq!(
            root.make_directory(&path("d"), None).map_err(kind),
            Err(RootErrorKind::ReadOnly)
        );
        assert_eq!(root.remove_file(&path("a")).map_err(kind), Err(RootErrorKind::ReadOnly));
        assert_eq!(fs::read(at.join("a")).unwrap(), b"old");
    });
}

#[test]
fn layers_of_an_image_take_every_change() {
    in_own_mounts(|| {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        rustix::mount::mount("tmpfs", temp.path(), "tmpfs", MountFlags::empty(), None).unwrap();
        for name in ["lower/dir", "lower/full", "lower/gone", "upper", "work", "app"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::write(at("lower/file"), "old").unwrap();
        fs::write(at("lower/full/theirs"), "theirs").unwrap();
        fs::hard_link(at("lower/file"), at("lower/full/name")).unwrap();
        let layers = ["lower", "upper", "work"].map(|name| at(name).display().to_string());
        let [lower, upper, work] = layers;
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let options = std::ffi::CString::new(options).unwrap();
        let none = MountFlags::empty();
        let mounted = rustix::mount::mount("overlay", at("app"), "overlay", none, &*options);
        if let Err(errno) = mounted {
            eprintln!("skipped: no overlay file system here ({errno})");
            return;
        }
        let root = TargetRoot::open_directory(&at("app"), false).unwrap();
        for name in ["file", "dir", "full/new", "full/name"] {
            assert_eq!(put(&root, &path(name), b"new", &PROGRAM).unwrap().in_place, None, "{name}");
            assert_eq!(fs::read(at("app").join(name)).unwrap(), b"new");
        }
        assert_eq!(put(&root, &path("full"), b"", &PLAIN), Err(RootErrorKind::NotEmpty));
        root.make_directory(&path("file"), None).unwrap();
        root.make_symlink(&path("gone"), b"file").unwrap();
        root.rename(&path("full/theirs"), &path("dir")).unwrap();
        assert_eq!(fs::read(at("app/dir")).unwrap(), b"theirs");
        assert_eq!(fs::read(at("lower/file")).unwrap(), b"old");
        assert_eq!(fs::read_dir(at("app/.e2ek-sync")).unwrap().count(), 0);
    });
}

#[test]
fn without_root_a_closed_directory_still_takes_a_writable_file() {
    if !is_root() {
        return;
    }
    let bench = Bench::new();
    fs::create_dir(bench.at("closed")).unwrap();
    fs::write(bench.at("closed/open"), "old").unwrap();
    fs::write(bench.at("closed/shut"), "old").unwrap();
    for (name, mode) in [("closed/open", 0o666), ("closed/shut", 0o644), ("", 0o777)] {
        fs::set_permissions(bench.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(bench.temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let at = bench.at("");
    let nobody = move || {
        let (uid, gid) =
            (rustix::process::Uid::from_raw(65534), rustix::process::Gid::from_raw(65534));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        let root = TargetRoot::open_directory(&at, false).unwrap();
        let done = put(&root, &path("closed/open"), b"new", &PLAIN).unwrap();
        assert_eq!(done.in_place, Some(InPlace::Directory));
        for refused in ["closed/shut", "closed/none"] {
            let kind = put(&root, &path(refused), b"new", &PLAIN);
            assert_eq!(kind, Err(RootErrorKind::Denied), "{refused}");
        }
        put(&root, &path("mine"), b"new", &PLAIN).unwrap();
        root.make_directory(&path("dir"), None).unwrap();
    };
    std::thread::spawn(nobody).join().unwrap();
    assert_eq!(fs::read(bench.at("closed/open")).unwrap(), b"new");
    assert_eq!(fs::read(bench.at("closed/shut")).unwrap(), b"old");
}

#[test]
fn everything_works_without_openat2() {
    let mut bench = Bench::new();
    bench.root.resolver = Resolver::Walk;
    bench.root.make_directory(&path("d"), None).unwrap();
    bench.root.make_directory(&path("d/e"), None).unwrap();
    bench.put("d/e/f", "x", PLAIN).unwrap();
    bench.root.rename(&path("d/e/f"), &path("g")).unwrap();
    let moved = bench.temp.path().join("moved");
    fs::rename(bench.at(".e2ek-sync"), &moved).unwrap();
    bench.put("h", "x", PLAIN).unwrap();
    assert_eq!(fs::metadata(moved).unwrap().nlink(), 2);
    symlink("d", bench.at("l")).unwrap();
    assert_eq!(bench.put("l/f", "x", PLAIN), Err(RootErrorKind::LinkInTheWay));
    assert_eq!(fs::read(bench.at("g")).unwrap(), b"x");
}
