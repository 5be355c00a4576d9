//! What tests ask a fleet about its jobs, and what they wait for.

use crate::fleet::{Fleet, WAIT};
use potluck_testnet::{client::Client, demo::get, wait::until};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

/// One running and healthy task of an HTTP service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// `job[index]`.
    pub slot: String,
    /// Its node.
    pub node: String,
    /// The node's rack.
    pub rack: String,
    /// Where it answers.
    pub address: SocketAddr,
}

/// The tasks of a job, if as many as wanted run and all are healthy.
///
/// # Errors
/// What is not so, in words.
pub fn healthy(client: &Client, job: &str) -> Result<Vec<Task>, String> {
    let jobs = client
        .json(&["status", job])
        .map_err(|error| error.to_string())?;
    let job = &jobs[0];
    let tasks = job["tasks"].as_array().cloned().unwrap_or_default();
    let healthy: Option<Vec<Task>> = tasks.iter().map(task).collect();
    match healthy {
        Some(tasks) if Some(tasks.len() as u64) == job["replicas"].as_u64() => Ok(tasks),
        _ => Err(job.to_string()),
    }
}

fn task(task: &Value) -> Option<Task> {
    let text = |key: &str| Some(task[key].as_str()?.to_owned());
    if task["healthy"] != Value::Bool(true) {
        return None;
    }
    Some(Task {
        slot: format!(
            "{}[{}]",
            task["slot"]["job"]["name"].as_str()?,
            task["slot"]["index"]
        ),
        node: text("node")?,
        rack: text("rack")?,
        address: task["ports"]["http"].as_str()?.parse().ok()?,
    })
}

/// The tasks of a job, once all are healthy and none is on a node of `not`.
pub fn await_healthy(client: &Client, job: &str, not: &[&str]) -> Vec<Task> {
    let come = until(&format!("{job} healthy"), WAIT, || {
        let tasks = healthy(client, job)?;
        match tasks.iter().any(|task| not.contains(&task.node.as_str())) {
            true => Err(format!("{tasks:?}")),
            false => Ok(tasks),
        }
    });
    come.unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until a node resolves the service to exactly these tasks.
pub fn await_resolved(client: &Client, service: &str, tasks: &[Task]) {
    let wanted: BTreeSet<SocketAddr> = tasks.iter().map(|task| task.address).collect();
    let come = until(&format!("the endpoints of {service}"), WAIT, || {
        let found = resolve(client, service)?;
        match found == wanted {
            true => Ok(()),
            false => Err(format!("{found:?}, not {wanted:?}")),
        }
    });
    come.unwrap_or_else(|error| panic!("{error}"));
}

/// The endpoints of a service, as a node has them.
///
/// # Errors
/// The node's refusal.
pub fn resolve(client: &Client, service: &str) -> Result<BTreeSet<SocketAddr>, String> {
    let resolved = client
        .json(&["resolve", service])
        .map_err(|error| error.to_string())?;
    let endpoints = resolved["endpoints"].as_array();
    Ok(endpoints
        .into_iter()
        .flatten()
        .filter_map(|endpoint| endpoint["address"].as_str()?.parse().ok())
        .collect())
}

/// Every task answers over HTTP.
pub fn all_answer(tasks: &[Task]) {
    for task in tasks {
        let answer = get(task.address, "/");
        let answer = answer.unwrap_or_else(|error| panic!("{task:?}: {error}"));
        // The service says only which of the replicas it is.
        let index = task.slot.trim_end_matches(']').rsplit('[').next();
        let start = format!("hello from {} ", index.unwrap_or_default());
        assert!(answer.starts_with(&start), "{task:?} answers {answer:?}");
    }
}

/// Helpers and tasks of each node: equal before and after if nothing was
/// started anew.
pub fn pids(fleet: &Fleet, nodes: &[&str]) -> BTreeMap<String, (BTreeSet<i32>, BTreeSet<i32>)> {
    let of = |name: &&str| {
        let processes = fleet.processes(name);
        ((*name).to_owned(), (processes.helpers, processes.tasks))
    };
    nodes.iter().map(of).collect()
}

/// How many tasks are in each rack.
pub fn by_rack(tasks: &[Task]) -> BTreeMap<&str, usize> {
    let mut racks = BTreeMap::new();
    for task in tasks {
        *racks.entry(task.rack.as_str()).or_default() += 1;
    }
    racks
}

/// The numbers at the line beginnings of the hello service's log, read
/// through a node.
///
/// # Errors
/// The command's.
pub fn line_numbers(client: &Client, slot: &str) -> Result<Vec<u64>, String> {
    let text = client
        .text(&["logs", slot])
        .map_err(|error| error.to_string())?;
    text.lines()
        .map(|line| {
            let number = line.split(' ').next().and_then(|word| word.parse().ok());
            number.ok_or_else(|| format!("no number in {line:?}"))
        })
        .collect()
}
