//! Owns the account of a [`Config`]: each setting, its value, and where that came from.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use e2ek_sidecar::path::Escaped;

use super::quantity::show_duration;
use super::settings::show_action;
use super::value::{Location, Source, Value};
use super::{ClusterChoice, Config, Target};

/// One line of what `-v` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As it is called in e2ek.toml.
    pub name: String,
    /// As it could be written there; control characters escaped.
    pub value: String,
    /// Which layer said so.
    pub source: Source,
}

/// A command that stands in a file, so that a repository could have brought it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileCommand {
    /// What it is for: `command of target local`.
    pub purpose: String,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// Where it stands.
    pub at: Location,
}

fn path(path: &Path) -> String {
    Escaped(path.as_os_str().as_bytes()).to_string()
}

fn words<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> String {
    let word = |word: &S| {
        let shown = Escaped(word.as_ref().as_bytes()).to_string();
        shlex::try_quote(&shown).map(Into::into).unwrap_or(shown)
    };
    words.iter().map(word).collect::<Vec<_>>().join(" ")
}

struct Account(Vec<Setting>);

impl Account {
    fn line<T>(&mut self, name: impl Into<String>, value: &Value<T>, show: impl Fn(&T) -> String) {
        let source = value.source.clone();
        self.0.push(Setting { name: name.into(), value: show(&value.value), source });
    }

    fn target(&mut self, target: &Target) {
        let name = |key: &str| format!("target.{}.{key}", target.name.value);
        self.line(name("to"), &target.spec, ToString::to_string);
        for pair in &target.pairs {
            let value =
                Value::new(format!("{} -> {}", path(&pair.from), pair.to), pair.source.clone());
            self.line(name("paths"), &value, Clone::clone);
        }
        if let Some(transport) = &target.transport {
            self.line(name("transport-cmd"), transport, |argv| words(argv));
        }
        if let Some(command) = &target.command {
            self.line(name("command"), command, |argv| words(argv));
        }
        if let Some(ready) = &target.ready {
            self.line(name("ready"), ready, ToString::to_string);
        }
        if let Some(cluster) = &target.cluster {
            self.cluster(cluster, name);
        }
    }
}

impl Account {
    fn cluster(&mut self, cluster: &ClusterChoice, name: impl Fn(&str) -> String) {
        let all = [
            ("context", &cluster.context),
            ("namespace", &cluster.namespace),
            ("selector", &cluster.selector),
            ("pod", &cluster.pod),
            ("container", &cluster.container),
        ];
        for (key, value) in all {
            if let Some(value) = value {
                self.line(name(key), value, |text| Escaped(text.as_bytes()).to_string());
            }
        }
    }
}

impl Config {
    /// Every setting with its value and source, in the order of e2ek.toml.
    #[must_use]
    pub fn explain(&self) -> Vec<Setting> {
        let text = |text: &String| Escaped(text.as_bytes()).to_string();
        let mut account = Account(Vec::new());
        for line in &self.sync.excludes {
            account.line("workspace.exclude", line, text);
        }
        for line in &self.sync.includes {
            account.line("workspace.include", line, text);
        }
        account.line("workspace.mode", &self.sync.mode, ToString::to_string);
        account.line("workspace.delete-budget", &self.sync.delete_budget, ToString::to_string);
        account.line("workspace.write", &self.sync.write, ToString::to_string);
        account.line("workspace.poll", &self.sync.poll, |poll| {
            poll.map_or_else(|| "never".to_owned(), show_duration)
        });
        for target in &self.targets {
            account.target(target);
        }
        account.line("restart.signal", &self.restart.signal, ToString::to_string);
        account.line("restart.kill-after", &self.restart.kill_after, |d| show_duration(*d));
        account.line("restart.debounce", &self.restart.debounce, |d| show_duration(*d));
        account.line("restart.default", &self.restart.default, show_action);
        for rule in &self.restart.rules {
            account.line("restart.rule", &rule.action, |action| {
                let run = rule.run.as_ref().map(|run| format!("run {}, ", words(&run.value)));
                let action = show_action(action);
                format!("{}: {}{action}", words(&rule.paths), run.unwrap_or_default())
            });
        }
        account.line("state-dir", &self.places.state, |dir| path(dir));
        account.line("runtime-dir", &self.places.runtime, |dir| path(dir));
        account.line("output", &self.say.output, ToString::to_string);
        account.line("color", &self.say.color, ToString::to_string);
        if let Some(log) = &self.say.log {
            account.line("log", log, text);
        }
        account.0
    }

    /// The commands that would run because a file says so, each with its line. What was typed is
    /// not among them.
    #[must_use]
    pub fn commands_from_file(&self) -> Vec<FileCommand> {
        let mut found = Vec::new();
        let mut add = |purpose: String, argv: Vec<OsString>, source: &Source| {
            if let Source::File(at) = source {
                found.push(FileCommand { purpose, argv, at: at.clone() });
            }
        };
        for target in &self.targets {
            let of = |what: &str| format!("{what} of target {}", target.name.value);
            if let Some(argv) = &target.transport {
                add(of("transport-cmd"), argv.value.clone(), &argv.source);
            }
            if let Some(argv) = &target.command {
                add(of("command"), argv.value.clone(), &argv.source);
            }
        }
        for run in self.restart.rules.iter().filter_map(|rule| rule.run.as_ref()) {
            let argv = run.value.iter().map(OsString::from).collect();
            add("run of a restart rule".to_owned(), argv, &run.source);
        }
        found
    }
}
