//! What a sweep did, as a table.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Instant;

use crate::injection::Injection;

const FAULTS: &[&str] = &["KILL", "ENOSPC", "EIO", "EMFILE", "EROFS", "EACCES", "EBUSY"];

pub(crate) struct Table {
    name: &'static str,
    began: Instant,
    /// Stops by call, then by fault.
    stops: BTreeMap<&'static str, BTreeMap<String, u32>>,
    /// Stops by the code that the struck run ended with.
    codes: BTreeMap<String, u32>,
}

impl Table {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, began: Instant::now(), stops: BTreeMap::new(), codes: BTreeMap::new() }
    }

    pub(crate) fn count(&mut self, at: Injection, code: &str) {
        *self.stops.entry(at.call).or_default().entry(at.fault.to_string()).or_default() += 1;
        *self.codes.entry(code.to_owned()).or_default() += 1;
    }

    fn total(&self) -> u32 {
        self.stops.values().flat_map(BTreeMap::values).sum()
    }

    /// Prints it; at full count also into the build's own directory.
    pub(crate) fn close(self) {
        assert!(self.total() > 0, "nothing was ever struck");
        let seconds = self.began.elapsed().as_secs();
        let mut text = format!("### {}: {} stops, {seconds} s\n\n", self.name, self.total());
        let _ = writeln!(
            text,
            "| call | {} |\n|---{}|",
            FAULTS.join(" | "),
            "|--:".repeat(FAULTS.len())
        );
        for (call, faults) in &self.stops {
            let cell = |name: &&str| faults.get(*name).map_or(String::new(), u32::to_string);
            let cells: Vec<_> = FAULTS.iter().map(cell).collect();
            let _ = writeln!(text, "| `{call}` | {} |", cells.join(" | "));
        }
        let codes: Vec<_> = self.codes.iter().map(|(code, n)| format!("{code}: {n}")).collect();
        let _ = writeln!(text, "\nThe struck run ended with: {}.\n", codes.join(", "));
        println!("{text}");
        if crate::is_full() {
            let file = format!("full-{}.md", self.name.replace(", ", "-").replace(' ', "-"));
            std::fs::write(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(file), text)
                .unwrap();
        }
    }
}
