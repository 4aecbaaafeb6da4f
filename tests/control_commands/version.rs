//! `version`, and commands beside settings that do not read.

use std::fs;

use serde_json::Value;

use super::place::Place;

#[test]
fn version_is_one_object() {
    let place = Place::new();
    let said = place.run(&["version", "--json"]);
    assert_eq!((said.code, &*said.err), (Some(0), ""));
    let object: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(object["version"], env!("CARGO_PKG_VERSION"));
    let (low, high) = e2ek_sidecar::wire::PROTOCOL;
    assert_eq!(object["protocol"], serde_json::json!([low, high]));
    assert_eq!(object["features"], serde_json::json!([]));
    assert_eq!(object["kind"], "version");
}

#[test]
fn a_fault_in_the_settings_stops_only_those_who_need_them() {
    let place = Place::new();
    fs::write(place.folder.join("e2ek.toml"), "nonsense").unwrap();
    assert_eq!(place.run(&["version"]).code, Some(0));
    let said = place.run(&["supervise", "--no-such-flag", "--", "true"]);
    assert_eq!(said.code, Some(2));
    for (words, code) in [(&["check-ignore", "x"][..], 128), (&["plan"], 2)] {
        let said = place.run(words);
        assert_eq!((said.code, &*said.out), (Some(code), ""), "{words:?} {said:?}");
        assert!(said.err.starts_with("[e2ek] error kind=usage "), "{said:?}");
    }
    let said = place.run(&["--output", "json", "plan"]);
    assert_eq!(serde_json::from_str::<Value>(&said.err).unwrap()["error"], "usage");
}

/// Whoever talks to the daemon needs nothing of the file but where it lies.
#[test]
fn a_fault_in_the_settings_keeps_nobody_from_the_daemon() {
    let place = Place::new();
    let file = place.folder.join("e2ek.toml");
    fs::create_dir(place.folder.join("below")).unwrap();
    let broken: [&[u8]; 3] = [b"nonsense", b"[workspace]\nmode = \"both\"\n", b"\xff"];
    for text in broken {
        fs::write(&file, text).unwrap();
        let said = place.run(&["status"]);
        assert_eq!((said.code, &*said.out), (Some(7), ""), "{said:?}");
        assert!(said.err.starts_with("[e2ek] warning message="), "{said:?}");
        assert!(said.err.contains("e2ek.toml"), "{said:?}");
    }
    fs::remove_file(&file).unwrap();
    let daemon = place.daemon(vec![], |_| e2ek_sync::control::Reply::Done { generation: Some(7) });
    fs::write(&file, broken[0]).unwrap();
    let below = place.folder.join("below");
    for words in [&["pause"][..], &["resume"], &["restart", "--target", "a"], &["flush"], &["stop"]]
    {
        let mut command = place.command(words);
        let said = super::place::Said::of(command.current_dir(&below).output().unwrap());
        assert_eq!(said.code, Some(0), "{words:?} {said:?}");
        assert_eq!(said.out, format!("[e2ek] done command={} gen=7\n", words[0]));
        assert!(said.err.starts_with("[e2ek] warning message="), "{said:?}");
    }
    daemon.ended();
}

#[test]
fn a_directory_to_enter_must_be_there() {
    let said = Place::new().run(&["-C", "nowhere", "version"]);
    assert_eq!((said.code, &*said.out), (Some(2), ""), "{said:?}");
    assert!(said.err.contains("cannot enter nowhere"), "{said:?}");
}

#[test]
fn a_log_filter_that_makes_no_sense_is_told() {
    let said = Place::new().run(&["status", "-vv", "--log", "a=b=c"]);
    assert_eq!(said.code, Some(2), "{said:?}");
    assert!(said.err.contains("log filter `a=b=c`"), "{said:?}");
}
