//! Layers, sources and faults, on real directories with an environment made by hand.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::error::{Error, Kind};

/// A directory with `src`, `other` and a home, and an environment that knows nothing else.
struct Room {
    _keep: tempfile::TempDir,
    root: PathBuf,
    environment: Environment,
}

impl Room {
    fn new() -> Self {
        let keep = tempfile::tempdir().unwrap();
        let root = keep.path().canonicalize().unwrap();
        for name in ["src/inner", "other", "home"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        let environment = Environment {
            current_dir: root.clone(),
            variables: [("HOME", root.join("home").into()), ("USER", "me".into())].into(),
            uid: rustix::process::geteuid().as_raw(),
            host: "box".into(),
            stdout_is_terminal: false,
        };
        Self { _keep: keep, root, environment }
    }

    fn with_file(text: &str) -> Self {
        let room = Self::new();
        fs::write(room.root.join("e2ek.toml"), text).unwrap();
        room
    }

    fn resolve(&self, flags: Flags) -> Result<Config, ConfigError> {
        Config::resolve(&flags, &self.environment)
    }

    /// The fault, as people read it, the room's own path redacted.
    fn fault(&self, flags: Flags) -> (Kind, String) {
        let error = Error::from(self.resolve(flags).expect_err("the flags are at fault"));
        let text = [vec![error.message], error.hints].concat().join("\n");
        (error.kind, text.replace(self.root.to_str().unwrap(), "ROOM"))
    }
}

fn watch(source: &str, target: &str) -> Flags {
    let target = (!target.is_empty()).then(|| target.into());
    let source = (!source.is_empty()).then(|| source.into());
    Flags { wants_targets: true, source, target, ..Flags::default() }
}

const FILE: &str = r#"
[workspace]
exclude = [
  "*.log",
  "*.tmp",
]
mode = "mirror"
delete-budget = 7
poll = "3s"

[[target]]
name = "local"
to = "../elsewhere"
paths = [{ from = "src", to = "app" }, { from = "other", to = "./lib/" }]
command = ["python3", "-m", "e2e_k8s"]
transport-cmd = []
ready = { tcp = "127.0.0.1:8080" }

[[target]]
name = "proc"
to = "pid/1:/srv"

[restart]
signal = "SIGTERM"
kill-after = "1s"
[[restart.rule]]
paths = ["*.html", "static/**"]
action = "signal:HUP"
[[restart.rule]]
paths = ["requirements.txt"]
run = ["pip", "install"]
action = "restart"
"#;

#[test]
fn flags_beat_the_file_and_the_file_beats_what_is_built_in() {
    let room = Room::with_file(FILE);
    let flags = Flags {
        mode: Some(Mode::Keep),
        exclude: vec!["*.bak".into()],
        kill_after: Some(Duration::from_secs(3)),
        targets: vec!["local".into()],
        ..watch("", "")
    };
    let config = room.resolve(flags).unwrap();
    let lines = config.explain().into_iter().map(|s| {
        let line = format!("{} = {} ({})\n", s.name, s.value, s.source);
        line.replace(room.root.to_str().unwrap(), "ROOM")
            .replace(room.root.parent().unwrap().to_str().unwrap(), "ABOVE")
    });
    insta::assert_snapshot!(lines.collect::<String>());
}

#[test]
fn commands_of_a_file_are_known_as_such() {
    let room = Room::with_file(FILE);
    let purposes = |flags| {
        let found = room.resolve(flags).unwrap().commands_from_file();
        found.into_iter().map(|c| (c.purpose, c.at.line)).collect::<Vec<_>>()
    };
    let rule = ("run of a restart rule".to_owned(), 31);
    let command = ("command of target local".to_owned(), 15);
    assert_eq!(purposes(watch("", "")), [command, rule.clone()]);
    let typed = Flags { command: vec!["true".into()], ..watch("", "") };
    assert_eq!(purposes(typed), [rule], "what was typed needs no consent");
}

#[test]
fn a_typed_target_stands_alone_unless_the_file_describes_it() {
    let room = Room::with_file(FILE);
    let config = room.resolve(watch("src", "./copy")).unwrap();
    let [target] = &*config.targets else { panic!("{:?}", config.targets) };
    assert_eq!((target.command.as_ref(), &*target.name.value), (None, "./copy"));
    assert_eq!(target.root, room.root.join("copy"));
    assert_eq!(target.pairs[0].from, room.root.join("src"));
    assert!(target.pairs[0].to.is_root());
    assert_eq!(config.workspace.folder, room.root, "the folder of e2ek.toml");

    let named = Flags { targets: vec!["local".into()], ..watch("src", "./copy") };
    let config = room.resolve(named).unwrap();
    assert_eq!(config.targets[0].name.value, "local");
    assert!(config.targets[0].command.is_some());
    assert_eq!(config.targets[0].root, room.root.join("copy"));
}

#[test]
fn the_workspace_is_the_folder_of_the_file_or_the_source() {
    let room = Room::new();
    let here = room.resolve(Flags::default()).unwrap().workspace;
    assert_eq!((&here.folder, &here.file), (&room.root, &None));
    let source = room.resolve(watch("src/../src", "/nowhere/x")).unwrap().workspace;
    assert_eq!(source.folder, room.root.join("src"));
    assert_eq!(source.id, WorkspaceId::of(&room.root.join("src")));
    let inner = Flags { directory: Some("src/inner".into()), ..Flags::default() };
    fs::write(room.root.join("src/e2ek.toml"), "").unwrap();
    let nearest = room.resolve(inner).unwrap().workspace;
    assert_eq!(nearest.folder, room.root.join("src"));
    fs::write(room.root.join("other/my.toml"), "").unwrap();
    let named = Flags { config: Some("other/my.toml".into()), ..watch("src", "/nowhere/x") };
    assert_eq!(room.resolve(named).unwrap().workspace.folder, room.root.join("other"));
}

#[test]
fn talking_to_a_daemon_needs_neither_source_nor_target() {
    let room = Room::with_file("[[target]]\nname='k'\nto='host:/srv'\n");
    assert!(room.resolve(Flags::default()).unwrap().targets.is_empty());
    let gone = Flags { source: Some("gone".into()), ..Flags::default() };
    assert!(room.resolve(gone).is_ok());
    let (kind, text) = room.fault(watch("", ""));
    assert_eq!(kind, Kind::Usage);
    assert!(text.starts_with("`host:/srv` is an SSH host"), "{text}");
}

#[test]
fn the_cluster_is_the_one_that_kubectl_would_take() {
    let file = "[[target]]\nname='k'\nto='deploy/api:/srv'\nnamespace='web'\ncontext='c'\n";
    let mut room = Room::with_file(file);
    let choice = |room: &Room, flags: Flags| {
        room.resolve(flags).unwrap().targets.remove(0).cluster.expect("a workload")
    };
    let word = |value: &Option<Value<String>>| value.as_ref().map(|v| v.value.clone());
    let from_file = choice(&room, watch("", ""));
    assert_eq!(from_file.kubeconfig, [room.root.join("home/.kube/config")]);
    assert_eq!(word(&from_file.namespace).as_deref(), Some("web"));
    let flags = Flags { namespace: Some("dev".into()), pod: Some("p".into()), ..watch("", "") };
    let typed = choice(&room, flags);
    let words = [&typed.namespace, &typed.context, &typed.pod].map(word);
    assert_eq!(words.map(Option::unwrap), ["dev", "c", "p"], "what was typed beats the file");
    room.environment.variables.insert("KUBECONFIG", "/a::b/c".into());
    let listed = choice(&room, watch("", ""));
    assert_eq!(listed.kubeconfig, [PathBuf::from("/a"), room.root.join("b/c")]);
    let one = Flags { kubeconfig: Some("k".into()), ..watch("", "") };
    assert_eq!(choice(&room, one).kubeconfig, [room.root.join("k")]);
    let far = Flags { transport: Some(vec!["x".into()]), ..watch("", "") };
    assert!(room.resolve(far).unwrap().targets.remove(0).cluster.is_none());
}

#[test]
fn a_transport_command_makes_the_path_the_far_ends() {
    let room = Room::new();
    let far = |target: &str| {
        let transport = Some(vec!["ssh".into(), "host".into()]);
        let flags = Flags { transport, ..watch("src", target) };
        room.resolve(flags).unwrap().targets.remove(0)
    };
    assert_eq!(far("/srv/app").root, Path::new("/srv/app"));
    assert_eq!(far("~/app").root, Path::new("~/app"), "the home there is not ours");
    assert_eq!(far("deploy/api:/x").root, Path::new("/x"));
    assert_eq!(far("./src").root, Path::new("./src"));
    assert_eq!(far("/x").transport.unwrap().value, ["ssh", "host"]);
}

#[test]
fn links_in_a_local_target_are_resolved_and_the_home_is_expanded() {
    let room = Room::new();
    std::os::unix::fs::symlink(room.root.join("other"), room.root.join("link")).unwrap();
    let root = |target: &str| room.resolve(watch("src", target)).unwrap().targets.remove(0).root;
    assert_eq!(root("./link/new/deep"), room.root.join("other/new/deep"));
    assert_eq!(root("./link"), room.root.join("other"));
    assert_eq!(root("~/copy"), room.root.join("home/copy"));
    assert_eq!(root("~"), room.root.join("home"));
}

#[test]
fn i6_source_and_target_may_not_hold_each_other() {
    let room = Room::new();
    std::os::unix::fs::symlink(room.root.join("src"), room.root.join("link")).unwrap();
    for (target, message) in [
        ("./src", "the target ROOM/src is the source itself"),
        ("./src/inner/new", "the target ROOM/src/inner/new lies inside the source ROOM/src"),
        ("./link/new", "the target ROOM/src/new lies inside the source ROOM/src"),
        (".", "the source ROOM/src lies inside the target ROOM"),
        ("/", "the source ROOM/src lies inside the target /"),
    ] {
        let (kind, text) = room.fault(watch("src", target));
        assert_eq!((kind, text.lines().next().unwrap()), (Kind::Usage, message), "{target}");
    }
    assert!(room.resolve(watch("src", "./src2")).is_ok(), "a longer name is not inside");
}

#[test]
fn pairs_lie_below_the_target_and_apart() {
    let room = Room::new();
    let placed = |target: &str, pairs: &[&str]| {
        let paths = pairs.iter().map(OsString::from).collect();
        let flags = Flags { paths, ..watch("src", target) };
        let target = room.resolve(flags)?.targets.remove(0);
        let pairs = target.pairs.iter().map(|pair| pair.to.to_string()).collect::<Vec<_>>();
        Ok::<_, ConfigError>((target.root, pairs.join(" ")))
    };
    let ok = |root: &str, pairs: &str| (PathBuf::from(root), pairs.to_owned());
    let two = ["src:/srv/a/x", "other:/srv/b"];
    assert_eq!(placed("pid/1", &two).unwrap(), ok("/srv", "a/x b"));
    assert_eq!(placed("pid/1", &two[..1]).unwrap(), ok("/srv/a/x", "."));
    assert_eq!(placed("pid/1:/srv", &two).unwrap(), ok("/srv", "a/x b"));
    assert_eq!(placed("pid/1:/srv", &["src:a/./b"]).unwrap(), ok("/srv", "a/b"));
    for bad in ["src:../x", "src:a/../../x", "src:/etc/x"] {
        let placed = placed("pid/1:/srv", &[bad]);
        assert!(matches!(placed, Err(ConfigError::PairOutside { .. })), "{bad}");
    }
    for bad in [["src:a", "other:a"], ["src:a", "other:a/b"], ["src:a/b", "other:."]] {
        let placed = placed("pid/1:/srv", &bad);
        assert!(matches!(placed, Err(ConfigError::PairsOverlap { .. })), "{bad:?}");
    }
    for pairs in [&[][..], &["src:rel"], &["src:/a", "other:rel"]] {
        let placed = placed("pid/1", pairs);
        assert!(matches!(placed, Err(ConfigError::TargetPathMissing { .. })), "{pairs:?}");
    }
}

#[test]
fn a_fault_in_the_file_names_its_line_and_the_way_out() {
    let target = "[[target]]\nname = 'a'\nto = '/x'\n";
    let with = |lines: &str| format!("{target}{lines}");
    let mut text = String::new();
    for file in [
        "[workspace]\nexlude = []",
        "[workspaces]",
        "[restart]\n\nkill_after = '1s'",
        "[workspace]\nzzzzzz = 1",
        "[workspace]\nmode = 'two-way'",
        "[workspace]\nmode = 3",
        "[workspace]\nexclude = ['a',\n 4]",
        "[workspace]\ndelete-budget = '101%'",
        "[workspace]\npoll = 2",
        "[restart]\nkill-after = '10'",
        "[restart]\nsignal = 'SIGNOPE'",
        "[restart]\ndefault = 'reload'",
        "[restart]\ndefault = 'signal:NOPE'",
        "[[restart.rule]]\naction = 'nothing'",
        "[[restart.rule]]\npaths = ['a']",
        "[[restart.rule]]\npath = ['a']\npaths = ['a']\naction = 'nothing'",
        "[target]\nname = 'a'",
        "[[target]]\nto = '/x'",
        "[[target]]\nname = 'a'",
        "[[target]]\nname = '-a'\nto = '/x'",
        "[[target]]\nname = \"a\\u001b\"\nto = '/x'",
        "[[target]]\nname = 'a'\nto = 'src'",
        "[[target]]\nname = 'a'\nto = '-x'",
        &with(&with("")),
        &with("ready = { tcp = '8080' }"),
        &with("ready = { http = 'https://x' }"),
        &with("ready = {}"),
        &with("ready = { tcp = 'a:1', http = 'http://a' }"),
        &with("paths = [{ form = '.', to = '.' }]"),
        &with("command = 'python3 app.py'"),
        "[workspace\nmode = 'keep'",
        "mode = 'keep'\nmode = 'keep'",
        "a = \"\\x1b\"\n[workspace]",
    ] {
        let (kind, fault) = Room::with_file(file).fault(watch("src", "./copy"));
        assert_eq!(kind, Kind::Usage, "{file}");
        text += &format!("{}\n", fault.replace('\n', "\n    "));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn words_that_are_typed_wrong_say_so() {
    let room = Room::with_file("[[target]]\nname = 'a'\nto = '/x'\n");
    let named = |name: &str| Flags { targets: vec![name.into()], ..watch("", "") };
    let pair = |pair: &str| Flags { paths: vec![pair.into()], ..watch("src", "./copy") };
    let config = Flags { config: Some("gone.toml".into()), ..watch("", "") };
    let directory = Flags { directory: Some("gone".into()), ..watch("", "") };
    let mut text = String::new();
    for flags in [
        watch("gone", "./copy"),
        watch("e2ek.toml", "./copy"),
        watch("src", "copy"),
        watch("src", "-rf"),
        watch("src", "host:x"),
        watch("src", "me@host:/x"),
        watch("src", "pid/1"),
        named("b"),
        pair("src"),
        pair("gone:x"),
        config,
        directory,
    ] {
        let (kind, fault) = room.fault(flags);
        text += &format!("{} {}\n", kind.name(), fault.replace('\n', "\n    "));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_file_that_somebody_else_left_above_is_not_read() {
    let room = Room::with_file("");
    if room.environment.uid != 0 {
        return; // Only root can give a file away; CI runs this as root, too.
    }
    let file = room.root.join("e2ek.toml");
    std::os::unix::fs::chown(&file, Some(4242), None).unwrap();
    let (kind, text) = room.fault(Flags { directory: Some("src".into()), ..Flags::default() });
    assert_eq!(kind, Kind::Forbidden);
    assert!(text.contains("--config ROOM/e2ek.toml"), "{text}");
    let asked = Flags { config: Some("e2ek.toml".into()), ..Flags::default() };
    assert!(room.resolve(asked).is_ok());
    // The owner of the place we came from may: a container's root in somebody's checkout.
    std::os::unix::fs::chown(room.root.join("src"), Some(4242), None).unwrap();
    let inside = Flags { directory: Some("src".into()), ..Flags::default() };
    assert!(room.resolve(inside).is_ok());
}

#[test]
fn how_things_are_said_depends_on_the_terminal_and_on_what_was_asked() {
    let said = |terminal: bool, variables: &[(&'static str, &str)], flags: Flags| {
        let mut room = Room::new();
        room.environment.stdout_is_terminal = terminal;
        room.environment.variables.extend(variables.iter().map(|(n, v)| (*n, v.into())));
        let say = room.resolve(flags).unwrap().say;
        (say.output.value, say.color.value, say.color.source.to_string())
    };
    let color = |choice| Flags { color: Some(choice), ..Flags::default() };
    let json = Flags { output: Some(Output::Json), ..Flags::default() };
    let from = |output, color, source: &str| (output, color, source.to_owned());
    let plain = Flags::default;
    assert_eq!(said(true, &[], plain()), from(Output::Human, true, "default"));
    assert_eq!(said(false, &[], plain()), from(Output::Lines, false, "default"));
    assert_eq!(said(true, &[], json), from(Output::Json, false, "default"));
    let none = ("NO_COLOR", "1");
    assert_eq!(said(true, &[none], plain()), from(Output::Human, false, "$NO_COLOR"));
    assert_eq!(said(true, &[("TERM", "dumb")], plain()), from(Output::Human, false, "$TERM"));
    let always = said(false, &[none], color(ColorChoice::Always));
    assert_eq!(always, from(Output::Lines, true, "--color"));
    assert!(!said(true, &[], color(ColorChoice::Never)).1);
}

#[test]
fn the_log_filter_and_the_writer_come_from_outside() {
    let mut room = Room::new();
    room.environment.variables.insert("E2EK_LOG", "debug".into());
    let config = room.resolve(Flags::default()).unwrap();
    assert_eq!(config.say.log, Some(Value::new("debug".into(), Source::Env("E2EK_LOG"))));
    assert_eq!(config.writer, "me@box");
    let typed = Flags { log: Some("trace".into()), verbose: 2, quiet: 3, ..Flags::default() };
    let say = room.resolve(typed).unwrap().say;
    assert_eq!(say.log, Some(Value::new("trace".into(), Source::Flag("--log"))));
    assert_eq!(say.verbosity, -1);
}
