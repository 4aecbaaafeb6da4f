//! What is kept, and for how long.

use super::*;

#[test]
fn i4_the_trash_keeps_what_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(dir.path()).unwrap();
    let nasty = SyncPath::new(&b"0/.%\xff/a b"[..]).unwrap();
    let kept = store.trash(&nasty, 4, &b"theirs"[..]).unwrap();
    assert_eq!(kept, dir.path().join("trash/4/0%2F.%25%FF%2Fa%20b"));
    let again = store.trash(&nasty, 4, &b"again"[..]).unwrap();
    assert_eq!(
        (fs::read(kept).unwrap(), fs::read(again).unwrap()),
        (b"theirs".to_vec(), b"again".to_vec())
    );
    let long = SyncPath::new(vec![b"\xe4"[0]; 200]).unwrap();
    let kept = store.trash(&long, 4, &b""[..]).unwrap();
    assert_eq!(kept.file_name().unwrap().len(), 200);
}

#[test]
fn i10_the_trash_is_bounded_and_the_oldest_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut trash = Trash::bounded(dir.path(), 100, 5).unwrap();
    let put = |trash: &mut Trash, generation, bytes: usize| {
        trash.keep(&path("f"), generation, &vec![0_u8; bytes][..]).map(|_| ())
    };
    let there = || {
        let names = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<_> = names.map(|n| n.into_string().unwrap()).collect();
        names.sort();
        names
    };
    put(&mut trash, 1, 40).unwrap();
    put(&mut trash, 2, 40).unwrap();
    put(&mut trash, 3, 40).unwrap();
    assert_eq!(there(), ["2", "3"]);
    // By number of files.
    for _ in 0..4 {
        put(&mut trash, 4, 1).unwrap();
    }
    assert_eq!(there(), ["3", "4"]);
    // Never at the cost of the generation that is being written.
    put(&mut trash, 4, 1).unwrap();
    let refused = put(&mut trash, 4, 1).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
    let refused = put(&mut trash, 5, 101).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
    assert!(!dir.path().join("part").exists());
    // Counted again by the next hub.
    put(&mut trash, 6, 60).unwrap();
    let mut trash = Trash::bounded(dir.path(), 100, 5).unwrap();
    put(&mut trash, 7, 60).unwrap();
    assert_eq!(there(), ["7"]);
}
