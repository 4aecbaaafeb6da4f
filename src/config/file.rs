//! Owns the schema of e2ek.toml: text in, one layer of settings out, every value with its line.
//!
//! Nothing is looked up here: paths stay as written, no default is filled in. What a repository's
//! file may run (`command`, `run`, `transport-cmd`) is kept apart by its source, for consent.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use e2ek_sidecar::path::Escaped;
use e2ek_sidecar::restart::{Action, Signal};
use toml::de::DeTable;

use super::error::ConfigError;
use super::quantity::{DeleteBudget, QuantityError, parse_duration};
use super::settings::{ACTIONS, Mode, Ready, Rule, WriteMode};
use super::table::{Table, Text, bad_choice};
use super::target::{PairSpec, TargetSpec};
use super::value::Value;

/// What the file of a workspace says.
#[derive(Debug)]
pub(super) struct File {
    pub(super) workspace: WorkspaceLayer,
    pub(super) targets: Vec<TargetLayer>,
    pub(super) restart: RestartLayer,
}

/// `[workspace]`.
#[derive(Debug, Default)]
pub(super) struct WorkspaceLayer {
    pub(super) exclude: Vec<Value<String>>,
    pub(super) include: Vec<Value<String>>,
    pub(super) mode: Option<Value<Mode>>,
    pub(super) delete_budget: Option<Value<DeleteBudget>>,
    pub(super) write: Option<Value<WriteMode>>,
    pub(super) poll: Option<Value<Option<Duration>>>,
}

/// One `[[target]]`.
#[derive(Debug)]
pub(super) struct TargetLayer {
    pub(super) name: Value<String>,
    pub(super) to: Value<TargetSpec>,
    pub(super) pairs: Vec<Value<PairSpec>>,
    pub(super) transport: Option<Value<Vec<String>>>,
    pub(super) command: Option<Value<Vec<String>>>,
    pub(super) ready: Option<Value<Ready>>,
    pub(super) cluster: ClusterLayer,
}

/// What one `[[target]]` says of the cluster.
#[derive(Debug, Default)]
pub(super) struct ClusterLayer {
    pub(super) context: Option<Value<String>>,
    pub(super) namespace: Option<Value<String>>,
    pub(super) selector: Option<Value<String>>,
    pub(super) container: Option<Value<String>>,
}

/// `[restart]`.
#[derive(Debug, Default)]
pub(super) struct RestartLayer {
    pub(super) signal: Option<Value<Signal>>,
    pub(super) kill_after: Option<Value<Duration>>,
    pub(super) debounce: Option<Value<Duration>>,
    pub(super) default: Option<Value<Action>>,
    pub(super) rules: Vec<Rule>,
}

impl File {
    /// Reads the text of the file at `path`.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let text = Text { path: Arc::new(path.to_owned()), text };
        let document = DeTable::parse(text.text).map_err(|error| {
            let at = text.at(error.span().map_or(0, |span| span.start));
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            ConfigError::Syntax { at, message: Escaped(message.as_bytes()).to_string() }
        })?;
        let start = text.at(0);
        let mut table = Table::new(text, "e2ek.toml", start, document.into_inner());
        let workspace = table.table("workspace")?.map(workspace).transpose()?;
        let mut targets = Vec::new();
        let mut names = BTreeSet::new();
        for inner in table.tables("target")? {
            let at = inner.location();
            let target = target(inner)?;
            if !names.insert(target.name.value.clone()) {
                return Err(ConfigError::DuplicateTarget { at, name: target.name.value });
            }
            targets.push(target);
        }
        let restart = table.table("restart")?.map(restart).transpose()?;
        table.finish()?;
        Ok(Self {
            workspace: workspace.unwrap_or_default(),
            targets,
            restart: restart.unwrap_or_default(),
        })
    }
}

/// Reads a quantity out of a string; the fault names the line.
fn quantity<T>(
    text: Option<Value<String>>,
    read: impl FnOnce(&str) -> Result<T, QuantityError>,
) -> Result<Option<Value<T>>, ConfigError> {
    let Some(Value { value: text, source }) = text else {
        return Ok(None);
    };
    match read(&text) {
        Ok(value) => Ok(Some(Value::new(value, source))),
        Err(error) => {
            let text = Escaped(text.as_bytes()).to_string();
            Err(ConfigError::Quantity { from: source, text, error })
        }
    }
}

fn workspace(mut table: Table<'_>) -> Result<WorkspaceLayer, ConfigError> {
    let budget = table.get("delete-budget", "a string or a number", |value| {
        let number = value.as_integer().map(|number| number.as_str().to_owned());
        number.or_else(|| value.as_str().map(str::to_owned))
    })?;
    let poll = table.string("poll")?;
    let layer = WorkspaceLayer {
        exclude: table.strings("exclude")?.unwrap_or_default(),
        include: table.strings("include")?.unwrap_or_default(),
        mode: table.choice("mode", Mode::NAMES, &Mode::ALL)?,
        delete_budget: quantity(budget, DeleteBudget::from_str)?,
        write: table.choice("write", WriteMode::NAMES, &WriteMode::ALL)?,
        poll: quantity(poll, parse_duration)?.map(|poll| poll.map(Some)),
    };
    table.finish()?;
    Ok(layer)
}

fn target(mut table: Table<'_>) -> Result<TargetLayer, ConfigError> {
    let name = required(&table.location(), "name", table.string("name")?)?;
    let printable = |b: u8| b.is_ascii_alphanumeric() || b"-_./@".contains(&b);
    let text = &name.value;
    if text.is_empty() || text.starts_with('-') || !text.bytes().all(printable) {
        let name_shown = Escaped(text.as_bytes()).to_string();
        return Err(ConfigError::TargetName { from: name.source, name: name_shown });
    }
    let to = required(&table.location(), "to", table.string("to")?)?;
    let to = match TargetSpec::parse(OsStr::new(&to.value)) {
        Ok(spec) => Value::new(spec, to.source),
        Err(error) => {
            return Err(ConfigError::Target { from: to.source, error });
        }
    };
    let pairs = table.tables("paths")?.into_iter().map(pair).collect::<Result<_, _>>()?;
    let layer = TargetLayer {
        name,
        to,
        pairs,
        transport: table.command("transport-cmd")?,
        command: table.command("command")?,
        ready: table.table("ready")?.map(ready).transpose()?,
        cluster: ClusterLayer {
            context: table.string("context")?,
            namespace: table.string("namespace")?,
            selector: table.string("selector")?,
            container: table.string("container")?,
        },
    };
    table.finish()?;
    Ok(layer)
}

fn required<T>(
    at: &super::value::Location,
    key: &'static str,
    value: Option<Value<T>>,
) -> Result<Value<T>, ConfigError> {
    let missing = || ConfigError::MissingKey { at: at.clone(), key, table: "[[target]]".into() };
    value.ok_or_else(missing)
}

fn pair(mut table: Table<'_>) -> Result<Value<PairSpec>, ConfigError> {
    let from = table.string("from")?;
    let to = table.string("to")?;
    let source = super::value::Source::File(table.location());
    table.finish()?;
    let path = |end: Option<Value<String>>| PathBuf::from(end.map_or(".".into(), |end| end.value));
    Ok(Value::new(PairSpec { from: path(from), to: path(to) }, source))
}

fn ready(mut table: Table<'_>) -> Result<Value<Ready>, ConfigError> {
    let at = table.location();
    let tcp = table.string("tcp")?;
    let http = table.string("http")?;
    table.finish()?;
    let ready = match (tcp, http) {
        (tcp @ Some(_), None) => quantity(tcp, Ready::tcp)?,
        (None, http @ Some(_)) => quantity(http, Ready::http)?,
        _ => None,
    };
    ready.ok_or(ConfigError::ReadyChoice { at })
}

fn signal(text: &str) -> Result<Signal, QuantityError> {
    text.parse().map_err(|_| QuantityError::Signal)
}

fn restart(mut table: Table<'_>) -> Result<RestartLayer, ConfigError> {
    let layer = RestartLayer {
        signal: quantity(table.string("signal")?, signal)?,
        kill_after: quantity(table.string("kill-after")?, parse_duration)?,
        debounce: quantity(table.string("debounce")?, parse_duration)?,
        default: action(table.string("default")?, "default")?,
        rules: table.tables("rule")?.into_iter().map(rule).collect::<Result<_, _>>()?,
    };
    table.finish()?;
    Ok(layer)
}

fn rule(mut table: Table<'_>) -> Result<Rule, ConfigError> {
    let at = table.location();
    let missing =
        |key| ConfigError::MissingKey { at: at.clone(), key, table: "[[restart.rule]]".into() };
    let paths = table.strings("paths")?.unwrap_or_default();
    if paths.is_empty() {
        return Err(missing("paths"));
    }
    let rule = Rule {
        paths: paths.into_iter().map(|path| path.value).collect(),
        run: table.command("run")?,
        action: action(table.string("action")?, "action")?.ok_or_else(|| missing("action"))?,
    };
    table.finish()?;
    Ok(rule)
}

fn action(text: Option<Value<String>>, key: &str) -> Result<Option<Value<Action>>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    let fixed = [
        ("nothing", Action::Nothing),
        ("restart", Action::Restart),
        ("needs-build", Action::NeedsBuild),
    ];
    if let Some((_, action)) = fixed.into_iter().find(|(name, _)| *name == text.value) {
        return Ok(Some(text.map(|_| action)));
    }
    if !text.value.starts_with("signal:") {
        return Err(bad_choice(text, key, ACTIONS));
    }
    let read = |text: &str| signal(text.trim_start_matches("signal:"));
    Ok(quantity(Some(text), read)?.map(|signal| signal.map(Action::Signal)))
}
