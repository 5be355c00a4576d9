//! The plan of many jobs of which few change, by a leader that has them all.

use super::{
    Options, Outcome,
    figure::{Figure, Spread},
    stage::{self, Stage},
};
use crate::client::Client;
use serde_json::Value;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Jobs of the file: as many as one may have.
const JOBS: usize = 1_000;

/// Those of them that change.
const CHANGES: usize = 10;

/// Times that each command is repeated.
const RUNS: u32 = 20;

/// What `potluck plan` exits with when something changes.
const CHANGES_CODE: i32 = 2;

/// Plans through a node that does not lead.
pub(super) fn of_many_jobs(options: &Options) -> Outcome<Vec<Figure>> {
    let stage = Stage::up(87, options.nodes)?;
    let leader = stage.settle()?;
    let client = stage.client_beside(&leader)?;
    let before = write(stage.specs(), 0)?;
    let start = Instant::now();
    client.json(&["run", "--no-wait", &before])?;
    let submitted = start.elapsed();
    let after = write(stage.specs(), CHANGES)?;
    let (mut changed, mut same, mut check, mut info) = (vec![], vec![], vec![], vec![]);
    for _ in 0..RUNS {
        info.push(stage::info_time(&client)?);
        check.push(timed(|| Ok(client.text(&["spec", "check", &after])?))?.0);
        let (time, plan) = timed(|| plan(&client, &after, CHANGES_CODE))?;
        expect(&plan, CHANGES)?;
        changed.push(time);
        let before = write(stage.specs(), 0)?;
        let (time, plan) = timed(|| self::plan(&client, &before, 0))?;
        expect(&plan, 0)?;
        same.push(time);
        write(stage.specs(), CHANGES)?;
    }
    let spread = |times: &[Duration]| Spread::of_times(times).in_unit("ms");
    let beside = format!(
        "`potluck info`: {}; `potluck spec check` of the same file: {}",
        spread(&info),
        spread(&check)
    );
    Ok(vec![
        Figure {
            what: "`potluck plan` of a file of 1,000 jobs with 10 changes, through a node that does not lead",
            target: "-",
            measured: spread(&changed),
            beside: beside.clone(),
        },
        Figure {
            what: "the same without a change",
            target: "-",
            measured: format!(
                "{}; their submission took {:.1} s",
                spread(&same),
                submitted.as_secs_f64()
            ),
            beside,
        },
    ])
}

/// The file, in which so many jobs have another environment than at first.
/// They wait for a label that no node has: a thousand jobs are wanted, and not
/// a thousand tasks.
fn write(folder: &Path, changes: usize) -> Outcome<String> {
    let path = folder.join("many.star");
    let text = format!(
        "def web(k):\n    job(\n        name = \"web-%d\" % k,\n        package = \"potluck-hello\",\n        \
         command = \"potluck-hello\",\n        replicas = 2,\n        ports = [\"http\"],\n        \
         services = {{\"web-%d\" % k: \"http\"}},\n        health = http(\"http\", \"/healthz\"),\n        \
         env = {{\"MODE\": \"new\" if k % {step} == 0 and k < {step} * {changes} else \"old\"}},\n        \
         require = [\"label.bench exists\"],\n    )\n\n[web(k) for k in range({JOBS})]\n",
        step = JOBS / CHANGES,
    );
    fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

fn timed<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(Duration, T)> {
    let start = Instant::now();
    let done = work()?;
    Ok((start.elapsed(), done))
}

fn plan(client: &Client, spec: &str, code: i32) -> Outcome<Value> {
    let output = client.command(&["plan", spec, "-o", "json"]).output()?;
    if output.status.code() != Some(code) {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("plan ended with {}: {said}", output.status).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A figure of a plan that says something else would be none.
fn expect(plan: &Value, changes: usize) -> Outcome<()> {
    let jobs = plan["jobs"].as_array().ok_or("a plan has jobs")?;
    let changed = jobs.iter().filter(|job| job["change"] != "unchanged");
    let counts = (jobs.len(), changed.count());
    match counts == (JOBS, changes) {
        true => Ok(()),
        false => Err(format!("jobs and changes are {counts:?}").into()),
    }
}
