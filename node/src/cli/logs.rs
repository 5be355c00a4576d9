//! `potluck logs`: lines of tasks, from any node. A follower is served on when
//! a task moves or its node restarts.

use super::{
    args::{Format, Global, LogsArgs},
    connect::connect,
    output, time,
};
use crate::{
    api::{
        client::unexpected,
        error::ApiError,
        logs::{LogLine, LogLines, LogSelection, LogsRequest},
        protocol::{ApiFrame, ApiRequest},
    },
    clock,
};
use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use potluck_specs::{Generation, SlotId};
use serde::Serialize;
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Colours by which tasks are told apart; red stands for failures elsewhere.
const COLORS: [AnsiColor; 5] = [
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Blue,
];

/// `potluck logs [-f] TASK...`.
pub(super) async fn logs(args: LogsArgs, global: &Global) -> Result<ExitCode, ApiError> {
    let now = clock::unix_now();
    // One task needs no name before each line.
    let is_one = matches!(&args.targets[..], [target] if target.index.is_some());
    let mut printer = Printer {
        format: global.output,
        timestamps: args.timestamps,
        names: (!is_one).then_some(0),
        colored: AutoStream::choice(&io::stdout()) != ColorChoice::Never,
    };
    let select = LogSelection {
        follow: args.follow,
        tail: args.tail,
        since: args.since.map(|when| when.before(now)),
        until: args.until.map(|when| when.before(now)),
        grep: args.grep,
        previous: args.previous,
    };
    let targets = args.targets;
    let mut session = connect(global).await?;
    session
        .client
        .send(&ApiRequest::Logs(LogsRequest { targets, select }))
        .await?;
    loop {
        match session.client.next().await? {
            ApiFrame::Lines(lines) => {
                if printer.print(&mut io::stdout().lock(), &lines).is_err() {
                    // Nobody reads any more, as of `potluck logs | head`.
                    return Ok(ExitCode::SUCCESS);
                }
            }
            ApiFrame::End => return Ok(ExitCode::SUCCESS),
            ApiFrame::Progress(text) => output::note(global.output, "progress", &text),
            ApiFrame::Warning(text) => output::note(global.output, "warning", &text),
            other => return Err(unexpected(&other)),
        }
    }
}

/// How lines are shown.
struct Printer {
    format: Format,
    timestamps: bool,
    /// Width of the names before the lines, if there are any.
    names: Option<usize>,
    colored: bool,
}

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

    fn print_line(
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
        writeln!(out, "{}", line.text)
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
            text: "hello".into(),
        };
        LogLines {
            slot: task.parse().unwrap(),
            lines: vec![line],
        }
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
        };
        let text = printed(&mut printer, &["web[0]"]);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["task"], "web[0]");
        assert_eq!(line["sequence"], 4);
        assert_eq!(line["stderr"], true);
        assert_eq!(line["text"], "hello");
    }
}
