//! What follows a host's end: the replacement of its tasks, and of the
//! scheduler.

use super::{
    LIMIT, Options, Outcome,
    figure::{Figure, Spread},
    stage::{self, Stage, Task, unix_now},
};
use crate::{client::Client, wait::until};
use std::time::{Duration, Instant};

/// Deaths of each kind.
const DEATHS: u32 = 3;

/// A host dies that runs tasks and does not lead.
pub(super) fn host(options: &Options) -> Outcome<Vec<Figure>> {
    let stage = Stage::up(83, options.nodes)?;
    let spec = stage.spec("web", 6, "health = http(\"http\", \"/healthz\")")?;
    stage.any_client()?.json(&["run", &spec])?;
    let (mut out, mut healthy, mut info) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..DEATHS {
        let leader = stage.settle()?;
        let client = stage.client(&leader);
        let before = whole(&client)?;
        let victim = before.iter().find(|task| task.node != leader);
        let victim = victim.ok_or("every task is on the leader")?.node.clone();
        info.push(stage::info_time(&client)?);
        let start = Instant::now();
        stage.kill(&victim)?;
        until("the end of the host's session", LIMIT, || {
            let states = stage.node_states().map_err(|error| error.to_string())?;
            match states.contains(&(victim.clone(), "up".into())) {
                true => Err(format!("{states:?}")),
                false => Ok(()),
            }
        })?;
        out.push(start.elapsed());
        until("the replacement of the lost tasks", LIMIT, || {
            let now = stage::tasks(&client, "web").map_err(|error| error.to_string())?;
            let fine = |task: &Task| task.healthy && task.node != victim;
            match now.len() == before.len() && now.iter().all(fine) {
                true => Ok(()),
                false => Err(format!("{now:?}")),
            }
        })?;
        healthy.push(start.elapsed());
        stage.start(&victim)?;
        stage.await_answer(&victim)?;
    }
    let out = Spread::of(out.iter().map(Duration::as_secs_f64)).in_unit("s");
    Ok(vec![Figure {
        what: "host dead to all replicas healthy elsewhere",
        target: "8 s",
        measured: Spread::of(healthy.iter().map(Duration::as_secs_f64)).in_unit("s"),
        beside: format!(
            "session ended (time-out 4 s): {out}; `potluck info`: {}",
            Spread::of_times(&info).in_unit("ms")
        ),
    }])
}

/// The tasks once all of them are healthy.
fn whole(client: &Client) -> Outcome<Vec<Task>> {
    let tasks = until("all tasks healthy", LIMIT, || {
        let tasks = stage::tasks(client, "web").map_err(|error| error.to_string())?;
        match tasks.iter().all(|task| task.healthy) {
            true => Ok(tasks),
            false => Err(format!("{tasks:?}")),
        }
    })?;
    Ok(tasks)
}

/// The scheduler's host dies; a job is submitted at that moment.
pub(super) fn leader(options: &Options) -> Outcome<Vec<Figure>> {
    let stage = Stage::up(84, options.nodes)?;
    stage.warm()?;
    let (mut placed, mut seen, mut alive) = (Vec::new(), Vec::new(), Vec::new());
    for k in 0..DEATHS {
        let leader = stage.settle()?;
        let client = stage.client_beside(&leader)?;
        alive.push(run(&stage, &client, &format!("alive-{k}"))?.0);
        let (start, clock) = (Instant::now(), unix_now());
        stage.kill(&leader)?;
        let (_, since) = run(&stage, &client, &format!("after-{k}"))?;
        seen.push(start.elapsed());
        placed.push(since.saturating_sub(clock));
        stage.start(&leader)?;
        stage.await_answer(&leader)?;
    }
    let seconds =
        |times: &[Duration]| Spread::of(times.iter().map(Duration::as_secs_f64)).in_unit("s");
    Ok(vec![Figure {
        what: "leader's host dead to the next job's task running",
        target: "1.5 s",
        measured: format!(
            "{}; as `potluck run` returns {}",
            seconds(&placed),
            seconds(&seen)
        ),
        beside: format!("the same job with a leader alive: {}", seconds(&alive)),
    }])
}

/// Submits a job of one task: how long that took, and when the task ran.
fn run(stage: &Stage, client: &Client, job: &str) -> Outcome<(Duration, Duration)> {
    let spec = stage.spec(job, 1, "")?;
    let start = Instant::now();
    let done = client.json(&["run", &spec])?;
    let took = start.elapsed();
    let task = stage::tasks_of(&done["jobs"][0]).pop().ok_or("no task")?;
    Ok((took, task.since))
}
