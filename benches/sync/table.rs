//! Owns the table: one row a figure, in Markdown, so that it can be pasted as it is.

/// One figure. What does not apply stays empty and is shown as `-`.
#[derive(Default)]
pub(crate) struct Row {
    cells: [String; 6],
    met: Option<bool>,
}

const HEAD: [&str; 7] = ["job", "floor", "ours", "peer (rsync)", "ratio", "reach", "met"];

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

    pub(crate) fn peer(self, text: impl Into<String>) -> Self {
        self.set(3, text.into())
    }

    pub(crate) fn ratio(self, text: impl Into<String>) -> Self {
        self.set(4, text.into())
    }

    /// What is aimed at, and whether it was met; `None`: there is nothing to judge by.
    pub(crate) fn reach(self, text: impl Into<String>, met: Option<bool>) -> Self {
        Self { met, ..self.set(5, text.into()) }
    }

    fn set(mut self, column: usize, text: String) -> Self {
        self.cells[column] = text;
        self
    }

    fn words(&self) -> [String; 7] {
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        let mut words: [String; 7] = Default::default();
        for (word, cell) in words.iter_mut().zip(self.cells.iter().map(String::as_str).chain([met]))
        {
            *word = if cell.is_empty() { "-".to_owned() } else { cell.to_owned() };
        }
        words
    }
}

/// The whole table, columns aligned.
pub(crate) fn render(rows: &[Row]) -> String {
    let head = HEAD.map(str::to_owned);
    let body: Vec<[String; 7]> = rows.iter().map(Row::words).collect();
    let mut widths = HEAD.map(str::len);
    for row in &body {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; 7]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!(" {cell:width$} |"));
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = widths.map(|width| "-".repeat(width));
    [&head, &rule].into_iter().chain(&body).map(line).collect()
}
