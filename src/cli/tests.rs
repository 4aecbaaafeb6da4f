//! What words become, and which are refused.

use std::time::Duration;

use e2ek_sidecar::restart::Signal;

use super::*;
use crate::config::{DeleteBudget, Forward, Mode, WriteMode};
use crate::error::Kind;

fn words(line: &str) -> Vec<OsString> {
    let words = shlex::split(line).expect("the test's line has its quotes closed");
    std::iter::once("e2ek-sync".to_owned()).chain(words).map(Into::into).collect()
}

fn cli(line: &str) -> Cli {
    match parse(words(line)) {
        Ok(Parsed::Run(cli)) => *cli,
        other => panic!("{line}: {other:?}"),
    }
}

fn flags(line: &str) -> Flags {
    cli(line).flags()
}

fn refused(line: &str) -> Error {
    let error = parse(words(line)).expect_err(line);
    assert_eq!(error.kind, Kind::Usage, "{line}");
    error
}

fn supervise(line: &str) -> SuperviseArgs {
    match cli(line).command {
        Command::Supervise(args) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn clap_finds_no_fault_in_the_commands() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_of_watch_arrives() {
    let line = "watch src ./copy --path a:b --path c:d --transport-cmd \"ssh -p 22 'a b'\" \
        -e '*.log' --exclude x --include y --mode mirror --delete-budget 25% --write in-place \
        --poll=5s --take-over --signal HUP --kill-after 1s --debounce 20ms --patterns '*.py; *.c' \
        --patterns '*.h' --ignore-patterns z -C dir --config f.toml --target t -vv -q \
        --color never --output json --state-dir s --log debug --kubeconfig k --context c -n web \
        -l app=api --pod api-1 -c main --forward 8080 --forward 81:80 -- python3 -v app.py";
    let expected = Flags {
        wants_targets: true,
        source: Some("src".into()),
        target: Some("./copy".into()),
        paths: vec!["a:b".into(), "c:d".into()],
        transport: Some(["ssh", "-p", "22", "a b"].map(String::from).into()),
        command: vec!["python3".into(), "-v".into(), "app.py".into()],
        kubeconfig: Some("k".into()),
        context: Some("c".into()),
        namespace: Some("web".into()),
        selector: Some("app=api".into()),
        pod: Some("api-1".into()),
        container: Some("main".into()),
        forwards: vec![Forward { local: 8080, remote: 8080 }, Forward { local: 81, remote: 80 }],
        directory: Some("dir".into()),
        config: Some("f.toml".into()),
        targets: vec!["t".into()],
        verbose: 2,
        quiet: 1,
        color: Some(ColorChoice::Never),
        output: Some(Output::Json),
        state_dir: Some("s".into()),
        log: Some("debug".into()),
        exclude: vec!["*.log".into(), "x".into()],
        include: vec!["y".into()],
        mode: Some(Mode::Mirror),
        delete_budget: Some(DeleteBudget::Percent(25)),
        write: Some(WriteMode::InPlace),
        poll: Some(Duration::from_secs(5)),
        take_over: true,
        signal: Some(Signal::HUP),
        kill_after: Some(Duration::from_secs(1)),
        debounce: Some(Duration::from_millis(20)),
        patterns: Some(["*.py", "*.c", "*.h"].map(String::from).into()),
        ignore_patterns: Some(vec!["z".into()]),
    };
    assert_eq!(flags(line), expected);
    assert_eq!(flags("watch"), Flags { wants_targets: true, ..Flags::default() });
}

#[test]
fn poll_takes_its_time_after_an_equals_sign_only() {
    let poll = flags("watch --poll src ./copy");
    assert_eq!((poll.poll, poll.source), (Some(Duration::from_secs(2)), Some("src".into())));
}

#[test]
fn global_flags_stand_before_or_after_the_command() {
    for line in ["-C d -v --target t status", "status -C d -v --target t"] {
        let flags = flags(line);
        assert_eq!((flags.directory, flags.verbose), (Some("d".into()), 1), "{line}");
        assert_eq!(flags.targets, ["t"], "{line}");
        assert!(!flags.wants_targets);
    }
    assert_eq!(flags("-C outer status -C inner").directory, Some("inner".into()));
}

#[test]
fn supervise_takes_the_command_lines_of_watchmedo() {
    let args = supervise(
        "supervise -d a --directory b --patterns '*.py;*.html' -p '*.c' --ignore-pattern x -D -R \
        --signal SIGTERM --kill-after 2.5 --debounce-interval .5 --interval 1 \
        --no-restart-on-command-exit python3 -R app.py -- x",
    );
    assert_eq!(args.directories(), [PathBuf::from("a"), "b".into()]);
    assert_eq!(args.patterns(), ["*.py", "*.html", "*.c"]);
    assert_eq!(args.ignore_patterns(), ["x"]);
    assert!(args.ignore_directories && args.recursive && args.no_restart_on_command_exit);
    assert_eq!(args.signal, Signal::TERM);
    assert_eq!(args.kill_after, Duration::from_millis(2500));
    assert_eq!(args.debounce, Duration::from_millis(500));
    assert_eq!(args.command, ["python3", "-R", "app.py", "--", "x"]);
}

#[test]
fn supervise_has_the_defaults_of_watchmedo() {
    let args = supervise("supervise -- app");
    assert_eq!(args.directories(), [PathBuf::from(".")]);
    assert!(args.patterns().is_empty() && args.ignore_patterns().is_empty());
    assert!(!args.ignore_directories && !args.recursive && !args.no_restart_on_command_exit);
    assert_eq!(args.signal, Signal::INT);
    assert_eq!((args.kill_after, args.debounce), (Duration::from_secs(10), Duration::ZERO));
    assert_eq!(args.command, ["app"]);
    let elsewhere = flags("supervise -C d -d e app");
    assert_eq!(elsewhere.directory, Some("d".into()), "-d is not -C");
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    for line in [
        "",
        "nope",
        "watch a b c",
        "watch --nope",
        "watch --timeout 1s",
        "watch --kill-after 10",
        "watch --kill-after=-1s",
        "watch --debounce -1s",
        "watch --signal NOPE",
        "watch --transport-cmd ''",
        "watch --transport-cmd \"a 'b\"",
        "watch --delete-budget 101%",
        "watch --mode both",
        "sync a ./b",
        "flush --timeout 10",
        "wait",
        "wait --synced --ready",
        "wait --gen -1",
        "supervise",
        "supervise --no-such-flag -- app",
        "supervise --kill-after -1 app",
        "supervise --debounce -0.1 app",
        "check-ignore --bogus a",
        "status --json=1",
    ] {
        refused(line);
    }
}

#[test]
fn a_typing_error_is_answered_with_the_nearest_word() {
    let hints = |line: &str| refused(line).hints.join("\n");
    assert!(hints("statsu").contains("'status'"));
    assert!(hints("watch --exclud x").contains("'--exclude'"));
    assert!(hints("watch --mode mirro").contains("'mirror'"));
}

#[test]
fn words_of_later_versions_are_no_typing_errors() {
    for word in LATER {
        assert_eq!(refused(word).message, format!("`{word}` is not built in this version"));
    }
}

#[test]
fn every_command_has_its_name() {
    for line in [
        "watch",
        "sync --once",
        "plan",
        "flush",
        "wait --synced",
        "status",
        "restart",
        "pause",
        "resume",
        "reset",
        "stop",
        "attach",
        "supervise x",
        "check-ignore x",
        "version",
        "hub --state s",
    ] {
        assert_eq!(cli(line).command.name(), line.split(' ').next().unwrap());
    }
}

#[test]
fn what_was_meant_for_check_ignore_is_known_even_if_it_makes_no_sense() {
    for (line, meant) in [
        ("check-ignore --bogus a", true),
        ("-C check-ignore status --bogus", false),
        ("-C d -v check-ignore --output", true),
        ("check-ignored", false),
        ("", false),
    ] {
        assert_eq!(is_check_ignore(words(line)), meant, "{line}");
    }
}
