//! Owns the table: one row a figure, in Markdown, so that it can be pasted as it is. Who stands beside
//! ours, each benchmark says in its `columns`.

pub(crate) use crate::columns::Peer;
use crate::columns::{PEERS, WIDTH};

/// One figure. What does not apply stays empty and is shown as `-`.
#[derive(Default)]
pub(crate) struct Row {
    cells: [String; CELLS],
    met: Option<bool>,
}

/// Job, floor and ours, the peers, ratio and reach; not the last, which is what [`Row::reach`] was told.
const CELLS: usize = 5 + WIDTH;

impl Row {
    pub(crate) fn new(job: impl Into<String>) -> Self {
        Self::default().set(0, job.into())
    }

    pub(crate) fn floor(self, text: impl Into<String>) -> Self {
        self.set(1, text.into())
    }

    pub(crate) fn ours(self, text: impl Into<String>) -> Self {
        self.set(2, text.into())
    }

    pub(crate) fn peer(self, peer: Peer, text: impl Into<String>) -> Self {
        let beside = PEERS.iter().position(|(other, _)| *other == peer);
        self.set(3 + beside.expect("all peers have a column"), text.into())
    }

    /// Ours by the floor where there is one, else by the first peer, unless the reach says by what.
    pub(crate) fn ratio(self, text: impl Into<String>) -> Self {
        self.set(CELLS - 2, text.into())
    }

    /// What is aimed at, and whether it was met; `None`: there is nothing to judge by.
    pub(crate) fn reach(self, text: impl Into<String>, met: Option<bool>) -> Self {
        Self { met, ..self.set(CELLS - 1, text.into()) }
    }

    fn set(mut self, column: usize, text: String) -> Self {
        self.cells[column] = text;
        self
    }

    fn words(&self) -> [String; CELLS + 1] {
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        let mut words: [String; CELLS + 1] = Default::default();
        for (word, cell) in words.iter_mut().zip(self.cells.iter().map(String::as_str).chain([met]))
        {
            *word = if cell.is_empty() { "-".to_owned() } else { cell.to_owned() };
        }
        words
    }
}

/// The whole table, columns aligned.
pub(crate) fn render(rows: &[Row]) -> String {
    let names = PEERS.iter().map(|(_, name)| *name);
    let names = ["job", "floor", "ours"].into_iter().chain(names).chain(["ratio", "reach", "met"]);
    let mut head: [String; CELLS + 1] = Default::default();
    head.iter_mut().zip(names).for_each(|(cell, name)| name.clone_into(cell));
    let body: Vec<[String; CELLS + 1]> = rows.iter().map(Row::words).collect();
    let mut widths = head.each_ref().map(String::len);
    for row in &body {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; CELLS + 1]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!(" {cell:width$} |"));
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = widths.map(|width| "-".repeat(width));
    [&head, &rule].into_iter().chain(&body).map(line).collect()
}
