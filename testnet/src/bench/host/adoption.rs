//! Helpers that outlive their agent: the node is stopped and started.

use super::{Host, seconds};
use crate::{
    bench::{
        LIMIT, Outcome,
        figure::Figure,
        stage::{self, Task},
    },
    wait::until,
};
use std::time::Instant;

/// Tasks, and so helpers.
const ADOPTED: usize = 500;

/// Until the started node tells all of its tasks running again, with the same
/// processes as before.
pub(super) fn after_a_restart(host: &Host) -> Outcome<Figure> {
    let (stage, name) = (&host.stage, &host.name);
    let spec = host.script("adopted", ADOPTED, "4MiB", "exec sleep 86400")?;
    let start = Instant::now();
    host.client.json(&["run", &spec])?;
    let submitted = start.elapsed();
    let before = stage.processes(name);
    if before.helpers.len() != ADOPTED {
        return Err(format!("{} helpers instead of {ADOPTED}", before.helpers.len()).into());
    }
    stage.stop_agent(name)?;
    let start = Instant::now();
    stage.start(name)?;
    stage.await_answer(name)?;
    let answers = start.elapsed();
    until("all tasks found again", LIMIT, || {
        let tasks = stage::tasks(&host.client, "adopted").map_err(|error| error.to_string())?;
        let runs = |task: &&Task| task.state == "Running";
        match tasks.iter().filter(runs).count() {
            ADOPTED => Ok(()),
            found => Err(format!("{found} of {ADOPTED}")),
        }
    })?;
    let took = start.elapsed();
    let after = stage.processes(name);
    if after.helpers != before.helpers || after.tasks != before.tasks {
        return Err("some tasks did not live through it".into());
    }
    host.client.text(&["stop", "adopted"])?;
    Ok(Figure {
        what: "500 tasks, the node stopped and started: until it tells all of them running, processes as before",
        target: "-",
        measured: seconds(took),
        beside: format!(
            "its first answer to `potluck info` after {}; the submission of the 500, until all ran: {}",
            seconds(answers),
            seconds(submitted)
        ),
    })
}
