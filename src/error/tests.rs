//! The exit codes, and every sentence, as people read it.

use std::path::Path;

use super::*;

#[test]
fn the_table_of_exit_codes_is_the_contract() {
    use Kind::*;
    let all = [
        Failure,
        Usage,
        NotFound,
        Forbidden,
        Conflict,
        NotInSync,
        NoDaemon,
        Interrupted,
        Terminated,
    ];
    let codes = all.map(Kind::exit_code);
    assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 130, 143]);
    let names = all.map(Kind::name);
    let expected = [
        "failure",
        "usage",
        "not-found",
        "forbidden",
        "conflict",
        "not-in-sync",
        "no-daemon",
        "interrupted",
        "terminated",
    ];
    assert_eq!(names, expected);
}

fn denied() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error())
}

fn missing() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error())
}

/// One of each situation, as `kind code: message` with its hints.
#[test]
fn every_situation_has_its_sentence() {
    let path = Path::new("/srv/app");
    let full = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
    let sentences = [
        Error::not_built("inject"),
        Error::no_directory(&missing()),
        Error::nothing_to_sync("watch", None),
        Error::nothing_to_sync("plan", Some(Path::new("/w/e2ek.toml"))),
        Error::no_such_target("x", &[]),
        Error::no_such_target("x", &["local".to_owned(), "web".to_owned()]),
        Error::io("write", path, &full),
        Error::io("read", path, &denied()),
        Error::source_missing(path),
        Error::source_not_a_directory(path),
        Error::target_inside_source(Path::new("/srv/app/out"), path),
        Error::target_inside_source(path, path),
        Error::source_inside_target(path, Path::new("/srv")),
        Error::target_missing(Path::new("/srv/my app/x")),
        Error::process_gone(1234),
        Error::process_forbidden(1),
        Error::target_forbidden(path, &denied()),
        Error::owned_by_other("local", "eve@box"),
        Error::nested_target("/srv/app", "/srv", "eve@box"),
        Error::held_root_emptied(path, 812),
        Error::held_root_replaced(path, "it is another file system now"),
        Error::held_delete_budget(300, 1000, "25%"),
        Error::paused(),
        Error::differing_settings("exclude", "*.log", ""),
        Error::differing_command("local", "sleep 1", "sleep 2"),
        Error::differing_command("local", "", "sleep 2"),
        Error::not_in_sync(Duration::from_secs(10), 41, 42),
        Error::disconnected("local", "the hub has ended"),
        Error::no_daemon(path),
        Error::daemon_ended(),
        Error::joined_ended(7),
        Error::already_watched(path, Some(7)),
        Error::not_in_session("x", &["local".to_owned(), "web".to_owned()]),
        Error::target_of_the_first("local"),
        Error::version_skew("the hub", "protocol 1 to 2", "protocol 3"),
        Error::transport_not_started(OsStr::new("sssh"), &missing()),
        Error::not_a_hub(b"Welcome to box!\n\x1b[0m"),
        Error::command_not_started(OsStr::new("pyhton"), &missing()),
        Error::command_not_started(OsStr::new("python3"), &missing()),
        Error::daemon_silent(),
        Error::daemon_not_understood("Attached"),
        Error::hub_not_served(&missing()),
        Error::directory_not_watched(path, &full),
        Error::directory_not_watched(path, &missing()),
        Error::directory_not_private(path, "others may enter it"),
        Error::interrupted(),
        Error::terminated(),
    ];
    let text = sentences.iter().map(|error| {
        let hints = error.hints.iter().map(|hint| format!("    {hint}\n")).collect::<String>();
        format!("{} {}: {error}\n{hints}", error.kind.name(), error.kind.exit_code())
    });
    insta::assert_snapshot!(text.collect::<String>());
}

#[test]
fn names_from_outside_cannot_drive_a_terminal() {
    let nasty = "\u{1b}]0;x\u{7}\n";
    let path = Path::new(nasty);
    let name = OsStr::new(nasty);
    for error in [
        Error::source_missing(path),
        Error::target_missing(&path.join("x")),
        Error::io("read", path, &denied()),
        Error::owned_by_other(nasty, nasty),
        Error::nested_target(nasty, nasty, nasty),
        Error::held_root_replaced(path, nasty),
        Error::no_such_target(nasty, &[]),
        Error::disconnected(nasty, nasty),
        Error::version_skew(nasty, nasty, nasty),
        Error::transport_not_started(name, &missing()),
        Error::not_a_hub(nasty.as_bytes()),
        Error::command_not_started(name, &missing()),
        Error::failure(&io::Error::other(nasty)),
    ] {
        let text = format!("{error}{}", error.hints.concat());
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

#[test]
fn a_failure_names_its_whole_chain_once() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the store")]
    struct Outer(#[source] io::Error);
    let error = Error::failure(&Outer(io::Error::other("it is full")));
    assert_eq!(error.message, "cannot open the store: it is full");
    assert_eq!(error.kind, Kind::Failure);
}
