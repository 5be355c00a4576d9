//! From a spec to running tasks: one task many times, and many tasks at once.

use super::{
    LIMIT, Options, Outcome,
    figure::{Figure, Spread},
    stage::{self, Stage, unix_now},
};
use crate::wait::until;
use std::time::{Duration, Instant};

/// Times that one submission is repeated.
const RUNS: u32 = 20;

/// Times that many tasks are submitted at once.
const MANY_RUNS: u32 = 3;

/// Submit to running with a warm package, through a node that does not lead.
pub(super) fn one(options: &Options) -> Outcome<Vec<Figure>> {
    let stage = Stage::up(81, options.nodes)?;
    stage.warm()?;
    let leader = stage.settle()?;
    let client = stage.client_beside(&leader)?;
    let (mut seen, mut by_host, mut info) = (Vec::new(), Vec::new(), Vec::new());
    let (mut accepted, mut after_accepted, mut process) = (Vec::new(), Vec::new(), Vec::new());
    for k in 0..RUNS {
        info.push(stage::info_time(&client)?);
        process.push(stage::processes_time(1)?);
        let job = format!("one-{k}");
        let spec = stage.spec(&job, 1, "")?;
        let (start, clock) = (Instant::now(), unix_now());
        let done = client.json(&["run", &spec])?;
        seen.push(start.elapsed());
        let task = stage::tasks_of(&done["jobs"][0]).pop().ok_or("no task")?;
        by_host.push(task.since.saturating_sub(clock));
        client.text(&["stop", &job])?;
    }
    for k in 0..RUNS {
        let job = format!("accept-{k}");
        let spec = stage.spec(&job, 1, "")?;
        let start = Instant::now();
        client.json(&["run", "--no-wait", &spec])?;
        accepted.push(start.elapsed());
        let clock = unix_now();
        let since = until("the task's start", LIMIT, || running(&stage, &job))?;
        after_accepted.push(millis(since) - millis(clock));
        client.text(&["stop", &job])?;
    }
    let info = Spread::of_times(&info).in_unit("ms");
    let process = Spread::of_times(&process).in_unit("ms");
    Ok(vec![
        Figure {
            what: "submit to running, warm package, as `potluck run` returns (it looks every 20 ms)",
            target: "30 ms median",
            measured: Spread::of_times(&seen).in_unit("ms"),
            beside: format!("`potluck info`: {info}"),
        },
        Figure {
            what: "same, from the command's start to `since` of the running task",
            target: "30 ms median",
            measured: Spread::of_times(&by_host).in_unit("ms"),
            beside: format!("`true`, fork to end: {process}"),
        },
        Figure {
            what: "submit to accepted and durable, as `potluck run --no-wait` returns",
            target: "-",
            measured: Spread::of_times(&accepted).in_unit("ms"),
            beside: format!("`potluck info`: {info}"),
        },
        Figure {
            what: "that return to `since` of the running task (negative: running first)",
            target: "-",
            measured: Spread::of(after_accepted).in_unit("ms"),
            beside: "since has whole milliseconds".into(),
        },
    ])
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// When the job's only task came to run.
fn running(stage: &Stage, job: &str) -> Result<Duration, String> {
    let client = stage.any_client().map_err(|error| error.to_string())?;
    let tasks = stage::tasks(&client, job).map_err(|error| error.to_string())?;
    match tasks.first() {
        Some(task) if task.state == "Running" => Ok(task.since),
        _ => Err(format!("{tasks:?}")),
    }
}

/// Many tasks on a testnet of one node, submit to the last one running.
pub(super) fn many(_: &Options) -> Outcome<Vec<Figure>> {
    let stage = Stage::up(82, 1)?;
    stage.warm()?;
    let fifty = "50 tasks on one node, submit to all running";
    let hundred = "100 tasks on one node, submit to all running";
    Ok(vec![
        at_once(&stage, 50, fifty, "-")?,
        at_once(&stage, 100, hundred, "under 800 ms")?,
    ])
}

fn at_once(stage: &Stage, count: u32, what: &'static str, target: &'static str) -> Outcome<Figure> {
    let client = stage.any_client()?;
    let (mut seen, mut by_host, mut bound) = (Vec::new(), Vec::new(), Vec::new());
    for k in 0..MANY_RUNS {
        bound.push(stage::processes_time(count)?);
        let job = format!("many-{count}-{k}");
        let spec = stage.spec(&job, count, "")?;
        let (start, clock) = (Instant::now(), unix_now());
        let done = client.json(&["run", &spec])?;
        seen.push(start.elapsed());
        let tasks = stage::tasks_of(&done["jobs"][0]);
        let last = tasks.iter().map(|task| task.since).max().ok_or("no task")?;
        by_host.push(last.saturating_sub(clock));
        client.text(&["stop", &job])?;
    }
    Ok(Figure {
        what,
        target,
        measured: format!(
            "{}; by the last `since` {}",
            Spread::of_times(&seen).in_unit("ms"),
            Spread::of_times(&by_host).in_unit("ms")
        ),
        beside: format!(
            "{count} × `true`, fork to end: {}; a task is helper, init and program",
            Spread::of_times(&bound).in_unit("ms")
        ),
    })
}
