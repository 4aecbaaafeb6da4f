//! Any calls in any order, kills among them.

use super::*;

#[derive(Clone, Debug)]
enum Call {
    Step(u8, u8),
    BeginOnly(u8),
    Reset,
    Owner(u64),
    Kill,
    Close,
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => any::<(u8, u8)>().prop_map(|(name, content)| Call::Step(name, content)),
        1 => any::<u8>().prop_map(Call::BeginOnly),
        1 => Just(Call::Reset),
        1 => any::<u64>().prop_map(Call::Owner),
        2 => Just(Call::Kill),
        1 => Just(Call::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is called in whatever order, with folds in between: the next hub knows it.
    #[test]
    fn i8_the_record_is_what_was_said(calls in prop::collection::vec(call(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path());
        store.fold_from = 600;
        let (mut held, mut generation, mut who) = (Snapshot::empty(), 0, None);
        let mut unfinished: Vec<Change> = Vec::new();
        for call in calls {
            match call {
                Call::Step(name, content) => {
                    generation += 1;
                    let node = (content > 60).then(|| file(&content.to_string(), content.into()));
                    step(&mut store, &mut held, generation, &[(path(&format!("f{}", name % 9)), node)]);
                }
                Call::BeginOnly(name) => {
                    let change = Change { path: path(&format!("u{name}")), old: None, new: None };
                    store.begin(generation + 1000, [&change].into_iter(), std::iter::empty()).unwrap();
                    unfinished.push(change);
                }
                Call::Reset => {
                    store.reset(generation, &held).unwrap();
                    unfinished.clear();
                }
                Call::Owner(epoch) => {
                    store.set_owner(&owner(epoch)).unwrap();
                    who = Some(owner(epoch));
                }
                Call::Kill | Call::Close => {
                    if matches!(call, Call::Kill) { drop(store) } else { store.close().unwrap() }
                    let (again, loaded) = open(dir.path());
                    store = again;
                    store.fold_from = 600;
                    prop_assert_eq!(dump(&loaded.held), dump(&held));
                    prop_assert_eq!((loaded.generation, &loaded.owner), (generation, &who));
                    prop_assert_eq!(&loaded.unfinished, &unfinished);
                    prop_assert!(!loaded.damaged && !loaded.rebooted);
                }
            }
        }
    }
}
