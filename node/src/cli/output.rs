//! Printing: data on standard output, everything else on standard error.

use super::args::Format;
use comfy_table::{Table, presets::NOTHING};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    io::IsTerminal,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Warnings that one command prints at most.
const TOLD_MAX: usize = 100;

/// Prints `value` as JSON, or what `table` makes of it.
pub(super) fn print<T: Serialize>(format: Format, value: &T, table: impl FnOnce(&T) -> String) {
    match format {
        Format::Json => {
            let text = serde_json::to_string_pretty(value).expect("our answers have string keys");
            say(&text);
        }
        Format::Table => say(table(value).trim_end()),
    }
}

/// Writes a line to standard output. A reader that has left is no failure; a
/// full disk behind it is one, and it is told.
fn say(text: &str) {
    use std::io::Write;
    let written = writeln!(std::io::stdout().lock(), "{text}");
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("error: can't write the answer: {error}");
        std::process::exit(1);
    }
}

/// Tells a person what the answer alone does not: on standard error, so that
/// programs read the answer undisturbed. Whoever asks again and again, as while
/// waiting, is told once, not each second with another count of seconds.
pub(super) fn warn(text: &str) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let words = text.replace(|c: char| c.is_ascii_digit(), "");
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.len() < TOLD_MAX && told.insert(words) {
        eprintln!("warning: {text}");
    }
}

/// A table without lines, as ps and kubectl print it.
pub(super) fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(head);
    for row in rows {
        table.add_row(row);
    }
    let text = table.to_string();
    text.lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Before this, and between two lines, nothing is said of what goes on.
const SAY_AFTER: Duration = Duration::from_secs(1);

/// How a text ends that says why something is tried again.
pub(super) const AGAIN: &str = "; trying again";

/// Most of these that are said once only.
const TRIED_MAX: usize = 100;

/// Something that goes on while a person waits: a spinner on a terminal, lines
/// on standard error elsewhere, each time that there is something new.
pub(super) struct Waiting {
    bar: ProgressBar,
    format: Format,
    text: Mutex<String>,
}

/// Begins to wait.
pub(super) fn waiting(format: Format, text: &str) -> Waiting {
    let bar = match std::io::stderr().is_terminal() {
        true => spinner(text),
        false => ProgressBar::hidden(),
    };
    Waiting {
        bar,
        format,
        text: Mutex::new(text.to_owned()),
    }
}

fn spinner(text: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(text.to_owned());
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("a constant template"),
    );
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

impl Waiting {
    /// What is waited for now.
    pub(super) fn tell(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        text.clone_into(&mut self.text());
    }

    fn text(&self) -> MutexGuard<'_, String> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the work, and says meanwhile what is waited for.
    pub(super) async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut said = String::new();
        let mut tried: Vec<String> = Vec::new();
        loop {
            tokio::select! {
                done = &mut work => {
                    self.bar.finish_and_clear();
                    return done;
                }
                () = tokio::time::sleep(SAY_AFTER) => {}
            }
            let text = self.text().clone();
            if self.bar.is_hidden() && text != said && !tried.contains(&text) {
                note(self.format, "progress", &text);
                // Two reasons to try again may alternate for long.
                if text.ends_with(AGAIN) && tried.len() < TRIED_MAX {
                    tried.push(text.clone());
                }
                said = text;
            }
        }
    }
}

/// Says something beside the answer on standard error: a line, or a line of
/// JSON for who reads JSON.
pub(super) fn note(format: Format, kind: &str, text: &str) {
    match format {
        Format::Json => eprintln!("{}", serde_json::json!({ kind: text })),
        Format::Table if kind == "progress" => eprintln!("-- {text}"),
        Format::Table => eprintln!("{kind}: {text}"),
    }
}

/// A text of somebody else's in one line, without control characters, which a
/// terminal would obey.
pub(super) fn one_line(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(printable).collect()
}

/// Bytes for people.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_readable() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }
}
