//! What happened lately, for the reader of a failure.

use std::collections::VecDeque;

/// Lines kept: some seconds of a small cluster.
const LINES_MAX: usize = 600;

/// How to read the lines.
pub const LEGEND: &str = "\
# seconds, then who and what: hN is a host; \"hN <- hM\" is what hN answered hM;
# \"--\" is what people or misfortune did; generations are epoch.reign.sequence";

/// A bounded ring of lines; off, it costs nothing.
#[derive(Debug, Default)]
pub struct Trace {
    on: bool,
    lines: VecDeque<String>,
}

impl Trace {
    /// Kept or not.
    pub fn new(on: bool) -> Trace {
        Trace {
            on,
            lines: VecDeque::new(),
        }
    }

    /// One line, made only if it is kept.
    pub fn line(&mut self, now: u64, line: impl FnOnce() -> String) {
        if !self.on {
            return;
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
        self.lines
            .push_back(format!("{seconds:>4}.{micros:06} {}", line()));
    }

    /// The lines, oldest first.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
