//! What the source makes of what its watches tell.

use super::*;

/// A source of one directory, not watched.
fn source(home: &std::path::Path) -> Source {
    let contents = Arc::new(Contents::kept_in(&home.join("state")));
    let roots = [home.join("source")];
    std::fs::create_dir(&roots[0]).unwrap();
    std::fs::write(roots[0].join("file"), "here").unwrap();
    Source::open(&roots, &FilterOptions::default(), Snapshot::empty, contents).unwrap()
}

/// Half of a checkout was restarted while the watch went through all directories.
#[tokio::test]
async fn i9_i12_what_was_lost_is_outstanding_until_all_was_looked_at() {
    let home = tempfile::tempdir().unwrap();
    let mut source = source(home.path());
    let at = Instant::now();
    let tell = |source: &mut Source, observed| source.take(Told::Observed(0, vec![observed]));
    assert!(source.is_quiet());
    tell(&mut source, Observed::Lost { at });
    let below = SyncPath::try_from("d").unwrap();
    tell(&mut source, Observed::Everywhere { subtree: below, at });
    assert!(source.is_looking() && !source.is_quiet());
    let root = SyncPath::root();
    tell(&mut source, Observed::Everywhere { subtree: root, at });
    assert!(!source.is_looking() && source.deadline().is_some_and(|due| due <= at));
    assert!(source.look(Instant::now()).is_none() && source.is_looking());
    assert!(matches!(source.next().await, Next::Looked(Looked::Tree { .. })));
    assert!(!source.is_looking() && source.is_quiet());
    // A root that went has no more to be found.
    tell(&mut source, Observed::Lost { at });
    tell(&mut source, Observed::RootGone { at });
    assert!(!source.is_looking());
}
