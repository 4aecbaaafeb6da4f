//! Owns the hub's own words: one line an event on standard error, for `kubectl logs` and the like.
//!
//! Text from elsewhere (paths, reasons) is escaped. Nothing is filtered but by level, nothing buffered.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::path::Escaped;

/// Says events up to a level, in this process from now on. A second call changes nothing.
pub fn say_up_to(level: Level) {
    let _ = tracing::subscriber::set_global_default(Lines { level, spans: AtomicU64::new(1) });
}

struct Lines {
    level: Level,
    spans: AtomicU64,
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level && metadata.target().starts_with("e2ek")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = match *event.metadata().level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            _ => "",
        };
        let line = format!("e2ek-sidecar: {level}{}{}\n", line.message, line.fields);
        // Nobody reads it: nothing is to be done about that.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        let text = Escaped(text.as_bytes());
        let _ = if field.name() == "message" {
            write!(self.message, "{text}")
        } else {
            write!(self.fields, " {}={text}", field.name())
        };
    }
}
