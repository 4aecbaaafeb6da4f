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
    for words in [&["status"][..], &["attach"], &["check-ignore", "x"], &["plan"]] {
        let said = place.run(words);
        assert_eq!((said.code, &*said.out), (Some(2), ""), "{words:?} {said:?}");
        assert!(said.err.starts_with("[e2ek] error kind=usage "), "{said:?}");
    }
    let said = place.run(&["--output", "json", "status"]);
    assert_eq!(serde_json::from_str::<Value>(&said.err).unwrap()["error"], "usage");
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
