//! e2ek.toml while it is followed: what of it counts at once, and what from the next start on.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Daemon, Kind, settings};
use crate::config::{Config, Setting};
use crate::error::Error;
use crate::report::{Event, Text};

/// Resolves the configuration again, from what was typed and the environment of the start.
pub type Reread = Box<dyn Fn() -> Result<Config, Error> + Send + Sync>;

/// What counts at once. The rest is settled with the hubs when they are opened, or, as the mode, would
/// delete without being asked.
const AT_ONCE: &[&str] = &[
    "workspace.exclude",
    "workspace.include",
    "workspace.delete-budget",
    "workspace.poll",
    "restart.debounce",
    "restart.default",
    "restart.rule",
];

impl Daemon {
    /// Reads the file again that may have changed. One with a fault changes nothing.
    pub(super) fn follow_settings(&mut self) {
        let Some(file) = self.config.workspace.file.clone().filter(|_| self.kind == Kind::Watch)
        else {
            return;
        };
        let found = match (self.reread)() {
            Ok(found) => found,
            Err(error) => {
                let message = format!("{}; what was set before stays", error.message);
                return self.say(Event::Warning { message: message.into() });
            }
        };
        if found.workspace.file.as_ref() != Some(&file) {
            let message = format!("{} is gone; what it set stays", Text::from(file.as_path()));
            return self.say(Event::Warning { message: message.into() });
        }
        let (now, later): (BTreeSet<_>, BTreeSet<_>) = differences(&self.config, &found)
            .into_iter()
            .partition(|name| AT_ONCE.contains(&name.as_str()));
        if !now.is_empty() {
            self.take_over(found, &now);
        }
        if later != self.told_later {
            self.told_later.clone_from(&later);
            if later.is_empty() {
                return;
            }
            let names: Vec<_> = later.iter().map(String::as_str).collect();
            let names = names.join(", ");
            let message = format!("{names}: changed, and counts when `watch` is started again");
            self.say(Event::Warning { message: message.into() });
        }
    }

    fn take_over(&mut self, found: Config, names: &BTreeSet<String>) {
        let (sync, restart) = (&mut self.config.sync, &mut self.config.restart);
        sync.excludes = found.sync.excludes;
        sync.includes = found.sync.includes;
        sync.delete_budget = found.sync.delete_budget;
        sync.poll = found.sync.poll;
        restart.debounce = found.restart.debounce;
        restart.default = found.restart.default;
        restart.rules = found.restart.rules;
        self.poll_at = None;
        let settings = settings::session(self.kind, &self.config, self.source.ignored());
        self.session.follow(settings);
        if ["workspace.exclude", "workspace.include"].iter().any(|name| names.contains(*name)) {
            self.source.follow(Instant::now(), &settings::filter_options(&self.config));
        }
        let account = self.config.explain();
        for name in names {
            let values = account.iter().filter(|setting| setting.name == *name);
            let values: Vec<_> = values.map(|setting| setting.value.as_str()).collect();
            let value = if values.is_empty() { "none".to_owned() } else { values.join(", ") };
            self.say(Event::Setting {
                key: name.as_str().into(),
                value: value.into(),
                origin: "from now on".into(),
            });
        }
    }
}

/// The names of the settings whose values differ.
fn differences(one: &Config, other: &Config) -> BTreeSet<String> {
    let (one, other) = (one.explain(), other.explain());
    let of = |all: &[Setting], name: &str| -> Vec<String> {
        all.iter().filter(|s| s.name == name).map(|s| s.value.clone()).collect()
    };
    let names = one.iter().chain(&other).map(|setting| setting.name.clone());
    let names: BTreeSet<_> = names.collect();
    names.into_iter().filter(|name| of(&one, name) != of(&other, name)).collect()
}
