//! `potluck logs`: a task's lines, from any node. A follower is served on when
//! the task's node restarts.

use super::{
    args::{Format, Global},
    connect::connect,
    output, time,
};
use crate::api::{
    client::unexpected,
    error::ApiError,
    protocol::{ApiFrame, ApiRequest, LogLine, LogsRequest},
};
use potluck_specs::SlotId;
use std::{io::Write, process::ExitCode};

/// `potluck logs [-f] TASK`.
pub(super) async fn logs(
    slot: SlotId,
    follow: bool,
    tail: Option<u64>,
    timestamps: bool,
    global: &Global,
) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    session
        .client
        .send(&ApiRequest::Logs(LogsRequest {
            slot,
            follow,
            tail,
            after: None,
        }))
        .await?;
    loop {
        match session.client.next().await? {
            ApiFrame::Lines(lines) => {
                if !print(&lines, timestamps, global.output) {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            ApiFrame::End => return Ok(ExitCode::SUCCESS),
            ApiFrame::Progress(text) => output::note(global.output, "progress", &text),
            other => return Err(unexpected(&other)),
        }
    }
}

/// False when nobody reads any more (`potluck logs | head`).
fn print(lines: &[LogLine], timestamps: bool, format: Format) -> bool {
    let mut out = std::io::stdout().lock();
    lines
        .iter()
        .try_for_each(|line| write_line(&mut out, line, timestamps, format))
        .is_ok()
        && out.flush().is_ok()
}

fn write_line(
    out: &mut impl Write,
    line: &LogLine,
    timestamps: bool,
    format: Format,
) -> std::io::Result<()> {
    if format == Format::Json {
        serde_json::to_writer(&mut *out, line)?;
        return writeln!(out);
    }
    if timestamps {
        let stream = if line.stderr { "err" } else { "out" };
        write!(out, "{} {stream} ", time::rfc3339(line.at))?;
    }
    writeln!(out, "{}", line.text)
}
