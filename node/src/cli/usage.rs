//! `potluck usage`.

use super::{args::Global, connect::connect, output};
use crate::api::{
    client::unexpected,
    error::ApiError,
    protocol::{ApiAnswer, ApiRequest, UsageStatus},
};
use potluck_specs::JobName;
use std::process::ExitCode;

/// What is passed by one value in fifty only: what a recommendation looks at.
const SELDOM: u64 = 980;

/// `potluck usage JOB`.
pub(super) async fn usage(job: JobName, global: &Global) -> Result<ExitCode, ApiError> {
    let mut session = connect(global).await?;
    let usages = match session.client.ask(&ApiRequest::Usage(job)).await? {
        ApiAnswer::Usage(usages) => usages,
        other => return Err(unexpected(&other)),
    };
    if usages.is_empty() {
        let text = "no figures yet, or no control groups on the hosts of its tasks";
        output::note(global.output, "note", text);
    }
    output::print(global.output, &usages, |usages| {
        output::table(
            [
                "TASK",
                "NODE",
                "CPU",
                "CPU P98",
                "MEMORY",
                "PEAKS P98",
                "PIDS",
                "IO/S",
                "WAITS FOR CPU",
                "MEMORY",
                "IO",
            ],
            usages.iter().map(row),
        )
    });
    Ok(ExitCode::SUCCESS)
}

fn row(status: &UsageStatus) -> [String; 11] {
    let usage = &status.usage;
    let now = &usage.now;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let cores = |millis: u64| format!("{}.{:03}", millis / 1_000, millis % 1_000);
    let percent = |thousandths: u64| format!("{}.{}%", thousandths / 10, thousandths % 10);
    let io = [now.read_bytes_per_s, now.written_bytes_per_s];
    let io = io.into_iter().flatten().reduce(u64::saturating_add);
    [
        usage.slot.to_string(),
        status.node.clone(),
        or_dash(now.cpu_millis.map(cores)),
        or_dash(usage.cpu_millis.quantile(SELDOM).map(cores)),
        or_dash(now.memory_bytes.map(output::bytes)),
        or_dash(usage.memory_peaks().quantile(SELDOM).map(output::bytes)),
        or_dash(now.pids.map(|pids| pids.to_string())),
        or_dash(io.map(output::bytes)),
        or_dash(now.cpu_pressure.map(percent)),
        or_dash(now.memory_pressure.map(percent)),
        or_dash(now.io_pressure.map(percent)),
    ]
}
