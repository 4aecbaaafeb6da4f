//! Owns how far something long has come, as people see it: a bar on a terminal, a line each
//! second elsewhere, nothing at all for what takes less than half a second.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::event::{Event, Phase};
use super::text::count;

/// What takes less is not worth a bar.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// When to show something. Pure: `now` is handed in.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the running phase began; `None` between phases.
    began: Option<Instant>,
    /// When its newest line was said.
    said: Option<Instant>,
}

impl Pace {
    /// Takes note of the phase's beginning, if it is not yet known.
    pub(super) fn begin(&mut self, now: Instant) {
        self.began.get_or_insert(now);
    }

    /// Whether the phase has lasted long enough to be shown.
    pub(super) fn is_slow(&mut self, now: Instant) -> bool {
        now.saturating_duration_since(*self.began.get_or_insert(now)) >= PATIENCE
    }

    /// Whether a line is due; taken as said.
    pub(super) fn line_due(&mut self, now: Instant) -> bool {
        let rested =
            self.said.is_none_or(|said| now.saturating_duration_since(said) >= LINE_INTERVAL);
        let due = self.is_slow(now) && rested;
        if due {
            self.said = Some(now);
        }
        due
    }

    /// The phase has ended.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }
}

/// The terminal, shared by whoever writes to it, so that no one tears another's line or the bar.
#[derive(Clone)]
pub(super) struct Screen {
    bars: MultiProgress,
    /// Whether the cursor stands behind an unfinished line.
    dangling: Arc<AtomicBool>,
}

impl Screen {
    /// `target` is hidden where there is no terminal.
    pub(super) fn new(target: ProgressDrawTarget) -> Self {
        Self { bars: MultiProgress::with_draw_target(target), dangling: Arc::default() }
    }

    /// Runs `write` while no bar is on the screen.
    pub(super) fn around<R>(&self, write: impl FnOnce() -> R) -> R {
        self.bars.suspend(write)
    }

    pub(super) fn is_dangling(&self) -> bool {
        self.dangling.load(Ordering::Relaxed)
    }

    pub(super) fn set_dangling(&self, dangling: bool) {
        self.dangling.store(dangling, Ordering::Relaxed);
    }
}

/// The bar of the running phase.
pub(super) struct Bar {
    screen: Screen,
    /// Present while shown.
    shown: Option<(Phase, ProgressBar)>,
}

impl Bar {
    pub(super) fn new(screen: Screen) -> Self {
        Self { screen, shown: None }
    }

    /// Draws the state that a [`Event::Progress`] tells; other events change nothing.
    pub(super) fn show(&mut self, event: &Event) {
        let Event::Progress { phase, files, bytes, total_files, total_bytes, .. } = event else {
            return;
        };
        if self.shown.as_ref().is_some_and(|(shown, _)| shown != phase) {
            self.clear();
        }
        let (_, bar) = self.shown.get_or_insert_with(|| (*phase, self.screen.bars.add(fresh())));
        match total_bytes {
            Some(total) if bar.length() != Some(*total) => {
                bar.set_style(style(BAR));
                bar.set_length(*total);
            }
            _ => {}
        }
        let verb = match phase {
            Phase::Scan => "scanning",
            Phase::Send => "sending",
        };
        let files = match total_files {
            Some(total) => format!("{verb} {files} of {}", count(*total, "file")),
            None => format!("{verb} {}", count(*files, "file")),
        };
        bar.set_message(files);
        bar.set_position(*bytes);
    }

    /// Takes the bar off the screen.
    pub(super) fn clear(&mut self) {
        if let Some((_, bar)) = self.shown.take() {
            self.screen.bars.remove(&bar);
        }
    }
}

const BAR: &str = "{msg} [{bar:24}] {binary_bytes}/{binary_total_bytes} \
                   {binary_bytes_per_sec} ETA {eta}";
const COUNTER: &str = "{msg} {binary_bytes} {binary_bytes_per_sec}";

fn fresh() -> ProgressBar {
    ProgressBar::no_length().with_style(style(COUNTER))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("the templates above are well formed")
        .progress_chars("=> ")
}

/// Standard error for the log's lines (`-v`): keeps clear of the bar and of unfinished lines.
#[derive(Clone)]
pub struct LogWriter {
    screen: Screen,
}

impl LogWriter {
    pub(super) fn new(screen: Screen) -> Self {
        Self { screen }
    }
}

impl Write for LogWriter {
    /// Writes the whole line at once; what cannot be written is dropped, for a log must not fail
    /// what it tells of.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.screen.around(|| {
            let mut err = io::stderr().lock();
            if self.screen.is_dangling() {
                let _ = err.write_all(b"\n");
                self.screen.set_dangling(false);
            }
            let _ = err.write_all(line);
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_shown_for_half_a_second_then_a_line_each_second() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::default();
        pace.begin(at(0));
        let due: Vec<_> = (0..40).map(|i| i * 100).filter(|&ms| pace.line_due(at(ms))).collect();
        assert_eq!(due, [500, 1500, 2500, 3500]);
        pace.end();
        assert!(!pace.is_slow(at(4000)), "the next phase has its own half second");
        assert!(pace.is_slow(at(4500)));
    }
}
