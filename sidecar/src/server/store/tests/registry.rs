//! Who may claim which root.

use super::*;

#[test]
fn roots_that_are_equal_or_nested_clash_and_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let claim = |root: &str| Registry::claim(dir.path(), Path::new(root), "ann");
    let app = claim("/srv/app").unwrap();
    for (root, same) in [("/srv/app", true), ("/srv", false), ("/", false), ("/srv/app/x", false)] {
        let Err(ClaimError::Clash(clash)) = claim(root) else { panic!("{root} was given") };
        let expected = Clash { root: "/srv/app".into(), writer: "ann".to_owned(), same };
        assert_eq!(clash, expected, "{root}");
    }
    let beside = claim("/srv/app2").unwrap();
    drop(app);
    let again = claim("/srv/app/x").unwrap();
    drop((beside, again));
    claim("/").unwrap();
}

#[test]
fn of_many_that_claim_at_once_one_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..20 {
        let start = std::sync::Barrier::new(4);
        let claims: Vec<_> = std::thread::scope(|scope| {
            let one = |root: &'static str| {
                let (start, dir) = (&start, dir.path());
                scope.spawn(move || {
                    start.wait();
                    Registry::claim(dir, Path::new(root), root)
                })
            };
            let all = ["/a", "/a/b", "/a/b/c", "/a"].map(one);
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(claims.iter().filter(|c| c.is_ok()).count(), 1, "{claims:?}");
    }
}
