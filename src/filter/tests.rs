//! The order of the layers, includes, protection and reloading, over real directories.

use super::*;

/// A directory with these files (a path that ends with a slash is a directory).
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        match path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            true => std::fs::create_dir_all(path).unwrap(),
            false => std::fs::write(path, text).unwrap(),
        }
    }
    dir
}

fn options(excludes: &[&str], includes: &[&str]) -> FilterOptions {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    FilterOptions {
        excludes: owned(excludes),
        includes: owned(includes),
        git: Some(GitPlaces::default()),
    }
}

/// `kept`, or who decided otherwise: `source:line:pattern`, `!` before what is protected.
fn told(filter: &Filter, path: &str) -> String {
    let is_dir = path.ends_with('/');
    let path = SyncPath::try_from(path.trim_end_matches('/')).unwrap();
    match filter.verdict_of(&path, is_dir) {
        Verdict::Kept => "kept".to_owned(),
        Verdict::Ignored(rule) => rule.to_string(),
        Verdict::Protected(rule) => format!("!{rule}"),
    }
}

fn check(dir: &tempfile::TempDir, options: &FilterOptions, expected: &[(&str, &str)]) {
    let filter = Filter::new(dir.path(), options).unwrap();
    let mut near = Near::default();
    for (path, verdict) in expected {
        assert_eq!(told(&filter, path), *verdict, "{path}");
        let is_dir = path.ends_with('/');
        let path = SyncPath::try_from(path.trim_end_matches('/')).unwrap();
        assert_eq!(filter.is_kept(&path, is_dir, &mut near), *verdict == "kept", "{path}");
    }
}

#[test]
fn layers_beat_each_other_in_their_order() {
    let dir = tree(&[
        (".gitignore", "*.a\n*.b\n*.c\n*.d\n"),
        ("sub/.gitignore", "!*.a\n"),
        (".e2ekignore", "!*.b\n*.e\n"),
        ("sub/.e2ekignore", "!*.e\n"),
        // Ours, even from above, beats git's, even from below.
        ("sub/deep/.gitignore", "*.b\n*.f\n"),
    ]);
    check(
        &dir,
        &options(&["*.c", "!*.d", "/top"], &["x.c"]),
        &[
            ("f.a", ".gitignore:1:*.a"),
            ("sub/f.a", "kept"),
            ("f.b", "kept"),
            ("sub/deep/f.b", "kept"),
            ("sub/deep/f.f", "sub/deep/.gitignore:2:*.f"),
            ("f.c", "--exclude:1:*.c"),
            ("x.c", "kept"),
            ("f.d", "kept"),
            ("f.e", ".e2ekignore:2:*.e"),
            ("sub/f.e", "kept"),
            ("top/f", "--exclude:3:/top"),
            ("sub/top", "kept"),
        ],
    );
}

#[test]
fn secrets_stay_unless_an_include_names_them() {
    let dir = tree(&[(".gitignore", "!.env\n"), ("sub/.e2ekignore", "!id_rsa\n")]);
    let protected: &[(&str, &str)] = &[
        (".env", "!built-in:3:.env*"),
        (".env.example", "!built-in:3:.env*"),
        ("sub/id_rsa", "!built-in:5:id_rsa"),
        (".git/config", "!built-in:2:.git"),
        ("sub/.git", "!built-in:2:.git"),
        (".kube/config", "!built-in:14:.kube/config"),
        ("src/kubeconfig/", "kept"),
    ];
    check(&dir, &options(&[], &[]), protected);
    let included: &[(&str, &str)] = &[
        (".env.example", "kept"),
        ("a/.env.example", "kept"),
        (".env", "!built-in:3:.env*"),
        (".git/config", "kept"),
        (".git/.env", "!built-in:3:.env*"),
        (".e2ek-sync/", "built-in:1:.e2ek-sync"),
        ("a/.e2ek-sync/b", "built-in:1:.e2ek-sync"),
    ];
    check(&dir, &options(&[], &["*", "!*", ".env.example", ".git/"]), included);
}

#[test]
fn an_include_opens_the_way_and_nothing_else() {
    let dir = tree(&[(".gitignore", "dist/\n*.map\n/packages/*/out\n.cache/\n")]);
    check(
        &dir,
        &options(
            &["vendor"],
            &["dist/js/app.js", "packages/*/out/*.css", ".cache/**", "vendor/x/"],
        ),
        &[
            ("dist/", "kept"),
            ("dist/js/", "kept"),
            ("dist/js/app.js", "kept"),
            ("dist/other", ".gitignore:1:dist/"),
            ("dist/js/app.js.map", ".gitignore:1:dist/"),
            ("dist/js/.env", ".gitignore:1:dist/"),
            ("dist/css/", ".gitignore:1:dist/"),
            ("sub/dist/", ".gitignore:1:dist/"),
            ("sub/dist/js/app.js", ".gitignore:1:dist/"),
            ("packages/a/out/", "kept"),
            ("packages/a/out/x.css", "kept"),
            ("packages/a/out/x.js", ".gitignore:3:/packages/*/out"),
            (".cache/a/b/c.map", "kept"),
            ("vendor/", "kept"),
            ("vendor/x/", "kept"),
            // As if `vendor/x` were not ignored: only rules for what is inside count.
            ("vendor/x/a", "kept"),
            ("vendor/x/a.map", ".gitignore:2:*.map"),
            ("vendor/x/.env", "!built-in:3:.env*"),
            ("vendor/y", "--exclude:1:vendor"),
        ],
    );
    // A bare name opens no ignored directory.
    let bare: &[(&str, &str)] = &[("dist/app.js", ".gitignore:1:dist/"), ("a.map", "kept")];
    check(&dir, &options(&[], &["app.js", "*.map"]), bare);
}

#[test]
fn without_git_only_our_own_files_count() {
    let dir = tree(&[(".gitignore", "a\n"), (".e2ekignore", "b\n")]);
    let no_git = FilterOptions { git: None, ..options(&[], &[]) };
    check(&dir, &no_git, &[("a", "kept"), ("b", ".e2ekignore:1:b")]);
}

#[test]
fn rules_are_read_once_until_reloaded() {
    let dir = tree(&[("sub/.gitignore", "a\n")]);
    let filter = Filter::new(dir.path(), &options(&[], &[])).unwrap();
    let before = filter.child_rules(&filter.root_rules(), b"sub", RuleFiles::ANY);
    assert!(!filter.verdict(&before, b"a", false).is_kept());
    std::fs::write(dir.path().join("sub/.gitignore"), "b\n").unwrap();
    assert_eq!(told(&filter, "sub/b"), "kept", "known already");
    assert!(
        [".gitignore", ".e2ekignore", ".git"].iter().all(|n| Filter::is_rule_file(n.as_bytes()))
    );
    let (mut near, b) = (Near::default(), SyncPath::try_from("sub/b").unwrap());
    assert!(filter.is_kept(&b, false, &mut near));
    filter.reload();
    assert!(!filter.is_kept(&b, false, &mut near), "its neighbours were judged by older rules");
    assert_eq!(told(&filter, "sub/b"), "sub/.gitignore:1:b");
    assert_eq!(told(&filter, "sub/a"), "kept");
    // What was handed out before keeps its meaning and is not mixed into the new reading.
    assert!(!filter.verdict(&before, b"a", false).is_kept());
    let _ = filter.child_rules(&before, b"deep", RuleFiles::ANY);
    assert_eq!(told(&filter, "sub/deep/a"), "kept");
}

#[test]
fn a_directory_that_is_another_one_by_now_has_its_own_rules() {
    let dir = tree(&[
        ("dist/.gitignore", "a\n"),
        ("dist/sub/x", ""),
        ("dist.new/.gitignore", "b\n"),
        ("dist.new/sub/x", ""),
        ("dist0/.gitignore", "c\n"),
    ]);
    let filter = Filter::new(dir.path(), &options(&[], &[])).unwrap();
    let begun = filter.root_rules();
    let old = filter.child_rules(&begun, b"dist", RuleFiles::ANY);
    assert_eq!(told(&filter, "dist/sub/a"), "dist/.gitignore:1:a");
    assert_eq!(told(&filter, "dist0/c"), "dist0/.gitignore:1:c");
    std::fs::remove_dir_all(dir.path().join("dist")).unwrap();
    std::fs::rename(dir.path().join("dist.new"), dir.path().join("dist")).unwrap();
    filter.forget(&SyncPath::try_from("dist").unwrap());
    // A look that began before goes on with what it knew, and leaves nothing of that behind.
    let _ = filter.child_rules(&old, b"sub", RuleFiles::ANY);
    let _ = filter.child_rules(&begun, b"dist", RuleFiles::listed([]));
    assert_eq!(told(&filter, "dist/b"), "dist/.gitignore:1:b");
    assert_eq!(told(&filter, "dist/sub/b"), "dist/.gitignore:1:b");
    assert_eq!(told(&filter, "dist/sub/a"), "kept");
    // What only begins alike is another directory.
    std::fs::write(dir.path().join("dist0/.gitignore"), "").unwrap();
    assert_eq!(told(&filter, "dist0/c"), "dist0/.gitignore:1:c", "known already");
}

#[test]
fn only_files_of_rules_that_were_listed_are_read() {
    for file in [".gitignore", ".e2ekignore"] {
        let dir = tree(&[(&format!("sub/{file}"), "a\n")]);
        for (listed, kept) in [(file, false), ("x", true)] {
            let filter = Filter::new(dir.path(), &options(&[], &[])).unwrap();
            let files = RuleFiles::listed(["a", listed].map(str::as_bytes));
            let rules = filter.child_rules(&filter.root_rules(), b"sub", files);
            assert_eq!(filter.verdict(&rules, b"a", false).is_kept(), kept, "{file} {listed}");
        }
    }
    let all = RuleFiles::listed([&b".git"[..], b".gitignore", b".E2EKIGNORE"]);
    assert_eq!(all, RuleFiles::ANY);
}

#[test]
fn only_configuration_that_decides_makes_rules_outdated() {
    let dir = tree(&[
        ("home/.gitconfig", "[include]\npath = more\n"),
        ("src/.git/HEAD", ""),
        ("src/.git/objects/", ""),
        ("src/.git/refs/", ""),
        ("src/sub/.git/config", ""),
        ("src/sub/.gitignore", "b\n"),
        ("src/.gitignore", "a\n"),
    ]);
    let root = dir.path().canonicalize().unwrap();
    let write = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
    let git = Some(GitPlaces { home: Some(root.join("home")), ..GitPlaces::default() });
    let filter =
        Filter::new(&root.join("src"), &FilterOptions { git, ..options(&[], &[]) }).unwrap();
    assert!(filter.take_outside_grew() && !filter.take_outside_grew());
    assert_eq!(told(&filter, "sub/a"), ".gitignore:1:a");
    assert!(filter.take_outside_grew(), "there may be a repository in it yet");
    for name in ["home/more", "home/.config/git/config", "src/.git/config", "src/sub/.git/HEAD"] {
        assert!(filter.outside().contains(&root.join(name)), "{name}");
    }
    write("src/.git/config", "[branch \"main\"]\nremote = origin\n");
    assert!(!filter.is_outdated(), "nothing of this decides");
    for (name, text) in [
        ("src/.git/config", "[core]\nignoreCase\n"),
        ("home/more", "[core]\nexcludesFile = /nowhere\n"),
        ("home/more", "[include]\npath = again\n"),
        ("src/sub/.git/HEAD", ""),
        ("src/sub/.git/info/exclude", "c\n"),
        ("src/sub/.git/config", "[core]\nignoreCase\n"),
    ] {
        write(name, text);
        for made in ["objects", "refs", "info"].iter().filter(|_| name.ends_with("HEAD")) {
            std::fs::create_dir(root.join("src/sub/.git").join(made)).unwrap();
        }
        assert!(filter.is_outdated(), "{name}: {text}");
        filter.reload();
        let _ = told(&filter, "sub/a");
        assert!(!filter.is_outdated(), "{name}: {text}");
    }
    assert_eq!(told(&filter, "sub/a"), "kept");
    std::fs::remove_dir_all(root.join("src/sub")).unwrap();
    filter.forget(&SyncPath::try_from("sub").unwrap());
    assert!(!filter.is_outdated(), "what is gone decides nothing");
}

#[test]
fn threads_share_one_filter() {
    fn shared<T: Send + Sync>(_: &T) {}
    let dir = tree(&[]);
    let filter = Filter::new(dir.path(), &options(&[], &[])).unwrap();
    shared(&filter);
    shared(&filter.root_rules());
    assert!(Filter::new(&dir.path().join("gone"), &options(&[], &[])).is_err());
}
