//! After the last fault: whether all is as it should be, and stays so.

use super::{Outcome, people::Change};
use crate::{
    client::{Client, Failed},
    net::Testnet,
    wait::{TimedOut, until},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

/// How long healing may take: the brake lets go a minute after it came on, a
/// voter is replaced after five seconds, the rest is starts of processes on a
/// machine that may be busy.
const HEAL_WAIT: Duration = Duration::from_secs(150);

/// A state that only passes by does not count.
const STAYS: Duration = Duration::from_secs(3);

/// A testnet in which all is well.
#[derive(Debug)]
pub(super) struct Healed {
    jobs: usize,
    tasks: usize,
    after: Duration,
}

impl fmt::Display for Healed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.after.as_secs_f64();
        let (jobs, tasks) = (self.jobs, self.tasks);
        write!(
            f,
            "{jobs} jobs with {tasks} tasks, {seconds:.1} s after the last fault"
        )
    }
}

/// Waits until every node is up, every accepted job's tasks run and are found,
/// nothing else runs, and that has been so for a while.
pub(super) fn wait(net: &Testnet, changes: &[Change]) -> Outcome<Healed> {
    let began = Instant::now();
    let mut well: Option<(Instant, Healed)> = None;
    let healed = until("the healing of everything", HEAL_WAIT, || {
        match look(net, changes) {
            Ok((jobs, tasks)) => {
                let (since, _) = well.get_or_insert_with(|| {
                    let after = began.elapsed();
                    (Instant::now(), Healed { jobs, tasks, after })
                });
                match since.elapsed() >= STAYS {
                    true => Ok(well.take().map(|(_, healed)| healed)),
                    false => Err("all is well, for too short a time".to_owned()),
                }
            }
            Err(why) => {
                well = None;
                Err(why)
            }
        }
    });
    let healed: Result<Option<Healed>, TimedOut> = healed;
    Ok(healed?.ok_or("it was well and is not counted")?)
}

fn look(net: &Testnet, changes: &[Change]) -> Result<(usize, usize), String> {
    let words = |error: &dyn fmt::Display| error.to_string();
    let states = net.node_states().map_err(|error| words(&error))?;
    if states.len() != net.nodes().len() || states.iter().any(|(_, state)| state != "up") {
        return Err(format!("nodes: {states:?}"));
    }
    let client = net.any_client().map_err(|error| words(&error))?;
    let jobs = client.json(&["status"]).map_err(|error| words(&error))?;
    let jobs = jobs.as_array().cloned().unwrap_or_default();
    let name = |job: &Value| job["name"]["name"].as_str().unwrap_or("?").to_owned();
    let (mut wanted, mut versions) = (0, BTreeMap::new());
    for job in &jobs {
        versions.insert(name(job), job["version"].as_u64().unwrap_or(0));
        if job["stopped"] != Value::Bool(true) {
            wanted += look_at(&client, &name(job)).inspect_err(|_| {
                // Somebody lets go on what a script or a failure paused; most
                // have nothing to go on with, and say so.
                let _ = client.text(&["rollout", "resume", &name(job)]);
            })?;
        }
    }
    for (job, version) in changes
        .iter()
        .filter_map(|c| Some((c.job.as_ref()?, c.version)))
    {
        let now = versions.get(job).copied().unwrap_or(0);
        // A stopped job is not listed.
        if now < version && now != 0 {
            return Err(format!("{job} {version} was accepted; {now} is there"));
        }
    }
    let helpers = net.names().into_iter();
    let helpers: usize = helpers.map(|name| net.processes(&name).helpers.len()).sum();
    match helpers == wanted {
        true => Ok((jobs.len(), wanted)),
        false => Err(format!("{helpers} tasks run, {wanted} are wanted")),
    }
}

/// One job: each slot has a healthy task of the newest version, and is found.
fn look_at(client: &Client, name: &str) -> Result<usize, String> {
    let words = |error: Failed| error.to_string();
    let job = client.json(&["status", name]).map_err(words)?[0].clone();
    let replicas = job["replicas"].as_u64().unwrap_or(0) as usize;
    let tasks = job["tasks"].as_array().cloned().unwrap_or_default();
    let fine = |task: &&Value| {
        let newest = task["version"] == job["version"] || task["up_to_date"] == Value::Bool(true);
        newest && task["healthy"] == Value::Bool(true)
    };
    let healthy = tasks.iter().filter(fine).count();
    if tasks.len() != replicas || healthy != replicas {
        let seen = tasks.len();
        return Err(format!(
            "{name}: {seen} tasks, {healthy} healthy and new, {replicas} wanted"
        ));
    }
    let found = client.json(&["resolve", "--fresh", name]).map_err(words)?;
    let endpoints = found["endpoints"].as_array().map_or(0, Vec::len);
    match endpoints == replicas {
        true => Ok(replicas),
        false => Err(format!(
            "{name} has {endpoints} endpoints, {replicas} are wanted"
        )),
    }
}
