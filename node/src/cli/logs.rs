//! `potluck logs`: lines of tasks, from any node. A follower is served on when
//! a task moves or its node restarts, and asks again, from where he was, when
//! the asked node does.

use super::{
    args::{Format, Global, LogsArgs},
    connect::connect,
    output, time,
};
use crate::{
    agent::LogPlace,
    api::{
        client::unexpected,
        error::ApiError,
        logs::{LogFrom, LogLine, LogLines, LogSelection, LogTarget, LogsRequest},
        protocol::{ApiFrame, ApiRequest},
    },
    clock,
};
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use potluck_specs::{Generation, SlotId};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};
use tokio::time::Instant;

/// Colours by which tasks are told apart; red stands for failures elsewhere.
const COLORS: [AnsiColor; 5] = [
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Blue,
];

/// How long a follower tries to reach a node again: longer than a restart or
/// an election, as long as a node looks for a lost task.
const RECONNECT_WAIT: Duration = Duration::from_secs(60);

/// Between two tries.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// `potluck logs [-f] TASK...`.
pub(super) async fn logs(args: LogsArgs, global: &Global) -> Result<ExitCode, ApiError> {
    let now = clock::unix_now();
    // One task needs no name before each line.
    let is_one = matches!(&args.targets[..], [target] if target.index.is_some());
    let printer = Printer {
        format: global.output,
        timestamps: args.timestamps,
        names: (!is_one).then_some(0),
        colored: AutoStream::choice(&io::stdout()) != ColorChoice::Never,
        // Of the parts of a long line some may not match.
        joins: args.grep.is_none(),
        open: None,
    };
    let select = LogSelection {
        follow: args.follow,
        tail: args.tail,
        since: args.since.map(|when| when.before(now)),
        until: args.until.map(|when| when.before(now)),
        grep: args.grep,
        previous: args.previous,
    };
    let reader = Reader {
        targets: args.targets,
        select,
        printer,
        places: BTreeMap::new(),
    };
    reader.run(global).await
}

/// One who reads, over lost connections if he follows.
struct Reader {
    targets: Vec<LogTarget>,
    select: LogSelection,
    printer: Printer,
    /// How far he has come.
    places: BTreeMap<SlotId, LogPlace>,
}

/// How one session ended.
enum Ended {
    /// There is nothing to come, or nobody reads any more.
    Over,
    /// The node says why it tells no more.
    Refused(ApiError),
    /// The connection is lost, or there was none.
    Lost(ApiError),
}

impl Reader {
    async fn run(mut self, global: &Global) -> Result<ExitCode, ApiError> {
        let mut lost_at = None;
        loop {
            let mut heard = false;
            let ended = self.session(global, &mut heard).await;
            if heard {
                lost_at = None;
            }
            let error = match ended {
                Ended::Over => return Ok(ExitCode::SUCCESS),
                // A node that has only just started knows no scheduler yet.
                Ended::Refused(error) if lost_at.is_none() || !error.is_worth_a_retry() => {
                    return Err(error);
                }
                Ended::Refused(error) | Ended::Lost(error) => error,
            };
            // Whoever has heard nothing yet loses nothing by an error.
            let goes_on = self.select.follow && !self.places.is_empty();
            let is_news = lost_at.is_none();
            let since = *lost_at.get_or_insert_with(Instant::now);
            if !goes_on || since.elapsed() > RECONNECT_WAIT {
                return Err(error);
            }
            if is_news {
                let text = format!("{}; connecting again", error.message);
                output::note(global.output, "progress", &text);
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    async fn session(&mut self, global: &Global, heard: &mut bool) -> Ended {
        let mut session = match connect(global).await {
            Ok(session) => session,
            Err(error) => return Ended::Lost(error),
        };
        let from = self.places.iter().map(|(slot, next)| LogFrom {
            slot: slot.clone(),
            next: *next,
        });
        let request = ApiRequest::Logs(LogsRequest {
            targets: self.targets.clone(),
            select: self.select.clone(),
            from: from.collect(),
        });
        let mut outcome = session.client.send(&request).await;
        while outcome.is_ok() {
            let frame = match session.client.next().await {
                Ok(frame) => frame,
                Err(error) => {
                    outcome = Err(error);
                    continue;
                }
            };
            match frame {
                ApiFrame::Lines(lines) => {
                    *heard = true;
                    if self.show(lines).is_err() {
                        // Nobody reads any more, as of `potluck logs | head`.
                        return Ended::Over;
                    }
                }
                ApiFrame::End => {
                    // Nobody may read any more.
                    let _ = self.printer.end(&mut io::stdout().lock());
                    return Ended::Over;
                }
                ApiFrame::Progress(text) => output::note(global.output, "progress", &text),
                ApiFrame::Warning(text) => output::note(global.output, "warning", &text),
                other => return Ended::Refused(unexpected(&other)),
            }
        }
        match outcome {
            Err(error) if session.client.is_lost() => Ended::Lost(error),
            Err(error) => Ended::Refused(error),
            Ok(()) => Ended::Over,
        }
    }

    fn show(&mut self, lines: LogLines) -> io::Result<()> {
        self.printer.print(&mut io::stdout().lock(), &lines)?;
        if let Some(next) = lines.next() {
            self.places.insert(lines.slot, next);
        }
        Ok(())
    }
}

/// How lines are shown.
struct Printer {
    format: Format,
    timestamps: bool,
    /// Width of the names before the lines, if there are any.
    names: Option<usize>,
    colored: bool,
    /// Parts of one long line are shown as one.
    joins: bool,
    /// The line on the screen has no end yet: it goes on with one that fits.
    open: Option<Output>,
}

/// Whose lines follow one another: of one task, one placement, one stream.
type Output = (SlotId, Generation, bool);

/// A line as programs read it.
#[derive(Serialize)]
struct JsonLine<'a> {
    task: String,
    generation: Generation,
    #[serde(flatten)]
    line: &'a LogLine,
}

impl Printer {
    fn print(&mut self, out: &mut impl Write, part: &LogLines) -> io::Result<()> {
        let name = part.slot.to_string();
        if let Some(width) = &mut self.names {
            *width = name.len().max(*width);
        }
        for line in &part.lines {
            match self.format {
                Format::Json => {
                    let line = JsonLine {
                        task: name.clone(),
                        generation: line.origin,
                        line,
                    };
                    serde_json::to_writer(&mut *out, &line)?;
                    writeln!(out)?;
                }
                Format::Table => self.print_line(out, &part.slot, &name, line)?,
            }
        }
        out.flush()
    }

    /// Ends a line that has no end yet.
    fn end(&mut self, out: &mut impl Write) -> io::Result<()> {
        match self.open.take() {
            Some(_) => writeln!(out),
            None => Ok(()),
        }
    }

    fn print_line(
        &mut self,
        out: &mut impl Write,
        slot: &SlotId,
        name: &str,
        line: &LogLine,
    ) -> io::Result<()> {
        let output = (slot.clone(), line.origin, line.stderr);
        let goes_on = self.open.as_ref() == Some(&output);
        if goes_on {
            self.open = None;
        } else {
            self.end(out)?;
            if line.removed_before > 0 {
                let count = line.removed_before;
                let text = format!("{slot}: {count} lines were removed before they were read");
                output::note(self.format, "warning", &text);
            }
            self.print_head(out, slot, name, line)?;
        }
        if line.partial && self.joins {
            self.open = Some(output);
            return write!(out, "{}", line.text);
        }
        writeln!(out, "{}", line.text)
    }

    fn print_head(
        &self,
        out: &mut impl Write,
        slot: &SlotId,
        name: &str,
        line: &LogLine,
    ) -> io::Result<()> {
        if let Some(width) = self.names {
            let style = match self.colored {
                true => color(slot),
                false => Style::new(),
            };
            write!(out, "{style}{name:width$} |{style:#} ")?;
        }
        if self.timestamps {
            let stream = if line.stderr { "err" } else { "out" };
            write!(out, "{} {stream} ", time::rfc3339(line.at))?;
        }
        Ok(())
    }
}

/// Neighbours among a job's tasks differ.
fn color(slot: &SlotId) -> Style {
    let job = slot.job.name.bytes().map(usize::from).sum::<usize>();
    let at = (job + slot.index as usize) % COLORS.len();
    Style::new().fg_color(Some(COLORS[at].into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_specs::{Epoch, Millis, Reign};

    fn part(task: &str) -> LogLines {
        let origin = Generation {
            epoch: Epoch(1),
            reign: Reign(2),
            sequence: 3,
        };
        let line = LogLine {
            origin,
            sequence: 4,
            at: Millis(1_000),
            stderr: true,
            partial: false,
            removed_before: 0,
            text: "hello".into(),
            base64: None,
        };
        LogLines {
            slot: task.parse().unwrap(),
            lines: vec![line],
            next: None,
        }
    }

    #[test]
    fn a_long_line_is_one_line_again() {
        let mut printer = Printer {
            format: Format::Table,
            timestamps: false,
            names: Some(0),
            colored: false,
            joins: true,
            open: None,
        };
        let mut cut = part("web[0]");
        cut.lines[0].partial = true;
        let mut out = Vec::new();
        let whole = part("web[0]");
        for part in [&cut, &cut, &whole, &whole, &cut, &part("web[1]"), &cut] {
            printer.print(&mut out, part).unwrap();
        }
        printer.end(&mut out).unwrap();
        let expected = "web[0] | hellohellohello\nweb[0] | hello\n\
                        web[0] | hello\nweb[1] | hello\nweb[0] | hello\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        // Where lines are selected, the next may be no part of this one.
        printer.joins = false;
        let mut out = Vec::new();
        for part in [&cut, &whole] {
            printer.print(&mut out, part).unwrap();
        }
        let expected = "web[0] | hello\nweb[0] | hello\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    fn printed(printer: &mut Printer, tasks: &[&str]) -> String {
        let mut out = Vec::new();
        for task in tasks {
            printer.print(&mut out, &part(task)).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_say_as_much_as_is_asked_for() {
        let mut plain = Printer {
            format: Format::Table,
            timestamps: false,
            names: None,
            colored: true,
            joins: true,
            open: None,
        };
        assert_eq!(printed(&mut plain, &["web[0]"]), "hello\n");
        plain.timestamps = true;
        let timed = "1970-01-01T00:00:01.000Z err hello\n";
        assert_eq!(printed(&mut plain, &["web[0]"]), timed);
        plain.timestamps = false;
        plain.names = Some(0);
        plain.colored = false;
        let named = "web[10] | hello\nweb[0]  | hello\n";
        assert_eq!(printed(&mut plain, &["web[10]", "web[0]"]), named);
        plain.colored = true;
        let colored = printed(&mut plain, &["web[0]"]);
        assert!(colored.starts_with("\u{1b}["), "{colored:?}");
        assert_ne!(
            color(&"web[0]".parse().unwrap()),
            color(&"web[1]".parse().unwrap())
        );
    }

    #[test]
    fn json_has_one_line_for_each() {
        let mut printer = Printer {
            format: Format::Json,
            timestamps: false,
            names: None,
            colored: false,
            joins: true,
            open: None,
        };
        let text = printed(&mut printer, &["web[0]"]);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["partial"], false);
        assert_eq!(line["task"], "web[0]");
        assert_eq!(line["sequence"], 4);
        assert_eq!(line["stderr"], true);
        assert_eq!(line["text"], "hello");
    }
}
